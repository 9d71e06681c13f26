"""The programs under test as subprocesses, and a strict little HTTP client that sees the framing.

Every server listens on 127.0.0.1 on a free port, runs in a session of its own, is stopped by its process id, and the
test fails if a process of that session is still there afterwards.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

ROOT = Path(__file__).resolve().parent.parent.parent
START = Path(__file__).resolve().parent / "start"
"""Holds what Python imports when a server starts."""
DEADLINE = 60.0
"""Seconds that a wait may take before the test fails: no test hangs, and none fails because the machine is busy."""

_PAGE = os.sysconf("SC_PAGE_SIZE")

T = TypeVar("T")
S = TypeVar("S", bound="Server")


def eventually(predicate: Callable[[], T], what: str = "the condition", timeout: float = DEADLINE) -> T:
    """Ask *predicate* until its answer is true, and return it; fail after *timeout* seconds."""
    end = time.monotonic() + timeout
    while not (answer := predicate()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout} s for {what}")
        time.sleep(0.02)
    return answer


def free_port() -> int:
    """A port on which nobody listens, below those of outgoing connections, so that none of them takes it before a server does."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


# ---------------------------------------------------------------------------------------------------------- servers


class _Stat(NamedTuple):
    pid: int
    state: str
    parent: int
    session: int


def _processes() -> Iterator[_Stat]:
    """Every process of this machine that is not a zombie: one of those waits for its parent and holds nothing."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    state, parent, _, session = file.read().rpartition(b")")[2].split()[:4]
            except OSError:  # it ended while we looked
                continue
            if state not in b"ZX":
                yield _Stat(int(entry), state.decode(), int(parent), int(session))


def alive(pid: int) -> bool:
    """Whether a process with this id runs."""
    return any(process.pid == pid for process in _processes())


class Server:
    """A subprocess that serves HTTP, as a context manager."""

    running: ClassVar[list[Server]] = []
    grace = 30.0
    """Seconds between SIGTERM and SIGKILL."""
    port: int

    def __init__(self, directory: Path, command: list[str], root: Path, settings: dict[str, object]) -> None:
        self._command = [sys.executable, "-m", *command]
        self._root = root
        descriptor, name = tempfile.mkstemp(".log", f"{type(self).__name__.lower()}-", directory)
        os.close(descriptor)
        self._log = Path(name)
        # Nothing of the developer's own environment: no proxies, no keys, no settings.
        inherited = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), "LANG": "C.UTF-8"}
        python = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(START)}
        self._environ = inherited | python | {name: str(value) for name, value in settings.items()}

    def __enter__(self: S) -> S:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._root,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            eventually(lambda: self.process.poll() is not None or self._ready(), "the server to start")
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}"
        except BaseException as exc:
            self.stop()
            if isinstance(exc, AssertionError):
                raise AssertionError(f"{exc}\n{' '.join(self._command)}\n{self.log()}") from None
            raise
        self.running.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        if self in self.running:
            self.running.remove(self)
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self, start: int = 0) -> str:
        """All of its stdout and stderr until now, or what came after the first *start* bytes."""
        with self._log.open("rb") as file:
            file.seek(start)
            return file.read().decode("utf-8", "replace")

    def logged(self) -> int:
        """How many bytes it has written to stdout and stderr until now."""
        return self._log.stat().st_size

    def stop(self) -> int:
        """SIGTERM; after ``grace`` seconds SIGKILL for its own process group. Returns the exit status; it may be called again."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(self.grace)
        # A group is looked for before it is killed: the number of one that has ended could be somebody else's by now.
        if self.process.poll() is None:
            self._kill()
        else:
            try:
                eventually(lambda: not self._left_over(), "the last process of the server to end")
            except AssertionError:
                self._kill()
                raise
        return self.process.wait(DEADLINE)

    def _ready(self) -> bool:
        raise NotImplementedError

    def _left_over(self) -> list[int]:
        return [process.pid for process in _processes() if process.session == self.pid]

    def _kill(self) -> None:
        if self._left_over():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        eventually(lambda: not self._left_over(), "the last process of the server to end")


