"""What a client is shown of an upstream's answer: errors, completions, streams, embeddings.

Judges: expectations written by hand, the types and the stream decoder of ``openai``, and the SDK of Mistral.
"""

from __future__ import annotations

import json
import re
import struct
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given as given_with
from hypothesis import settings
from hypothesis import strategies as st
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, MistralError, SDKError
from openai._streaming import SSEDecoder
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from mistral_filter.errors import UpstreamError
from mistral_filter.proxy.answers import Plan, error_answer, plan
from mistral_filter.proxy.answers.events import MAX_EVENT
from mistral_filter.proxy.answers.pieces import MOST_HELD
from mistral_filter.proxy.answers.reading import MOST_VALUES, is_simple

JSON = "application/json"
SSE = "text/event-stream"
CHAT = plan("chat", False, "OpenAI/Python 3.54.0")
BASE64 = plan("embeddings", True, "OpenAI/JS 7.57.0")
USER: Any = {"role": "user", "content": "Hi"}

FORBIDDEN = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted"}
NAME = {**FORBIDDEN, "loc": ["body", "messages", 0, "user", "name"], "input": "Ann"}
PENALTY = {**FORBIDDEN, "loc": ["body", "frequency_penalty"], "input": 0.0}
FLAT = {"object": "error", "param": None}


def given(*inputs: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """hypothesis without its clock."""
    return lambda test: settings(deadline=None)(given_with(*inputs)(test))


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


def completion(message: object, finish: object = "stop", **more: object) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    head = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    return dump({**head, "choices": [choice], "usage": usage, **more})


def chunk(delta: object, finish: object = None, index: int = 0) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + dump({**head, "choices": [choice]}) + b"\n\n"


def message_of(body: bytes, plan: Plan = CHAT) -> dict[str, Any]:
    """The first message of a rewritten answer, which the openai SDK accepts as a completion."""
    seen = plan.whole(200, JSON, body)
    ChatCompletion.model_validate(json.loads(seen), strict=True)
    message: dict[str, Any] = json.loads(seen)["choices"][0]["message"]
    return message


def through(*pieces: bytes, plan: Plan = CHAT) -> bytes:
    return b"".join(plan.events(iter(pieces)))


def one_by_one(stream: bytes) -> list[bytes]:
    return [stream[i : i + 1] for i in range(len(stream))]


def decoded(stream: bytes) -> list[Any]:
    """The events' data, as the openai SDK reads a stream."""
    events = SSEDecoder().iter_bytes(iter([stream]))
    return [json.loads(event.data) for event in events if event.data != "[DONE]"]


def deltas(stream: bytes) -> list[dict[str, Any]]:
    """The deltas of a rewritten stream, each of which the openai SDK accepts."""
    chunks = decoded(through(stream))
    for one in chunks:
        ChatCompletionChunk.model_validate(one, strict=True)
    return [choice["delta"] for one in chunks for choice in one["choices"]]


def upstream(status: int, content_type: str, body: bytes, endpoint: str = "chat") -> Callable[[httpx2.Request], httpx2.Response]:
    """An upstream that always answers the same, behind what is tested here."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        base64 = b'"base64"' in request.content
        ours = plan(endpoint, base64, request.headers["user-agent"])
        kind, content = content_type, body
        if status >= 400:
            kind, content = error_answer(status, content_type, body)
        elif content_type == SSE:
            content = b"".join(ours.events(iter([body])))
        else:
            content = ours.whole(status, content_type, body)
        return httpx2.Response(status, headers={"content-type": kind}, content=content)

    return answer


def openai_client(answer: Callable[[httpx2.Request], httpx2.Response]) -> openai.OpenAI:
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="k", base_url="http://upstream.invalid/v1", max_retries=0, http_client=http)


def mistral_client(answer: Callable[[httpx2.Request], httpx2.Response]) -> Mistral:
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return Mistral(api_key="k", server_url="http://upstream.invalid", client=http)


# ----------------------------------------------------------------------------------------------------------------- errors

ERRORS = [
    (
        422,
        {**FLAT, "message": {"detail": [NAME, PENALTY]}, "type": "invalid_request_error", "code": None, "raw_status_code": 422},
        (
            "messages[0].user.name: Extra inputs are not permitted; frequency_penalty: Extra inputs are not permitted",
            "invalid_request_error",
            "messages[0].name",
            "extra_forbidden",
        ),
    ),
    (
        422,
        {"detail": [NAME]},
        ("messages[0].user.name: Extra inputs are not permitted", "invalid_request_error", "messages[0].name", "extra_forbidden"),
    ),
    (
        422,
        {"object": "Error", "detail": [PENALTY], "message": [PENALTY], "type": "invalid_request_error", "code": 3001},
        ("frequency_penalty: Extra inputs are not permitted", "invalid_request_error", "frequency_penalty", "3001"),
    ),
    (
        422,
        {**FLAT, "message": json.dumps({"detail": [PENALTY]}), "type": "internal_error_proxy", "code": "1000"},
        ("frequency_penalty: Extra inputs are not permitted", "internal_error_proxy", "frequency_penalty", "1000"),
    ),
    (422, {"detail": []}, ("The upstream answered 422 and did not say why.", "invalid_request_error", None, None)),
    (422, {"detail": [{"msg": "m", "loc": {}, "type": 1}]}, ("m", "invalid_request_error", None, "1")),
    (422, {"detail": [{"msg": "m", "loc": ["body"]}, 1, "n"]}, ("m; n", "invalid_request_error", None, None)),
    (
        400,
        {**FLAT, "message": "Tool call id was x", "type": "invalid_function_call", "code": "3280"},
        ("Tool call id was x", "invalid_function_call", None, "3280"),
    ),
    (400, {"message": "m", "param": "stop", "code": 7}, ("m", "invalid_request_error", "stop", "7")),
    (401, {"detail": "Unauthorized"}, ("Unauthorized", "authentication_error", None, None)),
    (401, {"message": "Unauthorized", "request_id": "r"}, ("Unauthorized", "authentication_error", None, None)),
    (403, {"error": "Forbidden"}, ("Forbidden", "permission_error", None, None)),
    (
        404,
        {"message": "no Route matched with those values"},
        ("no Route matched with those values", "invalid_request_error", None, None),
    ),
    (
        429,
        {**FLAT, "message": "Rate limit exceeded", "type": "rate_limited", "code": "1300"},
        ("Rate limit exceeded", "rate_limited", None, "1300"),
    ),
    (429, {"message": "Slow down"}, ("Slow down", "rate_limit_error", None, None)),
    (500, {"error": {"message": {"detail": "Broken"}, "code": 5}}, ("Broken", "server_error", None, "5")),
    (
        500,
        {"message": {"message": {"message": {"message": "m"}}}},
        ("The upstream answered 500 and did not say why.", "server_error", None, None),
    ),
    (503, {}, ("The upstream answered 503 and did not say why.", "server_error", None, None)),
]


@pytest.mark.parametrize(("status", "sent", "expected"), ERRORS)
def test_errors_get_the_object_that_openai_clients_read(status: int, sent: dict[str, Any], expected: tuple[str, ...]) -> None:
    """Every shape of Mistral's errors says message, type, param and code under ``error``, and keeps its other keys."""
    kind, body = error_answer(status, JSON, dump(sent))
    seen = json.loads(body)
    error = seen.pop("error")
    sent = {key: value for key, value in sent.items() if key != "error"}
    assert (kind, seen) == (JSON, sent)
    assert tuple(error[key] for key in ("message", "type", "param", "code")) == expected


@pytest.mark.parametrize(("status", "sent", "expected"), ERRORS)
def test_openai_shows_what_mistral_said(status: int, sent: dict[str, Any], expected: tuple[str, ...]) -> None:
    """An exception of openai-python carries the text and the path of the field, which it does not from Mistral's own body."""
    client = openai_client(upstream(status, JSON, dump(sent)))
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="m", messages=[])
    assert expected[0] in str(caught.value)
    assert (caught.value.type, caught.value.param, caught.value.code) == expected[1:]


