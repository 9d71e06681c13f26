"""A Responses API body that was sent to chat/completions (Cursor's agent mode does) as a chat body."""

from __future__ import annotations

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
    """Translates in place: instructions, input, text.format and reasoning.effort; the rest has chat's names already.

    Returns where each message comes from, None when there was nothing to translate. Raises Refused for
    ``previous_response_id`` and ``conversation``: what they refer to is not in the request.
    """
    given = body.get("input")
    if "messages" in body or (as_text(given) is None and as_array(given) is None):
        return None
    for name in _STATE:
        if body.get(name, NULL) != NULL:
            raise Refused(
                f"{name}: Mistral's chat/completions keeps no conversations. Send the whole conversation in each request "
                "(in most clients: the chat completions API instead of the Responses API, or store off).",
                param=name,
                code="stateful_conversation",
            )
    turns = _Turns(changes)
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
    for i, item in enumerate(as_objects(given) or []):
        turns.item(item, f"input[{i}]")
    body["messages"] = turns.messages
    changes.append(Change("rename", "input", "chat's form of a Responses request", "none", "messages"))
    _text(body, changes)
    _reasoning(body, changes)
    return turns.origins


class _Turns:
    """Items in a row as messages: what an assistant said and called before the first result is one message."""

    def __init__(self, changes: list[Change]) -> None:
        self.messages: list[Any] = []
        self.origins: list[str] = []
        self._changes = changes

    def add(self, message: Any, origin: str) -> None:
        self.messages.append(message)
        self.origins.append(origin)

    def item(self, item: Any, path: str) -> None:
        if not isinstance(item, dict):
            self.add(item, path)
            return
        kind = as_text(item.get("type")) or "message"
        if kind == "message":
            self._message(item, path)
        elif kind in _CALLS:
            self._call(item, kind, path)
        elif kind in _RESULTS:
            self.add({"role": "tool", "tool_call_id": item.get("call_id", NULL), "content": item.get("output", "")}, path)
            report_rest(item, ("type", "call_id", "output"), path, self._changes)
        elif kind == "reasoning":
            self._changes.append(Change("drop", path, "the model does not read earlier reasoning", "none"))
        else:
            self._changes.append(Change("drop", path, "chat has no items of this type", "lost"))

    def _message(self, item: Node, path: str) -> None:
        report_rest(item, ("type", "role", "content"), path, self._changes)
        message = {key: item[key] for key in ("role", "content") if key in item}
        calling = self._calling()
        if calling is not None and as_text(item.get("role")) == "assistant" and "content" in item:
            calling["content"] = _joined(calling["content"], item["content"])
        else:
            self.add(message, path)

    def _call(self, item: Node, kind: str, path: str) -> None:
        used = "arguments" if kind == "function_call" else "input"
        arguments = item.get(used, NULL)
        call = {
            "id": item.get("call_id", NULL),
            "type": "function",
            "function": {"name": item.get("name", NULL), "arguments": arguments if used == "arguments" else {"input": arguments}},
        }
        report_rest(item, ("type", "call_id", "name", used), path, self._changes)
        calling = self._calling()
        if calling is None:
            self.add({"role": "assistant", "content": "", "tool_calls": [call]}, path)
        else:
            calling["tool_calls"].append(call)

    def _calling(self) -> Node | None:
        """The assistant message whose calls have no results yet."""
        last = self.messages[-1] if self.messages else None
        return last if isinstance(last, dict) and "tool_calls" in last else None


def _joined(first: Any, second: Any) -> Any:
    if first == "":
        return second
    return [*_parts(first), *_parts(second)]


def _parts(content: Any) -> list[Any]:
    parts = as_array(content)
    return [{"type": "text", "text": content}] if parts is None else parts


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
    if kind == "json_schema":
        form = {"type": "json_schema", "json_schema": {key: value for key, value in form.items() if key != "type"}}
    body["response_format"] = form
    changes.append(Change("rename", "text.format", "chat's name", "none", "response_format"))


def _reasoning(body: Node, changes: list[Change]) -> None:
    reasoning = as_object(body.get("reasoning"))
    if reasoning is None:
        return
    del body["reasoning"]
    report_rest(reasoning, ("effort",), "reasoning", changes)
    if reasoning.get("effort", NULL) == NULL or "reasoning_effort" in body:
        changes.append(Change("drop", "reasoning.effort", "it says nothing, or reasoning_effort says it", "none"))
    else:
        body["reasoning_effort"] = reasoning["effort"]
        changes.append(Change("rename", "reasoning.effort", "chat's name", "none", "reasoning_effort"))
