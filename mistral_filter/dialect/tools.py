"""tools, tool_choice and the schemas in them."""

from __future__ import annotations

from typing import Any

import msgspec

from mistral_filter.changes import Change
from mistral_filter.dialect.values import DROP, report_repeated, report_rest
from mistral_filter.fields import ENDPOINTS, Array, Tagged
from mistral_filter.rawjson import NULL, Node, as_array, as_object, as_objects, as_text, with_sent_bytes

__all__ = ["legacy_functions", "tool_choice", "tools", "without_schema_ids"]

_FUNCTION_KEYS = ("name", "description", "parameters", "strict")
_SCHEMA_IDS = ("$schema", "$id")
"""At the top of a schema they failed to compile at Mistral (public issues of 2025)."""

_COMPILES = msgspec.Raw(b'"http://json-schema.org/draft-07/schema#"')
"""The one $schema that is known to pass: the AI SDK's own provider for Mistral sends it (version 5, recorded 2026-11)."""


def _tool_types() -> frozenset[str]:
    node = ENDPOINTS["chat"].fields["tools"]
    assert isinstance(node, Array)
    assert isinstance(node.items, Tagged)
    return frozenset(node.items.variants)


_KNOWN = _tool_types()


def legacy_functions(body: Node, changes: list[Change]) -> None:
    """``functions`` and ``function_call`` (OpenAI, 2023) become ``tools`` and ``tool_choice``."""
    functions = as_array(body.get("functions"))
    if functions is not None:
        del body["functions"]
        given = {_name(tool) for tool in as_objects(body.get("tools")) or []}
        if given:
            same = given >= {_name(as_object(function)) for function in functions}
            changes.append(Change("drop", "functions", "tools is given too", "none" if same else "lost"))
        elif functions:
            body["tools"] = [{"type": "function", "function": function} for function in functions]
            changes.append(Change("rename", "functions", "OpenAI's older name", "none", "tools"))
        else:
            changes.append(Change("drop", "functions", "an empty list", "none"))
    choice = body.get("function_call")
    if choice is None or (as_text(choice) is None and as_object(choice) is None):
        return
    del body["function_call"]
    if body.get("tool_choice", NULL) != NULL:
        changes.append(Change("drop", "function_call", "tool_choice is given too", "none"))
    else:
        body["tool_choice"] = choice if as_text(choice) is not None else {"type": "function", "function": choice}
        changes.append(Change("rename", "function_call", "OpenAI's older name", "none", "tool_choice"))


def tools(body: Node, changes: list[Change]) -> None:
    """Every tool in Mistral's nested form; kinds that Mistral does not have are dropped, and said so.

    A tool that goes leaves DROP in its place, so that the others keep theirs.
    """
    given = as_objects(body.get("tools"))
    if given is None:
        return
    touched = report_repeated(body["tools"], given, "tools", changes)
    for i, tool in enumerate(given):
        mark = len(changes)
        if isinstance(tool, dict):
            given[i] = _tool(tool, f"tools[{i}]", changes)
        if len(changes) != mark:
            touched.add(i)
    if touched:
        body["tools"] = with_sent_bytes(given, body["tools"], touched)
    if not given:
        changes.append(Change("drop", "tools", "an empty list", "none"))
    if all(tool is DROP for tool in given):
        del body["tools"]
        if body.pop("tool_choice", None) is not None:
            changes.append(Change("drop", "tool_choice", "there is no tool to choose", "none"))


