"""Mistral's error bodies, read once: what they say, and which fields of the request they name.

The shapes, as recorded or quoted in public issues from 2024-01 to 2026-08:

- 422 ``{"object":"error","message":{"detail":[…]},"type":"invalid_request_error",…}``, ``{"detail":[…]}``,
  ``{"object":"Error","detail":[…],"message":[…],"code":3001}``, and with the detail as JSON text in a string
- 400, 429 ``{"object":"error","message":"…","type":"…","param":null,"code":"…"}``
- 401, 404 ``{"detail":"Unauthorized"}``, ``{"message":"Unauthorized","request_id":"…"}``

An item of a ``detail`` is an error record of pydantic: ``{"type":"extra_forbidden","loc":["body","user"],"msg":"…"}``. Its
``loc`` is a path in the request with labels between the keys and indices: a message's role, the type of a chunk or tool, the
branch of a union.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from mistral_filter.rawjson import as_array, as_object, as_text, first_byte
from mistral_filter.surrogates import Surrogates

__all__ = ["Loc", "Violation", "extra_fields", "path_of", "read", "said", "word"]

Loc = tuple[int | str, ...]

_MAX_DEPTH = 4
"""Objects inside objects in which a message is looked for."""

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_value = msgspec.json.Decoder(msgspec.Raw).decode
_location = msgspec.json.Decoder(list[int | str]).decode


class Violation(NamedTuple):
    """What Mistral's validator says of one place in the request."""

    loc: Loc
    """The path with labels, ``("body", "messages", 2, "assistant", "name")``; empty where none can be read."""
    kind: str | None
    """pydantic's name for the fault: ``extra_forbidden``, ``missing``, …"""
    message: str | None
    """A sentence in English; None where there is none."""

    @property
    def path(self) -> str:
        """The place without labels, ``messages[2].name``; ``""`` is the whole body."""
        return path_of(self.loc)

    @property
    def quoted_path(self) -> str:
        """The place with roles and types, as Mistral's documentation writes it: ``messages[2].assistant.name``."""
        return _path(self.loc, tags=True)


def read(body: bytes) -> tuple[Violation, ...]:
    """The violations in the *body* of an error: the first list that names a place; none if there is none or it cannot be read."""
    try:
        try:
            value = _value(body)
        except msgspec.DecodeError:
            value = _value(Surrogates(body).body)  # the record's ``input`` repeats what the caller sent
        lists = (found for found in said(value) if isinstance(found, tuple))
        return next((found for found in lists if any(violation.loc for violation in found)), ())
    except _UNREADABLE:
        return ()


def said(value: object, depth: int = _MAX_DEPTH) -> Iterator[str | tuple[Violation, ...]]:
    """The texts and the lists of violations in *value*, the most telling first.

    *value* is a message, a detail or an object that holds one, visited or ``msgspec.Raw`` (see ``rawjson``). A list counts if one
    of its items has a message. Raises msgspec.DecodeError, UnicodeDecodeError or RecursionError for what is not JSON.
    """
    if depth == 0:
        return
    if text := as_text(value):
        yield from _said_in(text, depth)
        yield text
    elif (node := as_object(value)) is not None:
        for key in ("message", "detail", "msg", "error"):
            if key in node:
                yield from said(node[key], depth - 1)
    elif items := as_array(value):
        violations = tuple(_violation(item) for item in items)
        if any(violation.message is not None for violation in violations):
            yield violations


def _said_in(text: str, depth: int) -> Iterator[str | tuple[Violation, ...]]:
    """The same for an object that is quoted as JSON in *text*."""
    if text.startswith("{"):
        with suppress(*_UNREADABLE):
            yield from tuple(said(_value(text), depth - 1))


def _violation(item: object) -> Violation:
    node = as_object(item) or {}
    try:
        loc = tuple(_location(node.get("loc", b"[]")))
    except msgspec.ValidationError:
        loc = ()
    return Violation(loc, word(node.get("type")), as_text(node.get("msg")) or as_text(item) or None)


def word(value: object) -> str | None:
    """*value* as a string; numbers too, since codes come as both. None: it is empty, missing or something else."""
    if isinstance(value, msgspec.Raw) and first_byte(value) in b"-0123456789":
        return bytes(value).decode()
    return as_text(value) or None


# -------------------------------------------------------------------------------------------------------------- extra fields

