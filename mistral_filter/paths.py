"""Which endpoint a request path means, and its one canonical spelling.

Clients are given base URLs with and without ``/v1``, with a trailing slash, or with the whole path already in it. Those
spellings are harmless and mean the same. Any other way to write an endpoint's path (dots, escapes of escapes, parameters,
backslashes) has no honest user, and whoever normalises it later would send the body on unfiltered: it is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from mistral_filter.fields import ENDPOINTS

__all__ = ["PATHS", "ROOTS", "Target", "locate"]

_COMPLETIONS = ("chat", "agents", "fim")
PATHS = {name: f"{name}/completions" if name in _COMPLETIONS else name for name in ENDPOINTS}
"""endpoint: its path below /v1"""
_ENDPOINT_AT = {path: name for name, path in PATHS.items()}

ROOTS = frozenset(
    (
        "models files batch fine_tuning audio agents conversations libraries responses ocr completions images dashboard messages"
    ).split()
)
"""First segments that clients ask for without /v1 before them."""

_SEGMENT = re.compile(r"[A-Za-z0-9._~:-]+")
_MAX_UNQUOTE = 4
"""Rounds of percent-decoding: enough for what any chain of proxies does, and it ends."""


class Target(NamedTuple):
    """What a path means."""

    prefix: str
    """The mount prefix it was found under, ``""`` or ``/name``."""
    path: str
    """The canonical path, ``/v1`` or ``/v1/…``: safe to put behind a host name as it is."""
    endpoint: str | None
    """The endpoint whose list judges a POST body; None: the body is not filtered."""
    refused: bool = False
    """The path is an endpoint's in disguise: not to be served."""


def locate(path: str, prefixes: tuple[str, ...] = ("",)) -> Target | None:
    """What *path* (PATH_INFO: decoded once, below SCRIPT_NAME) means under one of the mount *prefixes*.

    None: the path is not one of Mistral's API.
    """
    return (_remembered if len(path) <= _SHORT else _locate)(path, prefixes)


def _locate(path: str, prefixes: tuple[str, ...]) -> Target | None:
    target = _exact(path, prefixes)
    if target is None or target.endpoint is None:
        lowered = {prefix.lower(): prefix for prefix in prefixes}
        disguised = _exact(_as_others_read_it(path), tuple(lowered))
        if disguised is not None and disguised.endpoint is not None:
            return disguised._replace(prefix=lowered[disguised.prefix], refused=True)
    return target


_SHORT = 200
"""Characters. A longer path is not kept in memory."""
_remembered = lru_cache(maxsize=1024)(_locate)


def _exact(path: str, prefixes: tuple[str, ...]) -> Target | None:
    segments = [segment for segment in path.split("/") if segment]
    if not path.startswith("/") or not all(_SEGMENT.fullmatch(s) and s.strip(".") for s in segments):
        return None
    for prefix in prefixes:
        own = prefix.split("/")[1:]
        if segments[: len(own)] == own and (target := _below(prefix, segments[len(own) :])) is not None:
            return target
    return None


def _below(prefix: str, segments: list[str]) -> Target | None:
    versioned = segments[:1] == ["v1"]
    while segments[:1] == ["v1"]:
        segments = segments[1:]
    half = len(segments) // 2
    if segments[:half] == segments[half:] and "/".join(segments[:half]) in _ENDPOINT_AT:
        segments = segments[:half]
    path = "/".join(segments)
    if path in _ENDPOINT_AT:
        return Target(prefix, f"/v1/{path}", _ENDPOINT_AT[path])
    if not segments:
        return Target(prefix, "/v1", None) if versioned else None
    if not (versioned or segments[0] in ROOTS):
        return None
    return Target(prefix, f"/v1/{path}", None)


def _as_others_read_it(path: str) -> str:
    """*path* as the most obliging server or HTTP library could understand it."""
    for _ in range(_MAX_UNQUOTE):
        path = unquote(path, "latin-1")
    path = re.split(r"[?#]", path.replace("\\", "/"), maxsplit=1)[0].lower()
    segments: list[str] = []
    for written in path.split("/"):
        segment = re.sub(r"[\x00-\x20\x7f]", "", written.split(";", 1)[0])
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments)
