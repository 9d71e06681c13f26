"""Nothing secret leaves: canaries in key, query, headers, prompt and values, through faults of upstreams and clients.

They must not be in what the server writes to stdout or stderr, with everything logged, nor in an error of ours. What the
upstream itself says of a request (``input`` in a 422) is its own answer, and may pass.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import BadFraming, Gunicorn, Response, connect, eventually, raw_request, read_response
from upstream import (
    Exchange,
    Script,
    ScriptedUpstream,
    chain,
    early,
    early_hints,
    echo,
    extra_bytes_after,
    head_bytes,
    in_turn,
    json_answer,
    no_reply,
    raw,
    reset,
    sse,
    sse_bytes,
    stall,
)

CHAT = "/v1/chat/completions"
CANARY = "canary"
KEY, QUERY, PROMPT, VALUE, HEADER = (f"{CANARY}-{what}-7Yq3" for what in ("key", "query", "prompt", "value", "header"))
ESCAPED_QUERY = "%63%61nary-query-7Yq3"

Start = Callable[..., Gunicorn]


@pytest.fixture(scope="module")
def own_upstream() -> Iterator[ScriptedUpstream]:
    """An upstream of this file's own: some requests here are still on their way when their test has ended."""
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def upstream(own_upstream: ScriptedUpstream) -> ScriptedUpstream:
    """It, as new."""
    own_upstream.clear()
    return own_upstream


@pytest.fixture(scope="module")
def talkative(shared_servers: Start, own_upstream: ScriptedUpstream) -> Iterator[Gunicorn]:
    """A server that logs all it can, gunicorn included; when it has ended nothing of the canaries is in its log."""
    server = shared_servers(
        "--log-level",
        "debug",
        "--access-logfile",
        "-",
        WEB_CONCURRENCY=1,
        MISTRAL_FILTER_UPSTREAM=own_upstream.url,
        MISTRAL_FILTER_READ_TIMEOUT=1,
        MISTRAL_FILTER_TOTAL_TIMEOUT=2,
        MISTRAL_FILTER_BODY_TIMEOUT=1,
        MISTRAL_FILTER_SEND_TIMEOUT=1,
        MISTRAL_FILTER_MAX_BODY="64k",
        MISTRAL_FILTER_LOG_LEVEL="DEBUG",
    )
    yield server
    assert CANARY not in server.log().lower()


def body(**more: object) -> dict[str, object]:
    """Canaries wherever a request has values: messages, tools, unknown fields, fields of the wrong type."""
    return {
        "model": "m",
        "messages": [
            {"role": "user", "content": PROMPT, "name": VALUE},
            {"role": "assistant", "tool_calls": [{"id": VALUE, "function": {"name": VALUE, "arguments": PROMPT}}]},
            {"role": "tool", "tool_call_id": VALUE, "content": [{"type": "text", "text": PROMPT, "cache_control": VALUE}]},
        ],
        "temperature": 9,
        "user": VALUE,
        "logit_bias": {"1": VALUE},
        "metadata": {"a": VALUE},
        "stop": [VALUE],
        **more,
    }


HEAD = {
    "Host": "x",
    "Origin": "https://chat.example.com",
    "Authorization": f"Bearer {KEY}",
    "Cookie": f"session={HEADER}",
    "X-Secret": HEADER,
    "User-Agent": HEADER,
    "X-Request-Id": HEADER,
    "Referer": f"https://a.example/?q={QUERY}",
}


