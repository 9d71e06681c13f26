"""One upstream: its address, its connections, and what can go wrong on the way there and back.

The only file that imports ``requests``. Strategy: one session per process, made at first use (a session that was used
before a fork hands one caller's answer to another). Requests are prepared by hand from constants, so nothing of the
caller's but the allowed headers reaches the wire. No retries, redirects, cookies, environment proxies or .netrc.
"""

from __future__ import annotations

import contextlib
import email.errors
import errno
import http.client
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.util.wait import wait_for_read

from mistral_filter.errors import BadRequest, BodyTimeout, ClientGone, UpstreamError
from mistral_filter.watch import Watch

__all__ = ["Reply", "RequestBody", "Upstream"]

RequestBody = bytes | Iterator[bytes] | None

_IDLE_SECONDS = 20.0
"""Pooled connections idle for longer are dropped: before the other side does it while a request is on its way."""

_POOL = 1000
"""Idle connections kept; there is no limit to those in use."""

_MAX_INTERIM = 20
_QUERY_SAFE = "!$&'()*+,;=:@/?%-._~[]"
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_NOT_OURS = frozenset(
    # hop-by-hop (RFC 9110, 7.6.1)
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade "
    # what our own server says of itself
    "date server "
    # what would speak for the upstream's host under our name
    "set-cookie set-cookie2 strict-transport-security alt-svc clear-site-data nel report-to reporting-endpoints "
    "public-key-pins expect-ct".split()
)


