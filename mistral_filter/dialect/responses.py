"""A Responses API body that was sent to chat/completions (Cursor's agent mode does) as a chat body."""

from __future__ import annotations

from typing import Any

from mistral_filter.dialect.response_calls import FOREIGN_OUTPUTS, call_item, chat_calls, item_type, result_item
from mistral_filter.dialect.response_items import foreign_item, stored_item
from mistral_filter.dialect.thoughts import NO_TEXT, NOT_READ, THOUGHT_FIELDS, put_first, thinking, thought
from mistral_filter.dialect.tools import NamesInSpaces
from mistral_filter.dialect.values import note_rest
from mistral_filter.errors import Refused
from mistral_filter.fields import FOREIGN_CALLS, FOREIGN_ITEMS
from mistral_filter.parts import MEMBER_BYTES, Array, Object, Opener, Part, Position, encode
from mistral_filter.rawjson import NULL, Node, as_array

__all__ = ["responses_body"]

_STATE = ("previous_response_id", "conversation")
_CALLS = ("function_call", "custom_tool_call")
_RESULTS = ("function_call_output", "custom_tool_call_output")

_MESSAGE_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", "refusal", *THOUGHT_FIELDS)
"""What a message among the items may hold that chat's rules know."""

_CALL_BYTES = 500
"""Memory of one call that has been made of an item."""


def responses_body(body: Object, *, reads_reasoning: bool, names: NamesInSpaces) -> None:
    """Translates in place: instructions, input and text.format; the rest has chat's names already.

    *reads_reasoning*: the model takes earlier reasoning. *names*: what functions of namespaces are called. Raises Refused for
    ``previous_response_id`` and ``conversation``: what they refer to is not in the request.
    """
    if body.has("messages") or "input" not in body.fields:
        return
    text, items = body.text("input"), body.array("input")
    if text is None and items is None:
        return
    _refuse_state(body)
    turns = _Turns(body.document, reads_reasoning=reads_reasoning, names=names)
    if body.has("instructions"):
        turns.add({"role": "system", "content": body.fields["instructions"]}, "instructions")
        body.note("rename", "instructions", "chat's form", to="messages")
        del body.fields["instructions"]
    for name in (*_STATE, "instructions"):
        if name in body.fields:
            body.drop(name, "null says nothing")
    if items is None:
        turns.add({"role": "user", "content": body.fields["input"]}, "input")
    for index in range(len(items.items) if items is not None else 0):
        assert items is not None
        turns.item(items.part(index), items.items[index], index)
        items.take_over(index)  # what is of use in it is in the messages
    turns.end()
    body.note("rename", "input", "chat's form of a Responses request", to="messages")
    del body.fields["input"]
    body.fields["messages"] = body.document.new(turns.messages, Position(body.position, "messages"))
    _text(body)


def _refuse_state(body: Object) -> None:
    for name in _STATE:
        if body.has(name):
            raise Refused(
                f"{name}: Mistral's chat/completions keeps no conversations. Send the whole conversation in each request "
                "(in most clients: the chat completions API instead of the Responses API, or store off).",
                param=name,
                code="stateful_conversation",
            )


