"""Tool calls and their results: ids that fit, that stay the same, and that pair. What a record cannot say is here."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import sdk

from mistral_filter import filter_body

Json = dict[str, Any]

USER = {"role": "user", "content": "Hi"}
BYE = {"role": "user", "content": "Bye"}
ANSWER = {"role": "assistant", "content": "A"}
FIT = "abcDEF123"
ID = re.compile("[a-zA-Z0-9]{9}")


def call(id: Any = FIT, name: str = "f", arguments: Any = "{}", **more: Any) -> Json:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def calls(*made: Json, **more: Any) -> Json:
    return {"role": "assistant", "content": None, "tool_calls": list(made), **more}


def result(id: Any = FIT, content: Any = "r", **more: Any) -> Json:
    return {"role": "tool", "tool_call_id": id, "content": content, **more}


def ids(*messages: Json, **options: Any) -> list[str]:
    """The ids in the order in which they stand, calls and results alike."""
    out, changes, _ = filter_body(json.dumps({"model": "m", "messages": [USER, *messages]}).encode(), **options)
    assert all(change.loss == "none" for change in changes)
    found = []
    for message in json.loads(out)["messages"]:
        found += [call["id"] for call in message.get("tool_calls") or ()]
        if message["role"] == "tool":
            found.append(message["tool_call_id"])
    assert all(ID.fullmatch(id) for id in found)
    return found


def test_an_id_that_fits_stays() -> None:
    """Nine letters or digits are left alone."""
    assert ids(calls(call(FIT)), result(FIT)) == [FIT, FIT]


@pytest.mark.parametrize("id", ["call_1", "toolu_01abc", "a", "abcDEF1234", "abc DEF12", "äbcDEF123", "call_" + "a" * 60, "\n"])
def test_an_id_that_does_not_fit_is_made_to(id: str) -> None:
    """An id of any other form becomes nine letters or digits, on the call and its result alike, always the same ones."""
    a, b = ids(calls(call(id)), result(id))
    assert a == b
    assert ids(calls(call(id)), result(id), ANSWER, BYE) == [a, b]


def test_different_ids_stay_different() -> None:
    """A thousand calls have a thousand ids, the client's own fitting ones among them."""
    made = [f"call_{n}" for n in range(500)] + [f"{n:09}" for n in range(500)]
    found = ids(calls(*map(call, made)), *(result(id) for id in reversed(made)))
    assert len(set(found)) == 1000
    assert found[:1000] == found[1000:][::-1]
    assert found[500:1000] == made[500:]


def test_a_made_id_is_not_one_that_a_client_uses() -> None:
    """An id that happens to be what another one is turned into does not become the same."""
    turned = ids(calls(call("call_1")), result("call_1"))[0]
    first, second, *results = ids(calls(call("call_1"), call(turned)), result(turned), result("call_1"))
    assert first != second
    assert results == [second, first]
    first, second, *results = ids(calls(call(turned), call("call_1")), result(turned), result("call_1"))
    assert first != second
    assert results == [first, second]


@pytest.mark.parametrize("missing", [{}, {"id": None}, {"id": ""}, {"id": "null"}])
def test_a_missing_id_is_made(missing: Json) -> None:
    """A call without an id gets one, and results find their calls by name or by order."""
    one, two = ({"function": {"name": name, "arguments": "{}"}, **missing} for name in "fg")
    answer = {"role": "tool", "content": "r"}
    a, b, *results = ids(calls(one, two), answer, answer)
    assert a != b
    assert results == [a, b]
    a, b, *results = ids(calls(one, two), {**answer, "name": "g"}, {**answer, "name": "f"})
    assert results == [b, a]


def test_an_id_used_twice_is_told_apart() -> None:
    """Two calls of one message under the same id, which Mistral refuses, are two."""
    a, b, *results = ids(calls(call("call_1"), call("call_1")), result("call_1"), result("call_1"))
    assert a != b
    assert results == [a, b]
    a, b, *results = ids(calls(call(FIT), call(FIT)), result(FIT), result(FIT))
    assert a == FIT != b
    assert results == [a, b]


def test_an_id_used_again_in_a_later_turn_pairs_there() -> None:
    """Clients that number their calls anew in each turn keep their pairs."""
    found = ids(calls(call("0")), result("0"), ANSWER, BYE, calls(call("0"), call("1")), result("1"), result("0"))
    assert found[0] == found[1]
    assert found[2:4] == found[:-3:-1]


