"""The stand-in's Responses: what it refuses against the official SDK's models, what it answers through the official SDKs."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import records
import sdk
from asking import ask, post

from mistral_filter.sandbox import NO_MODEL, RESULT_CAME, responses_violations

Json = dict[str, Any]

MODEL = "mistral-small-latest"
PATH = "/v1/responses"
ASKING = {"role": "user", "content": 'Call weather {"city": "Paris"}'}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Json = {"type": "function", "name": "weather", "parameters": PARAMETERS}
CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "12"}
USER = {"role": "user", "content": "Hi"}


def body(*items: Json, **fields: Any) -> Json:
    return {"model": MODEL, "input": list(items) or "Hi", **fields}


# ------------------------------------------------------------------------------------------------------------ 422: the schema

WHOLE: Json = {
    "model": MODEL,
    "input": [
        {"role": "user", "content": "Hi", "phase": None},
        {"role": "developer", "content": [{"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}]},
        {
            "type": "message",
            "role": "user",
            "status": "completed",
            "content": [
                {"type": "input_image", "detail": "auto", "image_url": "u"},
                {"type": "input_file", "file_url": "u", "filename": None},
            ],
        },
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "content": [
                {
                    "type": "output_text",
                    "text": "a",
                    "annotations": [
                        {"type": "url_citation", "end_index": 1, "start_index": 0, "title": "t", "url": "u"},
                        {"type": "file_path", "file_id": "f", "index": 1},
                    ],
                    "logprobs": [
                        {
                            "token": "a",
                            "bytes": [1],
                            "logprob": -1,
                            "top_logprobs": [{"token": "a", "bytes": [1], "logprob": -1.5}],
                        }
                    ],
                },
                {"type": "refusal", "refusal": "no"},
            ],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "s"}],
            "content": [{"type": "reasoning_text", "text": "t"}],
            "encrypted_content": None,
        },
        {**CALL, "id": None, "caller": {"type": "program", "caller_id": "p"}, "namespace": "n", "status": "completed"},
        {
            **RESULT,
            "output": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "u", "detail": None}],
            "caller": {"type": "direct"},
        },
    ],
    "instructions": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "truncation": "disabled",
    "tools": [
        {**TOOL, "strict": None, "allowed_callers": ["direct"], "defer_loading": False, "description": "d", "output_schema": {}},
        {
            "type": "namespace",
            "name": "n",
            "description": "d",
            "tools": [
                {"type": "function", "name": "f", "parameters": 3},
                {"type": "custom", "name": "c", "format": {"type": "grammar", "definition": "d", "syntax": "lark"}},
                {"type": "custom", "name": "c", "format": {"type": "text"}},
            ],
        },
    ],
    "tool_choice": {"type": "function", "name": "weather"},
    "reasoning": {"effort": "high"},
    "conversation": None,
    "prompt": None,
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"a": 1}, "strict": None}, "verbosity": "low"},
    "background": False,
    "stream": True,
    "store": False,
    "max_output_tokens": 5,
    "temperature": 0.5,
    "top_p": 1,
    "metadata": {"a": "b"},
    "prompt_cache_key": "k",
    "max_tool_calls": None,
    "moderation": None,
    "top_logprobs": 0,
}
"""Every key that the SDK's request has, nested ones too."""


def endpoint_of(record: records.Record) -> str | None:
    path = record.path.partition("?")[0].rstrip("/")
    return next((name for name in ("responses", "responses/input_tokens") if path.endswith("/" + name)), None)


RECORDS = [(record, endpoint) for record in records.load() if record.method == "POST" and (endpoint := endpoint_of(record))]


