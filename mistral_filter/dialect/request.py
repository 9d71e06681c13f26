"""The top level of a request: renamed fields, OpenAI's forms of Mistral's fields."""

from __future__ import annotations

from typing import Any

from mistral_filter.changes import Change
from mistral_filter.dialect.chunks import joined_text
from mistral_filter.dialect.tools import without_schema_ids
from mistral_filter.dialect.values import report_rest
from mistral_filter.errors import Refused
from mistral_filter.rawjson import NULL, Node, as_array, as_number, as_object, as_objects, as_text, first_byte

__all__ = ["embedding_input", "prediction", "reasoning", "rename_fields", "response_format", "stop", "thinks"]

RENAMED = {
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "seed": "random_seed",
    "dimensions": "output_dimension",
}
"""OpenAI's name: Mistral's name (OpenAPI documents of both, 2026-08)."""


def rename_fields(body: Node, accepted: Any, changes: list[Change]) -> None:
    """Renames OpenAI's fields where the endpoint's *accepted* names hold Mistral's. Of two limits the smaller one counts."""
    for name, new in RENAMED.items():
        if name not in body or name in accepted or new not in accepted:
            continue
        value = body.pop(name)
        if value == NULL:
            changes.append(Change("drop", name, "null says nothing", "none"))
        elif _says_nothing(body.get(new, NULL)):
            body[new] = value
            changes.append(Change("rename", name, "Mistral's name", "none", new))
        elif new == "max_tokens" and not _says_nothing(value) and _smaller(value, body[new]):
            body[new] = value
            changes.append(Change("rename", name, "the smaller of two limits", "none", new))
        else:
            changes.append(Change("drop", name, f"{new} is given too", "none"))


def _says_nothing(value: Any) -> bool:
    """Null, or a count below zero, which is how some clients say that there is no limit."""
    number = as_number(value)
    return value == NULL or (number is not None and number < 0)


def _smaller(a: Any, b: Any) -> bool:
    x, y = as_number(a), as_number(b)
    return x is not None and (y is None or x < y)


def stop(body: Node, changes: list[Change]) -> None:
    """An empty list of stops, which Mistral refuses, says nothing."""
    if "stop" in body and first_byte(body["stop"]) == 0x5B and as_array(body["stop"]) == []:
        del body["stop"]
        changes.append(Change("drop", "stop", "an empty list", "none"))


def prediction(body: Node, changes: list[Change]) -> None:
    """``prediction.content`` as parts becomes one string."""
    node = as_object(body.get("prediction"))
    parts = as_objects(node.get("content")) if node else None
    if node is None or parts is None:
        return
    node["content"] = joined_text(parts, "prediction.content", changes)
    body["prediction"] = node
    changes.append(Change("set", "prediction.content", "Mistral takes one string", "none"))


def response_format(body: Node, changes: list[Change]) -> None:
    """A json_schema format has a schema (OpenAI's need not have one), without what Mistral fails to compile."""
    node = as_object(body.get("response_format"))
    if node is None:
        return
    inner = as_object(node.get("json_schema"))
    mark = len(changes)
    if inner is None:
        if as_text(node.get("type")) not in ("json_schema", "json_object") or not as_object(node.get("schema")):
            return
        # flat, as in the Responses API, or json_object with a schema, as open servers take it
        inner = {name: node.pop(name) for name in _SCHEMA_KEYS if name in node}
        inner.setdefault("name", "response")
        node["type"] = "json_schema"
        changes.append(Change("rename", "response_format.schema", "Mistral nests the schema", "none", "json_schema"))
    if inner.get("schema", NULL) == NULL:
        inner["schema"] = {"type": "object"}
        changes.append(Change("insert", "response_format.json_schema.schema", "Mistral requires a schema", "none"))
    without_schema_ids(inner, "schema", "response_format.json_schema", changes)
    if len(changes) != mark:
        node["json_schema"] = inner
        body["response_format"] = node


def reasoning(body: Node, changes: list[Change]) -> None:
    """``reasoning.effort`` (the Responses API, OpenRouter) is chat's ``reasoning_effort``."""
    given = as_object(body.get("reasoning"))
    if given is None:
        return
    del body["reasoning"]
    report_rest(given, ("effort",), "reasoning", changes)
    effort = given.get("effort", NULL)
    if effort != NULL and body.get("reasoning_effort", NULL) == NULL:
        body["reasoning_effort"] = effort
        changes.append(Change("rename", "reasoning.effort", "chat's name", "none", "reasoning_effort"))
    elif "effort" in given or not given:
        path = "reasoning.effort" if given else "reasoning"
        changes.append(Change("drop", path, "it says nothing, or reasoning_effort says it", "none"))


_SCHEMA_KEYS = ("name", "description", "schema", "strict")


def thinks(body: Node) -> bool:
    """Whether the model reads earlier reasoning: Mistral's reasoning models are named magistral (documentation, 2026-11)."""
    return (as_text(body.get("model")) or "").startswith("magistral")


def embedding_input(body: Node) -> None:
    """Raises Refused for token ids: they are another model's, and no text can be made of them here."""
    items = as_array(body.get("input"))
    if not items:
        return
    inner = as_array(items[0])
    if as_number(items[0]) is None and (inner is None or not inner or as_number(inner[0]) is None):
        return
    raise Refused(
        "input: Mistral embeds text, not token ids. Let the client send text: check_embedding_ctx_length=False in LangChain's "
        "OpenAIEmbeddings; in other clients, turn off counting or cutting by tokens (tiktoken).",
        param="input",
        code="token_ids",
    )
