"""``filter_body``: bytes in, bytes out. The judges are Mistral's own packages (``sdk``) and expectations written by hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import records
import sdk

from mistral_filter import Change, Filtered, MistralFilterError, filter_body
from mistral_filter.errors import BadRequest, InvalidJSON, Refused, TooDeep

Json = dict[str, Any]

USER = {"role": "user", "content": "Hi"}
HI = b'"messages":[{"role":"user","content":"Hi"}]'
BOM = b"\xef\xbb\xbf"
LISTS = ("classic", "current")
ENDPOINT_OF = {
    "/v1/chat/completions": "chat",
    "/v1/v1/chat/completions": "chat",
    "/v1/chat/completions/chat/completions": "chat",
    "/chat/completions": "chat",
    "/v1/embeddings": "embeddings",
    "/v1/fim/completions": "fim",
    "/fim/completions": "fim",
    "/v1/responses": "responses",
    "/v1/responses/input_tokens": "responses/input_tokens",
}
"""The paths of the records whose bodies are judged, by hand."""

JUDGED = [record for record in records.load() if record.method == "POST" and record.path in ENDPOINT_OF]
OTHERS = {
    "/v1/models",
    "/v1/completions",
    "/dashboard/billing/subscription",
    "/v1/models/mistral-small-latest",
    "/v1",
}


def dump(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def filtered(body: Any, endpoint: str = "chat", **options: Any) -> tuple[Any, list[tuple[str, str]]]:
    """The body after filtering, as Python values, and what was done where."""
    out, changes, _ = filter_body(body if isinstance(body, bytes) else dump(body), endpoint, **options)
    return json.loads(out), [(change.action, change.path) for change in changes]


def refusal(body: bytes, endpoint: str = "chat", **options: Any) -> MistralFilterError:
    with pytest.raises(MistralFilterError) as caught:
        filter_body(body, endpoint, **options)
    return caught.value


def outcome_of(body: bytes, endpoint: str = "chat", **options: Any) -> Filtered | MistralFilterError:
    try:
        return filter_body(body, endpoint, **options)
    except MistralFilterError as error:
        return error


def token_ids(body: Json) -> bool:
    """Whether the body asks for embeddings of numbers instead of text."""
    given = body.get("input")
    return isinstance(given, list) and any(isinstance(item, (int, list)) for item in given)


def wrong_size(body: Json) -> bool:
    """Whether the body asks mistral-embed for embeddings of another size than its own."""
    return body.get("model") == "mistral-embed" and body.get("dimensions", 1024) != 1024


# --------------------------------------------------------------------------------------------------------------- the records


def test_every_record_is_judged_or_known_not_to_be() -> None:
    """No record drops out of the tests below because its path is new."""
    assert {record.path for record in records.load()} == ENDPOINT_OF.keys() | OTHERS


@pytest.mark.parametrize("fields", LISTS)
@pytest.mark.parametrize("record", JUDGED, ids=str)
def test_a_record_is_accepted_after_filtering(record: records.Record, fields: str) -> None:
    """What a real client sends is accepted by Mistral after filtering; only token ids and sizes of embeddings are refused."""
    endpoint = ENDPOINT_OF[record.path]
    if endpoint == "embeddings" and token_ids(record.body):
        error = refusal(record.raw, endpoint, fields=fields)
        assert (error.status, error.param) == (400, "input")
        assert "check_embedding_ctx_length" in error.message
        return
    if endpoint == "embeddings" and wrong_size(record.body):
        error = refusal(record.raw, endpoint, fields=fields)
        assert (error.status, error.code, error.param) == (400, "embedding_dimension", "dimensions")
        assert "1024" in error.message
        assert "codestral-embed" in error.message
        return
    body, _ = filtered(record.raw, endpoint, fields=fields)
    assert sdk.accepts(endpoint, body) == []


@pytest.mark.parametrize("fields", LISTS)
@pytest.mark.parametrize("record", [r for r in JUDGED if ENDPOINT_OF[r.path] == "chat"], ids=str)
def test_a_record_is_a_valid_conversation_after_filtering(record: records.Record, fields: str) -> None:
    """The order of roles, the ids and the pairing of a real client's messages are accepted by mistral-common after filtering."""
    pytest.importorskip("mistral_common")
    body, _ = filtered(record.raw, fields=fields)
    assert sdk.common_accepts(body) == []


def test_some_records_are_refused_as_they_are() -> None:
    """The judges have something to find in the records, so the two tests above can fail."""
    assert sum(bool(sdk.accepts(ENDPOINT_OF[record.path], record.body)) for record in JUDGED) > len(JUDGED) / 4


@pytest.mark.parametrize("record", JUDGED, ids=str)
def test_current_keeps_every_top_level_field_that_mistral_accepts(record: records.Record) -> None:
    """Under ``current`` a top-level field of the SDK's is only gone if its value was refused, and then it is reported."""
    endpoint = ENDPOINT_OF[record.path]
    if endpoint == "embeddings" and (token_ids(record.body) or wrong_size(record.body)):
        return
    body, changes = filtered(record.raw, endpoint, fields="current")
    known = sdk.tree(endpoint).keys()
    refused = {reason.split(":")[0].split(".")[0].split("[")[0] for reason in sdk.accepts(endpoint, record.body)}
    for name in known & record.body.keys():
        assert name in body or (name in refused and any(path.startswith(name) for _, path in changes))