@pytest.mark.parametrize(("status", "sent", "expected"), ERRORS)
def test_mistrals_sdk_reads_errors_as_before(status: int, sent: dict[str, Any], expected: tuple[str, ...]) -> None:
    """The SDK of Mistral raises the same exception with the same data for the body with ``error`` as for the one without."""
    caught = []
    for answer in (
        lambda _: httpx2.Response(status, headers={"content-type": JSON}, content=dump(sent)),
        upstream(status, JSON, dump(sent)),
    ):
        with pytest.raises(MistralError) as info:
            mistral_client(answer).chat.complete(model="m", messages=[])
        caught.append(info.value)
    assert type(caught[0]) is type(caught[1])
    if isinstance(caught[0], HTTPValidationError) and isinstance(caught[1], HTTPValidationError):
        assert caught[0].data == caught[1].data
    elif isinstance(caught[0], SDKError):
        assert caught[0].status_code == caught[1].status_code == status


def test_error_keeps_bytes() -> None:
    """Numbers, escapes and the order of keys in what Mistral sent survive beside the new object."""
    sent = b'{ "detail":[{"loc":["body","a"],"msg":"m","type":"t","input":{"b":1.10,"a":"\\u00e9\\ud83d","n":1e400}}] , "z": -0}'
    _, body = error_answer(422, JSON, sent)
    assert body.startswith(
        b'{"detail":[{"loc":["body","a"],"msg":"m","type":"t","input":{"b":1.10,"a":"\\u00e9\\ud83d","n":1e400}}],"z":-0,'
    )
    assert json.loads(body)["error"] == {"message": "a: m", "type": "invalid_request_error", "param": "a", "code": "t"}


def test_keys_of_an_error_without_a_message_stay() -> None:
    """An ``error`` that clients cannot read yet keeps what else it says."""
    error = json.loads(error_answer(500, JSON, b'{"message":"m","error":{"type":"t","retry":[1]}}')[1])["error"]
    assert error == {"type": "t", "retry": [1], "message": "m", "param": None, "code": None}


def test_good_error_is_untouched() -> None:
    """An error that clients can read already is passed on as the same bytes."""
    kind, body = "application/problem+json; x=1", b'{ "error": {"message": "m"} }'
    seen = error_answer(500, kind, body)
    assert seen[0] is kind
    assert seen[1] is body


@pytest.mark.parametrize(
    ("status", "kind", "sent", "message"),
    [
        (502, "text/html", b"<html>Bad gateway</html>", "The upstream answered 502 with a page that is not JSON."),
        (503, "text/plain; charset=utf-8", b"upstream connect error", "The upstream answered 503 with a page that is not JSON."),
        (500, "", b"", "The upstream answered 500 without a body."),
        (500, JSON, b"null", "The upstream answered 500 with JSON that is not an object."),
        (400, JSON, b'["a"]', "a"),
        (400, JSON, b'"a reason"', "a reason"),
        (400, JSON, b"[1]", "The upstream answered 400 with JSON that is not an object."),
        (400, JSON, b"{", "The upstream answered 400 with broken JSON."),
        (400, JSON, b'{"message":"caf\xe9"}', "The upstream answered 400 with broken JSON."),
        (400, JSON, b'\xef\xbb\xbf"a reason"', "a reason"),
        (504, SSE, b"\xff\x00", "The upstream answered 504 with a page that is not JSON."),
    ],
)
def test_pages_become_json(status: int, kind: str, sent: bytes, message: str) -> None:
    """What is not a JSON object is replaced by one sentence that names the status, and openai-python shows it."""
    seen, body = error_answer(status, kind, sent)
    error = {"message": message, "type": "invalid_request_error" if status < 500 else "server_error", "param": None, "code": None}
    assert (seen, json.loads(body)) == (JSON, {"error": error})
    with pytest.raises(openai.APIStatusError, match=message):
        openai_client(upstream(status, kind, sent)).models.list()


def test_json_with_a_wrong_type_gets_the_right_one() -> None:
    """A JSON object that was announced as text keeps its keys and is announced as JSON."""
    kind, body = error_answer(404, "text/plain", b'{"message":"m"}')
    assert kind == JSON
    assert json.loads(body)["message"] == json.loads(body)["error"]["message"] == "m"


def test_message_is_bounded() -> None:
    """A hundred violations make a message of ten, and a long name in them is cut."""
    many = [{**FORBIDDEN, "loc": ["body", f"f{i}"]} for i in range(100)]
    error = json.loads(error_answer(422, JSON, dump({"detail": many}))[1])["error"]
    assert error["message"].startswith("f0: Extra inputs are not permitted; f1: ")
    assert error["message"].endswith("; f9: Extra inputs are not permitted; and 90 more")
    eleven = json.loads(error_answer(422, JSON, dump({"detail": many[:11]}))[1])["error"]
    assert eleven["message"].endswith("; f9: Extra inputs are not permitted; and 1 more")
    long = [{**FORBIDDEN, "loc": ["body", "f" * 10_000]}]
    assert len(json.loads(error_answer(422, JSON, dump({"detail": long}))[1])["error"]["message"]) < 1_100


@given(st.integers(400, 599), st.sampled_from([JSON, "text/html", ""]), st.binary() | st.text().map(str.encode))
def test_any_error_is_readable(status: int, kind: str, body: bytes) -> None:
    """Whatever an upstream sends with an error status, the client gets JSON with a message."""
    seen, content = error_answer(status, kind, body)
    assert seen == JSON
    assert isinstance(json.loads(content)["error"]["message"], str)


KEYS = """message detail error msg loc type code param object data embedding choices delta content tool_calls finish_reason index
id function name text thinking signature"""
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(re.findall(r"\w+", KEYS)),
            inner | st.sampled_from(["text", "thinking", "error", "model_length"]),
        )
    ),
    max_leaves=30,
)


