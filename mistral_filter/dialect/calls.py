"""Tool calls and their results: ids in Mistral's form, OpenAI's legacy functions, custom calls."""

from __future__ import annotations

import hashlib
import re
import string
from typing import NamedTuple

from mistral_filter.dialect.values import note_rest
from mistral_filter.fields import FUNCTION_NAME, MESSAGES, TOOL_CALL_ID, Array, Node, Tagged
from mistral_filter.judge import Judge
from mistral_filter.parts import Object
from mistral_filter.rawjson import NULL

__all__ = ["Calls"]

_FITS = re.compile(TOOL_CALL_ID)
_NAME = re.compile(FUNCTION_NAME)
_BASE62 = string.digits + string.ascii_letters
_LENGTH = 9
_NO_ID = ("", "null")
"""What clients send for want of an id; mistral-common 1.13.1 counts both as missing."""

_CALL_BYTES = 500
"""Memory of one call in the tables below."""


def _call_table() -> Node:
    message = MESSAGES.items
    assert isinstance(message, Tagged)
    calls = message.variants["assistant"].fields["tool_calls"]
    assert isinstance(calls, Array)
    return calls.items


_CALL = _call_table()


class _Call(NamedTuple):
    sent: str | None
    id: str
    name: str | None


class _Queue:
    """Calls in order, and which is the next. There may be as many queues as calls, and a deque takes 700 bytes."""

    __slots__ = ("calls", "next")

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.next = 0


class _Open:
    """The calls of one message that have no result yet, in order; each look-up takes the same time however many there are."""

    def __init__(self) -> None:
        self._by_id: dict[str | None, _Queue] = {}
        self._by_name: dict[str | None, _Queue] = {}
        self._all = _Queue()
        self._taken: set[str] = set()

    def add(self, call: _Call) -> None:
        for queues, key in ((self._by_id, call.sent), (self._by_name, call.name)):
            queue = queues.get(key)
            if queue is None:
                queue = queues[key] = _Queue()
            queue.calls.append(call)
        self._all.calls.append(call)

    def count(self, sent: str | None) -> int:
        """How many calls were made with this id."""
        queue = self._by_id.get(sent)
        return 0 if queue is None else len(queue.calls)

    def take(self, sent: str | None, name: str | None) -> _Call | None:
        """The call that a result answers: by its id; without one by its name, else the first."""
        if sent is not None:
            return self._first(self._by_id.get(sent))
        named = None if name is None else self._first(self._by_name.get(name))
        return named or self._first(self._all)

    def _first(self, queue: _Queue | None) -> _Call | None:
        while queue is not None and queue.next < len(queue.calls):
            call = queue.calls[queue.next]
            queue.next += 1
            if call.id not in self._taken:
                self._taken.add(call.id)
                return call
        return None


class Calls:
    """The tool calls of one conversation, message by message from the first.

    An id depends only on the messages up to it, so a growing conversation keeps its bytes and Mistral's prompt cache.
    """

    def __init__(self, judge: Judge) -> None:
        """*judge* judges each call when it has been translated: there may be thousands, so none stays open."""
        self._judge = judge
        self._id_of: dict[str, str] = {}
        self._taken: set[str] = set()
        self._open = _Open()

    def assistant(self, message: Object, index: int) -> None:
        """Calls made in the assistant *message* number *index*: each gets an id that fits; older forms become function calls."""
        self._open = _Open()
        _legacy_call(message, index)
        calls = message.array("tool_calls")
        if calls is not None:
            for number, call in calls.each():
                self._call(call, f"{index}.{number}")
                self._judge.one(call, _CALL)
            calls.is_judged = True

    def _call(self, call: Object, position: str) -> None:
        if call.text("type") == "custom":
            _custom_call(call)
        function = call.object("function")
        if function is not None and not function.has("arguments"):
            function.set("arguments", "{}", "Mistral requires arguments")
        call.document.hold(_CALL_BYTES, call.path)
        given = call.text("id")
        sent = _sent_id(call, "id")
        again = self._open.count(sent)
        id = self._fit(f"\0{position}" if sent is None else f"{sent}\0{again}" if again else sent)
        self._open.add(_Call(sent, id, function.text("name") if function is not None else None))
        if id != given:
            call.set("id", id, "Mistral's ids are nine letters or digits")

    def result(self, message: Object) -> None:
        """A tool *message*: it names the call that it answers, by that call's id."""
        sent = _sent_id(message, "tool_call_id")
        name = message.text("name")
        if name is not None and not _NAME.fullmatch(name):
            message.drop("name", "Mistral refuses the name; the id says what is answered")
        call = self._open.take(sent, name)
        if call is not None:
            id = call.id
        elif sent is not None:
            id = self._fit(sent)
        else:
            return
        if id != message.text("tool_call_id"):
            message.set("tool_call_id", id, "the id of the call that it answers")

    def _fit(self, key: str) -> str:
        """The id for *key*: itself where it fits and is free, else a hash of it; always the same one for the same key."""
        if key not in self._id_of:
            id, attempt = key, 0
            while not _FITS.fullmatch(id) or id in self._taken:
                id = _hashed(f"{key}\0{attempt}")
                attempt += 1
            self._id_of[key] = id
            self._taken.add(id)
        return self._id_of[key]


def _legacy_call(message: Object, index: int) -> None:
    """``function_call`` (OpenAI, 2023) is one tool call."""
    function = message.object("function_call")
    if function is None:
        return
    calls = message.array("tool_calls")
    if calls is not None and calls.items:
        message.drop("function_call", "tool_calls says the same")
        return
    message.rename("function_call", "tool_calls", "OpenAI's older name")
    message.fields["tool_calls"] = [{"id": f"\0{index}.f", "type": "function", "function": function}]


def _custom_call(call: Object) -> None:
    """A call of a custom tool is a call of a function with one argument, ``input``."""
    custom = call.object("custom")
    if custom is None:
        return
    note_rest(custom, ("name", "input"))
    call.rename("custom", "function", "Mistral knows function calls only", "approximate")
    arguments = {"input": custom.fields.get("input", NULL)}
    call.fields |= {"type": "function", "function": {"name": custom.fields.get("name", NULL), "arguments": arguments}}


def _sent_id(part: Object, key: str) -> str | None:
    number = part.number(key)  # some clients count
    id = part.text(key) if number is None else str(number)
    return None if id in _NO_ID else id


def _hashed(text: str) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    digits = []
    for _ in range(_LENGTH):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(digits)
