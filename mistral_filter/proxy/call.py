"""One request's life in one object: when it began, what it waits for, what it holds, how it ended.

``Calls`` is the outermost wrapper of the application. It makes the Call, which every room finds with ``call_of(environ)``, and
closes it exactly once: when the server closes the response, when the application raises, or when the response is thrown away.

A Call knows nothing of its environ, and neither keeps an exception: a request is freed the moment it is over.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from mistral_filter.errors import BodyTimeout, ClientGone, MistralFilterError, UpstreamError
from mistral_filter.proxy import sockets
from mistral_filter.proxy.body import RequestBody
from mistral_filter.proxy.budget import Budget, Held

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Call", "Calls", "Ended", "Timeouts", "call_of", "close_connection", "has_call", "note_outcome"]

_KEY = "mistral_filter.call"

_LAST_WORDS_SECONDS = 1.0
"""For the client to read what it is being sent when everything else about its call is over."""

_LINGER_BYTES = 64 * 1024 * 1024
_LINGER_SECONDS = 10.0
_LINGER_SILENCE_SECONDS = 1.0
_LINGER_LOOK_SECONDS = 0.05
_PIECE = 65536

close_connection: ContextVar[Callable[[], None] | None] = ContextVar("close_connection", default=None)
"""Has the server close the client's connection after the response, where the server offers that (see ``proxy/gunicorn.py``)."""


class Timeouts(NamedTuple):
    """How long a call may wait, in seconds; None is no limit."""

    total: float | None = None
    """From the request to the end of the answer."""
    send: float | None = None
    """For the client to take the next piece of the answer."""
    body: float | None = None
    """For a body that is read whole, or for the next piece of one that is streamed up."""


NO_TIMEOUTS = Timeouts()

_OVERDUE = {
    "body": "body_timeout",
    "client": "client_slow",
    "connection": "upstream_connect_timeout",
    "upstream": "upstream_timeout",
}
"""What a call waits for: the error code when that takes too long."""


class Call:
    """One request to the application, from its head to the end of its answer.

    The request's own thread or greenlet says what it waits for; the watcher ends a wait that takes too long, or whose client has
    left, by shutting the socket down and setting ``reason``. ``check`` raises it.
    """

    __slots__ = (
        "_budget",
        "_client_left",
        "_counted",
        "_has_answered",
        "_lock",
        "_total_until",
        "_upstream",
        "_waits_for",
        "_wake",
        "answered_early",
        "began",
        "body",
        "client",
        "client_shut",
        "credentials",
        "held",
        "outcome",
        "reason",
        "timeouts",
        "until",
        "waited",
    )

    def __init__(self, client: Any = None, *, budget: Budget | None = None, timeouts: Timeouts = NO_TIMEOUTS) -> None:
        self.began = time.monotonic()
        self.client = client
        self.timeouts = timeouts
        self.held: Held | None = None if budget is None else Held(budget)
        """What of the request's body is in memory."""
        self.body: RequestBody | None = None
        self.credentials: str | None = None
        """What the caller authorizes with, once it was judged from the head."""
        self.outcome: str | None = None
        """The error code with which the call ended; None: as it should."""
        self.reason: str | None = None
        """The error code for which the watcher ended a wait."""
        self.answered_early = False
        """The upstream has answered an upload that the client has not finished."""
        self.client_shut = False
        """The client's socket was shut down for reading: it looks as if the client had closed it."""
        self.waited = 0.0
        """Seconds that it has paused."""
        self.until = self._total_until = math.inf if timeouts.total is None else self.began + timeouts.total
        self._waits_for = ""
        self._client_left = False
        self._has_answered: Callable[[], bool] | None = None
        self._upstream: Any = None
        self._wake: threading.Event | None = None
        self._budget, self._counted = budget, False
        self._lock = sockets.brief_lock()

    # ------------------------------------------------------------------------------------------------------ what it waits for

    def waits_for_body(self, until: float) -> None:
        """The request waits for the client's body, *until* this time at most."""
        self._wait("body", until)

    def waits_for_upstream(self, until: float) -> None:
        """The request waits for the upstream, which may be silent *until* this time."""
        if self._client_left and self.reason is None:
            self._end("client_gone")
        self._wait("upstream", until)

    def waits_for_client(self) -> None:
        """The client is being sent something, for which it has its time."""
        seconds = self.timeouts.send
        if self.reason is not None:
            seconds = _LAST_WORDS_SECONDS if seconds is None else min(seconds, _LAST_WORDS_SECONDS)
        self._wait("client", math.inf if seconds is None else time.monotonic() + seconds)

    def waits_to_connect(self, until: float) -> None:
        """The request waits for a connection to the upstream, *until* this time at most."""
        if self._client_left and self.reason is None:
            self._end("client_gone")
        self._wait("connection", until)

    def pause(self, seconds: float) -> None:
        """Waits for so many *seconds*; raises what ends the call meanwhile, at once: ClientGone or UpstreamError."""
        wake = threading.Event()
        with self._lock:
            self._wake = wake
            if self.reason is not None:
                wake.set()
        began = time.monotonic()
        self.waits_for_upstream(math.inf)
        wake.wait(seconds)
        self.waited += time.monotonic() - began
        self._wake = None
        self.works()
        self.check()

    def works(self) -> None:
        """The request waits for nothing."""
        self._wait("", math.inf)

    def _wait(self, what: str, until: float) -> None:
        self._waits_for = what
        self.until = until if self.reason is not None or until < self._total_until else self._total_until

    def remaining(self, seconds: float) -> float:
        """How much of *seconds* there is, given the total timeout."""
        return seconds if self._total_until == math.inf else min(seconds, max(self._total_until - time.monotonic(), 0.001))

    def check(self) -> None:
        """Raises the error for which a wait was ended, if one was: BodyTimeout, UpstreamError or ClientGone."""
        if self.reason is None:
            return
        if self.reason == "body_timeout":
            raise BodyTimeout
        if self.reason in ("client_gone", "client_slow"):
            raise ClientGone(code=self.reason)
        raise UpstreamError(self.reason)

    def attach(self, upstream: Any) -> None:
        """The request now waits for this socket. It has to be detached before another request can use it."""
        with self._lock:
            self._upstream = upstream
            if self.reason is not None:
                sockets.shut_down(upstream, socket.SHUT_RDWR)

    def detach(self) -> None:
        """The request no longer waits for its upstream's socket."""
        with self._lock:
            self._upstream = None

    def begin_upload(self, has_answered: Callable[[], bool]) -> None:
        """The request passes its body on piece by piece; *has_answered* says whether the upstream has begun to answer."""
        self._has_answered = has_answered
        sockets.every_interval(self._look_for_answer)

    def end_upload(self) -> None:
        """The body has gone up, or the upstream wants no more of it."""
        self._has_answered = None

    # ---------------------------------------------------------------------------------------------------------- the watcher's

    def overdue(self, now: float) -> None:
        """The deadline has passed: ends the wait."""
        waits_for, until = self._waits_for, math.inf
        if self.reason is None:
            late = now > self._total_until
            self._end("upstream_deadline" if late else _OVERDUE.get(waits_for, "upstream_deadline"))
            if late and waits_for == "client":
                until = now + _LAST_WORDS_SECONDS
        self.until = until
        if waits_for == "body":
            self._shut_client()
        elif waits_for == "client" and until == math.inf:
            sockets.shut_down(self.client, socket.SHUT_RDWR)

    def client_left(self, now: float) -> None:
        """The client has closed its side of the connection. A body that is being read says so by itself."""
        if self.client_shut:  # by the watcher itself
            return
        self._client_left = True
        if self.reason is None and self._waits_for != "body":
            self._end("client_gone")
            self.until = now + _LAST_WORDS_SECONDS if self._waits_for == "client" else math.inf

    def _look_for_answer(self, _now: float) -> bool:
        """A chore of the watcher while an upload goes up: an answer ends the wait for the client's next piece."""
        has_answered = self._has_answered
        if has_answered is None:
            return False
        if self._waits_for == "body" and has_answered():
            self.answered_early = True
            self._shut_client()
            return False
        return True

    def _shut_client(self) -> None:
        self.client_shut = True
        sockets.shut_down(self.client, socket.SHUT_RD)  # the response can still be written

    def _end(self, reason: str) -> None:
        with self._lock:
            self.reason = reason
            sockets.shut_down(self._upstream, socket.SHUT_RDWR)
            if self._wake is not None:
                self._wake.set()

    # --------------------------------------------------------------------------------------------------- its place, and its end

    def take_place(self) -> None:
        """Counts the call among those under way, once; raises Overloaded."""
        if self._budget is not None and not self._counted:
            self._budget.take_call()
            self._counted = True

    def release_body(self) -> None:
        """The body is no longer in memory."""
        if self.held is not None and self.held.any:
            self.held.release()

    def close(self) -> None:
        """Gives back what the call holds. It may be called again."""
        sockets.unwatch(self)
        self.release_body()
        if self._counted:
            self._counted = False
            assert self._budget is not None
            self._budget.return_call()


