"""Errors: the ``error`` object that OpenAI's clients look for, put beside what Mistral sent.

Mistral's own SDK reads the other keys and ignores this one (``HTTPValidationErrorData`` in mistralai 3.7.0). ``violations`` reads
the body; here its words become a message. A 5xx may also be a page of a content delivery network.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from mistral_filter.filtering import BOM
from mistral_filter.proxy.answers.reading import UNREADABLE, absent, is_json, rewritten
from mistral_filter.proxy.violations import Violation, said, telling, word
from mistral_filter.rawjson import Node, as_number, as_object, as_text

__all__ = ["STREAM_ERROR", "error_answer", "is_error", "put_error", "put_stream_error"]

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's ``type`` by status; the rest by its first digit."""

STREAM_ERROR = rb'"(?:object|message|error|detail)"|\\u00[4-7]'
"""A pattern: each of Mistral's errors in a stream has one of these keys, or a letter of it is escaped; see ``is_error``."""

_MAX_VIOLATIONS = 10
_MAX_TEXT = 500

_value = msgspec.json.Decoder(msgspec.Raw).decode


def error_answer(status: int, content_type: str, body: bytes) -> tuple[str, bytes]:
    """Content type and body of an upstream's answer with a *status* of 400 or more.

    The same two objects where ``error`` already has a string as its message. A body that is not a JSON object is replaced by
    one that names the status.
    """
    body = body.removeprefix(BOM)
    texts = rewritten(body, lambda node: [node] if put_error(node, status) else [])
    if texts is not None:
        return content_type if is_json(content_type) else "application/json", texts[0] if texts else body
    try:
        found = _explain(_value(body))
        what = "with JSON that is not an object"
    except UNREADABLE:
        found = None
        what = "with broken JSON" if is_json(content_type) else "with a page that is not JSON"
    found = found or _Found(f"The upstream answered {status} {what if body.strip() else 'without a body'}.")
    error = {"message": found.message, "type": _type(status), "param": found.param, "code": found.code}
    return "application/json", msgspec.json.encode({"error": error})


def put_error(node: Node, status: int) -> bool:
    """Adds ``error`` to the visited object *node*; false: it is there already, with a message."""
    error = as_object(node.get("error")) or {}
    if as_text(error.get("message")):
        return False
    found = _explain(error) or _explain(node) or _Found(f"The upstream answered {status} and did not say why.")
    node["error"] = {
        **error,
        "message": found.message,
        "type": word(error.get("type")) or word(node.get("type")) or _type(status),
        "param": word(error.get("param")) or word(node.get("param")) or found.param,
        "code": word(error.get("code")) or word(node.get("code")) or found.code,
    }
    return True


def is_error(node: Node) -> bool:
    """Whether the visited object *node*, which came in a stream, is an error in one of Mistral's forms."""
    if (as_text(node.get("object")) or "").lower() == "error" or as_text(node.get("message")) is not None:
        return True
    return not (absent(node, "error") and absent(node, "detail"))


def put_stream_error(node: Node) -> bool:
    """``put_error`` for an error in a stream, whose status is in it or unknown: then it is a 500."""
    status = as_number(node.get("raw_status_code")) or 0
    return put_error(node, int(status) if 400 <= status < 600 else 500)


class _Found(NamedTuple):
    message: str
    param: str | None = None
    code: str | None = None


def _explain(value: object) -> _Found | None:
    """What a message, a detail or an object that holds one says; None: nothing."""
    found = next(said(value), None)
    return _Found(found) if isinstance(found, str) else _sentence(found) if found else None


def _sentence(violations: tuple[Violation, ...]) -> _Found:
    """All violations in one sentence. The paths in it have the roles, as in Mistral's own words."""
    told = [violation for violation in telling(violations) if violation.message is not None]
    paths = [violation.quoted_path for violation in told[:_MAX_VIOLATIONS]]
    texts = [_cut(path + ": " if path else "") + _cut(each.message or "") for path, each in zip(paths, told, strict=False)]
    more = len(told) - _MAX_VIOLATIONS
    return _Found("; ".join(texts) + (f"; and {more} more" if more > 0 else ""), told[0].path or None, told[0].kind)


def _type(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
