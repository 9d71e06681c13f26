"""The sandbox over HTTP: paths, methods and keys, bodies in, JSON and streams out."""

from __future__ import annotations

import json
import re
import sys
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from mistral_filter.fields import ENDPOINTS
from mistral_filter.sandbox.answers import COMPLETIONS, answer
from mistral_filter.sandbox.content import NO_MODEL, dump
from mistral_filter.sandbox.models import MODELS, card
from mistral_filter.sandbox.responses import count, respond
from mistral_filter.sandbox.responses_schema import RESPONSES, responses_violations
from mistral_filter.sandbox.rules import broken_item_rule, broken_rule, flat, refused_by_model
from mistral_filter.sandbox.schema import violations

__all__ = ["Handler", "Server"]

Json = dict[str, Any]

MAX_BODY = 64 * 1024 * 1024
_POSTS = {f"/v1/{name}/completions" if name in COMPLETIONS else f"/v1/{name}": name for name in (*ENDPOINTS, *RESPONSES)}

WRONG, LIMIT, BROKEN = "wrong", "limit", "broken"
"""Keys that are answered with a 401, a 429, and an answer that breaks off; the last two concern POST only."""
_LIMITS = {
    "x-ratelimit-limit-req-minute": "60",
    "x-ratelimit-remaining-req-minute": "0",
    "x-ratelimit-limit-tokens-minute": "2000000",
    "x-ratelimit-remaining-tokens-minute": "2000000",
}
"""What came with a 429: recorded 2025-08-10 and 2026-02-10. No recording has a Retry-After."""
_WHOLE_EVENTS = 3
"""Events of a stream before it breaks off."""


def _post(raw: bytes | bytearray, endpoint: str) -> tuple[int, Json | Iterator[Json]]:
    """Status and answer, or an iterator of stream events, for the bytes of a request body."""
    try:
        body = json.loads(raw, parse_constant=int)  # NaN and Infinity are no JSON, and no int either
    except (ValueError, RecursionError) as exc:
        return 422, {"detail": [{"type": "json_invalid", "loc": ["body", getattr(exc, "pos", 0)], "msg": "JSON decode error"}]}
    if detail := (responses_violations if endpoint in RESPONSES else violations)(body, endpoint):
        return 422, flat({"detail": detail}, status=422)
    refusal = refused_by_model(body)
    if endpoint in ("chat", "agents"):
        refusal = refusal or broken_rule(body)
    elif endpoint in RESPONSES:
        refusal = refusal or broken_item_rule(body)
    if refusal:
        return 400, refusal
    if endpoint in RESPONSES:
        return 200, respond(body) if endpoint == "responses" else count(body)
    return 200, answer(body, endpoint)


def _get(name: str) -> tuple[int, Json]:
    """One model, or all of them where no *name* is given."""
    if not name:
        return 200, {"object": "list", "data": [card(known, NO_MODEL) for known in MODELS]}
    return (200, card(name, NO_MODEL)) if name in MODELS else (404, {"message": f"Model {name} was not found."})


def _event(data: Json) -> bytes:
    """An event of a stream; those of Responses bear their type as a name too."""
    name = b"event: %b\n" % data["type"].encode() if "type" in data else b""
    return b"%bdata: %b\n\n" % (name, dump(data))


