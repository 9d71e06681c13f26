"""The stand-in for Mistral: what it refuses against judges of its own, what it answers through the official SDKs."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import records
import sdk
from asking import KEY, ask, post

from mistral_filter.sandbox import NO_MODEL, RESULT_CAME, broken_rule, main, make_server, refused_by_model, violations

Json = dict[str, Any]

USER = {"role": "user", "content": "Hi"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}, "note": {"type": "string"}},
            "required": ["city", "days"],
        },
    },
}
CHUNKS = "list[tagged-union[TextChunk,ImageURLChunk,DocumentURLChunk,ReferenceChunk,FileChunk,ThinkChunk,AudioChunk]]"
ENDPOINTS = "chat/moderations chat/classifications moderations classifications embeddings ocr".split()


def chat(*messages: Json, **fields: Any) -> Json:
    return {"model": "mistral-small-latest", "messages": list(messages or [USER]), **fields}


def says(content: Any = "ok", **fields: Any) -> Json:
    return {"role": "assistant", "content": content, **fields}


def calls(*names: str) -> Json:
    return {"role": "assistant", "tool_calls": [{"id": name, "function": {"name": "f", "arguments": "{}"}} for name in names]}


def result(call: Any, **fields: Any) -> Json:
    return {"role": "tool", "tool_call_id": call, "content": "12", **fields}


def found(body: Any, endpoint: str = "chat") -> list[tuple[str, str]]:
    return [(one["type"], ".".join(map(str, one["loc"][1:]))) for one in violations(body, endpoint)]


def raw_exchange(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


# ------------------------------------------------------------------------------------------------------------ 422: the schema


def endpoint_of(path: str) -> str | None:
    path = path.partition("?")[0].rstrip("/")
    completions = {f"{name}/completions": name for name in ("chat", "agents", "fim")}
    return next((name for end, name in {**completions, **{e: e for e in ENDPOINTS}}.items() if path.endswith("/" + end)), None)


RECORDS = [(r, e) for r in records.load() if r.method == "POST" and (e := endpoint_of(r.path))]


@pytest.mark.parametrize(("record", "endpoint"), RECORDS, ids=[str(record) for record, _ in RECORDS])
def test_refuses_a_recorded_body_exactly_when_the_sdk_would(record: records.Record, endpoint: str) -> None:
    """A client's body gets a 422 here if and only if Mistral's own SDK models do not allow it."""
    assert bool(violations(record.body, endpoint)) == bool(sdk.accepts(endpoint, record.body))


BODIES: list[tuple[str, Json, list[tuple[str, str]]]] = [
    ("chat", chat(), []),
    ("chat", {}, [("missing", "model"), ("missing", "messages")]),
    (
        "chat",
        chat(store=False, max_completion_tokens=5),
        [("extra_forbidden", "store"), ("extra_forbidden", "max_completion_tokens")],
    ),
    ("chat", chat({**USER, "name": "x"}), [("extra_forbidden", "messages.0.user.name")]),
    ("chat", chat({"role": "developer", "content": "x"}), [("union_tag_invalid", "messages.0")]),
    ("chat", chat({"content": "x"}), [("union_tag_not_found", "messages.0")]),
    ("chat", chat({"role": None, "content": "x"}), [("union_tag_invalid", "messages.0")]),
    ("chat", chat({"role": "user"}), [("missing", "messages.0.user.content")]),
    ("chat", {"model": "m", "messages": "Hi"}, [("list_type", "messages")]),
    ("chat", {"model": None, "messages": None}, [("string_type", "model"), ("list_type", "messages")]),
    ("chat", {"model": "m", "messages": ["Hi", None]}, [("model_attributes_type", f"messages.{i}") for i in (0, 1)]),
    ("chat", chat({"role": "user", "content": None}), []),
    (
        "chat",
        chat({"role": "system", "content": None}),
        [("string_type", "messages.0.system.content.str"), ("list_type", f"messages.0.system.content.{CHUNKS}")],
    ),
    (
        "chat",
        chat(USER, {**calls("abcdefgh1"), "refusal": None}, result("abcdefgh1")),
        [("extra_forbidden", "messages.1.assistant.refusal")],
    ),
    (
        "chat",
        chat(USER, says(None, prefix=None, tool_calls=[{"id": None, "type": "custom", "name": "f", "function": {"name": "f"}}])),
        [
            ("bool_type", "messages.1.assistant.prefix"),
            ("string_type", "messages.1.assistant.tool_calls.0.id"),
            ("enum", "messages.1.assistant.tool_calls.0.type"),
            ("extra_forbidden", "messages.1.assistant.tool_calls.0.name"),
            ("missing", "messages.1.assistant.tool_calls.0.function.arguments"),
        ],
    ),
    (
        "chat",
        chat({"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]}),
        [
            ("string_type", "messages.0.user.content.str"),
            ("extra_forbidden", f"messages.0.user.content.{CHUNKS}.0.text.cache_control"),
        ],
    ),
    (
        "chat",
        chat({"role": "user", "content": [{"type": "refusal", "refusal": "no"}, {"text": "a"}]}),
        [
            ("string_type", "messages.0.user.content.str"),
            ("union_tag_invalid", f"messages.0.user.content.{CHUNKS}.0"),
            ("union_tag_not_found", f"messages.0.user.content.{CHUNKS}.1"),
        ],
    ),
    (
        "chat",
        chat({"role": "user", "content": [{"type": "input_audio", "input_audio": 7}]}),
        [
            ("string_type", "messages.0.user.content.str"),
            ("string_type", f"messages.0.user.content.{CHUNKS}.0.input_audio.input_audio"),
        ],
    ),
    (
        "chat",
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u", "detail": "original", "x": 1}}]}),
        [
            ("string_type", "messages.0.user.content.str"),
            ("string_type", f"messages.0.user.content.{CHUNKS}.0.image_url.image_url.str"),
            ("enum", f"messages.0.user.content.{CHUNKS}.0.image_url.image_url.ImageURL.detail"),
            ("extra_forbidden", f"messages.0.user.content.{CHUNKS}.0.image_url.image_url.ImageURL.x"),
        ],
    ),
    ("chat", chat({"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}), []),
    (
        "chat",
        chat(
            says([{"type": "thinking", "thinking": [{"text": "no type, as the document allows"}]}, {"type": "text", "text": ""}])
        ),
        [],
    ),
    (
        "chat",
        chat(
            tools=[
                {"type": "custom", "custom": {}},
                {"function": {"name": "f", "parameters": {}}},
                {"type": "function", "name": "f", "function": {"name": "f"}},
            ]
        ),
        [
            ("union_tag_invalid", "tools.0"),
            ("extra_forbidden", "tools.2.function.name"),
            ("missing", "tools.2.function.function.parameters"),
        ],
    ),
    (
        "chat",
        chat(tools=[{"type": "function", "function": {"name": "f", "parameters": None, "description": None, "strict": None}}]),
        [
            ("dict_type", "tools.0.function.function.parameters"),
            ("string_type", "tools.0.function.function.description"),
            ("bool_type", "tools.0.function.function.strict"),
        ],
    ),
    ("chat", chat(tools=None, stop=None, temperature=None, n=None, metadata=None), []),
    (
        "chat",
        chat(stream=None, response_format=None, tool_choice=None, parallel_tool_calls=None, prediction=None, safe_prompt=None),
        [
            ("bool_type", "stream"),
            ("model_attributes_type", "response_format"),
            ("string_type", "tool_choice.str"),
            ("model_attributes_type", "tool_choice.ToolChoice"),
            ("bool_type", "parallel_tool_calls"),
            ("model_attributes_type", "prediction"),
            ("bool_type", "safe_prompt"),
        ],
    ),
    (
        "chat",
        chat(temperature=1.6, top_p=0, max_tokens=-1, presence_penalty=-2.1, frequency_penalty=2.1, n=0, random_seed=-1, stop=[]),
        [
            ("less_than_equal", "temperature"),
            ("greater_than", "top_p"),
            ("greater_than_equal", "max_tokens"),
            ("greater_than_equal", "presence_penalty"),
            ("less_than_equal", "frequency_penalty"),
            ("greater_than_equal", "n"),
            ("greater_than_equal", "random_seed"),
            ("too_short", "stop"),
        ],
    ),
    ("chat", chat(temperature=1.5, top_p=1, max_tokens=0, presence_penalty=-2, frequency_penalty=2, n=1, random_seed=0), []),
    ("chat", chat(temperature="hot", n=[1]), [("float_type", "temperature"), ("float_type", "n")]),
    ("chat", chat(service_tier="flex", reasoning_effort="much"), [("enum", "service_tier"), ("enum", "reasoning_effort")]),
    ("chat", chat(tool_choice="required"), []),
    ("chat", chat(tool_choice={"type": "function", "function": {"name": "f"}}), []),
    ("chat", chat(tool_choice="always"), [("enum", "tool_choice")]),
    (
        "chat",
        chat(prediction={"type": "content", "content": [{"type": "text", "text": "a"}]}),
        [("string_type", "prediction.content")],
    ),
    ("chat", chat(response_format={"type": "xml"}), [("enum", "response_format.type")]),
    (
        "chat",
        chat(response_format={"type": "json_schema", "json_schema": {"name": "n", "strict": None}}),
        [("missing", "response_format.json_schema.schema"), ("bool_type", "response_format.json_schema.strict")],
    ),
    ("agents", {"agent_id": "a", "messages": [USER], "model": "m"}, [("extra_forbidden", "model")]),
    ("agents", {"messages": [USER]}, [("missing", "agent_id")]),
    ("fim", {"model": "m", "prompt": "a", "suffix": None, "n": 1}, [("extra_forbidden", "n")]),
    ("embeddings", {"model": "m", "input": "a", "encoding_format": "base64", "output_dimension": 4}, []),
    (
        "embeddings",
        {"model": "m", "input": [1, "a", [2]], "user": "u", "dimensions": 4, "output_dimension": 0},
        [
            ("string_type", "input.str"),
            ("string_type", "input.list[str].0"),
            ("string_type", "input.list[str].2"),
            ("extra_forbidden", "user"),
            ("extra_forbidden", "dimensions"),
            ("greater_than", "output_dimension"),
        ],
    ),
    ("embeddings", {"model": "m", "input": None}, [("string_type", "input")]),
    ("moderations", {"model": "m", "input": ["a", "b"], "metadata": {}}, []),
    ("classifications", {"model": "m", "inputs": "a"}, [("missing", "input"), ("extra_forbidden", "inputs")]),
    ("chat/moderations", {"model": "m", "input": [USER]}, []),
    (
        "chat/moderations",
        {"model": "m", "input": [[USER], [{**USER, "name": "x"}]]},
        [("extra_forbidden", "input.1.0.user.name")],
    ),
    ("chat/classifications", {"model": "m", "input": {"messages": [USER]}}, []),
    ("chat/classifications", {"model": "m", "input": [{"messages": [USER]}, {}]}, [("missing", "input.1.messages")]),
    ("ocr", {"model": None, "document": {"document_url": "u"}, "pages": [0]}, []),
    (
        "ocr",
        {"model": "m", "document": {"type": "image_url", "image_url": {"x": 1}}, "id": "i"},
        [
            ("string_type", "document.image_url.image_url.str"),
            ("missing", "document.image_url.image_url.ImageURL.url"),
            ("extra_forbidden", "document.image_url.image_url.ImageURL.x"),
            ("extra_forbidden", "id"),
        ],
    ),
]


@pytest.mark.parametrize(("endpoint", "body", "expected"), BODIES)
def test_names_every_violation_at_the_place_pydantic_would(endpoint: str, body: Json, expected: list[tuple[str, str]]) -> None:
    """All violations of a body come at once, each with pydantic's type and the path written here by hand."""
    assert sorted(found(body, endpoint)) == sorted(expected)


