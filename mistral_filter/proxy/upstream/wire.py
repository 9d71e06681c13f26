"""One HTTP/1.1 connection to an upstream: a request goes up, its answer is read strictly and to its last byte.

Strategy: a buffer of what has come, and small functions that take a head, a chunk line or a piece of the body from its front.
Whatever is no HTTP (RFC 9112) raises Malformed, and whatever ends early raises Broken; nothing is repaired or guessed. The tests
compare the reading with h11's, which is never stricter (``tests/proxy/test_wire.py``). Beyond h11, these are refused:

- in a head: a version other than HTTP/1.0 or 1.1; a status above 599; a control character in the reason, or DEL in a field;
  Transfer-Encoding beside Content-Length; a Content-Length that is a list or has over 18 digits; over 100 fields, 128 KiB, or
  64 KiB in a line,
- over 20 interim answers,
- in a chunked body: a chunk line over 8 KiB, with a size of over 15 digits, or with a carriage return inside,
- in trailers: DEL in a field, Content-Length or Transfer-Encoding (RFC 9110, 6.5.1), over 100 fields or 16 KiB.

A wait has no timer of its own: the call's watcher shuts the socket down when its time is over. The file knows sockets only, so it
works on threads, greenlets and in a sync worker alike.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

from mistral_filter.proxy.call import Call
from mistral_filter.proxy.sockets import INTERVAL, brief_lock, new_poll, readiness, send_all
from mistral_filter.proxy.upstream.head import HEAD_END, Broken, Head, Malformed, Stale, parse_head

__all__ = ["Wire"]

_PIECE = 65536
"""Bytes that are read at a time."""

_JOINED = 65536
"""Bytes. A head and a body up to this size go up in one write."""

_MAX_HEAD = 131072
_MAX_INTERIM = 20
_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)")
"""How an answer begins that another one follows (RFC 9110, 15.2)."""
_TCP_CLOSE = 7
"""The state of a TCP connection that was reset (Linux, tcp_states.h), in the first byte of its tcp_info."""
_RESET_LOOKS, _RESET_SECONDS = 5, 0.01
_TCP_UNACKED = slice(24, 28)
"""Where tcp_info has the number of segments that the other side has not acknowledged."""


class Wire:
    """A connection, of one caller for as long as it lives."""

    __slots__ = (
        "_call",
        "_heard",
        "_lock",
        "_poll",
        "_readiness",
        "_secure",
        "_silence",
        "_until",
        "_uploading",
        "buffer",
        "caller",
        "idle_since",
        "sock",
        "unsent",
        "used",
    )

    def __init__(self, sock: Any, caller: str | None) -> None:
        self.sock = sock
        self.caller = caller
        self.buffer = b""
        """What has come and is not read yet."""
        self.used = False
        """An answer was read on it."""
        self.idle_since = 0.0
        self._call: Call | None = None
        self._silence = self._until = 0.0
        self._heard = True
        self._uploading = False
        self.unsent = False
        """The other side cannot have the whole request."""
        self._lock = brief_lock()
        self._readiness = readiness(sock)
        self._poll: Any = None
        self._secure = isinstance(sock, ssl.SSLSocket)

    # ------------------------------------------------------------------------------------------------------- for one call

    def begin(self, call: Call, silence: float) -> None:
        """The connection now serves *call*; *silence* are the seconds that the upstream may take between two bytes."""
        self._call, self._silence, self._heard = call, silence, True
        call.attach(self.sock)

    def end(self) -> None:
        """The call is served."""
        call, self._call = self._call, None
        if call is not None:
            call.detach()

    def close(self) -> None:
        """Closes the connection."""
        self.end()
        if self._readiness is not None:
            self._readiness.close()
            self._readiness = None
        self.sock.close()

    def is_quiet(self) -> bool:
        """Whether an idle connection is open and has nothing to say. TLS may have: session tickets, which are read here."""
        if self.buffer:
            return False
        if self._poll is None:
            self._poll = new_poll(self.sock)
        try:
            if not (self._poll.poll(0) or (self._secure and self.sock.pending())):
                return True  # nearly always, and without an exception to say so
            return self._read_what_is_there() is None
        except OSError:
            return False

    def _read_what_is_there(self) -> bytes | None:
        """What has come, without waiting: None is nothing yet, ``b""`` the end."""
        self.sock.settimeout(0)
        try:
            data: bytes = self.sock.recv(_PIECE)
            return data
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        finally:
            self.sock.settimeout(None)

    def receive(self, seconds: float | None = None, *, ready: bool = False) -> bytes:
        """The next bytes, once there are some; ``b""`` at the end of the connection.

        *ready*: something has come, so that there is no need to wait. Raises TimeoutError after *seconds*, if given; the reading
        can go on then. Raises Broken, or what the call was ended for.
        """
        call = self._call
        assert call is not None
        if self._heard:
            self._heard, self._until = False, time.monotonic() + self._silence
        call.waits_for_upstream(self._until)
        try:
            if seconds is None:
                if not ready:
                    self._wait()
                data: bytes = self.sock.recv(_PIECE)
            else:
                self.sock.settimeout(seconds)
                try:
                    data = self.sock.recv(_PIECE)
                finally:
                    self.sock.settimeout(None)
        except OSError as error:
            call.check()
            if seconds is not None and isinstance(error, TimeoutError):
                raise
            # also TCP's own timeout, ETIMEDOUT; OpenSSL answers an end without close_notify itself, and so provokes a reset
            raise Broken(reset=isinstance(error, (ConnectionResetError, ssl.SSLError))) from None
        self._heard = True
        if not data:
            call.check()  # a connection that was shut down looks like one that ended
        return data

    def _wait(self) -> None:
        if self._readiness is not None and not (self._secure and self.sock.pending()):
            self._readiness.wait()

    # ------------------------------------------------------------------------------------------------------------ the request

    def send(self, head: bytes, body: bytes) -> None:
        """Sends a request in as few writes as possible, until the upstream answers or hangs up: it may have answered first."""
        call = self._call
        assert call is not None
        call.waits_for_upstream(time.monotonic() + self._silence)
        self.unsent = False
        try:
            if len(body) <= _JOINED:
                send_all(self.sock, head + body)
            else:
                send_all(self.sock, head)
                self.unsent = not self._send_watching(body)
        except OSError:
            call.check()
            self.unsent = True

    def _send_watching(self, data: bytes) -> bool:
        """Sends *data*; False: an answer has begun, or the connection ended, while the other side took no more of it."""
        call, view, sent = self._call, memoryview(data), 0
        assert call is not None
        try:
            while sent < len(data):
                self.sock.settimeout(INTERVAL)
                try:
                    sent += self.sock.send(view[sent:])
                    call.waits_for_upstream(time.monotonic() + self._silence)  # it takes what it is sent
                except TimeoutError:
                    if self._begins_to_answer():
                        return False
        finally:
            self.sock.settimeout(None)
        return True

    def _begins_to_answer(self) -> bool:
        """Looks, without waiting, whether a final answer or the end has come."""
        data = self._read_what_is_there()
        if data:
            self.buffer += data
        return data == b"" or self._has_final()

    def _has_final(self) -> bool:
        """Whether more than interim answers has come, or too much of them."""
        data, at = self.buffer, 0
        while _INTERIM.match(data, at) and (end := HEAD_END.search(data, at)) is not None:
            at = end.end()
        # what is not whole yet may be an interim answer as long as it can begin like one
        return len(data) > _MAX_HEAD or not (_INTERIM.match(data, at) or len(data) - at < len(b"HTTP/1.1 100"))

    def send_upload(self, head: bytes, pieces: Iterator[bytes], *, chunked: bool) -> None:
        """Sends a request whose body comes in pieces, until the upstream answers; raises what *pieces* raises."""
        call = self._call
        assert call is not None
        self._uploading = True
        call.begin_upload(self.has_answered)
        try:
            going_on = self._send_piece(head)
            while going_on and (piece := next(pieces, b"")):
                going_on = not self.has_answered() and self._send_piece(
                    b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
                )
            if chunked and going_on and not self.has_answered():
                self._send_piece(b"0\r\n\r\n")
        finally:
            with self._lock:  # the watcher may be looking, and reads what is the answer's
                call.end_upload()
                self._uploading = False

    def _send_piece(self, data: bytes) -> bool:
        call = self._call
        assert call is not None
        with self._lock:
            call.waits_for_upstream(time.monotonic() + self._silence)
            try:
                return self._send_watching(data)
            except OSError:
                call.check()
                return False

    def has_answered(self) -> bool:
        """Whether the upstream has begun to answer, or has closed the connection, while a body goes up.

        The watcher asks too, from its own thread, while the request waits for its client's next piece.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            return self._uploading and self._begins_to_answer()
        except OSError:
            return True
        finally:
            self._lock.release()

    # ------------------------------------------------------------------------------------------------------------- the answer

    def read_head(self, method: str) -> Head:
        """The head of the final answer to a request with *method*; raises WireError, or what the call was ended for."""
        for _ in range(_MAX_INTERIM + 1):
            head = parse_head(self._take_head(), method)
            if head.status >= 200:
                return head
        raise Malformed

    def _take_head(self) -> str:
        data: bytes | bytearray = self.buffer
        searched = 0
        ready = self.used and not data and self._secure
        if ready and self._ends_below_tls() and self._closed_unheard():
            raise Stale
        while (end := HEAD_END.search(data, searched)) is None:
            if len(data) > _MAX_HEAD or data.startswith((b"\n", b"\r\n")):
                raise Malformed
            searched = max(0, len(data) - 2)
            more, reset = b"", False
            try:
                more = self.receive(ready=ready)
            except Broken as error:
                reset = error.reset
            ready = False
            if not more:
                if self.used and not data and (self.unsent or (not reset and self._closed_unheard())):
                    raise Stale
                raise Malformed if data else Broken
            if not data:
                data = more
                continue
            if isinstance(data, bytes):
                data = bytearray(data)  # which grows in place: a head can come byte by byte
            data += more
        stop = end.end()
        self.buffer = bytes(data[stop:])
        if stop > _MAX_HEAD or data.startswith((b"\n", b"\r\n")):
            raise Malformed
        return data[:stop].decode("latin-1")

    def _ends_below_tls(self) -> bool:
        """Waits for the first byte, or the end, of what the other side sends; whether it is the end."""
        call = self._call
        assert call is not None
        call.waits_for_upstream(time.monotonic() + self._silence)
        try:
            self._wait()
            ends = not socket.socket.recv(self.sock, 1, socket.MSG_PEEK)
        except OSError:
            return False
        if ends:
            call.check()  # the watcher may have shut it down
        return ends

    def _closed_unheard(self) -> bool:
        """Whether the other side closed this connection before the request reached it, as far as the kernel can tell.

        The end came first; then the request met a reset, or it is not acknowledged. An upstream that read the request and then
        hung up acknowledges it with the end, or sends a reset alone: its request may have been served.
        """
        if not hasattr(socket, "TCP_INFO"):
            return False
        for _ in range(_RESET_LOOKS):
            try:
                info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_UNACKED.stop)
            except OSError:
                return False
            if info[0] == _TCP_CLOSE or any(info[_TCP_UNACKED]):
                return True
            time.sleep(_RESET_SECONDS)  # the reset follows the end
        return False
