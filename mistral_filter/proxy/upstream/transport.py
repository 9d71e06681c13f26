"""The transport behind ``requests``: an adapter on wires of our own, directly or through an HTTP proxy.

Strategy: a wire belongs to one caller for as long as it lives, so that whatever an upstream may send too much or too late, it is
never another caller's answer; callers without credentials get a fresh wire each time.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

import certifi
import requests
from requests.adapters import BaseAdapter

from mistral_filter.proxy.call import Call
from mistral_filter.proxy.upstream.addresses import Address, Addresses, NoAddress
from mistral_filter.proxy.upstream.body import Body
from mistral_filter.proxy.upstream.head import Head, Stale
from mistral_filter.proxy.upstream.idle import Idle
from mistral_filter.proxy.upstream.sessions import Sessions
from mistral_filter.proxy.upstream.tunnel import NoTunnel, open_tunnel, proxy_authorization
from mistral_filter.proxy.upstream.wire import Wire

__all__ = ["Answer", "Transport", "TransportError", "UpstreamRequest"]

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class UpstreamRequest(requests.PreparedRequest):
    """A request for Transport. ``url`` starts with the transport's base; ``body`` is bytes or an iterator of pieces."""

    call: Call
    caller: str | None
    """What tells callers apart; None for one without credentials."""


class Answer(requests.Response):
    """An answer whose body has not been read: ``raw`` is the Body, ``head`` the fields in order and as they were written.

    It has these, ``status_code`` and ``reason`` only: the cookie jar and the dictionary of headers that requests makes for each
    response cost as much as sending one, and are not used here.
    """

    head: Head
    raw: Body

    def __init__(self, head: Head, body: Body) -> None:
        self.status_code, self.reason, self.head, self.raw = head.status, head.reason, head, body


