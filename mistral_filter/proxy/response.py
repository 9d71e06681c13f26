"""An upstream's answer as the caller gets it: headers by rule, errors and bodies by ``answers``, streams as they arrive."""

from __future__ import annotations

import http.client
import math
import re
import time
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from flask import Response
from werkzeug.datastructures import Headers

from mistral_filter.errors import ClientGone, NotFound, UpstreamError
from mistral_filter.paths import Target
from mistral_filter.proxy.answers import Plan, error_answer
from mistral_filter.proxy.upstream import Reply, broken_pipe, protocol, raise_reason
from mistral_filter.watch import reset_when_closed

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["Limits", "decoded", "respond", "whole_error"]

NOT_OFFERED = {
    "/v1/responses": "This upstream does not offer /v1/responses. Let the client use chat completions: .chat(model) in the "
    'AI SDK, set_default_openai_api("chat_completions") in openai-agents, use_responses_api=False in LangChain.',
}
"""Paths that not every upstream has (api.mistral.ai has them since 2026), and what to do when it answers 404."""

REQUEST_ID = "mistral-correlation-id"
"""Mistral's name for what OpenAI's clients know as x-request-id."""

WHOLE = 1024 * 1024
"""Bytes. JSON answers up to this size are read to the end first, so that a failure can still be a status."""

_WHOLE_TO_REWRITE = 64 * 1024 * 1024
"""Bytes. Embeddings of many texts, which have to be seen whole to be rewritten."""

PIECE = 65536
"""Bytes that a client is given at a time."""

_MEMBERS = 16
"""How many gzip members, one behind the other, are read as one body."""

_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


class Limits(NamedTuple):
    """What one worker allows, in seconds and calls; None is no limit."""

    concurrency: int | None = None
    """Calls under way at the same time."""
    total: float | None = None
    """From the request to the end of the answer."""
    send: float | None = None
    """For the client to take what it is being sent."""
    body: float | None = None
    """For the next piece of a body that is streamed up."""
    heartbeat: float | None = None
    """Silence of the upstream after which a comment goes down an event stream."""


def respond(
    reply: Reply,
    needs: Plan,
    body: bytes | None,
    target: Target,
    key: str | None,
    environ: WSGIEnvironment,
    limits: Limits,
) -> Response:
    """The caller's response to *reply*, which *needs* says how to rewrite; *body* is its body if that has been read.

    *key* is the server's own, which must not come down. Raises MistralFilterError while the failure can be a status.
    """
    patience = math.inf if limits.send is None else limits.send
    if key is not None:
        reply = _without(reply, key)
    if environ["REQUEST_METHOD"] == "HEAD" or reply.status in (204, 304):
        reply.close()
        return _response(reply, b"")
    if reply.status == 404 and target.path in NOT_OFFERED:
        reply.close()
        raise NotFound(NOT_OFFERED[target.path])
    if reply.status >= 400:
        return _error_response(reply, body, key)
    content_type = _header(reply, "content-type")
    kind = content_type.partition(";")[0].strip().lower()
    plain = _header(reply, "content-encoding").lower() in ("", "identity")
    if key is not None and not plain:
        reply.close()
        raise protocol()  # nobody asked for it, and it cannot be looked into
    if kind == "text/event-stream":
        pieces = _keyless(reply.chunks(heartbeat=limits.heartbeat if plain else None), key)
        stream = _stream(reply, needs.events(pieces) if plain else pieces, environ, patience, live=True, events=plain)
        live = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
        if plain:
            live["Content-Length"] = ""  # an event of ours may come in between
        return _response(reply, stream, live)
    rewrites = plain and needs.rewrites_answer
    limit = _WHOLE_TO_REWRITE if rewrites else WHOLE
    if kind != "application/json" or (reply.length or 0) > limit:
        pieces = _keyless(reply.chunks(), key)
        first = next(pieces, b"")  # a failure before it can still be a status
        return _response(reply, _stream(reply, chain([first], pieces), environ, patience))
    content, rest = reply.whole(limit)
    if rest is not None:
        return _response(reply, _stream(reply, _keyless(chain(_slices(content), rest), key), environ, patience))
    if key is not None:
        content = b"".join(_keyless(iter((content,)), key))
        if _quotes(content, key):  # with escapes in it
            raise _own_key_refused()
    if rewrites:
        content = needs.whole(reply.status, content_type, content)
    if len(content) > PIECE:
        return _response(reply, _stream(reply, _slices(content), environ, patience), {"Content-Length": str(len(content))})
    reply.watch.sending_until = time.monotonic() + patience
    return _response(reply, content, {"Content-Length": str(len(content))})


