"""Generated Responses bodies: whatever clients put together, what comes out is what the official SDK's model accepts."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sdk
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from mistral_filter import filter_body
from mistral_filter.errors import Refused, TooComplex
from mistral_filter.filtering import Learnt

QUICK = examples(130)

TEXT = st.sampled_from(["", "a", "é\u2028", "\ud83d"])
IDS = st.sampled_from(["call_1", "call_2", "", None])
STATUS = st.sampled_from(["completed", "failed", None])


def some(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


PARTS = st.one_of(
    some(
        {"type": st.sampled_from(["text", "input_text", "output_text", "summary_text"]), "text": TEXT}, {"annotations": st.none()}
    ),
    some(
        {"type": st.just("output_text"), "text": TEXT},
        {
            "annotations": st.sampled_from(
                [[], [{"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}], [{"type": "x"}]]
            ),
            "logprobs": st.sampled_from([None, [], [{"token": "t"}]]),
        },
    ),
    some({"type": st.just("refusal"), "refusal": TEXT}, {}),
    some(
        {"type": st.just("input_image"), "image_url": st.just("u")}, {"detail": st.sampled_from(["auto", "original", "x", None])}
    ),
    some({"type": st.just("image_url"), "image_url": st.sampled_from(["u", {"url": "u"}, {"url": "u", "detail": "low"}])}, {}),
    some({"type": st.just("input_file"), "file_data": st.just("d")}, {"filename": TEXT, "detail": st.sampled_from(["low", "x"])}),
    some({"type": st.just("file"), "file": st.just({"file_data": "d", "filename": "f"})}, {}),
    some({"type": st.sampled_from(["input_audio", "thinking", "video"])}, {"thinking": st.just([{"type": "text", "text": "t"}])}),
)
CONTENT = st.one_of(TEXT, st.lists(PARTS, max_size=3), st.none())
ROLES = st.sampled_from(["user", "assistant", "assistant", "system", "developer"])
CHAT_CALL = some(
    {"function": st.just({"name": "f", "arguments": "{}"})}, {"id": IDS, "type": st.just("function"), "index": st.just(0)}
)
ITEMS = st.one_of(
    some(
        {"role": ROLES, "content": CONTENT},
        {
            "type": st.just("message"),
            "id": st.sampled_from(["msg_1", None]),
            "status": STATUS,
            "phase": st.sampled_from(["commentary", None]),
            "name": TEXT,
            "reasoning_content": TEXT,
        },
    ),
    some({"role": st.just("assistant"), "tool_calls": st.lists(CHAT_CALL, max_size=2)}, {"content": CONTENT}),
    some({"role": st.sampled_from(["tool", "function"]), "content": CONTENT}, {"tool_call_id": IDS, "name": TEXT}),
    some(
        {"type": st.just("function_call"), "name": st.just("f")},
        {
            "call_id": IDS,
            "id": IDS,
            "arguments": st.sampled_from(["{}", {}, None]),
            "async_": st.none(),
            "caller": st.sampled_from([None, {"type": "direct", "x": 1}]),
            "namespace": st.none(),
            "status": STATUS,
        },
    ),
    some(
        {"type": st.just("function_call_output")},
        {"call_id": IDS, "output": st.one_of(CONTENT, st.just({"a": 1}), st.just(3)), "id": IDS, "status": STATUS},
    ),
    some(
        {"type": st.just("reasoning")},
        {
            "id": st.sampled_from(["rs_1", None]),
            "summary": st.sampled_from([[], [{"type": "summary_text", "text": "t"}], "t", None]),
            "content": st.sampled_from([None, [{"type": "text", "text": "t"}], [{"type": "x"}]]),
            "encrypted_content": st.just("g"),
        },
    ),
    some({"type": st.sampled_from(["custom_tool_call", "computer_call"]), "name": st.just("f")}, {"call_id": IDS, "input": TEXT}),
    some({"type": st.sampled_from(["custom_tool_call_output", "shell_call_output"])}, {"call_id": IDS, "output": CONTENT}),
    some({"type": st.sampled_from(["web_search_call", "mcp_call", "compaction", "x"])}, {"output": TEXT, "name": TEXT}),
    PARTS,
)
FUNCTION = some(
    {"name": st.just("f")},
    {"type": st.just("function"), "description": TEXT, "parameters": st.sampled_from([None, {}, {"$id": "x"}]), "x": st.just(1)},
)
TOOLS = st.lists(
    st.one_of(
        some({"type": st.just("function"), "function": FUNCTION}, {}),
        FUNCTION,
        some({"type": st.sampled_from(["web_search", "custom"])}, {"name": st.just("g")}),
        some(
            {"type": st.just("namespace"), "name": st.just("n"), "tools": st.lists(FUNCTION, max_size=2)}, {"description": TEXT}
        ),
    ),
    max_size=3,
)
CHOICES: Any = ["auto", "any", None, {"type": "function", "name": "g"}, {"type": "function", "function": {"name": "f"}}]
CHOICES += [{"type": "web_search"}, {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}]
FORMATS: Any = [None, {"type": "text", "x": 1}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": {}}}]
FORMATS += [{"type": "grammar"}, {"type": "json_object"}, {"type": "json_schema", "name": "n", "schema": {}, "strict": None}]
FIELDS: dict[str, Any] = {
    "store": st.sampled_from([True, False, None]),
    "background": st.sampled_from([True, None]),
    "truncation": st.sampled_from(["auto", "disabled", None]),
    "top_logprobs": st.sampled_from([0, 2, None]),
    "include": st.sampled_from([[], None, ["reasoning.encrypted_content"], ["x"]]),
    "reasoning": st.sampled_from([None, {}, {"effort": "low", "summary": "auto"}]),
    "reasoning_effort": st.sampled_from(["high", None]),
    "text": st.one_of(st.none(), some({}, {"format": st.sampled_from(FORMATS), "verbosity": st.just("low"), "x": st.just(1)})),
    "response_format": st.sampled_from(FORMATS),
    "tools": st.one_of(st.none(), TOOLS),
    "tool_choice": st.sampled_from(CHOICES),
    "max_tokens": st.sampled_from([5, -1, None]),
    "max_output_tokens": st.sampled_from([9, -1, None]),
    "temperature": st.sampled_from([0, 1, 2, None]),
    "top_p": st.sampled_from([0, 0.5, 1, None]),
    "metadata": st.sampled_from([None, {"a": 1, "b": None}, {"a": "b"}]),
    "user": TEXT,
    "client_metadata": st.just({"a": "b"}),
}
BODIES = some({"model": st.just("mistral-small-latest"), "input": st.one_of(TEXT, st.lists(ITEMS, max_size=7))}, FIELDS)
CHAT_BODIES = some({"model": st.just("m"), "messages": st.lists(ITEMS, max_size=5)}, FIELDS)


@pytest.mark.parametrize("endpoint", list(sdk.RESPONSES))
@given(body=st.one_of(BODIES, CHAT_BODIES))
@QUICK
def test_what_comes_out_is_accepted(endpoint: str, body: dict[str, Any]) -> None:
    """The SDK's model takes it with further keys forbidden at every level, and a second filter has nothing to change."""
    filtered = filter_body(json.dumps(body).encode(), endpoint)
    assert sdk.accepts(endpoint, json.loads(filtered.body)) == []
    assert filter_body(filtered.body, endpoint)[:2] == (filtered.body, ())


