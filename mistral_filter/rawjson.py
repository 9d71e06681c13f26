"""JSON of which only the visited levels are decoded; every other value stays the bytes it came in.

A node is a ``dict`` or ``list`` whose values are ``msgspec.Raw`` (not visited) or plain Python values (visited, or new).
Encoding a node writes the Raw values back byte for byte: numbers, escapes and key order of what nobody touched survive.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Collection
from typing import Any, Literal

import msgspec

from mistral_filter.errors import MAX_DEPTH, BadRequest, InvalidJSON, TooDeep
from mistral_filter.surrogates import Surrogates

__all__ = [
    "NULL",
    "Node",
    "as_array",
    "as_number",
    "as_object",
    "as_objects",
    "as_text",
    "check_depth",
    "encode",
    "first_byte",
    "may_be_deep",
    "parse",
    "parse_with_surrogates",
    "plain_talk",
    "repeated_keys",
    "repeated_keys_in_items",
    "with_sent_bytes",
]

Node = dict[str, Any]

NULL = msgspec.Raw(b"null")

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_whole = msgspec.json.Decoder(msgspec.Raw).decode
_string = msgspec.json.Decoder(str).decode
_number = msgspec.json.Decoder(int | float).decode
encode = msgspec.json.Encoder().encode


def parse(body: bytes) -> Node:
    """The top level of a request *body*.

    Raises InvalidJSON (what JSON.parse refuses), TooDeep, or BadRequest for JSON that is not an object.
    """
    _check_utf8(body)
    try:
        return _object(body)
    except RecursionError:
        raise TooDeep from None
    except msgspec.ValidationError:
        check_depth(body)
        try:
            _whole(body)  # it was not read to its end
        except msgspec.DecodeError as error:
            raise _malformed(error) from None
        raise BadRequest('The body must be a JSON object, such as {"model": …, "messages": […]}.', code="not_an_object") from None
    except msgspec.DecodeError as error:
        check_depth(body)
        raise _malformed(error) from None


def _malformed(error: msgspec.DecodeError) -> InvalidJSON:
    # msgspec tells which byte and what was expected there, never the text of the body
    return InvalidJSON(f"Invalid JSON: {str(error).removeprefix('JSON is malformed: ')}.")


def parse_with_surrogates(body: bytes) -> tuple[Node, Surrogates | None]:
    """The same for a body that may hold half an emoji; what hides it there has to restore it in whatever is encoded."""
    try:
        return parse(body), None
    except InvalidJSON:
        hidden = Surrogates(body) if b"\\u" in body else None
        if hidden is None or not hidden.found:
            raise
        return parse(hidden.body), hidden


_UTF8_STEP = 16384
"""Bytes. Decoding in pieces that stay in the processor's cache takes half the time of decoding all at once."""


def _check_utf8(body: bytes) -> None:
    if body.isascii():
        return
    view, start, end = memoryview(body), 0, len(body)
    try:
        while start < end:
            stop = min(start + _UTF8_STEP, end)
            start += codecs.utf_8_decode(view[start:stop], "strict", stop == end)[1]
    except UnicodeDecodeError:
        raise InvalidJSON("Invalid JSON: the body is not UTF-8.") from None


