"""Calls and results among the items of a Responses request: which answers which, and their forms.

A call may be chat's or one of a tool that only OpenAI's API has; all become function calls.
"""

from __future__ import annotations

from collections import Counter, deque

from mistral_filter.dialect.response_parts import TEXT_KEYS, input_parts
from mistral_filter.dialect.values import json_text, note_rest
from mistral_filter.fields import FOREIGN_CALLS, RESPONSE_PARTS
from mistral_filter.parts import Array, Object, Part, encode
from mistral_filter.rawjson import NULL, Node, as_text

__all__ = ["FOREIGN_OUTPUTS", "CallKey", "Pairs", "call_item", "chat_call", "chat_calls", "item_type", "kind_of", "result_item"]

FOREIGN_OUTPUTS = frozenset(call.output for call in FOREIGN_CALLS.values())
"""The types of the items with their results."""
CallKey = tuple[int, int]
"""A call: the number of its item, and its own number where that is a chat message with several."""

_ITEM_BYTES, _CALL_BYTES = 250, 800
"""Memory of what is noted of an item while pairs are looked for, and of a call to the end."""


class Pairs:
    """Which result answers which call; found before anything is translated, because a result can come late."""

    def __init__(self, items: Array) -> None:
        self.id_of: dict[CallKey, str] = {}
        """Every call's id."""
        self.result_of: dict[CallKey, int] = {}
        """The number of the item with its result; not there: none came."""
        self.call_of: dict[int, CallKey] = {}
        """The other way round."""
        document, noted = items.document, _ITEM_BYTES * len(items.items)
        document.hold(noted, items.path)
        given: list[tuple[int, list[str | None], str | None, bool]] = []
        for index, item in items.each():
            kind = kind_of(item)
            ids = _call_ids(item, kind)
            document.hold(_CALL_BYTES * len(ids), item.path)
            given.append((index, ids, _result_id(item, kind), kind == "result"))
        self._match(given)
        document.hold(-noted, items.path)

    def _match(self, given: list[tuple[int, list[str | None], str | None, bool]]) -> None:
        """The items as *given*: the number of each, the ids of the calls in it, and the id that it names if it is a result."""
        named = Counter(id for _, _, id, is_result in given if is_result and id is not None)
        # by id, the calls that results further down name, and how many of them have been answered
        calls_of: dict[str, list[CallKey]] = {}
        answered: Counter[str] = Counter()
        unnamed: deque[CallKey] = deque()
        for index, ids, result_id, is_result in given:
            for number, id in enumerate(ids):
                key = (index, number)
                self.id_of[key] = id or f"call_{index}_{number}"
                if id and len(calls_of.get(id, ())) - answered[id] < named[id]:
                    calls_of.setdefault(id, []).append(key)
                else:
                    unnamed.append(key)
            if not is_result:
                continue
            if result_id is None:
                answers = unnamed.popleft() if unnamed else None
            else:
                named[result_id] -= 1
                calls, count = calls_of.get(result_id, []), answered[result_id]
                answers = calls[count] if count < len(calls) else None
                if answers is not None:
                    answered[result_id] += 1
            if answers is not None:
                self.result_of[answers], self.call_of[index] = index, answers


# ------------------------------------------------------------------------------------------------- kinds and ids


def item_type(item: Object) -> str:
    """The type of an item; without one it is a message or, if it has an id only, a reference (OpenAI's reference, 2026-11)."""
    only_refers = "id" in item.fields and not item.has("role") and not item.has("content")
    return item.text("type") or ("item_reference" if only_refers else "message")


def kind_of(item: Object) -> str:
    """What an item is: message, call, result, reasoning, part, or the type of one that Mistral has not."""
    kind = item_type(item)
    if kind == "message":
        return "result" if item.text("role") in ("tool", "function") else "message"
    if kind == "function_call" or kind in FOREIGN_CALLS:
        return "call"
    if kind == "function_call_output" or kind in FOREIGN_OUTPUTS:
        return "result"
    return "part" if kind in TEXT_KEYS or kind in RESPONSE_PARTS or kind == "image_url" else kind


def _call_ids(item: Object, kind: str) -> list[str | None]:
    """The ids of the calls in an item; None for one without."""
    if kind == "call":
        return [_id(item, "call_id") or _id(item, "id")]
    if kind != "message" or item.text("role") != "assistant":
        return []
    calls = item.array("tool_calls")
    if calls is not None and calls.items:
        return [_id(call, "id") for call in calls.objects()]
    return [None] if item.object("function_call") is not None else []


