"""Mistral's error bodies, read once: what they say, and which fields of the request they name.

The shapes, as recorded or quoted in public issues from 2024-01 to 2026-08:

- 422 ``{"object":"error","message":{"detail":[…]},"type":"invalid_request_error",…}``, ``{"detail":[…]}``,
  ``{"object":"Error","detail":[…],"message":[…],"code":3001}``, and with the detail as JSON text in a string
- 400, 429 ``{"object":"error","message":"…","type":"…","param":null,"code":"…"}``
- 401, 404 ``{"detail":"Unauthorized"}``, ``{"message":"Unauthorized","request_id":"…"}``

An item of a ``detail`` is an error record of pydantic: ``{"type":"extra_forbidden","loc":["body","user"],"msg":"…"}``. Its
``loc`` is a path in the request with labels between the keys and indices: a message's role, the type of a chunk or tool, the
branch of a union.

A 400 with code 3051 says in a sentence what a model does not take; ``fields.MODEL_OPTIONS`` has the forms that were seen. It is
read as a violation of kind NOT_ENABLED at each place that asks for the option.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from mistral_filter.errors import TooComplex
from mistral_filter.fields import EFFORTS, MODEL_OPTIONS
from mistral_filter.rawjson import as_array, as_object, as_text, first_byte
from mistral_filter.surrogates import Surrogates

__all__ = ["MOST", "NOT_ENABLED", "Loc", "Violation", "curable", "path_of", "read", "said", "telling", "word"]

NOT_ENABLED = "not_enabled"
"""The kind of a violation that is the model's."""

Loc = tuple[int | str, ...]

_MAX_DEPTH = 4
"""Objects inside objects in which a message is looked for."""

MOST = 5000
"""Items of one list that are read."""

_LONGEST_LOC = 64
"""Parts. A real one has a dozen; a longer one says nothing."""

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
    values: tuple[str, ...] = ()
    """The words of EFFORTS that the model takes in this place, where the sentence names them."""

    @property
    def path(self) -> str:
        """The place without labels, ``messages[2].name``; ``""`` is the whole body."""
        return path_of(self.loc)

    @property
    def quoted_path(self) -> str:
        """The place with roles and types, as Mistral's documentation writes it: ``messages[2].assistant.name``."""
        return _path(self.loc, tags=True)


def read(body: bytes) -> tuple[Violation, ...]:
    """The violations in the *body* of an error: the first list that names a place, or what a model does not take; none if there
    is neither or the body cannot be read."""
    try:
        try:
            value = _value(body)
        except msgspec.DecodeError:
            value = _value(Surrogates(body).body)  # the record's ``input`` repeats what the caller sent
        found = tuple(said(value))
        lists = (each for each in found if isinstance(each, tuple))
        violations = next((each for each in lists if any(violation.loc for violation in each)), ())
        if not violations and _code(value) == _INVALID_ARGUMENTS:
            violations = _not_enabled(next((each for each in found if isinstance(each, str)), ""))
        return violations
    except (*_UNREADABLE, TooComplex):  # the last: of too many lone surrogates
        return ()


_INVALID_ARGUMENTS = "3051"
"""Mistral's code for arguments that do not suit the model; it comes as a string and as a number, also for prompts that are too
long."""


def _code(value: object) -> str | None:
    node = as_object(value) or {}
    return word(node.get("code")) or word((as_object(node.get("error")) or {}).get("code"))


_LONGEST_SENTENCE = 1000
"""Characters of a sentence that are looked at."""
_MOST_WORDS = 4
"""Words in which an option may be named."""
_IS_NOT = re.compile(r"\b(?:is|are)(?: not|n't) (?:enabled|supported|available|allowed)\b")
_DOES_NOT = re.compile(r"\b(?:does|do)(?: not|n't) (?:support|accept|allow)\b")
_VALUES = re.compile(r"\b(?:values?\b|one of\b)(.*)", re.DOTALL)
_WORD = re.compile(r"[a-z][a-z0-9_]*")
_FILLERS = frozenset({"the", "a", "parameter", "field", "option", "argument", "value", "of", "for", *EFFORTS})
"""Words before the option's name that say nothing."""


