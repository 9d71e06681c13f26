"""The sandbox over HTTP: paths, methods and keys, bodies in, JSON and streams out."""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from mistral_filter.fields import ENDPOINTS, RESPONSES
from mistral_filter.sandbox.answers import COMPLETIONS, MODELS, answer, dump
from mistral_filter.sandbox.rules import broken_rule, flat
from mistral_filter.sandbox.schema import violations

__all__ = ["Handler", "Server"]

Json = dict[str, Any]

MAX_BODY = 64 * 1024 * 1024
_POSTS = {
    f"/v1/{name}/completions" if name in COMPLETIONS else f"/v1/{name}": name for name in ENDPOINTS if name not in RESPONSES
}


def _post(raw: bytes | bytearray, endpoint: str) -> tuple[int, Json | Iterator[Json]]:
    """Status and answer, or an iterator of stream events, for the bytes of a request body."""
    try:
        body = json.loads(raw, parse_constant=int)  # NaN and Infinity are no JSON, and no int either
    except (ValueError, RecursionError) as exc:
        return 422, {"detail": [{"type": "json_invalid", "loc": ["body", getattr(exc, "pos", 0)], "msg": "JSON decode error"}]}
    if detail := violations(body, endpoint):
        return 422, {**flat({"detail": detail}), "raw_status_code": 422}
    if endpoint in ("chat", "agents") and (refusal := broken_rule(body)):
        return 400, refusal
    return 200, answer(body, endpoint)


def _get(name: str) -> tuple[int, Json]:
    """One model, or all of them where no *name* is given."""
    if not name:
        return 200, {"object": "list", "data": MODELS}
    model = next((m for m in MODELS if m["id"] == name), None)
    return (200, model) if model else (404, {"message": f"Model {name} was not found."})


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
        if not re.match(r"Bearer +[^ ]", self.headers.get("Authorization") or "", re.IGNORECASE):
            return self._send(401, {"detail": "Unauthorized"})
        status, answered = _get(unquote(model[1] or "")) if model else _post(raw, _POSTS[path])
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
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self, events: Iterator[Json]) -> None:
        chunked = self.request_version != "HTTP/1.0"  # which knows no chunks: there the end of the connection ends the answer
        framing = ("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")
        self._head(200, ("Content-Type", "text/event-stream; charset=utf-8"), framing)
        for i, data in enumerate(itertools.chain(map(dump, events), [b"[DONE]"])):
            time.sleep(self.server.delay if i else 0)
            line = b"data: %b\n\n" % data
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line) if chunked else line)  # unbuffered: each event leaves at once
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
