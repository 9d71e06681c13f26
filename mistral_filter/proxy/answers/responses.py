"""Streams of the Responses API: they pass as they come; where one breaks, an error event of that API ends it."""

from __future__ import annotations

import re

import msgspec

from mistral_filter.errors import MistralFilterError

__all__ = ["next_number", "response_error"]

_NUMBER = re.compile(rb'"sequence_number"\s{0,9}:\s{0,9}(\d{1,15})')
"""A key, because quotes inside a string are escaped."""


def next_number(piece: bytes, number: int) -> int:
    """The sequence number of an event that follows *piece* of a stream; *number* where the piece does not say."""
    start = piece.rfind(b'"sequence_number"')
    match = _NUMBER.match(piece, start) if start >= 0 else None
    return int(match[1]) + 1 if match else number


def response_error(error: MistralFilterError, sequence_number: int) -> bytes:
    """The event that tells of *error*.

    It has both forms that clients read: the fields side by side (OpenAI's reference, 2026-11; ``ResponsesErrorEvent`` in
    mistralai 3.7.0; the AI SDK up to version 5) and, as OpenAI's servers send them, under ``error``, which is what makes
    openai-python and openai-node raise.
    """
    fields = {"code": error.code, "message": error.message, "param": error.param}
    event = {"type": "error", "sequence_number": sequence_number, **fields, "error": {"type": error.type, **fields}}
    return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"
