"""Learning from a refusal: the body without the fields that it names, and what is remembered."""

from __future__ import annotations

import gc
import json
import time
from typing import Any

import pytest

from mistral_filter import filter_body
from mistral_filter.filtering import Learnt
from mistral_filter.proxy.learning import Learned, cured, learnt_of
from mistral_filter.proxy.violations import NOT_ENABLED, Violation, curable, read

Loc = list[Any]

CHUNKS = "list[tagged-union[TextChunk,ImageURLChunk,DocumentURLChunk,ReferenceChunk,FileChunk,ThinkChunk,AudioChunk]]"


def dropped(body: Any, *locs: Loc) -> tuple[Any, list[str]]:
    """The body without what the locs name, and the paths of the changes."""
    out, changes, _ = cured(json.dumps(body).encode(), [extra("body", *loc) for loc in locs])
    assert all(change.action == "drop" for change in changes)
    return json.loads(out), [change.path for change in changes]


def extra(*loc: Any) -> Violation:
    return Violation(tuple(loc), "extra_forbidden", "Extra inputs are not permitted")


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
    out, changes, _ = cured(kept + b',"x":1}', [extra("body", "x")])
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


def test_a_place_that_can_be_read_in_very_many_ways_is_given_up() -> None:
    """Time grows with the refusal and no faster."""
    body: Any = {"type": "a"}
    for _ in range(60):
        body = {"type": "a", "a": body}
    assert dropped({"x": body}, ["x", *["a"] * 60, "zz"]) == ({"x": body}, [])


def test_a_place_that_is_the_whole_body_is_none() -> None:
    """Nor is an empty one."""
    for loc in ((), ("body",)):
        assert cured(b'{"body":1}', [extra(*loc)]) == (b'{"body":1}', (), ())


def test_nothing_named_is_nothing_dropped() -> None:
    """Without places the body is the very same."""
    body = b'{ "model" : "m" }'
    assert cured(body, []) == (body, (), ())


def test_half_an_emoji_is_no_reason_to_fail() -> None:
    """A body that the filter let through with a lone surrogate can be tried again, or stays as it is: it is no error now."""
    body = b'{"model":"m","x":1,"messages":[{"role":"user","content":"\\ud83d"}]}'
    out, changes, _ = cured(body, [extra("body", "x")])
    assert (out, [change.path for change in changes]) in [
        (b'{"model":"m","messages":[{"role":"user","content":"\\ud83d"}]}', ["x"]),
        (body, []),
    ]


# -------------------------------------------------------------------------------------------------- what a model does not take


def not_enabled(*place: str, values: tuple[str, ...] = ()) -> Violation:
    return Violation(("body", *place), NOT_ENABLED, "a sentence", values)


EFFORT = b'{"model":"m","reasoning_effort":"medium","messages":[{"role":"user","content":"x"}]}'


def test_the_nearest_of_the_named_values_is_set() -> None:
    """An approximation, and the values are learnt: the next request may ask for another effort."""
    new = cured(EFFORT, [not_enabled("reasoning_effort", values=("low", "high", "max")), not_enabled("reasoning", "effort")])
    assert new.body == EFFORT.replace(b"medium", b"high")
    assert [(change.action, change.path, change.loss) for change in new.changes] == [("set", "reasoning_effort", "approximate")]
    assert new.learnt == (Learnt(("reasoning_effort",), ("low", "high", "max"), of_model=True),)


def test_an_option_without_values_goes_from_everywhere() -> None:
    """Of the places where it may be asked for, those that the body has."""
    body = b'{"model":"m","logprobs":true,"top_logprobs":2,"messages":[{"role":"user","content":"x"}]}'
    new = cured(body, [not_enabled("logprobs"), not_enabled("top_logprobs"), not_enabled("reasoning_effort")])
    assert new.body == b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
    assert [(change.path, change.loss) for change in new.changes] == [("logprobs", "lost"), ("top_logprobs", "lost")]
    assert [each.location for each in new.learnt] == [("logprobs",), ("top_logprobs",)]


def test_the_effort_of_a_responses_body() -> None:
    """It is in ``reasoning`` there."""
    body = b'{"model":"m","input":"x","reasoning":{"effort":"medium","summary":null}}'
    places = [
        not_enabled("reasoning_effort", values=("none", "high")),
        not_enabled("reasoning", "effort", values=("none", "high")),
    ]
    new = cured(body, places)
    assert new.body == body.replace(b"medium", b"high")
    assert new.learnt == (Learnt(("reasoning", "effort"), ("none", "high"), of_model=True),)


