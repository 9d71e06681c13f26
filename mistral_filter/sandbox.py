"""A stand-in for Mistral's API on this machine: ``python -m mistral_filter.sandbox [--host 127.0.0.1] [--port 8001]``.

A program of its own. It refuses what Mistral refuses, in Mistral's words and shapes, and answers the rest without a model:
every text it gives says so. It keeps nothing, logs no request and listens on loopback only.

What is refused comes from ``fields`` (see there for its sources); how a refusal reads comes from recorded traffic in public
issues of 2024 to 2026 and from pydantic 2.14, in which mistral-common 1.13.1 states the same models. It is close, not exact: no
live call was compared, optional values are judged by range but not by type, and every model name is taken.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote

from mistral_filter.fields import CHUNKS_BY_ROLE, ENDPOINTS, FUNCTION_NAME, TOOL_CALL_ID, Array, Node, Object, Tagged, Value

__all__ = ["broken_rule", "main", "make_server", "violations"]

Json = dict[str, Any]
Loc = tuple[str | int, ...]
Error = tuple[str, str]
"""pydantic's name for an error, and its sentence."""

MAX_BODY = 64 * 1024 * 1024
NO_MODEL = "This is the mistral-filter sandbox: no model was asked."

# -------------------------------------------------------------------------------------------------------- 422: the schema

_STRING = ("string_type", "Input should be a valid string")
_LIST = ("list_type", "Input should be a valid list")
_OBJECT = ("model_attributes_type", "Input should be a valid dictionary or object to extract fields from")
_BOOL = ("bool_type", "Input should be a valid boolean")
_FLAGS = "stream safe_prompt parallel_tool_calls strict prefix closed extract_header extract_footer include_blocks".split()
_TYPES: Mapping[str | int, tuple[Error, type | tuple[type, ...]]] = {
    **dict.fromkeys(_FLAGS, (_BOOL, bool)),
    **dict.fromkeys(("library_ids", "reference_ids"), (_LIST, list)),
    **dict.fromkeys(("parameters", "schema"), (("dict_type", "Input should be a valid dictionary"), dict)),
    "index": (("int_type", "Input should be a valid integer"), int),
    "arguments": (_STRING, (str, dict)),
}
"""What a value that may not be null has to be, by its name; a string where nothing is said. OpenAPI document of 2026-08-21."""

_WORDS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("tool_calls", "type"): ("function",),
    ("ToolChoice", "type"): ("function",),
    ("prediction", "type"): ("content",),
    ("body", "tool_choice"): ("auto", "none", "any", "required"),
}
"""Closed lists of the same document that the tables do not hold, by the last two names of a path."""

_UNIONS: Mapping[str | int, str] = {
    "content": "list[tagged-union[TextChunk,ImageURLChunk,DocumentURLChunk,ReferenceChunk,FileChunk,ThinkChunk,AudioChunk]]",
    "image_url": "ImageURL",
    "tool_choice": "ToolChoice",
}
"""Where a string may stand for the list or object: pydantic's label for the latter."""

_UNTAGGED = ("document", "thinking")
"""Unions that the document does not tell apart by a tag: the fields decide there."""


def violations(body: object, endpoint: str) -> list[Json]:
    """Everything in *body* that the schema of *endpoint* (a key of ``fields.ENDPOINTS``) refuses, all at once.

    The items are pydantic's error records, as FastAPI puts them under ``detail``: a message's role or a chunk's type follows the
    index in ``loc``; in a union with a string, the label of the branch follows, and the string branch complains as well.
    """
    found = _judge(ENDPOINTS[endpoint], body, ("body",))
    return [{"type": kind, "loc": list(loc), "msg": msg, "input": value} for (kind, msg), loc, value in found]