_OTHER_BRANCH = ("string_type", "literal_error", "enum")
"""What the validator says of a union's branch for plain strings when an object or a list was sent (recorded 2025:
``…, "content", "str"``; for ``tool_choice`` the branch is a list of words)."""

_BRANCH = re.compile(r"str|enum|[A-Z]\w*|\w+\[.*\]", re.DOTALL)
"""The name of a union's branch; a field's name does not look like that."""

_LONGEST_LOC = 64
"""Parts. A real one has a dozen."""


def extra_fields(violations: Sequence[Violation]) -> tuple[Loc, ...]:
    """The places of the extra fields if nothing else is wrong with the request; else none, since removing them would not help.

    Where a value may be a string or something else, the validator also reports that it is no string. That is not counted beside
    an extra field in another branch of the same union.
    """
    extra: list[Loc] = []
    others: list[Loc] = []
    for loc, kind, _ in violations:
        if not 2 <= len(loc) <= _LONGEST_LOC:
            return ()
        if kind == "extra_forbidden":
            extra.append(loc)
        elif kind in _OTHER_BRANCH and _BRANCH.fullmatch(str(loc[-1])):
            others.append(loc)
        else:
            return ()
    branches: dict[Loc, set[int | str]] = {}
    for loc in extra if others else ():
        for end in range(1, len(loc) - 1):
            branches.setdefault(loc[:end], set()).add(loc[end])
    return tuple(extra) if all(branches.get(loc[:-1], set()) - {loc[-1]} for loc in others) else ()


# --------------------------------------------------------------------------------------------------------------------- paths

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_CHUNKS = frozenset(
    {"text", "thinking", "image_url", "document_url", "reference", "tool_reference", "file", "input_audio"}
    | {"resource", "resource_link"}
)
_TOOLS = frozenset(
    {"function", "web_search", "web_search_premium", "code_interpreter", "image_generation", "document_library", "connector"}
)

_NONE: frozenset[str] = frozenset()

_TAGS = {"messages": _ROLES, "input": _ROLES, "inputs": _ROLES, "content": _CHUNKS, "thinking": _CHUNKS, "tools": _TOOLS}
"""list: the words that pydantic puts behind an index in it, to say which variant of a tagged union was judged.

Roles: recorded answers, 2024-04 to 2026-03. Chunk and tool types: the SDK ``mistralai`` 3.7.0 and the OpenAPI document of
2026-08-21; both are unions today."""

_LABEL = re.compile(
    r"(?:list|set|tuple|dict|union|tagged-union|nullable|literal|lax-or-strict|json-or-python|constrained-\w+"
    r"|function-(?:after|before|wrap|plain))\[.*\]",
    re.DOTALL,
)
"""pydantic 2's name for a branch of a union: its core schema's type, with the inner types in brackets."""

_SHORT_LABEL = re.compile(r"str|constrained-str|int|float|bool|[A-Z]\w*")
"""The same for scalars and model classes; a field's name too, so it counts only where there is a union."""

_UNIONS = frozenset({"content", "image_url", "tool_choice", "stop", "input", "inputs", "arguments", "document", "prediction"})


def path_of(loc: Iterable[object]) -> str:
    """The place in the request that *loc* names: ``("body", "messages", 2, "assistant", "name")`` is ``messages[2].name``.

    Without the labels of unions, the role behind a message's index and the type behind a chunk's or a tool's. ``""`` is the
    whole body. This rule knows *loc* alone; ``learning`` finds the field itself in a body.
    """
    return _path([part if isinstance(part, int) else str(part) for part in loc], tags=False)


def _path(loc: Sequence[int | str], *, tags: bool) -> str:
    """*loc* in the notation of JavaScript; *tags*: with those of tagged unions."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in _parts(loc, tags)).removeprefix(".")


def _parts(loc: Sequence[int | str], tags: bool) -> Iterator[int | str]:
    before: int | str = ""
    name = ""  # of the list that an index belongs to
    for i, part in enumerate(loc):
        variants = _TAGS.get(name, _NONE) if isinstance(before, int) else _NONE
        if isinstance(part, int):
            yield part
        elif i == 0 and part == "body":
            pass
        elif _LABEL.fullmatch(part) or ((variants or before in _UNIONS) and _SHORT_LABEL.fullmatch(part)):
            pass  # an index behind it still belongs to the list before it
        elif part in variants and (variants is _ROLES or i + 1 < len(loc)):  # at the end "text", "function" are fields
            if tags:
                yield part
        else:
            name = part
            yield part
        before = part
