"""How gunicorn serves the proxy: its worker, its logger and its hooks. ``gunicorn.conf.py`` names them.

Hooks hold for every worker class; the worker is gunicorn's for gevent.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import logging
import re
import resource
import socket
import ssl
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from gevent import GreenletExit, get_hub, getcurrent
from gunicorn import glogging, util
from gunicorn.http import wsgi
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.errors import InvalidHeader, InvalidRequestLine
from gunicorn.workers.ggevent import GeventWorker

from mistral_filter.errors import from_status
from mistral_filter.proxy import settings, sockets
from mistral_filter.proxy.call import close_connection
from mistral_filter.proxy.logs import access_path, stderr_handler

__all__ = ["Logger", "Worker", "on_exit", "on_starting", "post_request", "post_worker_init", "pre_request", "ssl_context"]

_LAST_REQUEST_SECONDS = 2.0
"""For the next request on a connection of a worker that stops."""
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Za-z:.%]+\])?(?::\d{0,5})?")
_ACCEPT_WARNING_SECONDS = 1.0
_TARGET = re.compile(r"(?:/|\*$|https?://)[^#]*$", re.IGNORECASE)


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


class _Errors(wsgi.WSGIErrorsWrapper):  # type: ignore[misc]
    """``wsgi.errors``. gunicorn's looks for the streams of its log at every request, this one when something is written."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    def write(self, data: str) -> None:
        """Writes *data* to the streams of the error log."""
        super().__init__(self._cfg)
        super().write(data)


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return str(util.http_date(second))


class _LengthInput:
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


class _Late(BaseException):
    """The next request of a connection did not come in time."""


class _RequestTimeouts:
    """Bounds the waits for the next requests of all connections by one timer; a context manager for any number of greenlets.

    Of each wait, a timer of its own would be the largest cost. A wait ends a second late at most. When the worker stops, waits of
    some seconds end, since they would keep it until the graceful timeout; in the others a request may be on its way.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker, self._seconds = worker, worker.cfg.keepalive
        self._until: dict[Any, float] = {}
        self._timer = get_hub().loop.timer(1.0, repeat=1.0)
        self._timer.start(self._end_late_waits)

    def __enter__(self) -> None:
        self._until[getcurrent()] = time.monotonic() + self._seconds

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        del self._until[getcurrent()]
        return kind is _Late

    def _end_late_waits(self) -> None:
        now = time.monotonic()
        if not self._worker.alive:
            now += max(self._seconds - _LAST_REQUEST_SECONDS, 0)
        for greenlet in [greenlet for greenlet, until in self._until.items() if until < now]:
            greenlet.throw(_Late)


class Worker(GeventWorker):  # type: ignore[misc]
    """gunicorn's worker for gevent: thousands of waiting streams cost it little, and a slow one holds up no other.

    It differs in how it reads bodies, how it writes, how it waits for requests, and how often it quits.
    """

    alive: bool
    quitting = False
    request_timeouts: _RequestTimeouts

    def timeout_ctx(self) -> _RequestTimeouts:
        """Bounds the wait for the next request of a connection."""
        return self.request_timeouts

    def run(self) -> None:
        """Serves until the worker is told to stop."""
        self.request_timeouts = _RequestTimeouts(self)
        hub = get_hub()
        usual, said = hub.handle_error, -_ACCEPT_WARNING_SECONDS

        def handle_error(context: Any, kind: Any, error: Any, trace: Any) -> None:
            nonlocal said
            if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
                usual(context, kind, error, trace)
            elif time.monotonic() - said > _ACCEPT_WARNING_SECONDS:  # gevent would print a traceback for each try
                said = time.monotonic()
                self.log.warning("No file descriptor is left for a client's connection. Trying again.")

        hub.handle_error = handle_error
        super().run()

    def handle_quit(self, sig: Any, frame: Any) -> None:
        """Ends the worker at once. Only the first signal counts: Ctrl-C reaches the worker, and the master sends another."""
        if not self.quitting:
            self.quitting = True
            super().handle_quit(sig, frame)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        """Serves one request, as gunicorn's own workers do."""
        response, environ, began = None, {}, datetime.now()
        try:
            self.cfg.pre_request(self, req)
            response, environ = wsgi.create(req, sock, addr, listener_name, self.cfg, response_class=Response)
            environ["wsgi.multithread"] = True
            if type(req.body.reader) is LengthReader:
                environ["wsgi.input"] = _LengthInput(req.body, sock)
            self.nr += 1
            if self.nr >= self.max_requests and self.alive:
                self.log.info("Autorestarting worker after current request.")
                self.alive = False
            pieces = self.wsgi(environ, response.start_response)
            if not self.alive or not self.cfg.keepalive:  # it may have been told to stop meanwhile
                response.force_close()
            try:
                for piece in pieces:
                    response.write(piece)
                response.close()
            finally:
                self.log.access(response, req, environ, datetime.now() - began)
                if hasattr(pieces, "close"):
                    pieces.close()
            if response.should_close():
                raise StopIteration
        except (StopIteration, OSError):  # the connection ends; gunicorn's handle() knows how
            raise
        except GreenletExit:  # the worker is told to stop
            return False
        except (Exception, SystemExit) as error:
            if response is None or not response.headers_sent:
                if isinstance(error, SystemExit):
                    return False
                raise  # gunicorn answers
            self.log.exception("Error handling request")
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
                sock.close()
            raise StopIteration from None
        finally:
            try:
                self.cfg.post_request(self, req, environ, response)
            except Exception:
                self.log.exception("Exception in post_request hook")
        return True


