"""Embeddings: lists of numbers become base64 where that was asked for.

OpenAI's SDK for JavaScript asks by default (openai 4.91 and later) and decodes whatever comes; from the list of numbers that
Mistral answers (``EmbeddingResponseData`` in mistralai 3.7.0) it makes zeros. Base64 here is OpenAI's: of little-endian float32.
"""

from __future__ import annotations

import binascii
import sys
from array import array
from collections.abc import Iterator

import msgspec

from mistral_filter.proxy.answers.reading import each
from mistral_filter.rawjson import Node

__all__ = ["with_base64"]

_numbers = msgspec.json.Decoder(list[float]).decode


def with_base64(node: Node) -> Iterator[Node]:
    """The answer *node* with every embedding as base64; nothing where all are strings already."""
    if each(node, "data", _encode):
        yield node


def _encode(_: int, item: Node) -> bool:
    vector = item.get("embedding")
    if not isinstance(vector, msgspec.Raw):
        return False
    try:
        floats = array("f", _numbers(vector))
    except (msgspec.ValidationError, OverflowError):  # a string already, or not numbers
        return False
    if sys.byteorder == "big":
        floats.byteswap()
    item["embedding"] = binascii.b2a_base64(floats, newline=False).decode()
    return True
