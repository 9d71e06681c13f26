"""An answer as it is read off a connection that others will use: strictly, and to its last byte.

http.client does the work; it overrides methods of its that are private by name, because there is no other place: the tests of
every fault say whether a new version still fits.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
from collections.abc import Iterator
from typing import Any

__all__ = ["Answer", "StaleConnection"]

_MAX_INTERIM = 20
_MAX_FIELDS = 100
_MAX_LINE = 65536
_BLANK = " \t"
_NAME = re.compile(r"[\x21-\x39\x3b-\x7e]+")
_DIGITS = 18
_MAX_CHUNK_LINE = 8192
_TCP_CLOSE = 7
"""The state of a TCP connection that was reset (Linux, tcp_states.h)."""


def _fields(fp: Any) -> Iterator[tuple[str, str]]:
    """The fields of a head, to the empty line; raises HTTPException for a head that is cut, too long, or holds anything else.

    What no caller may get (an odd name, control characters in a value) is left to whoever passes fields on.
    """
    before: tuple[str, str] | None = None
    for _ in range(_MAX_FIELDS + 1):
        line: bytes = fp.readline(_MAX_LINE + 1)
        if not line.endswith(b"\n") or b"\r" in line[:-2]:
            raise http.client.HTTPException("a line of the head was cut, or too long, or has a bare CR")
        text = line.rstrip(b"\r\n").decode("latin-1")
        if text.startswith((" ", "\t")) and before is not None:  # folded (RFC 9112, 5.2): one field still
            before = before[0], f"{before[1]} {text.strip(_BLANK)}"
            continue
        if before is not None:
            yield before
        if not text:
            return
        name, colon, value = text.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise http.client.HTTPException("a line of the head is no field")
        before = name, value.strip(_BLANK)
    raise http.client.HTTPException("too many fields")


class StaleConnection(http.client.RemoteDisconnected):
    """The connection was closed before the request came."""


class Answer(http.client.HTTPResponse):
    """Reads on until the answer is final and its head whole, and spoils the connection if more came than one answer.

    The standard library takes any 1xx but 100 for the answer itself, and the next caller on the connection gets the real one.
    It takes a head that was cut between two lines for a whole one, drops what follows a line that is no field, and takes a
    chunk's size that was cut between two digits.
    """

    came = False
    _line = b""
    """What has been taken in of the line that says how long the next chunk is."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.sock = sock

    def begin(self) -> None:
        """Reads the head, as the standard library does, but strictly, and without its parser for e-mail."""
        version, status, self.reason = self._read_status()
        self.code = self.status = status
        if not version.startswith("HTTP/1."):
            raise http.client.UnknownProtocol(version)
        self.version = 10 if version == "HTTP/1.0" else 11
        self.headers = self.msg = head = http.client.HTTPMessage()
        head._headers = list(_fields(self.fp))  # type: ignore[attr-defined]
        self.chunked = (head.get("transfer-encoding") or "").lower() == "chunked"
        self.chunk_left = None
        self.will_close = self._check_close()  # type: ignore[attr-defined]
        self.length = None
        if self._method == "HEAD" or status in (http.client.NO_CONTENT, http.client.NOT_MODIFIED):  # type: ignore[attr-defined]
            self.length = 0
        elif not self.chunked:
            length = head.get("content-length") or ""
            if length.isascii() and length.isdigit() and len(length) <= _DIGITS:
                self.length = int(length)
            else:
                self.will_close = True

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_MAX_INTERIM):
            try:
                version, status, reason = super()._read_status()  # type: ignore[misc]
            except http.client.RemoteDisconnected as error:
                raise (StaleConnection("") if self._was_stale() else error) from None
            if not 100 <= status < 200 or status == http.client.SWITCHING_PROTOCOLS:
                return version, status, reason
            for _ in _fields(self.fp):
                pass
        raise http.client.HTTPException("too many interim answers")

    def _was_stale(self) -> bool:
        """Whether the other side had closed the connection before it saw the request: an end, then a reset for what came.

        One that read the request and then closed sends no reset; one that crashed sends no end.
        """
        info = getattr(socket, "TCP_INFO", None)
        try:
            return info is not None and self.sock.getsockopt(socket.IPPROTO_TCP, info, 1)[0] == _TCP_CLOSE
        except OSError:
            return False

    def _read_next_chunk_size(self) -> int:
        line, self._line = self._line, b""
        if not line.endswith(b"\n"):
            line += self.fp.readline(_MAX_CHUNK_LINE)
        size = line.partition(b";")[0].strip()
        if not line.endswith(b"\n") or not size or size.strip(b"0123456789abcdefABCDEF"):
            super()._close_conn()  # type: ignore[misc]
            raise ValueError("chunk size")  # the caller makes an IncompleteRead of it
        return int(size, 16)

    def _safe_read(self, amt: int) -> bytes:
        """The standard library reads past the end of a chunk without looking at it."""
        data: bytes = super()._safe_read(amt)  # type: ignore[misc]
        if self.chunked and self.chunk_left == 0 and data != b"\r\n":
            raise http.client.IncompleteRead(b"")
        return data

    def _close_conn(self) -> None:
        if self.fp is not None and not self.will_close and self._waiting():
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)  # is_connected will say so, and the pool opens another
        super()._close_conn()  # type: ignore[misc]

    def ready(self) -> bool:
        """Whether a piece of the body is there to be read at once. True when there is nothing to wait for.

        What comes between two chunks is taken in on the way, however it is cut; ``came`` says whether any of it was there.
        """
        self.came = False
        if self.fp is None:
            return True
        if self.chunked and not self.chunk_left:
            while not self._line.endswith(b"\n"):
                there = self._waiting()
                if not there:
                    return False
                self._line += self.fp.read(there.find(b"\n") + 1 or len(there))
                self.came = True
                if self.chunk_left == 0 and self._line.endswith(b"\n"):  # the end of the chunk before
                    self.chunk_left = None
                    self._line = self._line if self._line != b"\r\n" else b""  # anything else is no length either
                if len(self._line) > _MAX_CHUNK_LINE:
                    return True
            if not self._line.strip(b"0\r\n"):  # the last chunk
                return True
        return bool(self._waiting())

    def _waiting(self) -> bytes:
        """The first bytes of what has come and is not read yet, in a buffer or in the socket."""
        try:
            timeout = self.sock.gettimeout()
            self.sock.settimeout(0)
            try:
                there: bytes = self.fp.peek(1)
                return there
            finally:
                self.sock.settimeout(timeout)
        except (OSError, ValueError):  # nothing there yet, or the socket is closed already
            return b""
