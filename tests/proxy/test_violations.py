"""Reading Mistral's error bodies: which places of the request they name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_filter.proxy.violations import MOST, NOT_ENABLED, Violation, curable, path_of, read, telling

CHUNKS = "list[tagged-union[TextChunk,ImageURLChunk,DocumentURLChunk,ReferenceChunk,FileChunk,ThinkChunk,AudioChunk]]"


def extra(*loc: Any) -> dict[str, Any]:
    return {"type": "extra_forbidden", "loc": ["body", *loc], "msg": "Extra inputs are not permitted", "input": 1}


def other(kind: str, *loc: Any) -> dict[str, Any]:
    return {"type": kind, "loc": ["body", *loc], "msg": "Input should be something else", "input": 1}


def flat(*detail: Any) -> bytes:
    return json.dumps({"detail": detail}).encode()


def wrapped(*detail: Any) -> bytes:
    shape = {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "param": None, "code": None}
    return json.dumps({**shape, "raw_status_code": 422}).encode()


def named(body: bytes) -> list[list[Any]]:
    """The places of the extra fields, if nothing else is wrong."""
    return [list(violation.loc) for violation in curable(read(body))]


# --------------------------------------------------------------------------------------------------------------- reading

RECORDED = (
    b'{"object":"error","message":{"detail":[{"type":"missing","loc":["body","input"],"msg":"Field required","input":{}},'
    b'{"type":"extra_forbidden","loc":["body","messages"],"msg":"Extra inputs are not permitted","input":[]}]},'
    b'"type":"invalid_request_error","param":null,"code":null}'
)


def test_a_recorded_refusal_is_read() -> None:
    """All violations, in order (chat/moderations, recorded 2026)."""
    assert read(RECORDED) == (
        Violation(("body", "input"), "missing", "Field required"),
        Violation(("body", "messages"), "extra_forbidden", "Extra inputs are not permitted"),
    )
    assert [violation.path for violation in read(RECORDED)] == ["input", "messages"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"object":"Error","detail":[%b],"message":["Bad request"],"code":3001}',
        b'{"detail":[%b],"message":"Unprocessable"}',
        b'{"error":{"message":{"detail":[%b]}}}',
        b"[%b]",
    ],
)
def test_violations_are_found_in_every_shape(body: bytes) -> None:
    """Beside texts, and however the list is wrapped; a list of texts is no list of places."""
    item = json.dumps(extra("messages", 0, "user", "name")).encode()
    expected = ("body", "messages", 0, "user", "name")
    assert [violation.loc for violation in read(body % item) if violation.loc] == [expected]
    quoted = json.dumps({"message": (b'{"detail":[%b]}' % item).decode()}).encode()
    assert [violation.loc for violation in read(quoted)] == [expected]


def test_a_path_can_keep_the_labels_of_tagged_unions() -> None:
    """Mistral's own words have the role; the names of branches are in neither."""
    violation = Violation(("body", "messages", 0, "user", "content", CHUNKS, 1, "text", "x"), "extra_forbidden", "m")
    assert violation.path == "messages[0].content[1].x"
    assert violation.quoted_path == "messages[0].user.content[1].text.x"


def test_an_echo_of_the_request_is_not_read() -> None:
    """``input`` repeats the caller's value, which may be half an emoji, a number beyond all floats or deep."""
    item = b'{"type":"extra_forbidden","loc":["body","x"],"msg":"m","input":%b}'
    for value in (b'"\\ud83d"', b"1e400", b"[" * 150 + b"]" * 150):
        assert read(b'{"detail":[%b]}' % (item % value)) == (Violation(("body", "x"), "extra_forbidden", "m"),)


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_can_be_read(body: bytes) -> None:
    """What is no error body names nothing."""
    assert read(body) == ()


# ---------------------------------------------------------------------------------------------------------- extra fields


@pytest.mark.parametrize("shape", [flat, wrapped])
def test_both_shapes_are_read(shape: Any) -> None:
    """The places are found in the bare list of violations and in the wrapped one."""
    locs = [["body", "verbosity"], ["body", "messages", 0, "user", "name"]]
    assert named(shape(*({**extra(), "loc": loc} for loc in locs))) == locs


