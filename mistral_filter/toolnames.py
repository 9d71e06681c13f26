"""Names of tools that Mistral refuses: legal ones on the way up, the client's own again on the way down.

A legal name is made from the client's name alone (``calendar.respondToEvent``: ``calendar_respondToEvent_HASH``), so it is the
same from turn to turn whatever else a request holds, and Mistral's prompt cache stays useful. Both directions work on chat
completions and on Responses, whose tools, calls and events have the name under the same key.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping

from msgspec import Raw

from mistral_filter.fields import FUNCTION_NAME
from mistral_filter.parts import Array, Object

__all__ = ["LONGEST", "MOST", "ToolNames", "restore_tool_names"]

MOST = 500
"""How many names of one request are replaced. OpenAI takes 128 tools; a conversation may name some that are gone."""

LONGEST = 500
"""Characters. A longer name is left for the API to refuse: the names are held until the answer ends."""

_LEGAL = re.compile(FUNCTION_NAME)
_LEGAL_JSON = re.compile(b'"' + FUNCTION_NAME.encode() + b'"')
_ILLEGAL = re.compile("[^a-zA-Z0-9_-]+")
_HASH = 8
_STEM = 64 - 1 - _HASH

_REASON = "Mistral refuses the name: a legal one is sent, and the answer has the client's own again"

_NAMED = re.compile(rb'(?<!\\)("(?:name|namespace)"[ \t\r\n]*:[ \t\r\n]*)"(' + FUNCTION_NAME.encode() + rb')"')
"""A name in an answer. Within a JSON string every quotation mark has a backslash before it, so no text is taken for one."""


class ToolNames:
    """The names of tools in one request that were replaced, and by what."""

    __slots__ = ("_legal", "_taken")

    def __init__(self) -> None:
        self._legal: dict[str, str] = {}
        self._taken: set[str] = set()

    def sent(self) -> dict[str, str]:
        """What each replaced name was: the name as it was sent, and the client's own."""
        return {legal: name for name, legal in self._legal.items()}

    def tools(self, body: Object) -> None:
        """Replaces the names in ``tools``, nested or flat or in a namespace, and in ``tool_choice``.

        It comes before any other name, so that what is made here is never the name of another tool.
        """
        given = body.array("tools")
        if given is not None:
            refused = [part for part in _named(given) if not _is_legal(part)]
            self._taken |= {part.text("name") or "" for part in _named(given) if _is_legal(part)}
            for part in refused:
                self.fit(part)
        choice = body.object("tool_choice")
        if choice is not None:
            self.fit(choice.object("function") or choice)

    def fit(self, part: Object, key: str = "name") -> None:
        """Replaces the name under *key* if Mistral refuses it. An empty one, or what is no string, is left for the API to
        explain, and so are names beyond MOST and LONGEST."""
        if key not in part.fields or _is_legal(part, key):
            return
        name = part.text(key)
        if name and (legal := self._legal_for(name)) is not None:
            part.set(key, legal, _REASON)

    def _legal_for(self, name: str) -> str | None:
        if name not in self._legal:
            if len(name) > LONGEST or len(self._legal) >= MOST:
                return None
            attempt = 0
            while (legal := _made(name, attempt)) in self._taken:
                attempt += 1
            self._legal[name] = legal
            self._taken.add(legal)
        return self._legal[name]


def restore_tool_names(answer: bytes, names: Mapping[str, str]) -> bytes:
    """*answer*, the JSON of a whole answer or the data of one event, with the client's own names of its tools.

    *names* is ``Facts.tool_names`` of the request. Every other byte stays; without such a name *answer* itself comes back.
    """

    def own(match: re.Match[bytes]) -> bytes:
        name = names.get(match[2].decode())
        return match[0] if name is None else match[1] + json.dumps(name).encode()

    return _NAMED.sub(own, answer) if names else answer


def _named(tools: Array, *, inner: bool = False) -> Iterator[Object]:
    """The objects that hold the names of *tools*, and of those in a namespace among them."""
    for tool in tools.objects():
        function, nested = tool.object("function"), None if inner else tool.array("tools")
        if function is not None:
            yield function
        if function is None or nested is not None:  # a namespace has a name of its own, whatever else is in it
            yield tool
        if nested is not None:
            yield from _named(nested, inner=True)


def _is_legal(part: Object, key: str = "name") -> bool:
    """Whether a legal name, or none, is under *key*; most are seen to be without being decoded."""
    value = part.fields.get(key)
    if isinstance(value, Raw) and _LEGAL_JSON.fullmatch(value):
        return True
    name = part.text(key)
    return name is None or _LEGAL.fullmatch(name) is not None


def _made(name: str, attempt: int) -> str:
    """A legal name for *name*: what can be read of it, and a hash of all of it. Accents go, other characters become ``_``."""
    letters = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    stem = _ILLEGAL.sub("_", letters).strip("_")[:_STEM] or "tool"
    hashed = f"{name}\0{attempt}" if attempt else name
    return f"{stem}_{hashlib.sha256(hashed.encode('utf-8', 'surrogatepass')).hexdigest()[:_HASH]}"
