"""Tool calls and their results: ids in Mistral's form, OpenAI's legacy functions, custom calls."""

from __future__ import annotations

import hashlib
import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal, NamedTuple

from mistral_filter.dialect.values import note_rest
from mistral_filter.fields import FUNCTION_NAME, MESSAGES, TOOL_CALL_ID, Array, Node, Tagged
from mistral_filter.judge import Judge
from mistral_filter.parts import Object
from mistral_filter.rawjson import NULL
from mistral_filter.toolnames import ToolNames

__all__ = ["Calls", "Turn"]

_FITS = re.compile(TOOL_CALL_ID)
_NAME = re.compile(FUNCTION_NAME)
_BASE62 = string.digits + string.ascii_letters
_LENGTH = 9
_NO_ID = ("", "null")
"""What clients send for want of an id; mistral-common 1.13.1 counts both as missing."""

_CALL_BYTES, _TURN_BYTES = 500, 250
"""Memory of one call in the tables below, and of one message's calls together."""


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


_Key = tuple[Literal["id", "name", "any"], str]
"""What a result says of its call: the id that was sent, the function's name, or nothing."""

_ANY: _Key = ("any", "")
_PRECISION = {"any": 0, "name": 1, "id": 2}
"""What says more precisely which call is meant counts first."""


class Turn:
    """The calls of one message and their results; each look-up takes the same time however many there are."""

    __slots__ = ("_answered", "_calls", "_kept", "_waiting", "attachments", "reach", "results")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._waiting: dict[_Key, list[_Call]] | None = None
        self._answered: set[str] | None = None
        self._kept: dict[str, int] | None = None
        """The calls that results further down name, by their ids: how precisely they do."""
        self.results: list[int] = []
        """The indexes of the messages that answer the calls."""
        self.attachments: list[Object] = []
        """What moved out of the results, and will stand in a user's message after them."""
        self.reach = 0
        """How far down the conversation the latest result came from; what is between has to move."""

    def add(self, call: _Call) -> None:
        """Adds a call that waits for its result. All are added before the first is answered."""
        self._calls.append(call)

    def unanswered(self) -> list[str]:
        """The ids of the calls that still wait."""
        return [call.id for call in self._calls if not self._answered or call.id not in self._answered]

    def keep(self, results: Iterable[Object]) -> None:
        """Keeps calls for the *results* further down that name them. Only the first time: after it, these are all there are."""
        if self._kept is not None or not self._calls:
            return
        if self._waiting is None or self._answered is None:
            self._waiting, self._answered = _by_key(self._calls), set()
        keys = Counter(key for key in map(_result_key, results) if key in self._waiting)
        self._kept = {}
        for key in sorted(keys, key=lambda key: -_PRECISION[key[0]]):
            waiting = (call.id for call in reversed(self._waiting[key]))
            free = (id for id in waiting if id not in self._answered and id not in self._kept)
            self._kept |= dict.fromkeys(islice(free, keys[key]), _PRECISION[key[0]])

    def answer(self, key: _Key) -> str | None:
        """The id of the first waiting call that *key* fits, which waits no more; None: there is none."""
        if self._waiting is None or self._answered is None:
            self._waiting, self._answered = _by_key(self._calls), set()
        calls, kept = self._waiting.get(key, []), self._kept or {}
        while calls:
            id = calls.pop().id
            if id in self._answered or kept.get(id, 0) > _PRECISION[key[0]]:
                continue
            self._answered.add(id)
            if len(self._answered) == len(self._calls):  # a long conversation has many turns: none keeps what it is done with
                self._calls, self._waiting, self._answered = [], None, None
            return id
        return None


def _by_key(calls: list[_Call]) -> dict[_Key, list[_Call]]:
    """The *calls* that each key fits, the first one last."""
    found: dict[_Key, list[_Call]] = {}
    for call in reversed(calls):
        for key in (_ANY, *_keys(call)):
            found.setdefault(key, []).append(call)
    return found


def _keys(call: _Call) -> Iterator[_Key]:
    if call.sent is not None:
        yield "id", call.sent
    if call.name is not None:
        yield "name", call.name


