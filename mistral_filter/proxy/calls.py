"""The outermost wrapper of the application: it makes the Call of each request, counts what is sent, and closes the Call once.

That is when the server closes the response, when the application raises, or when the response is thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from mistral_filter.proxy import sockets
from mistral_filter.proxy.body import RequestBody
from mistral_filter.proxy.budget import Budget
from mistral_filter.proxy.call import KEY, NO_TIMEOUTS, Call, Timeouts
from mistral_filter.proxy.lingering import linger

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Calls", "Ended", "close_connection"]

close_connection: ContextVar[Callable[[], None] | None] = ContextVar("close_connection", default=None)
"""Has the server close the client's connection after the response, where the server offers that (see ``proxy/gunicorn/``)."""


class Ended(NamedTuple):
    """What is known of a request when it is over."""

    environ: WSGIEnvironment
    method: str
    path: str
    """As it came: inner applications may change it in the environ."""
    status: int
    headers: list[tuple[str, str]]
    sent: int
    """Bytes of the response's body that the server was given."""
    seconds: float
    ended: str
    """``ok``, ``error`` or an error code."""
    waited: float = 0.0
    """Seconds of these in which the call waited to be sent again."""


class Calls:
    """Makes a Call of every request to *app* and tells *report* how it ended; put outermost.

    *report* must not raise. *budget* and *timeouts* are those of all calls of this process.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        report: Callable[[Ended], None] = lambda ended: None,
        budget: Budget | None = None,
        timeouts: Timeouts = NO_TIMEOUTS,
    ) -> None:
        self._app, self._report, self._budget, self._timeouts = app, report, budget or Budget(), timeouts

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serves one request."""
        call = environ[KEY] = Call(environ.get("gunicorn.socket"), budget=self._budget, timeouts=self._timeouts)
        call.body = environ["wsgi.input"] = RequestBody(environ, call)
        environ["mistral_filter.lingers"] = call.client is not None
        response = _Response(environ, start_response, call, self._report)
        try:
            sockets.watch(call)
            response.body = self._app(environ, response.start)
            response.pieces = iter(response.body)
        except BaseException:
            response.failed()
            response.close()
            raise
        return response


class _Response:
    """The response on its way to the server, and what is counted of it."""

    body: Iterable[bytes] = ()
    pieces: Iterator[bytes]

    def __init__(
        self, environ: WSGIEnvironment, start_response: StartResponse, call: Call, report: Callable[[Ended], None]
    ) -> None:
        self._environ, self._start_response, self._call, self._report = environ, start_response, call, report
        self._method, self._path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        self._headers: list[tuple[str, str]] = []
        # what holds if the server never asks: no status, and no client there to read
        self._status, self._sent, self._ended, self._closed = "500", 0, "client_gone", False

    def start(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
        """The application's start_response."""
        body = self._call.body
        if body is not None and body.unread and (close := close_connection.get()) is not None:
            close()  # else the server would read the rest, however long, before it serves the next request
        write = self._start_response(status, headers, *exc_info)
        self._status, self._headers = status, headers
        return write

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        call = self._call
        call.works()
        try:
            piece = next(self.pieces)
        except StopIteration:
            self._ended = "ok"
            call.waits_for_client()  # the server sends the end, or all of it
            raise
        except BaseException:
            self.failed()
            raise
        self._sent += len(piece)
        call.waits_for_client()
        return piece

    def failed(self) -> None:
        """The application raised."""
        self._ended = "error"
        if not (self._sent or self._closed):
            self._status = "500"  # nothing is sent before the first piece: the server answers by itself

    def close(self) -> None:
        """Ends the call; the server calls it when the response is sent or given up."""
        if self._closed:
            return
        self._closed = True
        try:
            if hasattr(self.body, "close"):
                self.body.close()
        except BaseException:
            self.failed()
            raise
        finally:
            call, environ = self._call, self._environ
            call.close()
            seconds = time.monotonic() - call.began
            ended = call.outcome or (call.reason if self._ended == "client_gone" else None) or self._ended
            status = int(self._status[:3])
            self._report(Ended(environ, self._method, self._path, status, self._headers, self._sent, seconds, ended, call.waited))
            if call.body is not None and call.body.unread and self._ended == "ok" and call.client is not None:
                linger(call.client, shut=call.client_shut)
            call.body = None  # each holds the other

    __del__ = close
