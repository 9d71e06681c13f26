"""What real Python clients show of Mistral's answers: errors, reasoning, ends, embeddings, each as its users read it.

The fixtures and the two upstreams are those of ``test_clients``.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import openai
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import MistralError
from openai import OpenAI
from servers import Gunicorn, Sandbox
from test_clients import (
    KEY,
    MODEL,
    SAID,
    TOOLS,
    USER,
    Json,
    Lockstep,
    _nothing_of_the_developers,
    accepted,
    chunk,
    client,
    completion,
    fields,
    langchain,
    mistral,
    proxy,
    scripted,
    straight,
)
from upstream import Script, ScriptedUpstream, head_bytes, json_answer, raw, sse

__all__ = ["_nothing_of_the_developers", "client", "fields", "mistral", "proxy", "scripted"]  # fixtures

THINKER = "magistral-small-latest"
THOUGHT = "Nothing was thought: this is the sandbox."

# --------------------------------------------------------------------------------------------------------------- errors

DETAIL = [
    {
        "type": "extra_forbidden",
        "loc": ["body", "messages", 0, "user", "surname"],
        "msg": "Extra inputs are not permitted",
        "input": "Ann",
    },
    {"type": "missing", "loc": ["body", "model"], "msg": "Field required", "input": {}},
]
HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>cloudflare</body></html>"


class Refusal(NamedTuple):
    """An error as Mistral sends it, and what openai-python is to make of it."""

    status: int
    body: Json | bytes
    raises: type[openai.APIStatusError]
    text: str
    """A pattern for what is printed after ``Error code: NNN - ``."""
    param: str | None = None
    code: str | None = None

    @property
    def script(self) -> Script:
        if not isinstance(self.body, bytes):
            return json_answer(self.body, self.status, [("Retry-After", "7")] if self.status == 429 else [])
        head = [("Content-Type", "text/html"), ("Content-Length", str(len(self.body))), ("Connection", "close")]
        return raw(head_bytes(self.status, head) + self.body)


_FIELD = r"messages\[0\](\.user)?\.surname"
_TWO = rf"{_FIELD}: Extra inputs are not permitted.*model: Field required"
REFUSALS = {
    "422 wrapped": Refusal(
        422,
        {"object": "error", "message": {"detail": DETAIL}, "type": "invalid_request_error", "raw_status_code": 422},
        openai.UnprocessableEntityError,
        _TWO,
        param=_FIELD,
    ),
    "422 bare": Refusal(422, {"detail": DETAIL}, openai.UnprocessableEntityError, _TWO, param=_FIELD),
    "400": Refusal(
        400,
        {"object": "error", "message": "Tool call id was x", "type": "invalid_function_call", "param": None, "code": "3280"},
        openai.BadRequestError,
        "Tool call id was x",
        code="3280",
    ),
    "401 detail": Refusal(401, {"detail": "Unauthorized"}, openai.AuthenticationError, "Unauthorized"),
    "401 message": Refusal(401, {"message": "Unauthorized", "request_id": "f00"}, openai.AuthenticationError, "Unauthorized"),
    "403": Refusal(403, {"detail": "Forbidden for this key"}, openai.PermissionDeniedError, "Forbidden for this key"),
    "404": Refusal(
        404,
        {"message": "no Route matched with those values", "request_id": "f00"},
        openai.NotFoundError,
        "no Route matched with those values",
    ),
    "429": Refusal(
        429,
        {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "param": None, "code": "1300"},
        openai.RateLimitError,
        "Rate limit exceeded",
        code="1300",
    ),
    "500": Refusal(
        500,
        {"object": "error", "message": "Service unavailable.", "type": "internal_server_error", "param": None, "code": "1000"},
        openai.InternalServerError,
        "Service unavailable.",
        code="1000",
    ),
    "502 HTML": Refusal(502, HTML, openai.InternalServerError, r"[^<{}]*\w[^<{}]*"),
}


@pytest.fixture(params=REFUSALS)
def refusal(request: pytest.FixtureRequest, upstream: ScriptedUpstream) -> Refusal:
    """The upstream refuses whatever comes."""
    found = REFUSALS[request.param]
    upstream.script = found.script
    return found


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_openai_prints_the_text_and_the_field(scripted: OpenAI, refusal: Refusal, stream: bool) -> None:
    """openai-python raises its own exception, prints Mistral's words, and has param and code where its users look."""
    with pytest.raises(refusal.raises) as caught:
        scripted.chat.completions.create(model=MODEL, messages=[USER], stream=stream)
    assert_shown(str(caught.value), refusal)
    assert caught.value.code == refusal.code or refusal.code is None
    if refusal.param is None:
        assert caught.value.param is None
    else:
        assert_matches(caught.value.param, refusal.param)
    if refusal.status == 429:
        assert caught.value.response.headers["retry-after"] == "7"