def request_bytes(
    content: object = None, target: str = f"{CHAT}?q={QUERY}&e={ESCAPED_QUERY}", method: str = "POST", **headers: str | None
) -> bytes:
    data = content if isinstance(content, bytes) else json.dumps(body() if content is None else content).encode()
    fields = {**HEAD, "Content-Length": str(len(data)), "Content-Type": "application/json"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
    fields = {name: value for name, value in fields.items() if headers.get(name.replace("-", "_"), "") is not None}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("utf-8") + data


def quiet(server: Gunicorn, before: int) -> None:
    """What was logged since *before* holds no canary, in any spelling."""
    log = server.log()[before:].lower()
    assert CANARY not in log, [line for line in log.splitlines() if CANARY in line]


def error_quotes_nothing(response: Response) -> None:
    """An answer that is an error, or ends with one, has no canary in it."""
    text = response.body + repr(response.headers).encode()
    if response.status >= 400 or b'"error"' in response.body:
        assert CANARY.encode() not in text.lower(), response


# ------------------------------------------------------------------------------------------------- faults of upstreams

EXTRA: dict[str, Any] = {"type": "extra_forbidden", "loc": ["body", "temperature"], "msg": "Extra inputs are not permitted"}
EVENTS = [{"n": 1}, {"n": 2}, "[DONE]"]
JSON = ("Content-Type", "application/json")

FAULTS: dict[str, Script] = {
    "fine": json_answer({"id": 1}),
    "a stream": sse(EVENTS),
    "no reply": no_reply,
    "reset": reset,
    "silence": stall(),
    "a dripped head": raw(head_bytes(200, [("X-Long", "x" * 500)]), size=1, gap=0.05),
    "a cut head": raw(b"HTTP/1.1 200 OK\r\nContent-"),
    "not HTTP": raw(f"{KEY} {PROMPT}\r\n\r\n".encode()),
    "a bad status": raw(f"HTTP/1.1 abc {PROMPT}\r\n\r\n".encode()),
    "a bad header line": raw(f"HTTP/1.1 200 OK\r\n{KEY}\r\nContent-Length: 0\r\n\r\n".encode()),
    "a bad length": raw(f"HTTP/1.1 200 OK\r\nContent-Length: {KEY}\r\n\r\n".encode()),
    "two lengths": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "a bad coding": raw(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {KEY}\r\n\r\n".encode()),
    "a redirect": raw(head_bytes(302, [("Location", f"/?q={QUERY}&k={KEY}"), ("Content-Length", "0")])),
    "switching protocols": raw(head_bytes(101, [("Upgrade", PROMPT)])),
    "too many hints": chain(*[early_hints()] * 30),
    "too many headers": raw(head_bytes(200, [(f"X-{n}", PROMPT) for n in range(200)])),
    "a long header": raw(head_bytes(200, [("X-Long", PROMPT * 10_000)])),
    "a header with NUL": raw(head_bytes(200, [("X-N", f"\0{PROMPT}"), ("Content-Length", "0")])),
    "left-over bytes": extra_bytes_after(json_answer({"id": 1}), PROMPT.encode()),
    "a cut body": raw(head_bytes(200, [JSON, ("Content-Length", "999")]) + PROMPT.encode()),
    "a silent body": chain(raw(head_bytes(200, [JSON, ("Content-Length", "999")]) + PROMPT.encode()), stall()),
    "a bad chunk": raw(head_bytes(200, [JSON, ("Transfer-Encoding", "chunked")]) + PROMPT.encode() + b"\r\n"),
    "a cut stream": raw(sse_bytes(EVENTS)[:-12]),
    "a reset stream": chain(raw(sse_bytes(EVENTS)[:-12]), reset),
    "a silent stream": chain(raw(sse_bytes(EVENTS)[:-12]), stall()),
    "an endless stream": sse([b"data: 1\n\n"] * 1000, gap=0.05),
    "early refusal": early(raw(head_bytes(413, [("Content-Length", "0"), ("Connection", "close")]))),
    "an answer that is no JSON": raw(head_bytes(200, [JSON, ("Content-Length", "2")]) + b"{{"),
    "a failed model": json_answer({"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "error"}]}),
    "a failed stream": sse([{"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "error"}]}, "[DONE]"]),
    "a refused field": in_turn(json_answer({"detail": [EXTRA]}, 422), json_answer({"id": 1})),
    "a field refused twice": json_answer({"detail": [EXTRA]}, 422),
    "a long error": raw(head_bytes(500, [JSON, ("Content-Length", "2000000")]) + b"x" * 2_000_000),
    "gzip that is none": raw(head_bytes(500, [JSON, ("Content-Encoding", "gzip"), ("Content-Length", "2")]) + b"{}"),
    "gzip that is cut": raw(
        head_bytes(400, [JSON, ("Content-Encoding", "gzip"), ("Connection", "close")]) + gzip.compress(b'{"detail": "no"}')[:-6]
    ),
}


@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.parametrize("target", [CHAT, "/v1/files"])
def test_a_fault_of_the_upstream(talkative: Gunicorn, upstream: ScriptedUpstream, fault: str, target: str) -> None:
    """Whatever the upstream does, what the server writes and answers by itself holds nothing of the request."""
    upstream.script = FAULTS[fault]
    before = len(talkative.log())
    with connect(talkative.port) as sock:
        sock.sendall(request_bytes(body(stream=True), f"{target}?q={QUERY}&e={ESCAPED_QUERY}"))
        response = read_response(sock)
    error_quotes_nothing(response)
    quiet(talkative, before)
    assert upstream.accepted  # it was the upstream that failed


def test_what_the_upstream_says_of_a_request_passes(talkative: Gunicorn, upstream: ScriptedUpstream) -> None:
    """The value that Mistral quotes comes down to the caller whose it is, and to nobody's log."""
    violation = {"type": "string_type", "loc": ["body", "messages", 0, "user", "content"], "msg": "not a string", "input": PROMPT}
    upstream.script = json_answer({"detail": [violation]}, 422)
    before = len(talkative.log())
    with connect(talkative.port) as sock:
        sock.sendall(request_bytes())
        response = read_response(sock)
    assert response.status == 422
    assert response.json()["detail"] == [violation]
    assert PROMPT not in json.dumps(response.json()["error"])
    quiet(talkative, before)


def test_an_upstream_that_is_down(talkative: Gunicorn, upstream: ScriptedUpstream) -> None:
    """A connection that fails: the library's exceptions hold URL and query, the answer and the log do not."""
    before = len(talkative.log())
    with upstream.down(), connect(talkative.port) as sock:
        sock.sendall(request_bytes())
        response = read_response(sock)
    assert response.status == 502
    error_quotes_nothing(response)
    quiet(talkative, before)


# --------------------------------------------------------------------------------------------------- faults of clients

DEEP = b'{"messages": ' + b"[" * 5000 + b'"' + PROMPT.encode() + b'"'
CLIENTS: dict[str, bytes] = {
    "JSON that is cut": request_bytes(json.dumps(body()).encode()[:-3]),
    "no JSON": request_bytes(PROMPT.encode()),
    "bad UTF-8": request_bytes(b'{"messages": "' + PROMPT.encode() + b'\xff"}'),
    "NaN": request_bytes(b'{"a": NaN, "b": "' + PROMPT.encode() + b'"}'),
    "too deep": request_bytes(DEEP),
    "a list": request_bytes(json.dumps([PROMPT]).encode()),
    "a string": request_bytes(json.dumps(PROMPT).encode()),
    "trailing bytes": request_bytes(b"{}" + PROMPT.encode()),
    "too large": request_bytes(body(extra=PROMPT * 10_000)),
    "compressed": request_bytes(Content_Encoding="gzip"),
    "strict": request_bytes(Mistral_Filter_Strict="on"),
    "token ids": request_bytes({"model": VALUE, "input": [1, 2], "user": VALUE}, f"/v1/embeddings?{QUERY}"),
    "a foreign file": request_bytes(
        body(messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": VALUE, "filename": VALUE}}]}])
    ),
    "a conversation": request_bytes({"model": "m", "input": PROMPT, "previous_response_id": VALUE}),
    "wrong types": request_bytes({"model": [VALUE], "messages": VALUE, "tools": VALUE, "stop": {VALUE: 1}}),
    "two keys": request_bytes(Authorization=f"Bearer {KEY}, Bearer {KEY}"),
    "a key of other letters": request_bytes(Authorization=f"Bearer {KEY}é"),
    "no such path": request_bytes(target=f"/no/v1/x?{QUERY}"),
    "no such API": request_bytes(target=f"/v1/images?{QUERY}"),
    "a disguised path": request_bytes(target=f"/v1/%63hat/../x/%2e%2e/chat/completions?{QUERY}"),
    "a wrong method": request_bytes(method="DELETE"),
    "an unknown method": request_bytes(method="FOO"),
    "a bad method": request_bytes(method=f"P@ST{KEY}"),
    "a bad target": request_bytes(target=f"{CHAT}?{QUERY}\x01"),
    "a bad version": f"POST {CHAT}?{QUERY} HTTP/9.{KEY}\r\nHost: x\r\n\r\n".encode(),
    "no request line": f"{KEY} {PROMPT}\r\n\r\n".encode(),
    "a bad header name": f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization {KEY}: 1\r\n\r\n".encode(),
    "a header without a colon": f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {KEY}\r\n\r\n".encode(),
    "a header with NUL": f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \0{KEY}\r\n\r\n".encode(),
    "a folded header": f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n {KEY}\r\n\r\n".encode(),
    "an underscore": f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nX_{KEY}: 1\r\n\r\n".encode(),
    "a bad length": request_bytes(Content_Length=KEY),
    "two lengths": f"POST {CHAT}?{QUERY} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: {KEY}\r\n\r\n".encode(),
    "a bad coding": f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {KEY}\r\n\r\n".encode(),
    "a bad expectation": request_bytes(Expect=KEY),
    "a bad chunk": f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{PROMPT}\r\n".encode(),
    "a bad chunk of an upload": f"POST /v1/files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{PROMPT}\r\n".encode(),
    "a long line": request_bytes(target=f"{CHAT}?{QUERY * 1000}"),
    "a long header": request_bytes(X_Long=KEY * 2000),
    "many headers": request_bytes(**{f"X_{n}": KEY for n in range(150)}),
    "a body that is cut": request_bytes()[:-9],
    "an upload that is cut": request_bytes(b"x" * 70_000 + PROMPT.encode(), "/v1/files")[:-9],
    "an Origin of lies": request_bytes(Origin=f"https://{KEY}.example"),
    "a preflight": request_bytes(
        method="OPTIONS", Access_Control_Request_Method="POST", Access_Control_Request_Headers="authorization"
    ),
    "explain": request_bytes(b'{"messages": "' + PROMPT.encode(), "/explain/chat"),
    "explain nothing": request_bytes(target=f"/explain/nothing?{QUERY}"),
    "SCRIPT_NAME": request_bytes(Script_Name=VALUE),
}


@pytest.mark.parametrize("fault", list(CLIENTS))
def test_a_fault_of_the_client(talkative: Gunicorn, upstream: ScriptedUpstream, fault: str) -> None:
    """Whatever a client sends, neither the log nor an error quotes it."""
    upstream.script = json_answer({"id": 1})
    before = len(talkative.log())
    answer = raw_request(talkative.port, CLIENTS[fault] + b"", half_close=True)
    status = int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0
    if status >= 400:
        shown = answer.replace(f"https://{KEY}.example".encode(), b"")  # the Origin is answered by its name
        assert CANARY.encode() not in shown.lower(), answer
    quiet(talkative, before)


@pytest.mark.parametrize("when", ["at once", "before the head", "in a stream", "in an upload"])
def test_a_client_that_leaves(talkative: Gunicorn, upstream: ScriptedUpstream, when: str) -> None:
    """By a reset, at any moment: the log says at most that it left."""

    def told(exchange: Exchange) -> None:
        exchange.send(sse_bytes(EVENTS)[:-30])
        exchange.sleep(1)

    upstream.script = {"before the head": stall(1), "in a stream": told}.get(when, echo)
    before = len(talkative.log())
    with connect(talkative.port) as sock, contextlib.suppress(BadFraming):
        whole = request_bytes(body(stream=True), "/v1/files" if when == "in an upload" else f"{CHAT}?{QUERY}")
        sock.sendall(whole[:-9] if when == "in an upload" else whole)
        if when in ("before the head", "in a stream"):
            upstream.wait()
        if when == "in a stream":
            sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if when in ("before the head", "in a stream"):
        eventually(lambda: len(talkative.log()) > before, "the log line")
    quiet(talkative, before)
