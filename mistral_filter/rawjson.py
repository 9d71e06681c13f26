"""JSON values that nobody has read yet: ``msgspec.Raw``, the bytes of one value, and how to look at one.

A node is a ``dict`` or ``list`` whose values are Raw (unread) or plain Python values (read, or new). Encoding a node writes
the Raw values back byte for byte: numbers, escapes and key order survive.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

__all__ = ["NULL", "Node", "as_array", "as_number", "as_object", "as_text", "encode", "first_byte"]

Node = dict[str, Any]

NULL = Raw(b"null")

_object = msgspec.json.Decoder(dict[str, Raw]).decode
_array = msgspec.json.Decoder(list[Raw]).decode
_string = msgspec.json.Decoder(str).decode
_number = msgspec.json.Decoder(int | float).decode
encode = msgspec.json.Encoder().encode


def first_byte(value: object) -> int:
    """The first byte of an unread value, which tells its kind; 0 for any other."""
    return memoryview(value)[0] if isinstance(value, Raw) else 0


def as_object(value: object) -> Node | None:
    """*value* as an object whose values are unread; None: it is something else."""
    if isinstance(value, Raw):
        return _object(value) if first_byte(value) == 0x7B else None
    return value if isinstance(value, dict) else None


def as_array(value: object) -> list[Any] | None:
    """*value* as a list whose items are unread; None: it is something else."""
    if isinstance(value, Raw):
        return _array(value) if first_byte(value) == 0x5B else None
    return value if isinstance(value, list) else None


def as_text(value: object) -> str | None:
    """*value* as a string; None: it is something else."""
    if isinstance(value, Raw):
        return _string(value) if memoryview(value)[0] == 0x22 else None
    return value if isinstance(value, str) else None


def as_number(value: object) -> int | float | None:
    """*value* as a number; None: it is something else."""
    if isinstance(value, Raw):
        try:
            number: int | float = _number(value)
            return number
        except msgspec.ValidationError:
            # a number beyond every float: infinite is near enough to compare
            return float(bytes(value)) if first_byte(value) in b"-0123456789" else None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
