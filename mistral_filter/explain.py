"""What the filter would do to a body, and why: for the explain view and the command line."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from mistral_filter.changes import Change
from mistral_filter.errors import MistralFilterError
from mistral_filter.filtering import BOM, filter_body

__all__ = ["Explanation", "explain"]


class Explanation(NamedTuple):
    """The outcome for one body."""

    endpoint: str
    before: bytes
    after: bytes | None
    """None: it is refused."""
    changes: tuple[Change, ...]
    error: MistralFilterError | None

    def as_json(self) -> bytes:
        """``{"endpoint", "before", "after", "changes": [{"action", "path", "to", "reason", "loss"}], "more", "error"}``.

        At most MOST_CHANGES are listed, with the first 200 characters of their paths; ``more`` counts the others.
        """
        error = None if self.error is None else msgspec.Raw(self.error.body())
        valid = self.after is not None or self.error is None or self.error.code not in _UNREADABLE
        return msgspec.json.encode(
            {
                "endpoint": self.endpoint,
                "before": msgspec.Raw(self.before) if valid else self.before.decode("utf-8", "replace"),
                "after": None if self.after is None else msgspec.Raw(self.after),
                "changes": [_listed(change) for change in self.changes[:MOST_CHANGES]],
                "more": max(len(self.changes) - MOST_CHANGES, 0),
                "error": error,
            }
        )


MOST_CHANGES = 500
_LONGEST_PATH = 200

_UNREADABLE = ("invalid_json", "json_too_deep", "too_complex")
"""Codes of bodies that may be no JSON."""


def _listed(change: Change) -> dict[str, str | None]:
    path, to = change.path[:_LONGEST_PATH], change.to and change.to[:_LONGEST_PATH]
    return change._replace(path=path, to=to)._asdict()


def explain(body: bytes, endpoint: str, **options: Any) -> Explanation:
    """Filters *body* as ``filter_body`` would with *options*, and tells the outcome instead of raising."""
    before = body.removeprefix(BOM)
    try:
        filtered = filter_body(body, endpoint, **options)
    except MistralFilterError as error:
        return Explanation(endpoint, before, None, (), error)
    return Explanation(endpoint, before, filtered.body, filtered.changes, None)
