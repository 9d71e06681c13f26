"""The record of one change to a request, and how a list of them reads as a header."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple
from urllib.parse import quote

__all__ = ["HEADER", "MAX_HEADER", "MOST_CHANGES", "Change", "as_header", "remembered"]

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


_FEW, _SHORT, _MOST_TEXTS = 16, 200, 256
"""What is remembered: texts of so many changes, of so many characters in all their names and in each reason; and how many."""

_INDEX = re.compile(r"\[\d+\]")


def remembered(write: Callable[[tuple[Change, ...]], str]) -> Callable[[tuple[Change, ...]], str]:
    """*write*, with its last texts of few and short changes kept: requests of one client are alike, and so are their changes."""
    texts: dict[tuple[Change, ...], str] = {}

    def text_of(changes: tuple[Change, ...]) -> str:
        if len(changes) > _FEW:
            return write(changes)
        text = texts.get(changes)
        if text is None:
            text = write(changes)
            if _are_short(changes):
                if len(texts) >= _MOST_TEXTS:
                    texts.clear()
                texts[changes] = text
        return text

    return text_of


def _are_short(changes: tuple[Change, ...]) -> bool:
    names = sum(len(change.path) + len(change.to or "") for change in changes)
    return names <= _SHORT and all(len(change.reason) <= _SHORT for change in changes)


def as_header(changes: Iterable[Change], limit: int = MAX_HEADER, *, more: int = 0) -> str:
    """The changes as a structured-field list (RFC 9651), at most *limit* bytes of printable ASCII.

    ``drop;path="messages[*].name";loss=lost;count=3``: places that differ only in an index are counted together. The changes
    that do not fit are counted in a last member ``more;count=N``; so are those beyond the first MOST_CHANGES, which are not
    looked at, and *more* changes that the caller of this function left out. Bytes of a name that a header cannot hold are
    percent-encoded.
    """
    made = tuple(changes)
    return _usual(made) if limit == MAX_HEADER and not more else _header(made, limit, more)


def _header(changes: tuple[Change, ...], limit: int = MAX_HEADER, more: int = 0) -> str:
    """*more* counts the changes that are not in *changes*."""
    counts: dict[str, int] = {}
    more += len(changes)
    for action, path, _, loss, to in changes[:MOST_CHANGES]:
        if len(path) + len(to or "") > limit:  # it cannot fit: not worth the work
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


_usual = remembered(_header)


def _string(name: str) -> str:
    """*name* as the inside of a structured-field string."""
    if name.isascii() and name.isprintable():
        return name.replace("\\", "\\\\").replace('"', '\\"')
    return quote(name, safe=" !#$&'()*+,/:;=?@[]<>^`{|}~-._", errors="replace")