@pytest.mark.parametrize(
    ("body", "violation"),
    [
        (EFFORT, not_enabled("reasoning_effort", values=("medium", "high"))),
        (EFFORT, not_enabled("model")),
        (EFFORT, not_enabled("messages")),
        (EFFORT, not_enabled("top_k")),
    ],
)
def test_what_cannot_help_is_not_tried(body: bytes, violation: Violation) -> None:
    """A value that is said to be taken, what no request can do without, an option that the request does not ask for."""
    assert cured(body, [violation]) == (body, (), ())


def test_an_option_is_not_remembered_for_requests_without_a_model() -> None:
    """Two agents may have two models."""
    learned = Learned()
    learned.learn("u", "Bearer a", None, "agents", [Learnt(("top_k",), of_model=True), Learnt(("x",))])
    assert known(learned, "u", "Bearer a", None, "agents") == (("x",),)


def test_the_latest_counts_of_one_place() -> None:
    """A model that took some efforts takes none now."""
    learned = Learned()
    learned.learn(*WHO, [Learnt(("reasoning_effort",), ("high",), of_model=True)])
    learned.learn(*WHO, [Learnt(("reasoning_effort",), (), of_model=True)])
    assert learned.known(*WHO) == (Learnt(("reasoning_effort",), (), of_model=True),)


# ---------------------------------------------------------------------------------------------------------- what is learnt

WHO: tuple[str, str | None, str | None, str] = ("https://api.mistral.ai", "Bearer key-of-a", "mistral-small-latest", "chat")


def places(*paths: str) -> list[Learnt]:
    return [each for path in paths for each in learnt_of(path)]


def known(learned: Learned, *who: Any) -> tuple[tuple[str, ...], ...]:
    """The locations that are remembered."""
    return tuple(each.location for each in learned.known(*(who or WHO)))


def applied(learned: Learned, body: Any) -> tuple[Any, list[str]]:
    """*body* without what is learnt at its top, as the filter leaves it out, and what that is."""
    gone = [place[0] for place in known(learned) if len(place) == 1 and place[0] in body]
    return {name: value for name, value in body.items() if name not in gone}, gone


def test_a_refusal_is_learnt_from_end_to_end() -> None:
    """From Mistral's answer to the next request, which has the field elsewhere."""
    refusal = {"type": "extra_forbidden", "loc": ["body", "messages", 0, "user", "name"], "msg": "Extra inputs are not permitted"}
    body = b'{"model":"m","messages":[{"role":"user","content":"x","name":"n"}]}'
    new = cured(body, curable(read(json.dumps({"detail": [refusal]}).encode())))
    assert new.body == b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
    learned = Learned()
    learned.learn(*WHO, new.learnt)
    assert known(learned) == (("messages", "*", "name"),)
    again = filter_body(body.replace(b"user", b"tool"), fields="current", translate=False, learnt=learned.known(*WHO))
    assert again.body == b'{"model":"m","messages":[{"role":"tool","content":"x"}]}'
    assert [change.path for change in again.changes] == ["messages[0].name"]


OTHERS = ["https://other.example", "Bearer key-of-b", "mistral-large-latest", "fim"]


@pytest.mark.parametrize(("position", "value"), list(enumerate(OTHERS)))
def test_what_is_learnt_is_for_one_upstream_caller_model_and_endpoint(position: int, value: str) -> None:
    """A refusal of one caller's model takes no field from anybody else's requests."""
    learned, other = Learned(), list(WHO)
    other[position] = value
    learned.learn(*WHO, places("metadata"))
    assert known(learned) == (("metadata",),)
    assert known(learned, other[0] or "", other[1], other[2], other[3] or "") == ()
    other[position] = None
    assert known(learned, other[0] or "", other[1], other[2], other[3] or "") == ()


def test_a_request_without_a_model_has_a_memory_of_its_own() -> None:
    """Agents have no model."""
    learned = Learned()
    learned.learn("u", "Bearer a", None, "agents", places("x"))
    assert known(learned, "u", "Bearer a", None, "agents") == (("x",),)
    assert known(learned, "u", "Bearer a", "", "agents") == ()


def test_callers_without_credentials_teach_nothing() -> None:
    """They are strangers to each other."""
    learned = Learned()
    learned.learn("u", None, "m", "chat", places("x"))
    assert known(learned, "u", None, "m", "chat") == ()
    learned.learn("u", "", "m", "chat", places("x"))
    assert known(learned, "u", None, "m", "chat") == ()