def _tool(tool: Node, path: str, changes: list[Change]) -> Any:
    kind = as_text(tool.get("type"))
    function = as_object(tool.get("function"))
    if kind not in ("function", None):
        if kind in _KNOWN:
            return tool
        changes.append(Change("drop", path, "Mistral has no tools of this type", "lost"))
        return DROP
    if function is None:
        if "name" not in tool:
            return tool
        function = {name: tool.pop(name) for name in _FUNCTION_KEYS if name in tool}
        tool["function"] = function
        changes.append(Change("rename", path, "Mistral nests a function under its key", "none", "function"))
    if kind is None:
        tool["type"] = "function"
        changes.append(Change("insert", f"{path}.type", "Mistral requires it", "none"))
    mark = len(changes)
    schema = tool if "input_schema" in tool else function
    if function.get("parameters", NULL) == NULL and as_object(schema.get("input_schema")) is not None:
        function["parameters"] = schema.pop("input_schema")
        changes.append(Change("rename", f"{path}.input_schema", "Anthropic's name", "none", "function.parameters"))
    if function.get("parameters", NULL) == NULL:
        function["parameters"] = {"type": "object", "properties": {}}
        changes.append(Change("insert", f"{path}.function.parameters", "Mistral requires a schema", "none"))
    without_schema_ids(function, "parameters", f"{path}.function", changes)
    if len(changes) != mark:
        tool["function"] = function
    return tool


def tool_choice(body: Node, changes: list[Change]) -> None:
    """``tool_choice`` in Mistral's nested form; ``allowed_tools`` narrows the tools themselves."""
    choice = as_object(body.get("tool_choice"))
    if choice is None:
        return
    kind = as_text(choice.get("type"))
    if kind == "allowed_tools":
        _allowed_tools(body, as_object(choice.get("allowed_tools")) or choice, changes)
    elif kind in ("function", "tool", None) and "function" not in choice and "name" in choice:
        body["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
        report_rest(choice, ("type", "name"), "tool_choice", changes)
        reason = "Mistral nests a function's name"
        changes.append(Change("rename", "tool_choice.name", reason, "none", "tool_choice.function.name"))
    elif kind in ("auto", "none", "any", "required"):
        body["tool_choice"] = kind
        report_rest(choice, ("type",), "tool_choice", changes)
        changes.append(Change("set", "tool_choice", "Mistral's form of the same word", "none"))
    elif kind not in ("function", None):
        del body["tool_choice"]
        changes.append(Change("drop", "tool_choice", "Mistral has no tools of this type", "lost"))


def _allowed_tools(body: Node, allowed: Node, changes: list[Change]) -> None:
    report_rest(allowed, ("type", "mode", "tools"), "tool_choice", changes)
    names = {_name(tool) or _type(tool) for tool in as_objects(allowed.get("tools")) or []} - {None}
    sent = as_array(body.get("tools")) or []
    allows = [(_name(tool) or _type(tool)) in names for tool in as_objects(sent) or []]
    if not any(allows):
        body["tool_choice"] = "none"
        changes.append(Change("set", "tool_choice", "none of the tools is an allowed one", "lost"))
        return
    body["tool_choice"] = "required" if as_text(allowed.get("mode")) == "required" else "auto"
    changes.append(Change("set", "tool_choice", "Mistral has no allowed_tools: the tools are narrowed instead", "none"))
    for i, tool in enumerate(sent):
        if not allows[i] and tool is not DROP:
            changes.append(Change("drop", f"tools[{i}]", "not among the allowed tools", "none"))
    body["tools"] = [tool if allows[i] else DROP for i, tool in enumerate(sent)]


def _name(tool: Any) -> str | None:
    if not isinstance(tool, dict):
        return None
    return as_text((as_object(tool.get("function")) or tool).get("name"))


def _type(tool: Any) -> str | None:
    return as_text(tool.get("type")) if isinstance(tool, dict) else None


def without_schema_ids(node: Node, key: str, path: str, changes: list[Change]) -> None:
    """Takes ``$schema`` and ``$id`` from the top of the schema under *key*; the rest of a schema is the caller's own."""
    schema = as_object(node.get(key))
    given = [name for name in _SCHEMA_IDS if schema and schema.get(name, _COMPILES) != _COMPILES]
    if schema is None or not given:
        return
    for name in given:
        del schema[name]
        changes.append(Change("drop", f"{path}.{key}.{name}", "it fails to compile at Mistral", "none"))
    node[key] = schema
