"""A stream of server-sent events, whose data may be rewritten.

An event ends with an empty line; lines end with LF, CRLF or CR and with nothing else (WHATWG HTML, 9.2.6: U+2028 and U+0085 may
be raw in a string). The network cuts anywhere, so only whole events are looked at, and none is held back when it is whole. An
empty line's LF that comes after its CR has gone out already is an empty line of its own, which means nothing to a client.

Bytes go out as they came: every event in which nothing is rewritten, in a rewritten one all but the data, events of more than
MAX_EVENT bytes or MOST_LINES lines of data, and what is left over when the stream ends within an event. A line of JSON without
``data:`` in front, which clients pass over, is an event by itself if it is to be rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

from mistral_filter.proxy.answers.reading import UNREADABLE

__all__ = ["MAX_EVENT", "MOST_LINES", "Rewriter", "as_event", "rewrite_events"]

MAX_EVENT = 1024 * 1024
"""Bytes without the empty line. What is larger is not held."""

MOST_LINES = 1000
"""Lines of data in an event that is rewritten. One is usual."""

_SHORT = 40
"""Bytes. After an event of fewer, those behind it are passed over together if nothing in them can be rewritten."""

_LINE_END = re.compile(rb"\n|\r(?!\Z)")
_EMPTY = re.compile(rb"\r\n?|\n")
_END = re.compile(rb"(\r\n|\n|\r(?!\n))(\r\n?|\n)")
_LAST = re.compile(rb"(\r\n|\n|\r)(\r\n?|\n)\Z")
_BARE = re.compile(rb"\{[^\r\n]*\}[ \t]*(?:\r\n|\n|\r(?!\Z))")
_BARE_LINES = re.compile(b"(?:%b)+" % _BARE.pattern)
_DATA = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|(?<=[\r\n]))(data: ?([^\r\n]*)(?:\r\n|[\r\n]))")


class Rewriter(Protocol):
    """What is known of the events of one stream, and what becomes of them."""

    words: re.Pattern[bytes]
    """Found in every event that may have to be rewritten or noted."""

    @property
    def plain(self) -> Callable[[bytes], object]:
        """Raises one of UNREADABLE for data in which something may have to be rewritten, cheaply. It may change from event to
        event."""

    def rewrite(self, data: bytes) -> list[bytes] | None:
        """The data of the events that take the place of one event; none, or None, where it stays."""

    def rewrite_bare(self, line: bytes) -> bytes | None:
        """The event that takes the place of a line of JSON that is no event; None, where the line stays."""


def as_event(data: bytes, name: str = "") -> bytes:
    """The event with the JSON *data* and, where it has one, this *name*."""
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + _in_one_line(data) + b"\n\n"


def rewrite_events(chunks: Iterable[bytes], rewriter: Rewriter) -> Iterator[bytes]:
    """*chunks* with the data of its events rewritten.

    An exception from *chunks* passes through: what was whole has gone out by then, what was not never does, so that an event of
    ours can follow.
    """
    held = bytearray()  # the beginning of an event
    sent = 0  # bytes of it that are out already: it is too large
    first = True  # its first line, which may be JSON without ``data:``, has not ended
    for piece in chunks:
        if not piece:  # a tick of the clock, for whoever sends heartbeats between events
            yield piece
            continue
        if not held and piece.startswith(b"data:") and piece.endswith(b"\n\n"):  # nearly always a piece is one event
            try:
                rewriter.plain(piece[5:])
            except UNREADABLE:
                pass
            else:
                yield piece  # it is one, or it would not be JSON
                continue
            if _one_line(piece) and len(piece) <= MAX_EVENT:
                yield _rewritten(piece, rewriter)
                continue
        searched = max(0, len(held) - 1)  # one byte back tells whether a line has ended
        held += piece
        out = []
        done = word = 0  # what is between the two has nothing to rewrite
        while end := _end(held, done, max(done, searched), first and not sent):
            event = bytes(held[done:end])
            stays = sent or end <= word or _size(event) > MAX_EVENT or (event.startswith(b"data:") and _is_plain(event, rewriter))
            out.append(event[sent:] if stays else _rewritten(event, rewriter))
            done, sent, first = end, 0, True
            if len(event) < _SHORT and done >= word:
                found = rewriter.words.search(held, done)
                word = found.start() if found else len(held)
                end = _passed_over(held, done, word)
                out.append(bytes(held[done:end]))
                done = end
        first = first and not _LINE_END.search(held, max(done, searched))
        del held[:done]
        if len(held) > MAX_EVENT and (sent or _size(held) > MAX_EVENT):
            out.append(bytes(held[sent:]))
            del held[:-1]
            sent = 1
        if out:
            yield b"".join(out)
    if held[sent:]:
        yield bytes(held[sent:]) if sent else _with_bare_as_event(bytes(held), rewriter)


def _end(held: bytearray, start: int, searched: int, first: bool) -> int:
    """Where the event, or the bare line of JSON, ends that begins at *start*; 0: not yet. Up to *searched* no line ends twice.

    *first*: its first line does not end there either.
    """
    match = _EMPTY.match(held, start) if first else None
    if match is None and first and held.startswith(b"{", start) and _LINE_END.search(held, searched):
        match = _BARE.match(held, start)
    match = match or _END.search(held, searched)
    return match.end() if match else 0


def _passed_over(held: bytearray, start: int, stop: int) -> int:
    """Where the last of the events, and of the bare lines behind them, ends that are between *start* and *stop*."""
    at = max(held.rfind(ends, start, stop) for ends in (b"\n\n", b"\n\r", b"\r\r"))
    if at >= 0:
        start = at + 3 if held.startswith(b"\r\n", at + 1) else at + 2
    lines = _BARE_LINES.match(held, start, stop)
    return lines.end() if lines else start


def _size(event: bytes | bytearray) -> int:
    return len(event.rstrip(b"\r\n"))


def _one_line(event: bytes) -> bool:
    """Whether *event* is data in one line and nothing else, as most are. False may mean anything."""
    return event.startswith(b"data:") and event.find(b"\n") == len(event) - 2 and event.endswith(b"\n\n") and b"\r" not in event


def _is_plain(event: bytes, rewriter: Rewriter) -> bool:
    try:
        rewriter.plain(event[5:])
    except UNREADABLE:
        return False
    return True


def _rewritten(event: bytes, rewriter: Rewriter) -> bytes:
    lines = list(islice(_DATA.finditer(event), MOST_LINES + 1))
    if not lines:
        return _with_bare_as_event(event, rewriter)
    if len(lines) > MOST_LINES:
        return event
    new = [_in_one_line(data) for data in rewriter.rewrite(b"\n".join(line[2] for line in lines)) or ()]
    if not new:
        return event
    kept = bytearray()
    position = 0
    for line in lines[:-1]:  # all data goes into the last of its lines
        kept += event[position : line.start(1)]
        position = line.end(1)
    start, end = lines[-1].span(2)
    kept += event[position:start] + new[0] + event[end:]
    return _followed_by(bytes(kept), new[1:]) if new[1:] else bytes(kept)


def _with_bare_as_event(event: bytes, rewriter: Rewriter) -> bytes:
    """*event*, which has no data, or the event that it should have been."""
    return (rewriter.rewrite_bare(event.strip()) if event.startswith(b"{") else None) or event


def _in_one_line(data: bytes) -> bytes:
    """The JSON *data* without line ends, which are nothing but white space there."""
    return data.replace(b"\n", b" ").replace(b"\r", b" ")


def _followed_by(event: bytes, others: list[bytes]) -> bytes:
    """*event* and after it others. The empty line at the end is the one that came: its LF may be still to come."""
    last = _LAST.search(event)
    assert last is not None, "an event ends with an empty line"
    return event[: last.start(2)] + b"".join(last[1] + b"data: " + data + last[1] for data in others) + last[2]
