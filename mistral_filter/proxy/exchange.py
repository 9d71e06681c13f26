"""One exchange: a caller's request to an upstream, and the answer back as it arrives."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from flask import Response

from mistral_filter import __version__
from mistral_filter.changes import Change, as_header
from mistral_filter.errors import BadRequest, Unauthorized, UpstreamError
from mistral_filter.paths import Target
from mistral_filter.proxy.upstream import Reply, RequestBody, Upstream, broken_pipe
from mistral_filter.refusals import Learned, forbidden, without

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["exchange"]

REQUEST_HEADERS = {
    "Content-Type": "CONTENT_TYPE",
    "Accept": "HTTP_ACCEPT",
    "User-Agent": "HTTP_USER_AGENT",
    "X-Affinity": "HTTP_X_AFFINITY",
}
"""What of a request's head reaches the upstream, beside Authorization and Accept-Encoding, and where WSGI has it."""

KEY_HEADERS = ("HTTP_API_KEY", "HTTP_X_API_KEY")
"""Where Azure-style and Anthropic-style clients put the key."""

_AUTHORIZATION = re.compile(r"[\x21-\x2b\x2d-\x7e]+( [\x21-\x2b\x2d-\x7e]+)*")
"""Printable ASCII without a comma: servers join two Authorization headers with one."""

_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_WHOLE = 1024 * 1024
"""Bytes. JSON answers up to this size are read to the end first, so that a failure can still be a status."""

_PIECE = 65536

_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")

_log = logging.getLogger("mistral_filter")


def exchange(upstream: Upstream, target: Target, environ: WSGIEnvironment, learned: Learned | None) -> Response:
    """Sends the request in *environ* to *target* at *upstream*, and the answer as Flask sends it.

    With *learned*, a request that Mistral refuses for extra fields alone is sent once more without them. Raises
    MistralFilterError for what cannot be sent or answered.
    """
    method = environ["REQUEST_METHOD"]
    send = partial(upstream.send, method, target.path, environ.get("QUERY_STRING", ""), list(_request_headers(environ, target)))
    if target.endpoint is None:
        return _answer(send(*_upload(environ, method)), method)
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    if learned is not None:
        body, changes = learned.apply(target.endpoint, body)
        _report(environ, changes)
    reply = send(body)
    if reply.status == 422 and learned is not None:
        answer, rest = _read_whole(reply)
        smaller, changes = without(body, forbidden(_decoded(answer, reply)) if rest is None else ())
        if not changes:
            return _answer(reply, method, answer, rest)
        learned.learn(target.endpoint, changes)
        _report(environ, changes)
        _log.warning("%s: refused, sent again: %s", target.endpoint, as_header(changes))
        reply = send(smaller)
    return _answer(reply, method)


def _report(environ: WSGIEnvironment, changes: list[Change]) -> None:
    if changes:
        environ["mistral_filter.changes"] = (*environ.get("mistral_filter.changes", ()), *changes)


# ------------------------------------------------------------------------------------------------------------------ the way up


def _request_headers(environ: WSGIEnvironment, target: Target) -> Iterator[tuple[str, str]]:
    authorization = environ.get("HTTP_AUTHORIZATION")
    if authorization is None:
        key = next((environ[name] for name in KEY_HEADERS if name in environ), None)
        authorization = None if key is None else f"Bearer {key}"
    if authorization is not None:
        if authorization.strip().lower() in ("", "bearer"):
            raise Unauthorized("The Authorization header is empty. Send your Mistral key as: Authorization: Bearer KEY.")
        if not _AUTHORIZATION.fullmatch(authorization):
            raise BadRequest("Send exactly one Authorization header, of printable ASCII characters.", code="bad_authorization")
        yield "Authorization", authorization
    for name, key in REQUEST_HEADERS.items():
        value = environ.get(key)
        if value is not None and _FIELD_VALUE.fullmatch(value):
            yield name, value
        elif name == "User-Agent":
            yield name, f"mistral-filter/{__version__}"
    accepted = environ.get("HTTP_ACCEPT_ENCODING", "")
    if target.endpoint is not None:
        accepted = "gzip" if "gzip" in accepted else ""  # the only one that can be looked into here
    yield "Accept-Encoding", accepted if accepted and _FIELD_VALUE.fullmatch(accepted) else "identity"


