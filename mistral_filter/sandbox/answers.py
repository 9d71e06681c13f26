"""200: what is answered without a model, in the shapes that ``mistralai`` 3.7.0 reads."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

from mistral_filter.sandbox import content
from mistral_filter.sandbox.content import NO_MODEL, THOUGHT, Function, dump
from mistral_filter.sandbox.models import MODELS, Model

__all__ = ["COMPLETIONS", "answer"]

Json = dict[str, Any]
Choice = tuple[Json, list[Json], str]
"""A whole message, the same in pieces for a stream, and why it ends."""

COMPLETIONS = ("chat", "agents", "fim")


def answer(body: Json, endpoint: str) -> Json | Iterator[Json]:
    """The answer to a body that keeps every rule of *endpoint*, or the events of it where a stream is asked for."""
    return _completion(body) if endpoint in COMPLETIONS else _other(body, endpoint)


def _completion(body: Json) -> Json | Iterator[Json]:
    choices = [_choice(body) for _ in range(int(min(body.get("n") or 1, 16)))]  # 16: enough to see that n works
    head: Json = {"id": uuid.uuid4().hex, "created": int(time.time()), "model": body.get("model") or body["agent_id"]}
    prompt, completion = len(dump(body)) // 4, sum(len(dump(message)) // 4 for message, _, _ in choices)
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    if body.get("stream"):
        return _chunks({**head, "object": "chat.completion.chunk"}, choices, usage)
    whole = [{"index": i, "message": message, "finish_reason": finish} for i, (message, _, finish) in enumerate(choices)]
    return {**head, "object": "chat.completion", "choices": whole, "usage": usage}


def _chunks(head: Json, choices: list[Choice], usage: Json) -> Iterator[Json]:
    for index, (_, deltas, finish) in enumerate(choices):
        for delta in deltas:
            last = delta is deltas[-1]
            part = {"index": index, "delta": delta, "finish_reason": finish if last else None}
            yield {**head, "choices": [part], **({"usage": usage} if last and index == len(choices) - 1 else {})}


def _choice(body: Json) -> Choice:
    messages: list[Json] = body.get("messages") or [{"role": "user", "content": None}]
    start: Json = {"role": "assistant", "content": ""}
    if made := _calls(body, messages):
        # One delta holds all calls. In a stream Mistral may leave out the type, so it is left out here.
        message = {**start, "tool_calls": [{**call, "type": "function"} for call in made]}
        return message, [start, {"content": "", "tool_calls": made}], "tool_calls"
    wanted = body.get("response_format") or {}
    schema = (wanted.get("json_schema") or {}).get("schema")
    text = content.text(wanted.get("type"), schema, messages[-1]["role"] == "tool")
    whole: Any = text
    pieces: list[Any] = content.pieces(text)
    effort = body.get("reasoning_effort")
    if MODELS.get(str(body.get("model")), Model()).reasons if effort is None else effort != "none":
        thought = [{"type": "text", "text": piece} for piece in THOUGHT]
        whole = [{"type": "thinking", "thinking": thought, "closed": True}, {"type": "text", "text": text}]
        pieces = [[{"type": "text", "text": piece}] for piece in pieces]
        pieces = [[{"type": "thinking", "thinking": [part]}] for part in thought] + pieces
    deltas = [start, *({"content": piece} for piece in pieces), {"content": ""}]
    return {"role": "assistant", "content": whole, "tool_calls": None}, deltas, "stop"


def _calls(body: Json, messages: list[Json]) -> list[Json]:
    tools = [tool["function"] for tool in body.get("tools") or [] if "function" in tool]
    functions = [Function(tool["name"], tool["parameters"]) for tool in tools]
    choice = body.get("tool_choice", "auto")
    name = choice["function"]["name"] if isinstance(choice, dict) else None
    last_user = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=0)
    called = {call["function"]["name"] for message in messages[last_user:] for call in message.get("tool_calls") or []}
    user = _text(messages[-1].get("content")) if messages[-1]["role"] == "user" else None
    made = content.calls(functions, "any" if name else choice, name, user, called)
    if body.get("parallel_tool_calls") is False:
        made = made[:1]
    return [
        {"id": uuid.uuid4().hex[:9], "function": {"name": call.function.name, "arguments": call.arguments}, "index": i}
        for i, call in enumerate(made)
    ]


def _text(value: object) -> str:
    """The text of a message's content."""
    chunks = value if isinstance(value, list) else []
    return value if isinstance(value, str) else " ".join(str(chunk["text"]) for chunk in chunks if chunk["type"] == "text")


_CATEGORIES = ("sexual", "hate_and_discrimination", "violence_and_threats", "selfharm", "health", "financial", "law", "pii")


def _other(body: Json, endpoint: str) -> Json:
    """Embeddings, moderations, classifications and ocr."""
    if endpoint == "ocr":
        page = {"index": 0, "markdown": NO_MODEL, "images": [], "dimensions": {"dpi": 72, "height": 842, "width": 595}}
        return {"pages": [page], "model": body["model"] or "mistral-ocr-latest", "usage_info": {"pages_processed": 1}}
    inputs = body["input"]
    if not isinstance(inputs, list) or (endpoint == "chat/moderations" and inputs and isinstance(inputs[0], dict)):
        inputs = [inputs]  # one text or conversation
    head: Json = {"id": uuid.uuid4().hex, "model": body["model"]}
    if endpoint == "embeddings":
        length = int(body.get("output_dimension") or MODELS.get(body["model"], Model()).dimensions or 1024)
        tokens = sum(len(text) // 4 + 1 for text in inputs)
        # Floats even where base64 is asked for: that is what Mistral answers to the OpenAI JS SDK, whose default it is.
        # They depend on the text alone, and a float32 holds them exactly.
        digests = [hashlib.shake_256(text.encode("utf-8", "replace")).digest(length) for text in inputs]
        vectors = [[byte / 128 - 1 for byte in digest] for digest in digests]
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
        return {**head, "object": "list", "data": data, "usage": usage}
    result: Json = {"sandbox": {"scores": {NO_MODEL: 1.0}}}
    if endpoint.endswith("moderations"):
        result = {"categories": dict.fromkeys(_CATEGORIES, False), "category_scores": dict.fromkeys(_CATEGORIES, 0.0)}
    return {**head, "results": [result for _ in inputs]}
