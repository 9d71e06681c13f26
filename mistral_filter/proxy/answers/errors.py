"""Errors: the ``error`` object that OpenAI's clients look for, put beside what Mistral sent.

Mistral's own SDK reads the other keys and ignores this one (``HTTPValidationErrorData`` in mistralai 3.7.0). The shapes, as
quoted in public issues from 2024-01 to 2026-03:

- 422 ``{"object":"error","message":{"detail":[…]},"type":"invalid_request_error",…}``, ``{"detail":[…]}``,
  ``{"object":"Error","detail":[…],"message":[…],"code":3001}``, and with the detail as JSON text in a string
- 400, 429 ``{"object":"error","message":"…","type":"…","param":null,"code":"…"}``
- 401, 404 ``{"detail":"Unauthorized"}``, ``{"message":"Unauthorized","request_id":"…"}``
- 5xx also a page of a content delivery network
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from mistral_filter.filtering import BOM
from mistral_filter.proxy.answers.reading import UNREADABLE, absent, is_json, rewritten
from mistral_filter.rawjson import Node, as_array, as_object, as_text, first_byte

__all__ = ["error_answer", "path_of", "put_error"]

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_CHUNKS = frozenset(
    {"text", "thinking", "image_url", "document_url", "reference", "tool_reference", "file", "input_audio"}
    | {"resource", "resource_link"}
)
_TOOLS = frozenset(
    {"function", "web_search", "web_search_premium", "code_interpreter", "image_generation", "document_library", "connector"}
)

_NONE: frozenset[str] = frozenset()

_TAGS = {"messages": _ROLES, "input": _ROLES, "inputs": _ROLES, "content": _CHUNKS, "thinking": _CHUNKS, "tools": _TOOLS}
"""list: the words that pydantic puts behind an index in it, to say which variant of a tagged union was judged.

Roles: recorded answers, 2024-04 to 2026-03. Chunk and tool types: the SDK ``mistralai`` 3.7.0 and the OpenAPI document of
2026-08-21; both are unions today."""

_LABEL = re.compile(
    r"(?:list|set|tuple|dict|union|tagged-union|nullable|literal|lax-or-strict|json-or-python|constrained-\w+"
    r"|function-(?:after|before|wrap|plain))\[.*\]",
    re.DOTALL,
)
"""pydantic 2's name for a branch of a union: its core schema's type, with the inner types in brackets."""

_SHORT_LABEL = re.compile(r"str|constrained-str|int|float|bool|[A-Z]\w*")
"""The same for scalars and model classes; a field's name too, so it counts only where there is a union."""

_UNIONS = frozenset({"content", "image_url", "tool_choice", "stop", "input", "inputs", "arguments", "document", "prediction"})

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's ``type`` by status; the rest by its first digit."""

_MAX_VIOLATIONS = 10
_MAX_TEXT = 500
_MAX_DEPTH = 4
"""Objects inside objects in which a message is looked for."""

_value = msgspec.json.Decoder(msgspec.Raw).decode
_location = msgspec.json.Decoder(list[int | str]).decode


def error_answer(status: int, content_type: str, body: bytes) -> tuple[str, bytes]:
    """Content type and body of an upstream's answer with a *status* of 400 or more.

    The same two objects where ``error`` already has a string as its message. A body that is not a JSON object is replaced by
    one that names the status.
    """
    body = body.removeprefix(BOM)
    texts = rewritten(body, lambda node: [node] if put_error(node, status) else [])
    if texts is not None:
        return content_type if is_json(content_type) else "application/json", texts[0] if texts else body
    try:
        found = _explain(_value(body))
        what = "with JSON that is not an object"
    except UNREADABLE:
        found = None
        what = "with broken JSON" if is_json(content_type) else "with a page that is not JSON"
    found = found or _Found(f"The upstream answered {status} {what if body.strip() else 'without a body'}.")
    error = {"message": found.message, "type": _type(status), "param": found.param, "code": found.code}
    return "application/json", msgspec.json.encode({"error": error})


