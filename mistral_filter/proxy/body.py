"""A request's body as it comes from the client: within its time, within the budget, and with an end that can be told."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mistral_filter.errors import BadRequest
from mistral_filter.framing import framing_of
from mistral_filter.proxy import sockets

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from mistral_filter.proxy.call import Call

__all__ = ["RequestBody"]

PIECE = 131072
"""Bytes that are asked for at a time, at most."""

_LEAST_PIECE = 1024
"""Bytes asked for at a time where reading takes long: the server may meet a chunk for every byte."""

_LEAST_BYTES, _LEAST_SECONDS = PIECE, 12.0
"""A large body brings so many bytes in so many seconds (about 11 KB/s), or its time is over."""

_TURN_SECONDS = 0.005
"""After so much reading the other requests have their turn."""

SHORT_REST = 65536
"""Bytes. So much of a body the server may read away by itself, and keep the connection."""


class RequestBody:
    """``wsgi.input`` in place of the server's: what is read of it is timed, counted and given back by its Call.

    Reading raises BodyTimeout, Overloaded (``body_budget``), or what the server's own input raises for a broken body.
    """

    def __init__(self, environ: WSGIEnvironment, call: Call) -> None:
        self._source = environ["wsgi.input"]
        self._read_some = getattr(self._source, "read1", self._source.read)
        self._call = call
        self._chunked, self._left = False, math.inf
        try:
            length, chunked = framing_of(environ)
        except BadRequest:  # it will be refused; the end of such a body is not known
            pass
        else:
            self._chunked = chunked and length is None
            self._left = length or 0
        self._last = environ.get("SERVER_PROTOCOL") == "HTTP/1.0" or "close" in environ.get("HTTP_CONNECTION", "").lower()
        self._held = True
        self._until: float | None = None
        self._window = self._turn = 0.0
        self._window_bytes = 0
        self._step = PIECE // 8 if self._chunked else PIECE

    @property
    def unread(self) -> bool:
        """Whether the client may still be sending more of the body than the server should wait for."""
        return self._chunked or self._left > SHORT_REST or (self._left > 0 and (self._last or self._call.client_shut))

    def stream(self) -> None:
        """The body will be passed on piece by piece: it is not counted as held, and its time is that of each piece."""
        self._held = False
        self._read_some = self._source.read

    def read(self, size: int | None = -1) -> bytes:
        """At most *size* bytes, all by default; fewer only at the end."""
        pieces: list[bytes] = []
        missing = math.inf if size is None or size < 0 else size
        while missing > 0 and (piece := self._counted(self._read_some, int(min(missing, self._step)))):
            pieces.append(piece)
            missing -= len(piece)
            if not self._chunked and not self._left:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readline(self, size: int | None = -1) -> bytes:
        """The next line, at most *size* bytes of it."""
        return self._counted(self._source.readline, -1 if size is None else size)

    def readlines(self, hint: int = -1) -> list[bytes]:
        """The remaining lines; *hint* is passed over, as WSGI allows."""
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def _counted(self, read: Any, size: int) -> bytes:
        call = self._call
        now = time.monotonic()
        if now - self._turn > _TURN_SECONDS:
            if self._turn:
                sockets.let_others_run()
            self._turn = now
        call.waits_for_body(self._deadline(now))
        try:
            data: bytes = read(size)
        except Exception:  # every server has exceptions of its own for a broken body
            call.check()
            raise
        finally:
            call.works()
        call.check()  # a connection that was shut down looks like one that ended
        if not data:
            self._chunked = False
            return data
        if self._chunked:
            slow = time.monotonic() - now > _TURN_SECONDS
            self._step = max(self._step // 2, _LEAST_PIECE) if slow else min(self._step * 2, PIECE)
        else:
            self._left = max(self._left - len(data), 0)
        if self._held and call.held is not None:
            call.held.add(len(data))
        self._window_bytes += len(data)
        return data

    def _deadline(self, now: float) -> float:
        seconds = self._call.timeouts.body
        if seconds is None:
            return math.inf
        if not self._held:
            return now + seconds
        if self._until is None:
            self._until, self._window = now + seconds, now
        if self._call.held is None or not self._call.held.large:
            return self._until
        if self._window_bytes >= _LEAST_BYTES:
            self._window, self._window_bytes = now, 0
        return min(self._until, self._window + _LEAST_SECONDS)
