"""A kept connection that the upstream closes in the instant of its reuse: one retry on a fresh one, where that is safe."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import Gunicorn, Response, ask, eventually
from upstream import Exchange, Script, ScriptedUpstream, chain, echo, in_turn, json_answer, no_reply, raw, reset, sse

CHAT = "/v1/chat/completions"
KEY = ("Authorization", "Bearer caller-key")
ORIGIN = ("Origin", "https://chat.example.com")
WORKERS = {"gevent": (), "gthread": ("-k", "gthread", "--threads", "8")}
REST = 0.06
"""Seconds between two requests: the connection rests as long as it does between two turns of a client."""

Start = Callable[..., Gunicorn]
Close = Callable[[Exchange], None]

CLOSES: dict[str, Close] = {"FIN, then RST": Exchange.close_unread}


@pytest.fixture(params=list(WORKERS))
def server(request: pytest.FixtureRequest, gunicorn_server: Start) -> Gunicorn:
    """One worker of each kind."""
    return gunicorn_server(*WORKERS[request.param], WEB_CONCURRENCY=1)


def chat(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], **more}


def post(server: Gunicorn, tag: str, target: str = CHAT, **more: object) -> Response:
    return ask(server.port, "POST", target, chat(model=tag, **more), [KEY, ORIGIN])


def closed_when_reused(script: Script, close: Close) -> Script:
    """*script*; the connection is kept until the first bytes of the next request arrive, which nobody reads."""

    def then_close(exchange: Exchange) -> None:
        exchange.wait_for_bytes()
        close(exchange)

    return chain(script, then_close)


@pytest.mark.parametrize("close", list(CLOSES))
def test_each_request_is_served_by_one_fresh_connection(server: Gunicorn, upstream: ScriptedUpstream, close: str) -> None:
    """T2: an upstream that closes whenever a connection is reused: every POST is served, and arrives once."""
    upstream.script = closed_when_reused(echo, CLOSES[close])
    for number in range(6):
        response = post(server, f"m{number}")
        assert (response.status, response.complete) == (200, True), response
        assert json.loads(response.json()["body"])["model"] == f"m{number}"
        time.sleep(REST)
    assert [request.model for request in upstream.requests] == [f"m{number}" for number in range(6)]
    assert not any(request.cut for request in upstream.requests)
    assert upstream.accepted == 6


@pytest.mark.parametrize("close", list(CLOSES))
def test_large_bodies_streams_and_other_methods_too(server: Gunicorn, upstream: ScriptedUpstream, close: str) -> None:
    """T2: where the close comes in the middle of writing, where a stream is asked for, and without a body."""
    upstream.script = closed_when_reused(json_answer({"id": "1"}), CLOSES[close])
    assert post(server, "first").status == 200
    time.sleep(REST)
    assert post(server, "large", user="x" * 6_000_000).status == 200
    time.sleep(REST)
    assert ask(server.port, "GET", "/v1/models/x", None, [KEY]).status == 200
    time.sleep(REST)
    assert ask(server.port, "DELETE", "/v1/models/x", None, [KEY]).status == 200
    time.sleep(REST)
    upstream.script = closed_when_reused(sse(["a", "[DONE]"]), CLOSES[close])
    response = post(server, "stream", stream=True)
    assert (response.status, response.complete) == (200, True)
    assert response.body.endswith(b"data: [DONE]\n\n")
    methods = [request.method for request in upstream.requests]
    assert methods == ["POST", "POST", "GET", "DELETE", "POST"]
    assert not any(request.cut for request in upstream.requests)


@pytest.mark.parametrize("close", list(CLOSES))
def test_the_retry_takes_a_fresh_connection(server: Gunicorn, upstream: ScriptedUpstream, close: str) -> None:
    """T2: all kept connections are closed when they are reused: the retry does not try the next of them."""
    closing = closed_when_reused(echo, CLOSES[close])

    def slowly(exchange: Exchange) -> None:
        exchange.sleep(0.2)
        closing(exchange)

    upstream.script = slowly
    with ThreadPoolExecutor(3) as pool:  # at once, so that each has a connection of its own
        assert [response.status for response in pool.map(lambda n: post(server, f"m{n}"), range(3))] == [200] * 3
    assert upstream.accepted == 3
    time.sleep(REST)
    assert post(server, "next").status == 200
    assert upstream.accepted == 4
    assert len(upstream.requests) == 4


@pytest.mark.parametrize("failure", ["no reply", "reset"])
def test_there_is_one_retry(server: Gunicorn, upstream: ScriptedUpstream, failure: str) -> None:
    """T2: the fresh connection fails as well: 502, and no third try."""
    fails = {"no reply": no_reply, "reset": reset}[failure]
    upstream.script = in_turn(closed_when_reused(json_answer({}), Exchange.close_unread), fails)
    assert post(server, "first").status == 200
    time.sleep(REST)
    response = post(server, "second")
    assert response.status == 502
    assert response.json()["error"]["code"] == "upstream_disconnected"
    assert response.header("Access-Control-Allow-Origin") == "*"
    time.sleep(0.3)
    assert [request.model for request in upstream.requests] == ["first", "second"]
    assert upstream.accepted == 2


@pytest.mark.parametrize("failure", ["no reply", "reset"])
def test_a_first_connection_is_not_retried(server: Gunicorn, upstream: ScriptedUpstream, failure: str) -> None:
    """T2: what fails on a connection that was made for the request may have been charged: 502 after one request."""
    upstream.script = {"no reply": no_reply, "reset": reset}[failure]
    response = post(server, "first")
    assert (response.status, response.json()["error"]["code"]) == (502, "upstream_disconnected")
    time.sleep(0.3)
    assert len(upstream.requests) == upstream.accepted == 1


HALVES = {
    "one byte": b"H",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "a head": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
}


@pytest.mark.parametrize("close", ["FIN", "RST"])
@pytest.mark.parametrize("half", list(HALVES))
def test_what_was_answered_in_part_is_not_retried(server: Gunicorn, upstream: ScriptedUpstream, half: str, close: str) -> None:
    """T2: something of the answer came on the reused connection: the failure is visible, and there is no second request."""

    def pause(exchange: Exchange) -> None:
        exchange.sleep(0.1)  # RST would overtake what has not been read

    upstream.script = in_turn(
        json_answer({}), chain(raw(HALVES[half]), pause, *([reset] if close == "RST" else [])), json_answer({"retried": True})
    )
    assert post(server, "first").status == 200
    time.sleep(REST)
    response = post(server, "second")
    assert response.status == 502 or not response.complete
    assert b"retried" not in response.body
    time.sleep(0.2)
    assert [request.connection for request in upstream.requests] == [1, 1]


def test_what_may_have_been_worked_on_is_not_retried(server: Gunicorn, upstream: ScriptedUpstream) -> None:
    """T2: a reused connection that takes the request, is silent for seconds and then closes did not close in that instant."""

    def worked(exchange: Exchange) -> None:
        exchange.sleep(2.5)

    upstream.script = in_turn(json_answer({}), worked, json_answer({"retried": True}))
    assert post(server, "first").status == 200
    time.sleep(REST)
    response = post(server, "second")
    assert (response.status, response.json()["error"]["code"]) == (502, "upstream_disconnected")
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("close", list(CLOSES))
def test_an_upload_is_not_sent_twice(server: Gunicorn, upstream: ScriptedUpstream, close: str) -> None:
    """T2: a streamed upload cannot be repeated: it is a 502, or goes whole on a fresh connection from the start."""
    upstream.script = closed_when_reused(json_answer({}), CLOSES[close])
    assert post(server, "first").status == 200
    time.sleep(REST)
    data = bytes(range(256)) * 12_000
    response = ask(server.port, "POST", "/v1/files", data, [KEY, ORIGIN])
    uploads = [request for request in upstream.requests if request.path == "/v1/files"]
    if response.status == 200:
        assert [request.body for request in uploads] == [data]
    else:
        assert (response.status, response.json()["error"]["code"]) == (502, "upstream_disconnected")
        assert uploads == []
    upstream.script = json_answer({})
    eventually(lambda: post(server, "next").status == 200, "the next request")
