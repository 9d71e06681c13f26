"""The record of one change to a request, and how a list of them reads as a header."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, NamedTuple
from urllib.parse import quote

__all__ = ["HEADER", "MAX_HEADER", "Change", "as_header"]

HEADER = "Mistral-Filter-Changes"

MAX_HEADER = 1024
"""Bytes. A whole response head must fit into 4 KiB: nginx's ``proxy_buffer_size`` on most platforms."""

Action = Literal["drop", "rename", "set", "move", "insert"]
Loss = Literal["none", "approximate", "lost"]


class Change(NamedTuple):
    """One change to a request body. It holds names and reasons, never a value of the caller's."""

    action: Action
    path: str
    """Where, in the body as it came: ``messages[0].name``."""
    reason: str
    """One sentence for a person."""
    loss: Loss = "lost"
    """What the request loses: ``none`` keeps the meaning, ``approximate`` nearly keeps it, ``lost`` gives something up."""
    to: str | None = None
    """The new name or place, where there is one."""


_INDEX = re.compile(r"\[\d+\]")


def as_header(changes: Iterable[Change], limit: int = MAX_HEADER) -> str:
    """The changes as a structured-field list (RFC 9651), at most *limit* bytes of printable ASCII.

    ``drop;path="messages[*].name";loss=lost;count=3``: places that differ only in an index are counted together. What
    does not fit is counted in a last member ``more;count=N``. Bytes of a name that a header cannot hold are
    percent-encoded.
    """
    made = tuple(changes)
    return _remembered(made, limit) if len(made) <= _FEW else _header(made, limit)


def _header(changes: tuple[Change, ...], limit: int) -> str:
    counts: dict[str, int] = {}
    for change in changes:
        to = f';to="{_string(change.to)}"' if change.to else ""
        member = f'{change.action};path="{_string(_INDEX.sub("[*]", change.path))}"{to};loss={change.loss}'
        counts[member] = counts.get(member, 0) + 1
    members = [member if count == 1 else f"{member};count={count}" for member, count in counts.items()]
    text = ", ".join(members)
    if len(text) <= limit:
        return text
    kept: list[str] = []
    room = limit - len("more;count=") - len(str(len(members)))
    for member in members:
        room -= len(member) + 2
        if room < 0:
            break
        kept.append(member)
    return ", ".join([*kept, f"more;count={len(members) - len(kept)}"])


_FEW = 16
_remembered = lru_cache(maxsize=256)(_header)  # a client's requests are alike, and so are the changes to them


def _string(name: str) -> str:
    """*name* as the inside of a structured-field string."""
    if name.isascii() and name.isprintable():
        return name.replace("\\", "\\\\").replace('"', '\\"')
    return quote(name, safe=" !#$&'()*+,/:;=?@[]<>^`{|}~-._", errors="replace")
