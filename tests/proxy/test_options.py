"""Options that a model does not have, as the proxy meets them: Mistral's 400 with code 3051, and what the next request does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from servers import Gunicorn, Response, ask, eventually
from upstream import Exchange, Script, ScriptedUpstream, in_turn, json_answer

CHAT = "/v1/chat/completions"
LISTED = "supported values: [<ReasoningEffort.high: 'high'>, <ReasoningEffort.none: 'none'>]"


@pytest.fixture(scope="module")
def learner(shared_upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    """A server whose memory no other test needs; each test here uses a model of its own."""
    settings = {"MISTRAL_FILTER_UPSTREAM": shared_upstream.url, "MISTRAL_FILTER_FIELDS": "current"}
    with Gunicorn(tmp_path_factory.mktemp("learner"), WEB_CONCURRENCY=1, **settings) as server:
        yield server


def chat(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}


def post(server: Gunicorn, body: object, key: str = "a", *, strict: bool = False, target: str = CHAT) -> Response:
    headers = [("Authorization", f"Bearer caller-{key}"), *([("Mistral-Filter-Strict", "on")] if strict else [])]
    return ask(server.port, "POST", target, body, headers)


def refused(message: str, code: object = "3051") -> Script:
    body = {"object": "error", "message": message, "type": "invalid_request_invalid_args", "param": None, "code": code}
    return json_answer({**body, "raw_status_code": 400}, 400)


def where(name: str, *taken: object, answer: Script) -> Script:
    """*answer* for requests that have the field with another value than those *taken*."""
    good = json_answer({"id": "1"})

    def script(exchange: Exchange) -> None:
        body = exchange.request.json()
        (answer if name in body and body[name] not in taken else good)(exchange)

    return script


@pytest.mark.parametrize("code", ["3051", 3051])
def test_an_option_that_the_model_does_not_have(learner: Gunicorn, upstream: ScriptedUpstream, code: object) -> None:
    """It goes, once more, reported as lost; the next request of the caller for the model goes without it at once."""
    model = f"option-{type(code).__name__}"
    upstream.script = where("logprobs", answer=refused("Logprobs are not enabled for this model", code))
    body = chat(model, logprobs=True, top_logprobs=2, temperature=0.5)
    for number in (2, 3):
        response = post(learner, body)
        assert (response.status, response.json()) == (200, {"id": "1"})
        assert response.header("Mistral-Filter-Changes") == 'drop;path="logprobs";loss=lost, drop;path="top_logprobs";loss=lost'
        assert len(upstream.requests) == number
        assert upstream.requests[-1].json() == chat(model, temperature=0.5)


@pytest.mark.parametrize("strict", [False, True])
def test_an_effort_becomes_the_nearest_one_named(learner: Gunicorn, upstream: ScriptedUpstream, strict: bool) -> None:
    """An approximation, so strict mode takes it too; the values are remembered, and serve other efforts."""
    model = f"effort-{strict}"
    refusal = refused(f"reasoning_effort medium is not supported for this model, {LISTED}")
    upstream.script = where("reasoning_effort", "high", "none", answer=refusal)
    first = post(learner, chat(model, reasoning_effort="medium"), strict=strict)
    assert first.status == 200
    assert first.header("Mistral-Filter-Changes") == 'set;path="reasoning_effort";loss=approximate'
    second = post(learner, chat(model, reasoning_effort="minimal"), strict=strict)
    assert second.header("Mistral-Filter-Changes") == 'set;path="reasoning_effort";loss=approximate'
    third = post(learner, chat(model, reasoning_effort="high"), strict=strict)
    assert third.header("Mistral-Filter-Changes") is None
    assert [request.json()["reasoning_effort"] for request in upstream.requests] == ["medium", "high", "none", "high"]
    line = eventually(lambda: re.search(r"chat: refused, sent again: .*", learner.log()))
    assert line[0].endswith(("loss=approximate", "loss=lost"))
    assert "medium" not in learner.log()


def test_in_strict_mode_a_refused_option_is_final(learner: Gunicorn, upstream: ScriptedUpstream) -> None:
    """It would be lost; nothing is remembered, and what another request taught is not used."""
    upstream.script = where("top_k", answer=refused("top_k is not enabled for this model"))
    body = chat("strict", top_k=5)
    assert post(learner, body, strict=True).status == 400
    assert post(learner, body).status == 200
    assert post(learner, body, strict=True).status == 400
    assert ["top_k" in request.json() for request in upstream.requests] == [True, True, False, True]


def test_in_strict_mode_a_neutral_option_may_go(learner: Gunicorn, upstream: ScriptedUpstream) -> None:
    """``n: 1`` is what happens anyway."""
    upstream.script = where("n", answer=refused("n is not enabled for this model"))
    response = post(learner, chat("neutral", n=1), strict=True)
    assert (response.status, response.header("Mistral-Filter-Changes")) == (200, 'drop;path="n";loss=none')


def test_what_a_model_does_not_take_is_remembered_for_it_alone(learner: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Not for another model, another caller or another endpoint."""
    upstream.script = where("top_k", answer=refused("top_k is not enabled for this model"))
    assert post(learner, chat("one", top_k=5)).status == 200
    upstream.script = json_answer({})
    upstream.clear()
    upstream.script = json_answer({})
    post(learner, chat("one", top_k=5))
    post(learner, chat("two", top_k=5))
    post(learner, chat("one", top_k=5), key="b")
    agent: dict[str, Any] = {**chat("", top_k=5), "agent_id": "one"}
    del agent["model"]
    post(learner, agent, target="/v1/agents/completions")
    assert ["top_k" in request.json() for request in upstream.requests] == [False, True, True, True]


