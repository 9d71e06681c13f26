"""The tables against the SDK, and the judges that every other test relies on against bodies whose fate is known."""

from __future__ import annotations

import copy
from typing import Any

import drift
import pytest
import records
import sdk

from mistral_filter.fields import CHAT_FIELDS, EFFORTS, ENDPOINTS, Array, Node, Object, Tagged, Value

USER = {"role": "user", "content": "Hi"}
HELLO: dict[str, Any] = {"model": "m", "messages": [USER]}
CALL = {"id": "abcDEF123", "type": "function", "function": {"name": "now", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "abcDEF123", "content": "noon"}
TOOL_CHOICE = ENDPOINTS["chat"].fields["tool_choice"]
assert isinstance(TOOL_CHOICE, Object)
TOOL = {"type": "function", "function": {"name": "now", "parameters": {}}}


def hello(**fields: Any) -> dict[str, Any]:
    return {**HELLO, **fields}


def chat(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "messages": [USER, *messages]}


def says(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def calls(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls)}


def chunk(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": [fields]}]}


# ---------------------------------------------------------------------------------------------------------------- the tables


def test_the_tables_agree_with_the_sdk(capsys: pytest.CaptureFixture[str]) -> None:
    """The installed SDK accepts exactly the fields of the tables, but for the documented exceptions."""
    assert drift.drift() == []
    assert drift.main() == 0
    assert capsys.readouterr().out.startswith("no drift: mistralai ")


def test_every_exception_is_needed() -> None:
    """No documented exception has outlived the difference that it explains."""
    assert {line.partition(".")[2] for line in drift.differences(ENDPOINTS)} >= drift.EXCEPTIONS.keys()


def changed(path: str, to: Node | None) -> dict[str, Object]:
    """The tables with the field at ``endpoint.name.name[tag]...`` replaced, or removed when ``to`` is None."""
    endpoint, *names = path.replace("[", ".").replace("]", "").split(".")
    return {**ENDPOINTS, endpoint: _changed(ENDPOINTS[endpoint], names, to)}


def _changed(node: Any, names: list[str], to: Node | None) -> Any:
    if not names:
        return to
    if isinstance(node, Array):
        return node._replace(items=_changed(node.items, names, to))
    children = node.variants if isinstance(node, Tagged) else node.fields
    child = _changed(children.get(names[0]), names[1:], to)
    rest = {name: inner for name, inner in children.items() if name != names[0]}
    children = rest if child is None else {**rest, names[0]: child}
    return node._replace(variants=children) if isinstance(node, Tagged) else node._replace(fields=children)


@pytest.mark.parametrize(
    ("path", "to", "line"),
    [
        ("chat.top_p", None, "chat.top_p: new in the SDK"),
        ("fim.suffix", None, "fim.suffix: new in the SDK"),
        ("chat.messages[assistant].prefix", None, "chat.messages[assistant].prefix: new in the SDK"),
        ("chat.messages[tool]", None, "chat.messages[tool]: new in the SDK"),
        ("agents.tools[function].function.strict", None, "agents.tools[function].function.strict: new in the SDK"),
        ("chat.logit_bias", Value(), "chat.logit_bias: gone from the SDK"),
        ("ocr.document[file].filename", Value(), "ocr.document[file].filename: gone from the SDK"),
        ("chat.stream", Value(), "chat.stream: null is refused by the SDK"),
        ("chat.top_p", Value(null=False), "chat.top_p: null is accepted by the SDK"),
        (
            "embeddings.encoding_format",
            Value(null=False, choices=("float",)),
            "embeddings.encoding_format='base64': new in the SDK",
        ),
        ("chat.service_tier", Value(choices=("auto", "standard_only", "flex")), "chat.service_tier='flex': gone from the SDK"),
        ("chat.prediction", Value(null=False), "chat.prediction: new keys inside"),
        ("chat.reasoning_effort", Value(choices=EFFORTS[:-1]), "chat.reasoning_effort='max': new in the SDK"),
        (
            "agents.tool_choice",
            TOOL_CHOICE._replace(choices=("auto", "none", "required")),
            "agents.tool_choice='any': new in the SDK",
        ),
        (
            "chat.tool_choice",
            TOOL_CHOICE._replace(choices=(*TOOL_CHOICE.choices, "x")),
            "chat.tool_choice='x': gone from the SDK",
        ),
        (
            "chat.messages[user].content[image_url].image_url.detail",
            Value(choices=("low", "high")),
            "chat.messages[user].content[image_url].image_url.detail='auto': new in the SDK",
        ),
        (
            "chat.response_format.type",
            Value(null=False, choices=("text", "json_object")),
            "chat.response_format.type='json_schema': new in the SDK",
        ),
    ],
)
def test_drift_is_reported(path: str, to: Node | None, line: str) -> None:
    """A field that is changed in the tables is named by the check, which can therefore fail."""
    assert set(drift.drift(changed(path, to))) - set(drift.drift()) == {line}


def test_drift_in_what_is_required_is_reported() -> None:
    """A required field that the tables hold for optional is named, and so is an endpoint that they lack."""
    tables = {**ENDPOINTS, "fim": ENDPOINTS["fim"]._replace(required=("model",))}
    del tables["ocr"]
    assert set(drift.drift(tables)) - set(drift.drift()) == {
        "fim.prompt: required in the SDK",
        "ocr: only in the check for drift",
    }


def test_classic_is_the_thirteen_fields() -> None:
    """The default list for chat is the one that the users of the Worker know."""
    assert set(CHAT_FIELDS["classic"].fields) == {
        "model",
        "messages",
        "temperature",
        "top_p",
        "max_tokens",
        "min_tokens",
        "stream",
        "stop",
        "random_seed",
        "response_format",
        "tools",
        "tool_choice",
        "safe_prompt",
    }


# ---------------------------------------------------------------------------------------------------------------- the judges


@pytest.mark.parametrize(
    ("endpoint", "body", "reason"),
    [
        ("chat", hello(stream_options={}), "stream_options: not permitted"),
        ("chat", {"model": "m"}, "messages: missing"),
        ("chat", hello(stream=None), "stream: null"),
        ("chat", hello(temperature=2), "temperature: 2 is out of range"),
        ("chat", hello(max_tokens="many"), "max_tokens: 'many' is not accepted"),
        ("chat", hello(stop=[]), "stop: an empty list"),
        ("chat", hello(service_tier="flex"), "service_tier: 'flex' is not accepted"),
        ("chat", hello(reasoning_effort="huge"), "reasoning_effort: 'huge' is not accepted"),
        ("chat", hello(prediction={"content": []}), "prediction.content: a list is not accepted"),
        ("chat", hello(response_format={"type": "json", "x": 1}), "response_format.x: not permitted"),
        ("chat", hello(tool_choice={"type": "function"}), "tool_choice.function: missing"),
        ("chat", hello(tools=[{"type": "function", "function": {"name": "f"}}]), "tools[0].function.parameters: missing"),
        ("chat", hello(tools=[{"function": {"name": "f"}}]), "tools[0].function.parameters: missing"),
        ("chat", hello(messages=[{"role": "user", "content": "Hi", "name": "A"}]), "messages[0].name: not permitted"),
        ("chat", hello(messages=[{"content": "Hi"}]), "messages[0].role: missing"),
        ("chat", hello(messages=[{"role": "system", "content": None}]), "messages[0].content: null"),
        ("chat", chat(calls({**CALL, "x": 1})), "messages[1].tool_calls[0].x: not permitted"),
        ("chat", chunk(type="text", text="Hi", cache_control={}), "messages[0].content[0].cache_control: not permitted"),
        ("chat", chunk(type="image_url", image_url={"url": "u", "x": 1}), "messages[0].content[0].image_url.x: not permitted"),
        ("chat", chunk(text="Hi"), "messages[0].content[0].type: missing"),
        ("chat", chunk(type="resource", uri="u"), "messages[0].content[0].content: missing"),
        ("agents", {"agent_id": "a", "messages": [USER], "top_p": 1}, "top_p: not permitted"),
        ("fim", {"model": "m", "prompt": "p", "n": 1}, "n: not permitted"),
        ("embeddings", {"model": "m", "input": [[1]]}, "input[0]: a list is not accepted"),
        (
            "chat/moderations",
            {"model": "m", "input": [[{"role": "user", "content": "", "x": 1}]]},
            "input[0][0].x: not permitted",
        ),
        ("ocr", {"model": "m", "document": {"type": "image_url", "document_url": "u"}}, "document.image_url: missing"),
    ],
)
def test_the_sdk_judge_refuses(endpoint: str, body: dict[str, Any], reason: str) -> None:
    """A body with one fault that the API answers with 422 is refused for that fault."""
    assert reason in sdk.accepts(endpoint, body)


@pytest.mark.parametrize("kind", ["refusal", "input_text", "UNKNOWN"])
def test_the_sdk_judge_refuses_a_chunk_of_unknown_type(kind: str) -> None:
    """A chunk that the SDK would keep as UnknownContentChunk is refused as the API refuses it."""
    (reason,) = sdk.accepts("chat", chunk(type=kind, raw={}, is_unknown=True))
    assert reason.startswith(f"messages[0].content[0].type: {kind!r} is not one of ")


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", HELLO),
        ("chat", hello(temperature=0.7, top_p=1, max_tokens=9, stream=True, stop=["a"], random_seed=0, safe_prompt=False)),
        ("chat", hello(temperature=None, max_tokens=None, tools=None, stop=None, metadata=None)),
        ("chat", hello(metadata={"any": {"thing": None}}, guardrails=[{"block_on_error": True, "new": 1}], n=2, top_k=3)),
        ("chat", hello(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"$defs": {}}}})),
        ("chat", hello(tools=[TOOL, {"type": "web_search"}, {"type": "code_interpreter"}], tool_choice="required")),
        ("chat", hello(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "now"}})),
        ("chat", hello(tools=[{"function": TOOL["function"]}])),
        ("chat", chunk(type="input_audio", input_audio={"data": "AA==", "format": "wav"})),
        ("chat", chat(says(None, tool_calls=[{**CALL, "index": 0}]), {**RESULT, "name": "now"})),
        ("chat", chat(says("Once", prefix=True))),
        ("chat", chunk(type="image_url", image_url="u")),
        ("chat", chunk(type="image_url", image_url={"url": "u", "detail": "low"})),
        ("chat", chat(says([{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]))),
        ("chat", chunk(type="resource", uri="u", content={"type": "text", "text": "Hi"})),
        ("agents", {"agent_id": "a", "messages": [USER]}),
        ("fim", {"model": "m", "prompt": "p", "suffix": None}),
        ("embeddings", {"model": "m", "input": ["a"], "encoding_format": "base64", "output_dimension": 8}),
        ("moderations", {"model": "m", "input": "a"}),
        ("chat/moderations", {"model": "m", "input": [[USER]]}),
        ("chat/classifications", {"model": "m", "input": {"messages": [USER]}}),
        ("ocr", {"model": None, "document": {"document_url": "u"}, "pages": [0]}),
    ],
)
def test_the_sdk_judge_accepts(endpoint: str, body: dict[str, Any]) -> None:
    """A body without fault is accepted, whatever the corner of the API."""
    assert sdk.accepts(endpoint, body) == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (hello(messages=[]), "at least one message"),
        (hello(messages=[says("Hi")]), "must start with a user message"),
        (chat(says("Hi")), "Expected last role"),
        (chat(says(""), USER), "neither content nor tool_calls"),
        (chat(says("A", prefix=True), USER), "must be last message"),
        (chat(RESULT), "Unexpected role 'tool' after role 'user'"),
        (chat(calls(CALL), RESULT, {"role": "system", "content": "S"}), "Unexpected role 'system'"),
        (chat(calls(CALL)), "Expected last role"),
        (chat(calls(CALL), USER), "Not the same number"),
        (chat(calls(CALL), {**RESULT, "tool_call_id": "abcDEF124"}), "Unexpected tool call id"),
        (chat(calls({**CALL, "id": "call_1"}), {**RESULT, "tool_call_id": "call_1"}), "length of 9"),
        (chat(calls(CALL, CALL), RESULT), "Duplicate tool call id"),
        (hello(tools=[{"type": "function", "function": {"name": "a b", "parameters": {}}}]), "Function name was a b"),
        (
            chat(calls(CALL), {**RESULT, "content": [{"type": "document_url", "document_url": "u"}]}),
            "Unexpected content chunk types in tool message",
        ),
        (chat(says([{"type": "file", "file_id": "f"}]), USER), "cannot be used in assistant"),
        (hello(temperature=0, top_p=0.5), "top_p must be 1"),
        (hello(temperature=0, reasoning_effort="high"), "top_p must be 1"),
    ],
)
def test_the_common_judge_refuses(body: dict[str, Any], reason: str) -> None:
    """A body in good form whose conversation the API answers with 400 is refused."""
    pytest.importorskip("mistral_common")
    assert sdk.accepts("chat", body) == []
    assert reason in "; ".join(sdk.common_accepts(body))


