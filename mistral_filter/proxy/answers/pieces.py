"""An answer that is too large to be read whole, rewritten as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

__all__ = ["MOST_HELD", "rewrite_pieces"]

MOST_HELD = 1024 * 1024
"""Bytes without a brace that are held: an embedding of 3,072 numbers, the longest of Mistral's, has 70,000."""


def rewrite_pieces(pieces: Iterable[bytes], rewrite: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """*pieces* of JSON after *rewrite*, which replaces what has no brace in it: they are cut behind the last brace that has come.

    What is longer than MOST_HELD may be cut anywhere.
    """
    held = bytearray()
    for piece in pieces:
        end = max(piece.rfind(b"{"), piece.rfind(b"}")) + 1
        if not end and len(held) + len(piece) > MOST_HELD:
            end = len(piece)
        if end:
            held += piece[:end]
            yield rewrite(bytes(held))
            held.clear()
        held += piece[end:]
    if held:
        yield rewrite(bytes(held))
