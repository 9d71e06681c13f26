"""One exchange: a caller's request to an upstream, and the answer back as it arrives."""

from __future__ import annotations

import hmac
import logging
import re
import time
import zlib
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from flask import Response

from mistral_filter import __version__
from mistral_filter.changes import Change, as_header
from mistral_filter.errors import BadRequest, ClientGone, NotFound, Overloaded, Unauthorized, UpstreamError
from mistral_filter.paths import Target
from mistral_filter.proxy.answers import Plan, error_answer, plan
from mistral_filter.proxy.upstream import Reply, RequestBody, Upstream, broken_pipe, raise_reason
from mistral_filter.refusals import Learned, forbidden, without
from mistral_filter.watch import Watch, start, stop

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["Exchange", "Limits"]

REQUEST_HEADERS = {
    "Content-Type": "CONTENT_TYPE",
    "Accept": "HTTP_ACCEPT",
    "X-Affinity": "HTTP_X_AFFINITY",
}
"""What of a request's head reaches the upstream as it is, and where WSGI has it."""

KEY_HEADERS = ("HTTP_API_KEY", "HTTP_X_API_KEY")
"""Where Azure-style and Anthropic-style clients put the key."""

REQUEST_ID = "mistral-correlation-id"
"""Mistral's name for what OpenAI's clients know as x-request-id."""

NOT_OFFERED = {
    "/v1/responses": "This upstream does not offer /v1/responses. Let the client use chat completions: .chat(model) in the "
    'AI SDK, set_default_openai_api("chat_completions") in openai-agents, use_responses_api=False in LangChain.',
}
"""Paths that not every upstream has (api.mistral.ai has them since 2026), and what to do when it answers 404."""

_AUTHORIZATION = re.compile(r"[\x21-\x2b\x2d-\x7e]+( [\x21-\x2b\x2d-\x7e]+)*")
"""Printable ASCII without a comma: servers join two Authorization headers with one."""

_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_WHOLE = 1024 * 1024
"""Bytes. JSON answers up to this size are read to the end first, so that a failure can still be a status."""

_WHOLE_TO_REWRITE = 64 * 1024 * 1024
"""Bytes. Embeddings of many texts, which have to be seen whole to be rewritten."""

_PIECE = 65536

_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")

_log = logging.getLogger("mistral_filter")


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


