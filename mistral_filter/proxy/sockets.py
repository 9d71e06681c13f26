"""Watches the sockets and deadlines of all calls under way. The only file of the proxy that knows gevent.

A server tells an application nothing about a client that left or stopped reading, and a blocking read knows no deadline but its
own. So one watcher per process looks at every call four times a second: it compares the call's deadline with the clock, asks the
kernel which clients closed their side (one system call for all of them), and shuts down the socket that a call waits for. The
call then wakes, finds the reason in its own state, and answers. No wait has a timer of its own.

Hang-ups are seen on Linux (EPOLLRDHUP) and where the server shows its socket (gunicorn's ``environ["gunicorn.socket"]``);
deadlines work everywhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

__all__ = [
    "INTERVAL",
    "Readiness",
    "Watched",
    "brief_lock",
    "every_interval",
    "let_others_run",
    "new_poll",
    "readiness",
    "reset",
    "send_all",
    "shut_down",
    "take_turns",
    "unwatch",
    "watch",
]

INTERVAL = 0.25
"""Seconds between two looks. A deadline is met that much late at most."""

_log = logging.getLogger("mistral_filter")

_RDHUP = getattr(select, "EPOLLRDHUP", 0)


class Watched(Protocol):
    """What the watcher looks at. Times are of ``time.monotonic()``."""

    client: Any
    """The client's socket, or None where the server does not show it."""
    until: float
    """When the deadline of the current wait passes; ``math.inf`` for none."""

    def overdue(self, now: float) -> None:
        """Called when ``until`` has passed. It moves ``until``, or is called again."""

    def client_left(self, now: float) -> None:
        """Called once, when the client has closed its side of the connection."""


@cache
def _original(module: str, name: str) -> Any:
    """A name of the standard library as it is without gevent's patches; the same before them and after."""
    monkey = sys.modules.get("gevent.monkey")
    return getattr(sys.modules[module], name) if monkey is None else monkey.get_original(module, name)


def let_others_run() -> None:
    """Gives way to the other requests of this worker: greenlets and threads alike."""
    time.sleep(0)


class _Turns:
    """Whether a request has given way to the others, by waiting, since that was last asked."""

    given = False


_turns = _Turns()


def take_turns() -> None:
    """Gives way to the other requests of this worker, unless one has waited since the last time: all had their turn then."""
    if _turns.given:
        _turns.given = False
    else:
        let_others_run()


def brief_lock() -> Any:
    """A lock for a few statements that never wait.

    gevent's stand-in costs several times as much and is not needed there: no other greenlet runs before the lock is free again.
    """
    return _original("threading", "Lock")()


class Readiness:
    """Waits until a socket has something to read, with one event for the life of the socket.

    gevent's own reads try first, fail, and make an exception of it; what is waited for is nearly never there yet.
    """

    __slots__ = ("_event", "_hub")

    def __init__(self, sock: Any) -> None:
        from gevent import get_hub  # here: without gevent this class is not used

        self._hub = get_hub()
        self._event = self._hub.loop.io(sock.fileno(), 1)

    def wait(self) -> None:
        """Returns when there is something to read, or the end."""
        _turns.given = True
        self._hub.wait(self._event)

    def close(self) -> None:
        """Lets the event go; before the socket is closed."""
        self._event.close()


def new_poll(sock: Any) -> Any:
    """A poll object that says, with ``poll(0)``, whether *sock* has something to read or has ended."""
    poll = _original("select", "poll")()
    poll.register(sock.fileno(), select.POLLIN)
    return poll


def readiness(sock: Any) -> Readiness | None:
    """The Readiness of *sock*; None where a plain read waits as well."""
    monkey = sys.modules.get("gevent.monkey")
    return Readiness(sock) if monkey is not None and monkey.is_module_patched("socket") else None


def shut_down(sock: Any, how: int) -> None:
    """Shuts *sock* down (``socket.SHUT_RD`` …) below TLS and below gevent; nothing happens if it is None or closed.

    The request that waits for the socket wakes as if the other side had closed it. ``SSLSocket.shutdown`` would take the TLS
    state away from a request that may be reading, and gevent's would raise into it.
    """
    if sock is None:
        return
    with contextlib.suppress(OSError, ValueError):
        descriptor = sock.fileno()
        if descriptor >= 0:
            same = _original("socket", "socket")(fileno=descriptor)
            try:
                same.shutdown(how)
            finally:
                same.detach()


def send_all(sock: Any, data: bytes) -> None:
    """Sends *data*. Nearly always one call to the system does; gevent's ``sendall`` asks for the size of a buffer first."""
    sent = sock.send(data)
    if sent < len(data):
        sock.sendall(memoryview(data)[sent:])


