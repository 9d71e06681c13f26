"""Names of tools: legal, stable and distinct on the way up, the client's own on the way down. (Records: ``tools.jsonl``.)"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

from mistral_filter import MistralFilter, filter_body, restore_tool_names
from mistral_filter.filtering import Facts
from mistral_filter.toolnames import LONGEST, MOST

Json = dict[str, Any]

LEGAL = re.compile(r"[a-zA-Z0-9_-]{1,64}")
USER = {"role": "user", "content": "Hi"}
MANY = examples(100)


def tool(name: Any) -> Json:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


def body(*names: Any, **more: Any) -> Json:
    return {"model": "m", "messages": [USER], "tools": [tool(name) for name in names], **more}


def sent(given: Json, **options: Any) -> tuple[list[Any], Facts]:
    """The names of the tools as they are sent, and the facts."""
    out = filter_body(json.dumps(given).encode(), fields="current", **options)
    return [tool["function"]["name"] for tool in json.loads(out.body)["tools"]], out.facts


@MANY
@given(
    st.lists(st.text(min_size=1, max_size=80) | st.sampled_from(["a.b", "a/b", "a_b", "天气", "a" * 64, "a" * 65]), max_size=6)
)
def test_every_name_is_legal_distinct_and_comes_back(names: list[str]) -> None:
    """Any names at all: what is sent is legal, two names stay two, and the facts lead back."""
    given = list(dict.fromkeys(names))
    made, facts = sent(body("f", *given))
    assert all(LEGAL.fullmatch(name) for name in made)
    assert len(set(made[1:])) == len(given)
    assert [facts.tool_names.get(name, name) for name in made[1:]] == given


def test_a_name_of_the_history_is_no_tools_name() -> None:
    """A tool that is gone gets another name than a legal one of the request, so a call of that one stays what it is."""
    (made,), _ = sent(body("calendar.respond"))
    turn = {"role": "assistant", "content": None, "tool_calls": [{"id": "abcDEF123", **tool("calendar.respond")}]}
    names, facts = sent({**body(made), "messages": [USER, turn, USER]})
    assert names == [made]
    assert made not in facts.tool_names
    assert list(facts.tool_names.values()) == ["calendar.respond"]


def test_a_name_depends_on_itself_alone() -> None:
    """From turn to turn, and whatever other tools there are, a tool has one name: the prompt cache stays useful."""
    (alone,), _ = sent(body("calendar.respond"))
    assert sent(body("x.y", "calendar_respond", "calendar/respond", "calendar.respond"))[0][-1] == alone
    turn = {"role": "assistant", "content": None, "tool_calls": [{"id": "abcDEF123", **tool("calendar.respond")}]}
    later = filter_body(json.dumps({**body("calendar.respond"), "messages": [USER, turn, USER]}).encode())
    assert json.loads(later.body)["messages"][1]["tool_calls"][0]["function"]["name"] == alone


def test_a_made_name_is_not_the_name_of_another_tool() -> None:
    """A client that has a tool of the very name that would be made keeps both."""
    (made,), _ = sent(body("a.b"))
    for names in (("a.b", made), (made, "a.b")):
        both, facts = sent(body(*names))
        assert len(set(both)) == 2
        assert [facts.tool_names.get(name, name) for name in both] == list(names)


def test_facts_hold_what_was_replaced_and_nothing_else() -> None:
    """Legal names cost nothing: there is nothing to look for in the answer."""
    assert sent(body("f", "g-h_1"))[1].tool_names == {}
    (made, _), facts = sent(body("a.b", "f"))
    assert facts.tool_names == {made: "a.b"}


@pytest.mark.parametrize("name", ["", None, 5, ["a.b"], {"a": "b"}, "x" * (LONGEST + 1)])
def test_what_is_no_name_is_left_for_the_api(name: Any) -> None:
    """No string, an empty one, or one too long to be held while an answer comes."""
    made, facts = sent(body(name), translate=True)
    assert made == [name]
    assert facts.tool_names == {}


def test_the_names_that_are_held_are_bounded() -> None:
    """Names beyond the bound are left for the API to refuse; the tools come before what the conversation names."""
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "abcDEF123", **tool("in.the.past")}]}
    made, facts = sent({**body(*(f"a.{n}" for n in range(MOST + 5))), "messages": [call, USER]})
    assert len(facts.tool_names) == MOST
    assert made[MOST:] == [f"a.{n}" for n in range(MOST, MOST + 5)]


def test_a_name_with_half_an_emoji_comes_back() -> None:
    """A name that JSON can write but UTF-8 cannot."""
    (made,), facts = sent(body("a\ud83d.b"))
    assert LEGAL.fullmatch(made)
    assert facts.tool_names == {made: "a\ud83d.b"}
    answer = json.dumps({"function": {"name": made}}).encode()
    assert json.loads(restore_tool_names(answer, facts.tool_names)) == {"function": {"name": "a\ud83d.b"}}


def test_without_translations_a_name_stays() -> None:
    """``translate=False`` is the lists alone."""
    made, facts = sent(body("a.b"), translate=False)
    assert (made, facts.tool_names) == (["a.b"], {})


def test_tools_in_a_namespace() -> None:
    """The names of a namespace and of the tools in it are replaced and come back (Responses; Codex sends them)."""
    from mistral_filter.document import Document
    from mistral_filter.parsing import parse_with_surrogates
    from mistral_filter.parts import encode
    from mistral_filter.toolnames import ToolNames

    given = json.dumps(
        {"tools": [{"type": "namespace", "name": "mcp.x", "tools": [{"type": "function", "name": "a/b"}]}]}
    ).encode()
    root = Document(given).top(parse_with_surrogates(given)[0], given)
    names = ToolNames()
    names.tools(root)
    (space,) = json.loads(encode(root.fields))["tools"]
    assert {names.sent()[space["name"]], names.sent()[space["tools"][0]["name"]]} == {"mcp.x", "a/b"}
    call = json.dumps({"type": "function_call", "namespace": space["name"], "name": space["tools"][0]["name"]}).encode()
    assert json.loads(restore_tool_names(call, names.sent())) == {"type": "function_call", "namespace": "mcp.x", "name": "a/b"}


NAMES = {"a_b_1": "a.b", "quote_2": 'say "x"\n'}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"name":"a_b_1"}', b'{"name":"a.b"}'),
        (b'{"function": { "name" :\n"a_b_1", "x": 1e2}}', b'{"function": { "name" :\n"a.b", "x": 1e2}}'),
        (b'{"name":"quote_2"}', b'{"name":"say \\"x\\"\\n"}'),
        (b'{"name":"f","names":"a_b_1","content":"a_b_1"}', None),
        (b'{"arguments":"{\\"name\\":\\"a_b_1\\"}"}', None),
        (b'{"content":"\\\\\\"name\\":\\"a_b_1\\""}', None),
        (b'{"content":"ends with \\\\","name":"a_b_1"}', b'{"content":"ends with \\\\","name":"a.b"}'),
        (b'["name","a_b_1"]', None),
        (b'{"name":"a_b_1', None),
    ],
)
def test_names_in_an_answer(answer: bytes, expected: bytes | None) -> None:
    """A name where a name stands is the client's own again; texts and arguments, and every other byte, stay."""
    assert restore_tool_names(answer, NAMES) == (answer if expected is None else expected)
    assert restore_tool_names(answer, {}) is answer


def test_an_application_that_forwards_itself() -> None:
    """Without the proxy the facts say what was replaced, also behind two filters, and the client is told of it."""
    seen: list[Any] = []

    @Request.application
    def app(request: Request) -> Response:
        facts = request.environ["mistral_filter.facts"]
        name = request.get_json()["tools"][0]["function"]["name"]
        seen.append(name)
        answer = json.dumps({"choices": [{"message": {"tool_calls": [{"function": {"name": name}}]}}]}).encode()
        return Response(restore_tool_names(answer, facts.tool_names), content_type="application/json")

    for mounted in (MistralFilter(app), MistralFilter(MistralFilter(app))):
        answer = Client(mounted).post("/v1/chat/completions", json=body("calendar.respond"))
        assert LEGAL.fullmatch(seen[-1])
        assert answer.get_json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "calendar.respond"
        assert answer.headers["Mistral-Filter-Changes"] == 'set;path="tools[*].function.name";loss=none'