def _result_id(item: Object, kind: str) -> str | None:
    if kind != "result":
        return None
    own = _id(item, "id") if item.text("type") == "local_shell_call_output" else None  # OpenAI's name for it there
    return _id(item, "call_id") or _id(item, "tool_call_id") or own


def _id(part: Object, key: str) -> str | None:
    number = part.number(key)  # some clients count
    return (part.text(key) if number is None else str(number)) or None


# ------------------------------------------------------------------------------------------------- forms


def call_item(item: Object, id: str) -> None:
    """A call as ``function_call`` with the *id* and a text of arguments."""
    kind = item.text("type") or ""
    if kind in FOREIGN_CALLS:
        foreign = FOREIGN_CALLS[kind]
        given = {key: item.fields[key] for key in foreign.arguments if item.has(key)}
        arguments = given if foreign.nested else next(iter(given.values()), {})
        name = foreign.name or item.fields.get("name", NULL)
        fields = {"type": "function_call", "call_id": id, "name": name, "arguments": encode(arguments).decode()}
        if item.has("namespace"):
            fields["namespace"] = item.fields["namespace"]
        item.become(fields, "rename", item.at("type"), "Mistral knows function calls only", "approximate", to="function_call")
        return
    if item.text("call_id") != id:
        item.set("call_id", id, "Mistral requires an id")
    _text_arguments(item)


def _text_arguments(item: Object) -> None:
    if not item.has("arguments"):
        item.set("arguments", "{}", "Mistral requires arguments")
    elif item.text("arguments") is None:
        item.set("arguments", json_text(item.fields["arguments"]), "Mistral takes the arguments as a text")


def chat_calls(item: Object) -> Array | None:
    """The tool calls of a chat message; an older ``function_call`` becomes one."""
    calls = item.array("tool_calls")
    if calls is not None and calls.items:
        return calls
    if calls is not None or "tool_calls" in item.fields:
        item.drop("tool_calls", "there are none")
    function = item.object("function_call")
    if function is None:
        return None
    item.rename("function_call", "tool_calls", "OpenAI's older name")
    item.fields["tool_calls"] = [{"type": "function", "function": function}]
    return item.array("tool_calls")


def chat_call(call: Object, id: str) -> None:
    """A tool call of a chat message as an item."""
    custom = call.object("custom")
    function = custom or call.object("function")
    used = "custom" if custom is not None else "function"
    note_rest(call, ("id", "type", "index", used))
    fields: Node = {"type": "function_call", "call_id": id}
    if function is not None:
        note_rest(function, ("name", "arguments", "input"))
        fields["name"] = function.fields.get("name", NULL)
        if custom is not None:
            fields["arguments"] = encode({"input": custom.fields.get("input", NULL)}).decode()
        elif function.has("arguments"):
            fields["arguments"] = function.fields["arguments"]
    loss = "none" if custom is None else "approximate"
    call.become(fields, "rename", call.path, "the form of the Responses API", loss, to="function_call")  # type: ignore[arg-type]
    if as_text(fields.get("arguments")) is None:
        _text_arguments(call)


def result_item(item: Object, id: str) -> None:
    """A result as ``function_call_output`` for the call *id*, with a text or a list of parts."""
    kind = item.text("type")
    if kind == "function_call_output":
        if item.text("call_id") != id and id:
            item.set("call_id", id, "the id of the call that it answers")
    elif kind in FOREIGN_OUTPUTS:
        fields = {"type": "function_call_output", "call_id": id, "output": item.fields.get("output", NULL)}
        item.become(
            fields, "rename", item.at("type"), "Mistral knows function calls only", "approximate", to="function_call_output"
        )
        screenshot = item.object("output")
        if screenshot is not None and screenshot.has("image_url"):
            item.fields["output"] = [{"type": "input_image", "image_url": screenshot.fields["image_url"]}]
    else:  # chat's message of a tool
        note_rest(item, ("role", "content", "tool_call_id", "name"))
        fields = {"type": "function_call_output", "call_id": id, "output": item.fields.get("content", NULL)}
        item.become(fields, "rename", item.at("role"), "the form of the Responses API", to="function_call_output")
    if not item.has("output"):
        item.set("output", "", "Mistral requires it")
    output = item.array("output")
    if output is not None and all(isinstance(part, Object) and _is_part(part) for part in _each(output)):
        input_parts(output, detail=False)
    elif item.text("output") is None:
        item.set("output", json_text(item.fields["output"]), "Mistral takes the result as a text")


def _each(array: Array) -> list[Part | None]:
    return [array.part(index) for index in range(len(array.items))]


def _is_part(part: Object) -> bool:
    kind = part.text("type")
    return kind in RESPONSE_PARTS or kind in TEXT_KEYS or kind in ("image_url", "file", "document_url")
