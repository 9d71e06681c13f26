"""Half an emoji, cut by a slice: legal JSON that msgspec does not take."""

from __future__ import annotations

import re

from mistral_filter.errors import TooComplex

__all__ = ["Surrogates"]

_MARK = "\ue000".encode()
_ITSELF = _MARK + b"m"
"""The marked form of the mark; ``m`` is no hexadecimal digit."""
_PAIR = b"\\\\"
_NEVER = b"\xff\xff"
"""As long as an escaped backslash, and never part of UTF-8."""
_HIGH, _LOW = rb"[dD][89abAB][0-9a-fA-F]{2}", rb"[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE = re.compile(rb"\\u(?:(" + _HIGH + rb")(?!\\u" + _LOW + rb")|(?<!\\u" + _HIGH + rb"\\u)(" + _LOW + rb")|([eE]000))")
_HIDDEN = re.compile(_MARK + rb"([0-9a-fA-F]{4})")
_MOST = 20_000
"""Lone surrogates in one body. Texts hold one or two, where something was cut."""


class Surrogates:
    r"""Lone surrogate escapes (``\ud83d``: half an emoji, cut by a slice), which are legal JSON but which msgspec refuses.

    Each is replaced by a private-use character and its four digits; on the way out the escape is put back as it was. That
    character itself is marked in the same way, so the replacement depends on nothing else in the body.
    """

    def __init__(self, body: bytes) -> None:
        """*body* is JSON; ``self.body`` is the same without lone surrogates; ``self.found`` says whether there were any.

        Raises TooComplex for more than 20,000 of them, or of that character.
        """
        if body.count(_MARK) > _MOST:
            raise _too_many()
        # an escaped backslash begins no escape: with all of them out of sight, every other backslash does
        text = body.replace(_MARK, _ITSELF)
        text = text.replace(_PAIR, _NEVER)
        text, count = _LONE.subn(_MARK + rb"\1\2\3", text, count=_MOST + 1)
        if count > _MOST:
            raise _too_many()
        self.found = count > 0
        self.body = text.replace(_NEVER, _PAIR)

    def restore(self, body: bytes) -> bytes:
        """*body* with the escapes put back."""
        return _HIDDEN.sub(rb"\\u\1", body).replace(_ITSELF, _MARK)

    def restore_text(self, name: str) -> str:
        """The same for a name that was read from the body."""
        return self.restore(name.encode()).decode()


def _too_many() -> TooComplex:
    return TooComplex("The body holds too many halves of surrogate pairs. Send characters whole.")