def test_options_are_refused_one_at_a_time(learner: Gunicorn, upstream: ScriptedUpstream) -> None:
    """The second refusal is passed on, and both are known from then on."""
    first, second = refused("Logprobs are not enabled for this model"), refused("top_k is not enabled for this model")
    upstream.script = in_turn(first, second, json_answer({"id": "1"}))
    body = chat("two-options", logprobs=True, top_k=5)
    response = post(learner, body)
    assert (response.status, response.json()["code"]) == (400, "3051")
    assert response.json()["error"]["message"] == "top_k is not enabled for this model"
    assert response.header("Mistral-Filter-Changes") == 'drop;path="logprobs";loss=lost'
    assert post(learner, body).status == 200
    assert [sorted(set(request.json()) - {"model", "messages"}) for request in upstream.requests] == [
        ["logprobs", "top_k"],
        ["top_k"],
        [],
    ]


@pytest.mark.parametrize(
    "answer",
    [
        refused("Prompt contains 159202 tokens and 0 draft tokens, too large for model with 131072 maximum context length"),
        refused("model is not enabled for this model"),
        refused("messages are not supported for this model"),
        refused("Function calling is not enabled for this model"),
        refused("safe_prompt is not enabled for this model"),
        refused("top_k is not enabled for this model", "3054"),
        refused("prompt_mode is not enabled for this model"),
        json_answer([1], 400),
    ],
)
def test_any_other_400_is_final(learner: Gunicorn, upstream: ScriptedUpstream, answer: Script) -> None:
    """What names nothing that may go, or nothing that was asked for, is for the caller to see, after one request."""
    upstream.script = answer
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    response = post(learner, chat("final", top_k=5, safe_prompt=True, tools=tools))
    assert response.status == 400
    assert response.json()["error"]["message"]
    assert len(upstream.requests) == 1


def test_learning_off_passes_it_on(gunicorn_server: Any, upstream: ScriptedUpstream) -> None:
    """As a 422."""
    server = gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_LEARN="off", MISTRAL_FILTER_FIELDS="current")
    upstream.script = refused("top_k is not enabled for this model")
    assert post(server, chat("m", top_k=5)).status == 400
    assert len(upstream.requests) == 1
    assert json.loads(upstream.requests[0].body)["top_k"] == 5
