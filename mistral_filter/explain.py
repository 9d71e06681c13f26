"""What the filter would do to a body, and why: for the explain view and the command line."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import msgspec

from mistral_filter.changes import Change
from mistral_filter.errors import MistralFilterError
from mistral_filter.fields import CHAT_FIELDS, ENDPOINTS
from mistral_filter.filtering import BOM, filter_body
from mistral_filter.parsing import too_deep_at
from mistral_filter.places import locate_changes, read_json, read_path

__all__ = ["Explanation", "explain"]


class Explanation(NamedTuple):
    """The outcome for one body."""

    endpoint: str
    before: bytes
    after: bytes | None
    """None: it is refused."""
    changes: tuple[Change, ...]
    error: MistralFilterError | None
    kept_by_current: frozenset[str] = frozenset()
    """Paths of changes that the list ``current`` would not make; empty where it is in use."""

    def as_json(self) -> bytes:
        """``{"endpoint", "before", "after", "changes", "more", "error", "position", "place"}`` for programs and for the page.

        Of the changes, the first MOST_CHANGES are listed, with the first 200 characters of their paths; ``more`` counts the
        others. A change is ``{"action", "path", "to", "reason", "loss", "current", "before", "after"}``: whether ``current``
        would keep the field, and the places in both bodies as lists of keys and indexes (``locate_changes``). ``position`` is
        ``{"line", "column"}``, from 1, in characters, of what is no JSON or nests too deep; ``place`` is the place of what is
        refused in JSON; both are null elsewhere.
        """
        error = None if self.error is None else msgspec.Raw(self.error.body())
        valid = self._valid
        place = None
        if valid and self.error is not None and self.error.param:
            place = read_path(self.error.param, read_json(self.before.decode()))
        return msgspec.json.encode(
            {
                "endpoint": self.endpoint,
                "before": msgspec.Raw(self.before) if valid else self.before.decode("utf-8", "replace"),
                "after": None if self.after is None else msgspec.Raw(self.after),
                "changes": self._listed(),
                "more": max(len(self.changes) - MOST_CHANGES, 0),
                "error": error,
                "position": self.position,
                "place": place,
            }
        )

    @property
    def position(self) -> dict[str, int] | None:
        """``{"line", "column"}``, from 1, in characters, of what is no JSON; None elsewhere."""
        return None if self._valid or self.error is None else _position(self.before, self.error)

    @property
    def _valid(self) -> bool:
        return self.after is not None or self.error is None or self.error.code not in _UNREADABLE

    def _listed(self) -> list[dict[str, Any]]:
        changes = self.changes[:MOST_CHANGES]
        if not changes or self.after is None:
            return []
        return [
            {
                **change._replace(path=change.path[:_LONGEST_PATH], to=change.to and change.to[:_LONGEST_PATH])._asdict(),
                "current": change.action == "drop" and change.path in self.kept_by_current,
                **places._asdict(),
            }
            for change, places in zip(changes, locate_changes(self.before, self.after, changes), strict=True)
        ]


MOST_CHANGES = 500
_LONGEST_PATH = 200

_UNREADABLE = ("invalid_json", "json_too_deep", "too_complex")
"""Codes of bodies that may be no JSON."""

_BYTE = re.compile(r"\(byte (\d+)\)")
"""Where msgspec says that a body is malformed."""


def _position(body: bytes, error: MistralFilterError) -> dict[str, int] | None:
    if error.code not in ("invalid_json", "json_too_deep"):
        return None
    try:
        if error.code == "json_too_deep":
            return _line_and_column(body[: too_deep_at(body)].decode("utf-8", "replace"))
        text = body.decode()
        read_json(text)
        match = _BYTE.search(error.message)  # NaN and its like, which Python's parser takes
        before = None if match is None else body[: int(match[1])].decode("utf-8", "replace")
    except UnicodeDecodeError as bad:
        before = body[: bad.start].decode()
    except json.JSONDecodeError as bad:  # its position is more exact than msgspec's
        before = text[: bad.pos]
    return None if before is None else _line_and_column(before)


def _line_and_column(before: str) -> dict[str, int]:
    return {"line": before.count("\n") + 1, "column": len(before) - before.rfind("\n")}


def explain(body: bytes, endpoint: str, **options: Any) -> Explanation:
    """Filters *body* as ``filter_body`` would with *options*, and tells the outcome instead of raising."""
    before = body.removeprefix(BOM)
    try:
        filtered = filter_body(body, endpoint, **options)
    except MistralFilterError as error:
        return Explanation(endpoint, before, None, (), error)
    kept: set[str] = set()
    if endpoint == "chat" and options.get("fields", "classic") == "classic":
        left_out = ENDPOINTS["chat"].fields.keys() - CHAT_FIELDS["classic"].fields.keys()
        kept = {change.path for change in filtered.changes if change.action == "drop" and change.path in left_out}
    if kept:  # asked only where the lists differ; the second reading cannot be refused if the first was not
        others = filter_body(body, endpoint, **{**options, "fields": "current"}).changes
        kept -= {change.path for change in others if change.action == "drop"}
    return Explanation(endpoint, before, filtered.body, filtered.changes, None, frozenset(kept))
