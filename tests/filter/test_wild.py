"""Random wild bodies (``wild``): filtering twice is filtering once, no field is left that Mistral forbids, and greedy sampling
has the ``top_p`` that Mistral takes.

``MISTRAL_FILTER_WILD=100000`` tries so many of them instead of 1,000.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import sdk
from wild import Wild

from mistral_filter import filter_body
from mistral_filter.errors import Refused

COUNT = int(os.environ.get("MISTRAL_FILTER_WILD", "1000"))
SEEDS = range(10)


@pytest.mark.parametrize("seed", SEEDS)
def test_wild_bodies(seed: int) -> None:
    """Whatever several defects at once make of a body, what comes out is settled and holds no forbidden field."""
    wild, refused = Wild(seed), 0
    for _ in range(COUNT // len(SEEDS)):
        endpoint, body = wild.raw()
        for fields in ("classic", "current"):
            try:
                once = filter_body(body, endpoint, fields=fields)
            except Refused:
                refused += 1
                continue
            assert filter_body(once.body, endpoint, fields=fields)[:2] == (once.body, ()), body
            assert forbidden(endpoint, json.loads(once.body)) == [], body
            assert sdk.greedy_refusals(json.loads(once.body)) == [], body
    assert refused < COUNT


def forbidden(endpoint: str, body: Any) -> list[str]:
    """The fields that the SDK's models do not know. A tool without a type is one of type function to the API."""
    for tool in body["tools"] if isinstance(body.get("tools"), list) else []:
        if isinstance(tool, dict):
            tool.setdefault("type", "function")
    return [reason for reason in sdk.accepts(endpoint, body) if reason.endswith(": not permitted")]


def test_wild_bodies_are_wild() -> None:
    """Most of them hold a forbidden field or are changed, so the test above can fail."""
    wild = Wild(0)
    bodies = [wild.body() for _ in range(300)]
    assert sum(bool(forbidden(endpoint, body)) for endpoint, body in bodies) > 150
