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
from mistral_filter.rawjson import Surrogates, as_array, as_object, as_text, encode, parse_with_surrogates

__all__ = ["Learned", "forbidden", "without"]

_KEPT = re.compile(r"model|messages|messages\[\d+\](\.role|\.content)?")
"""What is never dropped, whatever a refusal says: without it the request is another one, or none."""

_REASON = "Mistral refused the field (422 extra_forbidden)"

_SIMPLE_KEY = re.compile(r"[\w-]+")
_SIMPLE_PATH = re.compile(r"[\w-]+(\[\d+\]|\.[\w-]+)*")

_STRING_BRANCH = "str"
"""The label of a union's string branch (recorded 2025: ``…, "content", "str"``)."""

Loc = list[Any]


def forbidden(answer: bytes) -> list[Loc]:
    """The places that a 422's body names, when extra fields are all that is wrong; else none.

    Both shapes are read (recorded 2025 and 2026): ``{"detail": […]}`` and ``{"message": {"detail": […]}, …}``. Where a value
    may be a string or a list, the validator also reports that it is no string: that says nothing new.
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
        if not isinstance(loc, list) or len(loc) < 2 or not all(isinstance(part, (str, int)) for part in loc):
            return []
        (locs if item.get("type") == "extra_forbidden" else others).append(loc)
    for loc in others:
        union = loc[:-1]
        if loc[-1] != _STRING_BRANCH or not any(extra[: len(union)] == union and len(extra) > len(union) + 1 for extra in locs):
            return []
    return locs


def without(body: bytes, locs: Iterable[Loc]) -> tuple[bytes, list[Change]]:
    """*body* without exactly the fields that *locs* name, and the changes; no change at all if one of them may not go."""
    root, hidden = parse_with_surrogates(body)
    found: dict[str, tuple[Any, str]] = {}
    for loc in locs:
        field = _find(root, loc[1:] if loc[:1] == ["body"] else loc, "")
        if field is None or _KEPT.fullmatch(field[0]):
            return body, []
        found[field[0]] = field[1:]
    for node, key in found.values():
        del node[key]
    changes = [Change("drop", path, _REASON, "lost") for path in found]
    return (_encoded(root, hidden), changes) if changes else (body, [])


def _encoded(root: Any, hidden: Surrogates | None) -> bytes:
    return encode(root) if hidden is None else hidden.restore(encode(root))


def _find(node: Any, loc: Loc, path: str) -> tuple[str, Any, str] | None:
    """The field at *loc* below the visited *node*: its path, the object that holds it, and its key there.

    A string in *loc* may be a label or a key. A label that the node itself bears (its role, its type) comes first; otherwise
    a key does, and what is no key is a label.
    """
    part, rest = loc[0], loc[1:]
    if isinstance(part, int):
        if not isinstance(node, list) or not 0 <= part < len(node) or not rest:
            return None
        node[part] = _visited(node[part])
        return _find(node[part], rest, f"{path}[{part}]")
    if not isinstance(node, dict):
        return _find(node, rest, path) if rest else None
    if rest and part in (as_text(node.get("role")), as_text(node.get("type"))):
        found = _find(node, rest, path)
        if found is not None:
            return found
    if part not in node:
        return _find(node, rest, path) if rest else None
    key = part if _SIMPLE_KEY.fullmatch(part) else f"[{part!r}]"
    here = f"{path}.{key}" if path else key
    if not rest:
        return here, node, part
    node[part] = _visited(node[part])
    return _find(node[part], rest, here)


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