def _judge(node: Node, value: Any, loc: Loc) -> Iterator[tuple[Error, Loc, Any]]:
    key = loc[-1]
    if value is None and not isinstance(node, Tagged) and node.null:
        return
    if isinstance(node, Value):
        yield from _judge_value(node, value, loc)
    elif key in _UNIONS and isinstance(value, str):
        yield from _judge_value(Value(), value, loc)
    elif key in _UNIONS:
        if inner := list(_judge(node, value, (*loc, _UNIONS[key]))):
            yield from ((_STRING, (*loc, "str"), value), *inner)
    elif key == "input" and isinstance(value, list) and (isinstance(node, Object) or any(isinstance(v, list) for v in value)):
        for i, item in enumerate(value):  # chat/moderations and chat/classifications take several conversations as well
            yield from _judge(node, item, (*loc, i))
    elif isinstance(node, Array):
        if not isinstance(value, list):
            yield _LIST, loc, value
        for i, item in enumerate(value if isinstance(value, list) else ()):
            yield from _judge(node.items, item, (*loc, i))
    elif not isinstance(value, dict):
        yield _OBJECT, loc, value
    elif isinstance(node, Tagged):
        yield from _judge_tagged(node, value, loc)
    else:
        yield from _judge_object(node, value, loc)


def _judge_object(node: Object, value: Json, loc: Loc) -> Iterator[tuple[Error, Loc, Any]]:
    for name in node.required:
        if name not in value:
            yield ("missing", "Field required"), (*loc, name), value
    for name, part in value.items():
        if name in node.fields:
            yield from _judge(node.fields[name], part, (*loc, name))
        else:
            yield ("extra_forbidden", "Extra inputs are not permitted"), (*loc, name), part


def _judge_tagged(node: Tagged, value: Json, loc: Loc) -> Iterator[tuple[Error, Loc, Any]]:
    tag = value.get(node.by)
    if node.by not in value and any(name in _UNTAGGED for name in loc[-2:]):
        tag = next((t for t, variant in node.variants.items() if set(variant.required) <= value.keys()), None)
    if isinstance(tag, str) and tag in node.variants:
        yield from _judge_object(node.variants[tag], value, (*loc, tag))
    elif node.by not in value:
        yield ("union_tag_not_found", f"Unable to extract tag using discriminator '{node.by}'"), loc, value
    else:
        found = f"Input tag '{tag}' found using '{node.by}' does not match any of the expected tags: "
        yield ("union_tag_invalid", found + ", ".join(f"'{t}'" for t in node.variants)), loc, value


def _judge_value(node: Value, value: Any, loc: Loc) -> Iterator[tuple[Error, Loc, Any]]:
    key = loc[-1]
    if words := _WORDS.get(tuple(name for name in loc if isinstance(name, str))[-2:], node.choices):
        if value not in words:
            yield ("enum", f"Input should be {_either(words)}"), loc, value
    elif (node.low, node.above, node.high) != (None, None, None):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            yield ("float_type", "Input should be a valid number"), loc, value
        elif node.low is not None and value < node.low:
            yield ("greater_than_equal", f"Input should be greater than or equal to {node.low:g}"), loc, value
        elif node.above is not None and value <= node.above:
            yield ("greater_than", f"Input should be greater than {node.above:g}"), loc, value
        elif node.high is not None and value > node.high:
            yield ("less_than_equal", f"Input should be less than or equal to {node.high:g}"), loc, value
    elif key == "input" and isinstance(value, list):  # of embeddings, moderations and classifications: strings, or one
        if wrong := [i for i, item in enumerate(value) if not isinstance(item, str)]:
            yield _STRING, (*loc, "str"), value
            yield from ((_STRING, (*loc, "list[str]", i), value[i]) for i in wrong)
    elif key == "stop" and value == []:
        yield ("too_short", "List should have at least 1 item after validation, not 0"), loc, value
    elif not node.null:
        error, types = _TYPES.get(key, (_STRING, str))
        if not isinstance(value, types):
            yield error, loc, value


def _either(words: tuple[str, ...]) -> str:
    quoted = [f"'{word}'" for word in words]
    return " or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))


# -------------------------------------------------------------------------------------------------- 400: the conversation

_MAY_FOLLOW = {
    "system": ("system", "user", "assistant"),
    "user": ("system", "user", "assistant"),
    "assistant": ("user", "assistant", "tool"),
    "tool": ("user", "assistant", "tool"),
}


