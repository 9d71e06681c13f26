"""One upstream: its address, its connections, and what can go wrong on the way there and back.

This folder alone imports ``requests``. Strategy: one transport adapter per process, made at first use (one that was used before
a fork hands one caller's answer to another). Requests are prepared by hand from constants, so nothing of the caller's but
the allowed headers reaches the wire. There is no session: nobody here wants its redirects, cookies, environment proxies or
.netrc, and without it they cannot happen.
"""

from __future__ import annotations

import http.client
import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import requests
import urllib3
from urllib3.util.wait import wait_for_read

from mistral_filter.errors import BadRequest, UpstreamError
from mistral_filter.proxy.upstream.connections import Adapter, Headers
from mistral_filter.proxy.upstream.failures import broken_body, broken_pipe, failed, protocol, raise_reason
from mistral_filter.watch import Watch

__all__ = ["Reply", "RequestBody", "Upstream", "broken_pipe", "protocol", "raise_reason"]

RequestBody = bytes | Iterator[bytes] | None

_DIGITS = 18
"""Of a Content-Length, at most."""

_POOL = 1000
"""Idle connections kept; there is no limit to those in use."""

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
    "public-key-pins expect-ct "
    # what is ours to say
    "mistral-filter-changes".split()
)
_NOT_OURS_BEGIN = ("access-control-", "x-accel-", "x-sendfile")  # CORS is ours too; the others give orders to nginx and Apache


_forks = 0
"""How often this process's line has forked since this module was loaded: what was made before is the parent's."""


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


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
            raise_reason(self.watch)  # a connection that was shut down looks like one that ended
            if self.length is not None and received != self.length:
                raise UpstreamError("upstream_cut")
            whole = True
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise_reason(self.watch)
            raise broken_body(error) from None
        finally:
            if not whole:
                self.raw.close()

    def _beats(self, seconds: float) -> Iterator[bytes]:
        """Empty pieces until there is something to read. It waits without reading: a read that timed out cannot go on."""
        response = self.raw._original_response  # type: ignore[attr-defined]
        waited = 0.0
        while not response.ready():
            step = min(seconds, self.silence - waited)
            if wait_for_read(response.sock, timeout=step):
                if not (response.ready() or response.came):
                    return  # the end
                waited = 0.0
                continue
            waited += step
            if waited >= self.silence:
                raise UpstreamError("upstream_timeout", "The upstream fell silent in the middle of its answer.")
            yield b""

    def whole(self, limit: int) -> tuple[bytes, Iterator[bytes] | None]:
        """The body if it has no more than *limit* bytes; else its beginning and the rest. Raises what ``chunks`` raises."""
        chunks = self.chunks()
        pieces, size = [], 0
        for piece in chunks:
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                return b"".join(pieces), chunks
        return b"".join(pieces), None

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
        self._adapter: tuple[int, Adapter] | None = None

    def send(
        self,
        method: str,
        path: str,
        query: str,
        headers: Iterable[tuple[str, str]],
        body: RequestBody,
        length: int | None = None,
        watch: Watch | None = None,
        caller: str | None = None,
    ) -> Reply:
        """Sends one request and returns the head of the answer.

        *path* is canonical (``paths.locate``), *query* as it came, *headers* are allowed and valid, *length* is the number of
        bytes of a *body* that is an iterator (None: chunked), *watch* tells when to give up, *caller* is what tells callers
        apart: no two share a connection. Raises UpstreamError, ClientGone, or what the body's iterator raises.
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
        request.headers = own_headers = Headers(headers)  # type: ignore[assignment]
        request.body = body  # type: ignore[assignment]  # an iterator of bytes is fine
        if isinstance(body, bytes):
            length = len(body)
        if length is not None:
            request.headers["Content-Length"] = str(length)
        own_headers.watch = watch = watch or Watch(None)
        own_headers.caller = caller
        connect, silence = self._timeout
        if watch.total_until is not None:
            connect = min(connect, max(watch.total_until - time.monotonic(), 0.001))
        try:
            raw = self._own_adapter().send(
                request, stream=True, timeout=(connect, silence), verify=self._verify, proxies=self._proxies
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, UnicodeError) as error:
            raise_reason(watch)
            raise failed(error) from None
        try:
            return _checked(raw, method, watch, silence)
        except BaseException:
            raw.close()
            raise

    def _own_adapter(self) -> Adapter:
        if self._adapter is None or self._adapter[0] != _forks:
            self._adapter = (_forks, Adapter(pool_maxsize=_POOL))
        return self._adapter[1]


# -------------------------------------------------------------------------------------------------- answers worth trusting


def _checked(raw: Any, method: str, watch: Watch, silence: float) -> Reply:
    """The head of *raw*, or UpstreamError where it cannot be passed on safely."""
    status = raw.status
    if 300 <= status < 400 and status != 304:
        raise UpstreamError("upstream_redirect")
    if not 200 <= status <= 599:
        raise protocol()
    encodings = raw.headers.getlist("transfer-encoding")
    lengths = raw.headers.getlist("content-length")
    if encodings and (lengths or [e.strip().lower() for e in encodings] != ["chunked"]):
        raise protocol()
    if len(set(lengths)) > 1 or not all(value.isascii() and value.isdigit() and len(value) <= _DIGITS for value in lengths):
        raise protocol()
    dropped = {*_NOT_OURS} | {name.strip().lower() for value in raw.headers.getlist("connection") for name in value.split(",")}
    headers = []
    for name, value in raw.headers.items():
        lower = name.lower()
        if lower in dropped or lower.startswith(_NOT_OURS_BEGIN):
            continue
        if lower == "content-length":
            dropped.add(lower)  # once is enough
            if status == 204:
                continue
        if _TOKEN.fullmatch(name) and _FIELD_VALUE.fullmatch(value):
            headers.append((name, value))
    reason = raw.reason if raw.reason and _FIELD_VALUE.fullmatch(raw.reason) else http.client.responses.get(status, "Unknown")
    bodiless = method == "HEAD" or status in (204, 304)
    return Reply(status, reason, headers, raw, int(lengths[0]) if lengths and not bodiless else None, watch, silence)
