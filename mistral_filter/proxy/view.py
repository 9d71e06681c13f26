"""The view that forwards: a caller's request to an upstream, and the answer back as it arrives."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request
from msgspec import json

from mistral_filter import __version__
from mistral_filter.errors import BadRequest, MethodNotAllowed, MistralFilterError, NotFound, Unauthorized, UpstreamError
from mistral_filter.paths import Target, locate
from mistral_filter.proxy.upstream import Reply, RequestBody, Upstream, broken_pipe

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["METHODS", "create_blueprint"]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
"""What Mistral's API uses (OpenAPI 2026-08-21), and HEAD."""

REQUEST_HEADERS = ("Content-Type", "Accept", "Accept-Encoding", "User-Agent", "X-Affinity")
"""What of a request's head reaches the upstream, beside Authorization."""

KEY_HEADERS = ("HTTP_API_KEY", "HTTP_X_API_KEY")
"""Where Azure-style and Anthropic-style clients put the key, as WSGI spells them."""

_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]+( [\x21-\x2b\x2d-\x7e]+)*")
"""Printable ASCII without a comma: servers join two Authorization headers with one."""

_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_WHOLE = 1024 * 1024
"""Bytes. JSON answers up to this size are read to the end first, so that a failure can still be a status."""

_PIECE = 65536

MISSING = {
    "completions": "Mistral has no /v1/completions. Use /v1/chat/completions (in LlamaIndex's OpenAILike: is_chat_model=True), "
    "or /v1/fim/completions for code with a suffix.",
    "images": "Mistral has no /v1/images. Images are made by agents with the image_generation tool.",
    "dashboard": "Mistral has no billing API. The client works without it; usage is shown at https://admin.mistral.ai.",
}
"""First path segments below /v1 that OpenAI has and Mistral has not (OpenAPI 2026-08-21), and what to do instead."""

_log = logging.getLogger("mistral_filter")


def create_blueprint(upstreams: Mapping[str, Upstream]) -> Blueprint:
    """A blueprint that forwards ``/v1/…`` to ``upstreams[""]`` and ``/NAME/v1/…`` to ``upstreams[NAME]``.

    Put ``MistralFilter`` (or ``init_app``) with ``prefixes=("", "/NAME", …)`` in front of it, and set
    ``app.url_map.merge_slashes = False``: a redirected POST loses its body.
    """
    blueprint = Blueprint("mistral_filter", __name__)
    prefixes = tuple("/" + name if name else "" for name in upstreams)

    @blueprint.route("/<path:path>", methods=METHODS)
    def forward(path: str) -> Response:
        environ = request.environ
        target = _target(environ, prefixes)
        if target.path == "/v1":
            models = f"{target.prefix}/v1/models"
            return _json({"object": "proxy", "name": "mistral-filter", "version": __version__, "models": models})
        reply = _send(upstreams[target.prefix[1:]], target, environ)
        return _answer(reply, request.method)

    @blueprint.route("/health")
    @blueprint.route("/healthz")
    def health() -> Response:
        return _json({"status": "ok"})

    @blueprint.route("/robots.txt")
    def robots() -> Response:
        return Response("User-agent: *\nDisallow: /\n", mimetype="text/plain")

    @blueprint.route("/favicon.ico")
    def favicon() -> Response:
        return Response(status=204)

    @blueprint.errorhandler(MistralFilterError)
    def explain(error: MistralFilterError) -> Response:
        return error_response(error)

    return blueprint


def error_response(error: MistralFilterError) -> Response:
    """*error* as Flask answers it."""
    return Response(error.body(), error.status, error.headers, content_type="application/json")


def _json(value: Any) -> Response:
    return Response(json.encode(value), content_type="application/json")


def _target(environ: WSGIEnvironment, prefixes: tuple[str, ...]) -> Target:
    """What the request asks for; raises NotFound or MethodNotAllowed."""
    path = environ.get("PATH_INFO", "")
    target = locate(path, prefixes)
    if target is None or target.refused:
        raise NotFound(
            "There is nothing at this path. Mistral's API is below /v1: use a base URL that ends in /v1, and plain paths such as "
            "/v1/chat/completions."
        )
    method = environ["REQUEST_METHOD"]
    if target.endpoint is not None and method != "POST":
        raise MethodNotAllowed(f"{target.path} takes POST with a JSON body, not {method}.", "POST, OPTIONS")
    missing = MISSING.get(target.path.split("/")[2]) if target.path != "/v1" else None
    if missing is not None:
        raise NotFound(missing)
    if target.path == "/v1" and method not in ("GET", "HEAD"):
        raise NotFound("There is nothing to POST to at /v1. Add the endpoint: /v1/chat/completions.")
    return target