def broken_rule(body: Json) -> Json | None:
    """The first rule outside the schema that a chat or agents body breaks, as Mistral's flat 400 body; None where it keeps all.

    The rules, their order and their sentences: mistral-common 1.13.1 (2026), ``MistralRequestValidatorV11`` in serving mode, the
    last and strictest that asks for nine-character ids. The codes 3230, 3240 and 3280 and their types: answers of the API quoted
    in public issues and repositories, 2025-08 to 2026-09. A refusal whose code nobody has quoted has none here.
    """
    return next(_broken_rules(body), None)


def _broken_rules(body: Json) -> Iterator[Json]:
    messages: list[Json] = body["messages"]
    if problem := _order_problem(messages):
        yield _flat(problem, "invalid_request_message_order", "3230")
    for i, message in enumerate(messages):
        role, content, calls = message["role"], message.get("content"), message.get("tool_calls") or []
        if isinstance(content, list) and (wrong := sorted({chunk["type"] for chunk in content} - CHUNKS_BY_ROLE[role])):
            yield _flat(f"Unexpected content chunk types in {role} message: {wrong}")
        if role == "assistant" and not content and not calls:  # the API's rule; the validator has dropped it
            text = "Assistant message must have either content or tool_calls, but not none."
            yield _flat(text, "invalid_request_assistant_message", "3240")
        for call in calls:
            yield from _id_problem(call.get("id", "null"))
            yield from _name_problem(call["function"]["name"])
        if message.get("prefix") and i < len(messages) - 1:
            yield _flat("Assistant message with prefix True must be last message")
        if role == "tool":
            yield from _name_problem(message.get("name"))
            yield from _id_problem(message.get("tool_call_id"))
    for tool in body.get("tools") or []:
        if "function" in tool:
            yield from _name_problem(tool["function"]["name"])


def _flat(message: str, kind: str = "invalid_request_error", code: str | None = None) -> Json:
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


def _order_problem(messages: list[Json]) -> str | None:
    roles = [message["role"] for message in messages]
    if not roles:
        return "Conversation must have at least one message"
    if len(roles) == 1 and roles[0] not in ("user", "system"):
        return "Conversation must start with a user message or system message"
    if roles[-1] == "assistant" and not messages[-1].get("prefix"):
        return "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant"
    for before, role in itertools.pairwise(roles):
        if role not in _MAY_FOLLOW[before]:
            return f"Unexpected role '{role}' after role '{before}'"
    unanswered = "Not the same number of function calls and responses"
    called: set[str] = set()
    answered: set[str] = set()
    for message in messages[1:]:  # the validator leaves the first one out
        if message["role"] == "tool":
            name = str(message.get("tool_call_id"))
            if name in answered or name not in called:
                return f"{'Duplicate' if name in answered else 'Unexpected'} tool call id {name} in tool results"
            answered.add(name)
        elif message["role"] == "assistant":
            if called != answered:
                return unanswered
            called, answered = set(), set()
            for call in message.get("tool_calls") or []:
                if (name := call.get("id", "null")) in called:
                    return f"Duplicate tool call id {name} in assistant message"
                called.add(name)
    return unanswered if called != answered else None


def _id_problem(name: object) -> Iterator[Json]:
    if name in (None, "null"):
        yield _flat("Tool call id has to be defined.", "invalid_function_call", "3280")
    elif not re.fullmatch(TOOL_CALL_ID, str(name)):
        text = f"Tool call id was {name} but must be a-z, A-Z, 0-9, with a length of 9."
        yield _flat(text, "invalid_function_call", "3280")


def _name_problem(name: object) -> Iterator[Json]:
    if name is not None and not re.fullmatch(FUNCTION_NAME, str(name)):
        rest = "but must be a-z, A-Z, 0-9, or contain underscores and dashes, with a maximum length of 64."
        yield _flat(f"Function name was {name} {rest}")


# ------------------------------------------------------------------------------------------------------------ the answers


def _said(content: object) -> str:
    """The text of a message's content, cut to what an answer may quote."""
    chunks = content if isinstance(content, list) else []
    return (content if isinstance(content, str) else " ".join(str(c["text"]) for c in chunks if c["type"] == "text"))[:200]


def _fill(schema: Any) -> str:
    """JSON text of the smallest value for a schema; ``{}`` for a schema that is none."""
    try:
        return _dump(_sample(schema, schema, 12)).decode()
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


class _Choice(NamedTuple):
    message: Json
    deltas: list[Json]
    finish: str