@pytest.mark.parametrize(
    "body",
    [
        HELLO,
        chat(says("Once", prefix=True)),
        chat(calls({**CALL, "index": 0}), RESULT),
        chat(says("Wait", tool_calls=[CALL]), RESULT, USER),
        chat(says([{"type": "reference", "reference_ids": [1]}]), USER),
        chat(says([{"type": "thinking", "thinking": []}, {"type": "text", "text": "A"}], prefix=True)),
        chunk(type="document_url", document_url="u"),
        hello(tools=[TOOL, {"type": "web_search"}]),
    ],
)
def test_the_common_judge_accepts(body: dict[str, Any]) -> None:
    """A conversation in good order is accepted, with what the validator does not model too."""
    pytest.importorskip("mistral_common")
    before = copy.deepcopy(body)
    assert sdk.common_accepts(body) == []
    assert body == before


def test_the_tree_has_the_names_of_the_sdk() -> None:
    """The nested names are readable from outside, down to a chunk in a message."""
    (messages,) = sdk.tree("chat")["messages"]
    assert messages["tool"].keys() == {"role", "content", "tool_call_id", "name"}
    assert messages["system"]["content"][0]["text"] == {"type": None, "text": None}
    assert sdk.tree("embeddings").keys() == {
        "model",
        "input",
        "metadata",
        "output_dimension",
        "output_dtype",
        "encoding_format",
    }


# --------------------------------------------------------------------------------------------------------------- the records


@pytest.mark.parametrize("record", records.load(), ids=str)
def test_a_record_is_what_the_client_sent(record: records.Record) -> None:
    """The bytes of a record have the length that its client announced, and its headers hold no key."""
    headers = {name.lower(): value for name, value in record.headers.items()}
    assert len(record.raw) == int(headers.get("content-length", len(record.raw)))
    assert {headers.get(name, "REDACTED") for name in ("authorization", "x-api-key", "api-key", "cookie")} == {"REDACTED"}


@pytest.mark.parametrize("record", records.load(*records.NATIVE), ids=str)
def test_the_judges_accept_what_mistrals_own_clients_send(record: records.Record) -> None:
    """Neither judge raises a false alarm over a request of a client that was written for Mistral."""
    pytest.importorskip("mistral_common")
    endpoint = record.path.removeprefix("/v1/").removesuffix("/completions")
    if record.method == "POST":
        assert sdk.accepts(endpoint, record.body) == []
        assert endpoint != "chat" or sdk.common_accepts(record.body) == []
