"""The body of an answer, read off its connection as it comes: chunks, a length, or the end of the connection."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from mistral_filter.proxy.upstream.head import HEAD_END, MAX_FIELDS, Broken, Head, Malformed, frames_a_body, parse_fields
from mistral_filter.proxy.upstream.wire import Wire

__all__ = ["Body"]

_MAX_TRAILERS = 16384
_MAX_CHUNK_LINE = 8192
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[^\r\n]*|[ \t]*)\r\n")


class Body:
    """The body of an answer, read off *wire* as it comes. *give_back* gets the wire at the end of the body, or of the reading."""

    __slots__ = ("_chunked", "_crlf", "_give_back", "_left", "_searched", "_wire", "closes", "ended")

    def __init__(self, wire: Wire, head: Head, give_back: Callable[[Wire, bool], None]) -> None:
        """*give_back(wire, good)*: *good* says whether the wire can serve another request."""
        self._wire: Wire | None = wire
        self._chunked = head.chunked
        self._left = 0 if head.chunked else head.length
        """Bytes until the end, or until the end of the chunk; None: until the connection ends."""
        self._crlf = False
        """The end of a chunk is still to come."""
        self._searched = 0
        """How far the buffer, which begins with the last chunk's line, was searched for the end of the trailers."""
        self._give_back = give_back
        self.closes = head.closes
        self.ended = False
        if self._left == 0 and not head.chunked:
            self._end()

    def read(self, seconds: float | None = None) -> bytes:
        """The next bytes, at most 64 KiB, as soon as there are some; ``b""`` at the end.

        Raises TimeoutError after *seconds*, if given, without a byte of the body; the reading can go on then. Raises Broken or
        Malformed, or what the call was ended for.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            if self.ended:
                return b""
            wire = self._wire
            if wire is None:
                raise Broken
            if wire.buffer and ((piece := self._take(wire)) or self.ended):
                return piece
            data = wire.receive(None if end is None else max(end - time.monotonic(), 0.001))
            if not data:
                if self._left is not None:
                    raise Broken
                self.closes = True
                self._end()
                return b""
            wire.buffer = wire.buffer + data if wire.buffer else data

    def close(self) -> None:
        """Gives up what has not been read, and the connection with it."""
        wire, self._wire = self._wire, None
        if wire is not None:
            self._give_back(wire, False)

    def _end(self) -> None:
        self.ended = True
        wire, self._wire = self._wire, None
        assert wire is not None
        self._give_back(wire, not self.closes and not wire.buffer)

    def _take(self, wire: Wire) -> bytes:
        """What of the body is in the buffer."""
        if self._chunked:
            return self._take_chunks(wire)
        data = wire.buffer
        if self._left is None or len(data) < self._left:
            wire.buffer = b""
            if self._left is not None:
                self._left -= len(data)
            return data
        piece, wire.buffer = data[: self._left], data[self._left :]
        self._end()
        return piece

    def _take_chunks(self, wire: Wire) -> bytes:
        """All whole chunks in the buffer and the beginning of the next, as one piece."""
        data, at, pieces, ended = wire.buffer, 0, [], False
        try:
            while at < len(data) and not ended:
                if self._left:
                    piece = data[at : at + self._left]
                    pieces.append(piece)
                    at += len(piece)
                    self._left -= len(piece)
                    self._crlf = not self._left
                elif self._crlf:
                    if not b"\r\n".startswith(data[at : at + 2]):
                        raise Malformed
                    if len(data) - at < 2:
                        break
                    at += 2
                    self._crlf = False
                else:
                    stop = data.find(b"\n", at) + 1
                    if (stop or len(data)) - at > _MAX_CHUNK_LINE:
                        raise Malformed
                    if not stop:
                        break
                    line = _CHUNK_LINE.fullmatch(data, at, stop)
                    if line is None:
                        raise Malformed
                    if size := int(line[1], 16):
                        at, self._left = stop, size
                    elif end := _end_of_trailers(data, stop, at + self._searched):
                        at, ended = end, True
                    else:
                        self._searched = len(data) - at - 2
                        break
        except Malformed:
            if not pieces:  # else what came before is passed on first, however it was cut into pieces on the way
                raise
        wire.buffer = data[at:]
        if ended:
            self._end()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _end_of_trailers(data: bytes, at: int, searched: int) -> int:
    """Where the trailers that begin at *at* end, or 0 if they are not all there. They are read strictly and not passed on.

    Up to *searched* it is known that they do not end.
    """
    if data.startswith(b"\r\n", at):
        return at + 2
    if data.startswith(b"\n", at):
        return at + 1
    end = HEAD_END.search(data, max(at, searched))
    if (len(data) if end is None else end.end()) - at > _MAX_TRAILERS:
        raise Malformed
    if end is None:
        return 0
    fields = parse_fields(data[at : end.end()].decode("latin-1"))
    if len(fields) > MAX_FIELDS or any(frames_a_body(name) for name, _ in fields):
        raise Malformed
    return end.end()
