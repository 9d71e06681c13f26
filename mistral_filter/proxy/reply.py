"""An upstream's reply as the client gets it: headers by rule, errors and bodies by ``answers``, streams as they come."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from flask import Response
from werkzeug.datastructures import Headers

from mistral_filter.errors import ClientGone, NotFound, Overloaded, UpstreamError
from mistral_filter.paths import Target
from mistral_filter.proxy import sockets
from mistral_filter.proxy.answers import Plan, error_answer
from mistral_filter.proxy.answers.responses import next_number
from mistral_filter.proxy.call import Call
from mistral_filter.proxy.hints import NOT_OFFERED
from mistral_filter.proxy.secret import Reply

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["decoded", "let_go", "respond", "whole_error"]

REQUEST_ID = "mistral-correlation-id"
"""Mistral's name for what OpenAI's clients know as x-request-id."""

WHOLE = 1024 * 1024
"""Bytes. JSON answers up to this size are read to the end first, so that a failure can still be a status."""

WHOLE_COMPLETION = 4 * 1024 * 1024
"""Bytes. The same for completions, which have to be whole to be rewritten: several choices of the longest that a model writes."""

PIECE = 65536
"""Bytes that a client is given at a time."""

_MEMBERS = 16
"""How many gzip members, one behind the other, are read as one body."""

_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")

_LIVE = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


def respond(
    reply: Reply, plan: Plan, body: bytes | None, target: Target, environ: WSGIEnvironment, call: Call, heartbeat: float | None
) -> Response:
    """The client's response to *reply*, which *plan* says how to rewrite; *body* is its body if that has been read.

    *heartbeat* are the seconds of silence after which a comment goes down an event stream. What is read whole counts as held by
    *call*; an answer for which there is no room is passed on as it comes: it has been paid for. Raises MistralFilterError while
    the failure can be a status.
    """
    if environ["REQUEST_METHOD"] == "HEAD" or reply.status in (204, 304):
        reply.close()
        return _response(reply, b"")
    if reply.status == 404 and target.path in NOT_OFFERED:
        reply.close()
        raise NotFound(NOT_OFFERED[target.path])
    if reply.status >= 400:
        return _error_response(reply, whole_error(reply, call) if body is None else body)
    http_1_0 = environ.get("SERVER_PROTOCOL") == "HTTP/1.0"
    names = {name.lower(): value for name, value in reversed(reply.headers)}  # of several the first
    content_type = names.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    plain = names.get("content-encoding", "").lower() in ("", "identity")
    if kind == "text/event-stream":
        pieces = reply.pieces(heartbeat if plain else None)
        stream = _stream(
            reply, plan.events(pieces) if plain else pieces, call, http_1_0, live=True, events=plan if plain else None
        )
        # a stream that can be read may get an event more
        return _response(reply, stream, {**_LIVE, "Content-Length": ""} if plain else _LIVE)
    rewrites = plain and plan.rewrites_answer
    limit = WHOLE_COMPLETION if rewrites and plan.completions else WHOLE
    if kind != "application/json" or (reply.length or 0) > limit:
        limit = 0  # the first piece alone: a failure before it can still be a status
    content, rest = reply.whole(limit, call.held if limit else None)
    _still_wanted(reply, call)
    if rest is not None:
        pieces = chain(_slices(content), rest)
        if rewrites and plan.rewrites_pieces and kind == "application/json":
            return _response(reply, _stream(reply, plan.pieces(pieces), call, http_1_0), {"Content-Length": ""})
        return _response(reply, _stream(reply, pieces, call, http_1_0))
    if rewrites:
        content = plan.whole(reply.status, content_type, content)
    length = {"Content-Length": str(len(content))}
    if len(content) > PIECE:
        return _response(reply, _stream(reply, _slices(content), call, http_1_0), length)
    return _response(reply, content, length)


def _still_wanted(reply: Reply, call: Call) -> None:
    """Raises what the call was ended for while its last bytes came, as long as that can be a status."""
    if call.reason is not None:
        reply.close()
        call.check()


def _stream(
    reply: Reply, pieces: Iterator[bytes], call: Call, http_1_0: bool, *, live: bool = False, events: Plan | None = None
) -> Iterator[bytes]:
    """The body piece by piece. *live*: the head does not wait for the first piece.

    *events*: the plan for the pieces, where they are those of an event stream that can be read. A break is never a clean end:
    where an event could begin it is an error event first, then the framing is left unterminated. An empty piece is a heartbeat,
    which also goes out only where an event could begin.
    """
    tail = b"\n\n"
    number = 0
    try:
        if live:
            yield b""  # a model may think for longer than a router waits
        for piece in pieces:
            call.check()  # a slow client can take longer over what is here already than there is time
            if piece:
                yield piece
                if events is not None and events.responses:
                    number = next_number(piece, number)
                tail = piece if len(piece) > 3 else (tail + piece)[-4:]
            elif events is not None and tail.endswith(_EVENT_ENDS):
                yield b": keep-alive\n\n"
    except (UpstreamError, ClientGone) as error:
        call.outcome = error.code
        if events is not None and isinstance(error, UpstreamError) and tail.endswith(_EVENT_ENDS):
            yield events.error_event(error, number)
        if http_1_0:
            sockets.reset(call.client)
        raise _broken_off() from None
    finally:
        reply.close()


def _broken_off() -> OSError:
    """For the server, after the first byte: it closes the connection at once, unterminated, without a traceback in its log."""
    return ConnectionResetError(errno.ECONNRESET, "the answer from upstream was cut short")


def _error_response(reply: Reply, body: bytes) -> Response:
    """An upstream's refusal or failure, with the object that OpenAI's clients read beside what it said."""
    content = decoded(body, reply)
    if content is body and _header(reply, "content-encoding").lower() not in ("", "identity"):
        return _response(reply, body, {"Content-Length": str(len(body))})  # cannot be read here
    kind, content = error_answer(reply.status, _header(reply, "content-type"), content)
    return _response(reply, content, {"Content-Type": kind, "Content-Length": str(len(content)), "Content-Encoding": ""})


def whole_error(reply: Reply, call: Call) -> bytes:
    """The body of an upstream's refusal or failure.

    Raises UpstreamError for one that is too long to be read to the end, and Overloaded where *call* has no room for it.
    """
    body, rest = reply.whole(WHOLE, call.held)
    if rest is not None:
        reply.close()
        if len(body) <= WHOLE:
            raise Overloaded(code="body_budget")
        raise UpstreamError("upstream_error_too_large", f"The upstream answered {reply.status} with a very long page.")
    return body


def let_go(refusal: bytes, call: Call) -> None:
    """What ``whole_error`` returned is not passed on, since the request is sent again."""
    if call.held is not None:
        call.held.give_back(len(refusal))


def _header(reply: Reply, name: str) -> str:
    return next((value for given, value in reply.headers if given.lower() == name), "")


def _response(reply: Reply, body: bytes | Iterator[bytes], instead: dict[str, str] | None = None) -> Response:
    """The client's response; *instead* are headers that replace the upstream's, an empty one takes it away."""
    headers = reply.headers
    if instead:
        replaced = {name.lower() for name in instead}
        headers = [header for header in headers if header[0].lower() not in replaced]
        headers += [(name, value) for name, value in instead.items() if value]
    ids = {name.lower(): value for name, value in headers if name[-2:] in ("id", "Id", "iD", "ID")}
    if REQUEST_ID in ids and "x-request-id" not in ids:
        headers = [*headers, ("X-Request-Id", ids[REQUEST_ID])]
    # of bytes in a list werkzeug makes no length up, either
    return _PassedOn([body] if isinstance(body, bytes) else body, f"{reply.status} {reply.reason}", Headers(headers))


class _PassedOn(Response):
    """Its headers go out unchanged: werkzeug would parse a Location, which may be none, and make up a length for HEAD.

    Its body is given to the server as it is: werkzeug would put two iterators around it, which cost more than a piece does.
    """

    default_mimetype = None  # an upstream that names no type may have none
    has_callbacks = False

    def call_on_close(self, func: Callable[[], Any]) -> Callable[[], Any]:
        """Calls *func* when the response is closed; werkzeug's iterator does that."""
        self.has_callbacks = True
        return super().call_on_close(func)

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        """The pieces of the body."""
        if self.has_callbacks or environ["REQUEST_METHOD"] == "HEAD" or self.status_code in (204, 304):
            return super().get_app_iter(environ)
        return self.response  # type: ignore[return-value]  # all of them are bytes

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