@pytest.mark.parametrize("shape", [flat, wrapped])
@pytest.mark.parametrize(
    "violation",
    [
        other("missing", "model"),
        other("string_type", "model"),
        other("less_than_equal", "temperature"),
        other("string_type", "messages", 1, "user", "content", "str"),
        other("missing", "messages", 0, "user", "content"),
    ],
)
def test_any_other_violation_means_nothing_is_dropped(shape: Any, violation: dict[str, Any]) -> None:
    """When something else is wrong too, a second try would fail as well: there is none."""
    assert named(shape(extra("messages", 0, "user", "name"), violation)) == []
    assert named(shape(violation)) == []


@pytest.mark.parametrize("shape", [flat, wrapped])
def test_the_other_branch_of_a_union_says_nothing_new(shape: Any) -> None:
    """Beside an extra field in a chunk the validator reports that the content is no string: that is no further fault."""
    loc = ["messages", 0, "user", "content", CHUNKS, 0, "text", "cache_control"]
    answer = shape(other("string_type", "messages", 0, "user", "content", "str"), extra(*loc))
    assert named(answer) == [["body", *loc]]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not json",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b"1",
        b"null",
        b"{}",
        b'{"detail":"Unauthorized"}',
        b'{"detail":[]}',
        b'{"detail":null,"message":null}',
        b'{"message":"Unprocessable"}',
        b'{"message":{"detail":"x"}}',
        b'{"message":{"detail":[1]}}',
        b'{"detail":["x"]}',
        b'{"detail":[{"type":"extra_forbidden"}]}',
        b'{"detail":[{"type":"extra_forbidden","loc":"body"}]}',
        b'{"detail":[{"type":"extra_forbidden","loc":[]}]}',
        b'{"detail":[{"type":"extra_forbidden","loc":["body"]}]}',
        b'{"detail":[{"type":"extra_forbidden","loc":["body",null]}]}',
        b'{"detail":[{"type":"extra_forbidden","loc":["body",1.5]}]}',
        b'{"detail":[{"loc":["body","x"]}]}',
    ],
)
def test_an_answer_of_another_form_names_nothing(answer: bytes) -> None:
    """What is no list of violations is passed on to the caller, not tried to be understood."""
    assert named(answer) == []


def test_a_list_of_words_is_a_branch_too() -> None:
    """Beside an extra field in an object tool_choice the validator says that it is none of the words."""
    violation = other("literal_error", "tool_choice", "literal['auto','none','any','required']")
    loc = ["tool_choice", "ToolChoice", "x"]
    assert named(flat(violation, extra(*loc))) == [["body", *loc]]


def test_many_places_are_read() -> None:
    """A refusal of a long conversation names thousands."""
    many = [extra("messages", n, "user", "content", CHUNKS, 0, "text", "x") for n in range(4000)]
    strings = [other("string_type", "messages", n, "user", "content", "str") for n in range(4000)]
    assert len(named(flat(*many, *strings))) == 4000


def test_a_place_without_end_names_nothing() -> None:
    """No validator writes so many parts."""
    assert named(flat(extra(*["x"] * 5000))) == []


# ----------------------------------------------------------------------------------------------------------------- paths

CONTENT = "list[tagged-union[TextChunk,ImageURLChunk]]"


