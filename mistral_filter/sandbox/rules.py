"""400: the rules of a conversation and of each model, which no schema can say.

The rules of a conversation, their order and their sentences: mistral-common 1.13.1 (2026), ``MistralRequestValidatorV11`` in
serving mode, the last and strictest that asks for nine-character ids; images of tools are taken, as recorded (16 answers of
2025-08 to 2026-06). The codes and their types: recorded answers (1500, 3051: 2026-08) and answers quoted in public issues and
repositories (3054, 3230, 3240, 3280: 2024-11 to 2026-09). A refusal whose code nobody has quoted has none here. Of the
sentences under code 3051 those on log probabilities and on the prompt mode are quoted, the others are formed like them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from mistral_filter.fields import CHUNKS_BY_ROLE, FUNCTION_NAME, TOOL_CALL_ID
from mistral_filter.sandbox.models import MODELS, Model, known

__all__ = ["broken_item_rule", "broken_rule", "flat", "item_kind", "refused_by_model"]

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


def flat(message: object, kind: str = "invalid_request_error", code: str | None = None, status: int = 400) -> Json:
    """An error in the one shape that the API's own refusals have (recorded 2026-08-15 to 2026-08-20)."""
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code, "raw_status_code": status}


def refused_by_model(body: Json) -> Json | None:
    """Why the model that a body names does not take it, as Mistral's flat 400 body; None where it does.

    *body* may be one of any endpoint; for agents/completions, which names no model, only the sampling is judged.
    """
    return next(_refused_by_model(body), None)


_NOT_ENABLED = {
    "logprobs": "Logprobs are not enabled for this model",
    "top_logprobs": "Logprobs are not enabled for this model",
    "top_k": "Top k is not enabled for this model",
}
"""Fields that no model of the stand-in takes: refused with this sentence unless they are null, false or 0."""


def _refused_by_model(body: Json) -> Iterator[Json]:
    def no(sentence: str) -> Json:
        return flat(sentence, "invalid_request_invalid_args", "3051")

    name = body.get("model")
    if name is not None and not known(name):
        yield flat(f"Invalid model: {name}", "invalid_model", "1500")
    model = MODELS.get(str(name), Model())
    effort = body.get("reasoning_effort", (body.get("reasoning") or {}).get("effort"))
    if effort is not None and name in MODELS and effort not in model.efforts:
        if not model.efforts:
            yield no("Reasoning effort is not enabled for this model")
        yield no(f"reasoning_effort={effort} is not supported for this model, supported values: {list(model.efforts)}")
    if body.get("prompt_mode") is not None and name in MODELS and not model.reasons:
        yield no("Reasoning prompt mode is not enabled for this model")
    for field, sentence in _NOT_ENABLED.items():
        if body.get(field):
            yield no(sentence)
    if (dimension := body.get("output_dimension")) is not None and dimension > model.most_dimensions:
        yield no("Output dimension is too large" if model.most_dimensions else "Output dimension is not enabled for this model")
    top_p, reasons = body.get("top_p"), effort not in (None, "none") or body.get("prompt_mode") is not None
    if body.get("temperature") == 0 and top_p != 1 and (reasons or top_p is not None):
        yield flat("top_p must be 1 when using greedy sampling.", code="3054")


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


def item_kind(item: Json) -> str:
    """What an item of a Responses body is; the official SDK's models tell items without a type by their other keys."""
    keys = {"role": "message", "output": "function_call_output", "call_id": "function_call", "summary": "reasoning"}
    return str(item.get("type") or next((kind for key, kind in keys.items() if key in item), "message"))


def broken_item_rule(body: Json) -> Json | None:
    """The first rule that the items of a Responses body break, as Mistral's flat 400 body; None where they keep all.

    Calls and results pair and names are legal, as in a conversation. Ids of any form are taken: no source says otherwise.
    """
    return next(_broken_item_rules(body), None)


def _broken_item_rules(body: Json) -> Iterator[Json]:
    answered: dict[str, bool] = {}  # by the id of the call
    items = body["input"] if isinstance(body["input"], list) else []
    for item in [*items, {"type": "message"}]:  # the last stands for the end
        kind, name = item_kind(item), item.get("call_id")
        if kind == "function_call":
            if all(answered.values()):
                answered = {}
            if name in answered:
                yield flat(f"Duplicate tool call id {name} in assistant message", "invalid_request_message_order", "3230")
            answered[name] = False
            yield from _name_problem(item["name"])
        elif kind == "function_call_output":
            if answered.get(name, True):
                problem = f"{'Duplicate' if name in answered else 'Unexpected'} tool call id {name} in tool results"
                yield flat(problem, "invalid_request_message_order", "3230")
            answered[name] = True
        elif kind == "message":
            if not all(answered.values()):
                yield flat("Not the same number of function calls and responses", "invalid_request_message_order", "3230")
            answered = {}
    for tool in body.get("tools") or []:
        for function in tool.get("tools", [tool]):
            yield from _name_problem(function["name"])


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
