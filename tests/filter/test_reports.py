"""What the translations say and do in cases that a record cannot hold: bytes, pairs of values, settings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mistral_filter import filter_body

Json = dict[str, Any]

USER = {"role": "user", "content": "Hi"}


def chat(*messages: Json, **fields: Any) -> Json:
    return {"messages": list(messages), **fields}


def parts(*chunks: Json, role: str = "user") -> Json:
    return {"role": role, "content": list(chunks)}


@pytest.mark.parametrize(("old", "new"), [(-1, 10), (10, -1), (-1, 0), (None, 10)])
def test_a_limit_that_says_nothing_never_replaces_one(old: int | None, new: int) -> None:
    """Of two limits the smaller one counts, but -1 and null are none: dropping the real one would lose a cost limit."""
    out, _, _ = filter_body(
        json.dumps({"model": "m", "messages": [USER], "max_tokens": old, "max_completion_tokens": new}).encode()
    )
    assert json.loads(out)["max_tokens"] == max(old or -1, new)


def test_a_negative_seed_is_dropped() -> None:
    """Mistral takes no negative seed; it goes, and is named as the client wrote it."""
    out, changes, _ = filter_body(json.dumps({"model": "m", "messages": [USER], "seed": -1}).encode())
    assert json.loads(out) == {"model": "m", "messages": [USER]}
    assert "seed" in [change.path for change in changes]


@pytest.mark.parametrize("value", ['[ "text" ]', "[\n]", "{ }", ' "" '])
def test_white_space_costs_nothing(value: str) -> None:
    """A value that changes nothing is reported as that however it is written."""
    body = f'{{"model":"m","messages":[{{"role":"user","content":"Hi"}}],"modalities":{value}}}'.encode()
    assert [(change.path, change.loss) for change in filter_body(body, strict=True).changes] == [("modalities", "none")]


def test_a_key_repeated_in_a_translated_part_is_reported() -> None:
    """The last one counts, and the report says that there was another."""
    part = b'{"type":"input_text","text":"a","text":"b"}'
    out, changes, _ = filter_body(b'{"model":"m","messages":[{"role":"user","content":[' + part + b"]}]}")
    assert json.loads(out)["messages"] == [parts({"type": "text", "text": "b"})]
    assert "messages[0].content[0].text" in [change.path for change in changes]


def test_what_is_allowed_keeps_its_name() -> None:
    """A field that the setting keeps is not renamed."""
    body = json.dumps({"model": "m", **chat(USER), "seed": 1}).encode()
    assert filter_body(body, allow=("seed",))[:2] == (body, ())


def test_a_verbosity_that_is_lost_is_not_called_nothing() -> None:
    """Dropping ``text`` with a verbosity loses the verbosity, as dropping chat's own field does."""
    _, changes, _ = filter_body(json.dumps({"model": "m", "input": "x", "text": {"verbosity": "low"}}).encode())
    assert {change.loss for change in changes if change.path.startswith("text")} == {"lost"}


def test_an_input_that_is_no_input_is_not_thrown_away() -> None:
    """A Responses input of an unexpected type is left for the API to explain, or reported as lost."""
    out, changes, _ = filter_body(json.dumps({"model": "m", "input": 5}).encode())
    assert b"5" in out or ("input", "lost") in [(change.path, change.loss) for change in changes]
