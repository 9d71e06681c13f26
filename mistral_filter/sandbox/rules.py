"""400: the rules of a conversation, which no schema can say.

The rules, their order and their sentences: mistral-common 1.13.1 (2026), ``MistralRequestValidatorV11`` in serving mode, the
last and strictest that asks for nine-character ids. The codes 3230, 3240 and 3280 and their types: answers of the API quoted
in public issues and repositories, 2025-08 to 2026-09; code 3054: the same, 2024-11 to 2026-08. A refusal whose code nobody has
quoted has none here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from mistral_filter.fields import CHUNKS_BY_ROLE, FUNCTION_NAME, TOOL_CALL_ID

__all__ = ["broken_rule", "flat"]

Json = dict[str, Any]

_MAY_FOLLOW = {
    "system": ("system", "user", "assistant"),
    "user": ("system", "user", "assistant"),
    "assistant": ("user", "assistant", "tool"),
    "tool": ("user", "assistant", "tool"),
}


def broken_rule(body: Json) -> Json | None:
    """The first rule that a chat or agents body breaks, as Mistral's flat 400 body; None where it keeps all."""
    return next(_broken_rules(body), None)


def flat(message: object, kind: str = "invalid_request_error", code: str | None = None) -> Json:
    """An error in the one shape that the API's own refusals have."""
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


def _broken_rules(body: Json) -> Iterator[Json]:
    messages: list[Json] = body["messages"]
    if problem := _order_problem(messages):
        yield flat(problem, "invalid_request_message_order", "3230")
    for i, message in enumerate(messages):
        role, content, calls = message["role"], message.get("content"), message.get("tool_calls") or []
        if isinstance(content, list) and (wrong := sorted({chunk["type"] for chunk in content} - CHUNKS_BY_ROLE[role])):
            yield flat(f"Unexpected content chunk types in {role} message: {wrong}")
        if role == "assistant" and not content and not calls:  # the API's rule; the validator has dropped it
            text = "Assistant message must have either content or tool_calls, but not none."
            yield flat(text, "invalid_request_assistant_message", "3240")
        for call in calls:
            yield from _id_problem(call.get("id", "null"))
            yield from _name_problem(call["function"]["name"])
        if message.get("prefix") and i < len(messages) - 1:
            yield flat("Assistant message with prefix True must be last message")
        if role == "tool":
            yield from _name_problem(message.get("name"))
            yield from _id_problem(message.get("tool_call_id"))
    for tool in body.get("tools") or []:
        if "function" in tool:
            yield from _name_problem(tool["function"]["name"])
    reasons = body.get("reasoning_effort") not in (None, "none") or body.get("prompt_mode") is not None
    top_p = body.get("top_p")
    if body.get("temperature") == 0 and top_p != 1 and (reasons or top_p is not None):
        yield flat("top_p must be 1 when using greedy sampling.", code="3054")


def _order_problem(messages: list[Json]) -> str | None:
    roles = [message["role"] for message in messages]
    if not roles:
        return "Conversation must have at least one message"
    if len(roles) == 1 and roles[0] not in ("user", "system"):
        return "Conversation must start with a user message or system message"
    if roles[-1] == "assistant" and not messages[-1].get("prefix"):
        return "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant"
    for before, role in itertools.pairwise(roles):
        if role not in _MAY_FOLLOW[before]:
            return f"Unexpected role '{role}' after role '{before}'"
    answered: dict[str, bool] = {}  # by the id of the call
    for message in [*messages[1:], {"role": "assistant"}]:  # the validator leaves the first one out; the last stands for the end
        if message["role"] == "tool":
            name = str(message.get("tool_call_id"))
            if answered.get(name, True):
                return f"{'Duplicate' if name in answered else 'Unexpected'} tool call id {name} in tool results"
            answered[name] = True
        elif message["role"] == "assistant":
            if not all(answered.values()):
                return "Not the same number of function calls and responses"
            answered = {}
            for call in message.get("tool_calls") or []:
                if (name := call.get("id", "null")) in answered:
                    return f"Duplicate tool call id {name} in assistant message"
                answered[name] = False
    return None


def _id_problem(name: object) -> Iterator[Json]:
    if name in (None, "null"):
        yield flat("Tool call id has to be defined.", "invalid_function_call", "3280")
    elif not re.fullmatch(TOOL_CALL_ID, str(name)):
        text = f"Tool call id was {name} but must be a-z, A-Z, 0-9, with a length of 9."
        yield flat(text, "invalid_function_call", "3280")


def _name_problem(name: object) -> Iterator[Json]:
    if name is not None and not re.fullmatch(FUNCTION_NAME, str(name)):
        rest = "but must be a-z, A-Z, 0-9, or contain underscores and dashes, with a maximum length of 64."
        yield flat(f"Function name was {name} {rest}")