def assert_shown(text: str, refusal: Refusal) -> None:
    assert_matches(text, rf"Error code: {refusal.status} - {refusal.text}")


def assert_matches(text: object, pattern: str) -> None:
    assert re.fullmatch(f"(?s){pattern}", str(text)), f"{text!r} is not {pattern!r}"


def test_the_error_object_stands_beside_mistrals_own_keys(scripted: OpenAI, refusal: Refusal) -> None:
    """An error's body is what Mistral sent, with one key more: an object of a string, a type, a param and a code."""
    with pytest.raises(openai.APIStatusError) as caught:
        scripted.chat.completions.create(model=MODEL, messages=[USER])
    assert caught.value.response.headers["content-type"].startswith("application/json")
    body = caught.value.response.json()
    error = body.pop("error")
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert body == ({} if isinstance(refusal.body, bytes) else refusal.body)


def test_langchain_prints_the_text_and_the_field(proxy: Gunicorn, refusal: Refusal) -> None:
    """LangChain passes openai-python's exception on, or one of its own made of it: the text is there either way."""
    with langchain(proxy, "/scripted/v1") as model, pytest.raises(Exception, match="Error code: ") as caught:
        model.invoke("Hi")
    assert_shown(str(caught.value), refusal)


def test_mistralai_reads_errors_as_before(proxy: Gunicorn, upstream: ScriptedUpstream, refusal: Refusal) -> None:
    """Mistral's own client raises the same exception as without a proxy, with the same data in it."""
    raised = []
    for address in (upstream.url, f"{proxy.url}/scripted"):
        with Mistral(api_key=KEY, server_url=address) as client, pytest.raises(MistralError) as caught:
            client.chat.complete(model=MODEL, messages=[USER])
        error: Any = caught.value
        raised.append((type(error), error.status_code, getattr(error, "data", None)))
    if isinstance(refusal.body, bytes):  # JSON now, so of another of its kinds
        assert raised[0][1] == raised[1][1]
    else:
        assert raised[0] == raised[1]


def test_openai_prints_what_the_stand_in_refuses(client: OpenAI) -> None:
    """A value of the wrong type, which the filter leaves to Mistral to explain, is explained."""
    wrong: Any = "hot"
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.chat.completions.create(model=MODEL, messages=[USER], temperature=wrong)
    assert str(caught.value) == "Error code: 422 - temperature: Input should be a valid number"
    assert (caught.value.param, caught.value.type) == ("temperature", "invalid_request_error")


def test_openai_prints_why_a_request_without_a_key_is_refused(client: OpenAI) -> None:
    """The bare ``detail`` of a 401 is printed."""
    headers: Any = {"Authorization": openai.omit}
    with pytest.raises(openai.AuthenticationError, match=r"^Error code: 401 - Unauthorized"):
        client.chat.completions.create(model=MODEL, messages=[USER], extra_headers=headers)