class Exchange:
    """What all exchanges of one process share.

    *tokens* are what callers show where the upstreams have keys of their own; *reasoning* is that of ``answers.plan``; *learn*:
    a request that Mistral refuses for extra fields alone is sent once more without them.
    """

    def __init__(
        self, *, learn: bool = True, reasoning: str = "openai", limits: Limits | None = None, tokens: tuple[str, ...] = ()
    ) -> None:
        self._learned = Learned() if learn else None
        self._reasoning = reasoning
        self._limits = limits or Limits()
        self._tokens = tokens
        self._under_way: set[int] = set()

    def __call__(self, upstream: Upstream, target: Target, environ: WSGIEnvironment) -> Response:
        """Sends the request in *environ* to *target* at *upstream*; returns the answer for Flask to send.

        Raises MistralFilterError for what cannot be sent or answered.
        """
        limits = self._limits
        if limits.concurrency is not None and len(self._under_way) >= limits.concurrency:
            raise Overloaded("Too many calls are under way. Try again in a moment.")
        headers = list(self._request_headers(environ, target, upstream.key))
        watch = Watch(environ.get("gunicorn.socket"))
        if limits.total is not None:
            watch.total_until = time.monotonic() + limits.total
        start(watch)
        self._under_way.add(id(watch))
        try:
            response = self._answer(*self._send(upstream, target, environ, headers, watch), target, upstream.key, environ)
        except BaseException as error:
            self._end(watch)
            environ["mistral_filter.outcome"] = getattr(error, "code", None) or "error"
            raise
        response.call_on_close(partial(self._end, watch))
        return response

    def _end(self, watch: Watch) -> None:
        stop(watch)
        self._under_way.discard(id(watch))

    # ------------------------------------------------------------------------------------------------------------- the way up

    def _send(
        self, upstream: Upstream, target: Target, environ: WSGIEnvironment, headers: list[tuple[str, str]], watch: Watch
    ) -> tuple[Reply, Plan, bytes | None]:
        """The answer's head, what it could need, and its body if that has been read."""
        method = environ["REQUEST_METHOD"]
        send = partial(upstream.send, method, target.path, environ.get("QUERY_STRING", ""), watch=watch)
        if target.endpoint is None:
            body, length = _upload(environ, method, watch, self._limits.body)
            return send(headers=headers, body=body, length=length), Plan(), None
        content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if self._learned is not None:
            content, changes = self._learned.apply(target.endpoint, content)
            _report(environ, changes)
        agent = environ.get("HTTP_X_MISTRAL_USER_AGENT") or environ.get("HTTP_USER_AGENT", "")  # pages may not set the latter
        needs = plan(target.endpoint, content, agent, self._reasoning)
        readable = not (needs.rewrites_answer or needs.rewrites_stream) and "gzip" in environ.get("HTTP_ACCEPT_ENCODING", "")
        headers.append(("Accept-Encoding", "gzip" if readable else "identity"))
        reply = send(headers=headers, body=content)
        if reply.status != 422 or self._learned is None:
            return reply, needs, None
        reply.retire()  # who refuses may hang up: the second try must not meet that
        refusal, rest = _read_whole(reply, _WHOLE)
        smaller, changes = without(content, forbidden(_decoded(refusal, reply)) if rest is None else ())
        if not changes:
            reply.close()
            return reply, needs, refusal
        self._learned.learn(target.endpoint, changes)
        _report(environ, changes)
        _log.warning("%s: refused, sent again: %s", target.endpoint, as_header(changes))
        return send(headers=headers, body=smaller), needs, None

    def _request_headers(self, environ: WSGIEnvironment, target: Target, key: str | None) -> Iterator[tuple[str, str]]:
        authorization = self._authorization(environ, key)
        if authorization is not None:
            yield "Authorization", authorization
        for name, place in REQUEST_HEADERS.items():
            value = environ.get(place)
            if value is not None and _FIELD_VALUE.fullmatch(value):
                yield name, value
        agent = environ.get("HTTP_USER_AGENT")
        yield "User-Agent", agent if agent and _FIELD_VALUE.fullmatch(agent) else f"mistral-filter/{__version__}"
        if target.endpoint is None:
            accepted = environ.get("HTTP_ACCEPT_ENCODING", "")
            yield "Accept-Encoding", accepted if accepted and _FIELD_VALUE.fullmatch(accepted) else "identity"

    def _authorization(self, environ: WSGIEnvironment, key: str | None) -> str | None:
        """What to authorize with upstream: the caller's own key, or ours for a caller who has a token."""
        given = environ.get("HTTP_AUTHORIZATION")
        if given is None:
            value = next((environ[name] for name in KEY_HEADERS if name in environ), None)
            given = None if value is None else f"Bearer {value}"
        if given is not None and given.strip().lower() in ("", "bearer"):
            raise Unauthorized("The Authorization header is empty. Send your key as: Authorization: Bearer KEY.")
        if given is not None and not _AUTHORIZATION.fullmatch(given):
            raise BadRequest("Send exactly one Authorization header, of printable ASCII characters.", code="bad_authorization")
        if not self._tokens:
            return given
        shown = (given or "").partition(" ")[2].strip().encode()
        # every token is compared, in the same time whether it fits or not
        if not sum(hmac.compare_digest(shown, token.encode()) for token in self._tokens):
            raise Unauthorized("This server wants one of its own tokens: Authorization: Bearer TOKEN.")
        if key is None:
            raise Unauthorized("This server has no key for this upstream.", code="no_key")
        return f"Bearer {key}"

    # ----------------------------------------------------------------------------------------------------------- the way down

    def _answer(
        self, reply: Reply, needs: Plan, body: bytes | None, target: Target, key: str | None, environ: WSGIEnvironment
    ) -> Response:
        """*reply* for the caller; *body* is its body if that has been read."""
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
        if kind == "text/event-stream":
            pieces = reply.chunks(heartbeat=self._limits.heartbeat if plain else None)
            stream = self._stream(reply, needs.events(pieces) if plain else pieces, environ, events=plain)
            live = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
            if plain:
                live["Content-Length"] = ""  # an event of ours may come in between
            return _response(reply, stream, live)
        rewrites = plain and needs.rewrites_answer
        limit = _WHOLE_TO_REWRITE if rewrites else _WHOLE
        if kind != "application/json" or (reply.length or 0) > limit:
            return _response(reply, self._stream(reply, reply.chunks(), environ))
        content, rest = _read_whole(reply, limit)
        if rest is not None:
            return _response(reply, self._stream(reply, chain(_slices(content), rest), environ))
        if rewrites:
            content = needs.whole(reply.status, content_type, content)
        return _response(reply, self._stream(reply, _slices(content), environ), {"Content-Length": str(len(content))})

    def _stream(
        self, reply: Reply, pieces: Iterator[bytes], environ: WSGIEnvironment, *, events: bool = False
    ) -> Iterator[bytes]:
        """The body piece by piece; the client has its time for each.

        A break is never a clean end: where an event could begin it is an error event first, then the framing is left
        unterminated. An empty piece is a heartbeat, which also goes out only where an event could begin.
        """
        watch, patience = reply.watch, self._limits.send
        tail = b"\n\n"
        try:
            for piece in pieces:
                if not piece and not (events and tail.endswith(_EVENT_ENDS)):
                    continue
                if patience is not None:
                    watch.sending_until = time.monotonic() + patience
                yield piece or b": keep-alive\n\n"
                watch.sending_until = None
                tail = (tail + piece)[-4:]
        except (UpstreamError, ClientGone) as error:
            environ["mistral_filter.outcome"] = error.code
            if events and isinstance(error, UpstreamError) and tail.endswith(_EVENT_ENDS):
                yield b"data: " + error.body() + b"\n\n"
            raise broken_pipe() from None
        finally:
            reply.close()