class TransportError(requests.ConnectionError):
    """No answer. *code* is that of an UpstreamError, or ``no_descriptors``; *final*: a second try cannot help."""

    def __init__(self, code: str, *, final: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.final = final


def _descriptors_are_spent() -> bool:
    """Whether the system gives no descriptor now, which a resolver does not say."""
    try:
        socket.socket().close()
    except OSError as error:
        return error.errno in _NO_DESCRIPTORS
    return False


_contexts: dict[str | None, ssl.SSLContext] = {}
os.register_at_fork(after_in_child=_contexts.clear)  # one made before gevent patched ssl would block the worker


def _tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """The one context of this process for a file of certificates. Reading that file takes tens of milliseconds."""
    context = _contexts.get(ca_bundle)
    if context is None:
        context = _contexts[ca_bundle] = ssl.create_default_context(cafile=ca_bundle or certifi.where())
        context.set_alpn_protocols(["http/1.1"])
    return context


class Transport(BaseAdapter):
    """Sends requests to one upstream.

    *base* is ``https://host[:port]`` or ``http://…``, *proxy* the URL of an HTTP proxy, *ca_bundle* the path of a file of trusted
    certificates, None for the usual ones. TLS goes through the proxy end to end.
    """

    def __init__(self, base: str, *, proxy: str | None = None, ca_bundle: str | None = None) -> None:
        super().__init__()
        target = urlsplit(base)
        self._netloc = target.netloc
        self._host = target.hostname or ""
        self._port = target.port or (443 if target.scheme == "https" else 80)
        self._secure = target.scheme == "https"
        self._ca_bundle = ca_bundle
        self._proxy = urlsplit(proxy) if proxy else None
        via = self._proxy
        self._addresses = Addresses(self._host, self._port) if via is None else Addresses(via.hostname or "", via.port or 80)
        self._authorization = "" if via is None else proxy_authorization(via)
        # of a request through a proxy that is not a tunnel the target is the whole URL (RFC 9112, 3.2.2)
        self._target_start = 0 if via is not None and not self._secure else len(base)
        self._sessions = Sessions()
        self._idle = Idle(self._sessions if self._secure else None)

    # ------------------------------------------------------------------------------------------------------------ one request

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Answer:
        """Sends an UpstreamRequest and returns the answer's head. *timeout* is (connect, read) in seconds.

        *stream*, *verify*, *cert* and *proxies* are those of requests' interface; here they are the transport's own. Raises
        TransportError, Malformed or Broken, or what the call was ended for.
        """
        assert isinstance(request, UpstreamRequest)
        connect, silence = timeout
        # an upload cannot be sent again, so it gets a connection that cannot be stale
        wire = self._idle.take(request.caller) if request.body is None or isinstance(request.body, bytes) else None
        if wire is not None:
            try:
                return self._exchange(wire, request, silence)
            except Stale:
                pass
        return self._exchange(self._connect(request.call, request.caller, connect), request, silence)

    def _exchange(self, wire: Wire, request: UpstreamRequest, silence: float) -> Answer:
        """Sends *request* on *wire*, which is closed if there is no answer, and returns the answer's head."""
        body: Any = request.body
        method, upload = request.method or "GET", not (body is None or isinstance(body, bytes))
        chunked = upload and "Content-Length" not in request.headers
        try:
            wire.begin(request.call, silence)
            if upload:
                wire.send_upload(self._head(method, request, chunked), body, chunked=chunked)
            else:
                wire.send(self._head(method, request, chunked), body or b"")
            head = wire.read_head(method)
        except BaseException:
            wire.close()
            raise
        if upload or wire.unsent:  # the upstream may have answered before it had all of it
            head = head._replace(closes=True)
        return Answer(head, Body(wire, head, self._idle.put))

    def _head(self, method: str, request: UpstreamRequest, chunked: bool) -> bytes:
        through = "" if self._target_start else self._authorization
        lines = [f"{method} {(request.url or '')[self._target_start :]} HTTP/1.1\r\nHost: {self._netloc}\r\n{through}"]
        lines += [f"{name}: {value}\r\n" for name, value in request.headers.items()]
        lines.append("Transfer-Encoding: chunked\r\n\r\n" if chunked else "\r\n")
        return "".join(lines).encode("latin-1")

    # ------------------------------------------------------------------------------------------------------------ connections

    def _connect(self, call: Call, caller: str | None, seconds: float) -> Wire:
        """A fresh wire, within *seconds* for the name, the connection, the proxy and the handshake together."""
        end = time.monotonic() + seconds
        call.waits_to_connect(end)
        call.check()
        try:
            addresses = self._addresses.get(seconds)
        except NoAddress as error:
            call.check()
            if not error.final and _descriptors_are_spent():
                raise TransportError("no_descriptors") from None
            raise TransportError("upstream_dns", final=error.final) from None
        except TimeoutError:
            call.check()
            raise TransportError("upstream_connect_timeout") from None
        code = "upstream_unreachable"
        for place, address in enumerate(addresses):
            left = end - time.monotonic()
            if left <= 0:
                break
            try:
                sock = self._open(call, address, left / (len(addresses) - place))
            except TimeoutError:
                code = "upstream_connect_timeout"
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    raise TransportError("no_descriptors") from None
                code = "upstream_unreachable"
            else:
                return Wire(self._prepare(call, caller, sock, end), caller)
            call.check()
            self._addresses.failed(address)
        self._addresses.forget()
        raise TransportError(code)

    def _open(self, call: Call, address: Address, seconds: float) -> socket.socket:
        family, kind, protocol, _, place = address
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            if error.errno not in _NO_DESCRIPTORS or not self._idle.close_all():
                raise
            sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(seconds)
            call.attach(sock)
            sock.connect(place)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            call.detach()
            sock.close()
            raise
        return sock

    def _prepare(self, call: Call, caller: str | None, sock: socket.socket, end: float) -> Any:
        """The socket ready for a request: through the proxy and the handshake, by *end*."""
        prepared = sock
        try:
            if self._proxy is not None and self._secure:
                open_tunnel(sock, self._host, self._port, self._authorization, end)
            if self._secure:
                sock.settimeout(max(end - time.monotonic(), 0.001))
                prepared = _tls_context(self._ca_bundle).wrap_socket(
                    sock,
                    server_hostname=self._host,
                    do_handshake_on_connect=False,
                    suppress_ragged_eofs=False,
                    session=self._sessions.get(caller),
                )
                call.attach(prepared)
                prepared.do_handshake()
            prepared.settimeout(None)
        except BaseException as error:
            call.detach()
            prepared.close()
            self._sessions.forget(caller)
            call.check()
            if isinstance(error, NoTunnel):
                raise TransportError("upstream_unreachable", final=error.final) from None
            if isinstance(error, TimeoutError):
                raise TransportError("upstream_connect_timeout") from None
            if isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS:
                raise TransportError("no_descriptors") from None
            if isinstance(error, (OSError, ValueError)):
                raise TransportError("upstream_tls", final=isinstance(error, ssl.SSLCertVerificationError)) from None
            raise
        return prepared

    def close(self) -> None:
        """Closes the idle wires."""
        self._idle.close_all()
