"""Embeddings: lists of numbers become base64 where that was asked for. The rest of the answer is not opened.

OpenAI's SDK for JavaScript asks by default (openai 4.91 and later) and decodes whatever comes; from the list of numbers that
Mistral answers (``EmbeddingResponseData`` in mistralai 3.7.0) it makes zeros. Base64 here is OpenAI's: of little-endian float32.
"""

from __future__ import annotations

import binascii
import re
import sys
from array import array

import msgspec

__all__ = ["with_base64"]

_VECTOR = re.compile(rb'(?<!\\)("embedding"[ \t\r\n]*:[ \t\r\n]*)(\[[-+0-9.eE, \t\r\n]*\])')
"""A list of numbers under this key. Within a JSON string every quotation mark has a backslash before it, so no text matches."""

_numbers = msgspec.json.Decoder(list[float]).decode


def with_base64(answer: bytes) -> bytes:
    """*answer*, or a part of it that cuts no embedding, with each embedding as base64; all other bytes stay."""
    return _VECTOR.sub(_encode, answer)


def _encode(match: re.Match[bytes]) -> bytes:
    try:
        floats = array("f", _numbers(match[2]))
    except (msgspec.DecodeError, OverflowError):  # not numbers
        return match[0]
    if sys.byteorder == "big":
        floats.byteswap()
    return b'%b"%b"' % (match[1], binascii.b2a_base64(floats, newline=False))