def texts(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    keys = ("text", "refusal")
    return "".join(str(part.get(key, "")) for part in content or () for key in keys if isinstance(part, dict))


@pytest.mark.parametrize("fields", LISTS)
@pytest.mark.parametrize("record", [r for r in JUDGED if "messages" in r.body], ids=str)
def test_every_text_of_a_record_stays(record: records.Record, fields: str) -> None:
    """Every message that says something says the same after filtering, in the same order."""
    body, _ = filtered(record.raw, fields=fields)
    given = [texts(message) for message in record.body["messages"] if texts(message)]
    assert [texts(message) for message in body["messages"] if texts(message) and texts(message) != "attachment"] == given


def pairs(messages: list[Json]) -> Iterator[tuple[int, int, int]]:
    """(result, call's message, place of the call) by numbers among tool messages and among calling messages."""
    calling, answered, results = -1, {}, -1
    open_: dict[Any, int] = {}
    for message in messages:
        if message.get("tool_calls"):
            calling += 1
            open_ = {call.get("id"): place for place, call in enumerate(message["tool_calls"])}
            answered = dict.fromkeys(open_, False)
        elif message.get("role") == "tool":
            results += 1
            assert message["tool_call_id"] in open_, "a result without its call"
            assert not answered[message["tool_call_id"]], "a call answered twice"
            answered[message["tool_call_id"]] = True
            yield results, calling, open_[message["tool_call_id"]]


@pytest.mark.parametrize("fields", LISTS)
@pytest.mark.parametrize(
    "record", [r for r in JUDGED if any(m.get("role") == "tool" for m in r.body.get("messages", ()))], ids=str
)
def test_every_result_of_a_record_answers_its_call(record: records.Record, fields: str) -> None:
    """A tool's result answers the very call after filtering that it answered before."""
    body, _ = filtered(record.raw, fields=fields)
    assert list(pairs(body["messages"])) == list(pairs(record.body["messages"]))


@pytest.mark.parametrize("record", records.load(*records.NATIVE), ids=str)
def test_native_clients_pass_current_byte_for_byte(record: records.Record) -> None:
    """A body of a client that was written for Mistral is not touched under ``current``."""
    if record.method == "POST":
        assert filter_body(record.raw, ENDPOINT_OF[record.path], fields="current")[:2] == (record.raw, ())


# -------------------------------------------------------------------------------------------------------- the worker's lists

THIRTEEN: Json = {
    "model": "m",
    "messages": [USER],
    "temperature": 0.5,
    "top_p": 0.9,
    "max_tokens": 5,
    "min_tokens": 1,
    "stream": True,
    "stop": ["x"],
    "random_seed": 7,
    "response_format": {"type": "text"},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "tool_choice": "auto",
    "safe_prompt": False,
}


def test_classic_keeps_the_thirteen_fields() -> None:
    """What the worker kept is kept, to the byte."""
    assert filter_body(dump(THIRTEEN))[:2] == (dump(THIRTEEN), ())


@pytest.mark.parametrize(
    "name",
    ["frequency_penalty", "presence_penalty", "logit_bias", "n", "user", "logprobs", "stream_options", "metadata", "made_up"],
)
def test_classic_drops_every_other_field(name: str) -> None:
    """What the worker dropped is dropped and named, and the rest is as it was."""
    assert filtered({**THIRTEEN, name: 0.5}) == (THIRTEEN, [("drop", name)])


def test_allow_adds_a_field() -> None:
    """A name in ``allow`` is kept, also one that Mistral does not have, and judged inside where the API knows it."""
    body = {**THIRTEEN, "frequency_penalty": 0.5, "made_up": {"a": 1}, "prediction": {"content": "x", "extra": 1}}
    after, changes = filtered(body, allow=["frequency_penalty", "made_up", "prediction"])
    assert changes == [("drop", "prediction.extra")]
    assert after == {**body, "prediction": {"content": "x"}}


def test_drop_takes_a_field_away() -> None:
    """A name in ``drop`` goes, whatever the list and ``allow`` say."""
    assert filtered({"model": "m", "stop": "x"}, drop=["stop"], allow=["stop"]) == ({"model": "m"}, [("drop", "stop")])


def test_a_dropped_name_is_not_the_target_of_a_rename() -> None:
    """``drop`` holds for what a client calls by OpenAI's name too."""
    after, _ = filtered({"model": "m", "seed": 3}, drop=["random_seed"])
    assert after == {"model": "m"}


def test_unknown_names_are_errors() -> None:
    """A list or endpoint that does not exist is the programmer's mistake, not a request's."""
    with pytest.raises(KeyError):
        filter_body(b"{}", "chat", fields="modern")
    with pytest.raises(KeyError):
        filter_body(b"{}", "nowhere")


def test_without_translation_only_the_lists_act() -> None:
    """With ``translate=False`` nothing is renamed, repaired or reordered; what no list has goes."""
    message = {"role": "assistant", "content": "", "tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": "{}"}}]}
    body = {
        "model": "m",
        "max_completion_tokens": 5,
        "seed": 1,
        "temperature": 2,
        "stop": [],
        "stream": None,
        "tools": [{"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f", "x": 1}}],
        "messages": [{"role": "developer", "content": "d", "x": 1}, {**USER, "name": "n"}, {"role": "assistant"}, message],
    }
    after, changes = filtered(body, translate=False)
    assert after == {
        "model": "m",
        "temperature": 2,
        "stop": [],
        "stream": None,
        "tools": [{"type": "function"}, {"type": "function", "function": {"name": "f"}}],
        "messages": [{"role": "developer", "content": "d", "x": 1}, USER, {"role": "assistant"}, message],
    }
    assert {action for action, _ in changes} == {"drop"}
    assert {path for _, path in changes} == {
        "max_completion_tokens",
        "seed",
        "tools[0].name",
        "tools[1].function.x",
        "messages[1].name",
    }