def reachable(root: object) -> list[object]:
    """All that *root* keeps alive, but for modules and classes."""
    seen: dict[int, object] = {}
    todo = [root]
    while todo:
        thing = todo.pop()
        if id(thing) not in seen and not isinstance(thing, type):
            seen[id(thing)] = thing
            todo += [each for each in gc.get_referents(thing) if not hasattr(each, "__file__")]
    return list(seen.values())


def test_no_credential_is_kept() -> None:
    """Only a hash, of which each process has its own; so two of them never agree."""
    texts = []
    for _ in range(2):
        learned = Learned()
        learned.learn("u", "Bearer secret-of-a-caller", "m", "chat", places("x"))
        texts.append({thing for thing in reachable(learned) if isinstance(thing, str | bytes)})
        assert not [text for text in texts[-1] if "secret" in str(text)]
    assert {"u", "m", "chat", "x"} <= texts[0] & texts[1]
    assert not {text for text in texts[0] & texts[1] if isinstance(text, bytes) and len(text) > 8}


@pytest.mark.parametrize("size", [200, 201, 4_000_000])
def test_no_long_text_is_kept(size: int) -> None:
    """A caller's names are not cached beyond 200 characters: neither a model's nor a field's."""
    learned, name = Learned(), "x" * size
    learned.learn("u", "Bearer a", name, "chat", places("x"))
    learned.learn("u", "Bearer a", "m", "chat", places("y", name, f"a.{name[2:]}"))
    kept = size == 200
    assert known(learned, "u", "Bearer a", name, "chat") == ((("x",),) if kept else ())
    assert known(learned, "u", "Bearer a", "m", "chat") == (("y",), *((((name,), ("a", name[2:]))) if kept else ()))
    assert max(len(thing) for thing in reachable(learned) if isinstance(thing, str | bytes)) <= 200


def test_what_is_learnt_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time a place is tried again: Mistral's lists move."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    learned = Learned(seconds=60)
    learned.learn(*WHO, places("x"))
    now += 30
    learned.learn(*WHO, places("y"))
    now += 29
    assert applied(learned, {"x": 1, "y": 1}) == ({}, ["x", "y"])
    now += 2
    assert applied(learned, {"x": 1, "y": 1}) == ({"x": 1}, ["y"])
    learned.learn(*WHO, places("x"))
    now += 31
    assert known(learned) == (("x",),)


def test_only_so_much_is_learnt() -> None:
    """The memory is bounded over all callers, and what was learnt last is in it."""
    learned = Learned(size=3)
    learned.learn("u", "Bearer first", "m", "chat", places("x"))
    for n in range(50):
        learned.learn(*WHO, places(f"x{n}"))
    assert known(learned) == (("x47",), ("x48",), ("x49",))
    assert known(learned, "u", "Bearer first", "m", "chat") == ()
    learned.learn(*WHO, places(*(f"y{n}" for n in range(50))))
    assert known(learned) == (("y47",), ("y48",), ("y49",))
    learned.learn("u", "Bearer first", "m", "chat", places("x", "z"))
    assert known(learned) == (("y49",),)
    assert len(reachable(learned)) < 100


def test_learning_a_place_again_costs_no_other_its_place() -> None:
    """A place that is known already takes no further room, and is the newest."""
    learned = Learned(size=2)
    learned.learn(*WHO, places("a", "b"))
    for _ in range(5):
        learned.learn(*WHO, places("a"))
    assert applied(learned, {"a": 1, "b": 1}) == ({}, ["b", "a"])
    learned.learn(*WHO, places("c"))
    assert known(learned) == (("a",), ("c",))


@pytest.mark.parametrize("place", ["a.b", "messages.*.content", "messages[*].content", "messages.0.role", "[0]", "*", ""])
def test_a_key_that_looks_like_a_path_is_only_a_key(place: str) -> None:
    """A key with dots or brackets in it takes no other field away, neither now nor later."""
    body = {"model": "m", "a": {"b": 1}, "messages": [{"role": "user", "content": "x"}]}
    out, changes, learnt = cured(json.dumps({**body, place: 1}).encode(), [extra("body", place)])
    assert json.loads(out) == body
    assert len(changes) == 1
    assert learnt == ()


@pytest.mark.parametrize("path", ["model", "messages", "messages[0]", "messages[7].role", "messages[7].content"])
def test_what_no_request_can_do_without_is_not_remembered(path: str) -> None:
    """Whatever changes are given."""
    assert [each.location for each in places(path, "x")] == [("x",)]