class Gunicorn(Server):
    """``gunicorn app:app`` with the shipped configuration: ``Gunicorn(tmp_path, "-w", "2", MISTRAL_FILTER_UPSTREAM=url)``.

    *shell* is a command that the shell runs before it becomes gunicorn, such as ``ulimit -n 256``.
    """

    def __init__(
        self, directory: Path, *args: str, app: str = "app:app", root: Path = ROOT, shell: str = "", **settings: Any
    ) -> None:
        self.port = free_port()
        super().__init__(directory, ["gunicorn", app, "-b", f"127.0.0.1:{self.port}", *args], root, settings)
        if shell:
            self._command = ["sh", "-c", shell + ' && exec "$@"', "sh", *self._command]

    def workers(self) -> list[int]:
        """The process ids of the workers alive now."""
        return sorted(process.pid for process in _processes() if process.parent == self.pid)

    def fds(self) -> int:
        """How many file descriptors the workers have open now, all together."""
        count = 0
        for pid in self.workers():
            with suppress(OSError):  # it has just ended
                count += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        return count

    def rss(self) -> int:
        """How many bytes of memory the workers have resident now, all together."""
        count = 0
        for pid in self.workers():
            with suppress(OSError):  # it has just ended
                count += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        return count

    def _ready(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


class Serve(Server):
    """``mistral-filter serve`` on a free port."""

    def __init__(self, directory: Path, *args: str, port: int = 0, **settings: Any) -> None:
        self.port = port or free_port()
        super().__init__(directory, ["mistral_filter", "serve", "--port", str(self.port), *args], ROOT, settings)

    def _ready(self) -> bool:
        with suppress(OSError):
            return ask(self.port, "GET", "/health").status == 200
        return False


class Sandbox(Server):
    """``python -m mistral_filter.sandbox`` on a port of its own choice."""

    def __init__(self, directory: Path, *args: str, root: Path = ROOT, **settings: Any) -> None:
        super().__init__(directory, ["mistral_filter.sandbox", "--port", "0", *args], root, settings)

    def _ready(self) -> bool:
        line = re.search(r"^mistral-filter sandbox on http://127\.0\.0\.1:(\d+)$", self.log(), re.MULTILINE)
        if line:
            self.port = int(line[1])
        return bool(line)


# ----------------------------------------------------------------------------------------------------------- client


_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")


class BadFraming(AssertionError):
    """What came is not an HTTP/1.1 response head, or contradicts itself. An empty reply too."""


class Response(NamedTuple):
    """A response that was read to its end, or to where it broke."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool
    """The framing ended as it must. A body without any ends with the connection: by FIN True, by RST False."""

    def header(self, name: str) -> str | None:
        """All values of a header, joined; None without one."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(values) if values else None

    def json(self) -> Any:
        return json.loads(self.body)


class Answer:
    """One response on a socket: the head is read at once, the body as it comes. It never reads beyond its own end.

    *method* is the request's, since an answer to HEAD has no body. ``complete`` is None until the body has ended.
    """

    def __init__(self, sock: socket.socket, method: str = "GET") -> None:
        self._sock = sock
        self.complete: bool | None = None
        self.status = 100
        while 100 <= self.status < 200 and self.status != 101:
            self.status, self.headers = self._head()
        if method == "HEAD" or self.status in (101, 204, 304):
            self._length: int | str = 0
        else:
            self._length = self._framing()

    def pieces(self) -> Iterator[tuple[float, bytes]]:
        """The body in pieces, each with the ``time.monotonic()`` at which it came."""
        try:
            if self._length == "chunked":
                yield from self._chunks()
            elif self._length == "close":
                yield from self._some(None)
            else:
                yield from self._some(int(self._length))
            self.complete = True
        except (EOFError, ConnectionError, ValueError):
            self.complete = False

    def _chunks(self) -> Iterator[tuple[float, bytes]]:
        while size := self._chunk_size():
            yield from self._some(size)
            if self._line() != b"":
                raise ValueError("no line end after a chunk")
        while self._line():
            pass  # a trailer

    def _chunk_size(self) -> int:
        size = self._line().split(b";")[0]
        if not re.fullmatch(rb"[0-9A-Fa-f]+", size):
            raise ValueError("not a chunk size")
        return int(size, 16)

    def _some(self, count: int | None) -> Iterator[tuple[float, bytes]]:
        """*count* bytes, or all until the connection is closed."""
        while count is None or count > 0:
            data = self._sock.recv(65536 if count is None else min(count, 65536))
            if not data:
                if count is None:
                    return
                raise EOFError
            count = None if count is None else count - len(data)
            yield time.monotonic(), data

    def _head(self) -> tuple[int, list[tuple[str, str]]]:
        try:
            first = self._line()
            lines = list(iter(self._line, b""))
        except (EOFError, ConnectionError, ValueError) as exc:
            raise BadFraming(f"the connection ended before the response head did: {exc!r}") from exc
        version = re.fullmatch(rb"HTTP/1\.[01] ([1-9]\d\d) [^\r\n]*", first)
        headers = [_HEADER.fullmatch(line) for line in lines]
        if not version or not all(headers):
            raise BadFraming(f"not a response head: {[first, *lines]}")
        return int(version[1]), [(match[1].decode(), match[2].decode("latin-1")) for match in headers if match]

    def _framing(self) -> int | str:
        lengths = [value for name, value in self.headers if name.lower() == "content-length"]
        codings = [value.lower() for name, value in self.headers if name.lower() == "transfer-encoding"]
        if len(lengths) + len(codings) > 1 or codings not in ([], ["chunked"]) or not all(map(str.isdecimal, lengths)):
            raise BadFraming(f"lengths {lengths}, transfer codings {codings}")
        return "chunked" if codings else int(lengths[0]) if lengths else "close"

    def _line(self) -> bytes:
        # No byte more than the line is taken: what follows the answer belongs to the next one, and must stay in the socket.
        line = bytearray()
        while not line.endswith(b"\n"):
            if not (data := self._sock.recv(self._ahead())):
                raise EOFError(bytes(line))
            line += data
        if not line.endswith(b"\r\n"):
            raise ValueError("a line without CR")
        return bytes(line[:-2])

    def _ahead(self) -> int:
        """How many bytes of a line can be taken at once. TLS does not let them be seen beforehand."""
        if isinstance(self._sock, ssl.SSLSocket):
            return 1
        data = self._sock.recv(4096, socket.MSG_PEEK)
        return data.find(b"\n") + 1 or len(data) or 1


def connect(port: int, timeout: float = DEADLINE) -> socket.socket:
    """A connection to a server of ours; a silence longer than *timeout* raises TimeoutError."""
    return socket.create_connection(("127.0.0.1", port), timeout)


def build_request(method: str, target: str, body: object = None, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """A request's bytes. A *body* that is not bytes is sent as JSON; Host, Content-Length and Content-Type are added."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1"]
    if body is not None:
        lines += [f"Content-Length: {len(data)}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


def read_response(sock: socket.socket, method: str = "GET") -> Response:
    """The next response on *sock*, whole. TimeoutError if it stalls, BadFraming if it has no proper head."""
    answer = Answer(sock, method)
    body = b"".join(data for _, data in answer.pieces())
    return Response(answer.status, answer.headers, body, bool(answer.complete))


def ask(
    port: int, method: str, target: str, body: object = None, headers: Iterable[tuple[str, str]] = (), timeout: float = DEADLINE
) -> Response:
    """One request on a connection of its own."""
    with connect(port, timeout) as sock:
        sock.sendall(build_request(method, target, body, headers))
        return read_response(sock, method)


def raw_request(port: int, data: bytes, *, half_close: bool = False, timeout: float = DEADLINE) -> bytes:
    """Send *data* and return everything that comes until the connection ends, or until *timeout* seconds are over.

    A server that keeps the connection makes it wait that long: ask it to close.
    """
    received, end = bytearray(), time.monotonic() + timeout
    with connect(port, timeout) as sock, suppress(OSError):
        with suppress(ConnectionError):  # refused half-way: the answer may be there all the same
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        while (left := end - time.monotonic()) > 0:
            sock.settimeout(left)
            part = sock.recv(65536)
            if not part:
                break
            received += part
    return bytes(received)


class Probe:
    """Well-behaved requests from a thread, one after another and each on a connection of its own.

    ::

        with Probe(server.port, build_request("GET", "/health")) as probe:
            ...  # what must not hold them up begins, and does not end by itself
            probe.wait()
            ...  # it ends
        probe.check()

    Which came first is what counts, not how long anything took: requests that are answered before the disturbance ends were
    not held up by it.
    """

    def __init__(self, port: int, *requests: bytes, gap: float = 0.02) -> None:
        self._port, self._requests, self._gap = port, requests, gap
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe")
        self.answers: list[int | str] = []
        """The status of each response, or what came in place of one."""

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def rounds(self) -> int:
        """How often each of the requests has been answered."""
        return len(self.answers) // len(self._requests)

    def wait(self, rounds: int = 3) -> None:
        """Until each request was sent and answered *rounds* times from now on; fails after :data:`DEADLINE`."""
        wanted = self.rounds + rounds + 1  # one may be under way
        eventually(lambda: self.rounds >= wanted, f"{rounds} rounds of requests")

    def check(self) -> None:
        """Fails if a response was not a 200, or if there is none."""
        assert set(self.answers) == {200}, self.answers

    def _run(self) -> None:
        while not self._stop.is_set():
            for request in self._requests:
                answer: int | str
                try:
                    with connect(self._port, 2 * DEADLINE) as sock:
                        sock.sendall(request)
                        answer = read_response(sock).status
                except (OSError, BadFraming) as exc:
                    answer = repr(exc)
                self.answers.append(answer)
                self._stop.wait(self._gap)