class Logger(glogging.Logger):  # type: ignore[misc]
    """Says what went wrong without quoting the request, in which a key or a prompt may be, and without waiting for a reader."""

    def setup(self, cfg: Any) -> None:
        """Sets gunicorn's logs up; what would go to standard error goes through a handler that never blocks."""
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            for handler in list(log.handlers):
                if getattr(handler, "stream", None) is sys.stderr:
                    log.removeHandler(handler)
                    unblocking = stderr_handler()
                    unblocking.setFormatter(handler.formatter)
                    log.addHandler(unblocking)

    def warning(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """A request that is not valid HTTP."""
        super().warning("Invalid request" if str(msg).startswith("Invalid request") else msg, *args, **kwargs)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """A defect, here or in gunicorn: what it was and where, without its text."""
        error = sys.exc_info()[1]
        trace = traceback.extract_tb(error.__traceback__)[-1:] if error is not None else []
        place = "".join(f" in {step.name}:{step.lineno}" for step in trace)
        msg = str(msg)
        what = "Error handling request" if msg.startswith("Error handling request") else msg
        super().error(f"{what} ({type(error).__name__}{place})", *(() if what is not msg else args))

    def atoms(self, resp: Any, req: Any, environ: Any, request_time: Any) -> dict[str, Any]:
        """What an access log may hold: ``%(U)s`` is the path as it came, without the query string."""
        atoms: dict[str, Any] = super().atoms(resp, req, environ, request_time)
        return {**atoms, "U": access_path(environ)}


# ---------------------------------------------------------------------------------------------------------------- hooks


def on_starting(server: Any) -> None:
    """Before the first worker: all descriptors that the system allows, and a clean directory for the counts of all workers.

    Misspelt variables are named here, so that each worker need not.
    """
    gc.set_threshold(*_GC_THRESHOLDS)  # here: the workers inherit it, and start the sooner
    for sentence in settings.new_warnings():
        server.log.warning("%s", sentence)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    directory = settings.metrics_directory()
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        if not server.master_pid:  # else the workers of an older binary still count here
            _remove_counts(directory)


def ssl_context(_config: Any, default_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """For gunicorn's own TLS (``--certfile``): a client's socket that is shut down for reading can still be written to.

    OpenSSL would take that end for a fault and send an alert in place of the answer. A cut body is told by its framing.
    """
    context = default_factory()
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def on_exit(server: Any) -> None:
    """Leaves nothing behind, except to another master."""
    directory = settings.metrics_directory()
    if directory is not None and not (server.master_pid or server.reexec_pid):
        _remove_counts(directory)
        with contextlib.suppress(OSError):  # not empty: there is something of others in it
            directory.rmdir()


def _remove_counts(directory: Any) -> None:
    for kind in ("counter", "histogram"):
        for file in directory.glob(f"{kind}_*.db"):
            file.unlink(missing_ok=True)


def post_worker_init(worker: Any) -> None:
    """What was loaded at start stays for good: the garbage collector need not look at it again and again.

    One heap for all threads, where the C library has the choice: each of several keeps what it was once given. No line of the
    log names a thread, so that none is looked up. A setting, which gunicorn asks for two dozen times a request and finds through
    two functions, becomes an attribute.
    """
    vars(worker.cfg).update({name: setting.get() for name, setting in worker.cfg.settings.items()})
    logging.logThreads = logging.logMultiprocessing = False
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_FREE)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_FREE)


_GC_THRESHOLDS = 20_000, 20, 20
"""Requests leave no cycles behind, so that the collector has little to find."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt (glibc, malloc.h)."""
_KEPT_FREE = 32 << 20
"""Bytes. glibc itself goes up to 64 MiB, twice the largest block that was ever freed."""


def pre_request(_worker: Any, req: Any) -> None:
    """Refuses, and closes the connection, where RFC 9112 (3.2) says so and gunicorn does not."""
    hosts = [value for name, value in req.headers if name == "HOST"]
    if (not hosts and req.version >= (1, 1)) or not all(_HOST.fullmatch(host) for host in hosts):
        raise InvalidHeader("HOST", req=req)
    # a path outside of the mount point would be a 500
    if not _TARGET.match(req.uri) or not req.path.startswith(settings.script_name()):
        raise InvalidRequestLine("target")
    close_connection.set(req.force_close)


def post_request(_worker: Any, _req: Any, _environ: Any, _resp: Any) -> None:
    """Gives way to the other connections: requests that lie ready on one would be served in a row."""
    sockets.let_others_run()


# ------------------------------------------------------------------------------------------- requests that are no HTTP


def _write_error(sock: Any, status: int, _reason: str, _quoted: str) -> None:
    """In place of gunicorn's page, which quotes what it did not understand: the error in the one shape."""
    error = from_status(status)
    body = error.body()
    head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    # which origin asks is not known of a request that was not understood
    allowed = "Access-Control-Allow-Origin: *\r\n" if settings.any_origin() else ""
    util.write_nonblock(sock, f"{head}Content-Length: {len(body)}\r\n{allowed}\r\n".encode("latin-1") + body)


util.write_error = _write_error
wsgi.WSGIErrorsWrapper = _Errors
