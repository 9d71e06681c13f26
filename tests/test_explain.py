"""Explaining a body: the function, and ``python -m mistral_filter`` as a program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mistral_filter import filter_body
from mistral_filter.explain import explain

ROOT = Path(__file__).resolve().parent.parent

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


# -------------------------------------------------------------------------------------------------------------- the program


def run(body: bytes, *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    ended = subprocess.run(
        [sys.executable, "-m", "mistral_filter", *arguments], cwd=ROOT, input=body, capture_output=True, timeout=60
    )
    return ended.returncode, ended.stdout.decode("utf-8"), ended.stderr.decode("utf-8")


def test_a_clean_body_is_status_0() -> None:
    """Nothing to change: one sentence, status 0."""
    status, out, err = run(GOOD)
    assert (status, err) == (0, "")
    assert out.count("\n") == 1
    assert out.startswith("Nothing to change")


def test_a_changed_body_is_status_1() -> None:
    """A line for each change with its cost and reason, then the body as it would be sent; status 1."""
    status, out, err = run(BAD)
    assert (status, err) == (1, "")
    lines = out.splitlines()
    assert [line.split()[:4] for line in lines[:1]] == [["rename", "seed", "->", "random_seed"]]
    assert lines[1].split()[:3] == ["drop", "logit_bias", "lost"]
    assert lines[2:] == ["", '{"model":"m","random_seed":1}']


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"\xff"])
def test_a_refused_body_is_status_2(body: bytes) -> None:
    """Refused: the status and the sentence of the error; status 2."""
    status, out, err = run(body)
    assert (status, err) == (2, "")
    assert out.startswith("refused (400): ")
    assert out.count("\n") == 1


def test_json_for_programs() -> None:
    """``--json`` writes the explanation as the view answers it, with the same exit statuses."""
    for body, expected in ((GOOD, 0), (BAD, 1), (b"{", 2)):
        status, out, _ = run(body, "--json")
        assert status == expected
        assert json.loads(out) == as_json(body)


def test_the_options_of_the_filter() -> None:
    """Endpoint, list, strict mode and translation can be chosen."""
    assert run(b'{"model":"m","n":2}', "--fields", "current")[0] == 0
    assert run(b'{"model":"m","n":2}')[0] == 1
    assert run(BAD, "--strict")[0] == 2
    assert "random_seed" not in run(BAD, "--no-translate")[1]
    assert run(b'{"model":"m","prompt":"p"}', "fim")[0] == 0
    assert run(b'{"model":"m","input":[1]}', "embeddings")[0] == 2


def test_a_wrong_argument_is_explained() -> None:
    """An endpoint that there is not is an error of usage, on stderr, and no traceback."""
    status, out, err = run(GOOD, "nowhere")
    assert (status, out) == (2, "")
    assert "usage:" in err
    assert "Traceback" not in err


CONTROL = json.dumps({"model": "m", "\x1b[31mred\x07\r\n\x9b2J\x7f": 1, "\u202egnp.exe": 2}).encode()


@pytest.mark.parametrize(
    "body",
    [
        CONTROL,
        json.dumps(json.loads(CONTROL), ensure_ascii=False).encode(),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("--strict",)])
def test_control_characters_do_not_reach_the_terminal(body: bytes, arguments: tuple[str, ...]) -> None:
    """A name that holds escape sequences or line breaks is shown escaped: a body cannot write to a terminal."""
    status, out, err = run(body, *arguments)
    assert status == (2 if arguments else 1)
    assert [character for character in out + err if not character.isprintable() and character != "\n"] == []
    assert "red" in out


def test_control_characters_in_the_body_do_not_reach_the_terminal() -> None:
    """Neither do those that JSON allows unescaped inside a string that stays (C1 controls, DEL, direction marks)."""
    body = '{"model":"\x9b31m\x7f\u202e","user":1}'.encode()
    status, out, _ = run(body)
    assert status == 1
    assert [character for character in out if not character.isprintable() and character != "\n"] == []


def test_a_name_with_odd_characters_needs_no_special_terminal() -> None:
    """Under a locale that is not UTF-8 the program does not end in a traceback."""
    ended = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-m", "mistral_filter"],
        cwd=ROOT,
        input='{"é😀":1}'.encode(),
        capture_output=True,
        env={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (1, b"")


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
    assert as_json(b"[" * 5000)["position"] is None