def _result_key(result: Object) -> _Key:
    """What *result* says of its call."""
    sent = _sent_id(result, "tool_call_id")
    return ("id", sent) if sent is not None else ("name", name) if (name := result.text("name")) else _ANY


class Calls:
    """The tool calls of one conversation, message by message from the first.

    An id depends only on the messages up to it, so a growing conversation keeps its bytes and Mistral's prompt cache.
    """

    def __init__(self, judge: Judge, names: ToolNames, *, ordered: bool) -> None:
        """*judge* judges each call when it has been translated: there may be thousands, so none stays open. *names* replaces
        the names that Mistral refuses. *ordered*: the API wants every result behind its call."""
        self._judge, self._names, self._ordered = judge, names, ordered
        self._id_of: dict[str, str] = {}
        self._taken: set[str] = set()
        self._turn = Turn()
        self._made: Counter[str | None] = Counter()
        """How often each id was sent for a call of the latest turn."""
        self._turns: dict[_Key, list[Turn]] = {}
        """The turns that have calls with an id, or of a function; the latest of them last."""

    def assistant(self, message: Object, index: int) -> Turn | None:
        """Calls made in the assistant *message* number *index*: each gets an id that fits; older forms become function calls.

        Returns what is to hold their results; None: there are no calls.
        """
        _legacy_call(message, index)
        calls = message.array("tool_calls")
        if calls is None or calls.is_empty():
            return None
        message.document.hold(_TURN_BYTES, message.path)
        self._turn, self._made = Turn(), Counter()
        for number, call in calls.each():
            self._call(call, f"{index}.{number}")
            self._judge.one(call, _CALL)
        calls.is_judged = True
        return self._turn

    def _call(self, call: Object, position: str) -> None:
        if call.text("type") == "custom":
            _custom_call(call)
        function, name = call.object("function"), None
        if function is not None:
            if not function.has("arguments"):
                function.set("arguments", "{}", "Mistral requires arguments")
            name = function.text("name")
            self._names.fit(function)
        call.document.hold(_CALL_BYTES, call.path)
        given = call.text("id")
        sent = _sent_id(call, "id")
        again = self._made[sent]
        self._made[sent] += 1
        id = self._fit(f"\0{position}" if sent is None else f"{sent}\0{again}" if again else sent)
        made = _Call(sent, id, name)
        self._turn.add(made)
        for key in _keys(made):
            turns = self._turns.setdefault(key, [])
            if not turns or turns[-1] is not self._turn:
                turns.append(self._turn)
        if id != given:
            call.set("id", id, "Mistral's ids are nine letters or digits")

    def result(self, message: Object, later: Iterable[Object]) -> Turn | None:
        """A tool *message*: it names the call that it answers, by that call's id. *later* are the results behind it, which are
        looked at if it names none: a call that one of them names is kept for it.

        Returns the turn of that call, the latest one that fits; None: no call waits for this result. Then it becomes a user's
        message if the API would refuse it.
        """
        sent = _sent_id(message, "tool_call_id")
        name = message.text("name")
        if sent is None:
            self._turn.keep(later)
        turn, id = self._answered(message)
        if turn is None and self._ordered:
            message.set("role", "user", "no call waits for this result, so it is a user's text", "approximate", to="user")
            for name in ("tool_call_id", "name"):
                if message.has(name):
                    message.drop(name, "a user's message has none")
            return None
        if turn is None and sent is not None:
            id = self._fit(sent)
        if name is not None:
            self._names.fit(message)
            if not _NAME.fullmatch(message.text("name") or ""):
                message.drop("name", "Mistral refuses the name; the id says what is answered")
        if id is not None and id != message.text("tool_call_id"):
            message.set("tool_call_id", id, "the id of the call that it answers")
        return turn

    def _answered(self, result: Object) -> tuple[Turn | None, str | None]:
        """The turn and the id of the call that a *result* answers: by its id; without one by its name or in the latest turn."""
        key = _result_key(result)
        turns = self._turns.get(key, [])
        while turns:
            if (id := turns[-1].answer(key)) is not None:
                return turns[-1], id
            turns.pop()
        id = self._turn.answer(_ANY) if key[0] != "id" else None
        return (None, None) if id is None else (self._turn, id)

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