def _report(environ: WSGIEnvironment, changes: list[Change]) -> None:
    if changes:
        environ["mistral_filter.changes"] = (*environ.get("mistral_filter.changes", ()), *changes)


def _upload(environ: WSGIEnvironment, method: str, watch: Watch, patience: float | None) -> tuple[RequestBody, int | None]:
    """The body of a request that is not ours to judge, and its length: streamed, never held in memory."""
    if method not in ("POST", "PUT", "PATCH"):
        return None, None
    declared = environ.get("CONTENT_LENGTH") or ""
    if declared:
        if not (declared.isascii() and declared.isdigit() and len(declared) <= 18):
            raise BadRequest("Content-Length is not a number of bytes.", code="bad_content_length")
        return (_pieces(environ, int(declared), watch, patience), int(declared)) if int(declared) else (b"", 0)
    chunked = "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()
    return (_pieces(environ, None, watch, patience), None) if chunked else (b"", 0)


def _pieces(environ: WSGIEnvironment, length: int | None, watch: Watch, patience: float | None) -> Iterator[bytes]:
    """The request's body as it arrives; raises BadRequest when it breaks, so that no cut upload looks complete upstream."""
    missing = length
    while missing is None or missing > 0:
        if patience is not None:
            watch.receiving_until = time.monotonic() + patience
        try:
            piece = environ["wsgi.input"].read(_PIECE if missing is None else min(_PIECE, missing))
        except Exception:  # every server has exceptions of its own for a broken body
            raise_reason(watch)
            raise BadRequest("The body could not be read: its framing is broken.", code="body_cut_short") from None
        watch.receiving_until = None
        if not piece:
            break
        missing = None if missing is None else missing - len(piece)
        yield piece
    raise_reason(watch)  # a connection that was shut down looks like one that ended
    if missing:
        raise BadRequest(f"The body was cut short: {missing} of {length} bytes are missing.", code="body_cut_short")


def _error_response(reply: Reply, body: bytes | None, key: str | None) -> Response:
    """An upstream's refusal or failure, with the object that OpenAI's clients read beside what it said."""
    if body is None:
        body, rest = _read_whole(reply, _WHOLE)
        if rest is not None:
            reply.close()
            raise UpstreamError(502, "upstream_error_too_large", f"The upstream answered {reply.status} with a very long page.")
    if key is not None and (reply.status == 401 or key.encode() in _decoded(body, reply)):
        raise UpstreamError(502, "upstream_unauthorized", "The upstream does not accept this server's own key.")
    encoding = _header(reply, "content-encoding").lower()
    content = _decoded(body, reply)
    if encoding not in ("", "identity") and content is body:
        return _response(reply, body, {"Content-Length": str(len(body))})  # cannot be read here
    kind, content = error_answer(reply.status, _header(reply, "content-type"), content)
    return _response(reply, content, {"Content-Type": kind, "Content-Length": str(len(content)), "Content-Encoding": ""})


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
    response = Response(body)
    response.status = f"{reply.status} {reply.reason}"
    response.headers.clear()
    response.headers.extend([*headers, *((name, value) for name, value in instead.items() if value)])
    return response


def _slices(content: bytes) -> Iterator[bytes]:
    """*content* in pieces that a slow client takes in good time."""
    if len(content) <= _PIECE:
        return iter((content,))
    return (content[start : start + _PIECE] for start in range(0, len(content), _PIECE))


def _read_whole(reply: Reply, limit: int) -> tuple[bytes, Iterator[bytes] | None]:
    """The body if it is small; else its beginning and the rest. Raises UpstreamError while that still can be a status."""
    chunks = reply.chunks()
    pieces, size = [], 0
    for piece in chunks:
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            return b"".join(pieces), chunks
    return b"".join(pieces), None


def _decoded(body: bytes, reply: Reply) -> bytes:
    """*body* without its gzip, at most _WHOLE bytes; the very same where there is none or it cannot be read."""
    if _header(reply, "content-encoding").lower() != "gzip":
        return body
    unzip = zlib.decompressobj(wbits=31)
    try:
        content = unzip.decompress(body, _WHOLE)
    except zlib.error:
        return body
    return content if unzip.eof else body
