"""The HTTP proxy on the way to an upstream: its credentials, and the tunnel that TLS goes through (RFC 9110, 9.3.6)."""

from __future__ import annotations

import base64
import socket
import time
from urllib.parse import SplitResult, unquote

from mistral_filter.proxy.upstream.head import HEAD_END, Malformed, parse_head

__all__ = ["NoTunnel", "open_tunnel", "proxy_authorization"]

_PIECE = _MAX_HEADS = 65536
"""Bytes of all that the proxy may answer."""
_MAX_INTERIM = 20
_FINAL_REFUSALS = (401, 403, 405, 407)
"""What a proxy answers to CONNECT that it would answer again: wrong credentials, or a place it does not connect to."""


class NoTunnel(Exception):
    """The proxy makes no tunnel, or hangs up. *final*: a second try cannot help."""

    def __init__(self, *, final: bool = False) -> None:
        super().__init__()
        self.final = final


def proxy_authorization(proxy: SplitResult) -> str:
    """The field with the credentials in the proxy's URL; ``""`` where there are none."""
    if not proxy.username:
        return ""
    credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return f"Proxy-Authorization: Basic {base64.b64encode(credentials).decode()}\r\n"


def open_tunnel(sock: socket.socket, host: str, port: int, authorization: str, end: float) -> None:
    """Has the proxy connect *sock* to *port* of *host*, by *end* (``time.monotonic()``); raises TimeoutError or NoTunnel."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        sock.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{authorization}\r\n".encode("latin-1"))
        status = _read_status(sock, end)
    except TimeoutError:
        raise
    except (OSError, Malformed):
        raise NoTunnel from None
    if not 200 <= status < 300:
        raise NoTunnel(final=status in _FINAL_REFUSALS)


def _read_status(sock: socket.socket, end: float) -> int:
    """The status of the final answer. Nothing may follow one that opens the tunnel: what is ours comes through TLS only."""
    answer, searched, interim = b"", 0, 0
    while True:
        while (stop := HEAD_END.search(answer, searched)) is None:
            searched = max(len(answer) - 2, 0)
            sock.settimeout(max(end - time.monotonic(), 0.001))
            more = sock.recv(_PIECE)
            answer += more
            if not more or len(answer) > _MAX_HEADS:
                raise Malformed
        status = parse_head(answer[: stop.end()].decode("latin-1"), "CONNECT").status
        answer, searched, interim = answer[stop.end() :], 0, interim + 1
        if status >= 200:
            if status < 300 and answer:
                raise Malformed
            return status
        if interim > _MAX_INTERIM:
            raise Malformed
