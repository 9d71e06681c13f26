"""One exchange: a caller's request on its way to an upstream; its answer is for ``response``."""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from flask import Response

from mistral_filter import __version__
from mistral_filter.changes import Change
from mistral_filter.errors import BadRequest, Overloaded, Unauthorized
from mistral_filter.paths import Target
from mistral_filter.proxy.answers import Plan, plan
from mistral_filter.proxy.logs import changes_text
from mistral_filter.proxy.response import Limits, decoded, respond, whole_error
from mistral_filter.proxy.upstream import Reply, RequestBody, Upstream, raise_reason
from mistral_filter.refusals import Learned, forbidden, without
from mistral_filter.watch import Watch, start, stop

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["Exchange"]

REQUEST_HEADERS = {
    "Content-Type": "CONTENT_TYPE",
    "Accept": "HTTP_ACCEPT",
    "X-Affinity": "HTTP_X_AFFINITY",
}
"""What of a request's head reaches the upstream as it is, and where WSGI has it."""

KEY_HEADERS = ("HTTP_API_KEY", "HTTP_X_API_KEY")
"""Where Azure-style and Anthropic-style clients put the key."""

_AUTHORIZATION = re.compile(r"[\x21-\x2b\x2d-\x7e]+( [\x21-\x2b\x2d-\x7e]+)*")
"""Printable ASCII without a comma: servers join two Authorization headers with one."""

_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_PIECE = 65536

_log = logging.getLogger("mistral_filter")


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
        caller = _credentials(environ)
        headers = [*self._authorization(caller, upstream.key), *_passed_on(environ, target, upstream.key)]
        watch = Watch(environ.get("gunicorn.socket"))
        if limits.total is not None:
            watch.total_until = time.monotonic() + limits.total
        start(watch)
        self._under_way.add(id(watch))
        try:
            send = partial(upstream.send, environ["REQUEST_METHOD"], target.path, environ.get("QUERY_STRING", ""))
            send = partial(send, watch=watch, caller=caller)
            reply, needs, body = self._send(send, target, environ, headers, watch, secret=upstream.key is not None)
            response = respond(reply, needs, body, target, upstream.key, environ, limits)
        except BaseException as error:
            self._end(watch)
            environ["mistral_filter.outcome"] = getattr(error, "code", None) or "error"
            raise
        end = environ["mistral_filter.end"] = partial(self._end, watch)  # RequestLog calls it where nobody closes the response
        response.call_on_close(end)
        return response

    def _end(self, watch: Watch) -> None:
        stop(watch)
        self._under_way.discard(id(watch))

    # ------------------------------------------------------------------------------------------------------------- the way up

    def _send(
        self,
        send: Callable[..., Reply],
        target: Target,
        environ: WSGIEnvironment,
        headers: list[tuple[str, str]],
        watch: Watch,
        *,
        secret: bool,
    ) -> tuple[Reply, Plan, bytes | None]:
        """The answer's head, what it could need, and its body if that has been read.

        *secret*: a key of ours goes up, so every answer has to be one that can be looked into.
        """
        if target.endpoint is None:
            body, length = _upload(environ, watch, self._limits.body)
            return send(headers=headers, body=body, length=length), Plan(), None
        content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        learned = None if environ.get("mistral_filter.strict") else self._learned  # strict: nothing may be lost here either
        place = target.prefix + target.endpoint
        if learned is not None:
            content, changes = learned.apply(place, content)
            _report(environ, changes)
        agent = environ.get("HTTP_X_MISTRAL_USER_AGENT") or environ.get("HTTP_USER_AGENT", "")  # pages may not set the latter
        needs = plan(target.endpoint, content, agent, self._reasoning)
        looked_into = needs.rewrites_answer or needs.rewrites_stream or secret
        zipped = not looked_into and _accepts_gzip(environ.get("HTTP_ACCEPT_ENCODING", ""))
        headers.append(("Accept-Encoding", "gzip" if zipped else "identity"))
        reply = send(headers=headers, body=content)
        if reply.status != 422 or learned is None:
            return reply, needs, None
        reply.retire()  # who refuses may hang up: the second try must not meet that
        refusal = whole_error(reply)
        smaller, changes = without(content, forbidden(decoded(refusal, reply)), target.endpoint)
        if not changes:
            return reply, needs, refusal
        learned.learn(place, changes)
        _report(environ, changes)
        _log.warning("%s: refused, sent again: %s", target.endpoint, changes_text(changes))
        return send(headers=headers, body=smaller), needs, None

    def _authorization(self, shown: str | None, key: str | None) -> Iterator[tuple[str, str]]:
        """What to authorize with upstream: what the caller has *shown*, or our *key* for a caller who has a token."""
        if self._tokens:
            token = (shown or "").partition(" ")[2].strip().encode()
            # every token is compared, in the same time whether it fits or not
            if not sum(hmac.compare_digest(token, own.encode()) for own in self._tokens):
                raise Unauthorized("This server wants one of its own tokens: Authorization: Bearer TOKEN.")
            if key is None:
                raise Unauthorized("This server has no key for this upstream.", code="no_key")
            shown = f"Bearer {key}"
        if shown is not None:
            yield "Authorization", shown


