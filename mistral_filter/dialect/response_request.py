"""The top level of a Responses request: chat's fields by their names here, constants, tools, what refers to stored things."""

from __future__ import annotations

from collections.abc import Container

from msgspec import Raw

from mistral_filter.changes import Loss
from mistral_filter.dialect import tools
from mistral_filter.dialect.request import wrap_bare_schema
from mistral_filter.dialect.values import json_text, note_rest
from mistral_filter.errors import Refused
from mistral_filter.fields import RESPONSE_CONSTANTS, RESPONSE_INCLUDED, RESPONSE_TOOLS, RESPONSES, Tagged
from mistral_filter.fields import Array as List
from mistral_filter.parts import Array, Object
from mistral_filter.rawjson import NULL, as_number, as_text

__all__ = ["response_request"]

_STORED = {
    "previous_response_id": "Send the whole conversation as input in each request: turn store off in the client (store=False), "
    "and leave previous_response_id out",
    "conversation": "Send the whole conversation as input in each request (store=False), and leave conversation out",
    "prompt": "Send the text of the prompt as instructions and input, and leave prompt out",
}
"""Fields that refer to what OpenAI has stored, and what to do instead."""

_LIMITS = ("max_completion_tokens", "max_tokens")
"""Chat's names for ``max_output_tokens``."""
_FUNCTION_KEYS = ("name", "description", "parameters", "strict")
_SCHEMA_KEYS = ("name", "description", "schema", "strict")
_FORMATS = ("text", "json_object", "json_schema")
_LOSSES: tuple[Loss, ...] = ("none", "approximate", "lost")


def response_request(body: Object, endpoint: str, accepted: Container[str]) -> None:
    """Translates everything but the items. *accepted* are the names that the *endpoint*, a key of RESPONSES, has.

    Raises Refused for what is stored elsewhere: ``previous_response_id``, ``conversation``, ``prompt``.
    """
    for name, instead in _STORED.items():
        if body.has(name):
            reason = f"{name}: Mistral stores no responses, conversations or prompts. {instead}."
            raise Refused(reason, param=name, code="stateful_conversation")
    _messages(body)
    _limits(body, accepted)
    _effort(body)
    _text(body)
    if "functions" in body.fields or "function_call" in body.fields:
        tools.legacy_functions(body)
    _tool_choice(body, _tools(body))
    _include(body)
    if "metadata" in accepted:
        _metadata(body)
    _constants(body, accepted)
    for name in RESPONSES["responses"].fields:
        if name in body.fields and name not in RESPONSES[endpoint].fields and name not in accepted:
            body.drop(name, "only the answer depends on it, not how long the input is")


def _messages(body: Object) -> None:
    """A chat body's conversation: the items are translated where they stand."""
    if "messages" not in body.fields:
        return
    if "input" in body.fields and (body.has("input") or not body.has("messages")):
        body.drop("messages", "input is given too", "lost" if body.has("messages") else "none")
    elif body.has("messages"):
        body.array("messages")  # opened here, it keeps the path that the client knows
        body.rename("messages", "input", "the name of the Responses API")


def _limits(body: Object, accepted: Container[str]) -> None:
    for name in _LIMITS:
        if name not in body.fields or "max_output_tokens" not in accepted:
            continue
        value, other = as_number(body.fields[name]), body.number("max_output_tokens")
        if value is None or value < 0:
            body.drop(name, "it says nothing")
        elif other is None or other < 0 or value < other:
            body.rename(name, "max_output_tokens", "the name of the Responses API; of two limits the smaller")
        else:
            body.drop(name, "max_output_tokens is given too")


def _effort(body: Object) -> None:
    """``reasoning_effort`` (chat) is ``reasoning.effort``."""
    if "reasoning_effort" not in body.fields:
        return
    reasoning = body.object("reasoning")
    if not body.has("reasoning_effort") or (reasoning is not None and reasoning.has("effort")):
        body.drop("reasoning_effort", "it says nothing, or reasoning.effort says it")
        return
    body.note("rename", "reasoning_effort", "the name of the Responses API", to="reasoning.effort")
    rest = {} if reasoning is None else reasoning.fields
    body.fields["reasoning"] = {**rest, "effort": body.fields.pop("reasoning_effort")}


def _text(body: Object) -> None:
    """``response_format`` and ``verbosity`` (chat) are in ``text``; a JSON schema stands there without a level of its own."""
    text = body.object("text")
    for name, key in (("response_format", "format"), ("verbosity", "verbosity")):
        if name not in body.fields:
            continue
        if not body.has(name) or (text is not None and text.has(key)):
            body.drop(name, f"it says nothing, or text.{key} says it")
            continue
        if key == "format":
            body.object(name)
        body.note("rename", name, "the name of the Responses API", to=f"text.{key}")
        if text is None:
            body.fields["text"] = {}
            text = body.object("text")
            assert text is not None
        text.position.set_edited()
        text.fields[key] = body.fields.pop(name)
    form = text.object("format") if text is not None else None
    if text is None or form is None:
        return
    kind = form.text("type")
    nested = form.object("json_schema")
    if nested is not None:
        note_rest(form, ("type", "json_schema"))
        wrap_bare_schema(nested)
        note_rest(nested, _SCHEMA_KEYS)
        fields = {"type": "json_schema", **{key: nested.fields[key] for key in _SCHEMA_KEYS if key in nested.fields}}
        form.become(fields, "rename", form.at("json_schema"), "the Responses API does not nest the schema", to="text.format")
    elif kind == "json_object" and form.object("schema") is not None:
        form.set("type", "json_schema", "a schema is given")
    elif kind not in _FORMATS:
        text.drop("format", "Mistral has no such format", "lost")
        return
    if form.text("type") == "json_schema":
        if not form.has("name"):
            form.insert("name", "response", "Mistral requires a name")
        if not form.has("schema"):
            form.insert("schema", {"type": "object"}, "Mistral requires a schema")


