"""Results behind their calls, whatever a client sends: random conversations, judged by Mistral's own validator."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import sdk
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from mistral_filter import filter_body

Json = dict[str, Any]

ID = st.sampled_from(["abcDEF121", "abcDEF122", "call_1", "call_2", "c"])
NAME = st.sampled_from(["f", "g", "a.b"])


def _text(role: str) -> st.SearchStrategy[Json]:
    return st.sampled_from("xyz").map(lambda text: {"role": role, "content": text})


def _call(id: str | None, name: str) -> Json:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}}


def _calling(calls: list[Json], text: str | None) -> Json:
    return {"role": "assistant", "content": text, "tool_calls": calls}


def _result(id: str, text: str, name: str | None) -> Json:
    named = {} if name is None else {"name": name}
    return {"role": "tool", "tool_call_id": id, "content": text, **named}


MESSAGE = st.one_of(
    _text("user"),
    _text("assistant"),
    _text("system"),
    st.builds(
        _calling, st.lists(st.builds(_call, ID | st.none(), NAME), min_size=1, max_size=3), st.sampled_from([None, "", "x"])
    ),
    st.builds(_result, ID, st.sampled_from(["1", "2", ""]), NAME | st.none()),
    st.builds(_result, ID, st.sampled_from(["1", "2"]), st.none()),
    st.builds(lambda name: {"role": "assistant", "content": None, "function_call": {"name": name, "arguments": "{}"}}, NAME),
    st.builds(lambda name: {"role": "function", "name": name, "content": "r"}, NAME),
    st.just({"role": "assistant", "content": ""}),
    st.just({"role": "assistant", "content": "x", "prefix": True}),
)
CONVERSATION = st.lists(MESSAGE, max_size=12).map(lambda messages: [{"role": "user", "content": "Hi"}, *messages])
MANY = examples(100)


def _texts(messages: list[Json]) -> Counter[str]:
    return Counter(message["content"] for message in messages if message.get("content"))


def _filtered(body: Json, **options: Any) -> tuple[Json, bytes]:
    out = filter_body(json.dumps(body).encode(), fields="current", **options)
    assert {change.loss for change in out.changes} <= {"none", "approximate"}
    return json.loads(out.body), out.body


@MANY
@given(CONVERSATION, st.booleans(), st.booleans())
def test_every_conversation_comes_out_in_order(messages: list[Json], bridge: bool, asks_for_json: bool) -> None:
    """Missing, repeated, early and late results, with anything between: Mistral's validator takes it, and no text is lost."""
    pytest.importorskip("mistral_common")
    messages = [*messages, {"role": "user", "content": "Bye"}] if messages[-1]["role"] == "system" else messages
    form = {"response_format": {"type": "json_object"}} if asks_for_json else {}
    body, sent = _filtered({"model": "m", "messages": messages, **form}, bridge=bridge)
    assert sdk.common_accepts(body) == []
    assert sdk.accepts("chat", body) == []
    assert _texts(messages) <= _texts(body["messages"])
    assert filter_body(sent, fields="current", bridge=bridge)[:2] == (sent, ())


@MANY
@given(CONVERSATION)
def test_a_growing_conversation_keeps_its_beginning(messages: list[Json]) -> None:
    """What follows a settled turn does not change the bytes before it, so the prompt cache can be used."""
    done = {"role": "user", "content": "Bye"}
    answered = [message for message in messages if message["role"] not in ("tool", "function")]
    first, _ = _filtered({"model": "m", "messages": [*answered, done]})
    second, _ = _filtered({"model": "m", "messages": [*answered, done, {"role": "assistant", "content": "A"}, done]})
    assert second["messages"][: len(first["messages"])] == first["messages"]


ITEM = st.one_of(
    _text("user"),
    _text("assistant"),
    st.builds(lambda id, name: {"type": "function_call", "call_id": id, "name": name, "arguments": "{}"}, ID, NAME),
    st.builds(lambda id: {"type": "function_call_output", "call_id": id, "output": "r"}, ID),
)


@MANY
@given(st.lists(ITEM, max_size=12))
def test_the_items_of_a_responses_body_come_out_in_order(items: list[Json]) -> None:
    """The same where a Responses body is sent to chat."""
    pytest.importorskip("mistral_common")
    start = {"role": "user", "content": "Hi"}
    body, sent = _filtered({"model": "m", "input": [start, *items]})
    assert sdk.common_accepts(body) == []
    assert sdk.accepts("chat", body) == []
    assert filter_body(sent, fields="current")[:2] == (sent, ())


def test_a_result_of_the_latest_call_with_its_id() -> None:
    """A client that numbers its calls anew in each turn, and left one without a result, keeps the pairs of the others."""
    call, result = _calling([_call("0", "f")], None), _result("0", "of the second", None)
    user = {"role": "user", "content": "again"}
    messages = _filtered({"model": "m", "messages": [user, call, user, call, result]})[0]["messages"]
    assert [message["content"] for message in messages if message["role"] == "tool"] == ["", "of the second"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "user", "assistant", "tool"]


def test_a_legacy_result_finds_its_function() -> None:
    """Without ids the name tells which of two calls is answered."""
    calls = [{"role": "assistant", "content": None, "function_call": {"name": name, "arguments": "{}"}} for name in "fg"]
    results = [{"role": "function", "name": name, "content": f"of {name}"} for name in "fg"]
    messages = _filtered({"model": "m", "messages": [{"role": "user", "content": "Hi"}, *calls, *results]})[0]["messages"]
    assert [
        (m["tool_calls"][0]["function"]["name"], r["content"]) for m, r in zip(messages[1::2], messages[2::2], strict=True)
    ] == [
        ("f", "of f"),
        ("g", "of g"),
    ]


def test_a_result_without_an_id_answers_the_latest_turn_only() -> None:
    """An old call that was cancelled does not take what comes many turns later: that is a user's text."""
    user = {"role": "user", "content": "again"}
    late = {"role": "tool", "content": "of nothing"}
    call = _calling([_call("abcDEF121", "f")], None)
    done = [_calling([_call("abcDEF122", "f")], None), _result("abcDEF122", "r", None)]
    messages = _filtered({"model": "m", "messages": [user, call, user, *done, late]})[0]["messages"]
    assert [(message["role"], message["content"]) for message in messages[2:3]] == [("tool", "")]
    assert messages[-1] == {"role": "user", "content": "of nothing"}