def _choice(body: Json) -> _Choice:
    """What is answered to a chat, agents or fim body that keeps every rule: the whole message, and the same in pieces."""
    messages: list[Json] = body.get("messages") or [{"role": "user", "content": body.get("prompt")}]
    if (function := _function(body)) and messages[-1]["role"] == "user":
        filled = {"name": function["name"], "arguments": _fill({"type": "object", **function["parameters"]})}
        call = {"id": uuid.uuid4().hex[:9], "function": filled, "index": 0}
        # One delta holds the whole call. In a stream Mistral may leave out the type, so it is left out here.
        return _Choice(
            {"role": "assistant", "content": "", "tool_calls": [{**call, "type": "function"}]},
            [{"role": "assistant", "content": ""}, {"content": "", "tool_calls": [call]}],
            "tool_calls",
        )
    said = next((_said(m.get("content")) for m in reversed(messages) if m["role"] == "user"), "")
    text = f"{NO_MODEL} You said: {said}"
    if messages[-1]["role"] == "tool":
        text += f" The tool answered: {_said(messages[-1].get('content'))}"
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema" and wanted.get("json_schema"):
        text = _fill(wanted["json_schema"]["schema"])
    elif wanted.get("type") in ("json_object", "json_schema"):
        text = _dump({"sandbox": NO_MODEL, "you_said": said}).decode()
    pieces: list[Any] = [text[i : i + 24] for i in range(0, len(text), 24)]
    content: Any = text
    if str(body.get("model", "")).startswith("magistral") or body.get("reasoning_effort") not in (None, "none"):
        thought = [{"type": "text", "text": "Nothing was thought: "}, {"type": "text", "text": "this is the sandbox."}]
        content = [{"type": "thinking", "thinking": thought, "closed": True}, {"type": "text", "text": text}]
        pieces = [{"type": "thinking", "thinking": [part]} for part in thought] + [{"type": "text", "text": p} for p in pieces]
        pieces = [[chunk] for chunk in pieces]
    deltas: list[Json] = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces), {"content": ""}]
    return _Choice({"role": "assistant", "content": content, "tool_calls": None}, deltas, "stop")


def _function(body: Json) -> Json | None:
    """The function to call: the one that ``tool_choice`` names, or the first."""
    choice = body.get("tool_choice")
    functions: list[Json] = [tool["function"] for tool in body.get("tools") or [] if "function" in tool]
    if isinstance(choice, dict):
        return next((f for f in functions if f["name"] == choice["function"]["name"]), None)
    return functions[0] if functions and choice != "none" else None


def _completion(body: Json) -> Json | Iterator[Json]:
    choices = [_choice(body) for _ in range(int(min(body.get("n") or 1, 16)))]  # 16: enough to see that n works
    head: Json = {"id": uuid.uuid4().hex, "created": int(time.time()), "model": body.get("model") or body["agent_id"]}
    prompt, completion = len(_dump(body)) // 4, sum(len(_dump(c.message)) // 4 for c in choices)
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    if body.get("stream"):
        return _chunks({**head, "object": "chat.completion.chunk"}, choices, usage)
    whole = [{"index": i, "message": c.message, "finish_reason": c.finish} for i, c in enumerate(choices)]
    return {**head, "object": "chat.completion", "choices": whole, "usage": usage}


def _chunks(head: Json, choices: list[_Choice], usage: Json) -> Iterator[Json]:
    for index, choice in enumerate(choices):
        for delta in choice.deltas:
            last = delta is choice.deltas[-1]
            part = {"index": index, "delta": delta, "finish_reason": choice.finish if last else None}
            ends = last and index == len(choices) - 1
            yield {**head, "choices": [part], **({"usage": usage} if ends else {})}


_CATEGORIES = ("sexual", "hate_and_discrimination", "violence_and_threats", "selfharm", "health", "financial", "law", "pii")