def call_of(environ: WSGIEnvironment) -> Call:
    """The call that *environ* belongs to: the one that Calls made, or an unlimited one where no Calls is in front."""
    call = environ.get(_KEY)
    if call is None:
        call = environ[_KEY] = Call(environ.get("gunicorn.socket"))
    assert isinstance(call, Call)
    return call


def has_call(environ: WSGIEnvironment) -> bool:
    """Whether a call was made of *environ* already."""
    return _KEY in environ


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
        call = environ[_KEY] = Call(environ.get("gunicorn.socket"), budget=self._budget, timeouts=self._timeouts)
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
            if call.body is not None and call.body.unread and self._ended == "ok":
                _linger(call)
            call.body = None  # each holds the other

    __del__ = close


def _linger(call: Call) -> None:
    """Reads away what a client still sends after its response, within bounds: closing at once could cost it the response."""
    client = call.client
    if client is None:
        return
    sockets.shut_down(client, socket.SHUT_WR)
    left, now = _LINGER_BYTES, time.monotonic()
    end, silent = now + _LINGER_SECONDS, now + _LINGER_SILENCE_SECONDS
    with contextlib.suppress(OSError, ValueError):
        # a socket that was shut down for reading never waits, and does not tell an end from a silence
        client.settimeout(0 if call.client_shut else _LINGER_SILENCE_SECONDS)
        while left > 0 and now < end and now < silent:
            try:
                piece = client.recv(_PIECE)
            except (BlockingIOError, ssl.SSLWantReadError):
                piece = b""
            now = time.monotonic()
            if piece:
                left, silent = left - len(piece), now + _LINGER_SILENCE_SECONDS
                sockets.let_others_run()
            elif call.client_shut:
                time.sleep(_LINGER_LOOK_SECONDS)
            else:
                return


def note_outcome(environ: WSGIEnvironment, error: MistralFilterError) -> None:
    """Says for the log that the request in *environ* ended with *error*, unless it is known already how it ended."""
    call = environ.get(_KEY)
    if isinstance(call, Call) and call.outcome is None:
        call.outcome = error.code