@pytest.mark.parametrize(("endpoint", "body", "expected"), BODIES)
def test_the_sdk_agrees_with_the_bodies_written_here(endpoint: str, body: Json, expected: list[tuple[str, str]]) -> None:
    """The expectations above are no invention: Mistral's SDK models refuse and allow the same bodies."""
    assert bool(sdk.accepts(endpoint, body)) == bool(expected)


def test_a_tool_choice_is_a_function() -> None:
    """The document of 2026-08-21 closes the type of a tool choice; the SDK takes any string there."""
    body = chat(tool_choice={"type": "allowed_tools", "function": {"name": "f"}})
    assert found(body) == [("string_type", "tool_choice.str"), ("enum", "tool_choice.ToolChoice.type")]


@pytest.mark.parametrize(
    "message",
    [
        {
            "role": "user",
            "content": [{"type": "text", "text": "a", "x": 1}, {"type": "image_url", "image_url": {"url": "u", "z": 1}}],
        },
        {"role": "user", "content": [{"type": "nope"}, {"text": "a"}, {"type": "text"}]},
        {"role": "user", "content": 7},
        {"role": "nobody", "content": "a"},
        {"content": "a"},
        {"role": "system", "content": None},
        {"role": "assistant", "prefix": None, "x": 1, "tool_calls": {}},
        {"role": "assistant", "tool_calls": [{"id": None, "type": None, "x": 1, "function": {"name": None}}]},
        {"role": "tool", "x": None},
        "text",
    ],
    ids=str,
)
def test_records_errors_as_pydantic_does(message: Any) -> None:
    """Type, path and input of each error are those of a real pydantic model of the message, but for the names in a union."""
    pydantic = pytest.importorskip("pydantic")
    request = pytest.importorskip("mistral_common.protocol.instruct.request")
    with pytest.raises(pydantic.ValidationError) as caught:
        request.ChatCompletionRequest.model_validate({"model": "m", "messages": [message]})

    def plain(error: Json) -> tuple[Any, ...]:
        loc = [re.sub(r"^list\[tagged-union\[.*", "list", part) if isinstance(part, str) else part for part in error["loc"]]
        # FastAPI reads attributes as well, which gives the error for "not an object" another name.
        kind = error["type"].replace("model_type", "model_attributes_type")
        return kind, tuple(part for part in loc if part != "body"), str(error["input"])

    theirs = {plain(dict(error)) for error in caught.value.errors()}
    assert {plain(error) for error in violations({"model": "m", "messages": [message]}, "chat")} == theirs


