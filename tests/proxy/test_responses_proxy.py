"""The Responses API through the proxy: answers pass as they come, errors can be read, a break is an event of that API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from mistralai.client import models
from servers import Gunicorn, Response, ask
from upstream import ScriptedUpstream, head_bytes, in_turn, json_answer, raw

from mistral_filter.errors import UpstreamError
from mistral_filter.proxy.answers import plan
from mistral_filter.proxy.answers.responses import next_number, response_error

RESPONSES = "/v1/responses"
KEY = ("Authorization", "Bearer caller-key")
BODY = {"model": "m", "input": "Hi"}
STREAM_HEAD = head_bytes(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])


@pytest.fixture
def proxy(gunicorn_server: Callable[..., Gunicorn]) -> Gunicorn:
    """One worker with default settings."""
    return gunicorn_server(WEB_CONCURRENCY=1)


def error_of(response: Response, status: int) -> dict[str, Any]:
    assert (response.status, response.complete) == (status, True), response
    error: dict[str, Any] = response.json()["error"]
    return error


def event(kind: str, number: int, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, "sequence_number": number, **fields})
    return f"event: {kind}\ndata: {data}\n\n".encode()


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "m",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
CREATED = event("response.created", 0, response=RESPONSE)
DELTA = event(
    "response.output_text.delta", 1, delta='"sequence_number": 9', item_id="msg_1", output_index=0, content_index=0, logprobs=[]
)


def post(proxy: Gunicorn, body: Any = BODY, target: str = RESPONSES) -> Response:
    return ask(proxy.port, "POST", target, body, [KEY])


def test_a_whole_answer_passes_as_it_came(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Its bytes are those of the upstream, whatever a chat answer would be rewritten for."""
    content = (
        b'{"output": [{"type":"message" , "content": [{"type": "thinking"}]}], "choices": [{"finish_reason": "model_length"}]}'
    )
    upstream.script = raw(
        head_bytes(200, [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]) + content
    )
    assert post(proxy).body == content


def test_a_stream_passes_as_it_came(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Names of events, data and the end without [DONE]: nothing is added and nothing taken."""
    events = [CREATED, DELTA, event("response.completed", 2, response=RESPONSE)]
    upstream.script = raw(STREAM_HEAD + chunked(*events) + b"0\r\n\r\n")
    response = post(proxy, {**BODY, "stream": True})
    assert (response.body, response.complete) == (b"".join(events), True)


def test_a_break_is_an_error_event(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """It is the event that the SDKs know, numbered on from the last one, and the framing stays unterminated."""
    upstream.script = raw(STREAM_HEAD + chunked(CREATED, DELTA))
    response = post(proxy, {**BODY, "stream": True})
    assert (response.status, response.complete) == (200, False)
    assert response.body.startswith(CREATED + DELTA + b"event: error\ndata: ")
    data = json.loads(response.body.removeprefix(CREATED + DELTA + b"event: error\ndata: "))
    assert (data["type"], data["code"], data["param"], data["sequence_number"]) == ("error", "upstream_cut", None, 2)
    assert data["error"]["message"] == data["message"]
    read = models.ResponsesErrorEvent.model_validate(data)
    assert (read.message, read.sequence_number) == (data["message"], 2)


def test_openai_raises_at_a_break(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """openai-python gets the events before the break, then an error with the proxy's sentence."""
    upstream.script = raw(STREAM_HEAD + chunked(CREATED, DELTA))
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key="k", max_retries=0)
    stream = client.responses.create(model="m", input="Hi", stream=True)
    kinds = [next(stream).type, next(stream).type]
    with pytest.raises(openai.APIError, match="cut short"):
        next(stream)
    assert kinds == ["response.created", "response.output_text.delta"]


FLAT: dict[str, Any] = {
    "object": "error",
    "message": "Tool call id was abc",
    "type": "invalid_request_function_call",
    "param": None,
    "code": "3280",
    "raw_status_code": 400,
}
FLAT_LINE = json.dumps(FLAT).encode()


@pytest.mark.parametrize("piece", [FLAT_LINE, FLAT_LINE + b"\n", FLAT_LINE + b"\r\n\r\n", b"data: " + FLAT_LINE + b"\n\n"])
@pytest.mark.parametrize("before", [[], [CREATED, DELTA]])
def test_openai_raises_at_an_error_of_mistral_s(
    proxy: Gunicorn, upstream: ScriptedUpstream, before: list[bytes], piece: bytes
) -> None:
    """An error that is no event of this API, and a bare line that is no event at all, is an error event: the SDK raises."""
    upstream.script = raw(STREAM_HEAD + chunked(*before, piece) + b"0\r\n\r\n")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key="k", max_retries=0)
    stream = client.responses.create(model="m", input="Hi", stream=True)
    assert [next(stream).type for _ in before] == ["response.created", "response.output_text.delta"][: len(before)]
    with pytest.raises(openai.APIError, match="Tool call id was abc") as caught:
        next(stream)
    assert (caught.value.code, caught.value.type) == ("3280", "invalid_request_function_call")


