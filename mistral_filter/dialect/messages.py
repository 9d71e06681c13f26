"""A conversation, message by message, in three steps: settle its role, translate what it holds, judge it by the list.

The role comes first, so what becomes another role's is translated and judged as what it becomes.
"""

from __future__ import annotations

from msgspec import Raw

from mistral_filter.dialect.calls import Calls
from mistral_filter.dialect.chunks import translate_content
from mistral_filter.dialect.thoughts import fed_back, put_first
from mistral_filter.fields import CHUNKS_BY_ROLE
from mistral_filter.judge import Judge
from mistral_filter.parts import Array, Object
from mistral_filter.rawjson import NULL, Node, first_byte

__all__ = ["Conversation"]

_BRIDGE = "Understood."
"""An assistant message may not be empty (mistral-common 1.13.1); this is the least it can say."""

_FALSE = Raw(b"false")


class Conversation:
    """Translates the messages of a list, from the first to the last.

    *ordered*: the API judges the order of the messages too. *reads_reasoning*: the model reads earlier reasoning. *bridge*: put
    an assistant message between a tool's and a user's, for models of before 2026-04.
    """

    def __init__(self, *, ordered: bool, reads_reasoning: bool, bridge: bool) -> None:
        self._ordered, self._reads_reasoning, self._bridge = ordered, reads_reasoning, bridge

    def __call__(self, messages: Array, judge: Judge, *, inner: bool = False) -> None:
        """Translates *messages* in place and has each judged by *judge*.

        A list among them is a conversation of its own, if they are not *inner* ones already.
        """
        order = _Order(messages, ordered=self._ordered, bridge=self._bridge)
        calls = Calls(judge)
        for index in range(len(messages.items)):
            message = messages.part(index)
            if isinstance(message, Object):
                role = order.settle(message)
                order.attachments += self._translate(message, role, index, calls, judge)
                judge.message(message)
                order.add(message, index, role)
                continue
            if isinstance(message, Array) and not inner:  # several conversations
                self(message, judge, inner=True)
            order.add(None, index, "")
        order.end()

    def _translate(self, message: Object, role: str, index: int, calls: Calls, judge: Judge) -> list[Object]:
        """Translates what *message* holds. Returns the chunks that may not stand in it but in a user's message."""
        thought = None
        attachments: list[Object] = []
        if role == "assistant":
            if message.text("refusal") and _is_empty(message):
                message.rename("refusal", "content", "the answer was this refusal")
            thought = fed_back(message, reads=self._reads_reasoning)
        elif role == "tool":
            calls.result(message)
        if role in CHUNKS_BY_ROLE and first_byte(message.fields.get("content")) != 0x22:
            attachments = translate_content(message, role, judge, reads_reasoning=self._reads_reasoning, by_role=self._ordered)
        if thought is not None:
            put_first(message, thought)
        if role == "assistant" and not (self._ordered and _is_empty(message)):
            # an empty one will not stand between calls and results
            calls.assistant(message, index)
        return attachments


class _Order:
    """Puts the messages of one list where Mistral accepts one of their role."""

    def __init__(self, messages: Array, *, ordered: bool, bridge: bool) -> None:
        self._messages = messages
        self._ordered, self._bridge = ordered, bridge
        self._out: list[int | Node] = []
        """All messages as they go out: the index of one that came, or a new one."""
        self._last: Object | None = None
        self._previous = ""
        self.attachments: list[Object] = []
        """What moved out of the results of the tools before, and will stand in a user's message after them."""

    def settle(self, message: Object) -> str:
        """Gives *message* the role that Mistral has for it at this place, and returns that role."""
        role = message.text("role") or ""
        if role == "developer":
            message.set("role", role := "system", "Mistral's name for developer", to="system")
        elif role == "function":
            message.set("role", role := "tool", "OpenAI's older name for tool", to="tool")
        if role == "system" and self._follows_an_answer() and message.has("content"):
            reason = f"no system message after one of role {self._previous}"
            message.set("role", role := "user", reason, "approximate", to="user")
        return role

    def _follows_an_answer(self) -> bool:
        return self._ordered and self._previous in ("assistant", "tool") and not self.attachments

    def add(self, message: Object | None, index: int, role: str) -> None:
        """Puts the translated message number *index* behind the others, or leaves it out. None: it is no object."""
        if self._ordered and role != "tool":
            self._end_tools()
        if message is not None and self._ordered and role == "assistant" and _is_empty(message):
            self._messages.drop(index, "Mistral refuses an empty assistant message")
        elif message is not None and role == "system" and not message.has("content"):
            self._messages.drop(index, "Mistral refuses a system message without content")
        else:
            if self._ordered and role == "user":
                self._cross_bridge()
            self._append(index, message, role)

    def end(self) -> None:
        """Settles what depends on which message is the last."""
        if self._ordered:
            self._end_tools()
            last = self._last if self._previous == "assistant" and len(self._out) > 1 else None
            if last is not None and not _is_prefix(last) and not _has_calls(last):
                last.insert("prefix", True, "a last assistant message is one to go on with", "approximate")
        if self._messages.position.edited:
            items = self._messages.items
            self._messages.items = [items[item] if isinstance(item, int) else item for item in self._out]

    def _append(self, item: int | Node, message: Object | None, role: str) -> None:
        last = self._last
        if last is not None and self._ordered and self._previous == "assistant" and _is_prefix(last):
            last.drop("prefix", "only the last message can be a prefix")
        if self._out and isinstance(self._out[-1], int):
            self._messages.close(self._out[-1])
        self._out.append(item)
        self._last, self._previous = message, role

    def _end_tools(self) -> None:
        if self.attachments:
            self._cross_bridge()
            self._insert({"role": "user", "content": self.attachments}, "with the attachments of the tools before it")
            self.attachments = []

    def _cross_bridge(self) -> None:
        if self._bridge and self._previous == "tool":
            self._insert({"role": "assistant", "content": _BRIDGE}, "between a tool's and a user's")

    def _insert(self, message: Node, why: str) -> None:
        path = f"messages[{len(self._out)}]"
        self._messages.note("insert", path, f"a message of role {message['role']} {why}")
        self._append(message, None, message["role"])


def _is_prefix(message: Object) -> bool:
    return message.fields.get("prefix", _FALSE) not in (_FALSE, NULL)


def _is_empty(message: Object) -> bool:
    """No text, no chunks, no tool calls."""
    if message.has("content") and message.text("content") != "":
        content = message.array("content")
        if content is None or not content.is_empty():
            return False
    return not _has_calls(message) and message.object("function_call") is None


def _has_calls(message: Object) -> bool:
    calls = message.array("tool_calls")
    return calls is not None and not calls.is_empty()
