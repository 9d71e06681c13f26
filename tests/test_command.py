"""The command ``mistral-filter``, as a program: ``explain``, ``serve`` and ``check``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_explain import BAD, GOOD, as_json

ROOT = Path(__file__).resolve().parent.parent


# -------------------------------------------------------------------------------------------------------------- explain


def run(body: bytes, *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    ended = subprocess.run(
        [sys.executable, "-m", "mistral_filter", "explain", *arguments], cwd=ROOT, input=body, capture_output=True, timeout=60
    )
    return ended.returncode, ended.stdout.decode("utf-8"), ended.stderr.decode("utf-8")


def test_a_clean_body_is_status_0() -> None:
    """Nothing to change: one sentence, status 0."""
    status, out, err = run(GOOD)
    assert (status, err) == (0, "")
    assert out.count("\n") == 1
    assert out.startswith("Nothing to change")


def test_a_changed_body_is_status_1() -> None:
    """A line for each change with its cost and reason, then both bodies line by line; status 1."""
    status, out, err = run(BAD)
    assert (status, err) == (1, "")
    lines = out.splitlines()
    assert [line.split()[:4] for line in lines[:1]] == [["rename", "seed", "->", "random_seed"]]
    assert lines[1].split()[:3] == ["drop", "logit_bias", "lost"]
    assert lines[2:5] == ["", "--- your body", "+++ what Mistral gets"]
    assert [line for line in lines[5:] if line.startswith("+")] == ['+  "random_seed": 1']
    assert "\x1b" not in out  # no colour where nobody sees it


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
    assert run(b'{"model":"m","prompt":"p"}', "--endpoint", "fim")[0] == 0
    assert run(b'{"model":"m","input":[1]}', "--endpoint", "embeddings")[0] == 2


def test_a_wrong_argument_is_explained() -> None:
    """An endpoint that there is not is an error of usage, on stderr, and no traceback."""
    status, out, err = run(GOOD, "--endpoint", "nowhere")
    assert (status, out) == (2, "")
    assert "Usage:" in err
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
        [sys.executable, "-X", "utf8=0", "-m", "mistral_filter", "explain"],
        cwd=ROOT,
        input='{"é😀":1}'.encode(),
        capture_output=True,
        env={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (1, b"")