def _credentials(environ: WSGIEnvironment) -> str | None:
    """What the caller authorizes with, as the one Authorization header; raises BadRequest or Unauthorized for a broken one."""
    shown: str | None = environ.get("HTTP_AUTHORIZATION")
    if shown is None:
        value = next((environ[name] for name in KEY_HEADERS if name in environ), None)
        shown = None if value is None else f"Bearer {value}"
    if shown is not None and shown.strip().lower() in ("", "bearer"):
        raise Unauthorized("The Authorization header is empty. Send your key as: Authorization: Bearer KEY.")
    if shown is not None and not _AUTHORIZATION.fullmatch(shown):
        raise BadRequest("Send exactly one Authorization header, of printable ASCII characters.", code="bad_authorization")
    return shown


def _passed_on(environ: WSGIEnvironment, target: Target, key: str | None) -> Iterator[tuple[str, str]]:
    """The headers for upstream that come from the caller's; *key* is this server's own, if it has one."""
    for name, place in REQUEST_HEADERS.items():
        value = environ.get(place)
        if value is not None and _FIELD_VALUE.fullmatch(value):
            yield name, value
    agent = environ.get("HTTP_USER_AGENT")
    yield "User-Agent", agent if agent and _FIELD_VALUE.fullmatch(agent) else f"mistral-filter/{__version__}"
    if target.endpoint is None:
        accepted = environ.get("HTTP_ACCEPT_ENCODING", "")
        if key is not None:
            accepted = ""  # what comes has to be looked into, so that the key is not in it
        yield "Accept-Encoding", accepted if accepted and _FIELD_VALUE.fullmatch(accepted) else "identity"


def _accepts_gzip(accepted: str) -> bool:
    """What an Accept-Encoding header says of gzip."""
    for item in accepted.lower().split(","):
        name, _, quality = item.partition(";")
        if name.strip() == "gzip":
            return not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", quality)
    return False


def _report(environ: WSGIEnvironment, changes: list[Change]) -> None:
    if changes:
        environ["mistral_filter.changes"] = (*environ.get("mistral_filter.changes", ()), *changes)


def _upload(environ: WSGIEnvironment, watch: Watch, patience: float | None) -> tuple[RequestBody, int | None]:
    """The body of a request that is not ours to judge, and its length: streamed, never held in memory."""
    if environ["REQUEST_METHOD"] not in ("POST", "PUT", "PATCH"):
        return None, None
    declared = environ.get("CONTENT_LENGTH") or ""
    coding = environ.get("HTTP_TRANSFER_ENCODING", "").strip().lower()
    if coding not in ("", "chunked"):
        raise BadRequest("Of transfer codings only chunked is understood.", code="bad_transfer_encoding")
    if declared:
        if not (declared.isascii() and declared.isdigit() and len(declared) <= 18):
            raise BadRequest("Content-Length is not a number of bytes.", code="bad_content_length")
        return (_pieces(environ, int(declared), watch, patience), int(declared)) if int(declared) else (b"", 0)
    return (_pieces(environ, None, watch, patience), None) if coding else (b"", 0)


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