def reset(client: Any) -> None:
    """Resets the connection of *client* at once: where no framing tells a cut answer from a whole one, that does.

    gunicorn's threads and sync workers end a connection before they close it, which looks clean whatever follows. So the
    connection is taken away from the socket, which is left with one that never was connected.

    Over a Unix socket the client sees an end: on Linux only what was sent to this side and never read makes that a reset.
    """
    if client is not None:
        with contextlib.suppress(OSError, ValueError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with _original("socket", "socket")() as other:
                os.dup2(other.fileno(), client.fileno(), inheritable=False)


class _Watcher:
    """The one watcher of a process."""

    def __init__(self) -> None:
        self._calls: dict[int, Watched] = {}
        self._young: dict[int, Watched] = {}
        """Calls since the last look. Most end before the next one, and cost no system call."""
        self._clients: dict[int, Watched] = {}
        """By descriptor: the calls whose client is registered with the poll object."""
        self._poll = _original("select", "epoll")() if _RDHUP else None
        self._chores: dict[Callable[[float], bool], None] = {}
        self._busy = threading.Event()
        self._start = brief_lock()
        """Held once the thread was started. Starting it lets other calls run, which must not start another."""

    def add(self, call: Watched) -> None:
        self._young[id(call)] = call
        self._wake()

    def _wake(self) -> None:
        if self._start.acquire(blocking=False):
            try:
                threading.Thread(target=self._run, name="mistral-filter-sockets", daemon=True).start()
            except BaseException:  # no thread is to be had now; the next call tries again
                self._start.release()
                raise
        if not self._busy.is_set():
            self._busy.set()

    def remove(self, call: Watched) -> None:
        if self._young.pop(id(call), None) is None and self._calls.pop(id(call), None) is not None:
            self._forget_client(call)

    def every_interval(self, chore: Callable[[float], bool]) -> None:
        if chore not in self._chores:
            self._chores[chore] = None
            self._wake()

    def _run(self) -> None:
        while True:
            self._busy.wait()
            time.sleep(INTERVAL)
            try:
                self._look(time.monotonic())
            except Exception as error:  # whatever is wrong with one socket, the others are still watched
                _log.error("watching failed: %s", type(error).__name__)
            if not (self._young or self._calls or self._chores):
                self._busy.clear()
                if self._young or self._chores:  # added in between
                    self._busy.set()

    def _look(self, now: float) -> None:
        # a call can end at any moment, in a thread of its own: it is always in one of the two, or ended
        for key, call in list(self._young.items()):
            self._calls[key] = call
            if self._young.pop(key, None) is None:
                self._calls.pop(key, None)
                continue
            self._register_client(call)
            if key not in self._calls:
                self._forget_client(call)
        for descriptor, _ in self._poll.poll(0) if self._poll is not None and self._clients else ():
            if (left := self._clients.get(descriptor)) is not None:
                self._forget_client(left)
                left.client_left(now)
        for late in [call for call in list(self._calls.values()) if call.until < now]:
            if self._calls.get(id(late)) is late:
                late.overdue(now)
        for chore in list(self._chores):
            del self._chores[chore]  # first: it may be asked for anew while it runs
            if chore(now):
                self._chores[chore] = None

    def _register_client(self, call: Watched) -> None:
        descriptor = -1 if call.client is None or self._poll is None else call.client.fileno()
        if descriptor < 0:
            return
        assert self._poll is not None
        with contextlib.suppress(OSError):
            try:
                self._poll.register(descriptor, _RDHUP)
            except FileExistsError:  # a call that ended in another way left it behind
                self._poll.modify(descriptor, _RDHUP)
            self._clients[descriptor] = call

    def _forget_client(self, call: Watched) -> None:
        descriptor = -1 if call.client is None or self._poll is None else call.client.fileno()
        if self._clients.get(descriptor) is call:
            del self._clients[descriptor]
            assert self._poll is not None
            with contextlib.suppress(OSError):
                self._poll.unregister(descriptor)
        elif descriptor < 0:  # closed: the kernel has forgotten it already
            for known, other in list(self._clients.items()):
                if other is call:
                    del self._clients[known]


# Made at first use in each process, without a lock: a lock made before gevent patched threading would stop the whole worker.
_own: dict[str, _Watcher] = {}
os.register_at_fork(after_in_child=_own.clear)


def _watcher() -> _Watcher:
    return _own.get("watcher") or _own.setdefault("watcher", _Watcher())


def watch(call: Watched) -> None:
    """Begins to look at *call*."""
    _watcher().add(call)


def unwatch(call: Watched) -> None:
    """Stops looking at *call*."""
    if (watcher := _own.get("watcher")) is not None:
        watcher.remove(call)


def every_interval(chore: Callable[[float], bool]) -> None:
    """Calls *chore* with the time at every look until it returns False. A chore that is there already is not added again."""
    _watcher().every_interval(chore)
