"""Where each change lies in the body as it came and in the body as it is sent, for people who compare the two.

The filter keeps no record of this, since requests do not need it. A change names its path in the original; the place in the
result is found by walking the result along that path, through renamed keys and past items that were left out or put in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from mistral_filter.changes import Change

__all__ = ["Place", "Places", "locate_changes", "read_json", "read_path"]

Place = tuple[str | int, ...]
"""Keys and indexes from the root: ``("messages", 0, "name")``."""

_LONGEST_PATH = 500
"""Characters. A longer path is not read."""
_MOST_STEPS, _MOST_ENDS = 64, 16
"""Readings of one path that are tried, and ends of one key."""
_MOST_CELLS = 40_000
"""Pairs of items that are compared to align the lists of a body, a tenth of a second; the others are paired in their order."""
_MOST_MOVED = 100
"""Items of one list that were moved within it and are looked for."""
_ROLES = {"function_call": "assistant", "function_call_output": "tool"}
"""The role in chat of what Responses bodies tell by its type."""

read_json = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str).decode
"""JSON with its numbers as text, so that none is too long."""


class Places(NamedTuple):
    """Both places of one change. What is not there (a dropped field in the result) is placed at what held or would hold it."""

    before: Place
    after: Place


def locate_changes(before: bytes, after: bytes, changes: Sequence[Change]) -> list[Places]:
    """The places of each of *changes*, which lie between the bodies *before* and *after* (JSON in UTF-8)."""
    original, result = read_json(before.decode()), read_json(after.decode())
    walk = _Walk(original, result, changes)
    return [Places(walk.origin(change), walk.find(change)) for change in changes]


def read_path(path: str, value: Any) -> Place:
    """The place in *value* that *path* (``messages[0].name``) names, as far as it exists.

    A key may hold dots and brackets: of all ways to read the path, the one that leads furthest counts.
    """
    return _read(path, value)[0]


def _read(path: str, value: Any) -> tuple[Place, str]:
    """The place, and what of *path* leads nowhere."""
    if len(path) > _LONGEST_PATH:
        return (), path
    best: tuple[Place, int] = ((), 0)
    open_: list[tuple[Any, int, Place]] = [(value, 0, ())]
    for _ in range(_MOST_STEPS):
        if not open_:
            break
        node, at, place = open_.pop()
        if at == len(path):
            return place, ""
        best = max(best, (place, at), key=lambda found: found[1])
        if isinstance(node, list) and (index := _INDEX.match(path, at)) and int(index[1]) < len(node):
            open_.append((node[int(index[1])], index.end(), (*place, int(index[1]))))
        elif isinstance(node, dict):
            start = at + (at > 0 and path[at] == ".")
            ends = islice((match.start() for match in _KEY_END.finditer(path, start)), _MOST_ENDS)
            keys = [(path[start:end], end) for end in ends]
            open_ += [(node[key], end, (*place, key)) for key, end in keys if key in node]
    return best[0], path[best[1] :]


_INDEX = re.compile(r"\[(\d{1,7})\]")
_ITEM = re.compile(r"(.+)\[(\d{1,7})\]", re.DOTALL)
_KEY_END = re.compile(r"[.\[]|\Z")


class _Walk:
    def __init__(self, original: Any, result: Any, changes: Sequence[Change]) -> None:
        self._original, self._result = original, result
        self._new_name: dict[Place, str] = {}
        self._new_value: dict[Place, str] = {}
        self._gone: set[Place] = set()
        self._moved: set[Place] = set()
        self._put_in: dict[Place, set[int]] = {}
        self._cells = _MOST_CELLS
        self._pairs: dict[Place, dict[int, int]] = {}
        self._came_from: dict[str, Place] = {}
        self._readings = {change.path: _read(change.path, original) for change in changes}
        for change in changes:
            place, rest = self._readings[change.path]
            if change.action in ("drop", "move"):
                if not rest:
                    (self._moved if change.action == "move" and change.to is None else self._gone).add(place)
            elif change.action == "insert":
                if item := _ITEM.fullmatch(change.path):
                    self._put_in.setdefault(self.origin(change), set()).add(int(item[2]))
            elif change.to is not None:
                (self._new_value if change.action == "set" else self._new_name)[place] = change.to
                self._came_from[change.to] = place

    def origin(self, change: Change) -> Place:
        """The deepest place in the original that has to do with *change*, which may be a change of what another one made."""
        if change.action == "insert" and (item := _ITEM.fullmatch(change.path)):
            return read_path(item[1], self._original)
        place, rest = self._readings[change.path]
        nested = self._new_name.get(place)
        if nested is not None and rest.startswith(f".{nested}."):
            return (*place, *read_path(rest[len(nested) + 2 :], _value_at(self._original, place)))
        return place or self._came_from.get(change.path, ())

    def find(self, change: Change) -> Place:
        """The deepest place in the result that has to do with *change*."""
        origin = self.origin(change)
        if change.action == "drop":
            return self._follow(origin[:-1])[0]
        place, value, arrived = self._follow(origin)
        if not arrived:
            return (change.to and read_path(change.to, self._result)) or place
        if change.action == "insert":
            return self._find_new(change, place, value)
        if change.to and change.action == "rename" and isinstance(value, dict):
            return (*place, *read_path(change.to, value))  # it was nested one level deeper
        rest = self._readings[change.path][1] if origin == self._readings[change.path][0] else ""
        return (*place, *read_path(rest.removeprefix("."), value)) if rest else place  # what another change made

    def _find_new(self, change: Change, place: Place, value: Any) -> Place:
        """What was put into the *value* at *place*. The path of an item that was put in has its index in the result."""
        if isinstance(value, list):
            item = _ITEM.fullmatch(change.path)
            return (*place, int(item[2])) if item and int(item[2]) < len(value) else place
        name = re.split(r"[.\]]", change.path)[-1]
        return (*place, name) if isinstance(value, dict) and name in value else place

    def _follow(self, origin: Place) -> tuple[Place, Any, bool]:
        """What became of *origin*: its place, or that of the last step which is still there; the value; whether it arrived."""
        place: Place = ()
        value = self._result
        for depth, step in enumerate(origin):
            found: Place = ()
            if isinstance(value, list) and isinstance(step, int):
                index = self._pair(origin[:depth], value).get(step)
                found = () if index is None else (index,)
            elif isinstance(value, dict):
                to, nested = self._new_name.get(origin[: depth + 1]), self._new_name.get(origin[:depth], "")
                if step in value:
                    found = (step,)
                elif to is not None:
                    found = read_path(to, value)
                elif isinstance(value.get(nested), dict) and step in value[nested]:
                    found = (nested, step)
            if not found:
                return place, value, False
            place, value = (*place, *found), _value_at(value, found)
        return place, value, True

    def _pair(self, origin: Place, items: list[Any]) -> dict[int, int]:
        """Which of *items* each item of the original list at *origin* became."""
        if origin in self._pairs:
            return self._pairs[origin]
        given = _value_at(self._original, origin)
        if not isinstance(given, list):
            return {}
        there = [i for i in range(len(given)) if (*origin, i) not in self._gone]
        free = [j for j in range(len(items)) if j not in self._put_in.get(origin, ())]
        moved = [i for i in there if (*origin, i) in self._moved]
        kept = [i for i in there if (*origin, i) not in self._moved]
        if (cells := len(kept) * len(free)) > self._cells:
            pairs = dict(zip(kept, free, strict=False))
        else:
            self._cells -= cells
            alike = [[self._likeness(given[i], items[j], (*origin, i)) for j in free] for i in kept]
            pairs = {kept[row]: free[column] for row, column in _align(alike)}
        taken = set(pairs.values())
        left = [j for j in free if j not in taken][:_MOST_MOVED]
        for i in moved[:_MOST_MOVED]:
            likeness = [(self._likeness(given[i], items[j], (*origin, i)), -j) for j in left]
            if likeness and max(likeness)[0]:
                pairs[i] = -max(likeness)[1]
                left.remove(pairs[i])
        self._pairs[origin] = pairs
        return pairs

    def _likeness(self, given: Any, item: Any, origin: Place) -> int:
        """How much *item* is like what became of *given*, which stood at *origin*; 0: it cannot be that."""
        if given == item:
            return 4
        if not (isinstance(given, dict) and isinstance(item, dict)):
            return 1  # a plain value that was changed, or wrapped
        was, role = (value.get("role") or _ROLES.get(str(value.get("type"))) for value in (given, item))
        if self._new_value.get((*origin, "role"), was) != role:
            return 0
        same = [key for key in given if key in item and given[key] == item[key] and key != "role"]
        return 3 if same else 2


def _align(alike: list[list[int]]) -> list[tuple[int, int]]:
    """The pairs of rows and columns, both rising, whose sum in *alike* is greatest; no pair is 0."""
    columns = range(len(alike[0]) if alike else 0)
    best = [[0] * (len(columns) + 1) for _ in range(len(alike) + 1)]
    for row in reversed(range(len(alike))):
        for column in reversed(columns):
            pair = alike[row][column] and alike[row][column] + best[row + 1][column + 1]
            best[row][column] = max(pair, best[row + 1][column], best[row][column + 1])
    pairs, row, column = [], 0, 0
    while row < len(alike) and column < len(columns):
        likeness = alike[row][column]
        if likeness and best[row][column] == likeness + best[row + 1][column + 1]:
            pairs.append((row, column))
            row, column = row + 1, column + 1
        elif best[row][column] == best[row + 1][column]:
            row += 1
        else:
            column += 1
    return pairs


def _value_at(value: Any, place: Place) -> Any:
    for step in place:
        value = value[step]
    return value
