"""One request's life in one object: when it began, what it waits for, what it holds, how it ended.

``calls`` makes the Call, which every room finds with ``call_of(environ)``, and closes it exactly once.

A Call knows nothing of its environ, and neither keeps an exception: a request is freed the moment it is over.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from mistral_filter.errors import BodyTimeout, ClientGone, MistralFilterError, UpstreamError
from mistral_filter.proxy import sockets
from mistral_filter.proxy.body import RequestBody
from mistral_filter.proxy.budget import Budget, Held

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["KEY", "NO_TIMEOUTS", "Call", "Timeouts", "call_of", "has_call", "note_outcome"]

KEY = "mistral_filter.call"
"""Where in an environ its Call is."""

_LAST_WORDS_SECONDS = 1.0
"""For the client to read what it is being sent when everything else about its call is over."""


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
    call = environ.get(KEY)
    if call is None:
        call = environ[KEY] = Call(environ.get("gunicorn.socket"))
    assert isinstance(call, Call)
    return call


def has_call(environ: WSGIEnvironment) -> bool:
    """Whether a call was made of *environ* already."""
    return KEY in environ


def note_outcome(environ: WSGIEnvironment, error: MistralFilterError) -> None:
    """Says for the log that the request in *environ* ended with *error*, unless it is known already how it ended."""
    call = environ.get(KEY)
    if isinstance(call, Call) and call.outcome is None:
        call.outcome = error.code
