"""The stand-in for Mistral: what it refuses against judges of its own, what it answers through the official SDKs."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
import records
import sdk
from asking import USER, chat, post, says

from mistral_filter.sandbox import NO_MODEL, RESULT_CAME, broken_rule, refused_by_model, violations

Json = dict[str, Any]

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


def calls(*names: str) -> Json:
    return {"role": "assistant", "tool_calls": [{"id": name, "function": {"name": "f", "arguments": "{}"}} for name in names]}


def result(call: Any, **fields: Any) -> Json:
    return {"role": "tool", "tool_call_id": call, "content": "12", **fields}


def found(body: Any, endpoint: str = "chat") -> list[tuple[str, str]]:
    return [(one["type"], ".".join(map(str, one["loc"][1:]))) for one in violations(body, endpoint)]


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
        (chat(USER, temperature=0, top_p=0.5), "top_p must be 1 when using greedy sampling.", ("invalid_request_error", "3054")),
        (
            chat(USER, temperature=0, reasoning_effort="high"),
            "top_p must be 1 when using greedy sampling.",
            ("invalid_request_error", "3054"),
        ),
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
        ("auto", "Do not call weather. Don't use the tool `weather`, never run weather.", []),
        ("auto", "Don\u2019t call weather, call time", ["time"]),
        ("auto", "do not call weather yet ... now call weather", ["weather"]),
        ("auto", "请调用weather工具", ["weather"]),
        ("auto", "请使用工具“time”,然后运行 `weather`", ["time", "weather"]),
        ("auto", "用 time 看一下", ["time"]),
        ("auto", "不要调用 weather,别用 time", []),
        ("auto", "weather 工具是什么", []),
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
