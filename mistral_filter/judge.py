"""The judgement by the lists: what the tables of ``mistral_filter.fields`` do not accept is left out, and noted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from msgspec import Raw

from mistral_filter import fields
from mistral_filter.changes import Loss
from mistral_filter.dialect.values import UNKNOWN, note_drop, reason_and_loss, repair_value
from mistral_filter.fields import KEEP, SET, Value
from mistral_filter.models import nearest_word
from mistral_filter.parts import GONE, Array, Object, Part
from mistral_filter.plain import is_plain
from mistral_filter.rawjson import NULL

__all__ = ["Judge", "Learnt", "LeftOut", "Location", "leave_out"]

Location = tuple[str, ...]
"""Where a field stands: its keys from the top of a body, ``"*"`` for every item of a list: ``("messages", "*", "name")``."""


class Learnt(NamedTuple):
    """What an earlier answer of Mistral's API said of one field."""

    location: Location
    """Of at least one key. What the API requires stays, whatever is said of it."""
    values: tuple[str, ...] = ()
    """The words of EFFORTS that are taken there; (): the field is refused."""
    of_model: bool = False
    """Whether that holds for one model (400 code 3051), not for the endpoint (422 ``extra_forbidden``)."""

    @property
    def reason(self) -> str:
        """One sentence for a person."""
        if self.values:
            return f"the model takes {', '.join(self.values)} (400 code 3051)"
        return "the model refused the field before (400 code 3051)" if self.of_model else _REFUSED


class LeftOut(NamedTuple):
    """A field that the API knows, and that the list in use leaves out."""

    reason: str
    refuses_null: bool
    words: Value | None
    """By which a value of it would be judged; None: whatever it is would stay."""


_NO_NULL = "Mistral refuses null here"
_REFUSED = "Mistral refused the field before (422 extra_forbidden)"

_NEVER_LEFT_OUT = (("role",), ("content",))
"""Of a message: without it the request is another one. (At the top: what the endpoint requires.)"""