# ---------------------------------------------------------------------------------------------------------------- the bytes

ODD = (
    b' {\r\n\t"temperature" : 1.10 ,"top_p":1e0, "max_tokens":-0,"random_seed":1234567890123456789012345678901234567890'
    b',"model":"\xc3\xa9\\u00e9\\/ \xf0\x9f\x98\x80\xe2\x80\xa8","messages":[ {"content":"x" , "role":"user"} ]\n}\n '
)


@pytest.mark.parametrize("translate", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        ODD,
        b'{"model":"m","temperature":1.10,"top_p":1e-2,"max_tokens":1e2}',
        b'{"max_tokens":-0}',
        b'{"random_seed":1234567890123456789012345678901234567890}',
        b'{"stop":["\xe2\x80\xa8","\\ud83d\\ude00","\\u0000"],"model":"m"}',
        b"{}",
        b" { } ",
    ],
)
def test_nothing_to_change_gives_the_very_same_bytes(body: bytes, translate: bool) -> None:
    """Numbers, key order, escapes, unicode and white space are untouched when nothing is to be changed."""
    assert filter_body(body, translate=translate)[:2] == (body, ())


VALUES = [
    b"1.10",
    b"1e2",
    b"-0",
    b"1234567890123456789012345678901234567890",
    b'"\\u00e9\\/\xc3\xa9\xf0\x9f\x98\x80\\ud83d\\ude00"',
    b'{"z" : 1.10 , "a":[1e2, -0,  {"y":1,"x":2}]}',
    b'[ "a" ,"b" ]',
]


@pytest.mark.parametrize("value", VALUES)
def test_something_changed_keeps_every_other_value_to_the_byte(value: bytes) -> None:
    """Beside a dropped field each value keeps its spelling, at the top level and inside messages and tools."""
    body = (
        b'{"metadata":'
        + value
        + b',"zzz":1,"stop":'
        + value
        + b',"messages":[{"role":"user","content":'
        + value
        + b',"name":1}],'
        b'"tools":[{"type":"function","x":1,"function":{"name":"f","parameters":' + value + b"}}]}"
    )
    expected = (
        b'{"metadata":' + value + b',"stop":' + value + b',"messages":[{"role":"user","content":' + value + b"}],"
        b'"tools":[{"type":"function","function":{"name":"f","parameters":' + value + b"}}]}"
    )
    out, changes, _ = filter_body(body, fields="current")
    assert [change.path for change in changes] == ["zzz", "messages[0].name", "tools[0].x"]
    assert out == expected


def test_untouched_siblings_keep_their_own_bytes() -> None:
    """A message, tool, chunk or call beside a changed one is written back as it came, white space and all."""
    message = b'{ "content" : "\\u0041" , "role":"user" }'
    chunk = b'{ "text" : "\\u0041" , "type":"text" }'
    call = b'{ "id":"abcDEF123" , "function":{ "name":"f" , "arguments":"{}" } }'
    tool = b'{ "type" : "function" , "function":{ "name":"f","parameters":{ "b":1.10 } } }'
    out, changes, _ = filter_body(
        b'{"model":"m","messages":[' + message + b',{"role":"user","content":[' + chunk + b',{"type":"text","text":"b","x":1}]},'
        b'{"role":"assistant","tool_calls":[' + call + b',{"id":"abcDEF124","x":1,"function":{"name":"f","arguments":"{}"}}]},'
        b'{"role":"tool","tool_call_id":"abcDEF123","content":"r"},{"role":"tool","tool_call_id":"abcDEF124","content":"r"}],'
        b'"tools":[' + tool + b',{"type":"function","x":1,"function":{"name":"g","parameters":{}}}]}'
    )
    assert sorted(change.path for change in changes) == ["messages[1].content[1].x", "messages[2].tool_calls[1].x", "tools[1].x"]
    for untouched in (message, chunk, call, tool):
        assert untouched in out


def test_a_schema_is_never_rewritten_inside() -> None:
    """Key order, numbers and unknown words of a caller's schema survive next to the ``$schema`` that is taken off its top."""
    inner = b'{"z":{"$id":"kept","maximum":1.10},"a":{"enum":[1e2]}}'
    out, changes, _ = filter_body(
        b'{"tools":[{"type":"function","function":{"name":"f","parameters":'
        b'{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","properties":' + inner + b"}}}]}"
    )
    assert [change.path for change in changes] == ["tools[0].function.parameters.$schema"]
    assert b'"parameters":{"type":"object","properties":' + inner + b"}" in out


