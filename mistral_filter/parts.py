"""JSON that is opened on demand, and that cannot be edited without saying why.

A part is an object or a list of the request. It is opened when a rule looks into it: its members are then ``msgspec.Raw``,
bytes that nobody has read, until they are opened in their turn. A part knows where in the request it stood. Every edit is noted
as a Change and marks the part and all that hold it as edited; what is never edited is written as the bytes it came in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import msgspec
from msgspec import Raw

from mistral_filter.changes import Action, Change, Loss
from mistral_filter.rawjson import NULL, Node, as_number, as_text

__all__ = [
    "GONE",
    "MEMBER_BYTES",
    "NEW_BYTES",
    "OBJECT_BYTES",
    "SMALL",
    "Array",
    "Object",
    "Opener",
    "Part",
    "Position",
    "encode",
]

GONE = object()
"""In a list: an item that has been left out. It keeps its position, so that the others keep theirs."""

SMALL = 65536
"""Bytes."""


OBJECT_BYTES, MEMBER_BYTES, NEW_BYTES = 330, 110, 16
"""Memory that a part holds, and each of its members, if it was opened and if it is new (CPython 3.11 to 3.14, 64 bits)."""


class Opener(Protocol):
    """The document that parts belong to."""

    changes: list[Change]
    plain: Raw | None
    """A conversation that is known to be plain."""

    def note(self, action: Action, path: str, reason: str, loss: Loss = "none", to: str | None = None) -> None:
        """Notes a change."""

    def open_object(self, raw: Raw, position: Position) -> Object:
        """The object *raw* as a part."""

    def open_array(self, raw: Raw, position: Position) -> Array:
        """The list *raw* as a part."""

    def new(self, value: Node | list[Any], position: Position) -> Part:
        """A part made of a new *value*."""

    def hold(self, size: int, path: str) -> None:
        """Notes that *size* more bytes of memory are held."""

    def is_flat(self, raw: Raw) -> None:
        """The value *raw* has been seen not to nest."""


class Position:
    """Where a part stood in the request as it came, and whether anything there or below has been edited.

    It leads upwards only and holds nothing of the request, so parts are freed as soon as nobody needs them.
    """

    __slots__ = ("_path", "edited", "step", "up")

    def __init__(self, up: Position | None, step: str | int, path: str | None = None) -> None:
        """*step* is the key or index below *up*. *path*: where the part came from, if not from there."""
        self.up = up
        self.step = step
        self.edited = False
        self._path = path

    @property
    def path(self) -> str:
        """The position as changes name it: ``messages[0].content``; "" for the request itself."""
        if self._path is None:
            self._path = "" if self.up is None else self.up.below(self.step)
        return self._path

    def below(self, step: str | int) -> str:
        """The path of what stands under the key or index *step* here."""
        path = self._path
        if path is None:
            path = self.path
        if type(step) is str:
            return f"{path}.{step}" if path else step
        return f"{path}[{step}]"

    def set_edited(self) -> None:
        """Notes that what stands here has been edited, and so has all that holds it."""
        position: Position | None = self
        while position is not None and not position.edited:
            position.edited = True
            position = position.up


class Part:
    """An opened object or list. *raw* are its bytes; None for a new part, and where the encoder would write the same bytes."""

    __slots__ = ("document", "position", "raw")

    document: Opener
    position: Position
    raw: Raw | None

    @property
    def path(self) -> str:
        """Where the part stood in the request as it came."""
        return self.position.path

    def at(self, step: str | int) -> str:
        """The path of the member under the key or index *step*."""
        return self.position.below(step)

    def note(self, action: Action, path: str, reason: str, loss: Loss = "none", to: str | None = None) -> None:
        """Notes an edit of this part, which is written anew from now on. The edits below call it; a rule seldom has to."""
        self.document.note(action, path, reason, loss, to)
        if not self.position.edited:
            self.position.set_edited()

    def _open(self, value: Any, step: str | int) -> Part | None:
        """The *value* under *step* as a part of this one; None for a value that is no object and no list."""
        if type(value) is not Raw:
            if isinstance(value, Part):
                return value
            return self.document.new(value, Position(self.position, step)) if isinstance(value, (dict, list)) else None
        kind = memoryview(value)[0]
        if kind == 0x7B:
            return self.document.open_object(value, Position(self.position, step))
        return self.document.open_array(value, Position(self.position, step)) if kind == 0x5B else None


class Object(Part):
    """A JSON object. Its ``fields`` may be read directly; whatever changes them goes through a method with a reason."""

    __slots__ = ("fields",)

    def __init__(self, document: Opener, position: Position, raw: Raw | None, fields: Node) -> None:
        self.document = document
        self.position = position
        self.raw = raw
        self.fields = fields

    def part(self, key: str) -> Part | None:
        """The object or list under *key*, opened; None: neither is there."""
        value = self.fields.get(key)
        part = self._open(value, key)
        if part is not None and part is not value:
            self.fields[key] = part
        return part

    def object(self, key: str) -> Object | None:
        """The object under *key*, opened; None: there is none."""
        value = self.fields.get(key)
        if value is None or (type(value) is Raw and memoryview(value)[0] != 0x7B):
            return None
        part = self.part(key)
        return part if type(part) is Object else None

    def array(self, key: str) -> Array | None:
        """The list under *key*, opened; None: there is none."""
        value = self.fields.get(key)
        if value is None or (type(value) is Raw and memoryview(value)[0] != 0x5B):
            return None
        part = self.part(key)
        return part if type(part) is Array else None

    def text(self, key: str) -> str | None:
        """The string under *key*; None: there is none."""
        return as_text(self.fields.get(key))

    def number(self, key: str) -> int | float | None:
        """The number under *key*; None: there is none."""
        return as_number(self.fields.get(key))

    def has(self, key: str) -> bool:
        """Whether anything but null is under *key*."""
        return bool(self.fields.get(key, NULL) != NULL)

    def drop(self, key: str, reason: str, loss: Loss = "none") -> Any:
        """Leaves *key* out; returns what was there."""
        self.note("drop", self.at(key), reason, loss)
        return self.fields.pop(key)

    def set(self, key: str, value: Any, reason: str, loss: Loss = "none", *, to: str | None = None) -> None:
        """Puts another *value* under *key*."""
        self.note("set", self.at(key), reason, loss, to)
        self.fields[key] = value

    def insert(self, key: str, value: Any, reason: str, loss: Loss = "none") -> None:
        """Puts a *value* under *key*, where nothing was, or null."""
        self.note("insert", self.at(key), reason, loss)
        self.fields[key] = value

    def rename(self, key: str, to: str, reason: str, loss: Loss = "none") -> None:
        """Moves what is under *key* to the key *to*."""
        self.note("rename", self.at(key), reason, loss, to)
        self.fields[to] = self.fields.pop(key)

    def become(self, fields: Node, action: Action, path: str, reason: str, loss: Loss = "none", *, to: str) -> None:
        """Holds *fields* from now on; the change is reported at *path*. What goes with the old ones has been noted."""
        self.note(action, path, reason, loss, to)
        self.fields = fields


class Array(Part):
    """A JSON list. An item that is left out becomes GONE; ``first`` is what has been put before all ``items``."""

    __slots__ = ("first", "is_judged", "items")

    def __init__(self, document: Opener, position: Position, raw: Raw | None, items: list[Any]) -> None:
        self.document = document
        self.position = position
        self.raw = raw
        self.items = items
        self.first: list[Any] = []
        self.is_judged = False
        """Whether the list has been judged item by item while it was translated."""

    def part(self, index: int) -> Part | None:
        """The object or list at *index*, opened; None: neither is there."""
        value = self.items[index]
        if type(value) is dict and self.raw is not None:
            part: Part | None = Object(self.document, Position(self.position, index), None, value)
        else:
            part = self._open(value, index)
        if part is not None and part is not value:
            self.items[index] = part
        return part

    def parts(self) -> Iterator[Part]:
        """The objects and lists among the items, opened one by one."""
        for index in range(len(self.items)):
            part = self.part(index)
            if part is not None:
                yield part

    def objects(self) -> Iterator[Object]:
        """The objects among the items, opened one by one."""
        return (part for part in self.parts() if type(part) is Object)

    def drop(self, index: int, reason: str, loss: Loss = "none") -> None:
        """Leaves the item at *index* out."""
        item = self.items[index]
        self.note("drop", item.path if isinstance(item, Part) else self.at(index), reason, loss)
        self.items[index] = GONE

    def take(self, index: int, reason: str, loss: Loss, to: str) -> None:
        """Takes the item at *index* away; it will stand elsewhere, as *to* says."""
        self.note("move", self.at(index), reason, loss, to)
        self.items[index] = GONE

    def each(self) -> Iterator[tuple[int, Object]]:
        """The objects among the items with their indexes, each opened when its turn comes and closed after it."""
        for index in range(len(self.items)):
            part = self.part(index)
            if isinstance(part, Object):
                yield index, part
                del part
                self.close(index)

    def is_empty(self) -> bool:
        """Whether the list holds nothing, or nothing any more."""
        return not self.first and all(item is GONE for item in self.items)

    def take_over(self, index: int) -> None:
        """What is of use in the item at *index* stands elsewhere now; null stays in its place."""
        item = self.items[index]
        self.items[index] = NULL
        if isinstance(item, Part):
            self.document.hold(-_held(item), item.path)

    def close(self, index: int) -> None:
        """No rule opens the item at *index* again. It becomes bytes, because parts take memory; but a large one stays."""
        item = self.items[index]
        if isinstance(item, Part) and item.raw is not None:
            if not item.position.edited:
                self.items[index] = item.raw
                self.document.hold(-_held(item), item.path)
            elif len(item.raw) < SMALL:
                written = encode(item)
                self.items[index] = Raw(written)
                self.document.hold(len(written) + MEMBER_BYTES - _held(item), item.path)


def _held(part: Part) -> int:
    """Bytes of memory that *part* holds, and all that have been opened in it."""
    values: Iterable[Any] = part.fields.values() if isinstance(part, Object) else part.items if isinstance(part, Array) else ()
    size, each = OBJECT_BYTES, NEW_BYTES if part.raw is None else MEMBER_BYTES
    for value in values:
        size += each
        if isinstance(value, Part):
            size += _held(value)
    return size


def _written(part: Any) -> Any:
    """A part as the encoder is to write it."""
    if not isinstance(part, Part):
        raise TypeError(f"{type(part).__name__} is no JSON")
    if part.raw is not None and not part.position.edited:
        return part.raw
    if isinstance(part, Object):
        return part.fields
    assert isinstance(part, Array)
    return [*part.first, *(item for item in part.items if item is not GONE)]


encode = msgspec.json.Encoder(enc_hook=_written).encode
"""JSON of a value that may hold parts."""