@given(ANY_JSON)
def test_any_json_is_readable_as_an_error(value: object) -> None:
    """Whatever JSON an upstream sends with an error status, ``error`` has four keys of the right types."""
    error = json.loads(error_answer(422, JSON, dump(value))[1])["error"]
    given = value.get("error") if isinstance(value, dict) else None
    if isinstance(given, dict) and isinstance(given.get("message"), str) and given["message"]:  # an empty one says nothing
        assert error == given
    else:
        assert isinstance(error["message"], str)
        assert isinstance(error["type"], str)
        assert all(error[key] is None or isinstance(error[key], str) for key in ("param", "code"))


# --------------------------------------------------------------------------------------------------------- whole answers

THINKING = {
    "type": "thinking",
    "thinking": [{"type": "text", "text": "Two and "}, {"type": "text", "text": "two."}],
    "closed": True,
}
FOUR = {"type": "text", "text": "Four."}
REFERENCE = {"type": "reference", "reference_ids": [1, "b"]}


def test_thinking_becomes_reasoning_content() -> None:
    """A list of a thinking and a text chunk becomes a string, with the thoughts under the name that clients read."""
    message = message_of(completion({"role": "assistant", "tool_calls": None, "content": [THINKING, FOUR]}))
    assert message == {"role": "assistant", "tool_calls": None, "content": "Four.", "reasoning_content": "Two and two."}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], {"content": ""}),
        ([FOUR, FOUR], {"content": "Four.Four."}),
        ([THINKING], {"content": "", "reasoning_content": "Two and two."}),
        ([{"type": "thinking", "thinking": "Hm"}, FOUR], {"content": "Four.", "reasoning_content": "Hm"}),
        ([{"type": "thinking", "thinking": [], "signature": None}], {"content": ""}),
        ([{"thinking": [FOUR]}, {"text": "a"}], {"content": "a", "reasoning_content": "Four."}),
        (
            [{"type": "thinking", "thinking": [{**FOUR, "x": 1}]}],
            {
                "content": "",
                "reasoning_content": "Four.",
                "content_chunks": [{"type": "thinking", "thinking": [{**FOUR, "x": 1}]}],
            },
        ),
        ([FOUR, REFERENCE, FOUR], {"content": "Four.Four.", "content_chunks": [REFERENCE]}),
        ([1, "a", {"type": "text", "text": None}], {"content": "", "content_chunks": [1, "a", {"type": "text", "text": None}]}),
        ([{**FOUR, "x": 1}], {"content": "Four.", "content_chunks": [{**FOUR, "x": 1}]}),
        (
            [{"type": "thinking", "thinking": [FOUR, REFERENCE]}, {**THINKING, "signature": "s"}],
            {
                "content": "",
                "reasoning_content": "Four.Two and two.",
                "content_chunks": [{"type": "thinking", "thinking": [FOUR, REFERENCE]}, {**THINKING, "signature": "s"}],
            },
        ),
    ],
)
def test_no_chunk_is_lost(content: list[object], expected: dict[str, object]) -> None:
    """Texts are joined in order; a chunk that says more than its text is kept as it came."""
    assert message_of(completion({"content": content, "role": "assistant"})) == {"role": "assistant", **expected}


def test_answers_keep_bytes() -> None:
    """In a rewritten answer numbers, escapes and spaces inside other values stay; texts are joined without being decoded."""
    content = b'[{"type":"text","text":"\\u00e9\\ud83d"},{"text":"\\ude00\\/","type":"text"},{"type":"reference","n":[1.10, -0]}]'
    tail = b'"usage":{"a": 1e2, "b":1.10},"x":123456789012345678901234567890}'
    sent = b'{"choices": [ {"finish_reason":"stop", "message": {"content":' + content + b',"role":"assistant"}}],' + tail
    seen = b'"content":"\\u00e9\\ud83d\\ude00\\/","role":"assistant","content_chunks":[{"type":"reference","n":[1.10, -0]}]'
    assert CHAT.whole(200, JSON, sent) == b'{"choices":[{"finish_reason":"stop","message":{' + seen + b"}}]," + tail


def test_several_choices() -> None:
    """Each choice is rewritten by itself; one that needs nothing keeps its bytes."""
    plain = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
    thought = {"index": 1, "message": {"content": [FOUR]}, "finish_reason": "model_length"}
    seen = CHAT.whole(200, JSON, dump({"choices": [plain, thought, None]}))
    assert dump(plain) in seen
    assert json.loads(seen)["choices"][1:] == [{"index": 1, "message": {"content": "Four."}, "finish_reason": "length"}, None]


def test_finish_reason_model_length() -> None:
    """``model_length``, which OpenAI does not know, is ``length``."""
    seen = CHAT.whole(200, JSON, completion({"role": "assistant", "content": "a"}, "model_length"))
    assert json.loads(seen) == json.loads(completion({"role": "assistant", "content": "a"}, "length"))
    assert ChatCompletion.model_validate_json(seen, strict=True).choices[0].finish_reason == "length"


def test_finish_reason_error_is_an_error() -> None:
    """An answer whose model failed is not passed off as an answer."""
    with pytest.raises(UpstreamError) as caught:
        CHAT.whole(200, JSON, completion({"role": "assistant", "content": "a"}, "error"))
    assert (caught.value.status, caught.value.code) == (502, "upstream_finish_error")


def test_tool_calls_get_a_type() -> None:
    """A tool call without ``type``, or with null there, is a function call; others keep theirs."""
    function = {"name": "f", "arguments": "{}"}
    calls: list[dict[str, object]] = [{"id": "a", "function": function}, {"id": "b", "function": function, "type": None}]
    message = message_of(completion({"role": "assistant", "content": "", "tool_calls": calls}, "tool_calls"))
    assert [call["type"] for call in message["tool_calls"]] == ["function", "function"]
    whole = completion({"role": "assistant", "content": "", "tool_calls": [{**calls[0], "type": "custom"}]}, "tool_calls")
    assert CHAT.whole(200, JSON, whole) is whole


@pytest.mark.parametrize(
    "body",
    [
        completion({"role": "assistant", "content": 'thinking [model_length] \\"error\\"', "tool_calls": None}),
        completion({"role": "assistant", "content": None, "tool_calls": []}),
        completion({"role": "assistant", "content": "", "tool_calls": [{"id": "a", "type": "function", "function": {}}]}),
        b'{"choices":[{"finish_reason":"new","message":{"content":"\\ud83d"}}]}',
        b'{"choices":[{"message":{"content":"\xff"},"finish_reason":"\xff"}]}',
        b'{"choices":{}} ',
        b'{"choices":[[]]} ',
        b"[]",
        b"no JSON",
        b"[" * 100_000,
        b'{"choices":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"",
    ],
)
def test_what_needs_nothing_is_the_same_object(body: bytes) -> None:
    """An answer without anything to rewrite, or that is not understood, is not even copied."""
    assert CHAT.whole(200, JSON, body) is body


