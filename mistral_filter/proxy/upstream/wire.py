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
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mistral_filter.proxy.call import Call
from mistral_filter.proxy.sockets import brief_lock, new_poll, readiness, send_all

__all__ = ["Body", "Broken", "Head", "Malformed", "Stale", "Wire", "WireError", "parse_head"]

_PIECE = 65536
"""Bytes that are read at a time."""

_JOINED = 65536
"""Bytes. A head and a body up to this size go up in one write."""

_MAX_HEAD = 131072
_MAX_LINE = 65536
_MAX_TRAILERS = 16384
_MAX_FIELDS = 100
_MAX_INTERIM = 20
_MAX_CHUNK_LINE = 8192
_LENGTH_DIGITS = 18
_TCP_CLOSE = 7
"""The state of a TCP connection that was reset (Linux, tcp_states.h), in the first byte of its tcp_info."""
_RESET_LOOKS, _RESET_SECONDS = 5, 0.01
_TCP_UNACKED = slice(24, 28)
"""Where tcp_info has the number of segments that the other side has not acknowledged."""

_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_HEAD_END = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?\r?\n")
_FIELD_LINES = re.compile(rf"(?:{_NAME}:[\t\x20-\x7e\x80-\xff]*\r\n)*")
"""Nearly every head, in one look. What does not match is looked at line by line."""
_FIELD_NAME = re.compile(_NAME)
_FIELD_VALUE = re.compile(r"[^\x00\n\v\f\r\x7f]*")
"""Control characters are let through, as many readers do; what passes an answer on has to look."""
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[^\r\n]*|[ \t]*)\r\n")
# No two neighbours in these expressions match the same character, so that none takes more than linear time.
_BLANK = " \t"


class WireError(Exception):
    """The connection cannot give the answer."""


class Malformed(WireError):
    """What came is no HTTP."""


class Broken(WireError):
    """The connection ended before the answer did, or before there was any. *reset*: by a reset, not by an end."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


class Stale(Broken):
    """A reused connection was closed before the request reached the other side: it may be sent again."""


class Head(NamedTuple):
    """The head of an answer."""

    status: int
    reason: str
    """Without blanks around it."""
    fields: list[tuple[str, str]]
    """Names as they were written, values without blanks around them, in order."""
    length: int | None
    """The declared number of bytes in the body, None if it ends in another way."""
    chunked: bool
    closes: bool
    """The connection ends with this answer."""
    connection: str
    """All options of Connection, with commas between them."""


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
        "_unsent",
        "_until",
        "_uploading",
        "buffer",
        "caller",
        "idle_since",
        "sock",
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
        self._unsent = False
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

    def receive(self, seconds: float | None = None) -> bytes:
        """The next bytes, once there are some; ``b""`` at the end of the connection.

        Raises TimeoutError after *seconds*, if given; the reading can go on then. Raises Broken, or what the call was ended for.
        """
        call = self._call
        assert call is not None
        if self._heard:
            self._heard, self._until = False, time.monotonic() + self._silence
        call.waits_for_upstream(self._until)
        try:
            if seconds is None:
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
        """Sends a request in as few writes as possible. An upstream that hangs up meanwhile may have answered first."""
        call = self._call
        assert call is not None
        call.waits_for_upstream(time.monotonic() + self._silence)
        self._unsent = False
        try:
            if len(body) <= _JOINED:
                send_all(self.sock, head + body)
            else:
                send_all(self.sock, head)
                send_all(self.sock, body)
        except OSError:
            call.check()
            self._unsent = True

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
                send_all(self.sock, data)
            except OSError:
                call.check()
                return False
        return True

    def has_answered(self) -> bool:
        """Whether the upstream has begun to answer, or has closed the connection, while a body goes up.

        The watcher asks too, from its own thread, while the request waits for its client's next piece.
        """
        if self.buffer:
            return True
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if not self._uploading:
                return False
            data = self._read_what_is_there()
            if data:
                self.buffer += data
        except OSError:
            return True
        finally:
            self._lock.release()
        return data is not None

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
        if self.used and not data and self._secure and self._ends_below_tls() and self._closed_unheard():
            raise Stale
        while (end := _HEAD_END.search(data, searched)) is None:
            if len(data) > _MAX_HEAD or data.startswith((b"\n", b"\r\n")):
                raise Malformed
            searched = max(0, len(data) - 2)
            more, reset = b"", False
            try:
                more = self.receive()
            except Broken as error:
                reset = error.reset
            if not more:
                if self.used and not data and (self._unsent or (not reset and self._closed_unheard())):
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


def parse_head(text: str, method: str) -> Head:
    """The head in *text*, which ends with its empty line."""
    first = _STATUS_LINE.match(text)
    if first is None:
        raise Malformed
    start, stop = first.end(), len(text) - 2
    if text.startswith("\r\n", stop) and _FIELD_LINES.fullmatch(text, start, stop):
        lines = text[start : stop - 2].split("\r\n") if start < stop else []
        fields = [(name, value.strip(_BLANK)) for name, _, value in [line.partition(":") for line in lines]]
    else:
        fields = _odd_fields(text[start:])
    if len(fields) > _MAX_FIELDS or (len(text) > _MAX_LINE and max(map(len, text.split("\n"))) > _MAX_LINE):
        raise Malformed
    status = int(first[2])
    lengths = codings = None
    connection = ""
    for name, value in fields:
        meaning = _MEANINGS.get(name.lower())
        if meaning is None:
            continue
        if meaning == "length":
            if not (value.isascii() and value.isdigit() and len(value) <= _LENGTH_DIGITS) or lengths not in (None, value):
                raise Malformed
            lengths = value
        elif meaning == "coding":
            if codings is not None or value.lower() != "chunked":
                raise Malformed
            codings = value
        else:
            connection = f"{connection},{value.lower()}"
    if (lengths is not None and codings is not None) or status == 101:
        raise Malformed
    closes = first[1] == "0" or (connection != "" and "close" in {option.strip(_BLANK) for option in connection.split(",")})
    length = None if lengths is None else int(lengths)
    if method == "HEAD" or status < 200 or status in (204, 304):
        return Head(status, (first[3] or "").strip(_BLANK), fields, 0, False, closes, connection)
    return Head(status, (first[3] or "").strip(_BLANK), fields, length, codings is not None, closes, connection)


_MEANINGS = {"content-length": "length", "transfer-encoding": "coding", "connection": "connection"}


def _odd_fields(text: str) -> list[tuple[str, str]]:
    """Fields with folded lines, bare line feeds or control characters; raises Malformed for what is no field."""
    lines: list[list[str]] = []
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if not line:
            break
        if line.startswith((" ", "\t")):  # folded (RFC 9112, 5.2): one field still
            if not lines:
                raise Malformed
            lines[-1].append(line.lstrip(_BLANK))
        else:
            lines.append([line])
    fields = []
    for parts in lines:
        name, colon, value = " ".join(parts).partition(":")
        value = value.strip(_BLANK)
        if not (colon and _FIELD_NAME.fullmatch(name) and _FIELD_VALUE.fullmatch(value)):
            raise Malformed
        fields.append((name, value))
    return fields


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
    end = _HEAD_END.search(data, max(at, searched))
    if (len(data) if end is None else end.end()) - at > _MAX_TRAILERS:
        raise Malformed
    if end is None:
        return 0
    fields = _odd_fields(data[at : end.end()].decode("latin-1"))
    if len(fields) > _MAX_FIELDS or any(_MEANINGS.get(name.lower()) in ("length", "coding") for name, _ in fields):
        raise Malformed
    return end.end()
