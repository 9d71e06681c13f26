"""422: what the tables of ``fields`` refuse, in pydantic's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mistral_filter.fields import ENDPOINTS, Array, Node, Object, Tagged, Value

__all__ = ["violations"]

Error = tuple[str, str]
"""pydantic's name for an error, and its sentence."""
Loc = tuple[str | int, ...]
Found = Iterator[tuple[Error, Loc, Any]]

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
    **dict.fromkeys(("arguments", "input_audio"), (_STRING, (str, dict))),
}
"""What a value that may not be null has to be, by its name; a string where nothing is said. OpenAPI document of 2026-08-21, and
for input_audio as an object a recorded 200 (voxtral-small, 2026-08)."""

_WORDS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("tool_calls", "type"): ("function",),
    ("ToolChoice", "type"): ("function",),
    ("prediction", "type"): ("content",),
}
"""Closed lists of the same document that the tables do not hold, by the last two names of a path."""

_UNIONS: Mapping[str | int, str] = {
    "content": "list[tagged-union[TextChunk,ImageURLChunk,DocumentURLChunk,ReferenceChunk,FileChunk,ThinkChunk,AudioChunk]]",
    "image_url": "ImageURL",
    "tool_choice": "ToolChoice",
}
"""Where a string may stand for the list or object: pydantic's label for the latter."""

_UNTAGGED = {"document", "thinking"}
"""Unions that the document does not tell apart by a tag: the fields decide there."""


def violations(body: object, endpoint: str) -> list[dict[str, Any]]:
    """Everything in *body* that the schema of *endpoint* (a key of ``fields.ENDPOINTS``) refuses, all at once.

    The items are pydantic's error records, as FastAPI puts them under ``detail``: a message's role or a chunk's type follows the
    index in ``loc``; in a union with a string, the label of the branch follows, and the string branch complains as well.
    """
    found = _judge(ENDPOINTS[endpoint], body, ("body",))
    return [{"type": kind, "loc": list(loc), "msg": msg, "input": value} for (kind, msg), loc, value in found]


def _judge(node: Node, value: Any, loc: Loc) -> Found:
    key = loc[-1]
    if value is None and not isinstance(node, Tagged) and node.null:
        return
    if isinstance(node, Value):
        yield from _judge_value(node, value, loc)
    elif key in _UNIONS and isinstance(value, str):
        yield from _judge_value(Value(choices=node.choices if isinstance(node, Object) else ()), value, loc)
    elif key in _UNIONS:
        if inner := list(_judge(node, value, (*loc, _UNIONS[key]))):
            yield from ((_STRING, (*loc, "str"), value), *inner)
    elif key == "input" and isinstance(value, list) and (isinstance(node, Object) or any(isinstance(v, list) for v in value)):
        for i, item in enumerate(value):  # chat/moderations and chat/classifications take several conversations as well
            yield from _judge(node, item, (*loc, i))
    elif isinstance(node, Array) and isinstance(value, list):
        for i, item in enumerate(value):
            yield from _judge(node.items, item, (*loc, i))
    elif isinstance(node, Array) or not isinstance(value, dict):
        yield _LIST if isinstance(node, Array) else _OBJECT, loc, value
    else:
        yield from (_judge_tagged(node, value, loc) if isinstance(node, Tagged) else _judge_object(node, value, loc))


def _judge_object(node: Object, value: dict[str, Any], loc: Loc) -> Found:
    for name in node.required:
        if name not in value:
            yield ("missing", "Field required"), (*loc, name), value
    for name, part in value.items():
        if name in node.fields:
            yield from _judge(node.fields[name], part, (*loc, name))
        else:
            yield ("extra_forbidden", "Extra inputs are not permitted"), (*loc, name), part


def _judge_tagged(node: Tagged, value: dict[str, Any], loc: Loc) -> Found:
    tag = value.get(node.by, node.default)
    if node.by not in value and not _UNTAGGED.isdisjoint(loc[-2:]):
        tag = next((t for t, variant in node.variants.items() if set(variant.required) <= value.keys()), None)
    if isinstance(tag, str) and tag in node.variants:
        yield from _judge_object(node.variants[tag], value, (*loc, tag))
    elif node.by not in value:
        yield ("union_tag_not_found", f"Unable to extract tag using discriminator '{node.by}'"), loc, value
    else:
        found = f"Input tag '{tag}' found using '{node.by}' does not match any of the expected tags: "
        yield ("union_tag_invalid", found + ", ".join(f"'{t}'" for t in node.variants)), loc, value


def _judge_value(node: Value, value: Any, loc: Loc) -> Found:
    key = loc[-1]
    if words := _WORDS.get(tuple(name for name in loc if isinstance(name, str))[-2:], node.choices):
        if value not in words:
            either = " or ".join(", ".join(f"'{word}'" for word in words).rsplit(", ", 1))
            yield ("enum", f"Input should be {either}"), loc, value
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
        if wrong := [(_STRING, (*loc, "list[str]", i), item) for i, item in enumerate(value) if not isinstance(item, str)]:
            yield from ((_STRING, (*loc, "str"), value), *wrong)
    elif key == "stop" and value == []:
        yield ("too_short", "List should have at least 1 item after validation, not 0"), loc, value
    elif not node.null:
        error, types = _TYPES.get(key, (_STRING, str))
        if not isinstance(value, types):
            yield error, loc, value