def _send(upstream: Upstream, target: Target, environ: WSGIEnvironment) -> Reply:
    headers = list(_request_headers(environ))
    body: RequestBody = None
    length: int | None = None
    if environ["REQUEST_METHOD"] in ("POST", "PUT", "PATCH"):
        if target.endpoint is not None:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        else:
            length = int(environ["CONTENT_LENGTH"]) if environ.get("CONTENT_LENGTH") else None
            chunked = "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()
            body = _pieces(environ, length) if length or chunked else b""
    return upstream.send(environ["REQUEST_METHOD"], target.path, environ.get("QUERY_STRING", ""), headers, body, length)


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


def _request_headers(environ: WSGIEnvironment) -> Iterator[tuple[str, str]]:
    authorization = environ.get("HTTP_AUTHORIZATION")
    if authorization is None:
        key = next((environ[name] for name in KEY_HEADERS if name in environ), None)
        authorization = None if key is None else f"Bearer {key}"
    if authorization is not None:
        if not authorization.strip() or authorization.strip().lower() == "bearer":
            raise Unauthorized("The Authorization header is empty. Send your Mistral key as: Authorization: Bearer KEY.")
        if not _KEY.fullmatch(authorization):
            raise BadRequest("Send exactly one Authorization header, of printable ASCII characters.", code="bad_authorization")
        yield "Authorization", authorization
    for name in REQUEST_HEADERS:
        value = environ.get(_wsgi_name(name))
        if value is not None and _VALUE.fullmatch(value):
            yield name, value
        elif name == "User-Agent":
            yield name, f"mistral-filter/{__version__}"
        elif name == "Accept-Encoding":
            yield name, "identity"


def _wsgi_name(name: str) -> str:
    return "CONTENT_TYPE" if name == "Content-Type" else "HTTP_" + name.upper().replace("-", "_")


def _answer(reply: Reply, method: str) -> Response:
    headers = reply.headers
    if method == "HEAD" or reply.status in (204, 304):
        reply.close()
        return _respond(reply, b"", headers)
    kind = next((value for name, value in headers if name.lower() == "content-type"), "").partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        headers = [(name, value) for name, value in headers if name.lower() not in ("cache-control", "x-accel-buffering")]
        headers += [("Cache-Control", "no-cache, no-transform"), ("X-Accel-Buffering", "no")]
        return _respond(reply, _stream(reply, events=not _encoded(headers)), headers)
    if kind == "application/json" and (reply.length or 0) <= _WHOLE:
        start, rest = _read_whole(reply)
        if rest is None:
            others = [(name, value) for name, value in headers if name.lower() != "content-length"]
            return _respond(reply, start, [*others, ("Content-Length", str(len(start)))])
        return _respond(reply, _stream(reply, rest, first=start), headers)
    return _respond(reply, _stream(reply), headers)


def _respond(reply: Reply, body: bytes | Iterator[bytes], headers: list[tuple[str, str]]) -> Response:
    response = Response(body, direct_passthrough=True)
    response.status = f"{reply.status} {reply.reason}"
    response.headers.clear()
    response.headers.extend(headers)
    return response


def _encoded(headers: list[tuple[str, str]]) -> bool:
    return any(name.lower() == "content-encoding" and value.lower() != "identity" for name, value in headers)


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


def _stream(reply: Reply, chunks: Iterator[bytes] | None = None, *, first: bytes = b"", events: bool = False) -> Iterator[bytes]:
    """The body piece by piece.

    A break is never a clean end: where an event could begin it is an error event first, then the framing is left unterminated.
    """
    tail = b"\n\n"
    try:
        if first:
            yield first
        for piece in chunks or reply.chunks():
            yield piece
            tail = (tail + piece)[-4:]
    except UpstreamError as error:
        _log.warning("answer cut: %s", error.code)
        if events and tail.endswith((b"\n\n", b"\r\n\r\n", b"\r\r")):
            yield b"data: " + error.body() + b"\n\n"
        raise broken_pipe() from None
    finally:
        reply.close()