def _not_enabled(sentence: str) -> tuple[Violation, ...]:
    """What *sentence* says that a model does not take, at each place that may ask for it; none if it says something else."""
    text = sentence[:_LONGEST_SENTENCE].lower()
    if (match := _IS_NOT.search(text)) is not None:
        named, rest = text[: match.start()], text[match.end() :]
    elif (match := _DOES_NOT.search(text)) is not None:
        named = rest = text[match.end() :]
    else:
        return ()
    words = [word for word in _WORD.findall(named) if word not in _FILLERS][:_MOST_WORDS]
    phrases = ("_".join(words[:end]) for end in range(len(words), 0, -1))
    option = next((phrase for phrase in phrases if phrase in MODEL_OPTIONS), None)
    if option is None:
        return ()
    listed = _VALUES.search(rest)
    efforts = dict.fromkeys(effort for effort in _WORD.findall(listed[1]) if effort in EFFORTS) if listed is not None else {}
    return tuple(
        Violation(("body", *place), NOT_ENABLED, sentence, tuple(efforts) if place[-1].endswith("effort") else ())
        for place in MODEL_OPTIONS[option]
    )


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
        violations = tuple(_violation(item) for item in items[:MOST])
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
    if len(loc) > _LONGEST_LOC:
        loc = ()
    return Violation(loc, word(node.get("type")), as_text(node.get("msg")) or as_text(item) or None)


def word(value: object) -> str | None:
    """*value* as a string; numbers too, since codes come as both. None: it is empty, missing or something else."""
    if isinstance(value, msgspec.Raw) and first_byte(value) in b"-0123456789":
        return bytes(value).decode()
    return as_text(value) or None


# ------------------------------------------------------------------------------------------------------------------- unions

_LABEL = re.compile(
    r"(?:list|set|tuple|dict|union|tagged-union|nullable|literal|lax-or-strict|json-or-python|constrained-\w+"
    r"|function-(?:after|before|wrap|plain))\[.*\]",
    re.DOTALL,
)
"""pydantic 2's name for a branch of a union: its core schema's type, with the inner types in brackets."""

_SHORT_LABEL = re.compile(r"str|constrained-str|int|float|bool|[A-Z]\w*")
"""The same for scalars and model classes; a field's name too, so it counts only where there is a union."""

_BRANCH = re.compile(rf"enum|\w+\[.*\]|{_SHORT_LABEL.pattern}|{_LABEL.pattern}", re.DOTALL)
"""What may be the name of a branch. A field of Mistral's does not look like that."""


def telling(violations: Sequence[Violation]) -> tuple[Violation, ...]:
    """*violations* without those in other branches of a union of which one branch has extra fields and no other fault.

    Where a value may be of several kinds, the validator reports what is wrong with it as each of them (recorded 2025: for a list
    as ``content`` also that it is no string). The kind that was meant is the one that only has too much in it.
    """
    branches: dict[Loc, dict[int | str, bool]] = {}  # where, branch: whether all that is wrong there is extra
    for loc, kind, *_ in violations:
        for end in _branch_ends(loc):
            faults = branches.setdefault(loc[:end], {})
            faults[loc[end]] = faults.get(loc[end], True) and kind == "extra_forbidden"
    unions = {loc: faults for loc, faults in branches.items() if len(faults) > 1 and any(faults.values())}
    if not unions:
        return tuple(violations)

    def is_meant(loc: Loc) -> bool:
        return all(unions[loc[:end]][loc[end]] for end in _branch_ends(loc) if loc[:end] in unions)

    return tuple(violation for violation in violations if is_meant(violation.loc))


def _branch_ends(loc: Loc) -> list[int]:
    """The positions in *loc* at which the name of a branch may stand."""
    return [end for end in range(1, len(loc)) if isinstance(part := loc[end], str) and _BRANCH.fullmatch(part)]


def curable(violations: Sequence[Violation]) -> tuple[Violation, ...]:
    """Those of *violations* whose fields may go, or get another value, if nothing else is wrong with the request; else none,
    since that would not help."""
    found = telling(violations)
    kinds = ("extra_forbidden", NOT_ENABLED)
    return found if all(kind in kinds and len(loc) >= 2 for loc, kind, *_ in found) else ()


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

_UNIONS = frozenset({"content", "image_url", "tool_choice", "stop", "input", "inputs", "arguments", "document", "prediction"})


_MODEL_CLASS = re.compile(r"(?:[A-Z][a-z0-9]*){2,}")
"""The name of a class of pydantic's, of two words or more; no field of the API's is written so."""


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
        elif i == 1 and before == "body" and i + 1 < len(loc) and _MODEL_CLASS.fullmatch(part):
            pass  # the whole body is one of several kinds: ["body", "EmbeddingRequest", "user"]
        elif _LABEL.fullmatch(part) or ((variants or before in _UNIONS) and _SHORT_LABEL.fullmatch(part)):
            pass  # an index behind it still belongs to the list before it
        elif part in variants and (variants is _ROLES or i + 1 < len(loc)):  # at the end "text", "function" are fields
            if tags:
                yield part
        else:
            name = part
            yield part
        before = part
