"""One exchange: a client's request on its way to an upstream, and the head of the answer; the rest is for ``reply``."""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Response

from mistral_filter import __version__
from mistral_filter.changes import Change
from mistral_filter.errors import BadRequest, MistralFilterError, Unauthorized
from mistral_filter.framing import MAX_LENGTH, framing_of
from mistral_filter.paths import Target
from mistral_filter.proxy import sockets
from mistral_filter.proxy.answers import Plan, plan
from mistral_filter.proxy.call import Call, call_of, has_call
from mistral_filter.proxy.learning import Learned, cured
from mistral_filter.proxy.logs import changes_text
from mistral_filter.proxy.patience import MOST_TRIES, seconds_to_wait
from mistral_filter.proxy.reply import decoded, let_go, respond, whole_error
from mistral_filter.proxy.secret import Reply, ServerKey
from mistral_filter.proxy.upstream import Reply as SentReply
from mistral_filter.proxy.upstream import Upstream
from mistral_filter.proxy.upstream.head import PLAIN_VALUE
from mistral_filter.proxy.violations import curable, read

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["Forwarder", "credentials_of"]

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

_UPLOAD_METHODS = ("POST", "PUT", "PATCH")
_PIECE = 65536

_log = logging.getLogger("mistral_filter")


Send = Callable[[bytes], SentReply]
"""Sends a body; everything else of the request is settled."""

_REFUSED = (400, 422)
"""The statuses of a refusal that may name fields."""


class Forwarder:
    """Forwards requests; one for all requests of a process.

    *learned*: a request that Mistral refuses for fields or options alone is sent once more without them, and they are remembered
    there; None: refusals are passed on. *reasoning* is that of ``answers.plan``, *heartbeat* the seconds of silence after which a
    comment goes down an event stream, *patience* the seconds that a request to an endpoint may wait in all where the upstream
    answers 429.
    """

    def __init__(
        self,
        *,
        learned: Learned | None = None,
        reasoning: str = "openai",
        heartbeat: float | None = None,
        patience: float = 0.0,
    ) -> None:
        self._learned = learned
        self._patience = patience
        self._reasoning = reasoning
        self._heartbeat = heartbeat

    def __call__(self, upstream: Upstream, key: ServerKey, target: Target, environ: WSGIEnvironment) -> Response:
        """Sends the request in *environ* to *target* at *upstream*, with *key*; returns the answer for Flask to send.

        Raises MistralFilterError for what cannot be sent or answered.
        """
        alone = not has_call(environ)
        call = call_of(environ)
        if alone:  # mounted without Calls in front: this room has to look after the call
            sockets.watch(call)
        try:
            call.take_place()
            response = self._forward(upstream, key, target, environ, call)
            if call.waited:
                response.headers.extend(_timing(call))
        except BaseException as error:
            if isinstance(error, MistralFilterError):
                error.headers = (*error.headers, *_timing(call))
            call.outcome = getattr(error, "code", None) or "error"
            if alone:
                call.close()
            raise
        if alone:
            response.call_on_close(call.close)
        return response

    def _forward(self, upstream: Upstream, key: ServerKey, target: Target, environ: WSGIEnvironment, call: Call) -> Response:
        caller = call.credentials or credentials_of(environ)
        authorization = key.authorize(caller)
        headers = [("Authorization", authorization)] if authorization is not None else []
        headers += _passed_on(environ)
        send = partial(upstream.send, call, environ["REQUEST_METHOD"], target.path, environ.get("QUERY_STRING", ""))
        send = partial(send, caller=caller)
        if target.endpoint is None:
            encoding = "" if key.used else environ.get("HTTP_ACCEPT_ENCODING", "")
            headers.append(("Accept-Encoding", encoding if encoding and PLAIN_VALUE.fullmatch(encoding) else "identity"))
            coding = environ.get("HTTP_CONTENT_ENCODING")
            if coding and PLAIN_VALUE.fullmatch(coding):  # the body goes up as it came
                headers.append(("Content-Encoding", coding))
            body, length = _upload(environ, call)
            reply = key.keyless(send(headers, body, length=length))
            return respond(reply, Plan(), None, target, environ, call, self._heartbeat)
        if environ.get("mistral_filter.endpoint") != target.endpoint:
            raise MistralFilterError(code="not_mounted")
        # a page cannot set its User-Agent, so Mistral's SDK says it in a header of its own there
        agent = environ.get("HTTP_X_MISTRAL_USER_AGENT") or environ.get("HTTP_USER_AGENT", "")
        content = environ["wsgi.input"].read()
        environ["wsgi.input"] = io.BytesIO()  # the body is not held longer than it takes to send it
        facts = environ["mistral_filter.facts"]
        needs = plan(target.endpoint, facts.base64, agent, self._reasoning, facts.tool_names)
        readable = needs.rewrites_answer or needs.rewrites_stream or key.used
        gzip = not readable and _accepts_gzip(environ.get("HTTP_ACCEPT_ENCODING", ""))
        headers.append(("Accept-Encoding", "gzip" if gzip else "identity"))
        reply, refusal = self._send(partial(send, headers), content, key, target, caller, environ)
        del content
        call.release_body()
        return respond(reply, needs, refusal, target, environ, call, self._heartbeat)

    def _send(
        self, send: Send, content: bytes, key: ServerKey, target: Target, caller: str | None, environ: WSGIEnvironment
    ) -> tuple[Reply, bytes | None]:
        """The answer to *content*, and its body where that has been read.

        A request that is refused for fields or options alone is sent once more without them, or with the nearest value; in strict
        mode only where nothing is lost. A second refusal is passed on, and remembered too: Mistral names one option at a time.
        """
        assert target.endpoint is not None
        call, learned, model = call_of(environ), self._learned, environ["mistral_filter.facts"].model
        for is_last in (False, True):
            reply, refusal = self._send_patiently(send, content, key, call)
            if learned is None or reply.status not in _REFUSED:
                break
            refusal = whole_error(reply, call)
            new = cured(content, curable(read(decoded(refusal, reply))), target.endpoint)
            if environ.get("mistral_filter.strict") and any(change.loss == "lost" for change in new.changes):
                break
            learned.learn(target.prefix, caller, model, target.endpoint, new.learnt)
            if is_last or not new.changes:
                break
            _report(environ, new.changes)
            _log.warning("%s: refused, sent again: %s", target.endpoint, changes_text(new.changes))
            content = new.body
            let_go(refusal, call)
        return reply, refusal

    def _send_patiently(self, send: Send, content: bytes, key: ServerKey, call: Call) -> tuple[Reply, bytes | None]:
        """The answer to *content*, and its body where that has been read: the last one, where a 429 was waited for."""
        for number in range(MOST_TRIES):
            answer = send(content)
            if (answer.status in _REFUSED and self._learned is not None) or (answer.status == 429 and self._patience):
                answer.retire()  # an upstream that refuses may hang up: the next try must not meet that
            reply = key.keyless(answer)
            if reply.status != 429 or not self._patience:
                return reply, None
            refusal = whole_error(reply, call)
            seconds = seconds_to_wait(reply.headers, number, self._patience - call.waited, time.time())
            if seconds is None or call.remaining(seconds) < seconds or number == MOST_TRIES - 1:
                return reply, refusal
            let_go(refusal, call)
            del refusal
            call.pause(seconds)
        raise AssertionError("the last try returns")


