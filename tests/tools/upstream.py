"""A stand-in for Mistral that breaks on purpose: a raw-socket HTTP server, one thread per connection, driven by scripts.

A script is a callable that gets an :class:`Exchange` and writes the answer's bytes by itself::

    upstream.script = json_answer({"id": "1"})                       # for every request
    upstream.script = {"/v1/models": no_reply, "small": raw(b"…")}   # by path, else by the body's "model", else the echo
    upstream.script = in_turn(reset, json_answer({}))                # the first request, the second and all later ones
    upstream.script = chain(early_hints(), stall(1), sse(["a"]))     # one answer made of several scripts

When a script returns the connection is closed, unless the script called ``keep_alive()``. Every request is recorded
before its script runs. An exception that a script raises by itself leaves the thread, and pytest reports it.
"""

from __future__ import annotations

import json
import re
import select
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

import pytest

DEADLINE = 60.0
"""Seconds that a wait may take before the test fails."""

_PEER_CLOSED = getattr(select, "POLLRDHUP", 0)  # only Linux tells a half-closed peer; POLLHUP needs no asking


class PeerLeft(ConnectionError):
    """The other side closed the connection before the script had finished."""


@dataclass(eq=False)
class Received:
    """One request as it came over the wire."""

    connection: int = 0
    """The number of the connection it came on, from 1: two requests with the same number shared one."""
    head: bytes = b""
    """Request line and headers, with the empty line."""
    method: str = ""
    target: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    """In order, names as written, duplicates kept, latin-1."""
    body: bytes = b""
    """What came of it, without chunked framing."""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    cut: bool = False
    """The head or the body ended too early, or its framing was wrong."""
    left: bool = False
    """The peer closed the connection before the script had finished."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def model(self) -> object:
        """``model`` of a JSON body, or None."""
        with suppress(ValueError, AttributeError):
            return self.json().get("model")
        return None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The only value of a header; None without one. More than one fails the test."""
        values = self.all(name)
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    def json(self) -> Any:
        return json.loads(self.body)


