"""Learning from a refusal: which fields Mistral's 422 names, and the request without them.

A violation's ``loc`` is the path of Mistral's own validator (pydantic): ``["body", "messages", 2, "assistant", "name"]``. Between
the keys and indices of the body it holds labels: a message's role, a chunk's or tool's type, the branch of a union.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from mistral_filter.changes import Change
from mistral_filter.fields import ENDPOINTS, Array, Node, Object, Tagged
from mistral_filter.parsing import parse_with_surrogates
from mistral_filter.rawjson import as_array, as_object, as_text, encode
from mistral_filter.surrogates import Surrogates

__all__ = ["Learned", "forbidden", "without"]

_KEPT = re.compile(r"model|messages|messages\[\d+\](\.role|\.content)?")
"""What is never dropped, whatever a refusal says: without it the request is another one, or none."""

_REASON = "Mistral refused the field (422 extra_forbidden)"

_SIMPLE_KEY = re.compile(r"[\w-]+")
_SIMPLE_PATH = re.compile(r"[\w-]+(\[\d+\]|\.[\w-]+)*")

_OTHER_BRANCH = ("string_type", "literal_error", "enum")
"""What the validator says of a union's branch for plain strings when an object or a list was sent (recorded 2025:
``…, "content", "str"``; for ``tool_choice`` the branch is a list of words)."""

_BRANCH = re.compile(r"str|enum|[A-Z]\w*|\w+\[.*\]")
"""How a branch of a union is called; a field's name does not look like that."""

_LONGEST_LOC = 64
"""Parts. A real one has a dozen."""

_MOST_STEPS = 500
"""To find one place."""

Loc = list[Any]


def forbidden(answer: bytes) -> list[Loc]:
    """The places that a 422's body names, when extra fields are all that is wrong; else none.

    Both shapes are read (recorded 2025 and 2026): ``{"detail": […]}`` and ``{"message": {"detail": […]}, …}``. Where a value
    may be a string or something else, the validator also reports that it is no string: that says nothing new.
    """
    try:
        root = msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    if not isinstance(root, dict):
        return []
    message = root.get("message")
    detail = root.get("detail", message.get("detail") if isinstance(message, dict) else None)
    if not isinstance(detail, list):
        return []
    locs: list[Loc] = []
    others: list[Loc] = []
    for item in detail:
        loc = item.get("loc") if isinstance(item, dict) else None
        if not isinstance(loc, list) or not 2 <= len(loc) <= _LONGEST_LOC:
            return []
        if not all(isinstance(part, (str, int)) for part in loc):
            return []
        if item.get("type") == "extra_forbidden":
            locs.append(loc)
        elif item.get("type") in _OTHER_BRANCH and _BRANCH.fullmatch(str(loc[-1])):
            others.append(loc)
        else:
            return []
    branches: dict[tuple[Any, ...], set[Any]] = {}
    for extra in locs:
        for end in range(1, len(extra) - 1):
            branches.setdefault(tuple(extra[:end]), set()).add(extra[end])
    if all(branches.get(tuple(loc[:-1]), set()) - {loc[-1]} for loc in others):
        return locs
    return []


def without(body: bytes, locs: Iterable[Loc], endpoint: str = "chat") -> tuple[bytes, list[Change]]:
    """*body*, of a request to *endpoint*, without exactly the fields that *locs* name, and the changes.

    No change at all if one of them may not go: what the API requires stays, whatever a refusal says.
    """
    root, hidden = parse_with_surrogates(body)
    found: dict[str, tuple[Any, str]] = {}
    for loc in locs:
        field = _find(root, loc[1:] if loc[:1] == ["body"] else loc, "", ENDPOINTS[endpoint], [_MOST_STEPS])
        if field is None or _KEPT.fullmatch(field[0]):
            return body, []
        found[field[0]] = field[1:]
    for node, key in found.values():
        del node[key]
    changes = [Change("drop", path, _REASON, "lost") for path in found]
    return (_encoded(root, hidden), changes) if changes else (body, [])


def _encoded(root: Any, hidden: Surrogates | None) -> bytes:
    return encode(root) if hidden is None else hidden.restore(encode(root))