@pytest.mark.parametrize(("status", "kind"), [(200, "text/html"), (200, "text/plain"), (404, JSON), (302, JSON)])
def test_only_good_json_is_looked_at(status: int, kind: str) -> None:
    """A status outside 2xx and another media type are none of ours."""
    body = completion({"content": [FOUR]})
    assert CHAT.whole(status, kind, body) is body
    assert CHAT.whole(200, "application/json; charset=utf-8", body) is not body


def test_half_an_emoji_beside_reasoning() -> None:
    """A lone surrogate escape in an answer does not keep the rest from being rewritten, and stays."""
    seen = CHAT.whole(200, JSON, b'{"choices":[{"message":{"content":[{"type":"text","text":"a\\ud83d"}]}}]}')
    assert seen == b'{"choices":[{"message":{"content":"a\\ud83d"}}]}'


# ------------------------------------------------------------------------------------------------------------ what is asked


def test_reasoning_stays_where_it_is_wanted() -> None:
    """With reasoning="mistral" the list stays, and everything else is still done."""
    ours = plan("chat", False, "curl/8", reasoning="mistral")
    message = {"role": "assistant", "content": [THINKING, FOUR]}
    whole = completion(message)
    assert ours.whole(200, JSON, whole) is whole
    assert json.loads(ours.whole(200, JSON, completion(message, "model_length"))) == json.loads(completion(message, "length"))
    first = chunk({"role": "assistant", "content": [FOUR]})
    assert through(first, plan=ours) == first


def test_mistrals_sdk_gets_what_mistral_sends() -> None:
    """The SDK of Mistral reads the thinking chunks, whole and streamed, as if there were nothing in between."""
    message = {"role": "assistant", "content": [THINKING, FOUR]}
    client = mistral_client(upstream(200, JSON, completion(message)))
    answer = client.chat.complete(model="m", messages=[USER])
    assert answer.choices[0].message is not None
    content: Any = answer.choices[0].message.content
    assert [part.type for part in content] == ["thinking", "text"]
    client = mistral_client(upstream(200, SSE, chunk(message) + b"data: [DONE]\n\n"))
    (event,) = client.chat.stream(model="m", messages=[USER])
    content = event.data.choices[0].delta.content
    assert [part.type for part in content] == ["thinking", "text"]


@pytest.mark.parametrize(
    "agent",
    [
        "mistral-client-python/3.7.0",
        "mistral-client-typescript/2.7.0",
        "mistral-client-js/0.5.0",
        "ai/5.0.277 ai-sdk/mistral/2.0.51 runtime/node.js/v20",
    ],
)
def test_native_clients(agent: str) -> None:
    """A client that speaks Mistral's dialect is known by its User-Agent, whatever else stands there."""
    assert plan("chat", False, agent) == plan("embeddings", True, agent) == Plan()


@pytest.mark.parametrize(
    ("endpoint", "base64", "answer", "stream"),
    [
        ("chat", False, True, True),
        ("agents", False, True, True),
        ("fim", False, True, True),
        ("embeddings", True, True, False),
        ("embeddings", False, False, False),
        ("ocr", False, False, False),
        (None, False, False, False),
    ],
)
def test_plan(endpoint: str | None, base64: bool, answer: bool, stream: bool) -> None:
    """The request alone says whether an answer or a stream could need anything."""
    ours = plan(endpoint, base64, "")
    assert (ours.rewrites_answer, ours.rewrites_stream) == (answer, stream)
    pieces = iter([b"a"])
    assert (ours.events(pieces) is pieces) is not stream


# ---------------------------------------------------------------------------------------------------------------- streams

REASONING = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Two and "}]}]}),
    chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "two."}]}]}),
    chunk({"content": [{"type": "text", "text": "Fo"}]}),
    chunk({"content": "ur"}),
    chunk({"content": ".\u2028"}, "stop"),
    b"data: [DONE]\n\n",
]


def test_streamed_reasoning() -> None:
    """Thoughts and text of a stream arrive apart, from the first chunk to the last."""
    seen = deltas(b"".join(REASONING))
    assert "".join(delta["content"] for delta in seen) == "Four.\u2028"
    assert "".join(delta.get("reasoning_content", "") for delta in seen) == "Two and two."
    assert through(*REASONING).endswith(REASONING[-2] + REASONING[-1])


def test_openai_reads_streamed_reasoning() -> None:
    """The SDK of OpenAI reads such a stream to its end."""
    stream = openai_client(upstream(200, SSE, b"".join(REASONING))).chat.completions.create(model="m", messages=[], stream=True)
    seen = [one.choices[0].delta for one in stream]
    assert "".join(delta.content or "" for delta in seen) == "Four.\u2028"
    assert "".join(getattr(delta, "reasoning_content", "") for delta in seen) == "Two and two."


def test_tool_calls_beside_reasoning_and_their_indexes() -> None:
    """A new id is the next index, a known one keeps its own, no id goes on with the latest; other choices count by themselves."""

    def call(name: str = "", **more: object) -> dict[str, object]:
        return {"function": {"name": name, "arguments": "x"}, **more}

    stream = b"".join(
        [
            chunk({"content": [FOUR], "tool_calls": [call("f", id="a"), call("g", id="b")]}),
            chunk({"tool_calls": [call(id="a")]}),
            chunk({"tool_calls": [call()]}),
            chunk({"tool_calls": [call(id="b", index=None)]}),
            chunk({"tool_calls": [call(id="a")]}),
            chunk({"tool_calls": [call("h", id="c")]}),
            chunk({"tool_calls": [call()]}, index=1),
            chunk({"tool_calls": [call("i", id="d", index=7), call("j", id="e")]}),
            chunk({"tool_calls": [call("k")]}),
            chunk({"tool_calls": [call(id="null")]}),
            chunk({"tool_calls": [call(id="d", type="function")]}, "tool_calls"),
        ]
    )
    seen = [call for delta in deltas(stream) for call in delta["tool_calls"]]
    assert [call["index"] for call in seen] == [0, 1, 0, 0, 1, 0, 2, 0, 7, 8, 9, 9, 7]
    assert {call["type"] for call in seen} == {"function"}
    assert deltas(stream)[0]["content"] == "Four."


def tool_stream(*calls: object) -> bytes:
    return b"".join(chunk({"tool_calls": [call]}) for call in calls) + chunk({"content": ""}, "tool_calls") + b"data: [DONE]\n\n"


@pytest.mark.parametrize("again", [{"id": "null"}, {"id": "abcdefghi"}, {"id": ""}, {"id": None}, {}])
def test_openai_puts_the_pieces_of_a_call_together(again: dict[str, object]) -> None:
    """Whatever stands for the id in a further piece: the call has the id of its first, and all of its arguments."""
    stream = tool_stream(
        {"index": 0, "id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": '{"a"'}},
        {"index": 0, **again, "function": {"name": "", "arguments": ":1}"}},
    )
    with openai_client(upstream(200, SSE, stream)).chat.completions.stream(model="m", messages=[]) as events:
        (call,) = events.get_final_completion().choices[0].message.tool_calls or []
    assert (call.id, call.function.name, call.function.arguments) == ("abcdefghi", "f", '{"a":1}')


def test_parallel_calls_with_one_index_are_told_apart() -> None:
    """Two calls that both come with index 0 are two; further pieces go to the latest, or to the one whose id they have."""
    stream = tool_stream(
        {"index": 0, "id": "aaaaaaaaa", "type": "function", "function": {"name": "f", "arguments": "{"}},
        {"index": 0, "id": "aaaaaaaaa", "function": {"name": "f", "arguments": "}"}},
        {"index": 0, "id": "bbbbbbbbb", "type": "function", "function": {"name": "g", "arguments": "{"}},
        {"index": 0, "function": {"arguments": "}"}},
        {"index": 0, "id": "aaaaaaaaa", "function": {"arguments": " "}},
    )
    with openai_client(upstream(200, SSE, stream)).chat.completions.stream(model="m", messages=[]) as events:
        calls = events.get_final_completion().choices[0].message.tool_calls or []
    assert [(call.id, call.function.arguments) for call in calls] == [("aaaaaaaaa", "{} "), ("bbbbbbbbb", "{}")]


def test_arguments_as_an_object_become_text() -> None:
    """Mistral's schema allows both; OpenAI's clients read text only. The numbers keep their bytes."""
    call = b'{"id":"abcdefghi","index":0,"type":"function","function":{"name":"f","arguments":{"a": 1.10}}}'
    whole = b'{"choices":[{"index":0,"finish_reason":"tool_calls","message":{"role":"assistant","tool_calls":[' + call + b"]}}]}"
    made = openai_client(upstream(200, JSON, whole)).chat.completions.create(model="m", messages=[]).choices[0].message.tool_calls
    assert made is not None
    assert made[0].function.arguments == '{"a": 1.10}'
    seen = decoded(through(b'data: {"choices":[{"delta":{"tool_calls":[' + call + b"]}}]}\n\n"))
    assert seen[0]["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] == '{"a": 1.10}'


def test_openai_puts_kept_chunks_together() -> None:
    """References in two chunks of one stream: its helper wants an index on each, and gives them all."""
    reference = {"type": "reference", "reference_ids": [1]}
    stream = chunk({"content": [FOUR, reference]}) + chunk({"content": [{**reference, "reference_ids": [2]}]}, "stop")
    client = openai_client(upstream(200, SSE, stream + b"data: [DONE]\n\n"))
    with client.chat.completions.stream(model="m", messages=[]) as events:
        message = events.get_final_completion().choices[0].message
    assert message.content == "Four."
    kept = [(one["index"], one["reference_ids"]) for one in message.content_chunks]  # type: ignore[attr-defined]
    assert kept == [(0, [1]), (1, [2])]


@pytest.mark.parametrize(
    "event",
    ['{"detail":"boom"}', '{"message":"boom","type":"t","code":"3000"}', '{"error":"boom"}', '{"error":{"message":"boom"}}'],
)
def test_errors_of_any_shape_in_a_stream_are_raised(event: str) -> None:
    """An event that is no chunk and says what went wrong is an error to the SDK of OpenAI, with its text."""
    client = openai_client(upstream(200, SSE, chunk({"content": "a"}) + f"data: {event}\n\n".encode()))
    stream = client.chat.completions.create(model="m", messages=[], stream=True)
    next(stream)
    with pytest.raises(openai.APIError, match="boom"):
        next(stream)


def test_complete_tool_calls_keep_their_bytes() -> None:
    """A chunk whose calls have index and type is looked at and passed on as it came."""
    calls = [{"id": "a", "index": 0, "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    stream = chunk({"role": "assistant", "content": "", "tool_calls": calls}, "tool_calls")
    assert through(stream) == stream


def test_streamed_finish_reasons() -> None:
    """``model_length`` is ``length`` in a stream too."""
    assert decoded(through(chunk({"content": "a"}, "model_length")))[0]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_streamed_error(end: bytes) -> None:
    """Where the model failed an error event follows the chunk, whose text is kept, and the stream goes on."""
    last = chunk({"content": "b"}, "error").replace(b"\n", end)
    seen = through(chunk({"role": "assistant"}) + chunk({"content": "a"}) + b"id: 1" + end + last + b"data: [DONE]" + end + end)
    _, first, second, third = decoded(seen)
    assert [first["choices"][0]["delta"], second["choices"][0]["delta"]] == [{"content": "a"}, {"content": "b"}]
    assert second["choices"][0]["finish_reason"] is None
    assert third["error"]["code"] == "upstream_finish_error"
    assert seen.endswith(b"}" + end + end + b"data: [DONE]" + end + end)


def test_openai_raises_for_a_streamed_error() -> None:
    """The SDK of OpenAI gives the text so far and raises with the sentence."""
    stream = chunk({"content": "a"}) + chunk({"content": "b"}, "error") + b"data: [DONE]\n\n"
    chunks = openai_client(upstream(200, SSE, stream)).chat.completions.create(model="m", messages=[], stream=True)
    assert [next(chunks).choices[0].delta.content, next(chunks).choices[0].delta.content] == ["a", "b"]
    with pytest.raises(openai.APIError, match="The model stopped with an error"):
        next(chunks)


def test_mistrals_flat_error_as_an_event() -> None:
    """An error in Mistral's own shape inside a stream is one that the SDK of OpenAI raises."""
    stream = b'data: {"object":"error","message":"Overloaded","type":"t","code":"9","raw_status_code":503}\n\n'
    with pytest.raises(openai.APIError, match="Overloaded"):
        next(iter(openai_client(upstream(200, SSE, stream)).chat.completions.create(model="m", messages=[], stream=True)))
    bare = b'data: {"object":"error","raw_status_code":429}\n\ndata: {"object":"error"}\n\n'
    assert [one["error"]["type"] for one in decoded(through(bare))] == ["rate_limit_error", "server_error"]


# ------------------------------------------------------------------------------------------------- first deltas without a role


@pytest.mark.parametrize("role", [{}, {"role": None}, {"role": ""}])
def test_the_first_delta_of_each_choice_gets_a_role(role: dict[str, object]) -> None:
    """Where it has none; no other delta does, and what needs nothing keeps its bytes."""
    first, more = chunk({**role, "content": "a"}), chunk({"content": "b"})
    other = chunk({**role, "content": "c"}, index=1)
    assert [delta.get("role") for delta in deltas(first + more + other + more + chunk({"content": "d"}, index=1))] == [
        "assistant",
        None,
        "assistant",
        None,
        None,
    ]
    assert through(first + more).endswith(more)


def test_a_role_that_is_there_stays() -> None:
    """A stream as Mistral sends it keeps every byte, whatever choice comes first, and beyond the choices that are counted."""
    begin = b"".join(chunk({"role": "assistant", "content": ""}, index=index) for index in range(20))
    stream = begin + b"".join(chunk({"content": "a"}, index=index) for index in (19, 0, 7)) + b"data: [DONE]\n\n"
    assert through(stream) == through(*one_by_one(stream)) == stream
    late = chunk({"role": "assistant"}, index=1) + chunk({"role": "assistant"}) + chunk({"content": "a"}, index=1)
    assert through(late) == late


def test_a_chunk_without_a_choice_begins_none() -> None:
    """The role is put where the first delta is; a choice without an index is the first."""
    empty = chunk({}).replace(b'[{"index": 0, "delta": {}, "finish_reason": null}]', b"[]")
    assert through(empty) == empty
    assert [delta.get("role") for delta in deltas(empty + chunk({}) + chunk({}))] == ["assistant", None]
    seen = decoded(through(b'data: {"choices":[{"delta":{}}]}\n\n' * 2))
    assert [one["choices"][0]["delta"] for one in seen] == [{"role": "assistant"}, {}]


# -------------------------------------------------------------------------------------------- calls whose id or name is repeated


def field_case(name: str) -> bytes:
    """The stream of a public report, as it was filed; see ``proxy/field_answers.jsonl``."""
    lines = (Path(__file__).parent / "field_answers.jsonl").read_text().splitlines()
    return next(case["body"] for case in map(json.loads, lines) if case["id"] == name).encode()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("A02", [("chatcmpl-tool-b6f76882211cffb5", '{"path": "a"}'), ("chatcmpl-tool-b6f76882211cfff6", '{"path": "b"}')]),
        ("A02b", [("chatcmpl-tool-b6f76882211cffb5", '{"path": "a"}')]),
    ],
)
def test_a_piece_under_a_new_id_stays_with_its_call(name: str, expected: list[tuple[str, str]]) -> None:
    """zai-glm-5-2 changes the id from piece to piece (mistralai/mistral-vibe#1127), perhaps repeating the name."""
    with openai_client(upstream(200, SSE, field_case(name))).chat.completions.stream(model="m", messages=[]) as events:
        calls = events.get_final_completion().choices[0].message.tool_calls or []
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        (id, "read", arguments) for id, arguments in expected
    ]


@pytest.mark.parametrize("parts", [["", '{"a":', "1}"], ['{"a"', ":1}"], ["", "", '{"a":1}']])
def test_a_repeated_name_goes_on_with_a_call_that_is_not_whole(parts: list[str]) -> None:
    """Each piece has the name and an id of its own: they are one call."""
    stream = tool_stream(
        *({"index": 0, "id": f"id{i}", "function": {"name": "f", "arguments": part}} for i, part in enumerate(parts))
    )
    with openai_client(upstream(200, SSE, stream)).chat.completions.stream(model="m", messages=[]) as events:
        (call,) = events.get_final_completion().choices[0].message.tool_calls or []
    assert (call.id, call.function.name, call.function.arguments) == ("id0", "f", '{"a":1}')


def test_a_whole_call_is_followed_by_another_one() -> None:
    """The same name three times, each with all its arguments and index 0, are three calls, as Mistral streams them."""
    stream = tool_stream(
        *({"index": 0, "id": f"aaaaaaaa{i}", "function": {"name": "dice", "arguments": f'{{"n":{i}}}'}} for i in range(3))
    )
    with openai_client(upstream(200, SSE, stream)).chat.completions.stream(model="m", messages=[]) as events:
        calls = events.get_final_completion().choices[0].message.tool_calls or []
    assert [(call.id, call.function.arguments) for call in calls] == [(f"aaaaaaaa{i}", f'{{"n":{i}}}') for i in range(3)]


# ------------------------------------------------------------------------------------------------------- errors that are no event


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n", "\n\ndata: [DONE]\n\n"])
@pytest.mark.parametrize("before", [b"", chunk({"role": "assistant", "content": "a"}), b": ping\n\n"])
def test_a_bare_line_of_an_error_becomes_an_event(before: bytes, end: str) -> None:
    """mistralai/mistral-vibe#1104: the SDK of OpenAI raises with its sentence instead of ending without a word."""
    stream = before + field_case("A04").rstrip() + end.encode()
    assert decoded(through(*one_by_one(stream))) == decoded(through(stream))
    with pytest.raises(openai.APIError, match="Tool call id was"):
        list(openai_client(upstream(200, SSE, stream)).chat.completions.create(model="m", messages=[], stream=True))


def test_a_bare_line_is_an_event_as_soon_as_it_has_ended() -> None:
    """The upstream may leave the connection open."""
    events = CHAT.events(iter([b'{"object":"error",', b'"message":"m"}\n', b"never asked for"]))
    assert b'data: {"object":"error","message":"m","error":{"message":"m"' in next(events)


def test_an_error_over_several_lines_becomes_an_event() -> None:
    """As an error that is written for people."""
    (one,) = decoded(through(b'{\n "detail": [\n  {"loc": ["body", "x"], "msg": "no"}\n ]\n}\n'))
    assert one["error"]["message"] == "x: no"


def test_data_over_several_lines_becomes_one_line() -> None:
    """Line ends between the values that stay are white space of JSON, and would end the data."""
    stream = b'data: {"a":[1,\ndata: 2],"choices":[{"delta":{"content":[{"type":"text","text":"a"}]}}]}\n\n'
    (one,) = decoded(through(stream))
    assert (one["a"], one["choices"][0]["delta"]["content"]) == ([1, 2], "a")


def test_an_error_that_openai_clients_read_already_becomes_an_event_too() -> None:
    """Nothing is put into it."""
    assert through(b'{"error":{"message":"m"}}\n') == b'data: {"error":{"message":"m"}}\n\n'


@pytest.mark.parametrize("line", [b"{}", b'{"a":1}', b'{"choices":[]}', b"{broken}", b"{", b'{"object":"chat"}'])
def test_other_bare_lines_stay(line: bytes) -> None:
    """A line that is no error says nothing to a client, and keeps its bytes."""
    for end in (b"", b"\n", b"\r\n\r\n"):
        assert through(line + end) == through(*one_by_one(line + end)) == line + end


UNTOUCHED = [
    b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n',
    b": a comment\n\n",
    b": thinking model_length\r\n\r\n",
    b"\xef\xbb\xbfdata: [DONE]\n\n",
    b'event: x\nid: 1\nretry: 5\ndata: {"choices":[]}\n\n',
    b'data: {"choices":\ndata: [{"delta":{"content":"a"}}]}\n\n',
    b'data: {"error":{"message":"upstream"}}\n\n',
    b'data: {"object":"chat.completion.chunk"}\n\n',
    b"data\ndata:\n\n",
    b"data: [DONE]\n\ndata: [DONE]\n\n",
    b"\n\n\r\r\r\n",
    b"data: no JSON \xff\x00\n\n",
    b'data: {"choices":[{"delta":{"content":"\xc3\xa9\xe2\x80\xa8\xc2\x85"}}]}\r\r',
    b'idata: {"choices":[{"delta":{"content":[]}}]}\n\n',
]


@pytest.mark.parametrize("stream", [*UNTOUCHED, b"".join(UNTOUCHED)])
def test_untouched_streams(stream: bytes) -> None:
    """A stream without anything to rewrite arrives byte for byte, whole or in pieces of one byte."""
    stream = UNTOUCHED[0] + stream
    assert through(stream) == stream
    assert through(*one_by_one(stream)) == stream


def test_a_piece_without_anything_to_rewrite_is_the_same_object() -> None:
    """The usual piece, one plain event, is not even copied."""
    piece = chunk({"content": "a"})
    events = CHAT.events(iter([chunk({"role": "assistant"}), piece]))
    assert [next(events), next(events)][1] is piece


def test_other_lines_of_an_event_stay() -> None:
    """In a rewritten event only the data changes, and becomes one line: mark, comments, other fields and line ends stay."""
    stream = (
        b'\xef\xbb\xbfdata: {"choices":[{"delta":\r\n: c\r\nevent: e\r\ndata:{"role":"assistant","content":\r\n'
        b'data: [{"type":"text","text":"a"}]}\r\ndata: }]}\r\nid: 7\r\n\r\n'
    )
    seen = b'\xef\xbb\xbf: c\r\nevent: e\r\ndata: {"choices":[{"delta":{"role":"assistant","content":"a"}}]}\r\nid: 7\r\n\r\n'
    assert through(stream) == through(*one_by_one(stream)) == seen


END = st.sampled_from([b"\n", b"\r\n", b"\r"])
DATA = st.sampled_from(
    [
        *(piece[6:-2] for piece in REASONING),
        chunk({"content": "é\u2028"}, "error")[6:-2],
        chunk({"tool_calls": [{"function": {"name": "f"}}]}, "model_length")[6:-2],
        b'{"object":"error","message":"m"}',
        b'{"choices":[{"delta":{"content":"\xe2\x80\xa8\xc2\x85"}}]}',
        b'{"choices":[{"delta":{"content":\n[{"type":"text","text":"a"}]}}]}',
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    stream = b""
    for _ in range(draw(st.integers(1, 5))):
        end = draw(END)
        lines = draw(st.lists(st.sampled_from([b": c", b"id: 1", b"event: e", b"x"]), max_size=2))
        lines.insert(draw(st.integers(0, len(lines))), b"data: " + draw(DATA).replace(b"\n", end + b"data: "))
        stream += b"".join(line + end for line in lines) + draw(END) * draw(st.integers(1, 2))
    return stream[: len(stream) - draw(st.integers(0, 20))]


def test_two_events_with_different_line_ends_in_one_piece() -> None:
    """What looks like one event by its first and last bytes may be two."""
    first, second = (event[:-2] for event in REASONING[1:3])
    seen = through(first + b"\r\r" + second + b"\n\n")
    assert seen.startswith(through(first + b"\r\r"))
    assert [delta["reasoning_content"] for delta in deltas(first + b"\r\r" + second + b"\n\n")] == ["Two and ", "two."]


def cut(stream: bytes, places: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return (stream[a:b] for a, b in pairwise(edges))


@given(streams(), st.lists(st.integers(0, 10_000), max_size=10))
def test_any_split_gives_the_same_bytes(stream: bytes, places: list[int]) -> None:
    """Where the network cuts a stream changes nothing in what the client reads."""
    assert through(*cut(stream, places)) == through(*one_by_one(stream)) == through(stream)


@given(st.binary() | streams().flatmap(lambda s: st.binary().map(lambda b: s + b)), st.lists(st.integers(0, 10_000), max_size=5))
def test_any_bytes_pass(stream: bytes, places: list[int]) -> None:
    """No bytes from upstream make a stream fail, however they are cut."""
    assert through(*cut(stream, places)) == through(stream)


SOUND = [
    dump({"detail": [NAME]}),
    dump({"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": [{"type": "text", "text": "a"}]}}]}),
    dump({"choices": [{"index": 0, "message": {"tool_calls": [{"id": "a", "function": {"name": "f"}}]}}]}),
    dump({"object": "error", "raw_status_code": 500, "message": "m"}),
    dump({"data": [{"embedding": [0.5]}]}),
]


@pytest.mark.parametrize("sound", SOUND)
@pytest.mark.parametrize("byte", [b"\xff", b"\x00", b'"', b"[", b"{", b"9", b"e", b"\\", b"\n"])
def test_damaged_bytes_pass(sound: bytes, byte: bytes) -> None:
    """One wrong byte anywhere in an answer, an event or an error makes nothing fail."""
    for i in range(len(sound)):
        damaged = sound[:i] + byte + sound[i + 1 :]
        for ours in (CHAT, BASE64):
            assert ours.whole(200, JSON, damaged)
        assert through(b"data: " + damaged + b"\n\n")
        assert json.loads(error_answer(500, JSON, damaged)[1].decode(errors="replace"))["error"]["message"]


@given(ANY_JSON)
def test_any_json_passes(value: object) -> None:
    """No JSON from upstream makes an answer or a stream fail, other than by the model's own failure; both stay JSON."""
    for ours in (CHAT, plan("embeddings", True, "")):
        with suppress(UpstreamError):
            json.loads(ours.whole(200, JSON, dump(value)))
    for data in decoded(through(b"data: " + dump(value) + b"\n\n")):
        json.dumps(data)


@given(streams(), st.lists(st.integers(0, 10_000), max_size=10))
def test_events_are_not_held_back(stream: bytes, places: list[int]) -> None:
    """After each piece everything is out up to the end of the last whole event."""
    received = b""
    out = b""
    pieces: list[bytes] = []

    def arriving() -> Iterator[bytes]:
        nonlocal received
        for piece in cut(stream, places):
            # Asked for the next piece: all that was whole before is out.
            whole = max((received.rfind(end) + len(end) for end in (b"\n\n", b"\r\r", b"\r\n\r") if end in received), default=0)
            assert len(out) >= len(through(received[:whole]))
            received += piece
            yield piece

    for piece in CHAT.events(arriving()):
        pieces.append(piece)
        out += piece


def test_a_cut_stream_ends_as_it_came() -> None:
    """At whatever byte a plain stream ends, the client receives exactly what the upstream sent."""
    stream = b": c\r\n\r\n" + chunk({"role": "assistant", "content": "é"}) + b"data: [DONE]\n\n"
    for end in range(len(stream) + 1):
        assert through(*one_by_one(stream[:end])) == stream[:end]


def test_a_break_comes_after_what_was_whole() -> None:
    """An exception from upstream passes through after the whole events; the part of one is left out, so another can follow."""

    def breaking(*pieces: bytes) -> Iterator[bytes]:
        yield from pieces
        raise UpstreamError("upstream_cut", "cut")

    for last in (b'data: {"choi', REASONING[4][:-1], REASONING[4][:-2]):
        for pieces in ([REASONING[1] + REASONING[2] + last], [REASONING[1] + REASONING[2], last]):
            events = CHAT.events(breaking(*pieces))
            assert next(events) == through(*REASONING[1:3])
            with pytest.raises(UpstreamError, match="cut"):
                next(events)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r"])