def credentials_of(environ: WSGIEnvironment) -> str | None:
    """What the caller authorizes with, as the one Authorization header; raises BadRequest or Unauthorized for a broken one."""
    credentials: str | None = environ.get("HTTP_AUTHORIZATION")
    if credentials is None:
        value = next((environ[name] for name in KEY_HEADERS if name in environ), None)
        credentials = None if value is None else f"Bearer {value}"
    if credentials is not None and credentials.strip().lower() in ("", "bearer"):
        raise Unauthorized("The Authorization header is empty. Send your key as: Authorization: Bearer KEY.")
    if credentials is not None and not _AUTHORIZATION.fullmatch(credentials):
        raise BadRequest(code="bad_authorization")
    if credentials is not None and " " not in credentials:
        raise Unauthorized('The Authorization header lacks the word "Bearer". Send your key as: Authorization: Bearer KEY.')
    return credentials


def _passed_on(environ: WSGIEnvironment) -> Iterator[tuple[str, str]]:
    """The headers for the upstream that come from the client's."""
    for name, place in REQUEST_HEADERS.items():
        value = environ.get(place)
        if value is not None and PLAIN_VALUE.fullmatch(value):
            yield name, value
    agent = environ.get("HTTP_USER_AGENT")
    yield "User-Agent", agent if agent and PLAIN_VALUE.fullmatch(agent) else f"mistral-filter/{__version__}"


def _accepts_gzip(accepted: str) -> bool:
    """What an Accept-Encoding header says of gzip."""
    for item in accepted.lower().split(","):
        name, _, quality = item.partition(";")
        if name.strip() == "gzip":
            return not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", quality)
    return False


def _report(environ: WSGIEnvironment, changes: Iterable[Change]) -> None:
    environ["mistral_filter.changes"] = (*environ.get("mistral_filter.changes", ()), *changes)


def _timing(call: Call) -> list[tuple[str, str]]:
    """The header that says how long a call waited for its turn; it may stand beside one of the upstream's."""
    return [("Server-Timing", f"wait;dur={call.waited * 1000:.0f}")] if call.waited else []


def _upload(environ: WSGIEnvironment, call: Call) -> tuple[bytes | Iterator[bytes] | None, int | None]:
    """The body of a request that is not the filter's to judge, and its length: streamed, never held in memory."""
    if environ["REQUEST_METHOD"] not in _UPLOAD_METHODS:
        return None, None
    length, chunked = framing_of(environ)
    if length == MAX_LENGTH:
        raise BadRequest(code="bad_content_length")
    if length is None and not chunked:
        length = 0
    if length == 0:
        return b"", 0
    if call.body is not None:
        call.body.stream()
    return _pieces(environ["wsgi.input"], length, call), length


def _pieces(source: Any, length: int | None, call: Call) -> Iterator[bytes]:
    """The request's body as it comes; raises BadRequest when it breaks, so that no cut upload looks complete upstream."""
    missing = length
    while missing is None or missing > 0:
        try:
            piece = source.read(_PIECE if missing is None else min(_PIECE, missing))
        except MistralFilterError:
            raise
        except Exception:  # every server has exceptions of its own for a broken body
            if call.answered_early:
                return
            call.check()
            raise BadRequest(code="body_cut_short") from None
        if call.answered_early:
            return
        if not piece:
            break
        missing = None if missing is None else missing - len(piece)
        yield piece
    call.check()  # a connection that was shut down looks like one that ended
    if missing:
        raise BadRequest(f"The body was cut short: {missing} of {length} bytes are missing.", code="body_cut_short")
