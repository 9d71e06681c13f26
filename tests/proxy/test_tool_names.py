"""A client's own names of its tools in the answer, whole and streamed, chat and Responses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import OpenAI
from servers import Gunicorn, ask
from upstream import Exchange, ScriptedUpstream, json_answer, sse

from mistral_filter.proxy.answers import plan

Json = dict[str, Any]
StartGunicorn = Callable[..., Gunicorn]

OWN = "calendar.respondToEvent"
LONG = "get_drug_names_by_application_number_manufacturer_name_NDC_number_administration_route"
NAMES = {"calendar_x1": OWN, "drug_x2": LONG}
NATIVE = "mistral-client-python/3.7.0"


def event(data: object) -> bytes:
    return b"data: " + (data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))).encode() + b"\n\n"


def chunk(*calls: Json) -> Json:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"tool_calls": list(calls)}}]}


def call(name: str | None = None, arguments: str = "", **more: Any) -> Json:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return {"index": 0, "type": "function", "function": function, **more}


RESPONSE = {
    "object": "response",
    "output": [{"type": "function_call", "call_id": "abcDEF123", "name": "calendar_x1", "arguments": '{"name":"calendar_x1"}'}],
    "tools": [{"type": "function", "name": "calendar_x1"}, {"type": "function", "name": "f"}],
    "tool_choice": {"type": "function", "name": "drug_x2"},
}


@pytest.mark.parametrize("agent", ["OpenAI/Python 2.8.0", NATIVE])
@pytest.mark.parametrize("endpoint", ["chat", "agents", "responses"])
def test_a_whole_answer(endpoint: str, agent: str) -> None:
    """Every name that was replaced is the client's own again, for clients of Mistral's API too; arguments stay."""
    needs = plan(endpoint, False, agent, tool_names=NAMES)
    assert needs.rewrites_answer
    body = json.dumps(RESPONSE if endpoint == "responses" else {"choices": [{"message": chunk(call("drug_x2"))["choices"][0]}]})
    out = json.loads(needs.whole(200, "application/json", body.encode()))
    if endpoint == "responses":
        assert out["output"] == [{**RESPONSE["output"][0], "name": OWN}]
        assert out["tools"] == [{"type": "function", "name": OWN}, {"type": "function", "name": "f"}]
        assert out["tool_choice"] == {"type": "function", "name": LONG}
    else:
        assert LONG in json.dumps(out)
        assert "drug_x2" not in json.dumps(out)


CHAT = [
    event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": 'the "name" is calendar_x1'}}]}),
    event(chunk(call("calendar_x1", id="abcDEF123"))),
    event(chunk(call("calendar_x1", '{"a"'))),
    event(chunk(call(None, ":1}"))),
    event(chunk(call("f", "{}", id="abcDEF124", index=1))),
    event("[DONE]"),
]
RESPONSES = [
    event({"type": "response.created", "response": {**RESPONSE, "output": []}}),
    b"event: response.output_item.added\n" + event({"type": "response.output_item.added", "item": RESPONSE["output"][0]}),
    event({"type": "response.function_call_arguments.done", "name": "calendar_x1", "arguments": "{}"}),
    event({"type": "response.output_item.done", "item": RESPONSE["output"][0]}),
    b": a comment\n" + event({"type": "response.completed", "response": RESPONSE}),
]


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
@pytest.mark.parametrize(("endpoint", "events"), [("chat", CHAT), ("responses", RESPONSES)])
def test_a_stream(endpoint: str, events: list[bytes], size: int) -> None:
    """The same in events, however the network cuts them; a name that is repeated is replaced each time."""
    given = b"".join(events)
    needs = plan(endpoint, False, NATIVE, tool_names=NAMES)
    assert needs.rewrites_stream
    expected = given
    for sent, own in NAMES.items():
        expected = expected.replace(f'"name":"{sent}"'.encode(), f'"name":"{own}"'.encode())
    assert expected != given
    assert b"".join(needs.events(cut(given, size))) == expected


def test_a_name_in_several_pieces_passes() -> None:
    """Mistral sends names in one piece. Pieces of one pass as they came."""
    given = event(chunk(call("calen", id="abcDEF123"))) + event(chunk(call("dar_x1")))
    assert b"".join(plan("chat", False, NATIVE, tool_names=NAMES).events(iter([given]))) == given


def test_a_stream_without_replaced_names_is_the_very_same() -> None:
    """Where every name was legal nothing is looked at."""
    needs = plan("chat", False, NATIVE)
    chunks = iter(CHAT)
    assert not needs.rewrites_stream
    assert not needs.rewrites_answer
    assert needs.events(chunks) is chunks


# ------------------------------------------------------------------------------------------- end to end, with openai-python


def tool(name: str) -> Json:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


def asked(name: str) -> Json:
    """A request in the second turn of a conversation in which the tool *name* was called once."""
    made = {"id": "abcDEF123", "type": "function", "function": {"name": name, "arguments": "{}"}}
    return {
        "model": "mistral-small-latest",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": [made]},
            {"role": "tool", "tool_call_id": "abcDEF123", "content": "r"},
        ],
        "tools": [tool(name), tool("f")],
        "tool_choice": {"type": "function", "function": {"name": name}},
    }


def calls_the_first_tool(exchange: Exchange) -> None:
    """Answers as the model would: with a call of the first tool, under the name that was sent."""
    request = exchange.request.json()
    name = request["tools"][0]["function"]["name"]
    made = {"id": "abcDEF124", "type": "function", "index": 0, "function": {"name": name, "arguments": '{"a": 1}'}}
    base = {"id": "x", "created": 1, "model": "mistral-small-latest"}
    if request.get("stream"):
        start = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        end = {"index": 0, "delta": {"content": "", "tool_calls": [made]}, "finish_reason": "tool_calls"}
        chunks = [{**base, "object": "chat.completion.chunk", "choices": [choice]} for choice in (start, end)]
        sse([*chunks, "[DONE]"])(exchange)
    else:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "", "tool_calls": [made]},
            "finish_reason": "tool_calls",
        }
        json_answer({**base, "object": "chat.completion", "choices": [choice]})(exchange)


@pytest.fixture
def server(gunicorn_server: StartGunicorn, upstream: ScriptedUpstream) -> Gunicorn:
    upstream.script = calls_the_first_tool
    return gunicorn_server()


@pytest.mark.parametrize("name", [OWN, LONG, "天气/now", "f_1"])
@pytest.mark.parametrize("stream", [False, True])
def test_openai_python_sees_its_own_names(server: Gunicorn, upstream: ScriptedUpstream, name: str, stream: bool) -> None:
    """What goes up is legal and the same everywhere; the SDK gets a call of the tool that it offered."""
    client = OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0)
    if stream:
        with client.chat.completions.stream(**asked(name)) as events:
            completion = events.get_final_completion()
    else:
        completion = client.chat.completions.create(**asked(name))
    (made,) = completion.choices[0].message.tool_calls
    assert (made.function.name, json.loads(made.function.arguments)) == (name, {"a": 1})
    body = upstream.requests[-1].json()
    sent = body["tools"][0]["function"]["name"]
    assert (sent == name) is (name == "f_1")
    assert body["tool_choice"]["function"]["name"] == sent
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == sent


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_of_mistral_sees_its_own_names(server: Gunicorn, stream: bool) -> None:
    """Clients whose answers are not rewritten otherwise, and that take gzip, get theirs too."""
    headers = [("User-Agent", NATIVE), ("Accept-Encoding", "gzip"), ("Authorization", "Bearer k")]
    answer = ask(server.port, "POST", "/v1/chat/completions", {**asked(OWN), "stream": stream}, headers)
    assert answer.status == 200
    assert f'"name": "{OWN}"'.encode() in answer.body
    assert OWN not in (answer.header("Mistral-Filter-Changes") or "")
