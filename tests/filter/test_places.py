"""Where a change lies in both bodies: for the inspector and for readable diffs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import records

from mistral_filter import filter_body
from mistral_filter.changes import Change
from mistral_filter.errors import MistralFilterError
from mistral_filter.fields import ENDPOINTS
from mistral_filter.paths import PATHS
from mistral_filter.places import Place, Places, locate_changes, read_path

RULES = [
    json.loads(line)
    for file in sorted((Path(__file__).parent / "rules").glob("*.jsonl"))
    for line in file.read_text("utf-8").split("\n")
    if line
]
BY_PATH = {path: endpoint for endpoint, path in PATHS.items()}


def value_at(value: Any, place: Place) -> Any:
    for step in place:
        value = value[step]
    return value


def bodies() -> list[tuple[Any, str, dict[str, Any]]]:
    """Every body of the rules' records and of the recorded clients, with its endpoint and options."""
    ruled = [(rule["given"], rule.get("endpoint", "chat"), {"fields": "current", **rule.get("options", {})}) for rule in RULES]
    sent = [(record.body, BY_PATH.get(record.path.removeprefix("/v1/"), ""), {}) for record in records.load()]
    return [(body, endpoint, options) for body, endpoint, options in [*ruled, *sent] if endpoint in ENDPOINTS]


class Filtered(NamedTuple):
    given: Any
    result: Any
    changes: list[tuple[Change, Places]]


def filtered_records() -> Iterator[Filtered]:
    """All ``bodies`` that are not refused, with the places of their changes."""
    for given, endpoint, options in bodies():
        body = json.dumps(given).encode()
        try:
            filtered = filter_body(body, endpoint, **options)
        except MistralFilterError:
            continue
        places = locate_changes(body, filtered.body, filtered.changes)
        yield Filtered(given, json.loads(filtered.body), list(zip(filtered.changes, places, strict=True)))


def test_every_change_has_a_place_in_both_bodies() -> None:
    """Over all records: the places exist, what stays is found under its new name, and what was named is found in the original."""
    seen = found_before = found_after = stayed = 0
    for given, result, changes in filtered_records():
        dropped = {change.path for change, _ in changes if change.action == "drop"}
        for change, places in changes:
            value_at(given, places.before)
            value_at(result, places.after)
            seen += 1
            found_before += bool(places.before) or "." not in change.path
            if change.action in ("set", "rename") and not dropped & {change.to, change.path}:
                stayed += 1
                found_after += bool(places.after)
    assert seen > 300
    assert found_before > 0.95 * seen
    assert stayed > 100
    assert found_after > 0.9 * stayed


BODY = {
    "model": "m",
    "max_completion_tokens": 5,
    "logit_bias": {"1": 1},
    "reasoning": {"effort": "high"},
    "messages": [
        {"role": "developer", "content": "a"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "b", "name": "c"},
        {"role": "assistant", "content": "Hm"},
    ],
    "tools": [
        {"type": "custom", "name": "x"},
        {"type": "function", "name": "f", "parameters": {"$schema": "s", "type": "object", "properties": {}}},
    ],
}


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("max_completion_tokens", ("max_completion_tokens",), ("max_tokens",)),
        ("logit_bias", ("logit_bias",), ()),
        ("reasoning.effort", ("reasoning", "effort"), ("reasoning_effort",)),
        ("messages[0].role", ("messages", 0, "role"), ("messages", 0, "role")),
        ("messages[1]", ("messages", 1), ("messages",)),
        ("messages[2].name", ("messages", 2, "name"), ("messages", 1)),
        ("messages[3].prefix", ("messages", 3), ("messages", 2, "prefix")),
        ("tools[0]", ("tools", 0), ("tools",)),
        ("tools[1]", ("tools", 1), ("tools", 0, "function")),
        (
            "tools[1].function.parameters.$schema",
            ("tools", 1, "parameters", "$schema"),
            ("tools", 0, "function", "parameters"),
        ),
    ],
)
def test_places_follow_names_and_items(path: str, before: Place, after: Place) -> None:
    """Renamed, nested and moved up: items behind one that was left out have other indexes in the result."""
    body = json.dumps(BODY).encode()
    filtered = filter_body(body, "chat", fields="current")
    places = dict(
        zip([change.path for change in filtered.changes], locate_changes(body, filtered.body, filtered.changes), strict=True)
    )
    assert places[path] == (before, after)