# ------------------------------------------------------------------------------------------------- tools


def _tools(body: Object) -> set[str | None]:
    """Every tool in the flat form. Returns the names and types of those that Mistral does not have and that went."""
    given = body.array("tools")
    gone: set[str | None] = set()
    if given is None:
        return gone
    for index, tool in given.each():
        kind = tool.text("type")
        if kind in ("function", None):
            _function(tool)
        elif kind == "namespace":
            _namespace(tool, given, index)
        else:
            given.drop(index, "Mistral's Responses API has no tools of this type", "lost")
            gone |= {tool.text("name"), kind}
    if not given.items:
        body.note("drop", "tools", "an empty list")
    if given.is_empty():
        del body.fields["tools"]
        if "tool_choice" in body.fields:
            body.drop("tool_choice", "there is no tool to choose", "none" if not gone or body.text("tool_choice") else "lost")
    return gone - {None}


def _function(tool: Object) -> None:
    function = tool.object("function")
    if function is not None:
        note_rest(function, (*_FUNCTION_KEYS, "input_schema"))
        for name in (*_FUNCTION_KEYS, "input_schema"):
            if name in function.fields:
                tool.fields[name] = function.fields[name]
        tool.note("rename", tool.at("function"), "the Responses API does not nest a function", to=tool.path)
        del tool.fields["function"]
    if not tool.has("type"):
        tool.insert("type", "function", "Mistral requires it")
    if "input_schema" in tool.fields and not tool.has("parameters"):
        tool.rename("input_schema", "parameters", "Anthropic's name")
    tools.without_schema_ids(tool, "parameters")


def _namespace(space: Object, given: Array, index: int) -> None:
    """A namespace of tools, with a description; one that is left without tools goes."""
    inner = space.array("tools")
    known = RESPONSE_TOOLS["namespace"].fields["tools"]
    assert isinstance(known, List)
    assert isinstance(known.items, Tagged)
    for number, tool in inner.each() if inner is not None else ():
        kind = tool.text("type")
        if kind == "function" or kind is None:
            _function(tool)
        elif kind not in known.items.variants:
            assert inner is not None
            inner.drop(number, "Mistral's Responses API has no tools of this type", "lost")
    if inner is None or inner.is_empty():
        given.drop(index, "a namespace without tools")
    elif not space.has("description"):
        space.insert("description", space.text("name") or "", "Mistral requires a description")


def _tool_choice(body: Object, gone: set[str | None]) -> None:
    """``tool_choice`` in the flat form; one that names a tool that went goes with it."""
    if body.text("tool_choice") == "any":
        body.set("tool_choice", "required", "OpenAI's word for any")
    choice = body.object("tool_choice")
    if choice is None:
        return
    kind = choice.text("type")
    if kind == "allowed_tools":
        tools.allowed_tools(body, choice.object("allowed_tools") or choice)
    elif kind in ("auto", "none", "any", "required"):
        note_rest(choice, ("type",))
        body.set("tool_choice", "required" if kind == "any" else kind, "the same word as a text")
    elif kind not in ("function", "tool", None):
        body.drop("tool_choice", "Mistral's Responses API has no tools of this type", "lost")
    else:
        function = choice.object("function")
        name = (function or choice).text("name")
        if name in gone:
            body.drop("tool_choice", "the tool that it names was left out", "lost")
        elif function is not None or kind != "function":
            note_rest(choice, ("type", "name", "function"))
            flat = {"type": "function", "name": (function or choice).fields.get("name", NULL)}
            choice.become(flat, "rename", choice.path, "the Responses API does not nest a function's name", to="tool_choice.name")


# ------------------------------------------------------------------------------------------------- values


def _include(body: Object) -> None:
    """``include`` asks for more in the answer, word by word; Mistral has none of it."""
    words = body.array("include")
    if words is None:
        return
    losses = [_LOSSES.index(RESPONSE_INCLUDED.get(as_text(word) or "", "lost")) for word in words.items]
    body.drop("include", "Mistral's Responses API does not know the field", _LOSSES[max(losses, default=0)])


def _metadata(body: Object) -> None:
    """Values of ``metadata`` as texts."""
    metadata = body.object("metadata")
    for name, value in list(metadata.fields.items()) if metadata is not None else ():
        assert metadata is not None
        if value == NULL:
            metadata.drop(name, "Mistral takes texts only, and null says nothing")
        elif as_text(value) is None:
            metadata.set(name, json_text(value), "Mistral takes texts only")


def _constants(body: Object, accepted: Container[str]) -> None:
    """Fields that Mistral takes with one value only."""
    for name, constant in RESPONSE_CONSTANTS.items():
        value = body.fields.get(name)
        if name not in accepted or not isinstance(value, Raw) or bytes(value) in constant.accepted:
            continue
        if value == NULL:
            body.drop(name, "null says nothing")
        elif constant.instead is not None:
            body.set(name, Raw(constant.instead), constant.reason, constant.loss)
        else:
            body.drop(name, constant.reason, constant.loss)