def put_error(node: Node, status: int) -> bool:
    """Adds ``error`` to the visited object *node*; false: it is there already, with a message."""
    error = as_object(node.get("error")) or {}
    if as_text(error.get("message")):
        return False
    found = _explain(error) or _explain(node) or _Found(f"The upstream answered {status} and did not say why.")
    node["error"] = {
        **error,
        "message": found.message,
        "type": _word(error, "type") or _word(node, "type") or _type(status),
        "param": _word(error, "param") or _word(node, "param") or found.param,
        "code": _word(error, "code") or _word(node, "code") or found.code,
    }
    return True


def path_of(loc: Iterable[object]) -> str:
    """Where in the request a violation is: ``("body", "messages", 2, "assistant", "name")`` is ``messages[2].name``.

    Without the labels of unions, the role behind a message's index and the type behind a chunk's or a tool's. ``""``: the
    whole body.
    """
    return _path([part if isinstance(part, int) else str(part) for part in loc], tags=False)


class _Found(NamedTuple):
    message: str
    param: str | None = None
    code: str | None = None


def _explain(value: object, depth: int = _MAX_DEPTH) -> _Found | None:
    """What a message, a detail or an object that holds one says; None: nothing."""
    if depth == 0:
        return None
    text = as_text(value)
    if text:
        return _quoted(text, depth) or _Found(text)
    node = as_object(value)
    if node is not None:
        inner = (_explain(node[key], depth - 1) for key in ("message", "detail", "msg", "error") if key in node)
        return next((found for found in inner if found), None)
    items = as_array(value)
    return _violations(items) if items else None


def _quoted(text: str, depth: int) -> _Found | None:
    """What an object says that is quoted as JSON in a string."""
    if not text.startswith("{"):
        return None
    try:
        return _explain(msgspec.json.decode(text, type=msgspec.Raw), depth - 1)
    except msgspec.DecodeError:
        return None


def _violations(items: list[object]) -> _Found | None:
    """pydantic's error records, all in one sentence. The path in it has the roles, as in Mistral's own words."""
    first: tuple[str | None, str | None] = (None, None)
    said: list[str] = []
    for item in items:
        node = as_object(item) or {}
        text = as_text(node.get("msg")) or as_text(item)
        if text is None:
            continue
        loc = _loc(node)
        if not said:
            first = path_of(loc) or None, _word(node, "type")
        path = _path(loc, tags=True)
        said.append(_cut(path + ": " if path else "") + _cut(text))
    if not said:
        return None
    more = len(said) - _MAX_VIOLATIONS
    return _Found("; ".join(said[:_MAX_VIOLATIONS]) + (f"; and {more} more" if more > 0 else ""), *first)


def _loc(node: Node) -> tuple[int | str, ...]:
    try:
        return tuple(_location(node.get("loc", b"[]")))
    except msgspec.ValidationError:
        return ()


def _path(loc: Sequence[int | str], *, tags: bool) -> str:
    """*loc* in the notation of JavaScript; *tags*: with those of tagged unions."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in _parts(loc, tags)).removeprefix(".")


def _parts(loc: Sequence[int | str], tags: bool) -> Iterator[int | str]:
    before: int | str = ""
    name = ""  # of the list that an index belongs to
    for i, part in enumerate(loc):
        variants = _TAGS.get(name, _NONE) if isinstance(before, int) else _NONE
        if isinstance(part, int):
            yield part
        elif i == 0 and part == "body":
            pass
        elif _LABEL.fullmatch(part) or ((variants or before in _UNIONS) and _SHORT_LABEL.fullmatch(part)):
            pass  # an index behind it still belongs to the list before it
        elif part in variants and (variants is _ROLES or i + 1 < len(loc)):  # at the end "text", "function" are fields
            if tags:
                yield part
        else:
            name = part
            yield part
        before = part


def _word(node: Node, key: str) -> str | None:
    """``node[key]`` as a string; numbers too, since codes come as both."""
    if not absent(node, key) and first_byte(node[key]) in b"-0123456789":
        return bytes(node[key]).decode()
    return as_text(node.get(key)) or None


def _type(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