class _Turns:
    """Items in a row as messages: what an assistant said and called before the first result is one message."""

    def __init__(self, document: Opener, *, reads_reasoning: bool, names: NamesInSpaces) -> None:
        self.messages: list[Any] = []
        self._document = document
        self._reads_reasoning, self._names = reads_reasoning, names
        self._unopened = 0
        """Bytes of memory of the calls so far, which nobody has opened yet."""
        self._thoughts: list[tuple[Any, str]] = []
        """Texts of earlier reasoning, with the paths they came from: the assistant's next message or call begins with them."""

    def add(self, message: Any, origin: str) -> Any:
        """Adds a message that came from the path *origin*; returns it as it will stand in the list."""
        if isinstance(message, dict):
            message = self._document.new(message, Position(None, "", origin))
        self.messages.append(message)
        return message

    def item(self, item: Part | None, value: Any, index: int) -> None:
        """The next item, number *index* of the input; *value* is what is there if it is no object."""
        path = f"input[{index}]"
        if not isinstance(item, Object):
            self.add(value, path)
            return
        kind = item_type(item)
        if kind == "message":
            self._message(item)
        elif kind in _CALLS:
            self._call(item, kind)
        elif kind in _RESULTS:
            self._result(item)
        elif kind in FOREIGN_CALLS:
            call_item(item, item.text("call_id") or item.text("id") or "")
            self._call(item, "function_call")
        elif kind in FOREIGN_OUTPUTS:
            result_item(item, item.text("call_id") or item.text("id") or "")
            self._result(item)
        elif kind == "reasoning":
            self._reasoning(item)
        elif kind == "item_reference":
            raise stored_item(path)
        elif foreign_item(item, kind):
            self._message(item)
        else:
            self._document.note("drop", path, "chat has no items of this type", FOREIGN_ITEMS.get(kind, "lost"))

    def _reasoning(self, item: Object) -> None:
        text = thought(item, "content", "summary") if self._reads_reasoning else None
        if text is None:
            self._document.note("drop", item.path, NO_TEXT if self._reads_reasoning else NOT_READ)
        else:
            self._thoughts.append((text, item.path))

    def end(self) -> None:
        """Leaves out the reasoning that no answer follows."""
        self._take_thoughts(of_answer=False)
        self._document.hold(-self._unopened, "input")  # each call takes its share when it is opened

    def _take_thoughts(self, *, of_answer: bool = True) -> list[Any]:
        """The texts of the reasoning so far; without an answer that begins with it, it is left out."""
        taken, self._thoughts = self._thoughts, []
        for _, path in taken:
            if of_answer:
                self._document.note("rename", path, "Mistral's form of reasoning", to="messages")
            else:
                self._document.note("drop", path, "no answer of the assistant follows it")
        return [text for text, _ in taken] if of_answer else []

    def _message(self, item: Object) -> None:
        answers = item.text("role") == "assistant"
        texts = self._take_thoughts(of_answer=answers)
        calls = chat_calls(item) if answers else None
        last = self._last_assistant()
        if not answers or last is None or "tool_calls" not in last.fields:
            note_rest(item, ("type", *_MESSAGE_KEYS))
            message = {key: item.fields[key] for key in _MESSAGE_KEYS if key in item.fields}
            self._document.hold(MEMBER_BYTES * len(message), item.path)
            added = self.add(message, item.path)
            if texts:
                put_first(added, *texts)
            return
        note_rest(item, ("type", "role", "content", "tool_calls"))
        _append(last, [thinking(text) for text in texts])
        if calls is not None:
            self._append_calls(last, calls.items)
        if _says_nothing(item):
            self._document.note("drop", item.path, "an empty text beside calls")
        elif _says_nothing(last):
            last.fields["content"] = item.fields["content"]
        else:
            _append(last, _as_parts(item.fields["content"]))

    def _call(self, item: Object, kind: str) -> None:
        used = "arguments" if kind == "function_call" else "input"
        arguments = item.fields.get(used, NULL)
        name = item.fields.get("name", NULL)
        if item.has("namespace"):
            name = self._names.get((item.text("namespace") or "", item.text("name") or ""), name)
            item.drop("namespace", "chat has no namespaces of tools", "approximate")
        function = {"name": name, "arguments": arguments if used == "arguments" else {"input": arguments}}
        call = {"id": item.fields.get("call_id", NULL), "type": "function", "function": function}
        note_rest(item, ("type", "call_id", "name", used))
        caller = self._last_assistant()
        if caller is None:
            caller = self.add({"role": "assistant", "content": ""}, item.path)
        assert caller is not None
        _append(caller, [thinking(text) for text in self._take_thoughts()])
        self._append_calls(caller, [call])

    def _append_calls(self, message: Object, calls: list[Any]) -> None:
        """Puts *calls* behind those of *message*, in a list that nobody has opened."""
        given = message.fields.get("tool_calls")
        if type(given) is not list:
            before = message.array("tool_calls")
            calls = calls if before is None else [*before.items, *calls]
            given = message.fields["tool_calls"] = []
        given += calls
        self._document.hold(_CALL_BYTES * len(calls), message.path)
        self._unopened += _CALL_BYTES * len(calls)

    def _result(self, item: Object) -> None:
        output = item.fields.get("output", "")
        if item.object("output") is not None:
            output = encode(item.fields["output"]).decode()
            item.note("set", item.at("output"), "Mistral takes the result as a text")
        fields = {"role": "tool", "tool_call_id": item.fields.get("call_id", NULL), "content": output}
        self.messages.append(self._document.new(fields, item.position))
        note_rest(item, ("type", "call_id", "output"))

    def _last_assistant(self) -> Object | None:
        """The last message if it is an assistant's: what the assistant says next belongs to it."""
        last = self.messages[-1] if self.messages else None
        return last if isinstance(last, Object) and last.text("role") == "assistant" else None


def _says_nothing(message: Object) -> bool:
    return not message.has("content") or message.text("content") == ""


def _append(message: Object, parts: list[Any]) -> None:
    """Puts *parts* behind what *message* says: there may be thousands, so its content is one list that grows."""
    if not parts:
        return
    content = message.fields.get("content")
    if type(content) is not list:
        content = message.fields["content"] = [] if _says_nothing(message) else _as_parts(content)
    content += parts


def _as_parts(content: Any) -> list[Any]:
    parts = [*content.first, *content.items] if isinstance(content, Array) else as_array(content)
    return [{"type": "text", "text": content}] if parts is None else list(parts)


def _text(body: Object) -> None:
    text = body.object("text")
    if text is None:
        return
    note_rest(text, ("format",))
    form = text.object("format")
    kind = form.text("type") if form is not None else None
    if form is None or kind == "text":
        if "format" in text.fields or not text.fields:
            body.note("drop", "text", "plain text is what happens without it")
    elif body.has("response_format"):
        body.note("drop", "text.format", "response_format is given too", "lost")
    else:
        body.note("rename", "text.format", "chat's name", to="response_format")
        body.fields["response_format"] = _nested(form.fields) if kind == "json_schema" else form
    del body.fields["text"]


def _nested(form: Node) -> Node:
    """The Responses API's flat json_schema format in chat's form."""
    return {"type": "json_schema", "json_schema": {key: value for key, value in form.items() if key != "type"}}
