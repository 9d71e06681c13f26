"""Earlier reasoning that clients send back: a thinking chunk for models that reason, nothing for others.

Mistral's reasoning models get worse without it (example ``reasoning_multi_turn`` in client-ts 2.2.5); others may refuse it.
"""

from __future__ import annotations

from typing import Any

from mistral_filter.models import reasoning_of
from mistral_filter.parts import Array, Object, Part
from mistral_filter.rawjson import Node

__all__ = [
    "NOT_READ",
    "NO_TEXT",
    "TEXT_NAMES",
    "THOUGHT_FIELDS",
    "THOUGHT_TYPES",
    "fed_back",
    "holds_thoughts",
    "put_first",
    "reads_reasoning",
    "thinking",
    "thought",
]

THOUGHT_TYPES = ("thinking", "reasoning", "reasoning_content", "redacted_thinking")
"""Part types for earlier reasoning in OpenAI-style histories: the text, if any, is under the type's name or one of TEXT_NAMES."""

TEXT_NAMES = ("text", "summary")
"""The second is a list of texts (an item of OpenAI's Responses API that became a part, as in LangChain's messages)."""

THOUGHT_FIELDS = ("reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks")
"""What clients call the reasoning that an earlier answer came with; the first one with text counts. The third (OpenRouter) and
the last (LiteLLM) are lists of objects."""

_TEXT_KEYS = ("text", "thinking", "summary")
"""Where the objects of such a list hold their text."""

NOT_READ = "only models that reason take earlier reasoning, and this one is not known to"
NO_TEXT = "there is no text in it that a model could read"
_IN_CONTENT = "the content holds the reasoning"


def reads_reasoning(model: str | None, *, asked: bool) -> bool:
    """Whether *model* takes earlier reasoning: by its name, or because the request asks it to reason (*asked*)."""
    known = reasoning_of(model)
    return asked or (known is not None and known.reads)


def thinking(text: Any) -> Node:
    """A thinking chunk; *text* is a string, or the JSON of one."""
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


def thought(part: Object, *names: str) -> Any:
    """The first text under one of the *names* of *part* that is not blank, or that of a list there; None: there is none."""
    for name in names:
        text = part.text(name)
        if text is not None:
            if text.strip():
                return part.fields[name]
        elif (items := part.array(name)) is not None and (text := "".join(map(_text_of, items.parts()))).strip():
            return text
    return None


def _text_of(item: Part) -> str:
    texts = (item.text(key) for key in _TEXT_KEYS) if isinstance(item, Object) else ()
    return next((text for text in texts if text), "")


def holds_thoughts(content: Array) -> bool:
    """Whether earlier reasoning is among the parts."""
    return any(part.text("type") in THOUGHT_TYPES and thought(part, *THOUGHT_TYPES, *TEXT_NAMES) for part in content.objects())


def fed_back(message: Object, *, reads: bool) -> Any:
    """Takes from *message* what clients call reasoning. Returns the text that its content is to begin with; None: no text.

    *reads*: the model takes earlier reasoning.
    """
    given = [name for name in THOUGHT_FIELDS if name in message.fields]
    if not given:
        return None
    used, text, reason = None, None, NOT_READ
    if reads:
        content = message.array("content")
        if content is not None and holds_thoughts(content):
            reason = _IN_CONTENT
        else:
            used = next((name for name in given if thought(message, name) is not None), None)
            reason = _IN_CONTENT if used else NO_TEXT
    for name in given:
        if name == used:
            text = thought(message, name)
            message.note("rename", message.at(name), "Mistral's form of reasoning", to="content")
            del message.fields[name]
        else:
            message.drop(name, reason if message.has(name) else "null says nothing")
    return text


def put_first(message: Object, *texts: Any) -> None:
    """Puts earlier reasoning before the rest of an answer, as a thinking chunk each. The caller has noted it."""
    chunks = [thinking(text) for text in texts]
    content = message.array("content")
    if content is not None:
        content.position.set_edited()
        content.first += chunks
    elif message.text("content"):
        message.fields["content"] = [*chunks, {"type": "text", "text": message.fields["content"]}]
    else:
        message.fields["content"] = chunks