class Judge:
    """Walks a body along its table."""

    __slots__ = ("_conversation", "_learnt", "_of_messages", "_repair")

    def __init__(
        self, *, repair: bool, learnt: Iterable[Learnt] = (), conversation: Callable[[Array, Judge], None] | None = None
    ) -> None:
        """*repair*: values that Mistral refuses are mended too. *learnt*: see ``filter_body``. *conversation*: translates a
        list of messages and has each one judged; None: they are only judged."""
        self._repair = repair
        self._conversation = conversation
        self._learnt = [each for each in learnt if each.location]
        self._of_messages: list[Learnt] = []

    def top(self, root: Object, table: fields.Object, left_out: Mapping[str, LeftOut]) -> None:
        """Judges the whole body. *left_out*: the names that the API knows and *table* does not have."""
        if not self._learnt:
            self.object(root, table, left_out)
            return
        elsewhere = []
        for learnt in self._learnt:
            location = learnt.location
            if _is_conversation(table.fields.get(location[0])) and location[1:2] == ("*",):
                if location[2:] and location[2:] not in _NEVER_LEFT_OUT:
                    self._of_messages.append(learnt._replace(location=location[2:]))
            elif location[1:] or location[0] not in table.required:
                elsewhere.append(learnt)
        self.object(root, table, left_out)
        for learnt in elsewhere:
            _apply(learnt, root, learnt.location)

    def object(self, part: Object, table: fields.Object, left_out: Mapping[str, LeftOut] = MappingProxyType({})) -> None:
        """Judges an object by its *table*."""
        gone = []
        accepted = table.fields.get
        for name, value in part.fields.items():
            known = accepted(name)
            if known is KEEP:
                continue
            if known is None:
                if name in left_out:
                    reason, loss = self._why_left_out(name, value, left_out[name])
                else:
                    reason, loss = reason_and_loss(name, value, UNKNOWN)
                part.note("drop", part.position.below(name), reason, loss)
                gone.append(name)
            elif value == NULL:
                if self._repair and _refuses_null(known) and name not in table.required:
                    part.note("drop", part.at(name), _NO_NULL)
                    gone.append(name)
            elif type(known) is not Value:
                self._inside(part, name, known)
            elif self._repair and known is not SET and (repair := repair_value(name, value, known)):
                if repair.value is GONE:
                    part.note("drop", part.at(name), repair.reason, repair.loss)
                    gone.append(name)
                else:
                    part.set(name, repair.value, repair.reason, repair.loss)
        for name in gone:
            del part.fields[name]

    def _why_left_out(self, name: str, value: Any, field: LeftOut) -> tuple[str, Loss]:
        """The reason for leaving out a field that the API knows, and the loss: a *value* that it refuses is one anyway."""
        if self._repair:
            if field.refuses_null and value == NULL:
                return _NO_NULL, "none"
            repair = field.words and repair_value(name, value, field.words)
            if repair and repair.value is GONE:
                return repair.reason, repair.loss
        return reason_and_loss(name, value, field.reason)

    def one(self, part: Object, known: fields.Node) -> None:
        """Judges an object by a table for objects; one of an unknown kind is left to the API."""
        if isinstance(known, fields.Tagged):
            tag = part.text(known.by) if known.by in part.fields else known.default
            variant = known.variants.get(tag or "")
            if variant is not None:
                self.object(part, variant)
        elif isinstance(known, fields.Object):
            self.object(part, known)

    def message(self, message: Object, known: fields.Node = fields.MESSAGES.items) -> None:
        """Judges one message by its role, or one item of a Responses request by its table *known*."""
        self.one(message, known)
        required = known.required if isinstance(known, fields.Object) else ()
        for learnt in self._of_messages:
            if learnt.location[1:] or learnt.location[0] not in required:
                _apply(learnt, message, learnt.location)

    def _inside(self, part: Object, name: str, known: fields.Node) -> None:
        value = part.fields[name]
        if _is_conversation(known) and isinstance(value, Raw) and (value is part.document.plain or is_plain(value)):
            part.document.is_flat(value)
            return
        child = part.part(name)
        if isinstance(child, Array):
            if _is_conversation(known) and self._conversation is not None:
                self._conversation(child, self)
            elif isinstance(known, fields.Array) and _is_conversation(known):
                self._each_message(child, known.items)
            elif not child.is_judged:
                # a list where one object stands: its items are judged as that object (an image, an input, …)
                self._items(child, known.items if isinstance(known, fields.Array) else known)
        elif isinstance(child, Object) and not isinstance(known, fields.Array):
            self.one(child, known)

    def _items(self, array: Array, known: fields.Node, *, inner: bool = False) -> None:
        for item in array.parts():
            if isinstance(item, Object):
                self.one(item, known)
            elif isinstance(item, Array) and not inner:
                self._items(item, known, inner=True)

    def _each_message(self, messages: Array, known: fields.Node, *, inner: bool = False) -> None:
        for index in range(len(messages.items)):
            message = messages.part(index)
            if isinstance(message, Object):
                self.message(message, known)
            elif isinstance(message, Array) and not inner:  # several conversations
                self._each_message(message, known, inner=True)
            messages.close(index)


def leave_out(reason: str, known: fields.Node) -> LeftOut:
    """A field left out for *reason*, whose values would be judged by *known*. Numbers are clamped, and so would stay."""
    words = known if isinstance(known, Value) and known is not SET and known is not KEEP and known.high is None else None
    return LeftOut(reason, _refuses_null(known), words)


def _refuses_null(known: fields.Node) -> bool:
    return not isinstance(known, fields.Tagged) and not known.null


def _is_conversation(known: fields.Node | None) -> bool:
    """Whether a list is gone through item by item, each closed before the next one is opened."""
    return known is fields.MESSAGES or known is fields.RESPONSE_INPUT


def _apply(learnt: Learnt, part: Part, location: Location) -> None:
    """Leaves out what was refused at *location* below *part*, or sets the nearest of the values that are taken."""
    step, rest = location[0], location[1:]
    if isinstance(part, Array):
        for item in part.parts() if step == "*" and rest else ():
            _apply(learnt, item, rest)
    elif isinstance(part, Object) and step in part.fields:
        if rest:
            if (child := part.part(step)) is not None:
                _apply(learnt, child, rest)
        elif not learnt.values:
            note_drop(part, step, part.fields.pop(step), learnt.reason)
        elif (nearest := nearest_word(part.text(step), learnt.values)) is not None and nearest != part.text(step):
            part.set(step, nearest, learnt.reason, "approximate")