class Server(ThreadingHTTPServer):
    """A thread for each connection; ``delay`` is the pause in seconds after each event of a stream."""

    daemon_threads = True
    request_queue_size = 128
    delay = 0.02

    def handle_error(self, request: object, client_address: object) -> None:
        """A traceback on standard error, except for a client that leaves, which is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _BadBody(Exception):
    """The request's body cannot be read, so neither can what follows on the connection: a status and a sentence."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: without this the second waits for an ACK
    server_version, sys_version = "mistral-filter-sandbox", ""
    server: Server
    breaks = False
    """Whether the answer breaks off; the connection ends with it."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a request line can hold what is nobody's business."""

    def end_headers(self) -> None:
        """The end of every head, 100 Continue included: Mistral gives each an id."""
        self.send_header("mistral-correlation-id", str(uuid.uuid4()))
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses by itself (a broken request line, an unknown method), in JSON."""
        self._send(code, {"message": message or "Bad Request"}, ("Connection", "close"))

    def do_POST(self) -> None:
        """Answer a request, whatever its method: read all of its body first, or the next request would start inside it."""
        try:
            raw = self._body()
        except _BadBody as exc:
            return self.send_error(*exc.args)
        path = self.path.partition("?")[0]
        model = re.fullmatch("/v1/models(?:/([^/]+))?", path)
        allowed = "POST" if path in _POSTS else "GET" if model else ""
        if not allowed:
            return self._send(404, {"message": "no Route matched with those values", "request_id": uuid.uuid4().hex})
        if self.command != allowed and (self.command, allowed) != ("HEAD", "GET"):
            return self._send(405, {"detail": "Method Not Allowed"}, ("Allow", allowed))
        bearer = re.match(r"Bearer +([^ ]+)", self.headers.get("Authorization") or "", re.IGNORECASE)
        if not bearer:
            return self._send(401, {"detail": "Unauthorized"})
        if bearer[1] == WRONG:
            return self._send(401, {"detail": "Invalid API Key"})
        if model:
            return self._send(*_get(unquote(model[1] or "")))
        if bearer[1] == LIMIT:
            return self._send(429, flat("Rate limit exceeded", "rate_limited", "1300", 429), *_LIMITS.items())
        self.breaks = bearer[1] == BROKEN
        status, answered = _post(raw, _POSTS[path])
        return self._send(status, answered) if isinstance(answered, dict) else self._stream(answered)

    do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST

    def _body(self) -> bytearray:
        body = bytearray()
        for size in self._sizes():
            if len(body) + size > MAX_BODY:
                raise _BadBody(413, "Request body too large")
            body += (part := self.rfile.read(size))
            if len(part) < size:
                raise _BadBody(400, "Request body ended early")
        return body

    def _sizes(self) -> Iterator[int]:
        """The length of each part of the body, at the moment when the part is next to be read."""
        coding, length = self.headers.get("Transfer-Encoding"), self.headers.get("Content-Length", "0")
        if coding is None:
            if not re.fullmatch("[0-9]{1,18}", length):
                raise _BadBody(400, "Request body has no valid length")
            yield int(length)
            return
        if coding.strip().lower() != "chunked":
            raise _BadBody(400, "Request body has an unknown transfer encoding")
        while match := re.match(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\n]*)?\r?\n", self.rfile.readline(1024)):
            if not (size := int(match[1], 16)):
                while self.rfile.readline(65536).strip():  # trailers
                    pass
                return
            yield size
            self.rfile.readline(3)
        raise _BadBody(400, "Request body is badly chunked")

    def _head(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for header in headers:
            self.send_header(*header)
        self.end_headers()

    def _send(self, status: int, answered: Json, *headers: tuple[str, str]) -> None:
        body = dump(answered)
        self._head(status, ("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers)
        if self.breaks:
            body, self.close_connection = body[: len(body) // 2], True
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self, events: Iterator[Json]) -> None:
        chunked = self.request_version != "HTTP/1.0"  # which knows no chunks: there the end of the connection ends the answer
        framing = ("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")
        self._head(200, ("Content-Type", "text/event-stream; charset=utf-8"), framing)
        data: Json = {}
        for i, data in enumerate(events):
            time.sleep(self.server.delay if i else 0)
            if self.breaks and i == _WHOLE_EVENTS:
                self.close_connection = True
                return
            self._piece(_event(data), chunked)
        if "type" not in data:  # no end mark is known for the events of Responses
            time.sleep(self.server.delay)
            self._piece(b"data: [DONE]\n\n", chunked)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _piece(self, line: bytes, chunked: bool) -> None:
        """Write an event; the file is unbuffered, so each leaves at once."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line) if chunked else line)