@pytest.mark.parametrize("form", [b"%b\n", b"data: %b\n\n"])
def test_an_error_of_mistral_s_has_every_form(form: bytes) -> None:
    """The fields of the SDK's event, its number in the stream, OpenAI's object, and what Mistral sent beside."""
    stream = CREATED + DELTA + form % FLAT_LINE
    whole = b"".join(plan("responses", False, "").events(iter([stream])))
    assert whole == b"".join(plan("responses", False, "").events(stream[i : i + 1] for i in range(len(stream))))
    data = json.loads(whole.rpartition(b"data: ")[2])
    read = models.ResponsesErrorEvent.model_validate(data)
    assert (read.code, read.message, read.param, read.sequence_number) == ("3280", FLAT["message"], None, 2)
    assert data["error"].items() >= {"code": "3280", "message": FLAT["message"], "type": FLAT["type"]}.items()
    assert data["raw_status_code"] == 400


PASSING = [
    CREATED + DELTA,
    event("error", 3, code=None, message="m", param=None),
    event("response.failed", 1, response={**RESPONSE, "status": "failed", "error": {"code": "server_error", "message": "m"}}),
    event("response.later", 1, message="a field of 2027", error={"message": "of a part"}),
    b'data: {"a": 1}\n\n: comment\n\ndata: [DONE]\n\n',
    b'{"type": "response.created"}\n{"a": 1}\n{broken}\n\n',
]


@pytest.mark.parametrize("stream", PASSING)
def test_other_events_keep_their_bytes(stream: bytes) -> None:
    """Whatever has a type is an event of this API, and a line that says nothing of an error stays a line."""
    for pieces in ([stream], [stream[i : i + 1] for i in range(len(stream))]):
        assert b"".join(plan("responses", False, "").events(iter(pieces))) == stream


def test_a_refusal_has_the_error_object(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Mistral's 422 is kept, with the object beside it that OpenAI's clients read."""
    detail = [{"type": "missing", "loc": ["body", "model"], "msg": "Field required", "input": {}}]
    upstream.script = json_answer({"detail": detail}, 422)
    response = post(proxy, {"input": "Hi"})
    assert response.json()["detail"] == detail
    assert error_of(response, 422)["message"] == "model: Field required"


def test_an_extra_field_is_learnt(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """A field that the server refuses though the list has it goes, once more, and is left out of the next request."""
    detail = [{"type": "extra_forbidden", "loc": ["body", "max_tool_calls"], "msg": "Extra inputs are not permitted", "input": 1}]
    upstream.script = in_turn(json_answer({"detail": detail}, 422), json_answer(RESPONSE))
    body = {**BODY, "max_tool_calls": 1}
    assert post(proxy, body).json() == RESPONSE
    upstream.script = json_answer(RESPONSE)
    assert post(proxy, body).status == 200
    assert [json.loads(request.body) for request in upstream.requests] == [body, BODY, BODY]


@pytest.mark.parametrize("body", [{"previous_response_id": "resp_1"}, {"input": [{"type": "item_reference", "id": "msg_1"}]}])
def test_what_is_stored_elsewhere_is_refused(proxy: Gunicorn, upstream: ScriptedUpstream, body: dict[str, Any]) -> None:
    """A 400 of the proxy's own that says what to set in the client; nothing goes up."""
    error = error_of(post(proxy, {**BODY, **body}), 400)
    assert error["code"] == "stateful_conversation"
    assert "store=False" in error["message"]
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("piece", "number"),
    [
        (b'data: {"sequence_number":7}\n\n', 8),
        (b'data: {"sequence_number" : 7,"a":1}\n\ndata: {"sequence_number": 8}\n\n', 9),
        (b'data: {"sequence_number":7,"delta":"\\"sequence_number\\": 9"}\n\n', 8),
        (b'data: {"delta":"x"}\n\n', 5),
        (b'data: {"sequence_number":', 5),
        (b"", 5),
    ],
)
def test_the_next_number(piece: bytes, number: int) -> None:
    """It follows the last number that is a key; what a text says is none."""
    assert next_number(piece, 5) == number


def test_only_responses_have_that_event() -> None:
    """A break in any other stream is the data that chat's clients read."""
    error = UpstreamError("upstream_cut")
    assert plan("responses", False, "openai").error_event(error, 3) == response_error(error, 3)
    assert plan("responses", False, "mistral-client-python/3.7").error_event(error, 3) == response_error(error, 3)
    assert plan("chat", False, "openai").error_event(error, 3) == b"data: " + error.body() + b"\n\n"