class Reply(NamedTuple):
    """The head of an upstream's answer, checked, and the way to its body."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    """What may be passed on, in order."""
    raw: urllib3.BaseHTTPResponse
    length: int | None
    """The declared number of body bytes."""
    watch: Watch
    silence: float
    """Seconds of silence after which the body counts as broken."""

    def chunks(self, size: int = 65536, *, heartbeat: float | None = None) -> Iterator[bytes]:
        """The body as it arrives, at most *size* bytes a piece, content-encoding untouched.

        With *heartbeat*, an empty piece after each so many seconds of silence. Raises UpstreamError when the body breaks or
        ends early, ClientGone when the client left meanwhile. The connection goes back to the pool after the last byte, and
        is closed when the caller stops before that.
        """
        received, whole = 0, False
        try:
            while True:
                if heartbeat is not None:
                    yield from self._beats(heartbeat)
                piece = self.raw.read1(size, decode_content=False)
                if not piece:
                    break
                received += len(piece)
                yield piece
            _raise_reason(self.watch)  # a connection that was shut down looks like one that ended
            if self.length is not None and received != self.length:
                raise UpstreamError(502, "upstream_cut", "The answer from upstream was cut short.")
            whole = True
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            _raise_reason(self.watch)
            raise _broken_body(error) from None
        finally:
            if not whole:
                self.raw.close()

    def _beats(self, seconds: float) -> Iterator[bytes]:
        """Empty pieces until there is something to read. It waits without reading: a read that timed out cannot go on."""
        response = self.raw._original_response  # type: ignore[attr-defined]
        waited = 0.0
        while not response.has_bytes():
            step = min(seconds, self.silence - waited)
            if wait_for_read(response.sock, timeout=step):
                return
            waited += step
            if waited >= self.silence:
                raise UpstreamError(504, "upstream_timeout", "The upstream fell silent in the middle of its answer.")
            yield b""

    def close(self) -> None:
        """Gives the answer up."""
        self.raw.close()

    def retire(self) -> None:
        """Before the body is read: has the connection closed after it, so that the next request is on a fresh one."""
        if self.raw.connection is not None:
            self.raw.connection.retired = True  # type: ignore[attr-defined]


class Upstream:
    """Where requests go.

    *base* is ``https://host[:port]``, *connect_timeout* and *read_timeout* are seconds (the second is the longest silence
    between two bytes), *proxy* the URL of an HTTP proxy, *ca_bundle* the path of a file with trusted certificates, *key* this
    server's own key for it, where it has one.
    """

    def __init__(
        self,
        base: str,
        *,
        connect_timeout: float = 10.0,
        read_timeout: float = 600.0,
        proxy: str | None = None,
        ca_bundle: str | None = None,
        key: str | None = None,
    ) -> None:
        self.base = base.rstrip("/")
        self.key = key
        self._netloc = urlsplit(self.base).netloc
        self._timeout = (connect_timeout, read_timeout)
        self._proxies = {"http": proxy, "https": proxy} if proxy else {}
        self._verify = ca_bundle or True
        self._session: tuple[int, requests.Session] | None = None

    def send(
        self,
        method: str,
        path: str,
        query: str,
        headers: Iterable[tuple[str, str]],
        body: RequestBody,
        length: int | None = None,
        watch: Watch | None = None,
    ) -> Reply:
        """Sends one request and returns the head of the answer.

        *path* is canonical (``paths.locate``), *query* as it came, *headers* are allowed and valid, *length* is the number of
        bytes of a *body* that is an iterator (None: chunked), *watch* tells when to give up. Raises UpstreamError, ClientGone,
        or what the body's iterator raises.
        """
        if query:
            # one bare % would make urllib3 escape the others too
            query = "?" + _BARE_PERCENT.sub("%25", quote(query, safe=_QUERY_SAFE, encoding="latin-1"))
        url = self.base + path + query
        parts = urlsplit(url)
        if parts.netloc != self._netloc or not parts.path.endswith(path) or parts.fragment:
            raise BadRequest("The path cannot be forwarded.", code="bad_path")
        request = requests.PreparedRequest()
        request.method = method
        request.url = url
        request.headers = CaseInsensitiveDict(headers)
        request.body = body  # type: ignore[assignment]  # an iterator of bytes is fine
        if isinstance(body, bytes):
            length = len(body)
        if length is not None:
            request.headers["Content-Length"] = str(length)
        watch = watch or Watch(None)
        _waiting.watch = watch
        try:
            # the adapter itself: a session would read a redirect's body and prepare what comes next, follow it or not
            adapter = self._own_session().get_adapter(self.base)
            response = adapter.send(request, stream=True, timeout=self._timeout, verify=self._verify, proxies=self._proxies)
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, UnicodeError) as error:
            _raise_reason(watch)
            raise _failed(error) from None
        finally:
            _waiting.watch = None
        try:
            return _checked(response.raw, method, watch, self._timeout[1])
        except UpstreamError:
            response.raw.close()
            raise

    def _own_session(self) -> requests.Session:
        pid = os.getpid()
        if self._session is None or self._session[0] != pid:
            session = requests.Session()
            session.trust_env = False
            session.headers.clear()
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            for scheme in ("http://", "https://"):
                session.mount(scheme, _Adapter(pool_maxsize=_POOL))
            self._session = (pid, session)
        return self._session[1]


# -------------------------------------------------------------------------------------------------- answers worth trusting


def _checked(raw: Any, method: str, watch: Watch, silence: float) -> Reply:
    """The head of *raw*, or UpstreamError where it cannot be passed on safely."""
    status = raw.status
    if 300 <= status < 400 and status != 304:
        raise UpstreamError(502, "upstream_redirect", "The upstream answered with a redirect, which is not followed.")
    if not 200 <= status <= 599:
        raise _protocol()
    encodings = raw.headers.getlist("transfer-encoding")
    lengths = raw.headers.getlist("content-length")
    if _misread(raw) or (encodings and (lengths or [e.strip().lower() for e in encodings] != ["chunked"])):
        raise _protocol()
    if len(set(lengths)) > 1 or not all(value.isascii() and value.isdigit() for value in lengths):
        raise _protocol()
    dropped = _NOT_OURS | {name.strip().lower() for value in raw.headers.getlist("connection") for name in value.split(",")}
    headers = []
    for name, value in raw.headers.items():
        lower = name.lower()
        if lower in dropped or lower.startswith("access-control-") or (lower == "content-length" and status == 204):
            continue
        if _TOKEN.fullmatch(name) and _FIELD_VALUE.fullmatch(value):
            headers.append((name, value))
    reason = raw.reason if raw.reason and _FIELD_VALUE.fullmatch(raw.reason) else http.client.responses.get(status, "Unknown")
    bodiless = method == "HEAD" or status in (204, 304)
    return Reply(status, reason, headers, raw, int(lengths[0]) if lengths and not bodiless else None, watch, silence)


def _misread(raw: Any) -> bool:
    """Whether the parser stopped at a line that is no header, so that those after it (a Content-Length, say) are lost."""
    head = raw._original_response.msg
    harmless = (email.errors.StartBoundaryNotFoundDefect, email.errors.MultipartInvariantViolationDefect)
    return bool(head.get_payload()) or any(not isinstance(defect, harmless) for defect in head.defects)


def _protocol() -> UpstreamError:
    return UpstreamError(502, "upstream_protocol", "The upstream's answer is not valid HTTP.")


def _raise_reason(watch: Watch) -> None:
    """Raises the error for which the connection was given up on purpose, if it was."""
    if watch.reason == "total_timeout":
        raise UpstreamError(504, "upstream_deadline", "The upstream did not finish its answer in time.")
    if watch.reason == "body_timeout":
        raise BodyTimeout("The body fell silent for too long.")
    if watch.reason is not None:
        raise ClientGone("The client closed the connection.", code=watch.reason)


def _failed(error: BaseException) -> UpstreamError:
    """What an exception before the answer's head means. The order matters: some are subclasses of others."""
    chain = list(_chain(error))
    if isinstance(error, requests.ConnectTimeout):
        return UpstreamError(504, "upstream_connect_timeout", "The upstream did not accept a connection in time.")
    if isinstance(error, (requests.exceptions.ProxyError, requests.exceptions.SSLError)):
        return UpstreamError(502, "upstream_tls", "No secure connection to the upstream could be made.")
    if any(isinstance(e, urllib3.exceptions.NameResolutionError) for e in chain):
        return UpstreamError(502, "upstream_dns", "The upstream's host name could not be resolved.")
    if any(isinstance(e, urllib3.exceptions.NewConnectionError) for e in chain):
        return UpstreamError(502, "upstream_unreachable", "The upstream could not be reached.")
    if any(isinstance(e, (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)) for e in chain):
        return UpstreamError(504, "upstream_timeout", "The upstream did not answer in time.")
    if any(isinstance(e, (http.client.RemoteDisconnected, ConnectionError)) for e in chain):
        return UpstreamError(502, "upstream_disconnected", "The upstream closed the connection without an answer.")
    return _protocol()


