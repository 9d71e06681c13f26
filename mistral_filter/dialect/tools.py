"""tools, tool_choice and the schemas in them."""

from __future__ import annotations

from collections import Counter

import msgspec
from msgspec import Raw

from mistral_filter import fields
from mistral_filter.dialect.values import note_rest
from mistral_filter.parts import GONE, OBJECT_BYTES, Array, Object, Part

__all__ = ["NamesInSpaces", "allowed_tools", "legacy_functions", "tool_choice", "tools", "without_schema_ids"]

_FUNCTION_KEYS = ("name", "description", "parameters", "strict")
_SCHEMA_IDS = ("$schema", "$id")
"""At the top of a schema they failed to compile at Mistral (public issues of 2025)."""

_COMPILES = msgspec.Raw(b'"http://json-schema.org/draft-07/schema#"')
"""The one $schema that is known to pass: the AI SDK's own provider for Mistral sends it (version 5, recorded 2026-11)."""


def _tool_types() -> frozenset[str]:
    node = fields.ENDPOINTS["chat"].fields["tools"]
    assert isinstance(node, fields.Array)
    assert isinstance(node.items, fields.Tagged)
    return frozenset(node.items.variants)


_KNOWN = _tool_types()


def _choices() -> tuple[str, ...]:
    node = fields.ENDPOINTS["chat"].fields["tool_choice"]
    assert isinstance(node, fields.Object)
    return node.choices


_CHOICES = _choices()

NamesInSpaces = dict[tuple[str, str], str]
"""A namespace and the name of a function in it: what the function is called, if not that."""

_NO_SUCH_TOOLS = "Mistral has no tools of this type"


def legacy_functions(body: Object) -> None:
    """``functions`` and ``function_call`` (OpenAI, 2023) become ``tools`` and ``tool_choice``."""
    functions = body.array("functions")
    if functions is not None:
        given = {_name(tool) for tool in _each(body.array("tools"))}
        if given:
            same = given >= {_name(function) for function in _each(functions)}
            body.drop("functions", "tools is given too", "none" if same else "lost")
        elif functions.items:
            body.rename("functions", "tools", "OpenAI's older name")
            body.document.hold(OBJECT_BYTES * len(functions.items), "functions")
            body.fields["tools"] = [{"type": "function", "function": function} for function in functions.items]
        else:
            body.drop("functions", "an empty list")
    if body.text("function_call") is None and body.object("function_call") is None:
        return
    if body.has("tool_choice"):
        body.drop("function_call", "tool_choice is given too")
        return
    by_name = body.object("function_call")
    body.rename("function_call", "tool_choice", "OpenAI's older name")
    if by_name is not None:
        body.fields["tool_choice"] = {"type": "function", "function": by_name}


def tools(body: Object) -> NamesInSpaces:
    """Every tool in Mistral's nested form; kinds that Mistral does not have are dropped, and said so.

    Functions of a namespace stand behind the other tools. Returns what each of those is called.
    """
    given = body.array("tools")
    if given is None:
        return {}
    in_spaces: list[tuple[str, Object]] = []
    for index in range(len(given.items)):
        tool = given.part(index)
        if not isinstance(tool, Object):
            continue
        kind = tool.text("type")
        if kind in ("function", None):
            _function(tool)
        elif kind == "namespace":
            in_spaces += ((tool.text("name") or "", function) for function in _out_of_namespace(tool, given, index))
        elif kind not in _KNOWN:
            given.drop(index, _NO_SUCH_TOOLS, "lost")
    given.items += (function for _, function in in_spaces)
    if not given.items:
        body.note("drop", "tools", "an empty list")
    if given.is_empty():
        del body.fields["tools"]  # noted one by one
        if "tool_choice" in body.fields:
            body.drop("tool_choice", "there is no tool to choose")
    return _distinct(in_spaces, Counter(_name(tool) for tool in _each(given))) if in_spaces else {}


def _out_of_namespace(space: Object, given: Array, index: int) -> list[Object]:
    """The functions of a namespace (the Responses API), number *index* of the tools *given*, which goes."""
    note_rest(space, ("type", "name", "description", "tools"))
    functions = []
    inner = space.array("tools")
    for number, tool in enumerate(_each(inner)):
        if isinstance(tool, Object) and tool.text("type") in ("function", None):
            _function(tool)
            functions.append(tool)
        elif inner is not None:
            inner.drop(number, _NO_SUCH_TOOLS, "lost")
    if functions:
        given.take(index, "chat has no namespaces of tools: their functions stand among the others", "approximate", "tools")
    else:
        given.drop(index, "a namespace without tools")
    return functions