def test_each_error_carries_its_sentence_and_the_value(port: int) -> None:
    """The 422 has the envelope and the sentences that clients search for, with the refused value."""
    status, answer = post(port, chat({**USER, "name": "Ann"}, temperature=2))
    assert status == 422
    assert answer == {
        "object": "error",
        "message": {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "messages", 0, "user", "name"],
                    "msg": "Extra inputs are not permitted",
                    "input": "Ann",
                },
                {
                    "type": "less_than_equal",
                    "loc": ["body", "temperature"],
                    "msg": "Input should be less than or equal to 1.5",
                    "input": 2,
                },
            ]
        },
        "type": "invalid_request_error",
        "param": None,
        "code": None,
        "raw_status_code": 422,
    }


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"model": NaN}', b"{} {}", b"[" * 100_000])
def test_what_is_not_json_gets_the_second_shape(port: int, body: bytes) -> None:
    """A body that no JSON parser takes is a 422 json_invalid without the error envelope."""
    status, answer = post(port, body)
    assert status == 422
    assert [error["type"] for error in answer.pop("detail")] == ["json_invalid"]
    assert not answer


def test_a_body_that_is_no_object_is_refused(port: int) -> None:
    """JSON that is not an object is refused at the body itself."""
    assert found([1]) == [("model_attributes_type", "")]
    assert post(port, [1])[0] == 422


# ------------------------------------------------------------------------------------------------------ 400: the conversation

ORDER = ("invalid_request_message_order", "3230")
CALL = ("invalid_function_call", "3280")
OTHER = ("invalid_request_error", None)
IMAGE = [{"type": "image_url", "image_url": "u"}]
AUDIO = [{"type": "input_audio", "input_audio": "AA=="}]


@pytest.mark.parametrize(
    ("body", "message", "kind"),
    [
        (chat(USER, says(), {"role": "system", "content": "x"}), "Unexpected role 'system' after role 'assistant'", ORDER),
        (
            chat(USER, calls("abcdefgh1"), result("abcdefgh1"), {"role": "system", "content": "x"}),
            "Unexpected role 'system' after role 'tool'",
            ORDER,
        ),
        (chat(USER, result("abcdefgh1")), "Unexpected role 'tool' after role 'user'", ORDER),
        (
            chat(USER, says()),
            "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant",
            ORDER,
        ),
        (chat(says()), "Conversation must start with a user message or system message", ORDER),
        ({**chat(), "messages": []}, "Conversation must have at least one message", ORDER),
        (chat(USER, calls("abcdefgh1"), USER), "Not the same number of function calls and responses", ORDER),
        (
            chat(USER, calls("abcdefgh1", "abcdefgh2"), result("abcdefgh1"), says(), USER),
            "Not the same number of function calls and responses",
            ORDER,
        ),
        (chat(USER, calls("abcdefgh1"), result("other1234")), "Unexpected tool call id other1234 in tool results", ORDER),
        (
            chat(USER, calls("abcdefgh1"), result("abcdefgh1"), result("abcdefgh1")),
            "Duplicate tool call id abcdefgh1 in tool results",
            ORDER,
        ),
        (
            chat(USER, calls("call_1"), result("call_1")),
            "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9.",
            CALL,
        ),
        # A tool message at the start is not paired with calls, as in the validator.
        (chat(result("call_2"), USER), "Tool call id was call_2 but must be a-z, A-Z, 0-9, with a length of 9.", CALL),
        (chat(USER, calls("null"), result("null")), "Tool call id has to be defined.", CALL),
        (
            chat(USER, calls("abcdefgh1", "abcdefgh1"), result("abcdefgh1")),
            "Duplicate tool call id abcdefgh1 in assistant message",
            ORDER,
        ),
        (chat(USER, calls("abcdefgh1"), result([1])), "Unexpected tool call id [1] in tool results", ORDER),
        (
            chat(USER, says(""), USER),
            "Assistant message must have either content or tool_calls, but not none.",
            ("invalid_request_assistant_message", "3240"),
        ),
        (chat(USER, says(prefix=True), USER), "Assistant message with prefix True must be last message", OTHER),
        (
            chat(USER, calls("abcdefgh1"), result("abcdefgh1", content=AUDIO)),
            "Unexpected content chunk types in tool message: ['input_audio']",
            OTHER,
        ),
        (
            chat({"role": "user", "content": [{"type": "thinking", "thinking": []}]}),
            "Unexpected content chunk types in user message: ['thinking']",
            OTHER,
        ),
        (
            chat(tools=[{"type": "function", "function": {"name": "a b", "parameters": {}}}]),
            "Function name was a b but must be a-z, A-Z, 0-9, or contain underscores and dashes, with a maximum length of 64.",
            OTHER,
        ),
    ],
)
def test_answers_a_broken_rule_flat(port: int, body: Json, message: str, kind: tuple[str, str | None]) -> None:
    """Each rule of the conversation is a 400 with Mistral's sentence, type and code, and nothing nested."""
    flat = {"object": "error", "message": message, "type": kind[0], "param": None, "code": kind[1], "raw_status_code": 400}
    assert post(port, body) == (400, flat)


