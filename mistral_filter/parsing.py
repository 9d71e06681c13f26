"""Bytes as the top level of a JSON object: what JSON.parse takes is taken, and what it refuses is refused.

Also how deep a value nests and how many members it has, both without reading it into Python values: one pass over its
strings and brackets, which ends as soon as the answer is known.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

import msgspec
from msgspec import Raw

from mistral_filter.errors import MAX_DEPTH, BadRequest, InvalidJSON, TooComplex, TooDeep
from mistral_filter.rawjson import Node
from mistral_filter.surrogates import Surrogates

__all__ = [
    "Survey",
    "check_depth",
    "is_utf8",
    "may_be_deep",
    "may_have_more_commas",
    "parse",
    "parse_with_surrogates",
    "survey",
    "too_deep_at",
]

_object = msgspec.json.Decoder(dict[str, Raw]).decode
_whole = msgspec.json.Decoder(Raw).decode


def parse(body: bytes) -> Node:
    """The top level of a request *body*.

    Raises InvalidJSON (what JSON.parse refuses), TooDeep, TooComplex, or BadRequest for JSON that is not an object.
    """
    if not body.isascii() and not is_utf8(body):
        raise InvalidJSON("Invalid JSON: the body is not UTF-8.")
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


_UTF8_STEP = 32768
"""Bytes. Decoding in pieces that stay in the processor's cache is as quick as decoding all at once, and holds no second copy."""


def is_utf8(data: bytes | memoryview) -> bool:
    """Whether *data* is valid UTF-8."""
    start, end = 0, len(data)
    try:
        if end <= _UTF8_STEP:
            codecs.utf_8_decode(data, "strict", True)
            return True
        view = memoryview(data)
        while start < end:
            stop = min(start + _UTF8_STEP, end)
            start += codecs.utf_8_decode(view[start:stop], "strict", stop == end)[1]
    except UnicodeDecodeError:
        return False
    return True


# ------------------------------------------------------------------------------------------------ depth, and numbers of parts

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"?'
_BRACKETS = re.compile(_STRING + rb"|([\[{]+)|([\]}]+)", re.DOTALL)
_STRUCTURE = re.compile(_STRING + rb"|(,)|([\[{]+)|([\]}]+)", re.DOTALL)

_MOST_STEPS = 250_000
"""Strings, separators and runs of brackets in one value that has to be gone through: a tenth of a second."""


def _too_complex() -> TooComplex:
    return TooComplex("The body has too many values to go through. Send fewer or smaller lists and objects.")


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


def check_depth(value: bytes | Raw) -> None:
    """Raises TooDeep when *value*, which need not be valid JSON, nests deeper than MAX_DEPTH, and TooComplex when it has too
    many brackets to tell."""
    data = bytes(value)
    if may_be_deep(data) and too_deep_at(data) is not None:
        raise TooDeep


def too_deep_at(data: bytes) -> int | None:
    """Where the first bracket below MAX_DEPTH levels stands, in bytes; None if there is none. Raises TooComplex."""
    depth = 0
    for step, match in enumerate(_BRACKETS.finditer(data)):
        if match.lastindex == 1:
            depth += match.end() - match.start()
            if depth > MAX_DEPTH:
                return match.end() - 1 - (depth - MAX_DEPTH - 1)
        elif match.lastindex == 2:
            depth -= match.end() - match.start()
        if step > _MOST_STEPS:
            raise _too_complex()
    return None


class Survey(NamedTuple):
    """What an object or a list is made of, counted without reading it."""

    members: int
    """Its own members; no more are counted once they are too many."""
    values: int
    """Commas at all levels: about as many as there are values."""
    steps: int
    """Strings, commas and runs of brackets that were gone through to count."""


def survey(value: bytes | Raw, most: int, steps: int = _MOST_STEPS) -> Survey | None:
    """Counts what the object or list *value* is made of. None: its size or its commas say that it has at most *most* values.

    Raises TooComplex when more than *steps* strings, commas and runs of brackets have to be gone through to tell.
    """
    if len(value) <= _SMALLEST * most:
        return None
    data = bytes(value)
    if not may_have_more_commas(data, most):
        return None
    depth, members, values, step = 0, 1, 0, 0
    for step, match in enumerate(_STRUCTURE.finditer(data)):
        kind = match.lastindex
        if kind == 1:
            values += 1
            if depth == 1:
                members += 1
                if members > most:
                    break
        elif kind == 2:
            depth += match.end() - match.start()
        elif kind == 3:
            depth -= match.end() - match.start()
        if step > steps:
            raise _too_complex()
    return Survey(members, values, step)


_SMALLEST = 2
"""Bytes that a member takes at least, with its comma."""


def may_have_more_commas(data: bytes, most: int) -> bool:
    """Whether *data* has more than *most* commas, in strings or not."""
    for start in range(0, len(data), _COMMA_STEP):
        piece = data[start : start + _COMMA_STEP]
        most -= len(piece) - len(piece.replace(b",", b""))  # replace() goes from comma to comma; count() looks at each byte
        if most < 0:
            return True
    return False


_COMMA_STEP = 65536
"""Bytes that are copied at a time."""