@given(body=BODIES)
@QUICK
def test_every_call_has_one_result(body: dict[str, Any]) -> None:
    """No message stands between a call and its result, no result is without its call, and no text of a user is lost."""
    out = json.loads(filter_body(json.dumps(body).encode(), "responses").body)["input"]
    if isinstance(out, str):
        return
    waiting: list[str] = []
    for item in out:
        kind = item.get("type", "message")
        if kind == "function_call":
            waiting.append(item["call_id"])
        elif kind == "function_call_output":
            waiting.remove(item["call_id"])
        elif kind == "message":
            assert waiting == []
    assert waiting == []
    texts = [item["content"] for item in body["input"] if isinstance(item, dict) and item.get("role") == "user"]
    kept = [item.get("content") for item in out if item.get("role") == "user"]
    assert all(text in kept for text in texts if isinstance(text, str))


@pytest.mark.parametrize("kind", [[], 2.5, ["x"], {"type": "text"}, True])
@pytest.mark.parametrize(
    ("endpoint", "tool"),
    [
        ("chat", {"function": {"name": "f", "parameters": {}}}),
        ("responses", {"name": "f", "parameters": {}}),
        ("responses/input_tokens", {"name": "f", "parameters": {}}),
    ],
)
def test_a_tool_whose_type_is_no_string_is_left_to_the_api(endpoint: str, tool: dict[str, Any], kind: Any) -> None:
    """No key of it is judged, for its type would tell which it may have; the API explains the type, and nothing but that."""
    given = {"type": kind, **tool, "authorization": {"type": "x"}, "tool_configuration": {"exclude": []}}
    conversation = {"messages": [{"role": "user", "content": "a"}]} if endpoint == "chat" else {"input": "a"}
    body = json.dumps({"model": "m", **conversation, "tools": [given]}).encode()
    assert filter_body(body, endpoint)[:2] == (body, ())
    reasons = sdk.accepts(endpoint, json.loads(body))
    assert reasons
    assert all("tools" in reason and not reason.endswith(": not permitted") for reason in reasons)


