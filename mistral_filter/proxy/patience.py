"""How long to wait after a 429 before the request is sent again, from the head of the answer.

Mistral's 429s (recorded 2024-04 to 2026-11) have no Retry-After; they count requests and tokens in ``x-ratelimit-remaining-…``
for windows of seconds, a minute and a month. Retry-After(-Ms) and ``…-reset`` are what gateways and other upstreams send
(RFC 9110, 10.2.3; OpenAI's reference of 2026-11: ``1s``, ``6m0s``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

__all__ = ["MOST_TRIES", "seconds_to_wait"]

MOST_TRIES = 64
"""How often one request is sent, whatever its patience is."""

_LEAST_SECONDS = 0.05
"""A shorter wait is no wait."""

_LIMIT = re.compile(r"x-ratelimit-limit-(?:req|tokens)-[a-z0-9-]+|x-ratelimitbysize-limit-[a-z]+")
_SPENT = re.compile(r"x-ratelimit-remaining-(?:req|tokens)-(?:month|day)|x-ratelimitbysize-remaining-month")
"""Windows so long that no wait helps. ``bysize`` are the names of 2024."""
_COST = "x-ratelimit-tokens-query-cost"

_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?")
_DURATION = re.compile(r"(?=\d)(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?")


def seconds_to_wait(headers: Iterable[tuple[str, str]], number: int, patience: float, now: float) -> float | None:
    """Seconds until the request may be sent again, *number* waits (from 0) after the first try; None: pass the answer on.

    *headers* are those of the 429, *patience* the seconds that are left to wait, *now* is the time of day (``time.time()``). What
    the upstream asks for is obeyed or, where it is more than that, not waited for; without a word from it the wait is 1 s, 2 s,
    4 s, …, cut to what is left.
    """
    given = {name.lower(): value.strip() for name, value in headers}
    if patience < _LEAST_SECONDS or given.get("x-should-retry", "").lower() == "false" or _is_hopeless(given):
        return None
    told = _told(given, now)
    if told is None or told <= 0:
        return min(float(2**number), patience)
    return None if told > patience else max(told, _LEAST_SECONDS)


def _is_hopeless(given: dict[str, str]) -> bool:
    """Whether the plan does not have the model (a limit of 0), or a month's or day's allowance is spent."""
    cost = _number(given.get(_COST, "")) or 0.0
    for name, value in given.items():
        count = _number(value)
        if count is None:
            continue
        if count == 0 and (_LIMIT.fullmatch(name) or _SPENT.fullmatch(name)):
            return True
        if count < cost and "tokens" in name and _SPENT.fullmatch(name):
            return True
    return False


def _told(given: dict[str, str], now: float) -> float | None:
    """The seconds that the upstream asks for; None: it does not say."""
    if (milliseconds := _number(given.get("retry-after-ms", ""))) is not None:
        return milliseconds / 1000
    if "retry-after" in given:
        seconds = _number(given["retry-after"])
        return _until(given["retry-after"], now) if seconds is None else seconds
    resets = [
        seconds
        for name, value in given.items()
        if "ratelimit" in name and "reset" in name and _number(given.get(name.replace("reset", "remaining"), "0")) == 0
        if (seconds := _duration(value, now)) is not None
    ]
    return max(resets, default=None)


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


_A_DATE = 1e9
"""Seconds. A larger number is a time of day, not a duration."""


def _duration(text: str, now: float) -> float | None:
    if (seconds := _number(text)) is not None:
        return seconds - now if seconds >= _A_DATE else seconds
    match = _DURATION.fullmatch(text)
    if match is None:
        return _until(text, now)
    hours, minutes, rest, milliseconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + rest + milliseconds / 1000


def _until(text: str, now: float) -> float | None:
    """The seconds until the HTTP date *text*."""
    try:
        return parsedate_to_datetime(text).timestamp() - now
    except (ValueError, OverflowError):
        return None
