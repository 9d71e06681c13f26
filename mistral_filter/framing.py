"""How a request's body is delimited, as the server's environ says it: judged in one place for all that read bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mistral_filter.errors import BadRequest

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["MAX_LENGTH", "Framing", "framing_of"]

MAX_LENGTH = 10**18
"""Bytes, beyond all bounds. A greater length counts as this one."""
_DIGITS = len(str(MAX_LENGTH))


class Framing(NamedTuple):
    """What a request's head says of its body."""

    length: int | None
    """The declared bytes, at most MAX_LENGTH; None: there is no Content-Length."""
    is_chunked: bool
    """The body ends by itself (RFC 9112, 7.1)."""


def framing_of(environ: WSGIEnvironment) -> Framing:
    """The framing of the request in *environ*.

    Raises BadRequest: ``bad_content_length`` for one that is no number, ``bad_transfer_encoding`` for any other than chunked.
    """
    coding = environ.get("HTTP_TRANSFER_ENCODING", "").strip().lower()
    if coding not in ("", "chunked"):
        raise BadRequest(code="bad_transfer_encoding")
    declared = environ.get("CONTENT_LENGTH")
    if not declared:
        return Framing(None, bool(coding))
    if not (declared.isascii() and declared.isdigit()):
        raise BadRequest(code="bad_content_length")
    # int() refuses very long numbers
    return Framing(min(int(declared), MAX_LENGTH) if len(declared) <= _DIGITS else MAX_LENGTH, bool(coding))