def _find(node: Any, loc: Loc, path: str, known: Node | None, steps: list[int]) -> tuple[str, Any, str] | None:
    """The field at *loc* below the visited *node*: its path, the object that holds it, and its key there.

    *known* is what the tables say of the node, *steps* how many are left for all ways to read *loc* together. A string in *loc*
    may be a label or a key. Where objects are told apart by a tag, or may be, the tag comes first; otherwise a key does, and what
    is no key is a label.
    """
    part, rest = loc[0], loc[1:]
    steps[0] -= 1
    if steps[0] < 0:
        return None
    if isinstance(part, int):
        if not isinstance(node, list) or not 0 <= part < len(node) or not rest:
            return None
        node[part] = _visited(node[part])
        items = known.items if isinstance(known, Array) else known
        return _find(node[part], rest, f"{path}[{part}]", items, steps)
    if not isinstance(node, dict):
        return _find(node, rest, path, known, steps) if rest else None
    if not isinstance(known, Object):
        by = (known.by,) if isinstance(known, Tagged) else ("role", "type")
        tags = [as_text(node.get(name)) for name in by]
        known = known.variants.get(tags[0] or "") if isinstance(known, Tagged) else None
        if rest and part in tags and (found := _find(node, rest, path, known or _UNKNOWN, steps)) is not None:
            return found
    if part not in node:
        return _find(node, rest, path, known, steps) if rest else None
    key = part if _SIMPLE_KEY.fullmatch(part) else f"[{part!r}]"
    here = f"{path}.{key}" if path else key
    table = known if isinstance(known, Object) else None
    if not rest:
        return None if table is not None and part in table.required else (here, node, part)
    node[part] = _visited(node[part])
    return _find(node[part], rest, here, table and table.fields.get(part), steps)


_UNKNOWN = Object({})
"""An object of which the tables say nothing, and whose label has been read."""


def _visited(value: Any) -> Any:
    if (node := as_object(value)) is not None:
        return node
    return value if (items := as_array(value)) is None else items


class Learned:
    """What one process has learnt: places that Mistral refused, forgotten again. Never needed for correctness.

    A place is remembered without its indices, ``messages[*].name``; at most *size* of them, each for *seconds*.
    """

    def __init__(self, size: int = 256, seconds: float = 3600.0) -> None:
        self._size = size
        self._seconds = seconds
        self._until: dict[tuple[str, tuple[str, ...]], float] = {}

    def learn(self, endpoint: str, changes: Iterable[Change]) -> None:
        """Remembers where *changes* dropped something from a request to *endpoint*; keys of odd characters are not worth it."""
        for change in changes:
            if not _SIMPLE_PATH.fullmatch(change.path) or _KEPT.fullmatch(change.path):
                continue
            place = tuple(re.sub(r"\[\d+\]", ".*", change.path).split("."))
            if (endpoint, place) not in self._until and len(self._until) >= self._size:
                self._until.pop(next(iter(self._until)))
            self._until[endpoint, place] = time.monotonic() + self._seconds

    def apply(self, endpoint: str, body: bytes) -> tuple[bytes, list[Change]]:
        """*body* without what is remembered for *endpoint*, and the changes."""
        now = time.monotonic()
        places = [place for (name, place), until in list(self._until.items()) if name == endpoint and until > now]
        if not places:
            return body, []
        root, hidden = parse_with_surrogates(body)
        changes: list[Change] = []
        for place in places:
            _sweep(root, place, "", changes)
        return (_encoded(root, hidden), changes) if changes else (body, [])


def _sweep(node: Any, place: tuple[str, ...], path: str, changes: list[Change]) -> None:
    step, rest = place[0], place[1:]
    if step == "*":
        for index, item in enumerate(node if isinstance(node, list) else []):
            node[index] = _visited(item)
            _sweep(node[index], rest, f"{path}[{index}]", changes)
    elif isinstance(node, dict) and step in node:
        here = f"{path}.{step}" if path else step
        if rest:
            node[step] = _visited(node[step])
            _sweep(node[step], rest, here, changes)
        else:
            del node[step]
            changes.append(Change("drop", here, f"{_REASON} before", "lost"))