@pytest.mark.parametrize(("record", "endpoint"), RECORDS, ids=[str(record) for record, _ in RECORDS])
def test_refuses_a_recorded_body_exactly_when_the_sdk_would(record: records.Record, endpoint: str) -> None:
    """A client's body gets a 422 here if and only if the SDK's model, further keys forbidden, does not allow it."""
    assert bool(responses_violations(record.body, endpoint)) == bool(sdk.responses_accept(endpoint, record.body))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def test_agrees_with_the_sdk_on_bodies_of_chance() -> None:
    """A body with every key there is, changed at a place of chance, is refused if and only if the SDK refuses it."""
    chance, verdicts = random.Random(3), set()
    values: list[Any] = [None, True, 0, -1, 2.0, 1.7, "x", "text", "function", "user", "completed", [], {}, [None], ["x"]]
    everywhere = list(places(WHOLE))[1:]
    for _ in range(250):
        changed = copy.deepcopy(WHOLE)
        *path, key = chance.choice(everywhere)
        place = changed
        for step in path:
            place = place[step]
        how = chance.random()
        if how < 0.25:
            del place[key]
        elif how < 0.85 or not isinstance(place, dict):
            place[key] = copy.deepcopy(chance.choice(values))
        else:
            place["extra"] = 1
        found, theirs = responses_violations(changed, "responses"), sdk.responses_accept("responses", changed)
        assert bool(found) == bool(theirs), (path, key, found[:3], theirs[:3])
        verdicts.add(bool(found))
    assert responses_violations(WHOLE, "responses") == []
    assert verdicts == {True, False}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"include": []}, [("extra_forbidden", "include")]),
        ({"store": True, "truncation": "auto"}, [("literal_error", "store"), ("literal_error", "truncation")]),
        ({"background": True, "top_logprobs": 3}, [("literal_error", "background"), ("literal_error", "top_logprobs")]),
        ({"previous_response_id": "resp_1"}, [("none_required", "previous_response_id")]),
        ({"tools": [{"type": "web_search"}]}, [("union_tag_invalid", "tools.0")]),
        ({"tools": [{"type": "function"}]}, [("missing", "tools.0.function.name")]),
        ({"reasoning": {"effort": "high", "summary": "auto"}}, [("extra_forbidden", "reasoning.summary")]),
        ({"temperature": 2, "top_p": 0}, [("less_than_equal", "temperature"), ("greater_than", "top_p")]),
        ({"metadata": {"a": 1}}, [("string_type", "metadata.a")]),
    ],
)
def test_names_every_violation_at_the_place_pydantic_would(fields: Json, expected: list[tuple[str, str]]) -> None:
    """Keys and constants are refused where they stand, all at once."""
    found = [(one["type"], ".".join(map(str, one["loc"][1:]))) for one in responses_violations(body(**fields), "responses")]
    assert found == expected