def test_openai_is_told_what_to_use_instead_of_responses(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """Where the upstream has no /v1/responses, the 404 names what each kind of client has to say."""
    upstream.script = json_answer({"message": "no Route matched with those values"}, status=404)
    with pytest.raises(openai.NotFoundError, match=r"^Error code: 404 - ") as caught:
        scripted.responses.create(model=MODEL, input="Hi")
    assert ".chat(model)" in str(caught.value)
    assert 'set_default_openai_api("chat_completions")' in str(caught.value)


def test_openai_knows_the_request_id(client: OpenAI) -> None:
    """The id that openai-python tells is the one under which Mistral finds the request."""
    answer = client.chat.completions.with_raw_response.create(model=MODEL, messages=[USER])
    assert answer.request_id == answer.headers["mistral-correlation-id"]
    assert answer.parse()._request_id == answer.request_id


# ------------------------------------------------------------------------------------------------------------ reasoning


def thinking(*parts: str) -> Json:
    return {"type": "thinking", "thinking": [{"type": "text", "text": part} for part in parts]}


def text(part: str) -> Json:
    return {"type": "text", "text": part}


CALL = {"id": "abcdefgh0", "type": "function", "function": {"name": "weather", "arguments": "{}"}, "index": 0}


def thoughts(message: Any) -> str:
    return getattr(message, "reasoning_content", None) or ""


def test_openai_reasoning(client: OpenAI) -> None:
    """A reasoning model's answer is a string, and what it thought lies beside it."""
    message = client.chat.completions.create(model=THINKER, messages=[USER]).choices[0].message
    assert (message.content, thoughts(message)) == (SAID, THOUGHT)


def test_openai_streamed_reasoning(client: OpenAI) -> None:
    """The same in a stream: every piece is a string, and no thought comes after the first word of the answer."""
    with client.chat.completions.create(model=THINKER, messages=[USER], stream=True) as stream:
        deltas = [chunk.choices[0].delta for chunk in stream]
    assert {type(delta.content) for delta in deltas} <= {str, type(None)}
    assert "".join(map(thoughts, deltas)) == THOUGHT
    assert "".join(delta.content or "" for delta in deltas) == SAID
    spoken = [bool(delta.content) for delta in deltas if delta.content or thoughts(delta)]
    assert spoken == sorted(spoken)
    assert len(spoken) > 3


def test_openai_helper_gathers_streamed_reasoning(client: OpenAI) -> None:
    """openai-python's own stream helper, which breaks on a list, makes one answer of the pieces."""
    with client.chat.completions.stream(model=THINKER, messages=[USER]) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.content == SAID


def test_openai_receives_each_thought_before_the_next_is_sent(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """A stream that is rewritten is rewritten event by event: none waits for another."""
    events = [
        chunk(role="assistant", content=[thinking("Hm")]),
        chunk(content=[thinking("m.")]),
        chunk(content=[text("Yes")]),
        chunk(content="."),
    ]
    upstream.script = script = Lockstep(events)
    with scripted.chat.completions.create(model=THINKER, messages=[USER], stream=True) as stream:
        for piece in stream:
            delta = piece.choices[0].delta
            script.seen(thoughts(delta) or delta.content)
    assert script.log == Lockstep.expected(["Hm", "m.", "Yes", "."])


def test_openai_reasoning_before_a_tool_call(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """Thoughts and a tool call in one answer: both are kept."""
    upstream.script = json_answer(completion(content=[thinking("Look ", "outside.")], tool_calls=[CALL]))
    choice = scripted.chat.completions.create(model=THINKER, messages=[USER], tools=TOOLS).choices[0]
    assert thoughts(choice.message) == "Look outside."
    assert not choice.message.content
    assert [call.id for call in choice.message.tool_calls or []] == ["abcdefgh0"]
    assert choice.finish_reason == "tool_calls"


def test_openai_streamed_reasoning_before_a_tool_call(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """The same in a stream, in one event even."""
    events = [
        chunk(role="assistant", content=[thinking("Look ")]),
        chunk("tool_calls", content=[thinking("outside.")], tool_calls=[CALL]),
    ]
    upstream.script = sse([*events, "[DONE]"])
    with scripted.chat.completions.create(model=THINKER, messages=[USER], tools=TOOLS, stream=True) as stream:
        deltas = [piece.choices[0].delta for piece in stream]
    assert "".join(map(thoughts, deltas)) == "Look outside."
    assert [call.id for delta in deltas for call in delta.tool_calls or []] == ["abcdefgh0"]


def test_openai_feeds_reasoning_back(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """The answer sent back whole is what Mistral gave; to a model that is not known to reason it is its text alone."""
    upstream.script = json_answer(completion(content=[thinking("Hm."), text("Yes.")]))
    message = scripted.chat.completions.create(model=THINKER, messages=[USER]).choices[0].message
    messages: list[Any] = [USER, message.model_dump(), {"role": "user", "content": "Why?"}]
    for model in (THINKER, "mistral-large-latest"):
        scripted.chat.completions.create(model=model, messages=messages)
    _, to_thinker, to_other = (request.json() for request in upstream.requests)
    assert to_thinker["messages"][1] == {"role": "assistant", "content": [thinking("Hm."), text("Yes.")], "tool_calls": None}
    assert to_other["messages"][1] == {"role": "assistant", "content": "Yes.", "tool_calls": None}
    assert accepted(to_thinker)
    assert accepted(to_other)


def test_mistralai_keeps_the_list(mistral: Mistral) -> None:
    """Mistral's own client, known by its user agent, gets the chunks that it knows: plain and streamed."""
    content = mistral.chat.complete(model=THINKER, messages=[USER]).choices[0].message.content
    assert [part.type for part in content] == ["thinking", "text"]
    with mistral.chat.stream(model=THINKER, messages=[USER]) as stream:
        pieces = [event.data.choices[0].delta.content for event in stream]
    assert {part.type for piece in pieces if isinstance(piece, list) for part in piece} == {"thinking", "text"}


def test_langchain_reasoning(proxy: Gunicorn) -> None:
    """LangChain's answer is a string, plain and streamed; it does not show what was thought."""
    with langchain(proxy, model=THINKER) as model:
        assert model.invoke("Hi").content == SAID
        pieces = [piece.content for piece in model.stream("Hi")]
    assert all(isinstance(piece, str) for piece in pieces)
    assert "".join(map(str, pieces)) == SAID


def test_reasoning_as_mistral_has_it(
    shared_servers: Callable[..., Gunicorn], sandbox: Sandbox, shared_upstream: ScriptedUpstream
) -> None:
    """With MISTRAL_FILTER_REASONING=mistral the list stays a list for everybody."""
    server = shared_servers(MISTRAL_FILTER_UPSTREAM=sandbox.url, MISTRAL_FILTER_REASONING="mistral")
    with OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        message = client.chat.completions.create(model=THINKER, messages=[USER]).choices[0].message
    content: Any = message.content
    assert [part["type"] for part in content] == ["thinking", "text"]


# ------------------------------------------------------------------------------------------------- ends and tool calls


def ending(finish: str) -> Json:
    body = completion(content="Half")
    body["choices"][0]["finish_reason"] = finish
    return body


def test_openai_sees_a_full_context_as_length(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """``model_length``, which no OpenAI client knows, reads ``length``."""
    upstream.script = json_answer(ending("model_length"))
    choice = scripted.chat.completions.create(model=MODEL, messages=[USER]).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Half", "length")


def test_openai_sees_a_full_context_as_length_in_a_stream(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """The same in a stream."""
    upstream.script = sse([chunk(role="assistant", content="Half"), chunk("model_length", content=""), "[DONE]"])
    with scripted.chat.completions.create(model=MODEL, messages=[USER], stream=True) as stream:
        assert [piece.choices[0].finish_reason for piece in stream] == [None, "length"]


def test_openai_raises_for_an_answer_that_failed(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """A 200 whose answer ended with an error is an error."""
    upstream.script = json_answer(ending("error"))
    with pytest.raises(openai.InternalServerError, match=r"^Error code: 502 - .+"):
        scripted.chat.completions.create(model=MODEL, messages=[USER])


def test_openai_raises_for_a_stream_that_failed(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """In a stream the pieces come, then the exception."""
    upstream.script = sse([chunk(role="assistant", content="Half"), chunk("error", content=""), "[DONE]"])
    texts: list[str | None] = []

    def read() -> None:
        with scripted.chat.completions.create(model=MODEL, messages=[USER], stream=True) as stream:
            texts.extend(piece.choices[0].delta.content for piece in stream)

    with pytest.raises(openai.APIError, match="The model stopped with an error"):
        read()
    assert "".join(text or "" for text in texts) == "Half"


def test_openai_streamed_tool_calls_have_index_and_type(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """Calls that come without index and type get them, and openai-python's helper gathers two of them as two."""
    bare = [{"id": f"abcdefgh{n}", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}} for n in (0, 1)]
    events = [chunk(role="assistant", content=""), chunk("tool_calls", content="", tool_calls=bare), "[DONE]"]
    upstream.script = sse(events)
    with scripted.chat.completions.create(model=MODEL, messages=[USER], tools=TOOLS, stream=True) as stream:
        calls = [call for piece in stream for call in piece.choices[0].delta.tool_calls or []]
    assert [(call.index, call.type, call.id) for call in calls] == [(n, "function", f"abcdefgh{n}") for n in (0, 1)]
    with scripted.chat.completions.stream(model=MODEL, messages=[USER], tools=TOOLS) as helper:
        gathered = helper.get_final_completion().choices[0].message.tool_calls or []
    assert [call.id for call in gathered] == ["abcdefgh0", "abcdefgh1"]


# ----------------------------------------------------------------------------------------------------------- embeddings


def test_openai_embeddings_in_base64(client: OpenAI, sandbox: Sandbox) -> None:
    """Asked for as base64, a vector comes as base64 of little-endian float32; asked for as floats, as floats."""
    encoded: Any = client.embeddings.create(model="mistral-embed", input="one", encoding_format="base64").data[0].embedding
    vector = straight(sandbox, "one")
    assert isinstance(encoded, str)
    assert list(struct.unpack(f"<{len(vector)}f", base64.b64decode(encoded, validate=True))) == vector
    floats = client.embeddings.create(model="mistral-embed", input="one", encoding_format="float").data[0].embedding
    assert floats == vector


def test_openai_embeddings_by_default(client: OpenAI, sandbox: Sandbox) -> None:
    """openai-python asks for base64 by itself; that is what goes over the wire, and it decodes to the right vectors."""
    answer = client.embeddings.with_raw_response.create(model="mistral-embed", input=["one", "two"])
    assert {type(item["embedding"]) for item in json.loads(answer.text)["data"]} == {str}
    assert [item.embedding for item in answer.parse().data] == [straight(sandbox, text) for text in ("one", "two")]
