"""The worker: gunicorn's for gevent, with other ways to read, write and wait."""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import ssl
import time
from datetime import datetime
from typing import Any

from gevent import GreenletExit, get_hub, getcurrent
from gunicorn.http import wsgi
from gunicorn.http.body import LengthReader
from gunicorn.workers.ggevent import GeventWorker

from mistral_filter.proxy.gunicorn.messages import LengthInput, Response

__all__ = ["Worker"]

_WARNING_SECONDS = 1.0
_LAST_REQUEST_SECONDS = 2.0
"""For the next request on a connection of a worker that stops."""


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


def _connection_trouble(error: Any) -> str | None:
    """What to say of an *error* with a client's new connection, of which gevent would print a traceback each time."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "No file descriptor is left for a client's connection. Trying again."
    if isinstance(error, (ssl.SSLError, ConnectionError)):  # of all else gunicorn takes care
        return "A client's TLS handshake failed. Is it HTTPS that the client speaks, and does it trust the certificate?"
    return None


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
        usual, said = hub.handle_error, dict[str, float]()

        def handle_error(context: Any, kind: Any, error: Any, trace: Any) -> None:
            sentence = _connection_trouble(error)
            if sentence is None:
                usual(context, kind, error, trace)
            elif time.monotonic() - said.get(sentence, -math.inf) > _WARNING_SECONDS:
                said[sentence] = time.monotonic()
                self.log.warning(sentence)

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
                environ["wsgi.input"] = LengthInput(req.body, sock)
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
