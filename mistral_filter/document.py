"""One request body as a document: what is opened of it, what has been changed, and what that may cost.

Strategy: opening parts and noting changes are paid for from two budgets, one for the time they take and one for the memory they
hold, so both are bounded whatever the body is. Time is counted in units and never given back; memory is counted in bytes, in
proportion to the body, and given back by parts that are closed. What has too many members is refused before it is opened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Raw

from mistral_filter.changes import Action, Change, Loss
from mistral_filter.errors import MAX_DEPTH, TooComplex
from mistral_filter.parsing import check_depth, may_be_deep, may_have_more_commas, survey
from mistral_filter.parts import MEMBER_BYTES, NEW_BYTES, OBJECT_BYTES, SMALL, Array, Object, Part, Position
from mistral_filter.plain import Plain
from mistral_filter.rawjson import Node

__all__ = ["BUDGET", "REPEATED", "ROOM", "ROOM_FOR_EACH_BYTE", "Document"]

BUDGET = 120_000
"""What one body may cost: 1 for each member that is opened, _PART for each object or list, _CHANGE for each change."""
_PART, _CHANGE = 3, 3

ROOM = 4 << 20
ROOM_FOR_EACH_BYTE = 3
"""Bytes of memory that the parts and changes of one body may hold: so many, and so many for each of its own. The body as it is
written anew takes one more for each of its own: 4 times the body and 4 MiB together, beside the body that came."""
_UNNAMED_BYTES, _NAMED_BYTES = 64, 160
"""Memory of a value in a list that is opened, and of one in an object of many names that are seldom used."""
_MANY_NAMES = 24
_CHANGE_BYTES = 250
"""Memory of a change: the tuple, its path and its places in lists."""
_LEAST_DEEP = 2 * MAX_DEPTH
"""Bytes of a value that nests too deep, at least."""
_SHORTEST_MEMBER = 5
"""Bytes of a member in an object, with its comma: ``"":0,``."""
_KEY_BYTES = 250
"""Memory of a member while its object is searched for repeated keys."""
_STEPS = 8
"""Steps of a survey that cost as much as one member."""

REPEATED = "the key is repeated: the last one counts"

_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_objects = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode


class Document:
    """One request body: its top level, what has been changed, and what is left of the budget."""

    __slots__ = ("_body", "_crowded", "_deep", "_left", "_room", "_templates", "_unopened", "changes", "plain")

    def __init__(self, body: bytes, plain: Plain | None = None) -> None:
        """*body* need not have been parsed yet; *plain* is what is known of it.

        Raises TooComplex when its top level has more than BUDGET members.
        """
        self.changes: list[Change] = []
        self.plain = plain and plain.messages
        self._left = BUDGET
        self._room = ROOM + ROOM_FOR_EACH_BYTE * len(body)
        self._crowded = False
        if plain:
            body = plain.rest  # a plain conversation is not deep, and has too few messages to be too complex
        if len(body) > SMALL:
            most = min(BUDGET, self._room // _NAMED_BYTES)
            self._crowded = self._survey(body, None, _NAMED_BYTES) > most
        self._body = body
        self._deep: bool | None = True
        """Whether anything in the body may nest too deep; None: that is seen when a value in it is opened."""
        self._unopened: dict[int, Raw] = {}
        self._templates: dict[tuple[str, ...], bytes] = {}

    def top(self, fields: Node, body: bytes) -> Object:
        """The part for the whole *body*, whose top level is *fields*. Raises TooComplex."""
        root = Object(self, Position(None, ""), Raw(body), fields)
        self._open_members(root, fields.values())
        self._deep = None
        self._note_repeated(root)
        return root

    def note(self, action: Action, path: str, reason: str, loss: Loss = "none", to: str | None = None) -> None:
        """Notes a change that is no edit of one part. Raises TooComplex when the budget is spent."""
        self._left -= _CHANGE
        self._room -= _CHANGE_BYTES
        if self._left < 0 or self._room < 0:
            raise self._too_complex(path)
        self.changes.append(tuple.__new__(Change, (action, path, reason, loss, to)))  # as Change() does, in a third of the time

    def open_object(self, raw: Raw, position: Position) -> Object:
        """The object *raw* at *position*; a key that is repeated in it is noted. Raises TooComplex."""
        if self._crowded:
            self._survey(raw, position, _NAMED_BYTES)
        part = Object(self, position, raw, _decode_object(raw))
        self._open_members(part, part.fields.values())
        self._note_repeated(part)
        return part

    def open_array(self, raw: Raw, position: Position) -> Array:
        """The list *raw* at *position*. Raises TooComplex."""
        if self._crowded and self._survey(raw, position, _UNNAMED_BYTES) > self._left:
            raise self._too_complex(position.path)  # nearly all lists are opened to the last value in them
        objects = _compact_objects(raw)
        if objects is None:
            part = Array(self, position, raw, _decode_array(raw))
            self._open_members(part, part.items)
            return part
        part = Array(self, position, raw, objects)
        self._open_members(part, [member for item in objects for member in item.values()], len(objects))
        return part

    def new(self, value: Node | list[Any], position: Position) -> Part:
        """A part made of *value*, which is no value of the request's, at a *position* that has been edited."""
        self._left -= _PART
        self._room -= OBJECT_BYTES + NEW_BYTES * len(value)
        position.edited = True
        return Object(self, position, None, value) if isinstance(value, dict) else Array(self, position, None, value)

    def _survey(self, value: bytes | Raw, position: Position | None, each: int) -> int:
        """How many values are in *value*, which is to be opened; 0: few. Raises TooComplex for too many members.

        *each*: the memory that opening takes for one member.
        """
        most = max(min(self._left, self._room // each), 0)
        found = survey(value, most)
        if found is None:
            return 0
        self._left -= found.steps // _STEPS
        if found.members > min(most, self._left):
            raise self._too_complex("" if position is None else position.path)
        return found.values

    def hold(self, size: int, path: str) -> None:
        """Notes that *size* more bytes of memory are held for what stands at *path*; fewer: it is negative. Raises TooComplex."""
        self._room -= size
        if self._room < 0:
            raise self._too_complex(path)

    def is_flat(self, raw: Raw) -> None:
        """The value *raw*, which was not opened, has been seen not to nest."""
        self._unopened.pop(id(raw), None)

    def finish(self) -> None:
        """Raises TooDeep when anything that was never opened nests too deep."""
        for raw in self._unopened.values():
            check_depth(raw)

    def _open_members(self, part: Part, members: Collection[Any], objects: int = 0) -> None:
        """Pays for the *members* of an opened *part*, or for those of its *objects* when they were opened with it."""
        count = len(members)
        self._left -= count + _PART + objects * (_PART + 1)
        self._room -= OBJECT_BYTES * (objects + 1) + MEMBER_BYTES * count
        if count > _MANY_NAMES and type(part) is Object:
            self._room -= (_NAMED_BYTES - MEMBER_BYTES) * count
        if self._left < 0 or self._room < 0:
            raise self._too_complex(part.path)
        if self._deep is None:
            self._deep = may_be_deep(self._body)
            if not self._deep:
                self._unopened.clear()
        if self._deep:
            self._unopened.pop(id(part.raw), None)
            for value in members:
                if len(value) > _LEAST_DEEP and memoryview(value)[0] in b"[{":
                    self._unopened[id(value)] = value

    def _note_repeated(self, part: Object) -> None:
        assert part.raw is not None
        if self._has_every_value(part.raw, part.fields):
            return
        more = (len(part.raw) - _shortest(part.fields)) // _SHORTEST_MEMBER  # members that repeat a key, at most
        if _KEY_BYTES * (len(part.fields) + more) > self._room:
            raise self._too_complex(part.path)
        keys = _decode_keys(part.raw)
        self._left -= len(keys)
        if len(keys) == len(part.fields):
            return
        for name, count in Counter(key.text for key in keys).items():
            if count > 1:
                part.note("drop", part.at(name), REPEATED)

    def _has_every_value(self, raw: Raw, fields: Node) -> bool:
        """Whether the *fields* of the object *raw* are all that it holds: no key is repeated. False may mean odd white space."""
        compact = len(_encode(fields)) if len(raw) < SMALL else _shortest(fields)
        if len(raw) == compact:
            return True  # the shortest way to write the fields leaves no room for more
        if len(raw) != compact + 2 * len(fields) - 1:
            return False
        keys = tuple(fields)
        template = self._templates.get(keys)
        if template is None:
            # as Python's json.dumps writes an object; most objects of a body have the keys of another one
            written = ", ".join('"' + key.replace("%", "%%") + '": %b' for key in keys)
            template = self._templates[keys] = f"{{{written}}}".encode()
        return bool(Raw(template % tuple(fields.values())) == raw)

    def _too_complex(self, path: str) -> TooComplex:
        name = path.partition("[")[0].partition(".")[0]
        where = f"most of them in {name}. Send fewer {name}, or smaller ones" if name.isidentifier() else "Send fewer fields"
        return TooComplex(f"The request has more parts than are translated in one request, {where}.", param=name or None)


class _Key:
    """A key that equals no other, so that a repeated one is seen twice."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


_decode_keys = msgspec.json.Decoder(dict[_Key, Raw], dec_hook=lambda _, text: _Key(text)).decode


def _compact_objects(raw: Raw) -> list[Node] | None:
    """The items of the list *raw* if all are objects without white space and without repeated keys, and either small or few.

    Then the encoder writes them as they came, and they need not be opened one by one.
    """
    if len(raw) > SMALL and may_have_more_commas(bytes(raw), _FEW):
        return None
    if b'": ' in bytes(memoryview(raw)[:_START]):
        return None
    try:
        objects: list[Node] = _decode_objects(raw)
    except msgspec.ValidationError:
        return None
    if len(raw) > SMALL:  # no copy of large values
        return objects if sum(map(_shortest, objects)) + len(objects) + 1 == len(raw) else None
    return objects if Raw(_encode(objects)) == raw else None


def _shortest(fields: Node) -> int:
    """The length of an object without white space and without escapes in its keys. With either, or with a second value for a
    key, the JSON is longer."""
    return sum(map(len, fields)) + sum(map(len, fields.values())) + 4 * len(fields) + (1 if fields else 2)


_FEW = 1000
_START = 48
"""Bytes, which show whether a list has white space after its colons."""
_encode = msgspec.json.Encoder().encode