def _broken_body(error: BaseException) -> UpstreamError:
    if any(isinstance(e, (urllib3.exceptions.ReadTimeoutError, TimeoutError)) for e in _chain(error)):
        return UpstreamError(504, "upstream_timeout", "The upstream fell silent in the middle of its answer.")
    return UpstreamError(502, "upstream_cut", "The answer from upstream was cut short.")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """*error*, what it wraps and what led to it."""
    seen: list[BaseException] = []
    todo = [error]
    while todo:
        e = todo.pop()
        if e is None or any(e is other for other in seen):
            continue
        seen.append(e)
        yield e
        todo += [e.__cause__, e.__context__, getattr(e, "reason", None)]
        todo += [arg for arg in e.args if isinstance(arg, BaseException)]
        todo = [item for item in todo if isinstance(item, BaseException)]


# ------------------------------------------------------------------------------------------- connections that can be shared


class _Lines:
    """A reader that remembers the last line read from it."""

    def __init__(self, fp: Any) -> None:
        self._fp = fp
        self.last = b""

    def readline(self, *limit: int) -> bytes:
        self.last = self._fp.readline(*limit)
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fp, name)


class _Response(http.client.HTTPResponse):
    """Reads on until the answer is final and its head whole, and spoils the connection if more came than one answer.

    The standard library takes any 1xx but 100 for the answer itself, and the next caller on the connection gets the real one.
    It takes a head that was cut between two lines for a whole one, too.
    """

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.sock = sock

    def begin(self) -> None:
        reader = self.fp
        self.fp = lines = _Lines(reader)  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            if self.fp is lines:  # type: ignore[comparison-overlap]
                self.fp = reader
        if lines.last not in (b"\r\n", b"\n"):
            raise http.client.HTTPException("the head was cut")

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_MAX_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200 or status == http.client.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("too many interim answers")

    def _close_conn(self) -> None:
        if self.fp is not None and not self.will_close and self.has_bytes():
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)  # is_connected will say so, and the pool opens another
        super()._close_conn()  # type: ignore[misc]

    def has_bytes(self) -> bool:
        """Whether bytes are there to be read at once, in a buffer or in the socket. True when there is nothing to wait for."""
        if self.fp is None:
            return True
        try:
            timeout = self.sock.gettimeout()
            self.sock.settimeout(0)
            try:
                return bool(self.fp.peek(1))
            finally:
                self.sock.settimeout(timeout)
        except (OSError, ValueError):  # nothing there yet, or the socket is closed already
            return False


_waiting = threading.local()
"""``watch``: the Watch of the request that this thread (or greenlet) is sending."""


class _Shared:
    """Mixed into urllib3's connections: one that has been idle for long counts as closed; one in use is watched."""

    idle_since: float | None = None
    watch: Watch | None = None
    retired = False
    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self._attach()

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._attach()
        super().request(*args, **kwargs)  # type: ignore[misc]

    def _attach(self) -> None:
        self.watch = getattr(_waiting, "watch", None)
        if self.watch is not None and self.sock is not None:
            self.watch.attach(self.sock)

    @property
    def is_connected(self) -> bool:
        if self.idle_since is not None and time.monotonic() - self.idle_since > _IDLE_SECONDS:
            return False
        return bool(super().is_connected)  # type: ignore[misc]


class _HTTPConnection(_Shared, urllib3.connection.HTTPConnection):
    response_class = _Response


class _HTTPSConnection(_Shared, urllib3.connection.HTTPSConnection):
    response_class = _Response


class _Returning:
    """Mixed into urllib3's pools: a connection that comes back is no longer its last request's."""

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.idle_since = time.monotonic()
            if conn.watch is not None:
                conn.watch.detach()
                conn.watch = None
            if conn.retired:
                conn.retired = False
                conn.close()
        super()._put_conn(conn)  # type: ignore[misc]


class _HTTPPool(_Returning, urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(_Returning, urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager


def broken_pipe() -> OSError:
    """To be raised into the server after the first byte: it closes the connection at once, unterminated, without a traceback."""
    return ConnectionResetError(errno.ECONNRESET, "the answer from upstream was cut short")