@pytest.mark.parametrize(
    "body",
    [
        chat(USER, calls("abcdefgh1"), result("abcdefgh1"), USER),
        chat(USER, calls("abcdefgh1", "abcdefgh2"), result("abcdefgh2"), result("abcdefgh1", name="weather")),
        chat({"role": "system", "content": "x"}),
        chat(USER, {"role": "system", "content": "x"}, USER, USER),
        chat(USER, says("Once", prefix=True)),
        chat(USER, {**calls("abcdefgh1"), "content": "text and a call"}, result("abcdefgh1")),
        chat(tools=[{"type": "web_search"}]),
        # Recorded 200s: an image of a tool, a tool without a type, audio as an object.
        chat(USER, calls("abcdefgh1"), result("abcdefgh1", content=IMAGE)),
        chat(tools=[{"function": {"name": "f", "parameters": {}}}]),
        chat({"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]}),
    ],
)
def test_keeps_to_the_rules_of_today(port: int, body: Json) -> None:
    """What Mistral takes today is taken: a user message after a tool's, text beside calls, a prefix at the end."""
    assert post(port, body)[0] == 200


@pytest.mark.parametrize(
    ("body", "path", "message", "code"),
    [
        (chat(model="gpt-4o"), "chat/completions", "Invalid model: gpt-4o", "1500"),
        ({"model": "x", "prompt": "a"}, "fim/completions", "Invalid model: x", "1500"),
        ({"model": "text-embedding-3-small", "input": "a"}, "embeddings", "Invalid model: text-embedding-3-small", "1500"),
        (chat(temperature=0, top_p=0.95), "chat/completions", "top_p must be 1 when using greedy sampling.", "3054"),
        (
            chat(temperature=0, reasoning_effort="high"),
            "chat/completions",
            "top_p must be 1 when using greedy sampling.",
            "3054",
        ),
        (
            chat(reasoning_effort="medium"),
            "chat/completions",
            "reasoning_effort=medium is not supported for this model, supported values: ['none', 'high']",
            "3051",
        ),
        (
            chat(model="mistral-large-latest", reasoning_effort="high"),
            "chat/completions",
            "Reasoning effort is not enabled for this model",
            "3051",
        ),
        (chat(logprobs=True, top_logprobs=2), "chat/completions", "Logprobs are not enabled for this model", "3051"),
        (chat(top_k=5), "chat/completions", "Top k is not enabled for this model", "3051"),
        (chat(prompt_mode="reasoning"), "chat/completions", "Reasoning prompt mode is not enabled for this model", "3051"),
        (
            {"model": "mistral-embed", "input": "a", "output_dimension": 1024},
            "embeddings",
            "Output dimension is not enabled for this model",
            "3051",
        ),
        (
            {"model": "codestral-embed", "input": "a", "output_dimension": 4000},
            "embeddings",
            "Output dimension is too large",
            "3051",
        ),
    ],
)
def test_a_model_refuses_what_it_does_not_take(port: int, body: Json, path: str, message: str, code: str) -> None:
    """Unknown models, greedy sampling, and fields that the model does not have: a 400 with Mistral's code."""
    status, answer = post(port, body, f"/v1/{path}")
    assert (status, answer["message"], answer["code"], answer["raw_status_code"]) == (400, message, code, 400)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 0, "top_p": 1},
        {"temperature": 0, "reasoning_effort": "high", "top_p": 1},
        {"temperature": 0, "reasoning_effort": "none"},
        {"reasoning_effort": "none"},
        {"logprobs": False, "top_logprobs": None},
        {"model": "magistral-small-latest", "prompt_mode": "reasoning"},
        {"model": "ft:mistral-small:1"},
    ],
    ids=str,
)
def test_a_model_takes_the_rest(port: int, fields: Json) -> None:
    """What changes nothing, or what the model has, is no reason for a refusal."""
    assert post(port, chat(**fields))[0] == 200


CHATS = [record for record, endpoint in RECORDS if endpoint == "chat" and not sdk.accepts(endpoint, record.body)]


@pytest.mark.parametrize("record", CHATS, ids=str)
def test_breaks_on_a_recorded_conversation_exactly_when_the_validator_does(record: records.Record) -> None:
    """A client's conversation gets a 400 here if and only if Mistral's own validator refuses it."""
    pytest.importorskip("mistral_common")
    sampling = {name: record.body.get(name) for name in ("temperature", "top_p", "reasoning_effort", "prompt_mode")}
    refused = broken_rule(record.body) or refused_by_model(sampling)
    assert bool(refused) == bool(sdk.common_accepts(record.body))


def test_agrees_with_the_validator_on_conversations_of_chance() -> None:
    """Over thousands of random conversations, right and wrong ones, the verdict is that of Mistral's own validator."""
    pytest.importorskip("mistral_common")
    chance = random.Random(7)
    verdicts = set()
    for _ in range(5000):
        messages: list[Json] = []
        for _ in range(chance.randint(0, 6)):
            # Mostly what may follow, or nearly every conversation would fail at its first step.
            last = messages[-1] if messages else {}
            ids = [call["id"] for call in last.get("tool_calls", ())] or ["abcdefgh1", "call_1"]
            call = calls(*chance.sample(["abcdefgh1", "abcdefgh2", "call_1"], chance.randint(0, 2)))
            options = [
                USER,
                says(),
                says(""),
                says(prefix=True),
                {"role": "system", "content": "x"},
                call,
                result(chance.choice(ids)),
            ]
            messages.append(chance.choice(options + [result(ids[0])] * 4 * bool(last.get("tool_calls"))))
        body = {"model": "m", "messages": messages}
        ours, theirs = broken_rule(body), sdk.common_accepts(body)
        assert bool(ours) == bool(theirs), (messages, ours, theirs)
        verdicts.add(bool(ours))
    assert verdicts == {True, False}


