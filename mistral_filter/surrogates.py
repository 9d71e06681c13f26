"""Half an emoji, cut by a slice: legal JSON that msgspec does not take."""

from __future__ import annotations

import re

__all__ = ["Surrogates"]

_MARK = "\ue000".encode()
_HIGH, _LOW = rb"u[dD][89abAB][0-9a-fA-F]{2}", rb"u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = re.compile(rb"\\(?:" + _HIGH + rb"\\" + _LOW + rb"|(" + _HIGH + rb"|" + _LOW + rb"|u[eE]000)|.)", re.DOTALL)
_HIDDEN = re.compile(_MARK + rb"(mark|[0-9a-fA-F]{4})")


class Surrogates:
    r"""Lone surrogate escapes (``\ud83d``: half an emoji, cut by a slice), which are legal JSON but which msgspec refuses.

    Each is replaced by a private-use character and its four digits; on the way out the escape is put back as it was. That
    character itself is marked in the same way, so the replacement depends on nothing else in the body.
    """

    def __init__(self, body: bytes) -> None:
        """*body* is JSON; ``self.body`` is the same without lone surrogates; ``self.found`` says whether there were any."""
        self.found = False
        self.body = _ESCAPE.sub(self._hide, body.replace(_MARK, _MARK + b"mark"))

    def _hide(self, match: re.Match[bytes]) -> bytes:
        if match[1] is None:
            return match[0]
        self.found = True
        return _MARK + match[1][1:]

    def restore(self, body: bytes) -> bytes:
        """*body* with the escapes put back."""
        return _HIDDEN.sub(lambda match: _MARK if match[1] == b"mark" else rb"\u" + match[1], body)

    def restore_text(self, name: str) -> str:
        """The same for a name that was read from the body."""
        return self.restore(name.encode()).decode()
