"""What is remembered between requests: never a caller's text of more than 200 characters."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest

from mistral_filter.changes import Change, as_header
from mistral_filter.paths import locate
from mistral_filter.proxy.learning import Learned, learnt_of
from mistral_filter.proxy.logs import Record, changes_text

MB = 1024 * 1024
RECORD = Record("POST", "/v1/chat/completions", "chat", 200, 300, 0.2, "ok", "-")
LEARNED = Learned()


def held_after(use: Callable[[str], object]) -> int:
    """The bytes that are still held after *use* was given 20 names of 1 MB each."""
    use("warm")
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(20):
            use(f"{number:06}" * (MB // 6))
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "use",
    [
        lambda name: as_header([Change("drop", name, "a reason")]),
        lambda name: as_header([Change("rename", "a", "a reason", "none", name)]),
        lambda name: as_header([Change("drop", "a", f"{name} is not known")]),
        lambda name: as_header([Change("drop", f"{name[:190]}", "a reason")] * 2 + [Change("drop", name, "a reason")]),
        lambda name: str(RECORD._replace(changes=(Change("drop", name, "a reason"),))),
        lambda name: locate(f"/v1/models/{name}"),
        lambda name: locate(f"/{name}/v1/chat/completions"),
        lambda name: LEARNED.learn("", "Bearer k", "m", "chat", learnt_of(f"metadata.a{name}")),
        lambda name: LEARNED.learn("", "Bearer k", name, "chat", learnt_of("metadata.a")),
        lambda name: LEARNED.learn("", f"Bearer {name}", "m", "chat", learnt_of("metadata.a")),
    ],
    ids=("header header-to header-reason header-many log path odd-path learned-place learned-model learned-caller".split()),
)
def test_a_long_name_is_gone_when_the_request_is(use: Callable[[str], object]) -> None:
    """After 20 names of 1 MB less than one of them is held."""
    assert held_after(use) < MB // 2


def test_what_is_short_is_remembered() -> None:
    """The test above would pass for a cache that is switched off: what clients send all the time is made once."""
    change = Change("drop", "logit_bias", "a reason")
    assert as_header([change]) is as_header([change])
    assert changes_text([change]) is changes_text([change])
    assert locate("/v1/models/one") is locate("/v1/models/one")


def test_a_million_changes_cost_no_more_than_a_thousand() -> None:
    """Beyond the first thousand, changes are counted and not looked at; the header says how many there are in all."""

    class Unread(str):
        """A path that may not be looked at."""

        def __len__(self) -> int:
            raise AssertionError("looked at")

    seen = [Change("drop", f"messages[{number}].name", "a reason") for number in range(1000)]
    unseen = [Change("drop", Unread("x"), "a reason")] * 200_000
    assert as_header([*seen, *unseen]) == 'drop;path="messages[*].name";loss=lost;count=1000, more;count=200000'
    assert as_header(seen[:2], more=5) == 'drop;path="messages[*].name";loss=lost;count=2, more;count=5'
    line = RECORD._replace(changes=(*seen, *unseen)).facts()
    assert line["changes"] == 'drop;path="messages[*].name";loss=lost;count=1000, more;count=200000'


def test_every_change_is_counted_once() -> None:
    """Those shown and those in ``more`` add up, also where names are too long to be looked at."""
    changes = [Change("drop", f"field_{number}", "a reason") for number in range(100)]
    changes[3] = Change("drop", "é" * 4 * MB, "a reason")
    tracemalloc.start()
    header = as_header(changes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MB, "the long name was looked at: encoded it takes 24 MB"
    assert len(header) <= 1024
    *shown, last = header.split(", ")
    assert last == f"more;count={100 - len(shown)}"
    assert 10 < len(shown) < 99
