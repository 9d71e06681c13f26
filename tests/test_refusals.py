"""Learning from a refusal: what a 422 names, the body without it, and what is remembered."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from mistral_filter import Change
from mistral_filter.refusals import Learned, forbidden, without

Loc = list[Any]

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


def dropped(body: Any, *locs: Loc) -> tuple[Any, list[str]]:
    """The body without what the locs name, and the paths of the changes."""
    out, changes = without(json.dumps(body).encode(), [["body", *loc] for loc in locs])
    assert all((change.action, change.loss) == ("drop", "lost") for change in changes)
    return json.loads(out), [change.path for change in changes]


# ------------------------------------------------------------------------------------------------------- reading the refusal


@pytest.mark.parametrize("shape", [flat, wrapped])
def test_both_shapes_are_read(shape: Any) -> None:
    """The places are found in the bare list of violations and in the wrapped one."""
    locs = [["body", "verbosity"], ["body", "messages", 0, "user", "name"]]
    assert forbidden(shape(*({**extra(), "loc": loc} for loc in locs))) == locs


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
    assert forbidden(shape(extra("messages", 0, "user", "name"), violation)) == []
    assert forbidden(shape(violation)) == []


@pytest.mark.parametrize("shape", [flat, wrapped])
def test_the_other_branch_of_a_union_says_nothing_new(shape: Any) -> None:
    """Beside an extra field in a chunk the validator reports that the content is no string: that is no further fault."""
    loc = ["messages", 0, "user", "content", CHUNKS, 0, "text", "cache_control"]
    answer = shape(other("string_type", "messages", 0, "user", "content", "str"), extra(*loc))
    assert forbidden(answer) == [["body", *loc]]


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
    assert forbidden(answer) == []


# -------------------------------------------------------------------------------------------------- dropping what is named


@pytest.mark.parametrize(
    ("body", "loc", "expected", "path"),
    [
        ({"model": "m", "verbosity": 1}, ["verbosity"], {"model": "m"}, "verbosity"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "x", "name": "n"}]},
            ["messages", 1, "user", "name"],
            {"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "x"}]},
            "messages[1].name",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "x": 1}}]}]},
            ["messages", 0, "assistant", "tool_calls", 0, "function", "x"],
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]}]},
            "messages[0].tool_calls[0].function.x",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}]},
            ["messages", 0, "user", "content", CHUNKS, 0, "text", "cache_control"],
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
            "messages[0].content[0].cache_control",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u", "x": 1}}]}]},
            ["messages", 0, "user", "content", CHUNKS, 0, "image_url", "image_url", "ImageURL", "x"],
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
            "messages[0].content[0].image_url.x",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
            ["tools", 0, "function", "function", "strict"],
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            "tools[0].function.strict",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}, "x": 1}]},
            ["tools", 0, "function", "x"],
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            "tools[0].x",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "user": "u"}]},
            ["messages", 0, "user", "user"],
            {"messages": [{"role": "user", "content": "x"}]},
            "messages[0].user",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "user": {"name": 1}, "name": 2}]},
            ["messages", 0, "user", "name"],
            {"messages": [{"role": "user", "content": "x", "user": {"name": 1}}]},
            "messages[0].name",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "type2": 1}]}]},
            ["messages", 0, "user", "content", CHUNKS, 0, "text", "type2"],
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
            "messages[0].content[0].type2",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "x": 1}}},
            ["response_format", "json_schema", "x"],
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}},
            "response_format.json_schema.x",
        ),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}, "x": 1}},
            ["tool_choice", "ToolChoice", "x"],
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice.x",
        ),
        (
            {"document": {"type": "document_url", "document_url": "u", "x": 1}},
            ["document", "document_url", "x"],
            {"document": {"type": "document_url", "document_url": "u"}},
            "document.x",
        ),
    ],
)
def test_exactly_the_named_field_goes(body: Any, loc: Loc, expected: Any, path: str) -> None:
    """Roles, types and union labels in a loc are told from keys, and only the field that is meant is dropped."""
    assert dropped(body, loc) == (expected, [path])


def test_everything_else_keeps_its_bytes() -> None:
    """Numbers, escapes and a caller's schemas survive the second try to the byte."""
    kept = b'{"a":{"z":1.10,"b":[1e2,-0]},"model":"\\u00e9","messages":[{"role":"user","content":"\xc3\xa9"}]'
    out, changes = without(kept + b',"x":1}', [["body", "x"]])
    assert out == kept + b"}"
    assert [change.path for change in changes] == ["x"]


