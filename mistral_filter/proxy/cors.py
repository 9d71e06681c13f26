"""Which pages of other origins may use the proxy, and which response headers their scripts may read."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from mistral_filter.changes import HEADER

__all__ = ["EXPOSED_HEADERS", "origin_patterns", "parse_origins"]

_WINDOWS = "Req-Minute Req-10-Second Req-60-Second Tokens-Minute Tokens-Month Audio-Seconds-Minute Input-Characters-Minute"
_LIMITS = [*_WINDOWS.split(), "OCR-Pages-Minute"]
_COSTS = "Tokens Audio-Seconds Input-Characters OCR-Pages".split()

EXPOSED_HEADERS = (
    *"X-Request-Id Mistral-Correlation-Id Retry-After Retry-After-Ms X-Should-Retry X-Max-Retry-Attempts-Reached".split(),
    *"X-RateLimit-Limit X-RateLimit-Remaining X-RateLimit-Reset".split(),
    *(f"X-RateLimit-{kind}-{limit}" for limit in _LIMITS for kind in ("Limit", "Remaining")),
    *(f"X-RateLimit-{cost}-Query-Cost" for cost in _COSTS),
    "Server-Timing",
    HEADER,
)
"""What a page's script may read. ``*`` works in most browsers, but in few for requests with Authorization.

The names are those of Mistral's recorded responses (2024-04 to 2026-11) and those that OpenAI's SDKs look for.
"""

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@\s]*?)(?::(\d{1,5}))?")
_HOST = re.compile(r"(?:[a-z0-9_-]+\.)*[a-z0-9_-]+")
_OTHER_HOST = re.compile(r"[a-z0-9._~-]+")
"""A host of an app or extension: Electron apps send ``app://.``, too."""
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_WITHOUT_ORIGIN = frozenset("about blob data file filesystem ftp javascript mailto view-source ws wss".split())
"""Schemes whose pages send ``null``, or the origin of the page that made them."""

_FORMS = "write *, or none, or exact origins such as https://chat.example.com http://[::1]:3000 app://obsidian.md"


def parse_origins(text: str) -> tuple[str, ...]:
    """``("*",)``, ``()`` for the word ``none``, or the exact origins in *text*, as browsers write them: in lower case.

    Any scheme with a host is taken, since apps and extensions have schemes of their own. Patterns are not: one without
    anchors lets strangers in. Raises ValueError, which counts the origins and quotes none: one may hold a password.
    """
    words = text.replace(",", " ").lower().split()
    if words == ["*"]:
        return ("*",)
    if words == ["none"]:
        return ()
    if not words:
        raise ValueError(_FORMS)
    return tuple(_origin(word, number) for number, word in enumerate(words, 1))


def _origin(word: str, number: int) -> str:
    if word == "null":
        raise ValueError(
            f"origin {number} is null: every sandboxed frame and every file:// page sends it, so any site could use it; "
            "serve the page over http"
        )
    match = _ORIGIN.fullmatch(word)
    scheme, host, port = match.groups() if match else ("", "", None)
    if scheme == "file":
        raise ValueError(
            f"origin {number} is a file: browsers send null for it, which cannot be allowed; serve the page over http"
        )
    if scheme in _WITHOUT_ORIGIN or not _is_host(scheme, host):
        raise ValueError(f"origin {number} is none: {_FORMS}")
    if port is not None and not 0 < int(port) < 65536:
        raise ValueError(f"the port of origin {number} is none")
    if host.startswith("["):
        host = f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
    return f"{scheme}://{host}" + ("" if port is None or port == _DEFAULT_PORTS.get(scheme) else f":{int(port)}")


def _is_host(scheme: str, host: str) -> bool:
    if scheme not in _DEFAULT_PORTS:
        return bool(_OTHER_HOST.fullmatch(host))
    if not host.startswith("["):
        return bool(_HOST.fullmatch(host))
    try:
        ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return False
    return host.endswith("]") and "%" not in host


def origin_patterns(origins: Iterable[str]) -> list[str | re.Pattern[str]]:
    """*origins* as flask-cors takes them, each matched as a whole and without regard to case.

    A string with one of ``*\\]?$^[]()`` in it, such as an IPv6 address, flask-cors would read as a regular expression.
    """
    return [origin if origin == "*" else re.compile(re.escape(origin) + r"\Z", re.IGNORECASE) for origin in origins]
