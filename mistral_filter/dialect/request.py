"""The top level of a request: renamed fields, OpenAI's forms of Mistral's fields."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from mistral_filter.dialect.chunks import joined_text
from mistral_filter.dialect.tools import without_schema_ids
from mistral_filter.dialect.values import note_rest
from mistral_filter.errors import Refused
from mistral_filter.parts import Array, Object
from mistral_filter.rawjson import NULL, as_number

__all__ = ["embedding_input", "prediction", "reads_reasoning", "reasoning", "rename_fields", "response_format", "stop"]

RENAMED = {
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "seed": "random_seed",
    "dimensions": "output_dimension",
}
"""OpenAI's name: Mistral's name (OpenAPI documents of both, 2026-08)."""

_SCHEMA_KEYS = ("name", "description", "schema", "strict")
_OF_A_FORMAT = ("name", "strict")
_OF_A_SCHEMA = frozenset(("type", "properties", "$ref", "$schema", "$defs", "items", "anyOf", "oneOf", "allOf", "enum"))
"""Keys of a JSON schema (draft 2020-12), by one of which a schema is told from OpenAI's object around it."""


def rename_fields(body: Object, accepted: Container[str]) -> None:
    """Renames OpenAI's fields where the endpoint's *accepted* names hold Mistral's. Of two limits the smaller one counts."""
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
    """A json_schema format has a name and a schema (OpenAI's need not have one), without what Mistral fails to compile."""
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
    if not inner.has("schema") and not _OF_A_SCHEMA.isdisjoint(inner.fields):
        # the bare schema in place of the object around it (ax)
        inner.fields.pop("schema", None)
        inner.note("rename", inner.path, "Mistral nests the schema", to="schema")
        around = {name: inner.fields.pop(name) for name in _OF_A_FORMAT if name in inner.fields}
        inner.fields = {**around, "schema": inner.fields}
    if not inner.has("name"):
        inner.insert("name", "response", "Mistral requires a name")
    if not inner.has("schema"):
        inner.insert("schema", {"type": "object"}, "Mistral requires a schema")
    without_schema_ids(inner, "schema")


def reasoning(body: Object) -> None:
    """``reasoning.effort`` (the Responses API, OpenRouter) is chat's ``reasoning_effort``."""
    given = body.object("reasoning")
    if given is None:
        return
    note_rest(given, ("effort",))
    effort = given.fields.get("effort", NULL)
    if effort != NULL and not body.has("reasoning_effort"):
        body.note("rename", given.at("effort"), "chat's name", to="reasoning_effort")
        body.fields["reasoning_effort"] = effort
    elif "effort" in given.fields or not given.fields:
        path = given.at("effort") if given.fields else given.path
        body.note("drop", path, "it says nothing, or reasoning_effort says it")
    del body.fields["reasoning"]


def reads_reasoning(body: Object) -> bool:
    """Whether the model reads earlier reasoning: Mistral's reasoning models are named magistral (documentation, 2026-11)."""
    return (body.text("model") or "").startswith("magistral")


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