def test_several_fields_go_at_once() -> None:
    """One further try is all there is, so everything that is named goes together."""
    body = {
        "model": "m",
        "a": 1,
        "b": 2,
        "messages": [{"role": "user", "content": "x", "c": 3}, {"role": "user", "content": "x", "c": 3}],
    }
    after, paths = dropped(body, ["a"], ["messages", 0, "user", "c"], ["messages", 1, "user", "c"])
    assert after == {"model": "m", "b": 2, "messages": [{"role": "user", "content": "x"}] * 2}
    assert paths == ["a", "messages[0].c", "messages[1].c"]


def test_a_field_named_twice_goes_once() -> None:
    """Two branches of a union may both name the same field: it is dropped, and the try is made."""
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}]}
    locs = [
        ["messages", 0, "user", "content", "list[union[TextChunk,ImageURLChunk]]", 0, label, "y"]
        for label in ("TextChunk", "ImageURLChunk")
    ]
    assert dropped(body, *locs) == (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        ["messages[0].content[0].y"],
    )
    assert dropped({"model": "m", "x": 1}, ["x"], ["x"]) == ({"model": "m"}, ["x"])


@pytest.mark.parametrize(
    "loc",
    [
        ["model"],
        ["messages"],
        ["messages", 0],
        ["messages", 0, "user", "role"],
        ["messages", 0, "role"],
        ["messages", 0, "user", "content"],
        ["messages", 0, "user", "nothing"],
        ["messages", 7, "user", "name"],
        ["messages", -1, "user", "name"],
        ["messages", 0, "user"],
        ["nothing"],
        ["model", "x"],
        ["messages", "user", "name"],
        [0],
        ["messages", 0, "user", "content", 0],
    ],
)
def test_what_may_not_go_or_is_not_there_stops_everything(loc: Loc) -> None:
    """The model, the messages, a role, a content, or a place that does not exist: then nothing is dropped at all."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x", "name": "n"}], "x": 1}
    assert dropped(body, loc) == (body, [])
    assert dropped(body, ["x"], loc) == (body, [])


@pytest.mark.parametrize(
    ("loc", "path"),
    [
        (["messages", 1, "assistant", "tool_calls", 0, "function", "x"], "messages[1].tool_calls[0].function.x"),
        (["messages", 1, "assistant", "tool_calls", 0, "function", "id"], None),
        (["messages", 1, "assistant", "tool_calls", 0, "function", "function"], None),
        (["messages", 1, "assistant", "tool_calls", 0, "function"], None),
        (["messages", 1, "assistant", "tool_calls", 0, "x"], "messages[1].tool_calls[0].x"),
        (["messages", 0, "user", "content", CHUNKS, 0, "image_url", "image_url", "ImageURL", "x"], None),
        (["messages", 0, "user", "content", CHUNKS, 0, "image_url", "image_url"], None),
        (["tools", 0, "function", "function", "x"], "tools[0].function.x"),
        (["tools", 0, "function", "function"], None),
        (["tools", 0, "function", "x"], "tools[0].x"),
        (["tool_choice", "ToolChoice", "x"], "tool_choice.x"),
        (["tool_choice", "ToolChoice", "function", "x"], "tool_choice.function.x"),
    ],
)
def test_a_label_is_not_taken_for_a_key(loc: Loc, path: str | None) -> None:
    """Only objects that are told apart by a tag have a label before their keys; what the API requires never goes."""
    function = {"name": "f", "parameters": {}, "x": 1}
    body = {
        "model": "m",
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]},
            {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {**function}, "x": 1}]},
        ],
        "tools": [{"type": "function", "function": {**function}, "x": 1}],
        "tool_choice": {"type": "function", "function": {"name": "f", "x": 1}, "x": 1},
    }
    assert dropped(body, loc)[1] == ([] if path is None else [path])


def test_a_list_of_words_is_a_branch_too() -> None:
    """Beside an extra field in an object tool_choice the validator says that it is none of the words."""
    violation = other("literal_error", "tool_choice", "literal['auto','none','any','required']")
    loc = ["tool_choice", "ToolChoice", "x"]
    assert forbidden(flat(violation, extra(*loc))) == [["body", *loc]]


def test_places_beyond_counting_are_done() -> None:
    """Time grows with a refusal and no faster: a long conversation's, and one that can be read in very many ways."""
    many = [extra("messages", n, "user", "content", CHUNKS, 0, "text", "x") for n in range(4000)]
    strings = [other("string_type", "messages", n, "user", "content", "str") for n in range(4000)]
    assert len(forbidden(flat(*many, *strings))) == 4000
    body: Any = {"type": "a"}
    for _ in range(60):
        body = {"type": "a", "a": body}
    assert dropped({"x": body}, ["x", *["a"] * 60, "zz"]) == ({"x": body}, [])


def test_a_place_without_end_names_nothing() -> None:
    """No validator writes so many parts."""
    assert forbidden(flat(extra(*["x"] * 5000))) == []