def _distinct(in_spaces: list[tuple[str, Object]], count: Counter[str | None]) -> NamesInSpaces:
    """Puts the name of its namespace before a function's where another tool has that too; *count*: how many tools have a name.

    Any other keeps its name, because by that the client finds it when it comes in an answer.
    """
    names: NamesInSpaces = {}
    for space, tool in in_spaces:
        function = tool.object("function") or tool
        name = function.text("name")
        if name and space and count[name] > 1:
            names[space, name] = f"{space}__{name}"
            function.set("name", names[space, name], "another tool has this name: its namespace stands before it", "approximate")
    return names


def _function(tool: Object) -> None:
    """A function tool: nested and with a schema. One without a type is taken as it is (93 recorded 200s)."""
    function = tool.object("function")
    if function is None:
        if "name" not in tool.fields:
            return
        nested = {name: tool.fields.pop(name) for name in _FUNCTION_KEYS if name in tool.fields}
        tool.note("rename", tool.path, "Mistral nests a function under its key", to="function")
        tool.fields["function"] = nested
        function = tool.object("function")
        assert function is not None
    if not function.has("parameters"):
        holder = tool if "input_schema" in tool.fields else function
        if holder.object("input_schema") is not None:
            function.note("rename", tool.at("input_schema"), "Anthropic's name", to="function.parameters")
            function.fields["parameters"] = holder.fields.pop("input_schema")
        else:
            function.insert("parameters", {"type": "object", "properties": {}}, "Mistral requires a schema")
    without_schema_ids(function, "parameters")


def tool_choice(body: Object) -> None:
    """``tool_choice`` in Mistral's nested form; ``allowed_tools`` narrows the tools themselves."""
    choice = body.object("tool_choice")
    if choice is None:
        return
    kind = choice.text("type")
    if kind == "allowed_tools":
        allowed_tools(body, choice.object("allowed_tools") or choice)
    elif kind in ("function", "tool", None) and "function" not in choice.fields and "name" in choice.fields:
        note_rest(choice, ("type", "name"))
        nested = {"type": "function", "function": {"name": choice.fields["name"]}}
        to = "tool_choice.function.name"
        choice.become(nested, "rename", choice.at("name"), "Mistral nests a function's name", to=to)
    elif kind in _CHOICES:
        note_rest(choice, ("type",))
        body.set("tool_choice", kind, "Mistral's form of the same word")
    elif kind not in ("function", None):
        body.drop("tool_choice", _NO_SUCH_TOOLS, "lost")


def allowed_tools(body: Object, allowed: Object) -> None:
    """Narrows the tools of *body* to the *allowed* ones, because Mistral has no ``allowed_tools``."""
    note_rest(allowed, ("type", "mode", "tools"))
    names = {_name(tool) or _type(tool) for tool in _each(allowed.array("tools"))} - {None}
    given = body.array("tools")
    allows = [(_name(tool) or _type(tool)) in names for tool in _each(given)]
    if given is None or not any(allows):
        body.set("tool_choice", "none", "none of the tools is an allowed one", "lost")
        return
    mode = "required" if allowed.text("mode") == "required" else "auto"
    body.set("tool_choice", mode, "Mistral has no allowed_tools: the tools are narrowed instead")
    for index, item in enumerate(given.items):
        if not allows[index] and item is not GONE:
            given.drop(index, "not among the allowed tools")


def _each(array: Array | None) -> list[Part | None]:
    """Every item of a list, opened; None for one that is no object and no list."""
    return [] if array is None else [array.part(index) for index in range(len(array.items))]


def _name(tool: Part | None) -> str | None:
    if not isinstance(tool, Object):
        return None
    return (tool.object("function") or tool).text("name")


def _type(tool: Part | None) -> str | None:
    return tool.text("type") if isinstance(tool, Object) else None


def without_schema_ids(holder: Object, key: str) -> None:
    """Takes ``$schema`` and ``$id`` from the top of the schema under *key*; the rest of a schema is the caller's own."""
    value = holder.fields.get(key)
    if isinstance(value, Raw) and not _may_have_ids(bytes(value)):
        return
    schema = holder.object(key)
    if schema is None:
        return
    for name in _SCHEMA_IDS:
        if schema.fields.get(name, _COMPILES) != _COMPILES:
            schema.drop(name, "it fails to compile at Mistral")


def _may_have_ids(schema: bytes) -> bool:
    """Whether either key may be there: written as it is, or with an escape."""
    return any(f'"{name}"'.encode() in schema for name in _SCHEMA_IDS) or b"\\u" in schema
