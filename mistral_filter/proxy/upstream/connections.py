"""Connections to an upstream, each of which serves the requests of one caller, one after the other.

urllib3 does the work; what is added here keeps one caller's bytes from another, and one answer's from the next. It overrides
methods of urllib3's that are private by name, because there is no other place: the tests of every fault say whether a new
version still fits.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from mistral_filter.proxy.upstream.reading import Answer, StaleConnection
from mistral_filter.watch import Watch

__all__ = ["Adapter", "Headers"]

_IDLE_SECONDS = 20.0
"""Pooled connections idle for longer are dropped: before the other side does it while a request is on its way."""

_KEPT = 1
"""Idle connections kept for that long; after a burst the others go soon, so that nothing is left of it."""

_REAP_SECONDS = 0.75

_REST_SECONDS = 0.03
"""A connection rests for so long before its next request: what comes after a complete answer is seen before it could be taken
for the next one. Nobody waits: there is another connection, or a new one."""


class Headers(dict[str, str]):
    """A request's headers, and with them what the connection that gets it has to know: the request's Watch, and the caller."""

    watch: Watch | None = None
    caller: str | None = None

    def copy(self) -> Headers:
        """urllib3 sends a copy."""
        headers = Headers(self)
        headers.watch, headers.caller = self.watch, self.caller
        return headers


class _Shared:
    """Mixed into urllib3's connections: one that has been idle for long counts as closed; one in use is watched.

    A request that met a connection which the other side had just closed is sent once more, on a fresh one.
    """

    idle_since: float | None = None
    watch: Watch | None = None
    caller: str | None = None
    retired = False
    sock: Any
    _tunnel_host: str | None
    _again: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self._attach()

    def request(self, *args: Any, body: Any = None, headers: Any = None, **kwargs: Any) -> None:
        self.watch = getattr(headers, "watch", None)
        self._attach()
        reused = self.sock is not None
        super().request(*args, body=body, headers=headers, **kwargs)  # type: ignore[misc]
        # (a tunnel is forgotten with the connection that it was for)
        repeatable = reused and isinstance(body, (bytes, type(None))) and not self._tunnel_host
        self._again = (args, {**kwargs, "body": body, "headers": headers}) if repeatable else None

    def getresponse(self) -> Any:
        again, self._again = self._again, None
        try:
            return super().getresponse()  # type: ignore[misc]
        except StaleConnection:
            if again is None:
                raise
        super().request(*again[0], **again[1])  # type: ignore[misc]
        return super().getresponse()  # type: ignore[misc]

    def _attach(self) -> None:
        if self.watch is not None and self.sock is not None:
            self.watch.attach(self.sock)

    @property
    def is_connected(self) -> bool:
        if self.idle_since is not None and time.monotonic() - self.idle_since > _IDLE_SECONDS:
            return False
        return self.sock is not None and _quiet(self.sock)


def _quiet(sock: Any) -> bool:
    """Whether an idle connection is open and has nothing to say: urllib3's question, without the cost of gevent's poll."""
    inner = getattr(sock, "_sock", None)  # gevent's own, which never blocks
    try:
        if inner is not None:
            inner.recv(1, socket.MSG_PEEK)
        else:
            timeout = sock.gettimeout()
            sock.settimeout(0)
            try:
                socket.socket.recv(sock, 1, socket.MSG_PEEK)  # below TLS
            finally:
                sock.settimeout(timeout)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False  # the end, or bytes that nobody asked for


class _HTTPConnection(_Shared, urllib3.connection.HTTPConnection):
    response_class = Answer


class _HTTPSConnection(_Shared, urllib3.connection.HTTPSConnection):
    response_class = Answer


class _Returning:
    """Mixed into urllib3's pools: keeps the idle connections, the one that has rested longest is next, and none for long.

    A connection is one caller's for as long as it lives: whatever an upstream may send too much or too late, it is never
    another caller's answer. A connection that comes back is no longer its last request's.
    """

    def __init__(self, *args: Any, maxsize: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, maxsize=1, **kwargs)  # type: ignore[call-arg]
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._room = maxsize
        self._reaping = False
        self._asking = threading.local()

    def urlopen(self, method: str, url: str, body: Any = None, headers: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Notes who asks: urllib3 chooses the connection without its headers."""
        self._asking.caller = headers.caller
        return super().urlopen(method, url, body, headers, *args, **kwargs)  # type: ignore[misc]

    def _get_conn(self, timeout: float | None = None) -> Any:
        caller = self._asking.caller
        while True:
            rested = time.monotonic() - _REST_SECONDS
            with self._lock:
                places = (place for place, conn in enumerate(self._idle) if conn.caller == caller and conn.idle_since < rested)
                place = next(places, None)
                conn = None if place is None else self._idle.pop(place)
            if conn is None:
                conn = self._new_conn()  # type: ignore[attr-defined]
                conn.caller = caller
                return conn
            if conn.is_connected:
                return conn
            conn.close()

    def _put_conn(self, conn: Any) -> None:
        if conn is None:
            return
        if conn.watch is not None:
            conn.watch.detach()
            conn.watch = None
        if conn.retired or conn.is_closed or len(self._idle) >= self._room:
            conn.close()
            return
        conn.idle_since = time.monotonic()
        with self._lock:
            self._idle.append(conn)
            reap, self._reaping = not self._reaping, True
        if reap:
            self._reap_later()

    def close(self) -> None:
        """Closes the idle connections."""
        with self._lock:
            closing, self._idle = self._idle, []
        for conn in closing:
            conn.close()
        super().close()  # type: ignore[misc]

    def _reap_later(self) -> None:
        timer = threading.Timer(_REAP_SECONDS, self._reap)
        timer.daemon = True
        timer.start()

    def _reap(self) -> None:
        """Closes what has been idle: after a burst all but the last at once, that one before the other side might do it."""
        now = time.monotonic()
        with self._lock:
            spare = len(self._idle) - _KEPT
            kept: list[Any] = []
            closing: list[Any] = []
            for place, conn in enumerate(self._idle):
                goes = (place < spare and now - conn.idle_since > _REAP_SECONDS) or not conn.is_connected
                (closing if goes else kept).append(conn)
            self._idle = kept
            self._reaping = again = bool(kept)
        for conn in closing:
            conn.close()
        if again:
            self._reap_later()


class _HTTPPool(_Returning, urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(_Returning, urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class Adapter(HTTPAdapter):
    """requests' transport with these connections, to one upstream, directly or through a proxy.

    What requests works out for every request anew (the pool, a response's cookies and encoding) is the same each time, or wanted
    by nobody.
    """

    _connections: Any = None

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """The one pool."""
        if self._connections is None:
            self._connections = super().get_connection_with_tls_context(*args, **kwargs)
        return self._connections

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> Any:
        """What came, without the wrapping."""
        return resp

    def request_url(self, request: Any, proxies: Any) -> Any:
        """The target as it was prepared; a proxy for plain requests wants the whole of it."""
        if proxies:
            return super().request_url(request, proxies)
        return request.url[request.url.index("/", 8) :]

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """The pools for direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """The pools for connections through *proxy*."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager
