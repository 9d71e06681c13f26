"""Real Python clients, from their own sockets through gunicorn as it is deployed to a stand-in for Mistral.

``/v1`` and ``/sandbox/v1`` lead to the sandbox, which refuses what Mistral refuses; ``/scripted/v1`` to the scripted upstream,
which shows what came and answers what a test says.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import openai
import pytest
import tiktoken
from mistralai.client import Mistral
from mistralai.client.errors import SDKError
from openai import AsyncOpenAI, OpenAI
from servers import DEADLINE, Gunicorn, Sandbox, ask
from upstream import Event, Exchange, ScriptedUpstream, event_bytes, json_answer, sse

from mistral_filter.sandbox import NO_MODEL, RESULT_CAME, broken_rule, violations

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

Json = dict[str, Any]

KEY = "none"
MODEL = "mistral-small-latest"
SAID = NO_MODEL
USER = {"role": "user", "content": "Hi"}
ASKING = {"role": "user", "content": 'Call weather {"city": "Paris"}'}
"""What the stand-in takes as a wish for a tool call; it calls none by itself."""
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris"]}}, "required": ["city"]},
        },
    }
]
PDF = "data:application/pdf;base64,JVBERi0xLjQ="


def completion(**message: Any) -> Json:
    """A whole answer as Mistral sends one."""
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    choice = {"index": 0, "message": {"role": "assistant", "content": "ok", **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice], "usage": usage}


def chunk(finish: str | None = None, **delta: Any) -> Json:
    """A piece of a streamed answer as Mistral sends one; the last one has a *finish* reason and the usage."""
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    usage = {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}} if finish else {}
    return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **usage}


WORDS = ["One ", "two ", "three."]
EVENTS: list[Event] = [chunk(role="assistant", content=WORDS[0]), chunk(content=WORDS[1]), chunk(content=WORDS[2])]
END: list[Event] = [chunk("stop", content=""), "[DONE]"]


class Lockstep:
    """A script for an event stream in which each event waits until the client has told that it has the one before.

    So no clock is needed: a proxy that holds an event back shows in ``log``, where sending and arriving no longer alternate.
    """

    def __init__(self, events: Iterable[Event] = EVENTS, end: Iterable[Event] | None = END) -> None:
        """After the *events* the *end* comes without waiting; without one the connection is cut instead."""
        self.log: list[str] = []
        self._events, self._end = list(events), end
        self._seen = threading.Semaphore(0)

    def __call__(self, exchange: Exchange) -> None:
        exchange.head(200, [("Content-Type", "text/event-stream; charset=utf-8"), ("Transfer-Encoding", "chunked")])
        for event in self._events:
            self.log.append("sent")
            exchange.chunk(event_bytes(event))
            self._seen.acquire(timeout=DEADLINE)
        if self._end is None:
            return
        for event in self._end:
            exchange.chunk(event_bytes(event))
        exchange.send(b"0\r\n\r\n")
        exchange.keep_alive()

    def seen(self, what: object) -> None:
        """The client has *what*; an empty piece counts for nothing."""
        if what:
            self.log.append(str(what))
            self._seen.release()

    @staticmethod
    def expected(pieces: Iterable[object]) -> list[str]:
        return [entry for piece in pieces for entry in ("sent", str(piece))]


@pytest.fixture(autouse=True)
def _nothing_of_the_developers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients in this process read the environment: proxies, keys, addresses, tracing."""
    for name in os.environ:
        if name.upper().startswith(("OPENAI_", "MISTRAL_", "LANGCHAIN_", "LANGSMITH_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)


def start_proxy(start: Callable[..., Gunicorn], sandbox: Sandbox, scripted: ScriptedUpstream, fields: str) -> Gunicorn:
    """The server of all client tests: one for each list of fields."""
    named = f"sandbox={sandbox.url} scripted={scripted.url}"
    return start(MISTRAL_FILTER_UPSTREAM=sandbox.url, MISTRAL_FILTER_UPSTREAMS=named, MISTRAL_FILTER_FIELDS=fields)


@pytest.fixture(params=["classic", "current"])
def fields(request: pytest.FixtureRequest) -> str:
    """The list of chat fields."""
    return str(request.param)


@pytest.fixture
def proxy(fields: str, shared_servers: Callable[..., Gunicorn], sandbox: Sandbox, shared_upstream: ScriptedUpstream) -> Gunicorn:
    return start_proxy(shared_servers, sandbox, shared_upstream, fields)


@pytest.fixture
def client(proxy: Gunicorn) -> Iterator[OpenAI]:
    """openai-python, to the sandbox."""
    with OpenAI(base_url=f"{proxy.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def scripted(proxy: Gunicorn, upstream: ScriptedUpstream) -> Iterator[OpenAI]:
    """openai-python, to the scripted ``upstream``."""
    with OpenAI(base_url=f"{proxy.url}/scripted/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def mistral(proxy: Gunicorn) -> Iterator[Mistral]:
    """Mistral's own client, to the sandbox: it puts /v1 behind the address by itself."""
    with Mistral(api_key=KEY, server_url=proxy.url) as client:
        yield client


@contextmanager
def langchain(proxy: Gunicorn, path: str = "/v1", model: str = MODEL, **options: Any) -> Iterator[ChatOpenAI]:
    from langchain_openai import ChatOpenAI  # here: each process collects this file, and the import takes two seconds

    with openai.DefaultHttpxClient() as http:
        yield ChatOpenAI(model=model, base_url=proxy.url + path, api_key=KEY, max_retries=0, http_client=http, **options)


def call_id(number: int) -> str:
    """An id of OpenAI's form, which Mistral refuses."""
    return f"call_{number}aB3dE5fG7hI9jK1lM3nO5pQ"


def called(*numbers: int) -> Json:
    """An assistant message whose calls bear ids of OpenAI's form."""
    function = {"name": "weather", "arguments": '{"city": "Paris"}'}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id(number), "type": "function", "function": function} for number in numbers],
    }


def result(number: int, content: str) -> Json:
    return {"role": "tool", "tool_call_id": call_id(number), "content": content}


def accepted(body: Json) -> bool:
    """Whether the stand-in's rules, which are Mistral's, have nothing to say."""
    return violations(body, "chat") == [] and broken_rule(body) is None


# --------------------------------------------------------------------------------------------------------------- openai


@pytest.mark.parametrize("base", ["/v1", "/v1/", "", "/v1/v1", "/sandbox/v1"])
def test_openai_gets_an_answer_under_every_base_url(proxy: Gunicorn, base: str) -> None:
    """The chat call of openai-python works with all the base URLs that people write."""
    with OpenAI(base_url=proxy.url + base, api_key=KEY, max_retries=0) as client:
        answer = client.chat.completions.create(model=MODEL, messages=[USER])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (SAID, "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_openai_streams(client: OpenAI) -> None:
    """A streamed answer comes in pieces that make the whole text, and the usage that was asked for ends it."""
    with client.chat.completions.create(
        model=MODEL, messages=[USER], stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    texts = [chunk.choices[0].delta.content for chunk in chunks]
    assert "".join(text or "" for text in texts) == SAID
    assert len([text for text in texts if text]) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_openai_receives_each_piece_before_the_next_is_sent(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """No event of a stream waits for another: the upstream sends the next only when the client has the one before."""
    upstream.script = script = Lockstep()
    with scripted.chat.completions.create(model=MODEL, messages=[USER], stream=True) as stream:
        for piece in stream:
            script.seen(piece.choices[0].delta.content)
    assert script.log == Lockstep.expected(WORDS)


def test_openai_fields_reach_mistral_under_its_names(scripted: OpenAI, upstream: ScriptedUpstream, fields: str) -> None:
    """What has a counterpart arrives translated, what only ``current`` keeps is in it alone, the rest is gone and reported."""
    upstream.script = json_answer(completion())
    answer = scripted.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi", "name": "Ann"}],
        max_completion_tokens=5,
        seed=3,
        temperature=0.25,
        stop=["x"],
        user="someone",
        store=False,
        logit_bias={"5": 1},
        service_tier="auto",
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        parallel_tool_calls=True,
        reasoning_effort="none",
        metadata={"a": "b"},
        n=1,
    )
    [request] = upstream.requests
    kept_by_current = {
        "service_tier": "auto",
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "parallel_tool_calls": True,
        "reasoning_effort": "none",
        "metadata": {"a": "b"},
        "n": 1,
    }
    assert request.json() == {
        "model": MODEL,
        "messages": [{"role": "system", "content": "Be brief."}, USER],
        "max_tokens": 5,
        "random_seed": 3,
        "temperature": 0.25,
        "stop": ["x"],
        **(kept_by_current if fields == "current" else {}),
    }
    assert accepted(request.json())
    report = answer.headers["mistral-filter-changes"]
    reported = set(re.findall(r'path="([^"]*)"', report))
    assert reported >= {"user", "store", "logit_bias", "messages[*].name", "seed"}
    assert reported & kept_by_current.keys() == (kept_by_current.keys() if fields == "classic" else set())


def test_openai_stream_options_stay_here(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """``stream_options`` does not reach Mistral, which refuses it."""
    upstream.script = sse([*EVENTS, *END])
    with scripted.chat.completions.create(
        model=MODEL, messages=[USER], stream=True, stream_options={"include_usage": True}
    ) as stream:
        assert [bool(chunk.usage) for chunk in stream] == [False, False, False, True]
    [request] = upstream.requests
    assert request.json() == {"model": MODEL, "messages": [USER], "stream": True}


def test_openai_headers_and_key_on_the_way_up(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """The caller's key and user agent reach Mistral; what openai-python tells of the machine does not."""
    upstream.script = json_answer(completion())
    scripted.chat.completions.create(model=MODEL, messages=[USER])
    [request] = upstream.requests
    assert request.header("authorization") == f"Bearer {KEY}"
    assert (request.header("user-agent") or "").startswith("OpenAI/Python")
    assert [name for name, _ in request.headers if name.lower().startswith(("x-stainless", "openai"))] == []


def test_openai_tool_call(client: OpenAI) -> None:
    """A tool call is read as OpenAI's own."""
    answer = client.chat.completions.create(model=MODEL, messages=[ASKING], tools=TOOLS).choices[0]
    assert answer.finish_reason == "tool_calls"
    [call] = answer.message.tool_calls or []
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == ("function", "weather", {"city": "Paris"})


def test_openai_streamed_tool_call(client: OpenAI) -> None:
    """A streamed tool call arrives with the index under which clients gather its pieces."""
    with client.chat.completions.create(model=MODEL, messages=[ASKING], tools=TOOLS, stream=True) as stream:
        choices = [chunk.choices[0] for chunk in stream]
    [call] = [call for choice in choices for call in choice.delta.tool_calls or []]
    assert call.function is not None
    assert (call.index, call.function.name, call.function.arguments) == (0, "weather", '{"city":"Paris"}')
    assert choices[-1].finish_reason == "tool_calls"


FED_BACK: dict[str, Callable[[Any], Any]] = {
    "model_dump": lambda message: message.model_dump(),
    "to_dict": lambda message: message.to_dict(),
    "as it is": lambda message: message,
}


@pytest.mark.parametrize("form", FED_BACK)
def test_openai_tool_loop_begun_elsewhere(client: OpenAI, form: str) -> None:
    """A conversation that began with OpenAI's tool call ids goes on through calls and answers, all of them fed back whole."""
    create, feed = client.chat.completions.create, FED_BACK[form]
    messages: list[Any] = [USER, called(1), result(1, "12 degrees")]
    first = create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
    assert first.content == RESULT_CAME
    messages += [feed(first), ASKING]
    second = create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
    [call] = second.tool_calls or []
    messages += [feed(second), {"role": "tool", "tool_call_id": call.id, "content": "9 degrees"}]
    third = create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
    assert third.content == RESULT_CAME


def test_openai_parallel_calls(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """Parallel calls keep their results, whatever the order of these, under ids that Mistral takes and that stay the same."""
    function = {"name": "weather", "arguments": "{}"}
    given = [{"id": f"abcdefgh{n}", "type": "function", "function": function, "index": n} for n in (0, 1)]
    upstream.script = json_answer(completion(content="", tool_calls=given))
    messages: list[Any] = [USER, called(1, 2), result(2, "two"), result(1, "one")]
    answer = scripted.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
    assert [call.id for call in answer.tool_calls or []] == ["abcdefgh0", "abcdefgh1"]
    messages.append(answer.model_dump())
    messages += [{"role": "tool", "tool_call_id": call.id, "content": call.id} for call in answer.tool_calls or []]
    scripted.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    first, second = (request.json()["messages"] for request in upstream.requests)
    one, two = (call["id"] for call in first[1]["tool_calls"])
    assert one != two
    assert [(message["tool_call_id"], message["content"]) for message in first[2:]] == [(two, "two"), (one, "one")]
    assert second[: len(first)] == first
    assert [message["tool_call_id"] for message in second[5:]] == ["abcdefgh0", "abcdefgh1"]
    assert all(accepted(request.json()) for request in upstream.requests)


def test_openai_parallel_calls_in_a_stream(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """The pieces of two streamed calls are gathered by openai-python's own helper as two calls."""
    calls = [
        {"id": f"abcdefgh{n}", "type": "function", "function": {"name": "weather", "arguments": '{"city"'}, "index": n}
        for n in (0, 1)
    ]
    rest = [{"function": {"name": "", "arguments": ':"Paris"}'}, "index": n} for n in (0, 1)]
    events = [chunk(role="assistant", content="", tool_calls=calls), chunk(tool_calls=rest), chunk("tool_calls", content="")]
    upstream.script = sse([*events, "[DONE]"])
    with scripted.chat.completions.stream(model=MODEL, messages=[USER], tools=TOOLS) as stream:
        gathered = stream.get_final_completion().choices[0].message.tool_calls or []
    assert [call.id for call in gathered] == ["abcdefgh0", "abcdefgh1"]
    assert [call.function.arguments for call in gathered] == ['{"city":"Paris"}'] * 2


def test_openai_pdf_part(scripted: OpenAI, upstream: ScriptedUpstream) -> None:
    """A PDF in a file part arrives as the document that Mistral reads."""
    upstream.script = json_answer(completion())
    part: Any = {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}
    scripted.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": [{"type": "text", "text": "?"}, part]}])
    [request] = upstream.requests
    text, document = request.json()["messages"][0]["content"]
    assert text == {"type": "text", "text": "?"}
    assert (document["type"], document["document_url"]) == ("document_url", PDF)
    assert accepted(request.json())


def test_openai_parses_a_schema(client: OpenAI) -> None:
    """A json_schema format reaches Mistral, and the answer parses."""
    schema: Any = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 7}}, "required": ["n"]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(model=MODEL, messages=[USER], response_format=wanted)
    assert json.loads(answer.choices[0].message.content or "") == {"n": 7}


def straight(sandbox: Sandbox, text: str, **options: Any) -> list[float]:
    """The vector that the stand-in gives without a proxy."""
    body = {"model": "mistral-embed", "input": text, **options}
    vector: list[float] = ask(sandbox.port, "POST", "/v1/embeddings", body, [("Authorization", f"Bearer {KEY}")]).json()["data"][
        0
    ]["embedding"]
    return vector


def test_openai_embeddings(client: OpenAI, sandbox: Sandbox) -> None:
    """openai-python, which asks for base64 unless told otherwise, gets the vectors, in the length it asked for."""
    answer = client.embeddings.create(model="codestral-embed", input=["one", "two"], dimensions=5, user="someone")
    assert [item.embedding for item in answer.data] == [
        straight(sandbox, text, model="codestral-embed", output_dimension=5) for text in ("one", "two")
    ]
    assert {len(item.embedding) for item in answer.data} == {5}


def test_openai_models(client: OpenAI) -> None:
    """The list of models and one of them are those of the upstream."""
    names = [model.id for model in client.models.list()]
    assert MODEL in names
    assert client.models.retrieve(MODEL).id == MODEL


def test_openai_shows_mistrals_sentence_for_a_refused_conversation(client: OpenAI) -> None:
    """A 400 of Mistral's prints its sentence and keeps its code."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[])
    assert str(caught.value) == "Error code: 400 - Conversation must have at least one message"
    assert caught.value.code == "3230"


def test_openai_shows_our_sentence_for_a_body_that_has_no_counterpart(client: OpenAI) -> None:
    """A 400 of ours prints its sentence, and param and code are where openai-python looks for them."""
    part: Any = {"type": "file", "file": {"file_id": "file-abc123"}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": [part]}])
    assert str(caught.value).startswith("Error code: 400 - messages[0].content[0].file")
    assert (caught.value.type, caught.value.code) == ("invalid_request_error", "foreign_file_id")
    assert (caught.value.param or "").startswith("messages[0].content[0]")


@pytest.mark.parametrize("name", ["api-key", "x-api-key"])
def test_openai_may_give_the_key_in_another_header(scripted: OpenAI, upstream: ScriptedUpstream, name: str) -> None:
    """A key in an Azure-style header reaches Mistral as a bearer's, and as nothing else."""
    upstream.script = json_answer(completion())
    headers: Any = {"Authorization": openai.omit, name: KEY}
    scripted.chat.completions.create(model=MODEL, messages=[USER], extra_headers=headers)
    [request] = upstream.requests
    assert request.all("authorization") == [f"Bearer {KEY}"]
    assert request.all(name) == []


def test_openai_without_a_key_is_unauthorized(client: OpenAI) -> None:
    """A request without a key is Mistral's to refuse, and openai-python raises what it raises for that."""
    headers: Any = {"Authorization": openai.omit}
    with pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(model=MODEL, messages=[USER], extra_headers=headers)
    assert caught.value.status_code == 401


def test_openai_with_an_empty_key_is_told_so(client: OpenAI) -> None:
    """An empty key, a forgotten variable mostly, gets a sentence of ours."""
    with pytest.raises(openai.AuthenticationError, match="Error code: 401 - The Authorization header is empty"):
        client.chat.completions.create(model=MODEL, messages=[USER], extra_headers={"Authorization": "Bearer"})


def test_openai_is_told_what_to_use_instead_of_completions(client: OpenAI) -> None:
    """A path that Mistral does not have answers 404 with the way out."""
    with pytest.raises(openai.NotFoundError, match=r"Error code: 404 - .*/v1/chat/completions"):
        client.completions.create(model=MODEL, prompt="Hi")


def test_openai_is_told_the_method_that_a_path_takes(client: OpenAI) -> None:
    """A GET where only POST is served answers 405 with a sentence, and Allow names the methods."""
    with pytest.raises(openai.APIStatusError, match=r"Error code: 405 - .*takes POST") as caught:
        client.get("/chat/completions", cast_to=object)
    assert "POST" in caught.value.response.headers["allow"]


@pytest.mark.parametrize("path", ["/elsewhere", "/some/thing"])
def test_openai_gets_mistrals_404_for_an_unknown_path(client: OpenAI, path: str) -> None:
    """A path that only Mistral can judge is forwarded, and its 404 comes back."""
    with pytest.raises(openai.NotFoundError, match="no Route matched with those values"):
        client.post(path, cast_to=object, body={})


def test_async_openai(proxy: Gunicorn, sandbox: Sandbox) -> None:
    """The asynchronous client: plain, streamed, tools and embeddings at the same time."""

    async def all_at_once() -> tuple[Any, ...]:
        async with AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key=KEY, max_retries=0) as client:
            create = client.chat.completions.create

            async def streamed() -> str:
                async with await create(model=MODEL, messages=[USER], stream=True) as stream:
                    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(
                create(model=MODEL, messages=[USER]),
                streamed(),
                create(model=MODEL, messages=[ASKING], tools=TOOLS),
                client.embeddings.create(model="mistral-embed", input="one"),
            )

    plain, text, tools, embeddings = asyncio.run(all_at_once())
    assert plain.choices[0].message.content == text == SAID
    assert tools.choices[0].message.tool_calls[0].function.name == "weather"
    assert embeddings.data[0].embedding == straight(sandbox, "one")


def test_async_openai_receives_each_piece_before_the_next_is_sent(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """The same for two streams at once, which take turns in one client."""
    scripts = {"a": Lockstep(), "b": Lockstep()}
    upstream.script = dict(scripts)

    async def one(client: AsyncOpenAI, model: str) -> None:
        async with await client.chat.completions.create(model=model, messages=[USER], stream=True) as stream:
            async for piece in stream:
                scripts[model].seen(piece.choices[0].delta.content)

    async def both() -> None:
        async with AsyncOpenAI(base_url=f"{proxy.url}/scripted/v1", api_key=KEY, max_retries=0) as client:
            await asyncio.gather(one(client, "a"), one(client, "b"))

    asyncio.run(both())
    assert [script.log for script in scripts.values()] == [Lockstep.expected(WORDS)] * 2


# ------------------------------------------------------------------------------------------------------------ mistralai


def test_mistralai_chat(mistral: Mistral) -> None:
    """Mistral's own client gets its answer through the proxy."""
    answer = mistral.chat.complete(model=MODEL, messages=[USER], random_seed=3, safe_prompt=True, max_tokens=5)
    assert answer.choices[0].message.content == SAID


def test_mistralai_chat_stream(mistral: Mistral) -> None:
    """Its stream gives the text in pieces and the usage at the end."""
    with mistral.chat.stream(model=MODEL, messages=[USER]) as stream:
        chunks = [event.data for event in stream]
    texts = [chunk.choices[0].delta.content for chunk in chunks]
    assert "".join(texts) == SAID
    assert len([text for text in texts if text]) > 1
    assert chunks[-1].usage.total_tokens > 0


def test_mistralai_receives_each_piece_before_the_next_is_sent(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """No event waits for another on the way to Mistral's own client either."""
    upstream.script = script = Lockstep()
    with (
        Mistral(api_key=KEY, server_url=f"{proxy.url}/scripted") as client,
        client.chat.stream(model=MODEL, messages=[USER]) as stream,
    ):
        for event in stream:
            script.seen(event.data.choices[0].delta.content)
    assert script.log == Lockstep.expected(WORDS)


def test_mistralai_tool_loop(mistral: Mistral) -> None:
    """Its tool calls and results go through with the ids that Mistral gave."""
    messages: list[Any] = [ASKING]
    answer = mistral.chat.complete(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
    [call] = answer.tool_calls
    messages += [answer, {"role": "tool", "tool_call_id": call.id, "name": "weather", "content": "12 degrees"}]
    answer = mistral.chat.complete(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
    assert answer.content == RESULT_CAME


def test_mistralai_other_endpoints(mistral: Mistral, sandbox: Sandbox) -> None:
    """fim, agents, embeddings, moderations, classifications, ocr and models keep what each of them needs."""
    assert mistral.fim.complete(model="codestral-latest", prompt="Hi", suffix="x").choices[0].message.content == SAID
    with mistral.fim.stream(model="codestral-latest", prompt="Hi", suffix="x") as stream:
        assert "".join(event.data.choices[0].delta.content for event in stream) == SAID
    assert mistral.agents.complete(agent_id="ag:1", messages=[USER]).choices[0].message.content == SAID
    vectors = mistral.embeddings.create(model="codestral-embed", inputs=["one"], output_dimension=5).data
    assert vectors[0].embedding == straight(sandbox, "one", model="codestral-embed", output_dimension=5)
    moderation = "mistral-moderation-latest"
    assert mistral.classifiers.moderate(model=moderation, inputs=["one", "two"]).results[1].categories["pii"] is False
    assert mistral.classifiers.moderate_chat(model=moderation, inputs=[USER]).results[0].categories["pii"] is False
    assert mistral.classifiers.classify(model="ft:classifier:1", inputs=["one"]).results[0]["sandbox"].scores == {NO_MODEL: 1.0}
    document: Any = {"type": "document_url", "document_url": "https://example.com/a.pdf"}
    assert mistral.ocr.process(model="mistral-ocr-latest", document=document, pages=[0]).pages[0].markdown == NO_MODEL
    assert MODEL in [model.id for model in mistral.models.list().data]
    assert mistral.models.retrieve(model_id=MODEL).id == MODEL


def test_mistralai_reads_errors_as_it_does_without_a_proxy(proxy: Gunicorn, sandbox: Sandbox) -> None:
    """A refusal raises the same exception, with the same status and Mistral's sentence in it."""
    raised = []
    for server in (sandbox, proxy):
        with (
            Mistral(api_key=KEY, server_url=server.url) as client,
            pytest.raises(SDKError, match="at least one message") as caught,
        ):
            client.chat.complete(model=MODEL, messages=[])
        raised.append((type(caught.value), caught.value.status_code, json.loads(caught.value.body)["message"]))
    assert raised[0] == raised[1]


def test_mistralai_bodies_pass_current_byte_for_byte(proxy: Gunicorn, upstream: ScriptedUpstream, fields: str) -> None:
    """Through ``current`` Mistral's own client sends what it sends without a proxy; ``classic`` takes the newer fields away."""
    upstream.script = json_answer(completion())
    for address in (upstream.url, f"{proxy.url}/scripted"):
        with Mistral(api_key=KEY, server_url=address) as client:
            client.chat.complete(
                model=MODEL,
                messages=[{"role": "system", "content": "é\u2028"}, USER, {"role": "assistant", "content": "x", "prefix": True}],
                temperature=0.1,
                presence_penalty=0.5,
                metadata={"a": 1},
                tools=TOOLS,
            )
    directly, through = upstream.requests
    if fields == "current":
        assert through.body == directly.body
    else:
        assert directly.json().keys() - through.json().keys() == {"presence_penalty", "metadata"}
        assert {name: directly.json()[name] for name in through.json()} == through.json()


def test_async_mistralai(proxy: Gunicorn) -> None:
    """Its asynchronous half: a plain and a streamed answer at the same time."""

    async def both() -> list[str]:
        async with Mistral(api_key=KEY, server_url=proxy.url) as client:

            async def plain() -> str:
                answer = await client.chat.complete_async(model=MODEL, messages=[USER])
                return str(answer.choices[0].message.content)

            async def streamed() -> str:
                async with await client.chat.stream_async(model=MODEL, messages=[USER]) as stream:
                    return "".join([event.data.choices[0].delta.content async for event in stream])

            return await asyncio.gather(plain(), streamed())

    assert asyncio.run(both()) == [SAID, SAID]


# ------------------------------------------------------------------------------------------------------------ LangChain


def weather(city: str) -> str:
    """The weather in a city."""
    return f"12 degrees in {city}"


def test_langchain_invoke(proxy: Gunicorn) -> None:
    """ChatOpenAI gets its answer and the usage."""
    with langchain(proxy) as model:
        answer = model.invoke([("developer", "Be brief."), ("user", "Hi")], seed=3, max_tokens=5)
    assert answer.content == SAID
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] > 0


def test_langchain_stream(proxy: Gunicorn) -> None:
    """ChatOpenAI, which asks for the usage of a stream, gets the text in pieces and the usage once."""
    with langchain(proxy) as model:
        chunks = list(model.stream("Hi"))
    assert "".join(str(chunk.content) for chunk in chunks) == SAID
    assert len([chunk for chunk in chunks if chunk.content]) > 1
    assert len([chunk for chunk in chunks if getattr(chunk, "usage_metadata", None)]) == 1


def test_langchain_receives_each_piece_before_the_next_is_sent(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """No event waits for another on the way to LangChain."""
    upstream.script = script = Lockstep()
    with langchain(proxy, "/scripted/v1") as model:
        for piece in model.stream("Hi"):
            script.seen(piece.content)
    assert script.log == Lockstep.expected(WORDS)


def test_langchain_tool_loop_begun_elsewhere(proxy: Gunicorn) -> None:
    """A LangChain conversation with OpenAI's ids in it goes on: answer, call, result, answer."""
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
    from langchain_core.tools import tool

    messages: list[Any] = [
        HumanMessage("Hi"),
        AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Rome"}, "id": call_id(1)}]),
        ToolMessage("9 degrees", tool_call_id=call_id(1)),
    ]
    with langchain(proxy) as model:
        bound = model.bind_tools([weather])
        first = bound.invoke(messages)
        assert first.content == RESULT_CAME
        messages += [first, HumanMessage(ASKING["content"])]
        second = bound.invoke(messages)
        [call] = second.tool_calls
        done = tool(weather).invoke(call)
        messages += [second, done]
        third = bound.invoke(messages)
    assert third.content == RESULT_CAME


@contextmanager
def embeddings(proxy: Gunicorn, model: str = "mistral-embed", **options: Any) -> Iterator[OpenAIEmbeddings]:
    from langchain_openai import OpenAIEmbeddings

    with openai.DefaultHttpxClient() as http:
        yield OpenAIEmbeddings(model=model, base_url=f"{proxy.url}/v1", api_key=KEY, max_retries=0, http_client=http, **options)


def test_langchain_embeddings(proxy: Gunicorn, sandbox: Sandbox) -> None:
    """OpenAIEmbeddings that sends text gets the vectors."""
    with embeddings(proxy, "codestral-embed", check_embedding_ctx_length=False, dimensions=5) as model:
        vectors = model.embed_documents(["one", "two"])
    assert vectors == [straight(sandbox, text, model="codestral-embed", output_dimension=5) for text in ("one", "two")]


def test_langchain_embeddings_by_token_ids_name_the_setting(proxy: Gunicorn, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAIEmbeddings as it comes sends token ids, and the error tells which setting makes it send text."""
    # tiktoken loads its vocabularies from the network: one token for each byte does as well.
    bytewise = tiktoken.Encoding(
        "bytewise", pat_str="(?s).+", mergeable_ranks={bytes([byte]): byte for byte in range(256)}, special_tokens={}
    )
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: bytewise)
    with embeddings(proxy) as model, pytest.raises(openai.BadRequestError) as caught:
        model.embed_documents(["one"])
    assert str(caught.value).startswith("Error code: 400 - input: ")
    assert "check_embedding_ctx_length=False" in str(caught.value)


# ----------------------------------------------------------------------------------------------------------------- curl


CURL_BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Hi"}],
    "max_completion_tokens": 50,
    "frequency_penalty": 0.5,
    "logit_bias": {},
    "user": "me",
    "stream_options": {"include_usage": True},
}
"""What Mistral refuses as it is."""


def curl(*args: str) -> str:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["curl", "--disable", "--silent", "--show-error", "--noproxy", "*", "--max-time", str(int(DEADLINE)), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_body_of_the_curl_tests_needs_the_filter(sandbox: Sandbox) -> None:
    """Without the proxy the same body is refused: the two tests below would prove nothing otherwise."""
    answer = ask(sandbox.port, "POST", "/v1/chat/completions", CURL_BODY, [("Authorization", f"Bearer {KEY}")])
    assert answer.status == 422


def test_curl_to_the_sandbox(proxy: Gunicorn) -> None:
    """A curl with fields that Mistral refuses gets an answer, and ``-i`` shows what was changed."""
    address = f"{proxy.url}/sandbox/v1/chat/completions"
    headers = ["-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {KEY}"]
    shown = curl("-i", address, *headers, "-d", json.dumps(CURL_BODY))
    head, _, body = shown.partition("\n\n")
    assert json.loads(body)["choices"][0]["message"]["content"] == SAID
    assert head.startswith("HTTP/1.1 200 OK")
    [changes] = [line for line in head.splitlines() if line.lower().startswith("mistral-filter-changes:")]
    assert 'rename;path="max_completion_tokens";to="max_tokens";loss=none' in changes


def test_curl_streams_from_the_sandbox(proxy: Gunicorn) -> None:
    """The same, streamed: an event stream in Mistral's form, with its end."""
    headers = ["-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {KEY}"]
    shown = curl("-N", f"{proxy.url}/sandbox/v1/chat/completions", *headers, "-d", json.dumps({**CURL_BODY, "stream": True}))
    events = [line.removeprefix("data: ") for line in shown.split("\n") if line]
    assert events.pop() == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["delta"]["content"] for event in events) == SAID