def _other(body: Json, endpoint: str) -> Json:
    """Embeddings, moderations, classifications and ocr, in the shapes that ``mistralai`` 3.7.0 reads."""
    if endpoint == "ocr":
        size = {"dpi": 72, "height": 842, "width": 595}
        page = {"index": 0, "markdown": NO_MODEL, "images": [], "dimensions": size}
        return {"pages": [page], "model": body["model"] or "mistral-ocr-latest", "usage_info": {"pages_processed": 1}}
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    if endpoint == "chat/moderations" and inputs and isinstance(inputs[0], dict):
        inputs = [inputs]  # one conversation
    answer: Json = {"id": uuid.uuid4().hex, "model": body["model"]}
    if endpoint == "embeddings":
        length = int(min(body.get("output_dimension") or 8, 3072))
        tokens = sum(len(text) // 4 + 1 for text in inputs)
        # Floats even where base64 is asked for: that is what Mistral answers to the OpenAI JS SDK, whose default it is.
        # They depend on the text alone, and a float32 holds them exactly.
        digests = [hashlib.shake_256(text.encode("utf-8", "replace")).digest(length) for text in inputs]
        vectors = [[byte / 128 - 1 for byte in digest] for digest in digests]
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
        return {**answer, "object": "list", "data": data, "usage": usage}
    if endpoint.endswith("moderations"):
        harmless = {"categories": dict.fromkeys(_CATEGORIES, False), "category_scores": dict.fromkeys(_CATEGORIES, 0.0)}
        return {**answer, "results": [harmless for _ in inputs]}
    return {**answer, "results": [{"sandbox": {"scores": {NO_MODEL: 1.0}}} for _ in inputs]}


def _model(name: str, *abilities: str) -> Json:
    known = ("completion_chat", "function_calling", "completion_fim", "reasoning", "vision")
    capabilities = {ability: ability in abilities for ability in known}
    card = {"id": name, "object": "model", "created": 0, "owned_by": "mistralai", "type": "base", "capabilities": capabilities}
    return {**card, "name": name, "description": NO_MODEL, "max_context_length": 131072, "aliases": [], "deprecation": None}


_MODELS = [
    _model("mistral-small-latest", "completion_chat", "function_calling", "vision"),
    _model("magistral-small-latest", "completion_chat", "function_calling", "reasoning"),
    _model("codestral-latest", "completion_chat", "function_calling", "completion_fim"),
    _model("mistral-embed"),
]

# ------------------------------------------------------------------------------------------------------------- the server


_COMPLETIONS = ("chat", "agents", "fim")
_POSTS = {f"/v1/{name}/completions" if name in _COMPLETIONS else f"/v1/{name}": name for name in ENDPOINTS}


def _dump(value: object) -> bytes:
    # Raw UTF-8 as Mistral sends it, U+2028 included; half an emoji, legal in a request, has no UTF-8 and becomes "?".
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _post(raw: bytes, endpoint: str) -> tuple[int, Json | Iterator[Json]]:
    """Status and answer, or an iterator of stream events, for the bytes of a request body."""
    try:
        body = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        return 422, {"detail": [{"type": "json_invalid", "loc": ["body", getattr(exc, "pos", 0)], "msg": "JSON decode error"}]}
    if detail := violations(body, endpoint):
        error = {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "param": None, "code": None}
        return 422, {**error, "raw_status_code": 422}
    if endpoint not in _COMPLETIONS:
        return 200, _other(body, endpoint)
    if endpoint != "fim" and (refusal := broken_rule(body)):
        return 400, refusal
    return 200, _completion(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    delay = 0.02

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that leaves is no error
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _BadBody(Exception):
    """The request's body cannot be read, so neither can what follows on the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: without this the second waits for an ACK
    server_version, sys_version = "mistral-filter-sandbox", ""
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a request line can hold what is nobody's business."""

    def end_headers(self) -> None:
        self.send_header("mistral-correlation-id", str(uuid.uuid4()))
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses by itself (a broken request line, an unknown method), in JSON."""
        self.close_connection = True
        self._send(code, {"message": message or "Bad Request"}, Connection="close")

    def do_POST(self) -> None:
        """Answer a request, whatever its method: read all of its body first, or the next request would start inside it."""
        try:
            raw = self._body()
        except _BadBody as exc:
            return self.send_error(413 if str(exc) == "too large" else 400, f"Request body {exc}")
        path = self.path.partition("?")[0]
        allowed = "POST" if path in _POSTS else "GET" if path == "/v1/models" or re.fullmatch("/v1/models/[^/]+", path) else ""
        if not allowed:
            return self._send(404, {"message": "no Route matched with those values", "request_id": uuid.uuid4().hex})
        if self.command != allowed and (self.command, allowed) != ("HEAD", "GET"):
            return self._send(405, {"detail": "Method Not Allowed"}, Allow=allowed)
        if not re.match(r"Bearer +[^ ]", self.headers.get("Authorization") or "", re.IGNORECASE):
            return self._send(401, {"detail": "Unauthorized"})
        if allowed == "GET":
            return self._send(*self._models(path))
        status, answer = _post(raw, _POSTS[path])
        if isinstance(answer, dict):
            return self._send(status, answer)
        return self._stream(answer)

    do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST

    def _models(self, path: str) -> tuple[int, Json]:
        if path == "/v1/models":
            return 200, {"object": "list", "data": _MODELS}
        name = unquote(path.rpartition("/")[2])
        model = next((m for m in _MODELS if m["id"] == name), None)
        return (200, model) if model else (404, {"message": f"Model {name} was not found."})

    def _body(self) -> bytes:
        coding, length = self.headers.get("Transfer-Encoding"), self.headers.get("Content-Length", "0")
        if coding is None:
            if not re.fullmatch("[0-9]{1,18}", length):
                raise _BadBody("has no valid length")
            return self._read(int(length), 0)
        if coding.strip().lower() != "chunked":
            raise _BadBody("has an unknown transfer encoding")
        parts: list[bytes] = []
        total = 0
        while match := re.match(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\n]*)?\r?\n", self.rfile.readline(1024)):
            size = int(match[1], 16)
            if not size:
                while self.rfile.readline(65536).strip():  # trailers
                    pass
                return b"".join(parts)
            parts.append(self._read(size, total))
            total += size
            self.rfile.readline(3)
        raise _BadBody("is badly chunked")

    def _read(self, size: int, already: int) -> bytes:
        if size + already > MAX_BODY:
            raise _BadBody("too large")
        data = self.rfile.read(size)
        if len(data) < size:
            raise _BadBody("ended early")
        return data

    def _send(self, status: int, answer: Json, **headers: str) -> None:
        body = _dump(answer)
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self, events: Iterator[Json]) -> None:
        chunked = self.request_version != "HTTP/1.0"  # which knows no chunks: there the end of the connection ends the answer
        self.close_connection = self.close_connection or not chunked
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")))
        self.end_headers()
        for event in events:
            self._event(_dump(event), chunked)
            time.sleep(self.server.delay)
        self._event(b"[DONE]", chunked)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _event(self, data: bytes, chunked: bool) -> None:
        line = b"data: %b\n\n" % data
        self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line) if chunked else line)  # unbuffered: each event leaves at once


def make_server(host: str = "127.0.0.1", port: int = 0, *, delay: float = 0.02) -> ThreadingHTTPServer:
    """The sandbox, bound and listening but not yet serving; *delay* is the pause in seconds after each event of a stream.

    Port 0 takes a free one. Raises ValueError for a host that is not loopback, OSError where the port is taken.
    """
    if not re.fullmatch(r"localhost|127(\.[0-9]{1,3}){3}", host):
        raise ValueError(f"the sandbox binds 127.0.0.1 and its like only, not {host!r}")
    server = _Server(("127.0.0.1" if host == "localhost" else host, port), _Handler)
    server.delay = delay
    return server


def _stop(number: int, frame: object) -> None:
    raise SystemExit(0)


def main(argv: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; print one line with the address when ready."""
    parser = argparse.ArgumentParser(prog="python -m mistral_filter.sandbox", description="A stand-in for Mistral's API.")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8001, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--delay", type=float, default=0.02, help="seconds between the events of a stream (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.delay < 0:
        parser.error("--delay cannot be negative")
    try:
        server = make_server(options.host, options.port, delay=options.delay)
    except (ValueError, OSError, OverflowError) as exc:
        parser.error(str(exc))
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    with server:
        print("mistral-filter sandbox on http://{}:{}".format(*server.server_address), flush=True)  # noqa: T201
        server.serve_forever()


if __name__ == "__main__":
    main()
