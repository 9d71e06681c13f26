"""200: what is answered without a model, in the shapes that ``mistralai`` 3.7.0 reads."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

__all__ = ["COMPLETIONS", "MODELS", "NO_MODEL", "answer", "dump"]

Json = dict[str, Any]
Choice = tuple[Json, list[Json], str]
"""A whole message, the same in pieces for a stream, and why it ends."""

COMPLETIONS = ("chat", "agents", "fim")
NO_MODEL = "This is the mistral-filter sandbox: no model was asked."


def answer(body: Json, endpoint: str) -> Json | Iterator[Json]:
    """The answer to a body that keeps every rule of *endpoint*, or the events of it where a stream is asked for."""
    return _completion(body) if endpoint in COMPLETIONS else _other(body, endpoint)


def dump(value: object) -> bytes:
    """JSON in raw UTF-8 as Mistral sends it, U+2028 included; half an emoji, legal in a request, has none and becomes "?"."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


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
    messages: list[Json] = body.get("messages") or [{"role": "user", "content": body.get("prompt")}]
    start: Json = {"role": "assistant", "content": ""}
    if (function := _function(body)) and messages[-1]["role"] == "user":
        filled = {"name": function["name"], "arguments": _fill({"type": "object", **function["parameters"]})}
        call = {"id": uuid.uuid4().hex[:9], "function": filled, "index": 0}
        # One delta holds the whole call. In a stream Mistral may leave out the type, so it is left out here.
        deltas = [start, {"content": "", "tool_calls": [call]}]
        return {**start, "tool_calls": [{**call, "type": "function"}]}, deltas, "tool_calls"
    said = next((_said(m.get("content")) for m in reversed(messages) if m["role"] == "user"), "")
    text = f"{NO_MODEL} You said: {said}"
    if messages[-1]["role"] == "tool":
        text += f" The tool answered: {_said(messages[-1].get('content'))}"
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema" and wanted.get("json_schema"):
        text = _fill(wanted["json_schema"]["schema"])
    elif wanted.get("type") in ("json_object", "json_schema"):
        text = dump({"sandbox": NO_MODEL, "you_said": said}).decode()
    pieces: list[Any] = [text[i : i + 24] for i in range(0, len(text), 24)]
    content: Any = text
    if str(body.get("model", "")).startswith("magistral") or body.get("reasoning_effort") not in (None, "none"):
        thought = [{"type": "text", "text": "Nothing was thought: "}, {"type": "text", "text": "this is the sandbox."}]
        content = [{"type": "thinking", "thinking": thought, "closed": True}, {"type": "text", "text": text}]
        pieces = [[{"type": "text", "text": piece}] for piece in pieces]
        pieces = [[{"type": "thinking", "thinking": [part]}] for part in thought] + pieces
    deltas = [start, *({"content": piece} for piece in pieces), {"content": ""}]
    return {"role": "assistant", "content": content, "tool_calls": None}, deltas, "stop"


def _function(body: Json) -> Json | None:
    """The function to call: the one that ``tool_choice`` names, or the first."""
    choice = body.get("tool_choice")
    name = choice["function"]["name"] if isinstance(choice, dict) else None
    functions = (tool["function"] for tool in body.get("tools") or [] if "function" in tool and choice != "none")
    return next((function for function in functions if name in (None, function["name"])), None)


def _said(content: object) -> str:
    """The text of a message's content, cut to what an answer may quote."""
    chunks = content if isinstance(content, list) else []
    return (content if isinstance(content, str) else " ".join(str(c["text"]) for c in chunks if c["type"] == "text"))[:200]


def _fill(schema: Any) -> str:
    """JSON text of the smallest value for a schema; ``{}`` for a schema that is none."""
    try:
        return dump(_sample(schema, schema, 12)).decode()
    except (AttributeError, LookupError, TypeError, ValueError):
        return "{}"


def _sample(schema: Any, root: Any, depth: int) -> Any:
    """Required properties only. Patterns and formats are not honoured; *depth* ends a schema that holds itself."""
    if not depth or not isinstance(schema, dict):
        return None
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].split("/")[1:]:
            target = target[part]
        return _sample(target, root, depth - 1)
    if known := [schema[key] for key in ("const", "default") if key in schema] or schema.get("enum"):
        return known[0]
    if union := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return _sample(union[0], root, depth - 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: _sample(fields.get(name, {}), root, depth - 1) for name in schema.get("required", ())}
    if kind == "array":
        return [_sample(schema.get("items"), root, depth - 1)] * min(schema.get("minItems", 0), 16)
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return {"boolean": False, "null": None}.get(kind, NO_MODEL[: schema.get("maxLength")])


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
        length = int(min(body.get("output_dimension") or 8, 3072))
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


def _model(name: str, *abilities: str) -> Json:
    known = ("completion_chat", "function_calling", "completion_fim", "reasoning", "vision")
    capabilities = {ability: ability in abilities for ability in known}
    card = {"id": name, "object": "model", "created": 0, "owned_by": "mistralai", "type": "base", "capabilities": capabilities}
    return {**card, "name": name, "description": NO_MODEL, "max_context_length": 131072, "aliases": [], "deprecation": None}


MODELS = [
    _model("mistral-small-latest", "completion_chat", "function_calling", "vision"),
    _model("magistral-small-latest", "completion_chat", "function_calling", "reasoning"),
    _model("codestral-latest", "completion_chat", "function_calling", "completion_fim"),
    _model("mistral-embed"),
]
