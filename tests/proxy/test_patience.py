"""Patience with 429: how long a request waits, what ends the wait, and what is seen of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import Gunicorn, Response, ask, build_request, connect, eventually
from upstream import Headers, ScriptedUpstream, in_turn, json_answer, raw, sse

from mistral_filter.errors import ClientGone, UpstreamError
from mistral_filter.proxy.call import Call, Timeouts
from mistral_filter.proxy.patience import seconds_to_wait

NOW = 1_795_000_000.0
LIMITED = {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "param": None, "code": "1300"}
WORKERS = {"gevent": (), "gthread": ("-k", "gthread", "--threads", "4"), "sync": ("-k", "sync")}
SOON = [("Retry-After-Ms", "100")]
KEY = ("Authorization", "Bearer caller-key")
USER = {"role": "user", "content": "hello"}

Servers = Callable[..., Gunicorn]

# --------------------------------------------------------------------------------------------------------------- how long


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3),
        ({"Retry-After": "2.5"}, 2.5),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 0.25),
        ({"Retry-After-Ms": "1"}, 0.05),
        ({"Retry-After": formatdate(NOW + 7, usegmt=True)}, 7),
        ({"Retry-After": formatdate(NOW - 7, usegmt=True)}, 1),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "soon"}, 1),
        ({"Retry-After": "-5"}, 1),
        ({"Retry-After": "61"}, None),
        ({"Retry-After": "9" * 400}, 1),
        ({"Retry-After": formatdate(NOW + 61, usegmt=True)}, None),
        ({"x-ratelimit-reset-requests": "2s", "x-ratelimit-remaining-requests": "0"}, 2),
        ({"x-ratelimit-reset-requests": "1m30s", "x-ratelimit-remaining-requests": "0"}, None),
        ({"x-ratelimit-reset-requests": "0m6.5s", "x-ratelimit-remaining-requests": "0"}, 6.5),
        ({"x-ratelimit-reset-tokens": "120ms", "x-ratelimit-remaining-tokens": "0"}, 0.12),
        ({"x-ratelimit-reset-tokens": "2s", "x-ratelimit-remaining-tokens": "50", "x-ratelimit-reset-requests": "4s"}, 4),
        ({"x-ratelimit-reset-tokens": "2s", "x-ratelimit-remaining-tokens": "50"}, 1),
        ({"ratelimitbysize-reset": "5", "ratelimitbysize-remaining": "0"}, 5),
        ({"x-ratelimit-reset": str(int(NOW) + 8)}, 8),
        ({"x-ratelimit-limit-req-minute": "60", "x-ratelimit-remaining-req-minute": "0"}, 1),
        ({"x-ratelimit-limit-tokens-minute": "2000000", "x-ratelimit-remaining-tokens-minute": "2000000"}, 1),
        ({"x-ratelimit-limit-req-minute": "0"}, None),
        ({"X-RateLimit-Limit-Req-10-Second": "0", "Retry-After": "1"}, None),
        ({"x-ratelimit-limit-tokens-month": "0"}, None),
        ({"x-ratelimit-remaining-tokens-month": "0"}, None),
        ({"x-ratelimit-remaining-tokens-month": "12", "x-ratelimit-tokens-query-cost": "52"}, None),
        ({"x-ratelimit-remaining-tokens-month": "870000000", "x-ratelimit-tokens-query-cost": "52"}, 1),
        ({"x-ratelimitbysize-remaining-month": "0"}, None),
        ({"x-ratelimit-limit-audio-seconds-minute": "0"}, 1),
        ({"x-should-retry": "false"}, None),
        ({}, 1),
    ],
)
def test_what_the_answer_says(headers: dict[str, str], seconds: float | None) -> None:
    """With a minute of patience: the seconds that are asked for, if any; None where no wait helps or it is longer than that."""
    waited = seconds_to_wait(headers.items(), 0, 60.0, NOW)
    assert waited == (None if seconds is None else pytest.approx(seconds))


def test_without_a_word_the_wait_doubles_within_the_patience() -> None:
    """1 s, 2 s, 4 s, and what is left of ten; then no more."""
    waits: list[float] = []
    while (seconds := seconds_to_wait([], len(waits), 10.0 - sum(waits), NOW)) is not None:
        waits.append(seconds)
    assert waits == [1, 2, 4, 3]


HEADER = st.sampled_from(
    ["retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens-month"]
)


@given(st.lists(st.tuples(HEADER, st.text(max_size=30) | st.integers().map(str))), st.integers(0, 63), st.floats(0, 86400))
def test_any_headers_give_a_wait_within_the_patience(headers: list[tuple[str, str]], number: int, patience: float) -> None:
    """Whatever an upstream sends."""
    seconds = seconds_to_wait(headers, number, patience, NOW)
    assert seconds is None or 0 < seconds <= patience


# ------------------------------------------------------------------------------------------------------------- what ends it


def test_a_pause_ends_at_once_when_the_client_leaves() -> None:
    """Also when it had left before; and at the total deadline."""
    for wait in (60.0, 0.0):
        call = Call()
        call.client_left(time.monotonic())
        with pytest.raises(ClientGone):
            call.pause(wait)
    call = Call(timeouts=Timeouts(total=0.01))
    time.sleep(0.02)
    call.overdue(time.monotonic())
    with pytest.raises(UpstreamError, match="in time"):
        call.pause(60)
    call = Call()
    call.pause(0.05)
    assert call.waited >= 0.05


def limited(headers: Headers = ()) -> Any:
    return json_answer(LIMITED, 429, headers)


def post(server: Gunicorn, target: str = "/v1/chat/completions", **more: object) -> Response:
    return ask(server.port, "POST", target, {"model": "m", "messages": [USER], **more}, [KEY])


@pytest.fixture(params=list(WORKERS))
def patient(request: pytest.FixtureRequest, gunicorn_server: Servers) -> Gunicorn:
    """A server with an hour of patience and one place, for each kind of worker."""
    return very_patient(gunicorn_server, request.param)


@pytest.fixture
def less_patient(gunicorn_server: Servers) -> Gunicorn:
    """A server that waits for the second that is waited by default, and not for another one."""
    return gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_PATIENCE=1.2)


@pytest.fixture
def server(gunicorn_server: Servers) -> Gunicorn:
    """The patient server with the shipped worker."""
    return very_patient(gunicorn_server, "gevent")


def very_patient(start: Servers, worker: str) -> Gunicorn:
    return start(*WORKERS[worker], WEB_CONCURRENCY=1, MISTRAL_FILTER_PATIENCE=3600, MISTRAL_FILTER_CONCURRENCY=1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_waits_and_is_sent_again(patient: Gunicorn, upstream: ScriptedUpstream, stream: bool) -> None:
    """The same body twice more; the answer is the last one, and says how long it waited, as the log does."""
    good = sse([{"n": 1}, "[DONE]"]) if stream else json_answer({"id": "1"})
    upstream.script = in_turn(limited(SOON), limited(SOON), good)
    response = post(patient, stream=stream)
    assert (response.status, response.complete) == (200, True)
    assert response.body == (b'data: {"n": 1}\n\ndata: [DONE]\n\n' if stream else b'{"id": "1"}')
    timing = re.fullmatch(r"wait;dur=(\d+)", response.header("Server-Timing") or "")
    assert timing is not None
    assert int(timing[1]) >= 200
    assert len({(request.body, request.header("Authorization")) for request in upstream.requests}) == 1
    assert len(upstream.requests) == 3
    eventually(lambda: re.search(rf"status=200 bytes=\d+ ms=[\d.]+ wait_ms={timing[1][:1]}\d+\.\d ended=ok", patient.log()))


@pytest.mark.parametrize("target", ["/v1/agents/completions", "/v1/fim/completions", "/v1/embeddings", "/v1/moderations"])
def test_every_endpoint_of_the_filter_waits(server: Gunicorn, upstream: ScriptedUpstream, target: str) -> None:
    """Whatever its body is."""
    upstream.script = in_turn(limited(SOON), json_answer({}))
    assert post(server, target, prompt="x", input="x", agent_id="a").status == 200
    assert len(upstream.requests) == 2


def test_other_paths_do_not_wait(server: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Their bodies are passed on as they come, and kept nowhere."""
    upstream.script = limited(SOON)
    assert post(server, "/v1/conversations").status == 429
    assert len(upstream.requests) == 1


