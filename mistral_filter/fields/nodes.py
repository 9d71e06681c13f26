"""What tables are made of: a tree of four kinds of node.

A JSON value of a kind that its node does not describe (a string where an ``Array`` stands, say) is never judged: the API explains
that better than a filter can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["KEEP", "SET", "Array", "Node", "Object", "Tagged", "Value"]


class Value(NamedTuple):
    """A value whose inside is not judged; what is known of it otherwise."""

    null: bool = True
    """Whether null is accepted."""
    low: float | None = None
    """The smallest number accepted."""
    above: float | None = None
    """Every accepted number is greater than this."""
    high: float | None = None
    """The greatest number accepted."""
    choices: tuple[str, ...] = ()
    """The strings accepted, where the API has a closed list."""


class Object(NamedTuple):
    """An object that refuses keys which ``fields`` does not list."""

    fields: Mapping[str, Node]
    required: tuple[str, ...] = ()
    null: bool = True
    choices: tuple[str, ...] = ()
    """The strings accepted in place of the object."""


class Array(NamedTuple):
    """A list whose items are all judged by one node."""

    items: Node
    null: bool = True


class Tagged(NamedTuple):
    """An object of one of several kinds, told apart by the string under the key ``by``."""

    by: str
    variants: Mapping[str, Object]
    default: str = ""
    """The kind of an object without that key; "": none."""


Node = Value | Object | Array | Tagged

KEEP = Value()
"""Anything is accepted here."""
SET = Value(null=False)
"""Anything but null is accepted here."""