def test_nothing_named_is_nothing_dropped() -> None:
    """Without places the body is the very same."""
    body = b'{ "model" : "m" }'
    assert without(body, []) == (body, [])


def test_half_an_emoji_is_no_reason_to_fail() -> None:
    """A body that the filter let through with a lone surrogate can be tried again, or stays as it is: it is no error now."""
    body = b'{"model":"m","x":1,"messages":[{"role":"user","content":"\\ud83d"}]}'
    out, changes = without(body, [["body", "x"]])
    assert (out, [change.path for change in changes]) in [
        (b'{"model":"m","messages":[{"role":"user","content":"\\ud83d"}]}', ["x"]),
        (body, []),
    ]


# ------------------------------------------------------------------------------------------------------------ what is learnt


def change(path: str) -> Change:
    return Change("drop", path, "refused", "lost")


def applied(learned: Learned, body: Any, endpoint: str = "chat") -> tuple[Any, list[str]]:
    out, changes = learned.apply(endpoint, json.dumps(body).encode())
    return json.loads(out), [change.path for change in changes]


def test_a_learnt_place_is_dropped_wherever_it_is() -> None:
    """The next request need not fail: the field goes from every message, whatever its index, and is reported there."""
    learned = Learned()
    learned.learn("chat", [change("messages[3].name"), change("verbosity"), change("messages[0].content[2].x")])
    body = {
        "model": "m",
        "verbosity": 1,
        "messages": [
            {"role": "user", "content": "x", "name": "n"},
            {"role": "user", "content": [{"type": "text", "x": 1}, 1]},
            5,
        ],
    }
    after, paths = applied(learned, body)
    assert after == {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}, {"role": "user", "content": [{"type": "text"}, 1]}, 5],
    }
    assert sorted(paths) == ["messages[0].name", "messages[1].content[0].x", "verbosity"]


def test_what_is_learnt_is_for_its_endpoint_only() -> None:
    """A field that embeddings refused is not taken from chat."""
    learned = Learned()
    learned.learn("embeddings", [change("metadata")])
    assert applied(learned, {"metadata": 1}) == ({"metadata": 1}, [])
    assert applied(learned, {"metadata": 1}, "embeddings") == ({}, ["metadata"])


def test_a_body_without_the_place_keeps_its_bytes() -> None:
    """What is remembered costs no other request its bytes."""
    learned = Learned()
    learned.learn("chat", [change("messages[0].name")])
    body = b'{ "messages" : [ {"role":"user","content":"x"} ] , "t":1.10 }'
    assert learned.apply("chat", body) == (body, [])
    assert Learned().apply("chat", body) == (body, [])


def test_what_is_learnt_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time a place is tried again: Mistral's lists move."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    learned = Learned(seconds=60)
    learned.learn("chat", [change("x")])
    now += 59
    assert applied(learned, {"x": 1}) == ({}, ["x"])
    now += 2
    assert applied(learned, {"x": 1}) == ({"x": 1}, [])
    learned.learn("chat", [change("x")])
    assert applied(learned, {"x": 1}) == ({}, ["x"])


def test_only_so_much_is_learnt() -> None:
    """The memory is bounded, and what was learnt last is in it."""
    learned = Learned(size=3)
    names = [f"x{n}" for n in range(50)]
    for name in names:
        learned.learn("chat", [change(name)])
    after, paths = applied(learned, dict.fromkeys(names, 1))
    assert paths == names[-3:]
    assert len(after) == 47


def test_learning_a_place_again_costs_no_other_its_place() -> None:
    """A place that is known already takes no further room."""
    learned = Learned(size=2)
    learned.learn("chat", [change("a"), change("b")])
    for _ in range(5):
        learned.learn("chat", [change("b")])
    assert applied(learned, {"a": 1, "b": 1}) == ({}, ["a", "b"])


@pytest.mark.parametrize("place", ["a.b", "messages.*.content", "messages[*].content", "messages.0.role", "[0]"])
def test_a_key_that_looks_like_a_path_is_only_a_key(place: str) -> None:
    """One caller's key with dots or brackets in it never takes another caller's fields away."""
    learned = Learned()
    _, changes = without(json.dumps({"model": "m", place: 1}).encode(), [["body", place]])
    learned.learn("chat", changes)
    body = {"model": "m", "a": {"b": 1}, "messages": [{"role": "user", "content": "x"}]}
    assert applied(learned, body) == (body, [])


def test_what_is_learnt_takes_half_an_emoji() -> None:
    """A body with a lone surrogate passes a process that has learnt something."""
    learned = Learned()
    learned.learn("chat", [change("x")])
    body = b'{"model":"m","messages":[{"role":"user","content":"\\ud83d"}]}'
    assert learned.apply("chat", body) == (body, [])