# ------------------------------------------------------------------------------------------------------- what the SDKs read


def test_openai_reads_an_answer(openai: Any) -> None:
    """The OpenAI SDK reads a plain answer: it says that no model was asked, and counts."""
    answer = openai.chat.completions.create(**chat(), n=2)
    assert [choice.message.content for choice in answer.choices] == [NO_MODEL] * 2
    assert [(choice.index, choice.finish_reason) for choice in answer.choices] == [(0, "stop"), (1, "stop")]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


@pytest.mark.parametrize("wanted", [None, {"type": "json_object"}], ids=str)
def test_nothing_of_the_request_is_repeated(port: int, wanted: Json | None) -> None:
    """No message, no name and no result of a tool comes back, whatever the answer's form: an agent could obey its own echo."""
    conversation = [{"role": "user", "content": "secretword"}, calls("abcdefgh1"), result("abcdefgh1", content="secretword")]
    for messages in (conversation[:1], conversation):
        _, answer = post(port, chat(*messages, **({"response_format": wanted} if wanted else {})))
        assert "secretword" not in json.dumps(answer)
        assert NO_MODEL in answer["choices"][0]["message"]["content"]


def test_openai_reads_a_stream(openai: Any) -> None:
    """The pieces of a stream make up the plain answer; the role comes first, the usage with the reason for the end."""
    chunks = list(openai.chat.completions.create(**chat(), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == NO_MODEL
    assert [bool(chunk.choices[0].delta.role) for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert len(chunks) > 3


def test_a_stream_has_as_many_choices_as_asked_for(openai: Any) -> None:
    """Every choice of a stream is complete, and the usage comes once."""
    chunks = list(openai.chat.completions.create(**chat(), stream=True, n=3))
    assert [chunk.choices[0].index for chunk in chunks if chunk.choices[0].finish_reason] == [0, 1, 2]
    assert len([chunk for chunk in chunks if chunk.usage]) == 1


def test_openai_goes_through_a_tool_call(openai: Any) -> None:
    """A function is called with what its schema requires; the call and its result are taken back and answered in text."""
    asking = {"role": "user", "content": "Call weather."}
    choice = openai.chat.completions.create(**chat(asking), tools=[TOOL]).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "weather"
    assert re.fullmatch("[a-zA-Z0-9]{9}", call.id)
    assert json.loads(call.function.arguments) == {"city": "sandbox", "days": 1}
    message = {"role": "assistant", "content": choice.message.content, "tool_calls": [call.model_dump(exclude={"index"})]}
    answer = openai.chat.completions.create(**chat(asking, message, result(call.id)), tools=[TOOL]).choices[0]
    assert answer.finish_reason == "stop"
    assert answer.message.content == RESULT_CAME


def test_a_streamed_tool_call_comes_whole(openai: Any) -> None:
    """In a stream one delta holds the complete call, in the chunk that ends the answer, without a type."""
    asking = {"role": "user", "content": "Call weather."}
    chunks = list(openai.chat.completions.create(**chat(asking), tools=[TOOL], stream=True))
    (call,) = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert json.loads(call.function.arguments) == {"city": "sandbox", "days": 1}
    assert call.type is None
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage


TIME = {"type": "function", "function": {"name": "time", "parameters": {}}}
NAMED = {"type": "function", "function": {"name": "time"}}


@pytest.mark.parametrize(
    ("choice", "text", "names"),
    [
        ("auto", "Hi", []),
        ("auto", "What is the weather? Tell me the time.", []),
        ("auto", "call weather", ["weather"]),
        ("auto", "Please use the tool `time` now", ["time"]),
        ("auto", 'RUN the function "weather".', ["weather"]),
        ("auto", "use time, then call weather", ["time", "weather"]),
        ("auto", "call weather-service, call times, recall weather", []),
        ("any", "Hi", ["weather"]),
        ("required", "Hi", ["weather"]),
        ("required", "call time", ["time"]),
        (NAMED, "Hi", ["time"]),
        (NAMED, "call weather", ["time"]),
        ("none", "call weather", []),
    ],
)
def test_calls_a_tool_only_when_it_has_to(port: int, choice: Any, text: str, names: list[str]) -> None:
    """A function is called where ``tool_choice`` forces one or the user asks for it in so many words, and else none is."""
    body = chat({"role": "user", "content": text}, tools=[{"type": "web_search"}, TOOL, TIME], tool_choice=choice)
    _, answer = post(port, body)
    made = answer["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["name"] for call in made or ()] == names


def test_parallel_calls_can_be_turned_off(port: int) -> None:
    """Of two functions asked for only the first is called where the request wants one call at a time."""
    body = chat({"role": "user", "content": "call time and call weather"}, tools=[TOOL, TIME], parallel_tool_calls=False)
    assert [call["function"]["name"] for call in post(port, body)[1]["choices"][0]["message"]["tool_calls"]] == ["time"]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('call weather {"city": "Paris", "days": 3} please', {"city": "Paris", "days": 3}),
        ("call weather {city}", {"city": "sandbox", "days": 1}),
        ("call weather " + '{"a":' * 3000, {"city": "sandbox", "days": 1}),
        ("call weather [1]", {"city": "sandbox", "days": 1}),
    ],
)
def test_the_message_may_give_the_arguments(port: int, text: str, arguments: Json) -> None:
    """A JSON object right behind the name of the function is what it is called with."""
    _, answer = post(port, chat({"role": "user", "content": text}, tools=[TOOL]))
    [call] = answer["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == arguments


@pytest.mark.parametrize(("choice", "then"), [("auto", None), ("any", "time"), (NAMED, "time")])
def test_a_forced_function_is_called_once(port: int, choice: Any, then: str | None) -> None:
    """After the results of a turn a function is called again only where one is forced that was not called in it."""
    messages = [{"role": "user", "content": "call weather"}]
    for name in ("weather", then, None):
        forced = chat(*messages, tools=[TOOL, TIME], tool_choice=choice if len(messages) > 1 else "auto")
        message = post(port, forced)[1]["choices"][0]["message"]
        made = message["tool_calls"] or []
        assert [call["function"]["name"] for call in made] == ([name] if name else [])
        if not name:
            return
        messages += [message, result(made[0]["id"])]


def test_a_function_without_required_parameters_gets_none(port: int) -> None:
    """Arguments are an empty object where nothing is required."""
    tool = {"type": "function", "function": {"name": "time", "parameters": {}}}
    _, answer = post(port, chat(tools=[tool], tool_choice="any"))
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == "{}"


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "kind": {"enum": ["a", "b"]},
        "version": {"const": 2},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
        "child": {"anyOf": [{"$ref": "#/$defs/child"}, {"type": "null"}]},
        "maybe": {"type": ["null", "string"]},
        "left_out": {"type": "string"},
    },
    "required": ["name", "kind", "version", "tags", "child", "maybe"],
    "$defs": {"child": {"type": "object", "properties": {"age": {"type": "number"}}, "required": ["age"]}},
}


def test_a_schema_is_answered_with_json_that_fits(openai: Any) -> None:
    """``json_schema`` gives a JSON text with exactly what the schema requires."""
    wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}
    answer = openai.chat.completions.create(**chat(), response_format=wanted)
    expected = {"name": "sand", "kind": "a", "version": 2, "tags": [False, False], "child": {"age": 0}, "maybe": None}
    assert json.loads(answer.choices[0].message.content) == expected


