"""Single values that Mistral refuses where OpenAI takes them, and what a field that is left out was worth."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from mistral_filter.changes import Loss
from mistral_filter.fields import NEUTRAL, WITHOUT_EFFECT, Value
from mistral_filter.parts import GONE, Object, encode
from mistral_filter.rawjson import NULL, as_number, as_text

__all__ = ["UNKNOWN", "Repair", "json_text", "note_drop", "note_rest", "reason_and_loss", "repair_value"]

UNKNOWN = "Mistral does not know the field"

_NEAREST_TOP_P = 0.0001
"""top_p must be above 0 (OpenAPI 2026-08-21); what OpenAI clients mean by 0 is the smallest nucleus."""

_NEAREST: dict[tuple[str, str], tuple[str, Loss]] = {
    ("service_tier", "default"): ("standard_only", "none"),
    ("detail", "original"): ("high", "approximate"),
}
"""(field, OpenAI's word): Mistral's nearest word. Source of both lists: the OpenAPI documents of 2026-08."""

_HAS_DEFAULT = frozenset(("service_tier", "detail", "status", "phase"))
"""Fields whose unknown words may go, because the default is what comes nearest. Others are left for the API to explain."""

_SHORT = 64
"""Bytes. A longer value is none that changes nothing, whatever white space is in it."""


_EMPTY = frozenset((b"[]", b"{}", b'""'))
_NEUTRAL = {name: _EMPTY.union(values) for name, values in NEUTRAL.items()}


def note_drop(part: Object, name: str, value: object, why: str = UNKNOWN) -> None:
    """Notes that the field *name* of *part* with this *value* is left out, *why*, and what that loses; the caller does it."""
    reason, loss = reason_and_loss(name, value, why)
    part.note("drop", part.position.below(name), reason, loss)


def reason_and_loss(name: str, value: object, why: str) -> tuple[str, Loss]:
    """Why the field *name* with this *value* is left out, and what that loses: nothing for a null, a neutral value and a field
    without effect."""
    if value == NULL:
        return f"{why}, and null says nothing", "none"
    if name in WITHOUT_EFFECT:
        return f"{why}: {WITHOUT_EFFECT[name]}", "none"
    if type(value) is Raw and len(value) <= _SHORT and _is_neutral(name, bytes(value)):
        return f"{why}, and this value changes nothing", "none"
    return why, "lost"


def _is_neutral(name: str, written: bytes) -> bool:
    if written.endswith((b"]", b"}")) and len(written.split()) > 1:  # only lists and objects have white space that says nothing
        written = msgspec.json.format(written, indent=-1)
    return written in _NEUTRAL.get(name, _EMPTY)


def note_rest(part: Object, used: Collection[str]) -> None:
    """Notes what a translation of *part* leaves out: everything but the keys *used*."""
    for name, value in part.fields.items():
        if name not in used:
            note_drop(part, name, value)


class Repair(NamedTuple):
    """A value for a value, and what it costs."""

    value: Any
    """GONE: leave the field out."""
    reason: str
    loss: Loss


def repair_value(name: str, value: object, node: Value) -> Repair | None:
    """What to put in place of a scalar *value* of field *name* that *node* does not accept; None: leave it."""
    if node.choices:
        word = as_text(value)
        if word is None or word in node.choices:
            return None
        if (name, word) in _NEAREST:
            nearest, loss = _NEAREST[name, word]
            return Repair(nearest, "Mistral's nearest value", loss)
        return Repair(GONE, "Mistral has no such value", "approximate") if name in _HAS_DEFAULT else None
    number = as_number(value)
    if number is None:
        return None
    if node.high is None:
        # A count or a seed: below its range it says "no limit" or nothing at all.
        if (node.low is not None and number < node.low) or (node.above is not None and number <= node.above):
            return Repair(GONE, "outside Mistral's range", "none" if number == -1 else "approximate")
        return None
    if number > node.high:
        return Repair(node.high, "clamped to Mistral's range", "approximate")
    if node.above is not None and number <= node.above:
        return Repair(_NEAREST_TOP_P, "clamped to Mistral's range", "approximate")
    if node.low is not None and number < node.low:
        return Repair(node.low, "clamped to Mistral's range", "approximate")
    return None


def json_text(value: Any) -> str:
    """*value* itself if it is a text, else its JSON."""
    text = as_text(value)
    return encode(value).decode() if text is None else text
