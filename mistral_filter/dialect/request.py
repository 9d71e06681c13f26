"""The top level of a request: renamed fields, OpenAI's forms of Mistral's fields."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from mistral_filter.dialect.chunks import joined_text
from mistral_filter.errors import Refused
from mistral_filter.fields import DIMENSIONS
from mistral_filter.parts import Array, Object
from mistral_filter.rawjson import NULL, as_number

__all__ = [
    "embedding_dimension",
    "embedding_input",
    "moderated_messages",
    "prediction",
    "rename_fields",
    "response_format",
    "stop",
    "wrap_bare_schema",
]

RENAMED = {
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "seed": "random_seed",
    "dimensions": "output_dimension",
}
"""OpenAI's name: Mistral's name (OpenAPI documents of both, 2026-08)."""
_RENAMED = frozenset(RENAMED)

_SCHEMA_KEYS = ("name", "description", "schema", "strict")
_OF_A_FORMAT = ("name", "strict")
_OF_A_SCHEMA = frozenset(("type", "properties", "$ref", "$schema", "$defs", "items", "anyOf", "oneOf", "allOf", "enum"))
"""Keys of a JSON schema (draft 2020-12), by one of which a schema is told from OpenAI's object around it."""


def rename_fields(body: Object, accepted: Container[str]) -> None:
    """Renames OpenAI's fields where the endpoint's *accepted* names hold Mistral's. Of two limits the smaller one counts."""
    if _RENAMED.isdisjoint(body.fields):
        return
    for name, new in RENAMED.items():
        if name not in body.fields or name in accepted or new not in accepted:
            continue
        value, other = body.fields[name], body.fields.get(new, NULL)
        if value == NULL:
            body.drop(name, "null says nothing")
        elif _says_nothing(other):
            body.rename(name, new, "Mistral's name")
        elif new == "max_tokens" and not _says_nothing(value) and _smaller(value, other):
            body.rename(name, new, "the smaller of two limits")
        else:
            body.drop(name, f"{new} is given too")


def _says_nothing(value: Any) -> bool:
    """Null, or a count below zero, which is how some clients say that there is no limit."""
    number = as_number(value)
    return bool(value == NULL) or (number is not None and number < 0)


def _smaller(a: Any, b: Any) -> bool:
    x, y = as_number(a), as_number(b)
    return x is not None and (y is None or x < y)


def stop(body: Object) -> None:
    """An empty list of stops, which Mistral refuses, says nothing."""
    if "stop" in body.fields and (words := body.array("stop")) is not None and not words.items:
        body.drop("stop", "an empty list")


def prediction(body: Object) -> None:
    """``prediction.content`` as parts becomes one string."""
    given = body.object("prediction")
    parts = given.array("content") if given is not None else None
    if given is not None and parts is not None:
        given.set("content", joined_text(parts), "Mistral takes one string")


def response_format(body: Object) -> None:
    """A json_schema format has a name and a schema; OpenAI's need not have one. The schema itself is the caller's own."""
    form = body.object("response_format")
    if form is None:
        return
    if form.object("json_schema") is None:
        schema = form.object("schema")
        if form.text("type") not in ("json_schema", "json_object") or schema is None or not schema.fields:
            return
        # flat, as in the Responses API, or json_object with a schema, as open servers take it
        form.note("rename", form.at("schema"), "Mistral nests the schema", to="json_schema")
        nested = {name: form.fields.pop(name) for name in _SCHEMA_KEYS if name in form.fields}
        nested.setdefault("name", "response")
        form.fields |= {"type": "json_schema", "json_schema": nested}
    inner = form.object("json_schema")
    assert inner is not None
    wrap_bare_schema(inner)
    if not inner.has("name"):
        inner.insert("name", "response", "Mistral requires a name")
    if not inner.has("schema"):
        inner.insert("schema", {"type": "object"}, "Mistral requires a schema")


def wrap_bare_schema(inner: Object) -> None:
    """A ``json_schema`` that is the schema itself (ax) gets OpenAI's object around it."""
    if inner.has("schema") or _OF_A_SCHEMA.isdisjoint(inner.fields):
        return
    inner.fields.pop("schema", None)
    inner.note("rename", inner.path, "Mistral nests the schema", to="schema")
    around = {name: inner.fields.pop(name) for name in _OF_A_FORMAT if name in inner.fields}
    inner.fields = {**around, "schema": inner.fields}


def embedding_input(body: Object) -> None:
    """Raises Refused for token ids: they are another model's, and no text can be made of them here."""
    items = body.array("input")
    while items is not None and items.items and (first := items.part(0)) is not None:
        items = first if isinstance(first, Array) else None
    if items is None or not items.items or as_number(items.items[0]) is None:
        return
    raise Refused(
        "input: Mistral embeds text, not token ids. Let the client send text: check_embedding_ctx_length=False in LangChain's "
        "OpenAIEmbeddings; in other clients, turn off counting or cutting by tokens (tiktoken).",
        param="input",
        code="token_ids",
    )


def embedding_dimension(body: Object) -> None:
    """The dimension of a model that has one only (``fields.DIMENSIONS``) is left out. Raises Refused for another number."""
    model = body.text("model")
    size = None if model is None else DIMENSIONS.get(model)
    for name in ("output_dimension", "dimensions") if size is not None else ():
        number = body.number(name)
        if number == size:
            body.drop(name, f"it is what {model} gives, and the model refuses the field")
        elif number is not None and number > 0:
            raise Refused(
                f"{name}: {model} always gives {size} numbers. Send {size} or leave the field out, and set your index to {size}; "
                "or use codestral-embed, which takes a dimension.",
                param=name,
                code="embedding_dimension",
            )


def moderated_messages(body: Object, *, nested: bool) -> None:
    """The moderation of a conversation has ``messages`` under ``input``; *nested*: the classification, in an object there."""
    if not body.has("messages") or body.has("input"):
        return
    messages = body.part("messages") or body.fields["messages"]  # opened here: its path is the one that it came by
    body.rename("messages", "input", "Mistral's name")
    body.fields["input"] = {"messages": messages} if nested else messages