def test_the_input_is_not_mutated() -> None:
    """The same bytes object can be filtered again, with another list, as if for the first time."""
    body = dump({**THIRTEEN, "user": "u", "messages": [{**USER, "name": "n"}]})
    copy = bytes(bytearray(body))
    first = filter_body(body)
    filter_body(body, fields="current", translate=False)
    assert (body, filter_body(body)) == (copy, first)


# ----------------------------------------------------------------------------------------------------- what is not good JSON


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b'{"model":"m"',
        b'{"model":"m",}',
        b'{"model":"m"} x',
        b'{"model":"m"}{}',
        b'{"model":"m"}\x00',
        b'{"model":"a\nb"}',
        b'{"model":"a\x00b"}',
        b'{"model":"\\x"}',
        b'{"model":"\\u12"}',
        b"{'model':'m'}",
        b"{model:1}",
        b'{"temperature":NaN}',
        b'{"temperature":Infinity}',
        b'{"temperature":-Infinity}',
        b'{"metadata":{"a":[NaN]}}',
        b'{"temperature":01}',
        b'{"temperature":1.}',
        b'{"temperature":.5}',
        b'{"temperature":+1}',
        b'{"metadata":[tru]}',
        b'{"model":"\xff"}',
        b'{"model":"\xed\xa0\x80"}',
        b'{"model":"\xc0\xaf"}',
        b'{"messages":[{"role":"user","content":"\xe2\x82"}]}',
        b'{"messages":[{"role":"user","content":"a\tb"}]}',
        b'{"messages":[{"role":"user","content":[{"type":"text","text":"\\q"}]}]}',
        b'{"model":"\\ud83d","x":}',
        b'{"model":"\\ud83d"} x',
        '{"model":"m"}'.encode("utf-16"),
        '{"model":"m"}'.encode("utf-16-le"),
        '{"model":"m"}'.encode("utf-32"),
        BOM,
        BOM + BOM + b"{}",
        b"\x0c{}",
        b"// comment\n{}",
    ],
)
def test_what_json_parse_refuses_is_refused(body: bytes) -> None:
    """A body that is not JSON by RFC 8259 is a 400 whose message begins with ``Invalid JSON``."""
    error = refusal(body, fields="current")
    assert isinstance(error, InvalidJSON)
    assert (error.status, error.code) == (400, "invalid_json")
    assert error.message.startswith("Invalid JSON")


@pytest.mark.parametrize("body", [b"null", b"[]", b'"x"', b"1", b"true", b'[{"model":"m"}]', b'"\\ud83d"', BOM + b"[]"])
def test_what_is_not_an_object_is_refused(body: bytes) -> None:
    """JSON of another kind than an object is a 400 of its own, not a parse error."""
    error = refusal(body)
    assert isinstance(error, BadRequest)
    assert not isinstance(error, InvalidJSON)
    assert (error.status, error.code) == (400, "not_an_object")


def test_a_byte_order_mark_is_stripped() -> None:
    """One BOM before a good body goes, and nothing else."""
    assert filter_body(BOM + ODD)[:2] == (ODD, ())
    assert filter_body(BOM + b'{"model":"m","user":"u"}').body == b'{"model":"m"}'


# --------------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("translate", [True, False])
@pytest.mark.parametrize("number", [b"9" * 4301, b"-" + b"9" * 4301, b"1e999", b"-1e999", b"1" * 400 + b".5", b"1e-999"])
@pytest.mark.parametrize("name", ["temperature", "top_p", "max_tokens", "random_seed", "n", "metadata", "stop", "made_up"])
def test_a_number_beyond_every_machine_is_no_crash(name: str, number: bytes, translate: bool) -> None:
    """A number that fits no machine type is forwarded as it is, repaired or dropped, or answered with a 400: never a defect."""
    body = b'{"model":"m","' + name.encode() + b'":' + number + b"}"
    outcome = outcome_of(body, fields="current", translate=translate)
    if isinstance(outcome, MistralFilterError):
        assert outcome.status == 400
    else:
        assert outcome.body == body or [change.path for change in outcome.changes] == [name]


@pytest.mark.parametrize("name", ["max_completion_tokens", "seed", "dimensions"])
def test_a_renamed_number_beyond_every_machine_is_no_crash(name: str) -> None:
    """The same for a field that is renamed on the way, and compared with its Mistral namesake."""
    endpoint = "embeddings" if name == "dimensions" else "chat"
    body = b'{"' + name.encode() + b'":' + b"9" * 4301 + b',"max_tokens":5}'
    outcome = outcome_of(body, endpoint, fields="current")
    if isinstance(outcome, MistralFilterError):
        assert outcome.status == 400
    else:
        assert b'"' + name.encode() + b'"' not in outcome.body
        assert name in [change.path for change in outcome.changes]


def test_numbers_that_are_not_judged_survive_next_to_a_change() -> None:
    """A number too large to read is copied, not read, when something else changes."""
    big = b"9" * 4301
    assert filter_body(b'{"metadata":' + big + b',"user":1}', fields="current").body == b'{"metadata":' + big + b"}"


