"""A conversation, message by message, in three steps: settle its role, translate what it holds, judge it by the list.

The role comes first, so what becomes another role's is translated and judged as what it becomes. The order comes last, when it is
known which call each result answers. Source of the order: mistral-common 1.13.1, ``_validate_message_order`` and
``_validate_tool_calls_followed_by_tool_messages``; the API answers 400 code 3230 to any other.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from msgspec import Raw

from mistral_filter.changes import Loss
from mistral_filter.dialect.calls import Calls, Turn
from mistral_filter.dialect.chunks import translate_content
from mistral_filter.dialect.thoughts import fed_back, put_first
from mistral_filter.fields import CHUNKS_BY_ROLE
from mistral_filter.judge import Judge
from mistral_filter.parts import Array, Object, Part
from mistral_filter.rawjson import NULL, Node, first_byte
from mistral_filter.toolnames import ToolNames

__all__ = ["Conversation", "request_for_more"]

_BRIDGE = "Understood."
"""An assistant message may not be empty (mistral-common 1.13.1); this is the least it can say."""

_FOR_A_TOOL = "Call the tool."
_FOR_JSON = "Give the answer as JSON, in the format that the request asks for."
"""What a user's message says behind a last assistant message that is not to be continued."""

_FORCING = ("any", "required")
"""Words of ``tool_choice`` that leave no choice (``ToolChoiceEnum`` in mistralai 3.7.0)."""

_RESULT_ROLES = ("tool", "function")
"""The role of a tool's result, and OpenAI's older name for it."""

_FALSE = Raw(b"false")

_PLACE_BYTES = 110
"""Memory of a message's place in the order."""


def request_for_more(body: Object, accepted: Container[str]) -> str | None:
    """What a user's message is to say behind a last assistant message; None: that message is continued.

    Where the request asks for JSON or forces a tool, in fields that are *accepted*, a continuation would be glued before that.
    """
    if "tool_choice" in accepted and (body.object("tool_choice") is not None or body.text("tool_choice") in _FORCING):
        return _FOR_A_TOOL
    form = body.object("response_format") if "response_format" in accepted else None
    return _FOR_JSON if form is not None and form.text("type") in ("json_object", "json_schema") else None


class Conversation:
    """Translates the messages of a list, from the first to the last.

    *ordered*: the API judges the order of the messages too. *reads_reasoning*: the model reads earlier reasoning. *bridge*: put
    an assistant message between a tool's and a user's, for models of before 2026-04. *names* replaces the names of tools that
    Mistral refuses. *more* is what ``request_for_more`` says.
    """

    def __init__(self, *, ordered: bool, reads_reasoning: bool, bridge: bool, names: ToolNames, more: str | None = None) -> None:
        self._ordered, self._reads_reasoning, self._bridge = ordered, reads_reasoning, bridge
        self._names, self._more = names, more

    def __call__(self, messages: Array, judge: Judge, *, inner: bool = False) -> None:
        """Translates *messages* in place and has each judged by *judge*.

        A list among them is a conversation of its own, if they are not *inner* ones already.
        """
        calls = Calls(judge, self._names, ordered=self._ordered)
        order = _Order(messages, calls, ordered=self._ordered, bridge=self._bridge)
        for index in range(len(messages.items)):
            message = messages.part(index)
            if isinstance(message, Object):
                role, turn = order.settle(message, index)
                attachments = self._translate(message, role, judge)
                if turn is not None:
                    turn.attachments += attachments
                if role == "assistant" and not (self._ordered and _is_empty(message)):
                    # an empty one goes
                    turn = calls.assistant(message, index)
                judge.message(message)
                order.add(message, index, role, turn)
                continue
            if isinstance(message, Array) and not inner:  # several conversations
                self(message, judge, inner=True)
            order.add(None, index, "", None)
        order.end(self._more)

    def _translate(self, message: Object, role: str, judge: Judge) -> list[Object]:
        """Translates what *message* holds. Returns the chunks that may not stand in it but in a user's message."""
        thought = None
        attachments: list[Object] = []
        if role == "assistant":
            if message.text("refusal") and _is_empty(message):
                message.rename("refusal", "content", "the answer was this refusal")
            thought = fed_back(message, reads=self._reads_reasoning)
        if role in CHUNKS_BY_ROLE and first_byte(message.fields.get("content")) != 0x22:
            attachments = translate_content(message, role, judge, reads_reasoning=self._reads_reasoning, by_role=self._ordered)
        if thought is not None:
            put_first(message, thought)
        return attachments


