"""Watching the sockets of a request while its own thread or greenlet waits for something else.

A server tells an application nothing of a client that left, that stops reading, or that drips its body; and a read from
an upstream knows silence only, no deadline. One watcher per process looks at all requests several times a second and shuts
down the socket that the request waits for; the request then finds the reason in ``Watch.reason``.

It needs the server's socket (gunicorn's ``environ["gunicorn.socket"]``) and Linux's POLLRDHUP; without them nothing is
watched, and the read timeouts are what remains.
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
from collections.abc import Iterator
from typing import Any

__all__ = ["Watch", "reset_when_closed", "watching"]

_log = logging.getLogger("mistral_filter")

_INTERVAL_SECONDS = 0.25
_LAST_WORDS_SECONDS = 1.0
"""For the client to take what it is being sent when everything else about the request is over."""
_RDHUP = getattr(select, "POLLRDHUP", 0)


class Watch:
    """One request. Its own thread sets what it waits for; the watcher sets ``reason`` and shuts a socket down."""

    __slots__ = ("_lock", "_upstream", "client", "reason", "receiving_until", "sending_until", "total_until")

    def __init__(self, client: socket.socket | None) -> None:
        self.client = client
        self._upstream: Any = None
        self._lock = threading.Lock()
        self.reason: str | None = None
        """Why a socket was shut down: ``client_gone``, ``client_slow``, ``body_timeout`` or ``total_timeout``."""
        self.receiving_until: float | None = None
        """The monotonic time until which the client's body may take."""
        self.sending_until: float | None = None
        """The monotonic time until which the client may take to read what it is being sent."""
        self.total_until: float | None = None
        """The monotonic time until which the upstream may take."""

    def attach(self, upstream: Any) -> None:
        """The request now waits for this socket. It must be detached before another request can use it."""
        with self._lock:
            self._upstream = upstream
            if self.reason is not None:
                _shut(upstream, socket.SHUT_RDWR)

    def detach(self) -> None:
        """The request no longer waits for its upstream socket."""
        with self._lock:
            self._upstream = None

    def look(self, now: float, hung_up: bool) -> None:
        """The watcher's glance: *hung_up* says that the client closed its side of the connection."""
        late = self.total_until is not None and now > self.total_until
        if self.reason is None:
            if late:
                self._end("total_timeout")
            elif self.receiving_until is not None:
                if now > self.receiving_until:
                    self._end("body_timeout")
            elif hung_up:
                self._end("client_gone")
            if self.reason is not None:
                if self.receiving_until is not None:
                    _shut(self.client, socket.SHUT_RD)  # the answer can still be written
                if (until := self.sending_until) is not None:
                    self.sending_until = min(until, now + _LAST_WORDS_SECONDS)
        if self.sending_until is not None and now > self.sending_until:
            if self.reason is None:
                self._end("client_slow")
            _shut(self.client, socket.SHUT_RDWR)

    def _end(self, reason: str) -> None:
        with self._lock:
            self.reason = reason
            if self._upstream is not None:
                _shut(self._upstream, socket.SHUT_RDWR)


def _shut(sock: Any, how: int) -> None:
    """Shuts *sock* down below TLS and below gevent, whose own ways would disturb who is waiting for it; None: there is none."""
    if sock is None:
        return
    inner = getattr(sock, "_sock", None)
    with contextlib.suppress(OSError):
        if inner is not None:
            inner.shutdown(how)
        else:
            socket.socket.shutdown(sock, how)


def reset_when_closed(client: Any) -> None:
    """The *client*'s connection will end with a reset: where no framing tells a cut answer from a whole one, that does."""
    if client is not None:
        with contextlib.suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _Watcher:
    """The one watcher of a process."""

    def __init__(self) -> None:
        self._watches: dict[int, Watch] = {}
        self._busy = threading.Event()
        self._started = False

    def add(self, watch: Watch) -> None:
        self._watches[id(watch)] = watch
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name="mistral-filter-watch", daemon=True).start()
        self._busy.set()

    def remove(self, watch: Watch) -> None:
        self._watches.pop(id(watch), None)

    def _run(self) -> None:
        while True:
            self._busy.wait()
            time.sleep(_INTERVAL_SECONDS)
            watches = list(self._watches.values())
            if not watches:
                self._busy.clear()
                if self._watches:  # one came in between
                    self._busy.set()
                continue
            gone = _hung_up(watches)
            now = time.monotonic()
            for watch in watches:
                try:
                    watch.look(now, id(watch) in gone)
                except Exception as error:  # whatever is wrong with one socket: the others are still watched
                    _log.error("watching failed: %s", type(error).__name__)


def _hung_up(watches: list[Watch]) -> set[int]:
    """The ids of those watches whose client closed its side, found with one system call."""
    if not _RDHUP:
        return set()
    poll = _poll()
    by_fd: dict[int, list[int]] = {}
    for watch in watches:
        fd = -1 if watch.client is None else watch.client.fileno()
        if fd >= 0:
            by_fd.setdefault(fd, []).append(id(watch))
            poll.register(fd, _RDHUP)
    return {i for fd, _ in poll.poll(0) for i in by_fd[fd]}


def _poll() -> Any:
    """The system's poll: gevent's stand-in for it knows no POLLRDHUP, and with a timeout of 0 there is nothing to wait for."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original("select", "poll")() if monkey is not None else select.poll()


# Made at first use in each process, without a lock: one that was made before gevent patched threading would stop everybody.
_own: dict[str, _Watcher] = {}
os.register_at_fork(after_in_child=_own.clear)


def _own_watcher() -> _Watcher:
    return _own.get("watcher") or _own.setdefault("watcher", _Watcher())


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[Watch]:
    """Has *watch* looked after while the context lasts."""
    start(watch)
    try:
        yield watch
    finally:
        stop(watch)


def start(watch: Watch) -> None:
    """Begins to look after *watch*, if there is anything to look at."""
    if watch.client is not None or watch.total_until is not None:
        _own_watcher().add(watch)


def stop(watch: Watch) -> None:
    """Stops looking after *watch*."""
    if (watcher := _own.get("watcher")) is not None:
        watcher.remove(watch)