# --------------------------------------------------------------------------------------------------------- half an emoji


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[{"role":"user","content":"\\ud83d"}]}',
        b'{"messages":[{"role":"user","content":[{"type":"text","text":"a\\uDE00b"}]}]}',
        b'{"stop":"\\uD83D\\uD83D\\uDE00\\\\ud83d"}',
        b'{"metadata":{"\\ud83d":"\\udc00\\ud83d"}}',
        b'{"messages":[{"role":"assistant","tool_calls":[{"id":"abcDEF123","function":{"name":"f","arguments":"{}"}}]},'
        b'{"role":"tool","tool_call_id":"abcDEF123","content":"\\ud83d"}],"model":"\xee\x80\x80\\ue001\\ud83d"}',
    ],
)
def test_a_lone_surrogate_passes_untouched(body: bytes) -> None:
    """Half an emoji is legal JSON and goes on as it came."""
    assert filter_body(body, fields="current")[:2] == (body, ())


def test_a_lone_surrogate_survives_next_to_changes() -> None:
    """Half an emoji in values keeps its spelling when something else is changed, and in a key it is dropped by its name."""
    out, changes, _ = filter_body(
        b'{"model":"\\uD83dx","k\\ud83d":1,"user":"\\udc00","messages":[{"role":"user","content":"\\uDBFF\xee\x80\x80\\ue001","\\udc01":1}]}'
    )
    assert out == b'{"model":"\\uD83dx","messages":[{"role":"user","content":"\\uDBFF\xee\x80\x80\\ue001"}]}'
    assert [change.path for change in changes] == ["k\\ud83d", "user", "messages[0].\\udc01"]


@pytest.mark.parametrize(
    "message",
    [
        b'{"role":"\\ud83d","content":"x"}',
        b'{"role":"assistant","content":"x\\ud83d","refusal":null}',
        b'{"role":"assistant","content":"","refusal":"no\\ud83d"}',
        b'{"role":"assistant","content":"x","tool_calls":[{"id":"call\\ud83d","function":{"name":"\\ud83d","arguments":"\\ud83d"}}]}',
        b'{"role":"tool","tool_call_id":"\\ud83d","content":"x","name":"\\ud83d"}',
        b'{"role":"user","content":[{"type":"\\ud83d","text":"x"},{"type":"refusal","refusal":"\\ud83d"}]}',
        b'{"role":"assistant","content":"x","reasoning_content":"\\ud83d"}',
    ],
)
@pytest.mark.parametrize("model", [b"m", b"magistral-small\\ud83d"])
def test_a_lone_surrogate_where_rules_look_is_no_crash(message: bytes, model: bytes) -> None:
    """Half an emoji in a role, an id, a type or a text that is moved gives valid JSON that still holds no private marks."""
    out, _, _ = filter_body(b'{"model":"' + model + b'","messages":[' + message + b',{"role":"user","content":"x"}]}')
    assert json.loads(out)["messages"][-1] == {"role": "user", "content": "x"}
    out.decode().encode("ascii")


def test_a_lone_surrogate_in_a_name_that_strict_mode_quotes() -> None:
    """The error of strict mode names the key as it was written."""
    error = refusal(b'{"k\\ud83d":1}', strict=True)
    assert error.param == "k\\ud83d"
    error.body().decode("ascii")


# ----------------------------------------------------------------------------------------------------------------- the depth


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 2000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b'{"model":' + b"[" * 100_000,
        b'{"model":"m","zzz":' + b'{"a":' * 2000 + b"1" + b"}" * 2001,
        b'{"model":"\\ud83d","zzz":' + b"[" * 100_000,
    ],
    ids=len,
)
def test_what_nests_too_deep_is_refused(body: bytes) -> None:
    """Depth beyond all sense is a 400 ``json_too_deep``, whether the body is complete or not."""
    error = refusal(body)
    assert isinstance(error, TooDeep)
    assert (error.status, error.code) == (400, "json_too_deep")
    assert error.message.startswith("Invalid JSON")


