"""A Responses API body that was sent to chat/completions (Cursor's agent mode does) as a chat body."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mistral_filter.changes import Change
from mistral_filter.dialect.values import report_rest
from mistral_filter.errors import Refused
from mistral_filter.rawjson import NULL, Node, as_array, as_object, as_objects, as_text

__all__ = ["responses_body"]

_STATE = ("previous_response_id", "conversation")
_CALLS = ("function_call", "custom_tool_call")
_RESULTS = ("function_call_output", "custom_tool_call_output")


def responses_body(body: Node, changes: list[Change]) -> list[str] | None:
    """Translates in place: instructions, input and text.format; the rest has chat's names already.

    Returns where each message comes from, None when there was nothing to translate. Raises Refused for
    ``previous_response_id`` and ``conversation``: what they refer to is not in the request.
    """
    given = body.get("input")
    if body.get("messages", NULL) != NULL or (as_text(given) is None and as_array(given) is None):
        return None
    for name in _STATE:
        if body.get(name, NULL) != NULL:
            raise Refused(
                f"{name}: Mistral's chat/completions keeps no conversations. Send the whole conversation in each request "
                "(in most clients: the chat completions API instead of the Responses API, or store off).",
                param=name,
                code="stateful_conversation",
            )
    items = as_objects(given) or []
    turns = _Turns(items, changes)
    if body.get("instructions", NULL) != NULL:
        turns.add({"role": "system", "content": body.pop("instructions")}, "instructions")
        changes.append(Change("rename", "instructions", "chat's form", "none", "messages"))
    for name in (*_STATE, "instructions"):
        if name in body:
            del body[name]
            changes.append(Change("drop", name, "null says nothing", "none"))
    del body["input"]
    if as_text(given) is not None:
        turns.add({"role": "user", "content": given}, "input")
    for i, item in enumerate(items):
        turns.item(item, i)
    turns.end()
    body["messages"] = turns.messages
    changes.append(Change("rename", "input", "chat's form of a Responses request", "none", "messages"))
    _text(body, changes)
    return turns.origins


class _Turns:
    """Items in a row as messages: what an assistant said and called before the first result is one message.

    Nothing may stand between calls and their results in chat; in a Responses request a message may, and is put behind them.
    """

    def __init__(self, items: list[Any], changes: list[Change]) -> None:
        self.messages: list[Any] = []
        self.origins: list[str] = []
        self._changes = changes
        self._results = Counter(_call_id(item) for item in items if isinstance(item, dict) and _kind(item) in _RESULTS)
        """The results that are still to come."""
        self._open: dict[str | None, int] = {}
        """How many calls with an id wait for results that are among them."""
        self._calling: Node = {}
        """The message that makes those calls."""
        self._held: list[tuple[Any, str]] = []

    def add(self, message: Any, origin: str) -> None:
        """A message that is no result."""
        if self._open:
            self._held.append((message, origin))
        else:
            self.end()
            self._append(message, origin)

    def end(self) -> None:
        """Puts what was held where it can stand."""
        held, self._held = self._held, []
        for message, origin in held:
            self._append(message, origin)
            self._changes.append(Change("move", origin, "nothing may stand between calls and their results", "none", "messages"))

    def _append(self, message: Any, origin: str) -> None:
        self.messages.append(message)
        self.origins.append(origin)

    def item(self, item: Any, index: int) -> None:
        """The next item, number *index* of the input."""
        path = f"input[{index}]"
        kind = _kind(item) if isinstance(item, dict) else None
        if kind is None:
            self.add(item, path)
        elif kind == "message":
            self._message(item, path)
        elif kind in _CALLS:
            self._call(item, kind, path)
        elif kind in _RESULTS:
            self._result(item, path)
        elif kind == "reasoning":
            self._changes.append(Change("drop", path, "the model does not read earlier reasoning", "none"))
        else:
            self._changes.append(Change("drop", path, "chat has no items of this type", "lost"))

    def _message(self, item: Node, path: str) -> None:
        report_rest(item, ("type", "role", "content"), path, self._changes)
        message = {key: item[key] for key in ("role", "content") if key in item}
        last = self._assistants()
        if last is None or "tool_calls" not in last or _role(item) != "assistant":
            self.add(message, path)
        elif _says_nothing(item):
            self._changes.append(Change("drop", path, "an empty text beside calls", "none"))
        elif _says_nothing(last):
            last["content"] = item["content"]
        else:
            if not isinstance(last["content"], list):
                last["content"] = _parts(last["content"])
            last["content"] += _parts(item["content"])

    def _call(self, item: Node, kind: str, path: str) -> None:
        used = "arguments" if kind == "function_call" else "input"
        arguments = item.get(used, NULL)
        call = {
            "id": item.get("call_id", NULL),
            "type": "function",
            "function": {"name": item.get("name", NULL), "arguments": arguments if used == "arguments" else {"input": arguments}},
        }
        report_rest(item, ("type", "call_id", "name", used), path, self._changes)
        caller = self._calling if self._open else self._assistants()
        if caller is None:
            caller = {"role": "assistant", "content": ""}
            self.add(caller, path)
        caller.setdefault("tool_calls", []).append(call)
        self._calling = caller
        id = _call_id(item)
        waiting = self._open.get(id, 0)
        if self._results[id] > waiting:
            self._open[id] = waiting + 1

    def _result(self, item: Node, path: str) -> None:
        message = {"role": "tool", "tool_call_id": item.get("call_id", NULL), "content": item.get("output", "")}
        self._append(message, path)
        report_rest(item, ("type", "call_id", "output"), path, self._changes)
        id = _call_id(item)
        self._results[id] -= 1
        waiting = self._open.pop(id, 0)
        if waiting > 1:
            self._open[id] = waiting - 1

    def _assistants(self) -> Node | None:
        """The last message if it is an assistant's: what comes next of his belongs to it."""
        last = self.messages[-1] if self.messages else None
        return last if isinstance(last, dict) and _role(last) == "assistant" else None


def _kind(item: Node) -> str:
    return as_text(item.get("type")) or "message"


def _call_id(item: Node) -> str | None:
    return as_text(item.get("call_id"))


def _says_nothing(message: Node) -> bool:
    content = message.get("content", NULL)
    return content == NULL or as_text(content) == ""


def _role(message: Node) -> str | None:
    return as_text(message.get("role"))


def _parts(content: Any) -> list[Any]:
    parts = as_array(content)
    return [{"type": "text", "text": content}] if parts is None else list(parts)


def _text(body: Node, changes: list[Change]) -> None:
    text = as_object(body.get("text"))
    if text is None:
        return
    del body["text"]
    report_rest(text, ("format",), "text", changes)
    form = as_object(text.get("format"))
    kind = as_text(form.get("type")) if form else None
    if form is None or kind == "text":
        if "format" in text or not text:
            changes.append(Change("drop", "text", "plain text is what happens without it", "none"))
        return
    if body.get("response_format", NULL) != NULL:
        changes.append(Change("drop", "text.format", "response_format is given too", "lost"))
        return
    if kind == "json_schema":
        form = {"type": "json_schema", "json_schema": {key: value for key, value in form.items() if key != "type"}}
    body["response_format"] = form
    changes.append(Change("rename", "text.format", "chat's name", "none", "response_format"))