def test_large_events_pass_unlooked(end: bytes) -> None:
    """An event of over a mebibyte goes out as it came, piece by piece; one of just that is rewritten, and so are the next."""
    event = b'data: {"choices":[{"delta":{"content":[{"type":"text","text":"'
    tail = b'"}]}}]}'
    just = event + b"a" * (MAX_EVENT - len(event) - len(tail)) + tail
    large = just.replace(tail, b"a" + tail)
    behind = REASONING[1].replace(b'"content"', b'"role": "assistant", "content"')
    for stream, seen in (
        (large + end + behind, large + end + through(behind)),
        (just + end + behind, through(just + end) + through(behind)),
        (large + end + large + end + behind, (large + end) * 2 + through(behind)),
    ):
        assert through(stream) == seen
        for size in (65_536, 65_535, MAX_EVENT + 1, MAX_EVENT + 2):
            pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
            assert through(*pieces) == seen
            tail_pieces = [
                stream[: len(large) - 1],
                *one_by_one(stream[len(large) - 1 : len(large) + 10]),
                stream[len(large) + 10 :],
            ]
            assert through(*tail_pieces) == seen
    assert through(just + end) != just + end
    assert through(large + end) == large + end
    lines = b": x\n" * (MAX_EVENT // 3) + behind.rstrip() + end + behind
    for size in (65_533, 65_534, 65_535, 65_536):
        seen = through(*(lines[i : i + size] for i in range(0, len(lines), size)))
        assert seen == lines.removesuffix(behind) + through(behind)
    unfinished = CHAT.events(iter([large, b"b"]))
    assert [next(unfinished), next(unfinished)] == [large, b"b"]


# ------------------------------------------------------------------------------------------------------------- embeddings


def embeddings(*vectors: object) -> bytes:
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    return dump({"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}})


def test_embeddings_become_base64() -> None:
    """Lists of numbers become base64 of little-endian float32; the bytes are compared with struct's."""
    seen = json.loads(BASE64.whole(200, JSON, embeddings([0.1, -2, 3e-5], [])))
    assert b64decode(seen["data"][0]["embedding"]) == struct.pack("<3f", 0.1, -2, 3e-5)
    assert (seen["data"][1]["embedding"], seen["usage"]["total_tokens"]) == ("", 1)


def test_openai_reads_embeddings() -> None:
    """The SDK of OpenAI, which asks for base64 of its own accord, reads the numbers that Mistral sent."""
    client = openai_client(upstream(200, JSON, embeddings([0.5, -0.25]), endpoint="embeddings"))
    assert client.embeddings.create(model="m", input="a").data[0].embedding == [0.5, -0.25]


@pytest.mark.parametrize("vector", ["AAAA", None, [None], ["a"], {}, [[1.0]]])
def test_other_embeddings_stay(vector: object) -> None:
    """A string, or what is not a list of numbers, is passed on as the same object."""
    body = embeddings(vector)
    assert BASE64.whole(200, JSON, body) is body
    assert b64decode(json.loads(BASE64.whole(200, JSON, embeddings(vector, [1])))["data"][1]["embedding"]) == struct.pack("<f", 1)


def test_a_large_answer_of_embeddings_is_rewritten_as_it_comes() -> None:
    """However it is cut, the bytes are those of the answer that was read whole, and little is held at a time."""
    body = embeddings(*([i / 7, -2.5e-5, i] for i in range(40)), "AAAA", [None])
    expected = BASE64.whole(200, JSON, body)
    assert expected != body
    for size in (1, 2, 7, 64, 1000, len(body)):
        pieces = list(BASE64.pieces(body[at : at + size] for at in range(0, len(body), size)))
        assert b"".join(pieces) == expected
        assert max(map(len, pieces)) < 200 + size


def test_numbers_beyond_every_embedding_pass() -> None:
    """They are not held, and those that follow are rewritten."""
    body = embeddings([1.5] * (MOST_HELD // 3), [0.5])
    seen = json.loads(b"".join(BASE64.pieces(body[at : at + 65536] for at in range(0, len(body), 65536))))["data"]
    assert seen[0]["embedding"] == [1.5] * (MOST_HELD // 3)
    assert b64decode(seen[1]["embedding"]) == struct.pack("<f", 0.5)


@pytest.mark.parametrize("value", [{"a": 'x "embedding":[1] y'}, {'a"embedding': [1]}, {"a": ["embedding", [1]]}])
def test_what_looks_like_an_embedding_stays(value: object) -> None:
    """Text in a string, the end of another key, and a value."""
    for body in (dump(value), json.dumps(value, separators=(",", ":")).encode()):
        assert BASE64.whole(200, JSON, body) is body


def test_a_large_answer_has_the_clients_own_names() -> None:
    """However it is cut."""
    plan = Plan(completions=True, tool_names={"a_b_12345678": "a.b"})
    call = {"id": "c", "type": "function", "function": {"name": "a_b_12345678", "arguments": '{"name":"a_b_12345678"}'}}
    body = dump({"choices": [{"message": {"content": "{x} " * 50, "tool_calls": [call] * 5}}]})
    expected = plan.whole(200, JSON, body)
    assert expected.count(b"a.b") == 5
    for size in (1, 2, 7, 64, 1000):
        assert b"".join(plan.pieces(body[at : at + size] for at in range(0, len(body), size))) == expected


@pytest.mark.parametrize("value", ["{}", "1", '"a"', '{"type":"text"}', '{"a":{}}'])
@pytest.mark.parametrize("place", ['{"choices":[@]}', '{"choices":[{"message":{"content":[@]}}]}'])
def test_an_answer_of_very_many_values_is_not_opened(place: str, value: str) -> None:
    """Whole or as an event it stays; a long text full of commas is one value."""
    body = place.replace("@", ",".join([value] * (MOST_VALUES + 2))).encode()
    assert not is_simple(body)
    assert CHAT.whole(200, JSON, body) is body
    event = b"data: " + body + b"\n\n"
    assert list(CHAT.events(iter([event]))) == [event]
    text = place.replace("@", json.dumps({"type": "text", "text": '1,{}["' * MOST_VALUES})).encode()
    assert is_simple(text)


def test_very_many_lone_surrogates_pass() -> None:
    """In an answer and in a stream, which stay as they came, and in an error, which gets a message."""
    text = r"\ud800" * 20_001
    body = dump({"choices": [{"message": {"content": [{"type": "text", "text": "@"}]}}], "detail": "no"})
    body = body.replace(b"@", text.encode())
    assert CHAT.whole(200, JSON, body) is body
    event = b"data: " + body + b"\n\n"
    assert list(CHAT.events(iter([event]))) == [event]
    assert json.loads(error_answer(422, JSON, body)[1])["error"]["message"]