def test_json_mode_is_answered_with_json(openai: Any) -> None:
    """``json_object`` gives a JSON object that says that no model was asked."""
    answer = openai.chat.completions.create(**chat(), response_format={"type": "json_object"})
    assert json.loads(answer.choices[0].message.content) == {"sandbox": NO_MODEL}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/nowhere"},
        {"$ref": 1},
        {"required": [[]], "type": "object"},
        {"type": "object", "properties": [], "required": ["a"]},
        {"type": []},
        {"type": {}},
        {"enum": 5},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "minItems": "many"},
        {"type": "object", "properties": {name: {"$ref": "#"} for name in "abcdefghijkl"}, "required": [*"abcdefghijkl"]},
    ],
    ids=str,
)
def test_a_schema_that_is_none_does_no_harm(port: int, schema: Json) -> None:
    """A malformed schema, or one that holds itself, still gets an answer that is JSON."""
    status, answer = post(port, chat(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}))
    assert status == 200
    json.loads(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize("fields", [{"model": "magistral-small-latest"}, {"reasoning_effort": "high"}])
def test_a_reasoning_model_thinks_in_chunks(mistral: Any, fields: Json) -> None:
    """Content is a list, plain and in a stream: thinking first, then text, as the Mistral SDK models it."""
    message = mistral.chat.complete(**{**chat(), **fields}).choices[0].message
    assert [chunk.type for chunk in message.content] == ["thinking", "text"]
    assert message.content[1].text == NO_MODEL
    with mistral.chat.stream(**{**chat(), **fields}) as events:
        contents = [event.data.choices[0].delta.content for event in events]
    chunks = [chunk for content in contents if isinstance(content, list) for chunk in content]
    kinds = [chunk.type for chunk in chunks]
    assert kinds == sorted(kinds, reverse=True)
    assert set(kinds) == {"thinking", "text"}
    assert "".join(chunk.text for chunk in chunks if chunk.type == "text") == NO_MODEL


@pytest.mark.parametrize("effort", ["none", None])
def test_no_effort_is_no_thinking(port: int, effort: str | None) -> None:
    """``reasoning_effort`` none or null leaves the content a string."""
    _, answer = post(port, chat(reasoning_effort=effort))
    assert isinstance(answer["choices"][0]["message"]["content"], str)


def test_mistral_reads_chat_agents_and_fim(mistral: Any) -> None:
    """Mistral's own SDK reads the three kinds of completion, plain and streamed."""
    assert NO_MODEL in mistral.chat.complete(**chat()).choices[0].message.content
    assert NO_MODEL in mistral.agents.complete(agent_id="ag:1", messages=[USER]).choices[0].message.content
    fim = {"model": "codestral-latest", "prompt": "def f(", "suffix": "return 1"}
    assert mistral.fim.complete(**fim).choices[0].message.content == NO_MODEL
    with mistral.fim.stream(**fim) as events:
        data = [event.data for event in events]
    assert "".join(one.choices[0].delta.content for one in data) == NO_MODEL
    assert data[-1].usage.total_tokens > 0


def test_mistral_goes_through_a_tool_call(mistral: Any) -> None:
    """Mistral's SDK gives back the call it was given, and the sandbox takes it."""
    message = mistral.chat.complete(**chat(), tools=[TOOL], tool_choice="any").choices[0].message
    answer = mistral.chat.complete(**chat(USER, message, result(message.tool_calls[0].id)), tools=[TOOL])
    assert answer.choices[0].message.content == RESULT_CAME


def test_embeddings_are_floats_whatever_is_asked_for(openai: Any, mistral: Any, port: int) -> None:
    """One vector per input, the same each time, as floats even where base64 is asked for, which is what Mistral does."""
    first = openai.embeddings.create(model="mistral-embed", input=["a", "b"])  # asks for base64 by itself
    again = mistral.embeddings.create(model="mistral-embed", inputs=["a", "b"])
    assert [one.embedding for one in first.data] == [one.embedding for one in again.data]
    assert [(one.index, len(one.embedding)) for one in first.data] == [(0, 1024), (1, 1024)]
    assert first.data[0].embedding != first.data[1].embedding
    short = {"model": "codestral-embed", "input": "a", "output_dimension": 3, "encoding_format": "base64"}
    _, answer = post(port, short, "/v1/embeddings")
    assert answer["data"][0]["embedding"] == first.data[0].embedding[:3]


def test_mistral_reads_the_smaller_endpoints(mistral: Any) -> None:
    """Moderations, classifications and OCR are readable, with one result for each input."""
    many, moderation, classifier = mistral.classifiers, "mistral-moderation-latest", "ft:classifier:1"
    assert len(many.moderate(model=moderation, inputs=["a", "b"]).results) == 2
    assert len(many.moderate_chat(model=moderation, inputs=[USER]).results) == 1
    assert len(many.moderate_chat(model=moderation, inputs=[[USER], [USER]]).results) == 2
    assert many.classify(model=classifier, inputs=["a"]).results[0]["sandbox"].scores == {NO_MODEL: 1.0}
    assert len(many.classify_chat(model=classifier, input={"messages": [USER]}).results) == 1
    document = {"type": "document_url", "document_url": "https://example.com/a.pdf"}
    assert mistral.ocr.process(model="mistral-ocr-latest", document=document).pages[0].markdown == NO_MODEL


def test_both_sdks_read_the_models(openai: Any, mistral: Any) -> None:
    """The model list and one model of it are readable, and an unknown one is not found."""
    names = [model.id for model in openai.models.list()]
    assert names[0] == "mistral-small-latest"
    assert {"mistral-large-latest", "codestral-latest", "mistral-embed"} < set(names)
    listed = mistral.models.list().data
    assert [model.id for model in listed if model.capabilities.completion_fim] == ["codestral-latest"]
    assert mistral.models.retrieve(model_id="codestral-latest").id == "codestral-latest"
    with pytest.raises(pytest.importorskip("openai").NotFoundError):
        openai.models.retrieve("gpt-4")


def test_the_sdks_show_the_refusals(openai: Any, mistral: Any) -> None:
    """Both SDKs raise their own error for a 422 and a 400, with the sandbox's body inside."""
    errors = pytest.importorskip("openai")
    with pytest.raises(errors.UnprocessableEntityError) as unprocessable:
        openai.chat.completions.create(**chat(), user="ann")
    assert unprocessable.value.response.json()["message"]["detail"][0]["loc"] == ["body", "user"]
    with pytest.raises(errors.BadRequestError, match="Expected last role") as bad:
        openai.chat.completions.create(**chat(USER, says()))
    assert (bad.value.type, bad.value.code) == ("invalid_request_message_order", "3230")
    with pytest.raises(pytest.importorskip("mistralai.client.errors").SDKError, match="3230"):
        mistral.chat.complete(**chat(USER, says()))


# --------------------------------------------------------------------------------------------------------------------- HTTP


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/completions", "/chat/completions", "/v1/chat/completions/", "/v1/models/a/b"])
def test_an_unknown_path_is_not_found(port: int, path: str) -> None:
    """Any other path is the gateway's 404, key or no key."""
    status, headers, raw = ask(port, "POST", path, {}, {})
    answer = json.loads(raw)
    assert (status, answer.pop("message"), list(answer)) == (404, "no Route matched with those values", ["request_id"])
    assert headers["mistral-correlation-id"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/embeddings", "POST"),
        ("PUT", "/v1/ocr?x=1", "POST"),
        ("POST", "/v1/models", "GET"),
        ("OPTIONS", "/v1/models/x", "GET"),
        ("HEAD", "/v1/fim/completions", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_one(port: int, method: str, path: str, allow: str) -> None:
    """A known path answers 405 with Allow to any other method."""
    status, headers, raw = ask(port, method, path)
    assert (status, headers["Allow"]) == (405, allow)
    assert raw == (b"" if method == "HEAD" else b'{"detail":"Method Not Allowed"}')


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer ", "Bearer   ", "Basic abc", "none"])
def test_a_key_is_needed(port: int, value: str | None) -> None:
    """Without a bearer token, or with an empty one, the answer is 401, before the body is looked at."""
    headers = {} if value is None else {"Authorization": value}
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models")):
        status, answered, raw = ask(port, method, path, b"{" if method == "POST" else None, headers)
        assert (status, raw) == (401, b'{"detail":"Unauthorized"}')
        assert answered["mistral-correlation-id"]


def with_key(key: str) -> Json:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/chat/completions"), ("POST", "/v1/responses"), ("GET", "/v1/models")])
def test_the_wrong_key_is_refused(port: int, method: str, path: str) -> None:
    """``wrong`` is answered as Mistral answers a key that it does not know."""
    assert ask(port, method, path, None, with_key("wrong"))[::2] == (401, b'{"detail":"Invalid API Key"}')


def test_a_key_over_its_limit_gets_the_headers_of_the_rate(port: int) -> None:
    """``limit`` is a 429 with the rates in headers and no Retry-After; the list of models can be read all the same."""
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/responses"):
        status, headers, raw = ask(port, "POST", path, chat(), with_key("limit"))
        assert (status, json.loads(raw)["code"]) == (429, "1300")
        assert (headers["x-ratelimit-limit-req-minute"], headers["x-ratelimit-remaining-req-minute"]) == ("60", "0")
        assert headers["Retry-After"] is None
    assert ask(port, "GET", "/v1/models", None, with_key("limit"))[0] == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", chat()), ("/v1/responses", {"model": "mistral-small-latest", "input": "Hi"})],
    ids=["chat", "responses"],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_breaks_off_under_the_broken_key(port: int, path: str, body: Json, version: bytes, stream: bool) -> None:
    """Under ``broken`` a stream has three whole events and no end, another answer half of its bytes, and the connection ends."""
    raw = json.dumps({**body, "stream": stream}).encode()
    head = b"POST %b HTTP/%b\r\nHost: x\r\nAuthorization: Bearer broken\r\n" % (path.encode(), version)
    answer = raw_exchange(port, head + b"Content-Length: %d\r\n\r\n" % len(raw) + raw)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    if stream:
        assert rest.count(b"data: ") == 3
        assert not rest.endswith(b"0\r\n\r\n")
        assert b"[DONE]" not in rest
    else:
        assert 0 < len(rest) < int(re.findall(rb"Content-Length: (\d+)", head)[0])


def test_head_is_get_without_the_body(port: int) -> None:
    """HEAD has the length of the answer to GET and no body."""
    _, got, body = ask(port, "GET", "/v1/models")
    status, headers, nothing = ask(port, "HEAD", "/v1/models")
    assert (status, headers["Content-Length"], nothing) == (200, got["Content-Length"], b"")
    assert got["Content-Length"] == str(len(body))


def test_a_connection_is_used_again_whatever_happened_on_it(port: int) -> None:
    """Refusals, streams and bodies nobody wanted leave the connection usable, each answer with an id of its own."""
    ids = set()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.connect()
        kept = connection.sock
        for method, path, body, status in [
            ("POST", "/nowhere", b"x" * 100_000, 404),
            ("GET", "/v1/chat/completions", b"unread", 405),
            ("POST", "/v1/chat/completions", b"{", 422),
            ("POST", "/v1/chat/completions", json.dumps(chat(stream=True)).encode(), 200),
            ("POST", "/v1/chat/completions", json.dumps(chat(USER, says())).encode(), 400),
            ("HEAD", "/v1/models", None, 200),
            ("POST", "/v1/chat/completions", iter([json.dumps(chat()).encode()[:9], json.dumps(chat()).encode()[9:]]), 200),
        ]:
            connection.request(method, path, body, KEY, encode_chunked=not isinstance(body, bytes))
            response = connection.getresponse()
            assert response.status == status
            ids.add(response.headers["mistral-correlation-id"])
            response.read()
            assert connection.sock is kept
    assert len(ids) == 7


def test_a_stream_is_chunked_and_its_events_leave_one_by_one() -> None:
    """Each event is a chunk of its own that arrives before the next is made, and the last is [DONE]."""
    server = make_server(delay=0.15)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        body = json.dumps(chat(stream=True)).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nConnection: close\r\n"
        with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=10) as connection:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            arrived = [(data, time.monotonic()) for data in iter(lambda: connection.recv(65536), b"")]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    head, _, rest = b"".join(data for data, _ in arrived).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert b"Content-Type: text/event-stream" in head
    events = re.findall(rb"([0-9a-f]+)\r\n(data: [^\n]*\n\n)\r\n", rest)
    assert [int(size, 16) for size, _ in events] == [len(event) for _, event in events]
    assert events[-1][1] == b"data: [DONE]\n\n"
    assert rest.endswith(b"\r\n0\r\n\r\n")
    first = next(when for data, when in arrived if b"data: " in data)
    assert arrived[-1][1] - first > 0.15 * (len(events) - 2)


def test_http_1_0_gets_a_stream_that_ends_with_the_connection(port: int) -> None:
    """A client that knows no chunks, nginx by default, gets none."""
    body = json.dumps(chat(stream=True)).encode()
    head = b"POST /v1/chat/completions HTTP/1.0\r\nAuthorization: Bearer x\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = raw_exchange(port, head + body)
    assert b"chunked" not in answer
    assert answer.partition(b"\r\n\r\n")[2].startswith(b"data: {")
    assert answer.endswith(b"data: [DONE]\n\n")


ASKING = (
    b'{"model":"mistral-small-latest","messages":[{"role":"user","content":"call f"}],"tool_choice":"any",'
    b'"tools":[{"type":"function","function":{"name":"f","parameters":{"required":["x"],"properties":{"x":{"const":"%b"}}}}}]}'
)


def test_a_stream_may_hold_line_separators_and_half_an_emoji(port: int) -> None:
    """U+2028 comes raw, as from Mistral; a lone surrogate, legal in a request, does not end the answer."""
    status, _, raw = ask(port, "POST", "/v1/chat/completions", ASKING % b"a\\u2028b\\ud83d")
    assert status == 200
    assert "a\u2028b?" in raw.decode("utf-8")


@pytest.mark.parametrize(
    ("framing", "status"),
    [
        (b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", 400),
        (b"Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n", 413),
        (b"Content-Length: -1\r\n\r\n", 400),
        (b"Content-Length: 9\r\n\r\nab", 400),
        (b"Content-Length: 999999999999\r\n\r\n", 413),
    ],
)
def test_a_body_that_cannot_be_read_ends_the_connection(port: int, framing: bytes, status: int) -> None:
    """Broken framing and boundless bodies are refused in JSON, and nothing that follows is taken for a request."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n"
    answer = raw_exchange(port, head + framing)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"mistral-correlation-id: " in answer
    json.loads(answer.partition(b"\r\n\r\n")[2])


def test_chunk_extensions_and_trailers_are_passed_over(port: int) -> None:
    """A chunked body with all that RFC 9112 allows is read, and the next request on the connection is answered."""
    body = json.dumps(chat()).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n"
    chunked = b"Transfer-Encoding: Chunked\r\n\r\n%X;a=b\r\n%b\r\n000\r\nX-Trailer: 1\r\n\r\n" % (len(body), body)
    answer = raw_exchange(port, head + chunked + b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"404"]


def test_a_broken_request_line_is_answered_in_json(port: int) -> None:
    """What the HTTP server refuses by itself has Mistral's header and a JSON body as well."""
    answer = raw_exchange(port, b"BREW /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 501 ")
    assert b"mistral-correlation-id: " in answer
    json.loads(answer.partition(b"\r\n\r\n")[2])


def test_a_client_that_leaves_is_no_noise(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    """A reset in the middle of a stream prints nothing, and nor does any request."""
    body = json.dumps(chat(stream=True, n=16)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: %d\r\n\r\n" % len(body)
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            connection.sendall(head + body)
            connection.recv(1)
    assert post(port, chat())[0] == 200
    time.sleep(0.1)
    assert capfd.readouterr() == ("", "")


# -------------------------------------------------------------------------------------------------------------- the program


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.com", "", "127.0.0.1.example.com"])
def test_binds_loopback_only(host: str) -> None:
    """A host that others could reach is refused before anything is bound."""
    with pytest.raises(ValueError, match=r"127\.0\.0\.1"):
        make_server(host)


def test_localhost_is_loopback() -> None:
    """The name that people type works."""
    with make_server("localhost") as server:
        assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--port", "70000"], ["--delay", "-1"], ["--delay", "soon"]])
def test_a_wrong_argument_stops_the_start(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument is one line on standard error and status 2."""
    with pytest.raises(SystemExit) as stopped:
        main(["--port", "0", *arguments])
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_port_in_use_is_one_sentence(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it cannot listen it says so in one line that names the option which helps, and ends with status 1."""
    with pytest.raises(SystemExit) as stopped:
        main(["--port", str(port)])
    assert stopped.value.code == f"mistral-filter sandbox: port {port} on 127.0.0.1 is in use; choose another with --port."


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_starts_says_where_and_stops_clean(number: signal.Signals) -> None:
    """The program prints its address when it is ready, logs no request, and a signal ends it with status 0."""
    command = [sys.executable, "-m", "mistral_filter.sandbox", "--port", "0"]
    root = Path(__file__).parent.parent.parent
    environ = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, cwd=root, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            ready = re.fullmatch(r"mistral-filter sandbox on http://127\.0\.0\.1:(\d+)\n", line)
            assert ready
            assert post(int(ready[1]), chat())[0] == 200
        finally:
            process.send_signal(number)
            rest = process.communicate(timeout=10)
    assert (process.returncode, *rest) == (0, "", "")
