"""Tool calls and their results: ids in Mistral's form, OpenAI's legacy functions, custom calls."""

from __future__ import annotations

import hashlib
import re
import string
from collections import Counter, deque
from typing import NamedTuple

from mistral_filter.changes import Change
from mistral_filter.dialect.values import report_rest
from mistral_filter.fields import FUNCTION_NAME, TOOL_CALL_ID
from mistral_filter.rawjson import NULL, Node, as_number, as_object, as_objects, as_text, with_sent_bytes

__all__ = ["Calls"]

_FITS = re.compile(TOOL_CALL_ID)
_NAME = re.compile(FUNCTION_NAME)
_BASE62 = string.digits + string.ascii_letters
_LENGTH = 9
_NO_ID = ("", "null")
"""What clients send for want of an id; mistral-common 1.13.1 counts both as missing."""


class _Call(NamedTuple):
    sent: str | None
    id: str
    name: str | None


class _Open:
    """The calls of one message that have no result yet, in order; each look-up takes the same time however many there are."""

    def __init__(self) -> None:
        self._made: Counter[str | None] = Counter()
        self._by_id: dict[str | None, deque[_Call]] = {}
        self._by_name: dict[str | None, deque[_Call]] = {}
        self._all: deque[_Call] = deque()
        self._taken: set[str] = set()

    def add(self, call: _Call) -> None:
        self._made[call.sent] += 1
        self._by_id.setdefault(call.sent, deque()).append(call)
        self._by_name.setdefault(call.name, deque()).append(call)
        self._all.append(call)

    def count(self, sent: str | None) -> int:
        """How many calls were made with this id."""
        return self._made[sent]

    def take(self, sent: str | None, name: str | None) -> _Call | None:
        """The call that a result answers: by its id; without one by its name, else the first."""
        if sent is not None:
            return self._first(self._by_id.get(sent))
        named = None if name is None else self._first(self._by_name.get(name))
        return named or self._first(self._all)

    def _first(self, calls: deque[_Call] | None) -> _Call | None:
        while calls:
            call = calls.popleft()
            if call.id not in self._taken:
                self._taken.add(call.id)
                return call
        return None


class Calls:
    """The tool calls of one conversation, message by message from the first.

    An id depends only on the messages up to it, so a growing conversation keeps its bytes and Mistral's prompt cache.
    """

    def __init__(self, changes: list[Change]) -> None:
        self._changes = changes
        self._id_of: dict[str, str] = {}
        self._taken: set[str] = set()
        self._open = _Open()

    def assistant(self, message: Node, index: int, path: str) -> None:
        """Calls made in an assistant *message*: every one gets an id that fits; older forms become function calls."""
        self._open = _Open()
        self._legacy_call(message, index, path)
        calls = as_objects(message.get("tool_calls"))
        if calls is None:
            return
        touched: set[int] = set()
        for j, call in enumerate(calls):
            mark = len(self._changes)
            if isinstance(call, dict):
                self._call(call, f"{index}.{j}", f"{path}.tool_calls[{j}]")
            if len(self._changes) != mark:
                touched.add(j)
        if touched:
            message["tool_calls"] = with_sent_bytes(calls, message["tool_calls"], touched)

    def _call(self, call: Node, place: str, path: str) -> None:
        if as_text(call.get("type")) == "custom" and (custom := as_object(call.get("custom"))) is not None:
            call["type"] = "function"
            call["function"] = {"name": custom.get("name", NULL), "arguments": {"input": custom.get("input", NULL)}}
            del call["custom"]
            report_rest(custom, ("name", "input"), f"{path}.custom", self._changes)
            reason = "Mistral knows function calls only"
            self._changes.append(Change("rename", f"{path}.custom", reason, "approximate", "function"))
        function = as_object(call.get("function"))
        if function is not None and function.get("arguments", NULL) == NULL:
            function["arguments"] = "{}"
            call["function"] = function
            self._changes.append(Change("set", f"{path}.function.arguments", "Mistral requires arguments", "none"))
        sent = _sent_id(call.get("id"))
        again = self._open.count(sent)
        id = self._fit(f"\0{place}" if sent is None else f"{sent}\0{again}" if again else sent)
        name = as_text(function.get("name")) if function else None
        self._open.add(_Call(sent, id, name))
        if id != as_text(call.get("id")):
            call["id"] = id
            self._changes.append(Change("set", f"{path}.id", "Mistral's ids are nine letters or digits", "none"))

    def _legacy_call(self, message: Node, index: int, path: str) -> None:
        function = as_object(message.get("function_call"))
        if function is None:
            return
        del message["function_call"]
        if "tool_calls" in message and as_objects(message["tool_calls"]):
            self._changes.append(Change("drop", f"{path}.function_call", "tool_calls says the same", "none"))
            return
        message["tool_calls"] = [{"id": f"\0{index}.f", "type": "function", "function": function}]
        self._changes.append(Change("rename", f"{path}.function_call", "OpenAI's older name", "none", "tool_calls"))

    def result(self, message: Node, path: str) -> None:
        """A tool *message*: it names the call that it answers, by that call's id."""
        sent = _sent_id(message.get("tool_call_id"))
        name = as_text(message.get("name"))
        if name is not None and not _NAME.fullmatch(name):
            del message["name"]
            self._changes.append(Change("drop", f"{path}.name", "Mistral refuses the name; the id says what is answered", "none"))
        call = self._open.take(sent, name)
        if call is not None:
            id = call.id
        elif sent is not None:
            id = self._fit(sent)
        else:
            return
        if id != as_text(message.get("tool_call_id")):
            message["tool_call_id"] = id
            self._changes.append(Change("set", f"{path}.tool_call_id", "the id of the call that it answers", "none"))

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


def _sent_id(value: object) -> str | None:
    number = as_number(value)  # some clients count
    id = as_text(value) if number is None else str(number)
    return None if id in _NO_ID else id


def _hashed(text: str) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    digits = []
    for _ in range(_LENGTH):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(digits)
