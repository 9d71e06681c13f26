"""One upstream: its address, its connections, and what can go wrong on the way there and back.

This folder alone imports ``requests``. Strategy: one transport per process, made at first use (one that was used before a fork
would hand one caller's answer to another). Requests are prepared by hand from constants, so nothing of the client's but the
allowed headers reaches the wire. There is no session: its redirects, cookies, environment proxies and .netrc are not wanted, and
without one they cannot happen.
"""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from mistral_filter.errors import NO_RETRY, BadRequest, MistralFilterError, Overloaded, UpstreamError
from mistral_filter.proxy.budget import Held
from mistral_filter.proxy.call import Call
from mistral_filter.proxy.upstream.body import Body
from mistral_filter.proxy.upstream.head import PLAIN_VALUE, Broken, Malformed
from mistral_filter.proxy.upstream.transport import Answer, Transport, TransportError, UpstreamRequest

__all__ = ["Reply", "RequestBody", "Upstream"]

RequestBody = bytes | Iterator[bytes] | None

_PATH = re.compile(r"/v1(/[A-Za-z0-9._~:-]+)*")
_QUERY_SAFE = "!$&'()*+,;=:@/?%-._~[]"
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")

_NOT_PASSED_ON = frozenset(
    # hop-by-hop (RFC 9110, 7.6.1)
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade "
    # what the client's server says of itself
    "date server "
    # what would speak for the upstream's host under this server's name
    "set-cookie set-cookie2 strict-transport-security alt-svc clear-site-data nel report-to reporting-endpoints "
    "public-key-pins expect-ct "
    # what this proxy says
    "mistral-filter-changes".split()
)
_NOT_PASSED_ON_BEGIN = (
    "access-control-",
    "x-accel-",
    "x-sendfile",
)  # CORS is this proxy's; the others give orders to nginx and Apache


class Upstream:
    """Where requests go.

    *base* is ``https://host[:port]``, *connect_timeout* and *read_timeout* are seconds (the second is the longest silence
    between two bytes), *proxy* the URL of an HTTP proxy, *ca_bundle* the path of a file with trusted certificates, *setting*
    the name of the setting that says *base*, for messages.
    """

    def __init__(
        self,
        base: str,
        *,
        connect_timeout: float = 10.0,
        read_timeout: float = 600.0,
        proxy: str | None = None,
        ca_bundle: str | None = None,
        setting: str = "MISTRAL_FILTER_UPSTREAM",
    ) -> None:
        self.base = base.rstrip("/")
        self._connect_timeout, self._read_timeout = connect_timeout, read_timeout
        self._proxy, self._ca_bundle, self._setting = proxy, ca_bundle, setting
        self._transport: tuple[int, Transport] | None = None

    def send(
        self,
        call: Call,
        method: str,
        path: str,
        query: str,
        headers: Iterable[tuple[str, str]],
        body: RequestBody,
        *,
        length: int | None = None,
        caller: str | None = None,
    ) -> Reply:
        """Sends one request for *call* and returns the head of the answer.

        *path* is canonical (``paths.locate``), *query* as it came, *headers* are allowed and valid, *length* is the number of
        bytes of a *body* that is an iterator (None: chunked), *caller* is what tells callers apart: no two share a connection,
        and None never shares one. Raises UpstreamError, Overloaded, ClientGone, or what the body's iterator raises.
        """
        if not _PATH.fullmatch(path):
            raise BadRequest(code="bad_path")
        if query:
            query = "?" + _BARE_PERCENT.sub("%25", quote(query, safe=_QUERY_SAFE, encoding="latin-1"))
        request = UpstreamRequest()
        request.method, request.url = method, self.base + path + query
        request.call, request.caller = call, caller
        request.body = body  # type: ignore[assignment]  # an iterator of bytes is fine
        request.headers = fields = dict(headers)  # type: ignore[assignment]  # none is there twice, in whatever case
        length = len(body) if isinstance(body, bytes) else length
        if length is not None:
            fields["Content-Length"] = str(length)
        connect_timeout = call.remaining(self._connect_timeout)
        try:
            answer = self._own_transport().send(request, timeout=(connect_timeout, self._read_timeout))
        except TransportError as error:
            if error.code == "upstream_connect_timeout" and connect_timeout < self._connect_timeout:
                raise UpstreamError("upstream_deadline") from None  # the total timeout was the shorter one
            raise self._failure(error) from None
        except Broken:
            raise UpstreamError("upstream_disconnected") from None
        except Malformed:
            raise UpstreamError("upstream_protocol") from None
        try:
            return _reply(answer)
        except BaseException:
            answer.raw.close()
            raise

    def _own_transport(self) -> Transport:
        process = os.getpid()
        if self._transport is None or self._transport[0] != process:
            self._transport = process, Transport(self.base, proxy=self._proxy, ca_bundle=self._ca_bundle)
        return self._transport[1]

    def _failure(self, error: TransportError) -> MistralFilterError:
        """What the client is told: where the request was to go and which setting says so, never the URL's path or query."""
        if error.code == "no_descriptors":
            return Overloaded(code=error.code)
        host, setting = urlsplit(self.base).netloc, self._setting
        if self._proxy is not None and error.code in ("upstream_dns", "upstream_unreachable", "upstream_connect_timeout"):
            host, setting = urlsplit(self._proxy).netloc.rpartition("@")[2], "MISTRAL_FILTER_PROXY"
            if error.code == "upstream_unreachable":
                host = f"{host}, or the upstream through it,"
        elif error.final and error.code == "upstream_tls":
            setting += " and MISTRAL_FILTER_CA_BUNDLE"
        message = _MESSAGES[error.code].format(host=host, setting=setting)
        return UpstreamError(error.code, message, headers=[NO_RETRY] if error.final else [])


