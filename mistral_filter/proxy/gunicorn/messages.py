"""A request's body and its response, read and written with as few calls to the system as possible."""

from __future__ import annotations

import socket
import sys
import time
from functools import lru_cache
from typing import Any

from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.body import Body

from mistral_filter.proxy import sockets

__all__ = ["LengthInput", "Response"]


class Response(wsgi.Response):  # type: ignore[misc]
    """gunicorn's response with as few writes as possible: the head and the first piece together, each piece with its framing."""

    headers_sent: bool

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        """Takes *headers* by gunicorn's rules, with one look at all values and what is known of each name.

        Where that is not enough, gunicorn looks at each header, and raises what it raises.
        """
        names, values = zip(*headers, strict=True) if headers else ((), ())
        short = len("".join(names)) <= _LONGEST_NAMES  # what is remembered has a bound
        if not (short and all(map(_is_plain, names)) and wsgi.HEADER_VALUE_RE.fullmatch("".join(values))):
            super().process_headers(headers)
            return
        for name, value in headers:
            if len(name) == _LENGTH and name.lower() == "content-length":
                self.response_length = int(value)
            self.headers.append((name, value.strip(" \t")))

    def write(self, arg: bytes) -> None:
        """Sends a piece; an empty one sends the head, if that has not gone out."""
        data = b"" if self.req.method == "HEAD" or self.status_code in (204, 304) else arg
        if self.response_length is not None:
            data = data[: self.response_length - self.sent]
        self.sent += len(data)
        if data and self.chunked:
            data = b"%X\r\n%b\r\n" % (len(data), data)
        self._send(data)

    def close(self) -> None:
        """Sends what ends the response."""
        self._send(b"0\r\n\r\n" if self.chunked else b"")

    def _send(self, data: bytes) -> None:
        if not self.headers_sent:
            self.headers_sent = True
            major, minor = self.req.version
            connection = "close" if self.should_close() else "keep-alive"
            first = f"HTTP/{major}.{minor} {self.status}\r\nServer: {self.version}\r\nDate: {_date(int(time.time()))}\r\n"
            lines = [first, f"Connection: {connection}\r\n", *[f"{name}: {value}\r\n" for name, value in self.headers]]
            lines.append("Transfer-Encoding: chunked\r\n\r\n" if self.chunked else "\r\n")
            data = "".join(lines).encode("latin-1") + data
        if data:
            sockets.send_all(self.sock, data)


_LENGTH = len("content-length")
_LONGEST_NAMES = 4096
"""Characters of all names of a response's headers."""


@lru_cache(maxsize=256)
def _is_plain(name: str) -> bool:
    """Whether *name* is a valid field name, and not that of a hop-by-hop field."""
    return wsgi.TOKEN_RE.fullmatch(name) is not None and not util.is_hoppish(name)


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return str(util.http_date(second))


class _Errors(wsgi.WSGIErrorsWrapper):  # type: ignore[misc]
    """``wsgi.errors``. gunicorn's looks for the streams of its log at every request, this one when something is written."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    def write(self, data: str) -> None:
        """Writes *data* to the streams of the error log."""
        super().__init__(self._cfg)
        super().write(data)


wsgi.WSGIErrorsWrapper = _Errors


class LengthInput:
    """A body of known length, from the socket at once: through gunicorn's two buffers each byte is copied several times."""

    def __init__(self, body: Body, sock: socket.socket) -> None:
        self._body, self._sock = body, sock
        self.readline, self.readlines = body.readline, body.readlines

    def __iter__(self) -> Any:
        return iter(self._body)

    def read(self, size: int | None = -1) -> bytes:
        """At most *size* bytes, all by default; fewer only at the end."""
        pieces = []
        missing = sys.maxsize if size is None or size < 0 else size
        while missing and (piece := self.read1(missing)):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def read1(self, size: int) -> bytes:
        """At most *size* bytes with one look at the socket, b"" at the end."""
        body, reader = self._body, self._body.reader
        size = min(size, reader.length)
        if body.buf.tell() or size <= 0:  # a line was read before, or there is nothing more
            return bytes(body.read(size))
        data: bytes = reader.unreader.take_buffered()
        if not data:
            try:
                data = self._sock.recv(size)
            except Exception:
                body.failed = True
                raise
        if len(data) > size:
            reader.unreader.unread(data[size:])
            data = data[:size]
        reader.length -= len(data)
        return data
