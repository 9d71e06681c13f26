"""Explaining a body."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mistral_filter import filter_body
from mistral_filter.explain import explain

GOOD = b'{"model":"m","temperature":1.10}'
BAD = b'{"model":"m","seed":1,"logit_bias":{"1":1}}'
BOM = b"\xef\xbb\xbf"


def as_json(body: bytes, endpoint: str = "chat", **options: Any) -> dict[str, Any]:
    """The explanation as a strict parser reads it, which also proves that it is UTF-8."""
    return json.loads(explain(body, endpoint, **options).as_json().decode("utf-8"), parse_constant=pytest.fail)


# ------------------------------------------------------------------------------------------------------------- the function


def test_before_after_and_the_changes() -> None:
    """An explanation shows both bodies and each change with its place, its reason and its cost."""
    shown = as_json(BAD)
    assert shown.keys() == {"endpoint", "before", "after", "changes", "more", "error", "position", "place"}
    assert (shown["endpoint"], shown["before"], shown["after"], shown["error"]) == (
        "chat",
        json.loads(BAD),
        {"model": "m", "random_seed": 1},
        None,
    )
    assert [(c["action"], c["path"], c["to"], c["loss"]) for c in shown["changes"]] == [
        ("rename", "seed", "random_seed", "none"),
        ("drop", "logit_bias", None, "lost"),
    ]
    assert all(change["reason"] for change in shown["changes"])


def test_the_bodies_keep_their_bytes() -> None:
    """Numbers and escapes are shown as they are, not as a parser would write them."""
    body = b'{"temperature": 1.10,"model":"\\u006d"}'
    assert b'"before":' + body + b',"after":' + body + b"," in explain(body, "chat").as_json()


@pytest.mark.parametrize(
    "options", [{}, {"fields": "current"}, {"translate": False}, {"allow": ["logit_bias"]}, {"drop": ["model"]}]
)
def test_it_explains_what_the_filter_does(options: dict[str, Any]) -> None:
    """With the same options it is the same function."""
    explanation = explain(BAD, "chat", **options)
    assert (explanation.after, explanation.changes) == filter_body(BAD, "chat", **options)[:2]


@pytest.mark.parametrize(
    ("body", "endpoint", "options", "code"),
    [
        (b"{", "chat", {}, "invalid_json"),
        (b"", "chat", {}, "invalid_json"),
        (b"\xff\x00", "chat", {}, "invalid_json"),
        ('{"model":"é"}'.encode("utf-16"), "chat", {}, "invalid_json"),
        (b"[" * 5000, "chat", {}, "json_too_deep"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "chat", {}, "json_too_deep"),
        (b"[]", "chat", {}, "not_an_object"),
        (BOM + b"[]", "chat", {}, "not_an_object"),
        (b" 1 ", "chat", {}, "not_an_object"),
        (b"[1,", "chat", {}, "invalid_json"),
        (b'"abc" x', "chat", {}, "invalid_json"),
        (b"123abc", "chat", {}, "invalid_json"),
        (BOM + BOM + b"{}", "chat", {}, "invalid_json"),
        (BAD, "chat", {"strict": True}, "strict"),
        (BOM + BAD, "chat", {"strict": True}, "strict"),
        (b'{"logit_bias":1,"model":"\\ud83d"}', "chat", {"strict": True}, "strict"),
        (b'{"input":[1,2]}', "embeddings", {}, "token_ids"),
        (b'{"messages":[' + b"{}," * 200_000, "chat", {}, "too_complex"),
        (b'{"messages":[' + b",".join([b"{}"] * 200_000) + b"]}", "chat", {}, "too_complex"),
    ],
)
def test_a_refusal_is_explained_too(body: bytes, endpoint: str, options: dict[str, Any], code: str) -> None:
    """A refused body gives valid JSON with the error in the one shape, no after and no changes, whatever its bytes are."""
    shown = as_json(body, endpoint, **options)
    assert shown["error"]["error"]["code"] == code
    assert (shown["after"], shown["changes"]) == (None, [])


@pytest.mark.parametrize(
    "body", [BOM + GOOD, b'{"model":"\\ud83d","user":1}', b'{"k\\ud83d":1}', b'{"a\\u0000\\u001b":1,"\xe2\x80\xa8":2}', b" {} \n"]
)
def test_odd_bodies_are_explained_in_valid_json(body: bytes) -> None:
    """A BOM, half an emoji or control characters in a name leave the explanation valid."""
    shown = as_json(body)
    assert shown["error"] is None
    assert shown["before"] == json.loads(body.removeprefix(BOM))


def test_an_unknown_endpoint_is_an_error_of_the_callers() -> None:
    """What is not an endpoint is not explained."""
    with pytest.raises(KeyError):
        explain(GOOD, "nowhere")


# ----------------------------------------------------------------------------------------------------- for the inspector


def test_it_tells_what_current_would_keep() -> None:
    """Changes that the list current would not make are marked; not under that list, and not where current drops it, too."""
    body = b'{"model":"m","n":2,"stop":null,"logit_bias":{"1":1},"reasoning_effort":"high","n":3}'
    shown = as_json(body)
    assert {change["path"] for change in shown["changes"] if change["current"]} == {"reasoning_effort"}  # n is repeated, too
    assert not any(change["current"] for change in as_json(body, fields="current")["changes"])
    assert not any(change["current"] for change in as_json(b'{"model":"m","prompt":"p","n":2}', "fim")["changes"])
    assert [change["current"] for change in as_json(b'{"model":"m","n":2}')["changes"]] == [True]


def test_changes_have_places() -> None:
    """Lists of keys and indexes, in the original and in the result."""
    body = b'{"model":"m","seed":1,"messages":[{"role":"user","content":"x","name":"y"}]}'
    assert [(change["path"], change["before"], change["after"]) for change in as_json(body)["changes"]] == [
        ("seed", ["seed"], ["random_seed"]),
        ("messages[0].name", ["messages", 0, "name"], ["messages", 0]),
    ]


@pytest.mark.parametrize(
    ("body", "position"),
    [
        (b'{\n "a": tru}', (2, 7)),
        (b'{"a":1,}', (1, 7)),
        (b'{"a":1', (1, 7)),
        (b'{"a": "x\ny"}', (1, 9)),
        (b'{"a":1} x', (1, 9)),
        (b'{"a":NaN}', (1, 6)),
        ('{"é":1,\n "ü" 1}'.encode(), (2, 6)),
        (b'{"a":"\xff"}', (1, 7)),
        (b"", (1, 1)),
        (b"[" * 5000, (1, 201)),
        (b'{"[": "[",\n"a":[' + b"[{},[[" * 80, (2, 402)),
    ],
)
def test_broken_json_has_a_position(body: bytes, position: tuple[int, int]) -> None:
    """Line and column, in characters, of what cannot be read."""
    shown = as_json(body)
    assert (shown["position"]["line"], shown["position"]["column"]) == position
    assert shown["place"] is None


def test_a_refusal_has_a_place() -> None:
    """What is refused in a body that is JSON has its keys instead."""
    shown = as_json(b'{"model":"m","input":[1,2]}', "embeddings")
    long = explain(b'{"model":"m","input":[1,2],"dimensions":' + b"1" * 5000 + b"}", "embeddings").as_json()
    assert long.endswith(b'"place":["input"]}')  # also beside a number that Python would not read
    assert (shown["place"], shown["position"]) == (["input"], None)
