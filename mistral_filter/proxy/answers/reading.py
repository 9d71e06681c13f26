"""Answers as JSON of which only the visited levels are decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from mistral_filter.errors import TooComplex
from mistral_filter.parsing import survey
from mistral_filter.rawjson import Node, as_array, as_object, encode, first_byte
from mistral_filter.surrogates import Surrogates

__all__ = ["MOST_VALUES", "UNREADABLE", "absent", "each", "is_json", "is_simple", "rewritten"]

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not the JSON asked for; the second when it visits a string that is not UTF-8."""

MOST_VALUES = 20_000
"""In a completion, or in a chunk of one. Opening so many takes a twentieth of a second and 10 MB."""

_MOST_STEPS = 3 * MOST_VALUES
"""Of counting: a value has about three, its brackets or a name, and a comma."""

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def is_json(content_type: str) -> bool:
    """Whether a Content-Type header says JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def is_simple(data: bytes) -> bool:
    """Whether the JSON *data* has at most MOST_VALUES values, so that it may be opened. Known at once for nearly all answers."""
    try:
        counted = survey(data, MOST_VALUES, _MOST_STEPS)
    except TooComplex:
        return False
    return counted is None or counted.values <= MOST_VALUES


def rewritten(data: bytes, rewrite: Callable[[Node], Iterable[Node]]) -> list[bytes] | None:
    """The JSON texts that *rewrite* makes of the object *data*; none: nothing has to change. None: *data* is no JSON object.

    Lone surrogate escapes, which msgspec refuses, are hidden from *rewrite* and put back.
    """
    hidden = None
    try:
        try:
            node = _object(data)
        except msgspec.DecodeError:
            hidden = Surrogates(data)
            if not hidden.found:
                return None
            node = _object(hidden.body)
        texts = [encode(one) for one in rewrite(node)]
    except (*UNREADABLE, TooComplex):  # the last: of too many lone surrogates
        return None
    return [hidden.restore(text) for text in texts] if hidden else texts


def each(node: Node, key: str, change: Callable[[int, Node], bool]) -> bool:
    """Calls *change* with the objects in the list ``node[key]`` and their indexes; puts back those for which it says true."""
    items = as_array(node.get(key)) or []
    changed = {}
    for i, item in enumerate(items):
        visited = as_object(item)
        if visited is not None and change(i, visited):
            changed[i] = visited
    if changed:
        node[key] = [changed.get(i, item) for i, item in enumerate(items)]
    return bool(changed)


def absent(node: Node, key: str) -> bool:
    """Whether *key* is missing, or null."""
    value = node.get(key)
    return value is None or first_byte(value) == ord("n")