def test_strict_mode_refuses_a_loss() -> None:
    """A tool that would go is a 400 with its place; a constant that is only nearly kept is none."""
    body = {"model": "m", "input": "x", "store": True, "tools": [{"type": "web_search"}]}
    with pytest.raises(Refused) as caught:
        filter_body(json.dumps(body).encode(), "responses", strict=True)
    assert (caught.value.code, caught.value.param) == ("strict", "tools[0]")
    del body["tools"]
    assert json.loads(filter_body(json.dumps(body).encode(), "responses", strict=True).body)["store"] is False


def test_both_lists_for_chat_leave_responses_alone() -> None:
    """There is one list of the Responses API, whatever list chat has."""
    body = json.dumps({"model": "m", "input": "x", "prompt_cache_key": "k", "max_tool_calls": 1}).encode()
    for fields in ("classic", "current"):
        assert filter_body(body, "responses", fields=fields)[:2] == (body, ())


def test_the_facts_of_a_responses_request() -> None:
    """The model, and whether a stream is asked for."""
    facts = filter_body(b'{"model":"m","input":"x","stream":true}', "responses").facts
    assert (facts.model, facts.stream) == ("m", True)


def test_a_place_that_was_learnt_is_left_out() -> None:
    """A field of an item that Mistral refused before goes; what an item cannot be without stays."""
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}", "namespace": "n"}
    result = {"type": "function_call_output", "call_id": "a", "output": "1"}
    places = [("input", "*", "namespace"), ("input", "*", "call_id"), ("max_tool_calls",), ("input",)]
    body = {"model": "m", "input": [call, result], "max_tool_calls": 1}
    filtered = filter_body(json.dumps(body).encode(), "responses", learnt=[Learnt(place) for place in places])
    assert json.loads(filtered.body) == {"model": "m", "input": [{k: v for k, v in call.items() if k != "namespace"}, result]}
    assert {change.path for change in filtered.changes} == {"input[0].namespace", "max_tool_calls"}


def test_many_items_are_bounded() -> None:
    """Items cost what messages cost: a long conversation passes, one beyond every use is a 400."""
    turn = [
        {"role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}", "async_": None},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
    ]
    whole = json.loads(filter_body(json.dumps({"model": "m", "input": turn * 1000}).encode(), "responses").body)
    assert len(whole["input"]) == 3000
    with pytest.raises(TooComplex):
        filter_body(json.dumps({"model": "m", "input": turn * 20_000}).encode(), "responses")
