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
from mistral_filter.rawjson import as_array, as_object, as_text, encode, parse

__all__ = ["Learned", "forbidden", "without"]

_KEPT = re.compile(r"model|messages|messages\[\d+\](\.role|\.content)?")
"""What is never dropped, whatever a refusal says: without it the request is another one, or none."""

_REASON = "Mistral refused the field (422 extra_forbidden)"

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
        if not isinstance(loc[-1], str) or not any(extra[: len(union)] == union and len(extra) > len(union) for extra in locs):
            return []
    return locs


def without(body: bytes, locs: Iterable[Loc]) -> tuple[bytes, list[Change]]:
    """*body* without exactly the fields that *locs* name, and the changes; no change at all if one of them may not go."""
    root = parse(body)
    changes: list[Change] = []
    for loc in locs:
        path = _remove(root, loc[1:] if loc[:1] == ["body"] else loc, "")
        if path is None or _KEPT.fullmatch(path):
            return body, []
        if path not in (change.path for change in changes):
            changes.append(Change("drop", path, _REASON, "lost"))
    return (encode(root), changes) if changes else (body, [])


def _remove(node: Any, loc: Loc, path: str) -> str | None:
    """Removes the field at *loc* below the visited *node*; returns its path, None if there is no such field.

    A string in *loc* may be a label or a key. A label that the node itself bears (its role, its type) comes first; otherwise
    a key does, and what is no key is a label.
    """
    part, rest = loc[0], loc[1:]
    if isinstance(part, int):
        if not isinstance(node, list) or not 0 <= part < len(node) or not rest:
            return None
        node[part] = _visited(node[part])
        return _remove(node[part], rest, f"{path}[{part}]")
    if not isinstance(node, dict):
        return _remove(node, rest, path) if rest else None
    if rest and part in (as_text(node.get("role")), as_text(node.get("type"))):
        found = _remove(node, rest, path)
        if found is not None:
            return found
    if part in node:
        here = f"{path}.{part}" if path else part
        if not rest:
            del node[part]
            return here
        node[part] = _visited(node[part])
        found = _remove(node[part], rest, here)
        if found is not None:
            return found
    return _remove(node, rest, path) if rest else None


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
        self._until: dict[tuple[str, str], float] = {}

    def learn(self, endpoint: str, changes: Iterable[Change]) -> None:
        """Remembers where *changes* dropped something from a request to *endpoint*."""
        for change in changes:
            if len(self._until) >= self._size:
                self._until.pop(next(iter(self._until)))
            self._until[endpoint, re.sub(r"\[\d+\]", "[*]", change.path)] = time.monotonic() + self._seconds

    def apply(self, endpoint: str, body: bytes) -> tuple[bytes, list[Change]]:
        """*body* without what is remembered for *endpoint*, and the changes."""
        now = time.monotonic()
        places = [place for (name, place), until in list(self._until.items()) if name == endpoint and until > now]
        if not places:
            return body, []
        root = parse(body)
        changes: list[Change] = []
        for place in places:
            _sweep(root, place.replace("[*]", ".*").split("."), "", changes)
        return (encode(root), changes) if changes else (body, [])


def _sweep(node: Any, steps: list[str], path: str, changes: list[Change]) -> None:
    step, rest = steps[0], steps[1:]
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