@pytest.mark.parametrize(
    ("loc", "path"),
    [
        (["body"], ""),
        (["body", "temperature"], "temperature"),
        (["body", "messages", 2, "assistant", "tool_calls", 0, "name"], "messages[2].tool_calls[0].name"),
        (["body", "messages", 0, "user", "user"], "messages[0].user"),
        (["body", "messages", 0, "tool"], "messages[0]"),
        (["body", "messages", 0, "user", "content", "str"], "messages[0].content"),
        (["body", "messages", 0, "user", "content", CONTENT, 1, "text", "cache_control"], "messages[0].content[1].cache_control"),
        (["body", "messages", 0, "user", "content", CONTENT, 1, "text", "text"], "messages[0].content[1].text"),
        (["body", "messages", 0, "user", "content", 1, "text"], "messages[0].content[1].text"),
        (
            ["body", "messages", 0, "user", "content", CONTENT, 0, "image_url", "image_url", "ImageURL", "format"],
            "messages[0].content[0].image_url.format",
        ),
        (
            ["body", "messages", 0, "assistant", "content", CONTENT, 0, "thinking", "thinking", 3, "text", "x"],
            "messages[0].content[0].thinking[3].x",
        ),
        (["body", "tools", 0, "function", "function", "parametres"], "tools[0].function.parametres"),
        (["body", "tools", 0, "function", "cache_control"], "tools[0].cache_control"),
        (["body", "tools", 0, "Tool", "function", "x"], "tools[0].function.x"),
        (["body", "tools", 0, "function"], "tools[0].function"),
        (["body", "tool_choice", "ToolChoice", "function", "x"], "tool_choice.function.x"),
        (["body", "input", "list[str]", 2], "input[2]"),
        (["body", "input", 0, 1, "user", "name"], "input[0][1].name"),
        (["body", "stop", "list[constrained-str]", 0], "stop[0]"),
        (["body", "messages", "function-after[check(), list[tagged-union[A,B]]]", 1, "user", "name"], "messages[1].name"),
        (["body", "user", "name"], "user.name"),
        (["query", "body", "str"], "query.body.str"),
        (["body", "data[x]"], "data[x]"),
        (["body", None, ["a"]], "None.['a']"),
        (["body", "EmbeddingRequest", "user"], "user"),
        (["body", "FIMCompletionRequest", "messages", 0, "user", "name"], "messages[0].name"),
        (["body", "EmbeddingRequest"], "EmbeddingRequest"),
        (["body", "Foo", "user"], "Foo.user"),
    ],
)
def test_path_of(loc: list[object], path: str) -> None:
    """A location loses the words that name a variant of a union, and only those."""
    assert path_of(loc) == path


# ------------------------------------------------------------------------------------------------------------------- unions


def test_of_the_branches_of_a_union_the_one_with_extra_fields_is_told() -> None:
    """What is wrong with the value as something else says nothing; what is wrong elsewhere stays."""
    name = extra("messages", 0, "user", "content", CHUNKS, 0, "text", "cache_control")
    string = other("string_type", "messages", 0, "user", "content", "str")
    assert [v.path for v in telling(read(flat(string, name)))] == ["messages[0].content[0].cache_control"]
    elsewhere = other("missing", "model")
    assert [v.path for v in telling(read(flat(string, elsewhere, name)))] == ["model", "messages[0].content[0].cache_control"]


def test_a_union_of_whole_bodies() -> None:
    """The body is an EmbeddingRequest with a field too many, so what is missing in it as another kind is no news."""
    user = extra("EmbeddingRequest", "user")
    body = flat(other("missing", "BatchRequest", "requests"), extra("BatchRequest", "input"), user)
    assert named(body) == [["body", "EmbeddingRequest", "user"]]
    assert [violation.path for violation in telling(read(body))] == ["user"]


def test_two_branches_with_extra_fields_only_are_both_told() -> None:
    """Either may have been meant."""
    body = flat(extra("AbcRequest", "user"), extra("XyzRequest", "user"))
    assert [violation.path for violation in telling(read(body))] == ["user", "user"]


def test_without_a_union_nothing_is_left_out() -> None:
    """Nor where each branch has another fault."""
    for detail in (
        [extra("user"), other("missing", "model")],
        [other("string_type", "stop", "str"), other("list_type", "stop", "list[str]")],
        [],
    ):
        violations = read(flat(*detail))
        assert telling(violations) == violations


# --------------------------------------------------------------------------------------------------------------- 400 code 3051

EFFORT = [("reasoning_effort",), ("reasoning", "effort")]
LISTED = "reasoning_effort low is not supported for this model, supported values: "


def sentence(text: str, code: object = "3051") -> bytes:
    """As recorded 2026-08-17."""
    flat = {"code": code, "message": text, "object": "error", "param": None, "raw_status_code": 400}
    return json.dumps({**flat, "type": "invalid_request_invalid_args"}).encode()


