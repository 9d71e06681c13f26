"""A Responses API body that was sent to chat/completions (Cursor's agent mode does) as a chat body."""

from __future__ import annotations

from typing import Any

from mistral_filter.changes import Change
from mistral_filter.errors import Refused
from mistral_filter.rawjson import NULL, Node, as_object, as_objects, as_text

__all__ = ["responses_body"]


def responses_body(body: Node, changes: list[Change]) -> None:
    """Translates in place: instructions, input, text.format and reasoning.effort; the rest has chat's names already.

    Raises Refused for ``previous_response_id`` and ``conversation``: what they refer to is not in the request.
    """
    if "input" not in body or "messages" in body:
        return
    for name in ("previous_response_id", "conversation"):
        if body.get(name, NULL) != NULL:
            raise Refused(
                f"{name}: Mistral's chat/completions keeps no conversations. Send the whole conversation in each request "
                "(in most clients: the chat completions API instead of the Responses API, or store off).",
                param=name,
                code="stateful_conversation",
            )
        body.pop(name, None)
    given = body.pop("input")
    text = as_text(given)
    messages: list[Any] = []
    if body.get("instructions", NULL) != NULL:
        messages.append({"role": "system", "content": body["instructions"]})
        changes.append(Change("rename", "instructions", "chat's form", "none", "messages"))
    body.pop("instructions", None)
    if text is not None:
        messages.append({"role": "user", "content": given})
    for i, item in enumerate(as_objects(given) or []):
        if isinstance(item, dict):
            _item(item, f"input[{i}]", messages, changes)
        else:
            messages.append(item)
    body["messages"] = messages
    changes.append(Change("rename", "input", "chat's form of a Responses request", "none", "messages"))
    _text_format(body, changes)
    effort = (as_object(body.get("reasoning")) or {}).get("effort", NULL)
    if "reasoning" in body:
        del body["reasoning"]
        if effort != NULL:
            body.setdefault("reasoning_effort", effort)
            changes.append(Change("rename", "reasoning.effort", "chat's name", "none", "reasoning_effort"))
        else:
            changes.append(Change("drop", "reasoning", "no effort is asked for", "none"))


def _item(item: Node, path: str, messages: list[Any], changes: list[Change]) -> None:
    kind = as_text(item.get("type")) or "message"
    if kind == "message":
        messages.append({key: item[key] for key in ("role", "content") if key in item})
    elif kind in ("function_call", "custom_tool_call"):
        call = {
            "id": item.get("call_id", NULL),
            "type": "function",
            "function": {
                "name": item.get("name", NULL),
                "arguments": item.get("arguments", "{}") if kind == "function_call" else {"input": item.get("input", NULL)},
            },
        }
        # parallel calls are items in a row here, one message in chat
        last = messages[-1] if messages and isinstance(messages[-1], dict) else {}
        if "tool_calls" in last:
            last["tool_calls"].append(call)
        else:
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
    elif kind in ("function_call_output", "custom_tool_call_output"):
        messages.append({"role": "tool", "tool_call_id": item.get("call_id", NULL), "content": item.get("output", "")})
    elif kind == "reasoning":
        changes.append(Change("drop", path, "the model does not read earlier reasoning", "none"))
    else:
        changes.append(Change("drop", path, "chat has no items of this type", "lost"))


def _text_format(body: Node, changes: list[Change]) -> None:
    text = as_object(body.get("text"))
    if text is None:
        return
    del body["text"]
    form = as_object(text.get("format"))
    kind = as_text(form.get("type")) if form else None
    if form is None or kind == "text":
        changes.append(Change("drop", "text", "plain text is what happens without it", "none"))
        return
    if kind == "json_schema":
        form = {"type": "json_schema", "json_schema": {key: value for key, value in form.items() if key != "type"}}
    body["response_format"] = form
    changes.append(Change("rename", "text.format", "chat's name", "none", "response_format"))
