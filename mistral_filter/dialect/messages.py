"""A conversation, message by message: roles, fed-back answer fields, order."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from mistral_filter.changes import Change, Loss
from mistral_filter.dialect.calls import Calls
from mistral_filter.dialect.chunks import THOUGHT_TYPES, translate_content
from mistral_filter.fields import CHUNKS_BY_ROLE
from mistral_filter.rawjson import NULL, Node, as_array, as_objects, as_text, first_byte

__all__ = ["Conversation", "Placed"]

_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks")
"""What clients call the reasoning that an earlier answer came with."""

_BRIDGE = "Understood."
"""An assistant message may not be empty (mistral-common 1.13.1); this is the least it can say."""


class Placed(NamedTuple):
    """One message that is new or may differ from what came."""

    message: Any
    place: int | None
    """Its place in the request as it came; None: it is new."""


class Conversation:
    """Translates the messages of one request in one pass, from the first to the last."""

    def __init__(
        self,
        changes: list[Change],
        *,
        whole: bool = True,
        thinks: bool = False,
        bridge: bool = False,
        origins: list[str] | None = None,
    ) -> None:
        """*whole*: the API judges the order of the messages too. *thinks*: the model reads earlier reasoning. *bridge*: put an
        assistant message between a tool's and a user's, for models of before 2026-04. *origins*: where each message came from.
        """
        self._origins = origins
        self._changes = changes
        self._calls = Calls(changes)
        self._whole, self._thinks, self._bridge = whole, thinks, bridge
        self._out: list[Placed | int] = []
        self._previous = ""
        self._moved: list[Any] = []
        self._thought: Any = None
        """Earlier reasoning that the message in hand begins with."""

    def path(self, path: str, index: int) -> str:
        """Where message *index* of the list at *path* stood in the request as it came."""
        return f"{path}[{index}]" if self._origins is None else self._origins[index]

    def keep(self, index: int, role: str) -> bool:
        """Adds a message that is a text of *role* and nothing else, if it can stay as it is at this place."""
        previous = self._previous
        if previous == "tool" or (previous == "assistant" and role == "system"):
            return False  # attachments to move, a bridge to build, a role to change
        self._out.append(index)
        self._previous = role
        return True

    def translate(self, message: Node, index: int, path: str) -> list[tuple[Node, str]]:
        """Edits one *message* in place: what it says in OpenAI's words, in Mistral's.

        Returns the chunks that will stand in a user's message of their own, each with the place where it was.
        """
        role = as_text(message.get("role")) or ""
        if role == "developer":
            role = self._set_role(message, "system", path, "Mistral's name for developer")
        elif role == "function":
            role = self._set_role(message, "tool", path, "OpenAI's older name for tool")
        if role == "assistant":
            self._answer(message, path)
        elif role == "tool":
            self._calls.result(message, path)
        moved: list[tuple[Node, str]] = []
        if first_byte(message.get("content")) != 0x22 and role in CHUNKS_BY_ROLE:
            as_role = "user" if role == "system" and self._becomes_users() else role
            moved = translate_content(message, as_role, path, self._changes, thinks=self._thinks, placed=self._whole)
            self._moved += [chunk for chunk, _ in moved]
        if role == "assistant" and not (self._whole and _empty(message)):  # an empty one will not stand between calls and results
            self._calls.assistant(message, index, path)
        return moved

    def place(self, message: Any, index: int, path: str, *, touched: bool) -> None:
        """Adds a translated *message* where Mistral accepts one of its role, or leaves it out."""
        node = message if isinstance(message, dict) else {}
        role = as_text(node.get("role")) or ""
        mark = len(self._changes)
        if self._thought is not None:
            node["content"] = [{"type": "thinking", "thinking": [{"type": "text", "text": self._thought}]}, *_parts(node)]
            self._thought = None
        if self._whole and role != "tool":
            self._end_tools()
        if role == "assistant" and node.get("prefix", _FALSE) != _FALSE:
            touched = True  # settled at the end, when the last message is known
        if self._whole and role == "assistant" and _empty(node):
            self._changes.append(Change("drop", path, "Mistral refuses an empty assistant message", "none"))
            return
        if role == "system" and node.get("content", NULL) == NULL:
            self._changes.append(Change("drop", path, "Mistral refuses a system message without content", "none"))
            return
        if role == "system" and self._becomes_users():
            role = self._set_role(node, "user", path, f"no system message after one of role {self._previous}", "approximate")
        if self._whole and role == "user":
            self._cross_bridge()
        self._out.append(Placed(message, index) if touched or len(self._changes) != mark else index)
        self._previous = role

    def end(self, messages: list[Any], path: str) -> list[Placed | int]:
        """All messages as they go out, those that stay as they came by their index in *messages*; *path* is the list's."""
        out = self._out
        if not self._whole:
            return out
        self._end_tools()
        for placed in out[:-1]:
            if isinstance(placed, Placed) and _prefix(placed.message):
                del placed.message["prefix"]
                here = f"{self.path(path, placed.place or 0)}.prefix"
                self._changes.append(Change("drop", here, "only the last message can be a prefix", "none"))
        if len(out) > 1 and self._previous == "assistant":
            last = out[-1]
            message, index = (messages[last], last) if isinstance(last, int) else (last.message, last.place)
            if not _prefix(message) and not as_array(message.get("tool_calls")):
                message["prefix"] = True
                reason = "a last assistant message is one to go on with"
                self._changes.append(Change("insert", f"{self.path(path, index or 0)}.prefix", reason, "approximate"))
                out[-1] = Placed(message, index)
        return out

    def _answer(self, message: Node, path: str) -> None:
        """What clients feed back of an earlier answer, beside what the lists drop anyway."""
        refusal = as_text(message.get("refusal"))
        if refusal and _empty(message):
            message["content"] = message.pop("refusal")
            self._changes.append(Change("rename", f"{path}.refusal", "the answer was this refusal", "none", "content"))
        given = [name for name in _THOUGHTS if name in message]
        if not given:
            return
        thoughts = {name: message.pop(name) for name in given}
        used = next((name for name in given if as_text(thoughts[name])), None)
        reason = "the model does not read earlier reasoning"
        if self._thinks and used is not None:
            reason = "the content holds the reasoning"
            spoken = as_objects(message.get("content")) or []
            if not any(as_text(chunk.get("type")) in THOUGHT_TYPES for chunk in spoken if isinstance(chunk, dict)):
                self._thought = thoughts[used]  # put before the rest when the rest has been looked at, at the places where it was
                self._changes.append(Change("rename", f"{path}.{used}", "Mistral's form of reasoning", "none", "content"))
                del thoughts[used]
        for name in thoughts:
            self._changes.append(Change("drop", f"{path}.{name}", reason, "none"))

    def _becomes_users(self) -> bool:
        """Whether a system message cannot stand here as one."""
        return self._whole and not self._moved and self._previous in ("assistant", "tool")

    def _end_tools(self) -> None:
        if self._moved:
            self._cross_bridge()
            self._insert({"role": "user", "content": self._moved}, "with the attachments of the tools before it")
            self._previous = "user"
            self._moved = []

    def _cross_bridge(self) -> None:
        if self._bridge and self._previous == "tool":
            self._insert({"role": "assistant", "content": _BRIDGE}, "between a tool's and a user's")

    def _insert(self, message: Node, why: str) -> None:
        self._out.append(Placed(message, None))
        path = f"messages[{len(self._out) - 1}]"
        self._changes.append(Change("insert", path, f"a message of role {message['role']} {why}", "none"))

    def _set_role(self, message: Node, role: str, path: str, reason: str, loss: Loss = "none") -> str:
        message["role"] = role
        self._changes.append(Change("set", f"{path}.role", reason, loss, role))
        return role


_FALSE = msgspec.Raw(b"false")


def _prefix(message: Any) -> bool:
    return isinstance(message, dict) and message.get("prefix", _FALSE) not in (_FALSE, NULL)


def _parts(message: Node) -> list[Any]:
    """The content of *message* as a list."""
    parts = as_array(message.get("content"))
    if parts is not None:
        return parts
    return [{"type": "text", "text": message["content"]}] if as_text(message.get("content")) else []


def _empty(message: Node) -> bool:
    """No text, no chunks, no tool calls."""
    content = message.get("content", NULL)
    if content != NULL and as_text(content) != "" and as_array(content) != []:
        return False
    return not as_array(message.get("tool_calls")) and message.get("function_call", NULL) == NULL