class Exchange:
    """One request and the hand that writes its answer."""

    def __init__(self, connection: _Connection, request: Received) -> None:
        self.request = request
        self.kept_alive = False
        self._connection = connection

    @property
    def closed(self) -> bool:
        return self._connection.sock.fileno() < 0

    def send(self, data: bytes) -> None:
        """Write *data* at once; PeerLeft when nobody is there to take it."""
        if self.closed:
            raise RuntimeError("the script sends on a connection that it closed")
        try:
            self._connection.sock.sendall(data)
        except OSError as exc:
            raise PeerLeft from exc

    def head(self, status: int, headers: Iterable[tuple[str, str]] = ()) -> None:
        self.send(head_bytes(status, headers))

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def sleep(self, seconds: float) -> None:
        """Wait, watching: PeerLeft as soon as the peer closes."""
        poll = select.poll()
        poll.register(self._connection.sock, _PEER_CLOSED)
        if poll.poll(seconds * 1000):
            raise PeerLeft

    def wait_for_bytes(self) -> None:
        """For ``on_connect``: until the peer has begun to speak, so that what comes next hits it in mid-handshake."""
        poll = select.poll()
        poll.register(self._connection.sock, select.POLLIN)
        poll.poll()

    def read_body(self, gap: float = 0.0) -> None:
        """For a script marked :func:`early`: read the rest of the request now, *gap* seconds before each 64 KB."""
        if gap:
            self._connection.gap = gap
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # little lies ready meanwhile
        self._connection.read_body(self.request)

    def keep_alive(self) -> None:
        """Leave the connection open for another request, unless the peer asked to close it."""
        self.kept_alive = "close" not in ",".join(self.request.all("connection")).lower()

    def close(self) -> None:
        self._connection.close()

    def close_unread(self) -> None:
        """Close while the peer's next request arrives: FIN first, as ``shutdown`` sends it, then RST for what was not read."""
        with suppress(OSError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._connection.sock.close()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.sock.close()


Script = Callable[[Exchange], None]
Event = bytes | str | dict[str, Any]
Framing = Literal["chunked", "length", "close"]
Headers = Iterable[tuple[str, str]]


# ---------------------------------------------------------------------------------------------------------- scripts


def head_bytes(status: int, headers: Headers = ()) -> bytes:
    """A response head, with the empty line."""
    reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def json_answer(obj: object, status: int = 200, headers: Headers = ()) -> Script:
    """A whole, correct JSON answer that keeps the connection."""
    body, more = json.dumps(obj).encode(), list(headers)

    def script(exchange: Exchange) -> None:
        length = ("Content-Length", str(len(body)))
        without_body = exchange.request.method == "HEAD" or status in (204, 304)
        head = head_bytes(status, [("Content-Type", "application/json"), length, *more])
        exchange.keep_alive()
        exchange.send(head if without_body else head + body)

    return script


def echo(exchange: Exchange) -> None:
    """The default: a JSON answer that holds the request."""
    request = exchange.request
    seen = {"method": request.method, "target": request.target, "headers": request.headers}
    json_answer({"object": "echo", **seen, "body": request.body.decode("utf-8", "replace")})(exchange)


def raw(data: bytes, size: int | None = None, gap: float = 0) -> Script:
    """Write exactly *data*; if *size* is given in TCP segments of so many bytes, *gap* seconds apart. Then hang up."""

    def script(exchange: Exchange) -> None:
        step = size or len(data) or 1
        for start in range(0, len(data), step):
            if start and gap:
                exchange.sleep(gap)
            exchange.send(data[start : start + step])

    return script


def event_bytes(event: Event) -> bytes:
    """An event on the wire: bytes as they are, a string or an object as one ``data:`` line."""
    if isinstance(event, bytes):
        return event
    return b"data: " + (event if isinstance(event, str) else json.dumps(event)).encode() + b"\n\n"


def sse_bytes(events: Sequence[Event], framing: Framing = "chunked", headers: Headers = ()) -> bytes:
    """A whole event stream as wire bytes, for tests that cut it anywhere: ``raw(sse_bytes(events)[:k])``."""
    return b"".join([_sse_head(events, framing, headers), *_sse_pieces(events, framing), _sse_end(framing)])


def sse(
    events: Sequence[Event],
    gap: float = 0,
    framing: Framing = "chunked",
    cut_at: int | None = None,
    headers: Headers = (),
) -> Script:
    """An event stream, one write for each event, *gap* seconds between them.

    *cut_at* is an offset in the stream itself, framing not counted: what lies before it is sent, then the connection is
    closed. A chunk is announced with its whole size; without a chunk to cut, the terminating chunk is what is missing.
    """
    more = list(headers)

    def script(exchange: Exchange) -> None:
        exchange.send(_sse_head(events, framing, more))
        left = cut_at
        for number, piece in enumerate(_sse_pieces(events, framing)):
            length = len(event_bytes(events[number]))
            if left is not None and left < length:
                before = piece.index(b"\r\n") + 2 if framing == "chunked" else 0
                exchange.send(piece[: before + left] if left else b"")
                return
            left = None if left is None else left - length
            if number and gap:
                exchange.sleep(gap)
            exchange.send(piece)
        if left is None:
            exchange.send(_sse_end(framing))
            if framing != "close":
                exchange.keep_alive()

    return script


def _sse_head(events: Sequence[Event], framing: Framing, headers: Headers) -> bytes:
    how = {
        "chunked": ("Transfer-Encoding", "chunked"),
        "length": ("Content-Length", str(sum(len(event_bytes(event)) for event in events))),
        "close": ("Connection", "close"),
    }
    return head_bytes(200, [("Content-Type", "text/event-stream; charset=utf-8"), how[framing], *headers])


def _sse_pieces(events: Sequence[Event], framing: Framing) -> Iterator[bytes]:
    for data in map(event_bytes, events):
        yield b"%x\r\n%b\r\n" % (len(data), data) if framing == "chunked" else data


def _sse_end(framing: Framing) -> bytes:
    return b"0\r\n\r\n" if framing == "chunked" else b""


def stall(seconds: float = 60) -> Script:
    """Nothing for so long, or until the peer leaves."""
    return lambda exchange: exchange.sleep(seconds)


def early_hints(status: int = 103) -> Script:
    """An informational head; the answer follows in the same chain."""
    return raw(head_bytes(status, [("Link", "</style.css>; rel=preload")]))


def extra_bytes_after(script: Script, extra: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison") -> Script:
    """A good answer, and in its wake bytes that nobody asked for, on a connection that stays open."""
    return chain(script, raw(extra))


def no_reply(exchange: Exchange) -> None:
    """Hang up without a byte."""
    exchange.close()


def reset(exchange: Exchange) -> None:
    """RST without a byte; at the end of a chain, in mid-answer."""
    exchange.reset()


def chain(*scripts: Script) -> Script:
    """Several scripts, one after the other, for one request."""

    def script(exchange: Exchange) -> None:
        for part in scripts:
            part(exchange)

    return script


def in_turn(*scripts: Script) -> Script:
    """The first script for the first request, and so on; the last one for all that follow."""
    lock, waiting = threading.Lock(), list(scripts)

    def script(exchange: Exchange) -> None:
        with lock:
            turn = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        turn(exchange)

    return script


def early(script: Script) -> Script:
    """Run *script* when the head is there and the body is still on its way, then hang up: with RST, if it was not read.

    Not for a choice by ``model``.
    """

    def before_body(exchange: Exchange) -> None:
        script(exchange)

    before_body.early = True  # type: ignore[attr-defined]
    return before_body


# ----------------------------------------------------------------------------------------------------------- server


class _Connection:
    """The bytes of one connection, read by line or by count."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        self.number = number
        self.sock = sock
        self.thread: threading.Thread | None = None
        self.gap = 0.0
        """Seconds to wait before each read."""
        self._pending = bytearray()

    def read_head(self) -> Received | None:
        """The next request without its body; None when the peer has closed instead."""
        request, head = Received(self.number), bytearray()
        try:
            while not head.endswith((b"\r\n\r\n", b"\n\n")):
                head += self._line()
        except (EOFError, OSError):
            request.cut = True
            head += self._pending
            if not head:
                return None
        request.head = bytes(head)
        first, *lines = request.head.decode("latin-1").split("\n")
        request.method, _, rest = first.rstrip("\r").partition(" ")
        request.target = rest.rpartition(" ")[0]
        request.headers = [_field(line) for line in lines if line.strip()]
        return request

    def read_body(self, request: Received) -> None:
        """Fill in the body as far as it comes."""
        body = bytearray()
        try:
            if any("chunked" in value.lower() for value in request.all("transfer-encoding")):
                while size := self._chunk_size():
                    self._take(size, body)
                    if self._line() != b"\r\n":
                        raise ValueError("no line end after a chunk")
                while (line := self._line()).strip():
                    request.trailers.append(_field(line.decode("latin-1")))
            else:
                self._take(int(request.header("content-length") or 0), body)
        except (EOFError, OSError, ValueError):
            request.cut = True
        request.body = bytes(body)

    def abort(self) -> None:
        """From another thread: whatever the connection's own thread waits for ends now."""
        with suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # SSLSocket.shutdown would pull the TLS state away too

    def close(self) -> None:
        with suppress(OSError, ValueError):
            if isinstance(self.sock, ssl.SSLSocket):
                self.sock.settimeout(0)  # say goodbye, do not wait for the peer's
                self.sock.unwrap()
        self.sock.close()

    def _chunk_size(self) -> int:
        size = self._line().split(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]+", size):
            raise ValueError("not a chunk size")
        return int(size, 16)

    def _line(self) -> bytes:
        while (end := self._pending.find(b"\n") + 1) == 0:
            self._fill()
        line = bytes(self._pending[:end])
        del self._pending[:end]
        return line

    def _take(self, count: int, into: bytearray) -> None:
        while count:
            if not self._pending:
                self._fill()
            part = self._pending[:count]
            del self._pending[:count]
            into += part
            count -= len(part)

    def _fill(self) -> None:
        if self.gap:
            time.sleep(self.gap)
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        self._pending += data


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip()


class ScriptedUpstream:
    """The server. It listens as soon as it exists; ``close()`` (or the end of ``with``) stops all of it.

    *tls* is a certificate file and its key, as :func:`self_signed` makes them. ``on_connect`` is a script that runs
    right after the accept, before TLS, with an empty request: ``reset``, ``stall(60)``, ``raw(b"not TLS")``.
    """

    def __init__(self, tls: tuple[Path, Path] | None = None, address: str = "127.0.0.1", port: int = 0) -> None:
        self.script: Script | dict[str, Script] = echo
        self.on_connect: Script | None = None
        self._changed = threading.Condition()
        self._requests: list[Received] = []
        self._open: set[_Connection] = set()
        self._accepted = 0
        self._context: ssl.SSLContext | None = None
        if tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*tls)
        self._address, self.port = address, port
        self._listen()

    def __enter__(self) -> ScriptedUpstream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://{self._address}:{self.port}"

    @property
    def requests(self) -> list[Received]:
        """All requests until now, in the order in which they were read."""
        with self._changed:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        with self._changed:
            return len(self._open)

    @property
    def accepted(self) -> int:
        """How many connections were accepted since the start or the last ``clear()``."""
        with self._changed:
            return self._accepted

    def wait(self, count: int = 1, timeout: float = DEADLINE) -> list[Received]:
        """The requests, as soon as there are at least *count*."""
        self._until(lambda: len(self._requests) >= count, timeout, f"{count} requests")
        return self.requests

    def wait_left(self, count: int = 1, timeout: float = DEADLINE) -> None:
        """Until the peer has closed the connection in the middle of at least *count* answers."""
        self._until(lambda: sum(request.left for request in self._requests) >= count, timeout, f"{count} peers leaving")

    def wait_connections(self, count: int = 0, timeout: float = DEADLINE) -> None:
        """Until at most *count* connections are open."""
        self._until(lambda: len(self._open) <= count, timeout, f"at most {count} open connections")

    def drop(self) -> None:
        """Close every open connection, idle or not, and wait until its script has ended."""
        with self._changed:
            dropped = list(self._open)
        for connection in dropped:
            connection.abort()
        for connection in dropped:
            assert connection.thread is not None
            connection.thread.join(DEADLINE)
            assert not connection.thread.is_alive(), "a script does not end"

    def clear(self) -> None:
        """As new: no connections, no requests, the echo."""
        self.script, self.on_connect = echo, None
        self.drop()
        with self._changed:
            self._requests.clear()
            self._accepted = 0

    def clear_requests(self) -> None:
        """Forget the requests until now, and nothing else: connections and script stay."""
        with self._changed:
            self._requests.clear()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Nobody listens on the port inside this block; after it the server is up again, on the same one."""
        self.close()
        try:
            yield
        finally:
            self._listen()

    def close(self) -> None:
        """Stop listening, close every connection, wait for every thread."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close() alone does not wake a thread in accept()
        self._listener.close()
        self._acceptor.join(DEADLINE)
        assert not self._acceptor.is_alive()
        self.drop()

    def _until(self, predicate: Callable[[], bool], timeout: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(predicate, timeout):
                seen = [f"{request.method} {request.target}" for request in self._requests]
                raise AssertionError(f"waited {timeout} s for {what}; {len(self._open)} connections open, seen: {seen}")

    def _listen(self) -> None:
        self._listener = socket.create_server((self._address, self.port), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), name="upstream")
        self._acceptor.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self._accepted += 1
                connection = _Connection(self._accepted, sock)
                connection.thread = threading.Thread(target=self._serve, args=(connection,), name="upstream connection")
                self._open.add(connection)
                # Started under the lock: whoever finds the connection can join its thread.
                connection.thread.start()

    def _serve(self, connection: _Connection) -> None:
        try:
            if self.on_connect and not self._run(self.on_connect, Exchange(connection, Received(connection.number)), True):
                return
            if self._context:
                connection.sock = self._context.wrap_socket(connection.sock, True, do_handshake_on_connect=False)
                connection.sock.do_handshake()
            while self._exchange(connection):
                pass
        except OSError:
            return  # no TLS, or the peer broke it off before there was a request
        finally:
            connection.close()
            with self._changed:
                self._open.discard(connection)
                self._changed.notify_all()

    def _exchange(self, connection: _Connection) -> bool:
        """One request and its answer; whether another may follow."""
        request = connection.read_head()
        if request is None:
            return False
        script = self._choose(request)
        is_early = getattr(script, "early", False)
        if not (is_early or request.cut):
            connection.read_body(request)
            script = self._choose(request)
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
        return not request.cut and self._run(script, Exchange(connection, request)) and not is_early

    def _choose(self, request: Received) -> Script:
        if not isinstance(self.script, dict):
            return self.script
        return self.script.get(request.path) or self.script.get(str(request.model)) or echo

    def _run(self, script: Script, exchange: Exchange, keep: bool = False) -> bool:
        """Whether the connection goes on after *script*."""
        try:
            script(exchange)
        except PeerLeft:
            with self._changed:
                exchange.request.left = True
                self._changed.notify_all()
            return False
        return not exchange.closed and (keep or exchange.kept_alive)


# ------------------------------------------------------------------------------------------------------ other faults


@contextmanager
def full_backlog(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port on which nobody accepts and whose queue is full: a connection attempt gets no answer at all."""
    with socket.socket() as listener:
        listener.bind((host, port))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex((host, port))
            yield port
        finally:
            for filler in fillers:
                filler.close()


def self_signed(directory: Path, name: str = "IP:127.0.0.1") -> tuple[Path, Path]:
    """A certificate for *name* (``IP:…`` or ``DNS:…``), its own authority, and its key; skips without openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is missing")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=scripted-upstream".split()
    command += ["-addext", f"subjectAltName={name}", "-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key