class _Order:
    """Puts the messages of one list where Mistral accepts one of their role: results behind their calls, the rest as it came."""

    def __init__(self, messages: Array, calls: Calls, *, ordered: bool, bridge: bool) -> None:
        messages.document.hold(_PLACE_BYTES * len(messages.items), messages.path)
        self._messages, self._calls = messages, calls
        self._ordered, self._bridge = ordered, bridge
        self._out: list[tuple[int | Turn, str]] = []
        """The messages as they go out, each as its index and role; behind one with calls stands what holds their results."""
        self._last: Object | None = None
        self._previous = ""

    def settle(self, message: Object, index: int) -> tuple[str, Turn | None]:
        """Gives message number *index* the role that Mistral has for it there. Returns it, and the turn that a result answers."""
        role = message.text("role") or ""
        if role == "developer":
            message.set("role", role := "system", "Mistral's name for developer", to="system")
        elif role == "function":
            message.set("role", role := "tool", "OpenAI's older name for tool", to="tool")
        if role == "tool":
            turn = self._calls.result(message, self._results_after(index))
            return ("user" if turn is None and self._ordered else role), turn
        if role == "system" and self._ordered and self._previous in ("assistant", "tool") and message.has("content"):
            reason = f"no system message after one of role {self._previous}"
            message.set("role", role := "user", reason, "approximate", to="user")
        return role, None

    def _results_after(self, index: int) -> Iterator[Object]:
        """The results behind message number *index*, as far as the next calls; each is closed again."""
        messages = self._messages
        for at in range(index + 1, len(messages.items)):
            message = messages.part(at)
            calls = isinstance(message, Object) and (message.has("tool_calls") or message.has("function_call"))
            if isinstance(message, Object) and not calls and message.text("role") in _RESULT_ROLES:
                yield message
            messages.close(at)
            if calls:
                return

    def add(self, message: Object | None, index: int, role: str, turn: Turn | None) -> None:
        """Puts the translated message number *index* in its place, or leaves it out. None: it is no object.

        *turn* holds the results of the calls in it, or the result that it is.
        """
        if message is not None and self._ordered and role == "assistant" and _is_empty(message):
            self._messages.drop(index, "Mistral refuses an empty assistant message")
        elif message is not None and role == "system" and not message.has("content"):
            self._messages.drop(index, "Mistral refuses a system message without content")
        elif role == "tool" and turn is not None and self._ordered:
            self._answer(turn, index)
        else:
            self._append(message, index, role)
            if message is not None and turn is not None and self._ordered:
                self._drop_prefix()  # results come behind it
                self._messages.close(index)
                self._out.append((turn, "tool"))

    def _append(self, message: Object | None, index: int, role: str) -> None:
        if self._ordered and self._previous == "assistant":
            self._drop_prefix()
        if self._out and isinstance(last := self._out[-1][0], int):
            self._messages.close(last)
        self._out.append((index, role))
        self._last, self._previous = message, role

    def _answer(self, turn: Turn, index: int) -> None:
        turn.results.append(index)
        if self._out[-1][0] is turn:
            self._previous = "user" if turn.attachments else "tool"
        else:
            turn.reach = len(self._out)
        self._messages.close(index)

    def _drop_prefix(self) -> None:
        if self._last is not None and _is_prefix(self._last):
            self._last.drop("prefix", "only the last message can be a prefix")

    def end(self, more: str | None) -> None:
        """Puts all messages in order. *more* is what a user says behind a last assistant message; None: it is continued."""
        last = None
        if self._ordered and len(self._out) > (more is None) and self._out[-1][1] == "assistant":
            last = self._last
        if last is not None and not _is_prefix(last) and more is None:
            last.insert("prefix", True, "a last assistant message is one to go on with", "approximate")
            last = None
        out = self._arranged()
        if last is not None and not _is_prefix(last) and more is not None:
            self._insert(out, {"role": "user", "content": more}, "asks for what the request wants of the model", "approximate")
        if self._messages.position.edited:
            self._messages.items = out

    def _arranged(self) -> list[Any]:
        out: list[Any] = []
        items = self._messages.items
        reach, after_tool = 0, False
        for place, (entry, role) in enumerate(self._out):
            if isinstance(entry, Turn):
                self._add_results(out, entry)
                reach, after_tool = max(reach, entry.reach), not entry.attachments
                continue
            item = items[entry]
            if place < reach:
                path = item.path if isinstance(item, Part) else self._messages.at(entry)
                self._messages.note("move", path, "nothing may stand between calls and their results", "approximate")
            if after_tool and role == "user":
                self._cross_bridge(out)
            out.append(item)
            after_tool = role == "tool"
        return out

    def _add_results(self, out: list[Any], turn: Turn) -> None:
        out += [self._messages.items[index] for index in turn.results]
        for id in turn.unanswered():
            result = {"role": "tool", "tool_call_id": id, "content": ""}
            self._insert(out, result, "without a text, for a call whose result never came", "approximate")
        if turn.attachments:
            self._cross_bridge(out)
            message = {"role": "user", "content": turn.attachments}
            self._insert(out, message, "with the attachments of the tools before it", "none")

    def _cross_bridge(self, out: list[Any]) -> None:
        if self._bridge:
            self._insert(out, {"role": "assistant", "content": _BRIDGE}, "between a tool's and a user's", "none")

    def _insert(self, out: list[Any], message: Node, why: str, loss: Loss) -> None:
        self._messages.note("insert", self._messages.at(len(out)), f"a message of role {message['role']} {why}", loss)
        out.append(message)


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