TURNS: list[Any] = [
    {"role": "user", "content": "a"},
    {
        "role": "assistant",
        "content": "b",
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "system", "content": "c"},
    {"role": "user", "content": "d"},
    {"role": "tool", "tool_call_id": "call_1", "content": "e"},
    {"role": "user", "content": "f", "name": "g"},
]
ITEMS: list[Any] = [
    {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
    {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
    {"type": "function_call", "call_id": "call_2", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "b"},
    {"type": "function_call_output", "call_id": "call_2", "output": "c"},
    {"role": "assistant", "content": "d"},
    {"role": "user", "content": [{"type": "input_text", "text": "e"}]},
]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"model": "m", "messages": TURNS},
            {
                "messages[2]": (("messages", 2), ("messages", 3)),  # behind the result of the call
                "messages[2].role": (("messages", 2, "role"), ("messages", 3, "role")),
                "messages[3]": (("messages", 3), ("messages", 4)),
                "messages[4].tool_call_id": (("messages", 4, "tool_call_id"), ("messages", 2, "tool_call_id")),
                "messages[5].name": (("messages", 5, "name"), ("messages", 5)),
            },
        ),
        (
            {"model": "m", "instructions": "i", "input": ITEMS},  # one message more in front, two calls in one message
            {
                "input[0].content[0].type": (("input", 0, "content", 0, "type"), ("messages", 1, "content", 0, "type")),
                "input[1].tool_calls[0].id": (("input", 1), ("messages", 2, "tool_calls", 0, "id")),
                "input[3].tool_call_id": (("input", 3), ("messages", 3, "tool_call_id")),
                "input[4].tool_call_id": (("input", 4), ("messages", 4, "tool_call_id")),
                "input[6].content[0].type": (("input", 6, "content", 0, "type"), ("messages", 6, "content", 0, "type")),
            },
        ),
    ],
)
def test_places_follow_what_was_moved_and_what_became_chat(body: Any, expected: dict[str, tuple[Place, Place]]) -> None:
    """Messages in another order, and Responses items as messages, are found where they are now."""
    data = json.dumps(body).encode()
    filtered = filter_body(data, "chat", fields="current")
    places = zip(filtered.changes, locate_changes(data, filtered.body, filtered.changes), strict=True)
    assert {change.path: found for change, found in places if change.path in expected} == expected


def test_long_lists_are_paired_in_their_order() -> None:
    """Lists too long to compare each item with each are told apart by what was dropped and put in alone, at once."""
    messages = [{"role": "user", "content": "a", "name": str(n)} for n in range(3000)]
    body = json.dumps({"model": "m", "messages": messages}).encode()
    filtered = filter_body(body, "chat")
    places = locate_changes(body, filtered.body, filtered.changes)
    assert places[-1] == (("messages", 2999, "name"), ("messages", 2999))


def test_items_that_were_put_in_are_found_among_the_others() -> None:
    """Over all records: their place is that of a new item in the result, and the list in the original, wherever they stand."""
    seen = 0
    for given, result, changes in filtered_records():
        for change, places in changes:
            if change.action == "insert" and change.path.endswith("]"):
                items = value_at(given, places.before)
                assert isinstance(items, list)
                assert value_at(result, places.after) not in items
                seen += 1
    assert seen > 15


def test_a_change_of_what_another_made_lies_where_that_came_from() -> None:
    """Under the list classic reasoning.effort is renamed, then dropped: both stand at the original field."""
    body = json.dumps(BODY).encode()
    filtered = filter_body(body, "chat")
    places = locate_changes(body, filtered.body, filtered.changes)
    (dropped,) = (place for change, place in zip(filtered.changes, places, strict=True) if change.path == "reasoning_effort")
    assert dropped == (("reasoning", "effort"), ())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.b", ("a.b",)),
        ("a.c", ("a", "c")),
        ("a.b.c", ("a.b", "c")),
        ("list[1].x", ("list", 1, "x")),
        ("list[7].x", ("list",)),
        ("list[0]", ("list", 0)),
        ("odd[0]", ("odd[0]",)),
        ("", ("",)),
        ("nowhere", ()),
        ("a" * 5000, ()),
    ],
)
def test_a_path_is_read_as_far_as_it_leads(path: str, expected: Place) -> None:
    """Keys with dots and brackets in them are found, an index beyond the end is not, and a long path costs nothing."""
    value = {"a": {"c": 1}, "a.b": {"c": 1}, "list": [0, {"x": 1}], "odd[0]": 1}
    assert read_path(path, value) == (expected if path else ())


def test_odd_bodies_have_places() -> None:
    """Numbers of any length, half emoji and repeated keys are read."""
    body = b'{"model":"\\ud83d","n":' + b"1" * 5000 + b',"user":1,"user":2}'
    filtered = filter_body(body, "chat")
    assert locate_changes(body, filtered.body, filtered.changes)
    assert locate_changes(b"{}", b"{}", [Change("drop", "messages[0].name", "x")]) == [((), ())]
