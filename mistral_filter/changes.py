"""The record of one change to a request, and how a list of them reads as a header."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, NamedTuple
from urllib.parse import quote

__all__ = ["HEADER", "MAX_HEADER", "MOST_CHANGES", "Change", "as_header"]

HEADER = "Mistral-Filter-Changes"

MAX_HEADER = 1024
"""Bytes. A whole response head must fit into 4 KiB: nginx's ``proxy_buffer_size`` on most platforms."""

MOST_CHANGES = 1000
"""How many changes are looked at for a header or a log line; a body of 32 MB can make a million."""

Action = Literal["drop", "rename", "set", "move", "insert"]
Loss = Literal["none", "approximate", "lost"]


class Change(NamedTuple):
    """One change to a request body. It holds names and reasons, never a value of the caller's."""

    action: Action
    path: str
    """Where, in the body as it came: ``messages[0].name``. An item that was put into a list has its index in the result."""
    reason: str
    """One sentence for a person."""
    loss: Loss = "lost"
    """What the request loses: ``none`` keeps the meaning, ``approximate`` nearly keeps it, ``lost`` gives something up."""
    to: str | None = None
    """The new name or place, where there is one."""


_INDEX = re.compile(r"\[\d+\]")


def as_header(changes: Iterable[Change], limit: int = MAX_HEADER, *, more: int = 0) -> str:
    """The changes as a structured-field list (RFC 9651), at most *limit* bytes of printable ASCII.

    ``drop;path="messages[*].name";loss=lost;count=3``: places that differ only in an index are counted together. The changes
    that do not fit are counted in a last member ``more;count=N``; so are those beyond the first MOST_CHANGES, which are not
    looked at, and *more* changes that the caller of this function left out. Bytes of a name that a header cannot hold are
    percent-encoded.
    """
    made = tuple(changes)
    places = tuple((change.action, change.path, change.to or "", change.loss) for change in made[:MOST_CHANGES])
    more += len(made) - len(places)
    small = len(places) <= _FEW and sum(len(path) + len(to) for _, path, to, _ in places) <= _SHORT
    return (_remembered if small else _header)(places, limit, more)


def _header(places: tuple[_Place, ...], limit: int, more: int) -> str:
    """*more* counts the changes that are not in *places*."""
    counts: dict[str, int] = {}
    more += len(places)
    for action, path, to, loss in places:
        if len(path) + len(to) > limit:  # it cannot fit: not worth the work
            continue
        renamed = f';to="{_string(to)}"' if to else ""
        member = f'{action};path="{_string(_INDEX.sub("[*]", path))}"{renamed};loss={loss}'
        counts[member] = counts.get(member, 0) + 1
    members = [(member if count == 1 else f"{member};count={count}", count) for member, count in counts.items()]
    text = ", ".join(member for member, _ in members)
    if more == sum(counts.values()) and len(text) <= limit:
        return text
    kept: list[str] = []
    room = limit - len("more;count=") - len(str(more))
    for member, count in members:
        room -= len(member) + 2
        if room < 0:
            break
        kept.append(member)
        more -= count
    return ", ".join([*kept, f"more;count={more}"])


_FEW, _SHORT = 16, 200
_Place = tuple[str, str, str, str]
_remembered = lru_cache(maxsize=256)(_header)  # a client's requests are alike, and so are the changes to them


def _string(name: str) -> str:
    """*name* as the inside of a structured-field string."""
    if name.isascii() and name.isprintable():
        return name.replace("\\", "\\\\").replace('"', '\\"')
    return quote(name, safe=" !#$&'()*+,/:;=?@[]<>^`{|}~-._", errors="replace")
