"""Requests that are no valid HTTP: what is refused beyond gunicorn's own rules, and what such a client is answered."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from gunicorn import util
from gunicorn.http.errors import InvalidHeader, InvalidRequestLine

from mistral_filter.errors import from_status
from mistral_filter.proxy import settings
from mistral_filter.proxy.calls import close_connection

__all__ = ["pre_request"]

_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Za-z:.%]+\])?(?::\d{0,5})?")
_TARGET = re.compile(r"(?:/|\*$|https?://)[^#]*$", re.IGNORECASE)


def pre_request(_worker: Any, req: Any) -> None:
    """Refuses, and closes the connection, where RFC 9112 (3.2) says so and gunicorn does not."""
    hosts = [value for name, value in req.headers if name == "HOST"]
    if (not hosts and req.version >= (1, 1)) or not all(_HOST.fullmatch(host) for host in hosts):
        raise InvalidHeader("HOST", req=req)
    # a path outside of the mount point would be a 500
    if not _TARGET.match(req.uri) or not req.path.startswith(settings.script_name()):
        raise InvalidRequestLine("target")
    close_connection.set(req.force_close)


def _write_error(sock: Any, status: int, _reason: str, _quoted: str) -> None:
    """In place of gunicorn's page, which quotes what it did not understand: the error in the one shape."""
    error = from_status(status)
    body = error.body()
    head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    # which origin asks is not known of a request that was not understood
    allowed = "Access-Control-Allow-Origin: *\r\n" if settings.any_origin() else ""
    util.write_nonblock(sock, f"{head}Content-Length: {len(body)}\r\n{allowed}\r\n".encode("latin-1") + body)


util.write_error = _write_error
