"""200 for Responses: an answer without a model, whole or as the events of a stream, in the shapes of ``mistralai`` 3.7.0.

The events and their order are those that OpenAI's SDKs, the AI SDK and Codex read. Nothing is stored: an answer cannot be
fetched by its id.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

from mistral_filter.sandbox import content
from mistral_filter.sandbox.content import THOUGHT, Call, Function, dump
from mistral_filter.sandbox.models import MODELS, Model
from mistral_filter.sandbox.rules import item_kind

__all__ = ["count", "respond"]

Json = dict[str, Any]

_ECHOED = "metadata temperature top_p max_output_tokens max_tool_calls prompt_cache_key".split()
"""Fields of the request that an answer repeats under the same name; the instructions are a prompt, and not repeated."""


def count(body: Json) -> Json:
    """The answer of /v1/responses/input_tokens: a guess, since nothing is tokenized here."""
    return {"object": "response.input_tokens", "input_tokens": len(dump(body)) // 4}


def respond(body: Json) -> Json | Iterator[Json]:
    """The answer to a body that keeps every rule, or the events of it where a stream is asked for."""
    output = _output(body)
    input_tokens, output_tokens = len(dump(body)) // 4, len(dump(output)) // 4
    usage = {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": len(THOUGHT) if output[0]["type"] == "reasoning" else 0},
        "total_tokens": input_tokens + output_tokens,
    }
    created = int(time.time())
    head: Json = {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": created,
        "model": body["model"],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "text": body.get("text") or {"format": {"type": "text"}},
        "reasoning": body.get("reasoning"),
        "background": False,
        "store": False,
        "truncation": "disabled",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "previous_response_id": None,
        **{name: body.get(name) for name in _ECHOED},
    }
    begun: Json = {**head, "status": "in_progress", "output": [], "usage": None}
    done: Json = {**head, "status": "completed", "completed_at": created, "output": output, "usage": usage}
    return _numbered(_events(begun, done)) if body.get("stream") else done


def _output(body: Json) -> list[Json]:
    items = body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]
    output: list[Json] = []
    effort = (body.get("reasoning") or {}).get("effort")
    if MODELS.get(body["model"], Model()).reasons if effort is None else effort != "none":
        thought = [{"type": "reasoning_text", "text": "".join(THOUGHT)}]
        output.append({**_item("reasoning", "rs"), "summary": [], "content": thought, "encrypted_content": None})
    made = _calls(body, items)
    for call in made:
        named = {"name": call.function.name, "arguments": call.arguments}
        if call.function.namespace:
            named["namespace"] = call.function.namespace
        output.append({**_item("function_call", "fc"), "call_id": uuid.uuid4().hex[:9], **named})
    if not made:
        wanted = (body.get("text") or {}).get("format") or {}
        after_tool = bool(items) and item_kind(items[-1]) == "function_call_output"
        text = content.text(wanted.get("type"), wanted.get("schema"), after_tool)
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        output.append({**_item("message", "msg"), "role": "assistant", "content": [part]})
    return output


def _item(kind: str, prefix: str) -> Json:
    return {"type": kind, "id": f"{prefix}_{uuid.uuid4().hex}", "status": "completed"}


def _calls(body: Json, items: list[Json]) -> list[Call]:
    functions = [
        Function(tool["name"], tool.get("parameters"), outer["name"] if "tools" in outer else None)
        for outer in body.get("tools") or []
        for tool in outer.get("tools", [outer])
        if tool["type"] == "function"
    ]
    choice = body.get("tool_choice", "auto")
    name = choice["name"] if isinstance(choice, dict) else None
    last_user = max((i for i, item in enumerate(items) if item.get("role") == "user"), default=0)
    called = {item["name"] for item in items[last_user:] if item_kind(item) == "function_call"}
    user = _text(items[-1]["content"]) if items and items[-1].get("role") == "user" else None
    made = content.calls(functions, "required" if name else choice, name, user, called)
    return made[:1] if body.get("parallel_tool_calls") is False else made


def _text(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(part["text"] for part in value if part["type"] == "input_text")


def _numbered(events: Iterator[Json]) -> Iterator[Json]:
    for number, event in enumerate(events):
        yield {**event, "sequence_number": number}


def _events(begun: Json, done: Json) -> Iterator[Json]:
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(done["output"]):
        yield from _item_events(index, item)
    yield {"type": "response.completed", "response": done}


def _item_events(index: int, item: Json) -> Iterator[Json]:
    at: Json = {"item_id": item["id"], "output_index": index}
    empty: Json = {"arguments": ""} if item["type"] == "function_call" else {"content": []}
    yield {"type": "response.output_item.added", "output_index": index, "item": {**item, **empty, "status": "in_progress"}}
    if item["type"] == "function_call":
        yield {"type": "response.function_call_arguments.delta", **at, "delta": item["arguments"]}
        yield {"type": "response.function_call_arguments.done", **at, "arguments": item["arguments"], "name": item["name"]}
    for number, part in enumerate(item.get("content") or ()):
        here = {**at, "content_index": number}
        kind = f"response.{part['type']}"
        extra: Json = {"logprobs": []} if part["type"] == "output_text" else {}
        yield {"type": "response.content_part.added", **here, "part": {**part, "text": ""}}
        for piece in content.pieces(part["text"]) if part["type"] == "output_text" else THOUGHT:
            yield {"type": f"{kind}.delta", **here, **extra, "delta": piece}
        yield {"type": f"{kind}.done", **here, **extra, "text": part["text"]}
        yield {"type": "response.content_part.done", **here, "part": part}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}