def arrays(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def objects(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


USERS = b'{"role":"user","content":"x"}'
PLACES = {
    "an unknown field": b'{"zzz":%s}',
    "model": b'{"model":%s}',
    "metadata": b'{"metadata":%s}',
    "temperature": b'{"temperature":%s}',
    "stop": b'{"stop":%s}',
    "max_completion_tokens": b'{"max_completion_tokens":%s}',
    "messages": b'{"messages":%s}',
    "a message": b'{"messages":[%s]}',
    "a message's role": b'{"messages":[{"role":%s,"content":"x"}]}',
    "a message of unknown role": b'{"messages":[{"role":"critic","content":%s}]}',
    "a message's unknown field": b'{"messages":[{"role":"user","content":"x","y":%s}]}',
    "content": b'{"messages":[{"role":"user","content":%s}]}',
    "a chunk": b'{"messages":[{"role":"user","content":[%s]}]}',
    "a chunk's type": b'{"messages":[{"role":"user","content":[{"type":%s}]}]}',
    "a chunk of unknown type": b'{"messages":[{"role":"user","content":[{"type":"zzz","x":%s}]}]}',
    "a chunk's text": b'{"messages":[{"role":"user","content":[{"type":"text","text":%s}]}]}',
    "image_url": b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":%s}]}]}',
    "tool_calls": b'{"messages":[{"role":"assistant","content":"x","tool_calls":%s},' + USERS + b"]}",
    "arguments": b'{"messages":[{"role":"assistant","tool_calls":[{"id":"abcDEF123","function":{"name":"f","arguments":%s}}]},'
    + USERS
    + b"]}",
    "reasoning_content": b'{"messages":[{"role":"assistant","content":"x","reasoning_content":%s},' + USERS + b"]}",
    "tools": b'{"tools":%s}',
    "a tool": b'{"tools":[%s]}',
    "a tool's type": b'{"tools":[{"type":%s}]}',
    "a tool of unknown type": b'{"tools":[{"type":"zzz","x":%s}]}',
    "parameters": b'{"tools":[{"type":"function","function":{"name":"f","parameters":%s}}]}',
    "tool_choice": b'{"tool_choice":%s}',
    "response_format": b'{"response_format":%s}',
    "a schema": b'{"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":%s}}}',
    "prediction": b'{"prediction":%s}',
    "functions": b'{"functions":%s}',
    "input": b'{"input":%s}',
}


@pytest.mark.parametrize("translate", [True, False])
@pytest.mark.parametrize("nested", [arrays, objects])
@pytest.mark.parametrize("depth", [250, 900, 3000])
@pytest.mark.parametrize("place", PLACES)
def test_depth_is_limited_wherever_it_is(place: str, depth: int, nested: Any, translate: bool) -> None:
    """No place in a body is a hiding-place for depth: the limit is the same everywhere and on every Python."""
    assert refusal(PLACES[place] % nested(depth), fields="current", translate=translate).code == "json_too_deep"


@pytest.mark.parametrize("nested", [arrays, objects])
@pytest.mark.parametrize("place", PLACES)
def test_honest_depth_passes(place: str, nested: Any) -> None:
    """A value of a hundred levels is no reason for a refusal, wherever it stands."""
    out, _, _ = filter_body(PLACES[place] % nested(100), fields="current")
    json.loads(out)


def test_brackets_in_strings_are_not_depth() -> None:
    """A text full of brackets and escaped quotes is as flat as any other."""
    text = '[{"' * 5000 + "\\"
    body = dump({"model": "m", "messages": [{"role": "user", "content": text}], "metadata": {text: text}, "zzz": text})
    after, changes = filtered(body, fields="current")
    assert after["messages"][0]["content"] == text
    assert changes == [("drop", "zzz")]


# ------------------------------------------------------------------------------------------------------------- repeated keys


def occurrences(out: bytes) -> list[str]:
    """The keys that stand more than once in one object, anywhere in the JSON."""
    found: list[str] = []

    def look(given: list[tuple[str, Any]]) -> Json:
        found.extend(name for name, count in Counter(name for name, _ in given).items() if count > 1)
        return dict(given)

    json.loads(out, object_pairs_hook=look)
    return found


REPEATED = {
    "top level": (b'{"model":"a","n":1,"model":"b"}', "model"),
    "top level, spaced": (b'{"model": "a", "n": 1, "model": "b"}', "model"),
    "top level, odd white space": (b'{ "model" :"a", "model":"b" }', "model"),
    "by an escape": (b'{"model":"a","mod\\u0065l":"b"}', "model"),
    "hidden by the length": (b'{"model":"m","n":10,' + HI + b',"n":20,"top_p":1}', "n"),
    "the empty key hidden by the length": (b'{"metadata":1,"":1,"":1,"n":1}', ""),
    "a message": (b'{"messages":[{"role":"user","content":"a","content":"b"}]}', "messages[0].content"),
    "a message's role": (b'{"messages":[{"role":"system","content":"b","role":"user"}]}', "messages[0].role"),
    "a message beside a change": (
        b'{"messages":[{"role":"user","name":"n","content":"a","content":"b"}]}',
        "messages[0].content",
    ),
    "a chunk": (
        b'{"messages":[{"role":"user","content":[{"type":"text","text":"a","text":"b"}]}]}',
        "messages[0].content[0].text",
    ),
    "an image": (
        b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"a","url":"b"}}]}]}',
        "messages[0].content[0].image_url.url",
    ),
    "a tool": (
        b'{"tools":[{"type":"function","function":{"name":"f","parameters":{}},"function":{"name":"g","parameters":{}}}]}',
        "tools[0].function",
    ),
    "a tool's function": (
        b'{"tools":[{"type":"function","function":{"name":"f","name":"g","parameters":{}}}]}',
        "tools[0].function.name",
    ),
    "a tool call": (
        b'{"messages":[{"role":"assistant","tool_calls":[{"id":"abcDEF123","id":"abcDEF124","function":{"name":"f","arguments":"{}"}}]},'
        b'{"role":"tool","tool_call_id":"abcDEF124","content":"r"}]}',
        "messages[0].tool_calls[0].id",
    ),
    "response_format": (b'{"response_format":{"type":"text","type":"json_object"}}', "response_format.type"),
}