def test_without_patience_a_429_is_passed_on(gunicorn_server: Servers, upstream: ScriptedUpstream) -> None:
    """The default: at once, with its headers and the error object."""
    upstream.script = limited(SOON)
    response = post(gunicorn_server(WEB_CONCURRENCY=1))
    assert (response.status, response.header("Server-Timing"), len(upstream.requests)) == (429, None, 1)
    assert response.header("Retry-After-Ms") == "100"
    assert response.json()["error"]["message"] == "Rate limit exceeded"


@pytest.mark.parametrize(
    "headers",
    [
        [("x-ratelimit-limit-req-minute", "0")],
        [("x-ratelimit-remaining-tokens-month", "0")],
        [("Retry-After", "60")],
        [("x-should-retry", "false")],
    ],
)
def test_where_no_wait_helps_there_is_none(less_patient: Gunicorn, upstream: ScriptedUpstream, headers: Headers) -> None:
    """The plan does not have the model, the month is over, the wait would be longer than the patience."""
    upstream.script = limited(headers)
    response = post(less_patient)
    assert (response.status, response.header("Server-Timing"), len(upstream.requests)) == (429, None, 1)


def test_the_last_429_is_passed_on(less_patient: Gunicorn, upstream: ScriptedUpstream) -> None:
    """When the patience is over; its own body and headers, and how long it all took."""
    upstream.script = in_turn(limited(), limited(), json_answer({**LIMITED, "message": "the third"}, 429, [("X-Third", "1")]))
    response = post(less_patient)
    assert (response.status, len(upstream.requests)) == (429, 3)
    assert (response.json()["message"], response.header("X-Third")) == ("the third", "1")
    assert response.header("Server-Timing") is not None