_MESSAGES = {
    "upstream_connect_timeout": "{host} did not accept a connection in time (MISTRAL_FILTER_CONNECT_TIMEOUT).",
    "upstream_dns": "The host name {host} could not be resolved. Check {setting}.",
    "upstream_tls": "No secure connection to {host} could be made. Check {setting}.",
    "upstream_unreachable": "{host} could not be reached. Check {setting}.",
}


class Reply(NamedTuple):
    """The head of an upstream's answer, checked, and the way to its body."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    """What may be passed on, in order."""
    length: int | None
    """The declared number of body bytes."""
    body: Body

    def pieces(self, heartbeat: float | None = None) -> Iterator[bytes]:
        """The body as it comes, about 64 KiB a piece at most, content-encoding untouched.

        With *heartbeat*, an empty piece after each so many seconds without another. Raises UpstreamError where the body breaks or
        ends early, ClientGone where the client left meanwhile.
        """
        body = self.body
        try:
            while True:
                try:
                    piece = body.read(heartbeat)
                except TimeoutError:
                    if heartbeat is None:
                        raise
                    yield b""
                    continue
                if not piece:
                    return
                yield piece
        except (Broken, Malformed, OSError):
            raise UpstreamError("upstream_cut") from None
        finally:
            body.close()

    def whole(self, limit: int, held: Held | None = None) -> tuple[bytes, Iterator[bytes] | None]:
        """The body if it has no more than *limit* bytes and *held* takes them; else its beginning and the rest.

        Raises what ``pieces`` raises.
        """
        rest = self.pieces()
        pieces, size = [], 0
        for piece in rest:
            pieces.append(piece)
            size += len(piece)
            if size > limit or (held is not None and not held.takes(len(piece))):
                return b"".join(pieces), rest
        return b"".join(pieces), None

    def close(self) -> None:
        """Gives the answer up."""
        self.body.close()

    def retire(self) -> None:
        """Has the connection closed after the answer, so that the next request is on a fresh one."""
        self.body.closes = True


@lru_cache(maxsize=256)
def _passed_on(name: str) -> str | None:
    """*name* in lower case; None for a field that stays here."""
    lower = name.lower()
    return None if lower in _NOT_PASSED_ON or lower.startswith(_NOT_PASSED_ON_BEGIN) else lower


def _reply(answer: Answer) -> Reply:
    """The head of *answer*, or UpstreamError where it cannot be passed on."""
    head = answer.head
    if 300 <= head.status < 400 and head.status != 304:
        raise UpstreamError("upstream_redirect")
    dropped = {option.strip(" \t").lower() for option in head.connection.split(",") if option}
    headers, length_said = [], head.status == 204
    for name, value in head.fields:
        lower = _passed_on(name)
        if lower is None or lower in dropped:
            continue
        if lower == "content-length":
            if length_said:
                continue
            length_said = True  # once is enough
        if head.is_plain or PLAIN_VALUE.fullmatch(value):
            headers.append((name, value))
    reason = head.reason or http.client.responses.get(head.status, "Unknown")
    return Reply(head.status, reason, headers, head.length, answer.raw)
