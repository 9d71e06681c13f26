"""Single values that Mistral refuses where OpenAI takes them: nulls, numbers out of range, words of a closed list."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from mistral_filter.changes import Change, Loss
from mistral_filter.fields import NEUTRAL, WITHOUT_EFFECT, Value
from mistral_filter.rawjson import NULL, Node, as_number, as_text, repeated_keys_in_items

__all__ = ["DROP", "REPEATED", "Repair", "repair_value", "report_drop", "report_repeated", "report_rest"]

DROP = object()
"""In place of a value: leave the field out."""

_NEAREST_TOP_P = 0.0001
"""top_p must be above 0 (OpenAPI 2026-08-21); what OpenAI clients mean by 0 is the smallest nucleus."""

_NEAREST: dict[tuple[str, str], tuple[str, Loss]] = {
    ("reasoning_effort", "max"): ("xhigh", "approximate"),
    ("service_tier", "default"): ("standard_only", "none"),
    ("detail", "original"): ("high", "approximate"),
}
"""(field, OpenAI's word): Mistral's nearest word. Source of both lists: the OpenAPI documents of 2026-08."""

_HAS_DEFAULT = frozenset(("service_tier", "detail"))
"""Fields whose unknown words may go, because the default is what comes nearest. Others are left for the API to explain."""


def report_drop(name: str, value: object, path: str, changes: list[Change]) -> None:
    """Notes that the field *name* with this *value* is left out, and what that loses."""
    loss: Loss = "none"
    if value == NULL:
        reason = "Mistral does not know the field, and null says nothing"
    elif name in WITHOUT_EFFECT:
        reason = f"Mistral does not know the field: {WITHOUT_EFFECT[name]}"
    elif isinstance(value, Raw) and len(value) <= _SHORT and _compact(value) in (b"[]", b"{}", b'""', *NEUTRAL.get(name, ())):
        reason = "Mistral does not know the field, and this value changes nothing"
    else:
        reason, loss = "Mistral does not know the field, or the list leaves it out", "lost"
    changes.append(Change("drop", path, reason, loss))


REPEATED = "the key is repeated: the last one counts"


def report_repeated(sent: object, items: list[Any], path: str, changes: list[Change]) -> set[int]:
    """Notes the keys that stand more than once in an object of the list *sent*, of which *items* are the visited ones.

    Returns the indexes of those objects: they have to be written anew.
    """
    repeated = repeated_keys_in_items(sent, items)
    for index, name in repeated:
        changes.append(Change("drop", f"{path}[{index}].{name}", REPEATED, "none"))
    return {index for index, _ in repeated}


_SHORT = 64
"""Bytes. A longer value is none that changes nothing, whatever white space is in it."""


def _compact(value: Raw) -> bytes:
    return msgspec.json.format(bytes(value), indent=-1)


def report_rest(node: Node, used: Collection[str], path: str, changes: list[Change]) -> None:
    """Notes what a translation of *node* leaves out: everything but the keys *used*."""
    for name, value in node.items():
        if name not in used:
            report_drop(name, value, f"{path}.{name}", changes)


class Repair(NamedTuple):
    """A value for a value, and what it costs."""

    value: Any
    reason: str
    loss: Loss


def repair_value(name: str, value: object, node: Value) -> Repair | None:
    """What to put (or DROP) in place of a scalar *value* of field *name* that *node* does not accept; None: leave it."""
    if node.choices:
        word = as_text(value)
        if word is None or word in node.choices:
            return None
        if (name, word) in _NEAREST:
            nearest, loss = _NEAREST[name, word]
            return Repair(nearest, "Mistral's nearest value", loss)
        return Repair(DROP, "Mistral has no such value", "approximate") if name in _HAS_DEFAULT else None
    number = as_number(value)
    if number is None:
        return None
    if node.high is None:
        # A count or a seed: below its range it says "no limit" or nothing at all.
        if (node.low is not None and number < node.low) or (node.above is not None and number <= node.above):
            return Repair(DROP, "outside Mistral's range", "none" if number == -1 else "approximate")
        return None
    if number > node.high:
        return Repair(node.high, "clamped to Mistral's range", "approximate")
    if node.above is not None and number <= node.above:
        return Repair(_NEAREST_TOP_P, "clamped to Mistral's range", "approximate")
    if node.low is not None and number < node.low:
        return Repair(node.low, "clamped to Mistral's range", "approximate")
    return None
