"""What an event stream costs that is made to cost much: every flood here is gone through in few steps, however it is cut."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from mistral_filter.proxy.answers import Plan, events, plan

PLANS = {
    "chat": plan("chat", False, ""),
    "responses": plan("responses", False, ""),
    "names": Plan(responses=True, tool_names={"a_b_1": "a.b"}),
}
FLOODS = {
    "CR": b"\r",
    "LF": b"\n",
    "CRLF": b"\r\n",
    "LF and CR": b"\n\r",
    "CR, CR, LF": b"\r\r\n",
    "comments": b":\n\n",
    "comments with CR": b":\r\r",
    "comments with CRLF": b":\r\n\r\n",
    "lines of comments": b":\n",
    "lines of data": b"data:\n",
    "events without data": b"data:\n\n",
    "events of other data": b"data: x\r\n\r\n",
    "events of empty objects": b"data:{}\n\n",
    "events of a quotation mark": b'"\n\n',
    "bare lines": b"{}\n",
    "bare lines with CR": b"{}\r",
    "bare lines of members": b'{"a":1}\r\n',
    "bare lines that are none": b"{\n",
}
ERROR = json.dumps({"object": "error", "message": "Overloaded", "code": "3505"}).encode()
NAMED = b'{"type":"x","item":{"name":"a_b_1"}}'


def pieces(stream: bytes, size: int = 65536) -> Iterator[bytes]:
    return (stream[at : at + size] for at in range(0, len(stream), size))


def steps(run: Iterable[bytes]) -> int:
    """How many functions, of Python or of C, are called while *run* is gone through."""
    count = 0

    def called(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        for _ in run:
            pass
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_is_gone_through_in_few_steps(flood: str, name: str) -> None:
    """Fewer than one for 500 bytes; one by one its events take up to 30 a byte. It passes as it came."""
    stream = FLOODS[flood] * (262_144 // len(FLOODS[flood]))
    assert steps(PLANS[name].events(pieces(stream))) < len(stream) / 500
    assert b"".join(PLANS[name].events(pieces(stream))) == stream


class Counted:
    """A pattern that adds up how many bytes it may have gone through."""

    total = 0

    def __init__(self, compiled: re.Pattern[bytes]) -> None:
        self.compiled = compiled

    def match(self, data: bytes, at: int = 0) -> re.Match[bytes] | None:
        Counted.total += len(data) - at
        return self.compiled.match(data, at)

    def search(self, data: bytes, at: int = 0) -> re.Match[bytes] | None:
        Counted.total += len(data) - at
        return self.compiled.search(data, at)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    "stream",
    [
        b"{" + b"x" * 20_000,
        b"{" + b"x" * 10_000 + b"\n" + b"x\n" * 10_000,
        b"{" + b"x" * 10_000 + b"\r" + b"x\r" * 10_000,
        b"data: {" + b"x" * 20_000,
        b"data: x\n" * 3000,
        b":\n" * 10_000,
    ],
)
def test_what_has_not_ended_is_searched_once(stream: bytes, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the pieces are in which an event comes, its beginning is not gone through again with each."""
    for name in ("_BARE", "_END", "_LINE_END"):
        monkeypatch.setattr(events, name, Counted(getattr(events, name)))
    monkeypatch.setattr(Counted, "total", 0)
    assert b"".join(PLANS["chat"].events(pieces(stream, size))) == stream
    assert Counted.total < 20 * len(stream)


@pytest.mark.parametrize("size", [1, 7, 100, 65536])
@pytest.mark.parametrize("flood", FLOODS)
def test_an_event_in_a_flood_is_rewritten(flood: str, size: int) -> None:
    """What comes before and behind it passes as it came."""
    around = FLOODS[flood] * 60 + b"\n\n"
    for plan_, data in ((PLANS["chat"], ERROR), (PLANS["responses"], ERROR), (PLANS["names"], NAMED)):
        event = b"data: " + data + b"\n\n"
        alone = b"".join(plan_.events(iter([event])))
        assert alone != event
        assert b"".join(plan_.events(pieces((around + event) * 3 + around, size))) == (around + alone) * 3 + around


def test_the_numbers_of_a_flood_of_short_events_count() -> None:
    """An error behind them has the next one."""
    stream = b"".join(b'data:{"sequence_number":%d}\n\n' % number for number in range(50)) + b"data: " + ERROR + b"\n\n"
    sent = b"".join(PLANS["responses"].events(pieces(b"\n" * 100 + stream)))
    last: Any = json.loads(sent.rstrip().rpartition(b"data: ")[2])
    assert (last["type"], last["sequence_number"]) == ("error", 50)


def test_an_event_of_very_many_lines_passes() -> None:
    """It is not put together; one of so many as are allowed is."""
    lines = json.dumps({"object": "error", "message": "x", "a": [0] * events.MOST_LINES}, indent=0).encode().splitlines()
    for most, start in ((False, 0), (True, 8)):
        data = b" ".join(lines[:start]).splitlines() + lines[start:]
        event = b"".join(b"data: " + line + b"\n" for line in data) + b"\n"
        assert (len(data) <= events.MOST_LINES) == most
        sent = b"".join(PLANS["chat"].events(iter([event])))
        assert (sent != event) == most


def test_a_key_with_escapes_behind_a_short_event_is_read() -> None:
    """As it is without the short event, behind which others are passed over."""
    escaped = re.sub(
        rb'"([a-z])(\w*":)', lambda key: b'"\\u%04x%b' % (ord(key[1]), key[2]), b'{"message":"Overloaded","code":"3505"}'
    )
    event = b"data: " + escaped + b"\n\n"
    for plan_ in (PLANS["chat"], PLANS["responses"]):
        alone = b"".join(plan_.events(iter([event])))
        assert alone != event
        assert b"".join(plan_.events(iter([b"data:1\n\n" + event]))) == b"data:1\n\n" + alone
