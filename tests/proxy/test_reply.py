"""What is read of an answer before it is passed on, how much that may be, and what counts it."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import pytest
from replies import JSON, ScriptedReply

from mistral_filter.errors import Overloaded, UpstreamError
from mistral_filter.paths import Target
from mistral_filter.proxy.answers import Plan
from mistral_filter.proxy.budget import Budget, Held
from mistral_filter.proxy.call import Call
from mistral_filter.proxy.reply import PIECE, WHOLE, WHOLE_COMPLETION, let_go, respond, whole_error
from mistral_filter.proxy.secret import Reply, ServerKey

if TYPE_CHECKING:
    from flask import Response

MB = 1024 * 1024
KEY = "server-key/Kx81"
LISTS = {"choices": [{"message": {"role": "assistant", "content": [{"type": "text", "text": "@"}]}}]}
CALLS = {
    "choices": [{"message": {"content": "@", "tool_calls": [{"id": "1", "function": {"name": "a_b_1", "arguments": "{}"}}]}}]
}
COMPLETIONS = Plan(completions=True, lists=True)
NAMES = {"a_b_1": "a.b"}


def scripted(body: bytes, *, status: int = 200, sized: bool = True) -> ScriptedReply:
    """A reply in pieces of 64 KiB; *sized*: it says how long it is."""
    length = ("Content-Length", str(len(body)))
    pieces = (body[at : at + PIECE] for at in range(0, len(body), PIECE))
    reply = ScriptedReply(*pieces, status=status, headers=(JSON, length) if sized else (JSON,))
    reply.length = len(body) if sized else None
    return reply


def filled(answer: dict[str, Any], size: int) -> bytes:
    """The *answer* with so many bytes of text."""
    return json.dumps(answer).encode().replace(b"@", b"x" * size)


def a_call(budget: Budget | None = None) -> Call:
    return Call(budget=budget or Budget())


def full(left: int) -> Budget:
    """A budget in which so many bytes are left."""
    budget = Budget(body_bytes=8 * MB, max_body=MB)
    Held(budget).add(6 * MB)
    for size in (MB, MB - left):
        Held(budget).add(size)
    return budget


def answered(reply: Reply, plan: Plan = COMPLETIONS, call: Call | None = None) -> Response:
    environ = {"REQUEST_METHOD": "POST", "SERVER_PROTOCOL": "HTTP/1.1"}
    return respond(reply, plan, None, Target("", "/v1/x", None), environ, call or a_call(), None)  # type: ignore[typeddict-item]


def body_of(response: Response) -> bytes:
    return b"".join(response.response)  # type: ignore[arg-type]


@pytest.mark.parametrize("sized", [True, False])
def test_a_completion_is_rewritten_up_to_a_size(sized: bool) -> None:
    """What is larger is passed on as it came, with its length if it has one."""
    answer = filled(LISTS, WHOLE_COMPLETION - 1000)
    response = answered(scripted(answer, sized=sized))
    assert json.loads(body_of(response))["choices"][0]["message"]["content"] == "x" * (WHOLE_COMPLETION - 1000)
    answer = filled(LISTS, WHOLE_COMPLETION)
    response = answered(scripted(answer, sized=sized))
    assert body_of(response) == answer
    assert response.headers.get("Content-Length") == (str(len(answer)) if sized else None)


@pytest.mark.parametrize("plan", [COMPLETIONS._replace(tool_names=NAMES), Plan(responses=True, tool_names=NAMES)])
@pytest.mark.parametrize("size", [10, 5 * MB])
def test_an_answer_of_any_size_has_the_clients_own_names(plan: Plan, size: int) -> None:
    """The length that the upstream said is not passed on where it may be another one."""
    answer = filled(CALLS, size)
    response = answered(scripted(answer), plan)
    content = body_of(response)
    assert json.loads(content)["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "a.b"
    assert response.headers.get("Content-Length") == (str(len(content)) if size == 10 else None)


def test_embeddings_of_any_size_become_base64_and_are_not_held() -> None:
    """The first of them are with the client before the last have come."""
    answer = json.dumps({"data": [{"embedding": [0.5] * 1024, "index": i} for i in range(1000)]}).encode()
    reply, call = scripted(answer), a_call()
    response = answered(reply, Plan(base64=True), call)
    first = next(pieces := iter(response.response))
    assert isinstance(first, bytes)
    assert reply.taken < 5
    content = first + b"".join(pieces)  # type: ignore[arg-type]
    assert len(b64decode(json.loads(content)["data"][999]["embedding"])) == 4096
    assert call.held is not None
    assert not call.held.any


@pytest.mark.parametrize("size", [100, WHOLE - 1000])
def test_an_answer_that_is_read_whole_counts_until_the_call_ends(size: int) -> None:
    """A client that reads slowly holds it all the while."""
    budget = Budget(body_bytes=4 * MB, max_body=2 * MB)
    call = a_call(budget)
    body_of(answered(scripted(filled(LISTS, size)), call=call))
    assert call.held is not None
    assert call.held.any
    call.close()
    assert not call.held.any
    Held(budget).add(3 * MB)


@pytest.mark.parametrize("size", [100_000, 2 * MB])
def test_a_full_budget_passes_a_completion_on_as_it_comes(size: int) -> None:
    """It has been paid for: it is not thrown away, and what can be replaced piece by piece is."""
    [choice], [call] = LISTS["choices"], CALLS["choices"]
    answer = filled({"choices": [{"message": {**call["message"], **choice["message"]}}]}, size)
    for plan in (COMPLETIONS, COMPLETIONS._replace(tool_names=NAMES)):
        response = answered(scripted(answer), plan, call=a_call(full(70_000)))
        own = answer.replace(b'"a_b_1"', b'"a.b"') if plan.tool_names else answer
        assert body_of(response) == own


def test_a_full_budget_refuses_an_error() -> None:
    """Its body is read whole."""
    reply = scripted(filled({"message": "@"}, 100_000), status=422)
    with pytest.raises(Overloaded):
        answered(reply, call=a_call(full(70_000)))
    assert reply.closed
    with pytest.raises(UpstreamError, match="very long page"):
        whole_error(scripted(b"x" * 2 * MB, status=422), a_call())


@pytest.mark.parametrize("size", [100, MB])
def test_a_refusal_that_is_not_passed_on_is_not_held(size: int) -> None:
    """However often the request is sent again; its body is held all the while."""
    call = a_call(Budget(body_bytes=4 * MB, max_body=2 * MB))
    assert call.held is not None
    call.held.add(1000)
    for _ in range(64):
        let_go(whole_error(scripted(b"x" * size, status=429), call), call)
        assert call.held.any
    call.held.give_back(1000)
    assert not call.held.any


@pytest.mark.parametrize("plan", [Plan(), Plan(responses=True), Plan(base64=True), Plan(tool_names=NAMES)])
def test_a_full_budget_passes_other_answers_on(plan: Plan) -> None:
    """They need not be whole."""
    answer = filled({"data": "@"}, 500_000)
    assert body_of(answered(scripted(answer), plan, a_call(full(70_000)))) == answer


@pytest.mark.parametrize("size", [WHOLE - 1000, 5 * MB])
@pytest.mark.parametrize("plan", [Plan(), COMPLETIONS, Plan(base64=True)])
def test_the_servers_key_is_kept_out_of_answers_of_any_size(plan: Plan, size: int) -> None:
    """Also where they are passed on as they come."""
    answer = filled({"data": f"@{KEY}", "choices": []}, size)
    content = body_of(answered(ServerKey(KEY, ["t"]).keyless(scripted(answer)), plan))
    assert (KEY.encode() in content, len(content)) == (False, len(answer))