@pytest.mark.parametrize("translate", [True, False])
@pytest.mark.parametrize("name", REPEATED)
def test_of_a_repeated_key_the_last_one_is_kept(name: str, translate: bool) -> None:
    """A key repeated in an object that is judged goes out once, with its last value, and is reported."""
    body, path = REPEATED[name]
    out, changes, _ = filter_body(body, fields="current", translate=translate)
    assert occurrences(body)
    assert not occurrences(out)
    assert path in [change.path for change in changes]
    expected = json.loads(body)
    for gone in ("name" if "beside a change" in name else "", "" if "empty key" in name else None):
        expected.pop(gone, None)
        for message in expected.get("messages", ()):
            message.pop(gone, None)
    assert json.loads(out) == expected


def test_a_repeated_key_in_what_is_the_callers_own_stays() -> None:
    """What no table looks into keeps even its repeated keys."""
    body = b'{"metadata":{"a":1,"a":2},"tools":[{"type":"function","function":{"name":"f","parameters":{"a":1,"a":2}}}]}'
    assert filter_body(body, fields="current")[:2] == (body, ())


# ------------------------------------------------------------------------------------------------------- escaped keys and tags


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"\\u0075ser":1,"mod\\u0065l":"m"}', {"model": "m"}),
        (
            b'{"m\\u0065ssages":[{"\\u0072ole":"us\\u0065r","content":"x","\\u006eame":1}]}',
            {"messages": [{"role": "user", "content": "x"}]},
        ),
        (
            b'{"messages":[{"role":"user","content":[{"typ\\u0065":"t\\u0065xt","text":"a","x":1}]}]}',
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        ),
        (
            b'{"tools":[{"type":"func\\u0074ion","function":{"name":"f","parameters":{},"x":1}}]}',
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        ),
    ],
)
@pytest.mark.parametrize("translate", [True, False])
def test_an_escaped_name_is_the_name(body: bytes, expected: Json, translate: bool) -> None:
    """Writing a key, a role or a type with escapes does not carry a field past the lists."""
    assert filtered(body, translate=translate)[0] == expected


def test_an_escaped_role_is_translated_too() -> None:
    """An escaped word of OpenAI's is translated like the plain one."""
    assert filtered(b'{"messages":[{"role":"develop\\u0065r","content":"x"}]}')[0] == {
        "messages": [{"role": "system", "content": "x"}]
    }


@pytest.mark.parametrize("name", ["User", "usér", "user\0", "user ", "", "messages[0]", "a.b", "\u202e", "\x1b[31m", '"', "\\"])
def test_an_odd_name_is_dropped_under_its_own_name(name: str) -> None:
    """A key that merely looks like another, or like a path, is dropped and named as it is."""
    assert filtered({"model": "m", name: 1}) == ({"model": "m"}, [("drop", name)])


# --------------------------------------------------------------------------------------------------------------- strict mode


def test_strict_refuses_what_would_be_lost() -> None:
    """Strict mode answers 400 and names every path that would be lost, nested ones too, and no other."""
    error = refusal(dump({**THIRTEEN, "logit_bias": {"1": 2}, "user": "u", "messages": [{**USER, "name": "n"}]}), strict=True)
    assert isinstance(error, Refused)
    assert error.status == 400
    assert error.param in ("logit_bias", "messages[0].name")
    named = error.message.partition("for ")[2].partition(". ")[0].split(", ")
    assert sorted(named) == ["logit_bias", "messages[0].name"]


def test_strict_does_the_rest_as_usual() -> None:
    """Strict mode translates and drops where nothing is lost."""
    body = {
        "model": "m",
        "messages": [USER],
        "seed": 1,
        "max_completion_tokens": 3,
        "user": "u",
        "stream_options": {"include_usage": True},
    }
    assert filtered(body, strict=True) == filtered(body)
    assert filtered(body, strict=True)[0] == {"model": "m", "messages": [USER], "random_seed": 1, "max_tokens": 3}


# ------------------------------------------------------------------------------------------------------------- the endpoints


@pytest.mark.parametrize(
    ("endpoint", "kept", "dropped"),
    [
        (
            "fim",
            {"model": "m", "prompt": "p", "suffix": "s", "max_tokens": 1, "stop": ["x"], "random_seed": 1},
            ["echo", "n", "messages"],
        ),
        ("agents", {"agent_id": "a", "messages": [USER], "frequency_penalty": 1, "n": 2}, ["model", "temperature", "user"]),
        ("embeddings", {"model": "m", "input": ["a"], "output_dimension": 8, "encoding_format": "base64"}, ["user", "messages"]),
        ("moderations", {"model": "m", "input": ["a", "b"], "metadata": {"a": 1}}, ["user", "prompt"]),
        ("classifications", {"model": "m", "input": "a"}, ["user", "temperature"]),
        ("chat/moderations", {"model": "m", "input": [USER]}, ["metadata", "user"]),
        ("chat/classifications", {"model": "m", "input": {"messages": [USER]}}, ["metadata", "user"]),
        ("ocr", {"model": "m", "document": {"type": "document_url", "document_url": "u"}, "pages": [0]}, ["messages", "user"]),
    ],
)
@pytest.mark.parametrize("fields", LISTS)
def test_every_endpoint_has_a_list_of_its_own(endpoint: str, kept: Json, dropped: list[str], fields: str) -> None:
    """An endpoint keeps what the SDK's model for it has and drops the rest, whatever the list for chat is."""
    after, changes = filtered({**kept, **dict.fromkeys(dropped, "x")}, endpoint, fields=fields)
    assert after == kept
    assert sorted(changes) == sorted(("drop", name) for name in dropped)
    assert sdk.accepts(endpoint, after) == []