def _upload(environ: WSGIEnvironment, method: str) -> tuple[RequestBody, int | None]:
    """The body of a request that is not ours to judge, and its length: streamed, never held in memory."""
    if method not in ("POST", "PUT", "PATCH"):
        return None, None
    declared = environ.get("CONTENT_LENGTH") or ""
    if declared:
        if not (declared.isascii() and declared.isdigit()):
            raise BadRequest("Content-Length is not a number of bytes.", code="bad_content_length")
        return (_pieces(environ, int(declared)), int(declared)) if int(declared) else (b"", 0)
    chunked = "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()
    return (_pieces(environ, None), None) if chunked else (b"", 0)


def _pieces(environ: WSGIEnvironment, length: int | None) -> Iterator[bytes]:
    """The request's body as it arrives; raises BadRequest when it breaks, so that no cut upload looks complete upstream."""
    missing = length
    while missing is None or missing > 0:
        try:
            piece = environ["wsgi.input"].read(_PIECE if missing is None else min(_PIECE, missing))
        except Exception:  # every server has exceptions of its own for a broken body
            raise BadRequest("The body could not be read: its framing is broken.", code="body_cut_short") from None
        if not piece:
            break
        missing = None if missing is None else missing - len(piece)
        yield piece
    if missing:
        raise BadRequest(f"The body was cut short: {missing} of {length} bytes are missing.", code="body_cut_short")


# ---------------------------------------------------------------------------------------------------------------- the way down


def _answer(reply: Reply, method: str, start: bytes = b"", rest: Iterator[bytes] | None = None) -> Response:
    """*reply* for the caller; *start* and *rest* are its body where the reading of it has begun."""
    if method == "HEAD" or reply.status in (204, 304):
        reply.close()
        return _response(reply, b"")
    kind = _header(reply, "content-type").partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        events = _header(reply, "content-encoding") in ("", "identity")
        live = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
        return _response(reply, _stream(reply, reply.chunks(), events=events), **live)
    if kind == "application/json" and (reply.length or 0) <= _WHOLE and not start:
        start, rest = _read_whole(reply)
    elif not start:
        rest = reply.chunks()
    if rest is None:
        return _response(reply, start, **{"Content-Length": str(len(start))})
    return _response(reply, _stream(reply, rest, start))


def _header(reply: Reply, name: str) -> str:
    return next((value for given, value in reply.headers if given.lower() == name), "")


def _response(reply: Reply, body: bytes | Iterator[bytes], **instead: str) -> Response:
    """The caller's response; *instead* are headers that replace the upstream's."""
    replaced = {name.lower() for name in instead}
    response = Response(body, direct_passthrough=True)
    response.status = f"{reply.status} {reply.reason}"
    response.headers.clear()
    response.headers.extend([(name, value) for name, value in reply.headers if name.lower() not in replaced])
    response.headers.extend(instead)
    return response


def _read_whole(reply: Reply) -> tuple[bytes, Iterator[bytes] | None]:
    """The body if it is small; else its beginning and the rest. Raises UpstreamError while that still can be a status."""
    chunks = reply.chunks()
    pieces, size = [], 0
    for piece in chunks:
        pieces.append(piece)
        size += len(piece)
        if size > _WHOLE:
            return b"".join(pieces), chunks
    return b"".join(pieces), None


def _decoded(body: bytes, reply: Reply) -> bytes:
    """*body* without its gzip, at most _WHOLE bytes; as it is where that is not possible."""
    if _header(reply, "content-encoding").lower() != "gzip":
        return body
    try:
        return zlib.decompressobj(wbits=31).decompress(body, _WHOLE)
    except zlib.error:
        return body


def _stream(reply: Reply, chunks: Iterator[bytes], start: bytes = b"", *, events: bool = False) -> Iterator[bytes]:
    """The body piece by piece.

    A break is never a clean end: where an event could begin it is an error event first, then the framing is left unterminated.
    """
    tail = b"\n\n"
    try:
        if start:
            yield start
        for piece in chunks:
            yield piece
            tail = (tail + piece)[-4:]
    except UpstreamError as error:
        _log.warning("answer cut: %s", error.code)
        if events and tail.endswith(_EVENT_ENDS):
            yield b"data: " + error.body() + b"\n\n"
        raise broken_pipe() from None
    finally:
        reply.close()