@pytest.mark.parametrize(
    ("text", "places", "values"),
    [
        ("Logprobs are not enabled for this model", [("logprobs",), ("top_logprobs",)], ()),
        ("top_k is not enabled for this model", [("top_k",)], ()),
        ("Top-k is not enabled for this model", [("top_k",)], ()),
        ("top_logprobs is not enabled for this model.", [("top_logprobs",)], ()),
        ("reasoning_effort is not enabled for this model", EFFORT, ()),
        ("reasoning.effort is not enabled for this model", EFFORT, ()),
        ("Reasoning is not enabled for this model", EFFORT, ()),
        ("Reasoning prompt mode is not enabled for this model", [("prompt_mode",)], ()),
        (LISTED + "[<ReasoningEffort.high: 'high'>, <ReasoningEffort.none: 'none'>]", EFFORT, ("high", "none")),
        (LISTED + "[high, none]", EFFORT, ("high", "none")),
        ("reasoning_effort 'medium' is not supported for this model; supported values: ['low', 'high', 'max']", EFFORT, None),
        (
            "reasoning_effort='medium' is not supported for this model. Must be one of (<ReasoningEffort.none: 'none'>, "
            "<ReasoningEffort.high: 'high'>)",
            EFFORT,
            ("none", "high"),
        ),
        ("This model does not support top_k.", [("top_k",)], ()),
        ("The parameter top_k isn't supported by this model", [("top_k",)], ()),
        ("Value 'low' for reasoning_effort is not supported. Valid values: none, high", EFFORT, ("none", "high")),
        (LISTED + "['vast', 'Bearer abc']", EFFORT, ()),
    ],
)
@pytest.mark.parametrize("code", ["3051", 3051])
def test_what_a_model_does_not_take(text: str, places: list[tuple[str, ...]], values: tuple[str, ...], code: object) -> None:
    """Each form that was seen, and some like them: which places ask for it, and which known words are listed."""
    values = ("low", "high", "max") if values is None else values
    expected = tuple(Violation(("body", *place), NOT_ENABLED, text, values) for place in places)
    assert read(sentence(text, code)) == curable(read(sentence(text, code))) == expected
    assert read(json.dumps({"error": json.loads(sentence(text, code))}).encode()) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Prompt contains 159202 tokens and 0 draft tokens, too large for model with 131072 maximum context length",
        "Function calling is not enabled for this model",
        "Image input is not enabled for this model",
        "Image inputs for reasoning are not supported for this model",
        "model is not enabled for this model",
        "messages are not supported for this model",
        "tools are not enabled for this model",
        "safe_prompt is not enabled for this model",
        "This model does not support output_dimension.",
        "This model does not support images.",
        "is not enabled for this model",
        "top_k must be positive",
        "",
        "x" * 5000 + " top_k is not enabled for this model",
        "top_k " * 100000,
    ],
)
def test_other_sentences_name_nothing(text: str) -> None:
    """What a request cannot do without, what keeps it safe, and what would give other vectors is never taken away."""
    assert read(sentence(text)) == ()


def test_other_codes_name_nothing() -> None:
    """A 400 may speak of a field for many reasons."""
    for code in ("3054", "1500", None, 3280, [3051]):
        assert read(sentence("top_k is not enabled for this model", code)) == ()


@given(st.text(max_size=200))
def test_any_sentence_can_be_read(text: str) -> None:
    """Whatever it says, places are those of the table and values those of the list."""
    for violation in read(sentence(f"{text} is not enabled for this model, supported values: {text}")):
        assert violation.loc[0] == "body"
        assert set(violation.values) <= {"none", "minimal", "low", "medium", "high", "xhigh", "max"}


def test_an_error_of_very_many_values_is_read_in_part() -> None:
    """Of a list its beginning; a place of very many parts, which no request has, is none."""
    item = {"type": "extra_forbidden", "loc": ["body", "a"], "msg": "no"}
    assert len(read(json.dumps({"detail": [item] * (MOST + 1)}).encode())) == MOST
    assert read(json.dumps({"detail": [{**item, "loc": ["body"] * 65}, item]}).encode())[0].loc == ()
    assert len(read(json.dumps({"detail": [{**item, "loc": ["body"] * 64}]}).encode())[0].loc) == 64


def test_an_error_with_very_many_lone_surrogates_names_nothing() -> None:
    """It cannot be read; the request is not to blame for it."""
    assert read(b'{"detail":[{"loc":["body","a"],"msg":"no","input":"%b"}]}' % (rb"\ud800" * 20_001)) == ()