@pytest.mark.parametrize("endpoint", ["moderations", "classifications"])
def test_an_input_that_is_text_is_not_looked_into(endpoint: str) -> None:
    """Texts to classify are never judged as messages."""
    body = dump({"model": "m", "input": ["a", {"role": "user", "x": 1}]})
    assert filter_body(body, endpoint)[:2] == (body, ())


@pytest.mark.parametrize(
    ("endpoint", "given", "expected"),
    [
        ("chat/moderations", [{**USER, "name": "n"}], [USER]),
        (
            "chat/moderations",
            [[{**USER, "name": "n"}], [USER, {"role": "developer", "content": "d"}]],
            [[USER], [USER, {"role": "system", "content": "d"}]],
        ),
        ("chat/classifications", {"messages": [{**USER, "name": "n"}], "x": 1}, {"messages": [USER]}),
        (
            "chat/classifications",
            [{"messages": [{**USER, "name": "n"}], "x": 1}, {"messages": [USER]}],
            [{"messages": [USER]}, {"messages": [USER]}],
        ),
    ],
)
def test_conversations_to_classify_are_judged(endpoint: str, given: Any, expected: Any) -> None:
    """One conversation or several, each message is judged by its role."""
    after, _ = filtered({"model": "m", "input": given}, endpoint)
    assert after["input"] == expected
    assert sdk.accepts(endpoint, after) == []


def test_a_conversation_to_classify_keeps_its_order_and_its_last_answer() -> None:
    """Nothing is moved, removed or made a prefix where the conversation is only looked at."""
    body = dump(
        {
            "model": "m",
            "input": [
                USER,
                {"role": "assistant", "content": "A"},
                {"role": "system", "content": "S"},
                {"role": "assistant", "content": "B"},
            ],
        }
    )
    assert filter_body(body, "chat/moderations")[:2] == (body, ())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "document_url", "document_url": "u", "x": 1}, {"type": "document_url", "document_url": "u"}),
        ({"type": "image_url", "image_url": {"url": "u", "x": 1}}, {"type": "image_url", "image_url": {"url": "u"}}),
        ({"type": "file", "file_id": "f", "filename": "n"}, {"type": "file", "file_id": "f"}),
    ],
)
def test_a_document_to_read_is_judged_by_its_type(given: Json, expected: Json) -> None:
    """The document of an OCR request is one of the three kinds that the API knows."""
    assert filtered({"model": "m", "document": given}, "ocr")[0]["document"] == expected


@pytest.mark.parametrize("given", [[1, 2], [[1, 2], [3]], [[1.5]], [-1]])
def test_token_ids_are_refused(given: Any) -> None:
    """Token ids cannot be embedded by another model: a clear 400 that names the path and the client's setting."""
    error = refusal(dump({"model": "m", "input": given}), "embeddings")
    assert (error.status, error.param) == (400, "input")
    assert "check_embedding_ctx_length" in error.message


@pytest.mark.parametrize("given", ["text", ["a", "b"], [""], [], None, {}])
def test_text_to_embed_is_not_refused(given: Any) -> None:
    """Everything but token ids goes on, for the API to judge."""
    body = dump({"model": "m", "input": given})
    assert filter_body(body, "embeddings")[:2] == (body, ())


# ------------------------------------------------------------------------------------------------------------ odd kinds of value


@pytest.mark.parametrize("odd", [b"1", b"null", b'"x"', b"true", b"[]", b"{}", b'[1,null,"x",[],{}]', b'{"a":[1]}'])
@pytest.mark.parametrize(
    "name", ["model", "messages", "temperature", "tools", "tool_choice", "response_format", "stop", "stream", "prediction"]
)
def test_a_value_of_an_unexpected_type_is_left_to_the_api(name: str, odd: bytes) -> None:
    """A value of the wrong kind is never thrown away in silence: it goes on as it is, or its change is reported."""
    body = b'{"' + name.encode() + b'":' + odd + b"}"
    out, changes, _ = filter_body(body, fields="current", translate=False)
    assert out == body or any(change.path.startswith(name) for change in changes)
    out, changes, _ = filter_body(body, fields="current")
    assert out == body or any(change.path.startswith(name) for change in changes)


def test_changes_hold_no_value_of_the_callers() -> None:
    """A change tells names and reasons; what the caller wrote as a value, a type included, stays out of it."""
    secret = "S3cret"
    body = {
        "model": secret,
        "messages": [{"role": "user", "content": [{"type": "text", "text": secret, "x": secret}], "name": secret}],
        "tools": [{"type": secret, "x": 1}, {"type": "function", "name": "f"}],
        "tool_choice": {"type": secret},
        "user": secret,
        "seed": secret,
    }
    _, changes, _ = filter_body(dump(body), fields="current")
    assert len(changes) > 5
    assert secret not in repr(changes)
    _, changes, _ = filter_body(dump({"model": "m", "input": [{"type": secret}, USER]}))
    assert secret not in repr(changes)
    assert all(isinstance(change, Change) for change in changes)