# A string (closed or not), or anything else that is not a bracket.
_NOT_BRACKETS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[^"\[\]{}]+', re.DOTALL)


def may_be_deep(data: bytes) -> bool:
    """Whether *data* has more brackets than MAX_DEPTH. Quick: most bodies have not, and most of their bytes are text."""
    count = 0
    for bracket in (b"[", b"{"):
        at = data.find(bracket)
        while at >= 0:
            count += 1
            if count > MAX_DEPTH:
                return True
            at = data.find(bracket, at + 1)
    return False


def check_depth(value: bytes | msgspec.Raw) -> None:
    """Raises TooDeep when *value*, which need not be valid JSON, nests deeper than MAX_DEPTH."""
    data = bytes(value)
    if not may_be_deep(data):
        return
    brackets = _NOT_BRACKETS.sub(b"", data)
    for _ in range(MAX_DEPTH):
        outer = brackets.replace(b"[]", b"").replace(b"{}", b"")  # the innermost level is gone
        if outer == brackets:
            break
        brackets = outer
    else:
        if brackets:
            raise TooDeep
    if brackets.count(b"[") + brackets.count(b"{") > MAX_DEPTH:
        raise TooDeep


# ------------------------------------------------------------------------------------------------------- looking at a value


def first_byte(value: object) -> int:
    """The first byte of an unvisited value, which tells its kind; 0 for a visited one."""
    return memoryview(value)[0] if isinstance(value, msgspec.Raw) else 0


def as_object(value: object) -> Node | None:
    """*value* as an object whose values are not visited; None: it is something else."""
    if isinstance(value, msgspec.Raw):
        return _object(value) if first_byte(value) == 0x7B else None
    return value if isinstance(value, dict) else None


def as_array(value: object) -> list[Any] | None:
    """*value* as a list whose items are not visited; None: it is something else."""
    if isinstance(value, msgspec.Raw):
        return _array(value) if first_byte(value) == 0x5B else None
    return value if isinstance(value, list) else None


def as_objects(value: object) -> list[Any] | None:
    """*value* as a list whose items are visited where they are objects; None: it is something else."""
    if isinstance(value, msgspec.Raw) and first_byte(value) == 0x5B:
        try:
            return _objects(value)
        except msgspec.ValidationError:
            pass
    items = as_array(value)
    return None if items is None else [item if (node := as_object(item)) is None else node for item in items]


def with_sent_bytes(items: list[Any], sent: object, touched: Collection[int]) -> list[Any]:
    """The visited *items* of the list *sent*; those whose index is not in *touched* in the bytes that they came in."""
    originals = as_array(sent) or []
    return [item if index in touched else originals[index] for index, item in enumerate(items)]


def as_text(value: object) -> str | None:
    """*value* as a string; None: it is something else."""
    if isinstance(value, msgspec.Raw):
        return _string(value) if first_byte(value) == 0x22 else None
    return value if isinstance(value, str) else None


def as_number(value: object) -> int | float | None:
    """*value* as a number; None: it is something else."""
    if isinstance(value, msgspec.Raw):
        if first_byte(value) not in b"-0123456789":
            return None
        try:
            number: int | float = _number(value)
            return number
        except msgspec.ValidationError:  # beyond every float: infinite is near enough to compare
            return float(bytes(value))
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


# ------------------------------------------------------------------------------------------------------------ conversations


class _Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A message that is a role and a text and nothing else."""

    role: Literal["system", "user", "assistant"]
    content: msgspec.Raw


_talk = msgspec.json.Decoder(list[_Plain]).decode


def plain_talk(value: object) -> bool:
    """Whether *value* is a conversation as nearly all begin: roles and texts in an order that every API takes, a user's last.

    It costs a third of looking at the messages one by one. False may mean anything.
    """
    if not isinstance(value, msgspec.Raw):
        return False
    try:
        messages = _talk(value)
    except msgspec.ValidationError:
        return False
    before = ""
    for message in messages:
        content, role = message.content, message.role
        if memoryview(content)[0] != 0x22 or len(content) < 3 or (role == "system" and before == "assistant"):
            return False
        before = role
    # without white space, or with Python's: else there may be repeated keys
    compact, count = len(encode(messages)), len(messages)
    return before == "user" and _is_long(value, compact, (count - 1) + 3 * count)


# ------------------------------------------------------------------------------------------------------------ repeated keys


def repeated_keys(sent: bytes | msgspec.Raw, node: Node) -> list[str]:
    """The keys that stand more than once in an object *sent*, of which *node*, not edited yet, holds the last of each.

    The length settles it where there is no white space, or one space behind every colon and comma, as Python writes it; else
    white space is taken out first. Only an escape in a key needs the slow look.
    """
    compact = 1 + sum(map(len, node.values())) + sum(map(len, node)) + 4 * len(node)  # "key":value, and one brace more
    if _is_long(sent, compact, _spaces(node)) or not node or _same_without_space(sent, node):
        return []
    pairs = json.JSONDecoder(object_pairs_hook=_Pairs, parse_int=str, parse_float=str).decode(bytes(sent).decode())
    return [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]


def repeated_keys_in_items(sent: object, items: list[Any]) -> list[tuple[int, str]]:
    """The same for the objects of a list *sent*, of which *items* are the visited ones: index and key."""
    if not isinstance(sent, msgspec.Raw):
        return []
    compact = len(encode(items))
    spaces = len(items) - 1 + sum(_spaces(item) for item in items if isinstance(item, dict))
    if _is_long(sent, compact, spaces) or _same_without_space(sent, items):
        return []
    originals = as_array(sent) or []
    return [
        (index, name)
        for index, item in enumerate(items)
        if isinstance(item, dict)
        for name in repeated_keys(originals[index], item)
    ]


def _is_long(sent: bytes | msgspec.Raw, compact: int, spaces: int) -> bool:
    """Whether *sent* is as long as it is without white space, or, if it begins as Python writes, with that many *spaces*."""
    return len(sent) == compact or (len(sent) == compact + spaces and _PYTHON.match(memoryview(sent)) is not None)


_PYTHON = re.compile(rb'\[?\{"[^"\\]*": ')


def _spaces(node: Node) -> int:
    """How many spaces Python puts into an object."""
    return 2 * len(node) - 1 if node else 0


def _same_without_space(sent: bytes | msgspec.Raw, node: Any) -> bool:
    return len(msgspec.json.format(bytes(sent), indent=-1)) == len(msgspec.json.format(encode(node), indent=-1))


class _Pairs(list[tuple[str, Any]]):
    """An object with every key it was sent with."""