def test_a_wait_that_the_total_timeout_would_cut_is_none(gunicorn_server: Servers, upstream: ScriptedUpstream) -> None:
    """The 429 says more than a 504 would."""
    server = gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_PATIENCE=60, MISTRAL_FILTER_TOTAL_TIMEOUT=2)
    upstream.script = limited([("Retry-After", "10")])
    assert (post(server).status, len(upstream.requests)) == (429, 1)


def test_a_refusal_after_a_wait_teaches(server: Gunicorn, upstream: ScriptedUpstream) -> None:
    """And the second try is as patient, within what is left."""
    refusal = {"detail": [{"type": "extra_forbidden", "loc": ["body", "top_p"], "msg": "Extra inputs are not permitted"}]}
    upstream.script = in_turn(limited(SOON), json_answer(refusal, 422), limited(SOON), json_answer({"id": "1"}))
    response = post(server, top_p=0.5)
    assert (response.status, response.header("Mistral-Filter-Changes")) == (200, 'drop;path="top_p";loss=lost')
    assert ["top_p" in request.json() for request in upstream.requests] == [True, True, False, False]


def test_a_break_after_a_wait_says_that_it_waited(server: Gunicorn, upstream: ScriptedUpstream) -> None:
    """An error of the proxy's own has the header too."""
    upstream.script = in_turn(limited(SOON), raw(b"no HTTP\r\n\r\n"))
    response = post(server)
    assert (response.status, response.json()["error"]["code"]) == (502, "upstream_protocol")
    assert (response.header("Server-Timing") or "").startswith("wait;dur=")


def test_a_client_that_leaves_ends_the_wait(patient: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Its place is free long before the wait would be over, nothing is sent again, and the log says why."""
    upstream.script = in_turn(limited([("Retry-After", "3000")]), json_answer({"id": "1"}))
    start = patient.logged()
    with connect(patient.port) as sock:
        sock.sendall(build_request("POST", "/v1/chat/completions", {"model": "m", "messages": [USER]}, [KEY]))
        eventually(lambda: len(upstream.requests) == 1)
    line = eventually(lambda: re.search(r"status=499 .* wait_ms=[\d.]+ ended=client_gone", patient.log(start)))
    assert line
    assert eventually(lambda: post(patient).status == 200)
    assert len(upstream.requests) == 2


def test_a_waiting_body_stays_counted(gunicorn_server: Servers, upstream: ScriptedUpstream) -> None:
    """It is in memory, so the budget for bodies knows of it until it has been sent for the last time."""
    server = gunicorn_server(
        WEB_CONCURRENCY=1, MISTRAL_FILTER_PATIENCE=3600, MISTRAL_FILTER_MAX_BODY="3m", MISTRAL_FILTER_BODY_BUDGET="4m"
    )
    upstream.script = in_turn(limited([("Retry-After", "3000")]), json_answer({"id": "1"}))
    large = {"model": "m", "messages": [{"role": "user", "content": "x" * 2_000_000}]}
    with connect(server.port) as sock:
        sock.sendall(build_request("POST", "/v1/chat/completions", large, [KEY]))
        eventually(lambda: len(upstream.requests) == 1)
        second = ask(server.port, "POST", "/v1/chat/completions", large, [KEY])
        assert (second.status, second.json()["error"]["code"]) == (503, "body_budget")
    eventually(lambda: ask(server.port, "POST", "/v1/chat/completions", large, [KEY]).status == 200)