def test_every_branch_of_an_item_complains() -> None:
    """An item is one of six kinds without a tag: each branch says what it misses, under its own name."""
    item = {"role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]}
    found = responses_violations(body(item), "responses")
    branches = {one["loc"][4] for one in found if len(one["loc"]) > 4}
    assert {"ResponsesEasyInputMessage", "ResponsesOutputMessage", "ResponsesFunctionToolCall"} <= branches
    missing = [one["loc"][-1] for one in found if one["type"] == "missing" and "ResponsesOutputMessage" in one["loc"]]
    assert missing == ["id", "status"]


def test_the_refusal_has_mistrals_shape(port: int) -> None:
    """A 422 has the envelope that every endpoint of Mistral's has."""
    status, answer = post(port, body(store=True), PATH)
    assert (status, answer["object"], answer["type"], answer["raw_status_code"]) == (422, "error", "invalid_request_error", 422)
    assert answer["message"]["detail"][0]["loc"] == ["body", "store"]


def test_input_tokens_takes_fewer_fields(port: int) -> None:
    """/v1/responses/input_tokens counts, and refuses what only an answer needs."""
    status, answer = post(port, body(USER, tools=[TOOL]), f"{PATH}/input_tokens")
    assert (status, answer["object"]) == (200, "response.input_tokens")
    assert answer["input_tokens"] > 0
    status, answer = post(port, body(temperature=1), f"{PATH}/input_tokens")
    assert (status, answer["message"]["detail"][0]["loc"]) == (422, ["body", "temperature"])


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_nothing_is_stored(port: int, method: str) -> None:
    """An answer cannot be fetched or deleted by its id: there is no such route."""
    _, answer = post(port, body(), PATH)
    assert ask(port, method, f"{PATH}/{answer['id']}")[0] == 404


# --------------------------------------------------------------------------------------------------- 400: items and models

ORDER = ("invalid_request_message_order", "3230")
ARGUMENTS = ("invalid_request_invalid_args", "3051")


@pytest.mark.parametrize(
    ("refused", "message", "kind"),
    [
        (body(USER, RESULT), "Unexpected tool call id c1 in tool results", ORDER),
        (body(USER, CALL), "Not the same number of function calls and responses", ORDER),
        (body(USER, CALL, USER, RESULT), "Not the same number of function calls and responses", ORDER),
        (body(USER, CALL, RESULT, RESULT), "Duplicate tool call id c1 in tool results", ORDER),
        (body(USER, CALL, CALL, RESULT), "Duplicate tool call id c1 in assistant message", ORDER),
        (
            body(tools=[{**TOOL, "name": "a.b"}]),
            "Function name was a.b but must be a-z, A-Z, 0-9, or contain underscores and dashes, with a maximum length of 64.",
            ("invalid_request_error", None),
        ),
        ({**body(), "model": "gpt-4o"}, "Invalid model: gpt-4o", ("invalid_model", "1500")),
        (
            body(reasoning={"effort": "low"}),
            "reasoning_effort=low is not supported for this model, supported values: ['none', 'high']",
            ARGUMENTS,
        ),
        (
            body(temperature=0, top_p=0.95),
            "top_p must be 1 when using greedy sampling.",
            ("invalid_request_error", "3054"),
        ),
        (
            body(temperature=0, reasoning={"effort": "high"}),
            "top_p must be 1 when using greedy sampling.",
            ("invalid_request_error", "3054"),
        ),
    ],
)
def test_answers_a_broken_rule_flat(port: int, refused: Json, message: str, kind: tuple[str, str | None]) -> None:
    """The rules on calls, names, models and sampling hold here as for chat completions."""
    flat = {"object": "error", "message": message, "type": kind[0], "param": None, "code": kind[1], "raw_status_code": 400}
    assert post(port, refused, PATH) == (400, flat)


@pytest.mark.parametrize(
    "taken",
    [
        body(),
        body(USER, CALL, RESULT),
        body(USER, CALL, {**CALL, "call_id": "c2"}, {**RESULT, "call_id": "c2"}, RESULT, USER),
        body(USER, {"type": "reasoning", "id": "r", "summary": []}, CALL, RESULT, CALL, RESULT),
        body(temperature=0),
        body(temperature=0, top_p=1, reasoning={"effort": "high"}),
        body({"role": "developer", "content": "Be brief."}, USER, {"role": "assistant", "content": "ok"}),
    ],
)
def test_what_keeps_the_rules_is_answered(port: int, taken: Json) -> None:
    """Calls with their results, in parallel or in turn, and greedy sampling with top_p 1 or none."""
    assert post(port, taken, PATH)[0] == 200


# ------------------------------------------------------------------------------------------------------- what the SDKs read


def test_both_sdks_read_an_answer(openai: Any, mistral: Any) -> None:
    """The text says that no model was asked, whichever SDK reads it, and nothing of the request comes back in it."""
    answer = openai.responses.create(model=MODEL, input="secretword", instructions="Be brief.")
    assert (answer.output_text, answer.status, answer.instructions) == (NO_MODEL, "completed", None)
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0
    [item] = mistral.responses.create(model=MODEL, input="secretword").output
    assert item.content[0].text == NO_MODEL


def test_a_stream_has_every_event_in_its_order(openai: Any) -> None:
    """The events that the SDKs wait for come once and in order, numbered from 0; the pieces make the text."""
    events = list(openai.responses.create(model=MODEL, input="Hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == NO_MODEL
    assert len(deltas) > 3
    assert [kind for kind in kinds if kind != "response.output_text.delta"] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[-1].response.output_text == NO_MODEL


@pytest.mark.parametrize("fields", [{}, {"reasoning": {"effort": "high"}}, {"tools": [TOOL], "tool_choice": "required"}], ids=str)
def test_mistrals_sdk_reads_every_event(mistral: Any, fields: Json) -> None:
    """Mistral's own SDK, which checks each event against its model, reads the whole stream."""
    with mistral.responses.create(model=MODEL, input="Hi", stream=True, **fields) as events:
        frames = list(events)
    assert [frame.event for frame in frames] == [frame.data.type for frame in frames]
    assert frames[-1].data.type == "response.completed"


def test_the_events_bear_names_and_no_end_mark(port: int) -> None:
    """On the wire each event has its type as its name, and the stream ends after the last."""
    _, headers, raw = ask(port, "POST", PATH, body(stream=True))
    assert headers["Content-Type"].startswith("text/event-stream")
    events = [event.split("\n") for event in raw.decode().strip().split("\n\n")]
    assert all(name == f"event: {json.loads(data.removeprefix('data: '))['type']}" for name, data in events)
    assert events[-1][0] == "event: response.completed"


def test_a_tool_turn(openai: Any) -> None:
    """A call that was asked for, streamed, and its result given back whole; without a wish no tool is called."""
    assert openai.responses.create(model=MODEL, input="Hi", tools=[TOOL]).output_text == NO_MODEL
    with openai.responses.stream(model=MODEL, input=[ASKING], tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        [call] = stream.get_final_response().output
    assert [kind for kind in kinds if "arguments" in kind] == [
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
    ]
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"city": "Paris"})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "9 degrees"}
    item = call.model_dump(include={"type", "call_id", "name", "arguments"})
    assert openai.responses.create(model=MODEL, input=[ASKING, item, result], tools=[TOOL]).output_text == RESULT_CAME


@pytest.mark.parametrize(("parallel", "names"), [(True, ["time", "weather"]), (False, ["time"])])
def test_two_tools_are_called_at_once_unless_that_is_turned_off(port: int, parallel: bool, names: list[str]) -> None:
    """Both functions that the user asks for are called; with ``parallel_tool_calls`` false only the first."""
    asked = {"role": "user", "content": [{"type": "input_text", "text": "call time and call weather"}]}
    _, answer = post(port, body(asked, tools=[TOOL, {**TOOL, "name": "time"}], parallel_tool_calls=parallel), PATH)
    assert [item["name"] for item in answer["output"]] == names


def test_a_call_into_a_namespace_names_it(port: int) -> None:
    """A function of a namespace tool is called under its own name beside the namespace."""
    tools = [{"type": "namespace", "name": "git", "description": "d", "tools": [TOOL, {"type": "custom", "name": "c"}]}]
    _, answer = post(port, body(ASKING, tools=tools), PATH)
    [call] = answer["output"]
    assert (call["name"], call["namespace"]) == ("weather", "git")


@pytest.mark.parametrize("fields", [{"reasoning": {"effort": "high"}}, {"model": "magistral-small-latest"}], ids=str)
def test_a_reasoning_item_comes_first(openai: Any, fields: Json) -> None:
    """Where the model reasons, an item of reasoning comes before the message, plain and streamed."""
    thought = "Nothing was thought: this is the sandbox."
    plain = openai.responses.create(**{**body(), **fields})
    with openai.responses.stream(**{**body(), **fields}) as stream:
        deltas = [event.delta for event in stream if event.type == "response.reasoning_text.delta"]
        streamed = stream.get_final_response()
    assert "".join(deltas) == thought
    for answer in (plain, streamed):
        assert [item.type for item in answer.output] == ["reasoning", "message"]
        assert answer.output[0].content[0].text == thought
        assert answer.output_text == NO_MODEL


def test_a_schema_is_answered_with_json_that_fits(openai: Any) -> None:
    """``text.format`` is obeyed, so that structured outputs can be tried."""
    wanted = {"type": "json_schema", "name": "n", "schema": PARAMETERS, "strict": True}
    answer = openai.responses.create(model=MODEL, input="Hi", text={"format": wanted})
    assert json.loads(answer.output_text) == {"city": "sandbox"}
