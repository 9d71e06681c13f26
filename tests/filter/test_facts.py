"""What ``filter_body`` tells of a request, and what it leaves out because Mistral refused it before."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mistral_filter import filter_body
from mistral_filter.errors import Refused
from mistral_filter.filtering import Facts, Learnt

USER = {"role": "user", "content": "Hi"}


def filtered(body: Any, endpoint: str = "chat", **options: Any) -> tuple[Any, list[tuple[str, str]]]:
    result = filter_body(json.dumps(body).encode(), endpoint, fields="current", **options)
    return json.loads(result.body), [(change.path, change.loss) for change in result.changes]


@pytest.mark.parametrize(
    ("endpoint", "body", "facts"),
    [
        ("chat", {"model": "m", "stream": True}, Facts("m", stream=True)),
        ("chat", {"stream": False}, Facts(None)),
        ("chat", {"model": 5, "stream": "true"}, Facts(None)),
        ("chat", {"model": "m", "encoding_format": "base64"}, Facts("m")),
        ("embeddings", {"model": "m", "input": "x", "encoding_format": "base64"}, Facts("m", base64=True)),
        ("embeddings", {"model": "m", "input": "x", "encoding_format": "float"}, Facts("m")),
        ("fim", {"model": "\ud83d", "prompt": "x", "stream": True}, Facts("\\ud83d", stream=True)),
    ],
)
def test_facts(endpoint: str, body: Any, facts: Facts) -> None:
    """The model, whether a stream is asked for, whether embeddings are asked for as base64."""
    assert filter_body(json.dumps(body).encode(), endpoint).facts == facts


CALL = {"id": "abcDEF123", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}"}}
BODY = {
    "model": "m",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s"}]},
        USER,
        {"role": "assistant", "content": "A", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "abcDEF123", "content": "r", "name": "f"},
        USER,
    ],
    "metadata": {"a": [{"b": 1}, {"b": 2}, {"c": 3}]},
    "n": 2,
}


def without(*steps: Any) -> Any:
    body = json.loads(json.dumps(BODY))
    node = body
    for step in steps[:-1]:
        node = node[step]
    del node[steps[-1]]
    return body


@pytest.mark.parametrize(
    ("place", "expected", "paths"),
    [
        (("n",), without("n"), ["n"]),
        (("messages", "*", "name"), without("messages", 3, "name"), ["messages[3].name"]),
        (
            ("messages", "*", "tool_calls", "*", "index"),
            without("messages", 2, "tool_calls", 0, "index"),
            ["messages[2].tool_calls[0].index"],
        ),
        (
            ("messages", "*", "content", "*", "text"),
            without("messages", 0, "content", 0, "text"),
            ["messages[0].content[0].text"],
        ),
        (
            ("metadata", "a", "*", "b"),
            {**BODY, "metadata": {"a": [{}, {}, {"c": 3}]}},
            ["metadata.a[0].b", "metadata.a[1].b"],
        ),
    ],
)
@pytest.mark.parametrize("translate", [True, False])
def test_what_was_refused_before_is_left_out(place: tuple[str, ...], expected: Any, paths: list[str], translate: bool) -> None:
    """A place that Mistral refused is left out wherever it stands, as a loss, and the rest stays as it is."""
    assert filtered(BODY, learnt=[Learnt(place)], translate=translate) == (expected, [(path, "lost") for path in paths])
    result = filter_body(json.dumps(BODY).encode(), fields="current", learnt=[Learnt(place)])
    assert all("refused the field before" in change.reason for change in result.changes)


@pytest.mark.parametrize(
    "place",
    [
        ("model",),
        ("messages",),
        ("messages", "*", "role"),
        ("messages", "*", "content"),
        ("messages", "*"),
        ("*", "name"),
        ("messages", "3", "name"),
        ("n", "x"),
        ("nowhere",),
        (),
    ],
)
def test_what_is_needed_stays(place: tuple[str, ...]) -> None:
    """Without model, messages, role or content it would be another request; what is not there is not left out."""
    assert filtered(BODY, learnt=[Learnt(place)]) == (BODY, [])


def test_a_plain_conversation_is_left_alone() -> None:
    """Nothing learnt about messages touches one that has a role and a text only."""
    body = {"model": "m", "messages": [USER]}
    assert filtered(body, learnt=[Learnt(("messages", "*", "name")), Learnt(("messages", "*", "content", "*", "x"))]) == (
        body,
        [],
    )


def test_conversations_at_other_endpoints() -> None:
    """Messages to classify are messages too."""
    body = {"model": "m", "input": [{"role": "tool", "content": "r", "name": "f"}]}
    after, changes = filtered(body, "chat/moderations", learnt=[Learnt(("input", "*", "name")), Learnt(("input",))])
    assert after["input"] == [{"role": "tool", "content": "r"}]
    assert changes == [("input[0].name", "lost")]


EFFORT = {"model": "m", "messages": [USER], "reasoning_effort": "medium"}


@pytest.mark.parametrize(
    ("effort", "values", "nearest"),
    [
        ("medium", ("none", "high"), "high"),
        ("low", ("none", "high"), "high"),
        ("minimal", ("none", "high"), "none"),
        ("medium", ("low", "high", "max"), "high"),
        ("none", ("low", "high", "max"), "low"),
        ("xhigh", ("high", "low"), "high"),
    ],
)
def test_the_nearest_effort_is_set(effort: str, values: tuple[str, ...], nearest: str) -> None:
    """Where the model is known to take certain words, the nearest one is put, as an approximation, in strict mode too."""
    learnt = [Learnt(("reasoning_effort",), values, of_model=True)]
    for strict in (False, True):
        after, changes = filtered({**EFFORT, "reasoning_effort": effort}, learnt=learnt, strict=strict)
        assert after == {**EFFORT, "reasoning_effort": nearest}
        assert changes == [("reasoning_effort", "approximate")]


@pytest.mark.parametrize("effort", ["high", "none", "vast", 5, None, ["high"]])
def test_an_effort_that_is_taken_or_unknown_stays(effort: object) -> None:
    """What is no word of EFFORTS is left for the API to explain."""
    body = {**EFFORT, "reasoning_effort": effort}
    after, changes = filtered(body, translate=False, learnt=[Learnt(("reasoning_effort",), ("none", "high"))])
    assert (after, changes) == (body, [])


def test_strict_leaves_nothing_out_for_what_was_learnt() -> None:
    """It loses nothing, and Mistral may have changed its mind."""
    assert filtered(BODY, learnt=[Learnt(("n",))], strict=True) == (BODY, [])
    with pytest.raises(Refused):
        filtered({**BODY, "logit_bias": {"1": 1}}, strict=True)


def test_a_neutral_value_that_was_refused_before_loses_nothing() -> None:
    """``n: 1`` is what happens without it."""
    assert filtered({**BODY, "n": 1}, learnt=[Learnt(("n",), of_model=True)])[1] == [("n", "none")]