def _stream(
    reply: Reply,
    pieces: Iterator[bytes],
    environ: WSGIEnvironment,
    patience: float,
    *,
    live: bool = False,
    events: bool = False,
) -> Iterator[bytes]:
    """The body piece by piece; the client has its time for each. *live*: the head does not wait for the first piece.

    *events*: the pieces are those of an event stream that can be read. A break is never a clean end: where an event could begin
    it is an error event first, then the framing is left unterminated. An empty piece is a heartbeat, which also goes out only
    where an event could begin.
    """
    watch = reply.watch
    tail = b"\n\n"
    try:
        if live:
            yield b""  # a model may think for longer than a router waits
        for piece in pieces:
            raise_reason(watch)  # what is here already can take a slow client longer than there is time
            if not piece and not (events and tail.endswith(_EVENT_ENDS)):
                continue
            watch.sending_until = time.monotonic() + patience
            yield piece or b": keep-alive\n\n"
            watch.sending_until = None
            tail = (tail + piece)[-4:]
    except (UpstreamError, ClientGone) as error:
        environ["mistral_filter.outcome"] = error.code
        if events and isinstance(error, UpstreamError) and tail.endswith(_EVENT_ENDS):
            watch.sending_until = time.monotonic() + patience
            yield b"data: " + error.body() + b"\n\n"
        if environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
            reset_when_closed(watch.client)
        raise broken_pipe() from None
    finally:
        reply.close()


def _error_response(reply: Reply, body: bytes | None, key: str | None) -> Response:
    """An upstream's refusal or failure, with the object that OpenAI's clients read beside what it said."""
    if body is None:
        body = whole_error(reply)
    content = decoded(body, reply)
    unread = content is body and _header(reply, "content-encoding").lower() not in ("", "identity")
    if key is not None and (reply.status == 401 or unread or _quotes(content, key)):
        raise _own_key_refused()
    if unread:
        return _response(reply, body, {"Content-Length": str(len(body))})  # cannot be read here
    kind, content = error_answer(reply.status, _header(reply, "content-type"), content)
    return _response(reply, content, {"Content-Type": kind, "Content-Length": str(len(content)), "Content-Encoding": ""})


def whole_error(reply: Reply) -> bytes:
    """The body of an upstream's refusal or failure; raises UpstreamError for one that is too long to be read to the end."""
    body, rest = reply.whole(WHOLE)
    if rest is not None:
        reply.close()
        raise UpstreamError("upstream_error_too_large", f"The upstream answered {reply.status} with a very long page.")
    return body


def _own_key_refused() -> UpstreamError:
    return UpstreamError("upstream_unauthorized")


def _keyless(pieces: Iterator[bytes], key: str | None) -> Iterator[bytes]:
    """*pieces* with asterisks for *key*, wherever the network cuts it; it is held back only while it could be going on."""
    return pieces if key is None else _starred(pieces, key.encode())


def _starred(pieces: Iterator[bytes], key: bytes) -> Iterator[bytes]:
    held = b""
    for piece in pieces:
        if not piece:  # a heartbeat
            yield piece
            continue
        held = (held + piece).replace(key, b"*" * len(key))
        begun = next((n for n in range(min(len(key) - 1, len(held)), 0, -1) if held.endswith(key[:n])), 0)
        if begun < len(held):
            yield held[: len(held) - begun]
        held = held[len(held) - begun :]
    if held:
        yield held


def _quotes(content: bytes, key: str) -> bool:
    return key.encode() in _ESCAPE.sub(_unescaped, content)


_ESCAPE = re.compile(rb"\\(?:u00([0-9a-fA-F]{2})|(/))")


def _unescaped(match: re.Match[bytes]) -> bytes:
    return match[2] or bytes((int(match[1], 16),))


def _without(reply: Reply, key: str) -> Reply:
    """*reply* without the headers, and without the reason phrase, that quote *key*."""
    headers = [(name, value) for name, value in reply.headers if key not in value and key.lower() not in name.lower()]
    reason = reply.reason if key not in reply.reason else http.client.responses.get(reply.status, "Unknown")
    return reply._replace(headers=headers, reason=reason)


def _header(reply: Reply, name: str) -> str:
    return next((value for given, value in reply.headers if given.lower() == name), "")


def _response(reply: Reply, body: bytes | Iterator[bytes], instead: dict[str, str] | None = None) -> Response:
    """The caller's response; *instead* are headers that replace the upstream's, an empty one takes it away."""
    instead = instead or {}
    replaced = {name.lower() for name in instead}
    headers = [(name, value) for name, value in reply.headers if name.lower() not in replaced]
    names = {name.lower(): value for name, value in headers}
    if REQUEST_ID in names and "x-request-id" not in names:
        headers.append(("X-Request-Id", names[REQUEST_ID]))
    response = _AsItCame(body)
    response.status = f"{reply.status} {reply.reason}"
    response.headers.clear()
    response.headers.extend([*headers, *((name, value) for name, value in instead.items() if value)])
    return response


class _AsItCame(Response):
    """Its headers are sent as they are: werkzeug would parse a Location, which may be none, and make up a length for HEAD."""

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        """The headers."""
        return self.headers


def _slices(content: bytes) -> Iterator[bytes]:
    """*content* in pieces that a slow client takes in good time."""
    return (content[start : start + PIECE] for start in range(0, len(content), PIECE))


def decoded(body: bytes, reply: Reply) -> bytes:
    """*body* without its gzip, at most WHOLE bytes; the very same where there is none or it cannot be read."""
    if _header(reply, "content-encoding").lower() != "gzip":
        return body
    content, rest = b"", body
    for _ in range(_MEMBERS):
        unzip = zlib.decompressobj(wbits=31)
        try:
            content += unzip.decompress(rest, max(WHOLE - len(content), 1))
        except zlib.error:
            return body
        rest = unzip.unused_data
        if not (unzip.eof and rest):
            return content if unzip.eof else body
    return body
