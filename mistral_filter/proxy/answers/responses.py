"""Streams of the Responses API: their events pass as they come, and what ends one early is an error event of that API.

That is a break of the connection, or an error in one of Mistral's own forms: an event whose data is the flat error, or a bare
line of JSON, which clients pass over (mistralai/mistral-vibe#1104, 2026-09, seen in a stream of chat).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from mistral_filter.errors import MistralFilterError
from mistral_filter.proxy.answers.errors import STREAM_ERROR, is_error, put_stream_error
from mistral_filter.proxy.answers.events import as_event
from mistral_filter.proxy.answers.reading import UNREADABLE, rewritten
from mistral_filter.rawjson import Node, as_object

__all__ = ["ResponseEvents", "next_number", "response_error"]

_NUMBER = re.compile(rb'"sequence_number"\s{0,9}:\s{0,9}(\d{1,15})')
"""A key, because quotes inside a string are escaped."""


class _Event(msgspec.Struct, gc=False):
    """An event of the Responses API: each has a ``type``, and none the ``object`` of Mistral's flat error."""

    type: str
    object: None = None


_event = msgspec.json.Decoder(_Event).decode


class ResponseEvents:
    """The events of one stream; remembers their numbers. See ``events.Rewriter``."""

    words = re.compile(rb'"sequence_number"|' + STREAM_ERROR)

    def __init__(self) -> None:
        self._number = 0

    def plain(self, data: bytes) -> None:
        """Raises one of UNREADABLE for *data* that is no event of the Responses API."""
        self._number = next_number(data, self._number)
        _event(data)

    def rewrite(self, data: bytes) -> list[bytes] | None:
        """The error event that *data* becomes if it is one of Mistral's errors; nothing, or None, where it stays."""
        try:
            self.plain(data)
        except UNREADABLE:
            return rewritten(data, self._error)
        return None

    def rewrite_bare(self, line: bytes) -> bytes | None:
        """The error event that *line*, which is no event, should have been; None, if it is no error."""
        texts = rewritten(line, self._error)
        return as_event(texts[0], "error") if texts else None

    def _error(self, node: Node) -> Iterator[Node]:
        if is_error(node):
            put_stream_error(node)
            yield {**node, **_fields(as_object(node["error"]) or {}, self._number)}


def next_number(piece: bytes, number: int) -> int:
    """The sequence number of an event that follows *piece* of a stream; *number* where the piece does not say."""
    start = piece.rfind(b'"sequence_number"')
    match = _NUMBER.match(piece, start) if start >= 0 else None
    return int(match[1]) + 1 if match else number


def response_error(error: MistralFilterError, sequence_number: int) -> bytes:
    """The event that tells of *error*."""
    told = {"type": error.type, "code": error.code, "message": error.message, "param": error.param}
    return as_event(msgspec.json.encode(_fields(told, sequence_number)), "error")


def _fields(error: Node, sequence_number: int) -> Node:
    """The data of an error event.

    It has both forms that clients read: the fields side by side (OpenAI's reference, 2026-11; ``ResponsesErrorEvent`` in
    mistralai 3.7.0; the AI SDK up to version 5) and, as OpenAI's servers send them, under ``error``, which is what makes
    openai-python and openai-node raise.
    """
    side_by_side = {name: error.get(name) for name in ("code", "message", "param")}
    return {"type": "error", "sequence_number": sequence_number, **side_by_side, "error": error}