def test_ids_that_are_numbers_keep_their_pairs() -> None:
    """A client that writes ids as numbers, and whose results come in another order, still gets the right answers."""
    body = {"model": "m", "messages": [USER, calls(call(1), call(2)), result(2, "of 2"), result(1, "of 1")]}
    after = json.loads(filter_body(json.dumps(body).encode()).body)["messages"]
    first, second = (call["id"] for call in after[1]["tool_calls"])
    assert {message["tool_call_id"]: message["content"] for message in after[2:]} == {first: "of 1", second: "of 2"}


def test_the_legacy_form_of_a_call_pairs() -> None:
    """function_call and role function become a call and its result, with one id."""
    given = [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}},
        {"role": "function", "name": "f", "content": "r"},
    ]
    out, changes, _ = filter_body(json.dumps({"model": "m", "messages": [USER, *given]}).encode())
    body = json.loads(out)
    made = body["messages"][1]["tool_calls"][0]["id"]
    assert ID.fullmatch(made)
    assert body["messages"] == [USER, calls(call(made, arguments='{"a":1}')), result(made, name="f")]
    assert ("messages[1].function_call", "rename", "none") in [(c.path, c.action, c.loss) for c in changes]
    assert ("messages[2].role", "set", "none") in [(c.path, c.action, c.loss) for c in changes]


def test_nothing_said_between_a_call_and_its_result_does_not_part_them() -> None:
    """An empty assistant message, which goes, does not end the calls that are open."""
    legacy = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    a, b = ids(legacy, {"role": "assistant", "content": ""}, {"role": "function", "name": "f", "content": "r"})
    assert a == b


def test_two_items_with_one_call_id_are_two_calls() -> None:
    """What stands between their results is put behind both."""
    made = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    done = {"type": "function_call_output", "call_id": "c", "output": "r"}
    body = json.dumps({"model": "m", "input": [USER, made, made, done, BYE, done]}).encode()
    messages = json.loads(filter_body(body).body)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user"]
    assert [call["id"] for call in messages[1]["tool_calls"]] == [message["tool_call_id"] for message in messages[2:4]]


def test_two_legacy_calls_are_two() -> None:
    """The same function called in two turns has two ids."""
    made = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    a, b, c, d = ids(
        made, {"role": "function", "name": "f", "content": "1"}, made, {"role": "function", "name": "f", "content": "2"}
    )
    assert a == b != c == d


def test_a_custom_call_becomes_a_function_call() -> None:
    """What an agent called as a custom tool earlier stays in the conversation as a function call with the same input."""
    given = {"id": FIT, "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    out, _, _ = filter_body(json.dumps({"model": "m", "messages": [USER, calls(given), result()]}).encode())
    made = json.loads(out)["messages"][1]["tool_calls"][0]
    assert made.keys() == {"id", "type", "function"}
    assert (made["id"], made["type"], made["function"]["name"]) == (FIT, "function", "patch")
    assert "*** Begin" in json.dumps(made["function"]["arguments"])


def talk(ids: list[object]) -> Json:
    """Calls in one message, and their results in the other order."""
    return {"model": "m", "messages": [USER, calls(*map(call, ids)), *(result(id) for id in reversed(ids))]}


def items(*given: Json) -> Json:
    return {"model": "m", "input": [USER, *given]}


def item(number: int) -> Json:
    return {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": "{}"}


def done(number: int) -> Json:
    return {"type": "function_call_output", "call_id": f"c{number}", "output": "r"}


VERY_MANY = {
    "calls and results": talk([f"call_{n}" for n in range(2000)]),
    "calls without ids": talk([None] * 2000),
    "calls and results as items": items(*map(item, range(2000)), *map(done, reversed(range(2000)))),
    "texts beside a call as items": items(item(0), *([ANSWER] * 2000), done(0)),
}


@pytest.mark.parametrize("name", VERY_MANY)
def test_a_conversation_of_very_many_parts_comes_out_right(name: str) -> None:
    """Every result answers a call of its own, however many there are. (How long it takes: ``benchmarks/growth.py``.)"""
    body = json.loads(filter_body(json.dumps(VERY_MANY[name]).encode()).body)
    made = [call["id"] for message in body["messages"] for call in message.get("tool_calls", ())]
    answered = [message["tool_call_id"] for message in body["messages"] if message["role"] == "tool"]
    assert len(made) == len(set(made)) > 0
    assert sorted(made) == sorted(answered)
    assert sdk.accepts("chat", body) == []


def test_parallel_calls_with_a_text_between_stay_together() -> None:
    """An answer's text beside its calls does not come between a call and its result."""
    pytest.importorskip("mistral_common")
    given = [
        USER,
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait"}]},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": "2"},
    ]
    body = json.loads(filter_body(json.dumps({"model": "m", "input": given}).encode()).body)
    assert sdk.accepts("chat", body) == []
    assert sdk.common_accepts(body) == []
