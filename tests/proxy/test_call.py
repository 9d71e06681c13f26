"""One request's life in one object: closed once, kept by nothing, and its body read within its bounds."""

from __future__ import annotations

import gc
import io
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from mistral_filter.errors import BodyTimeout, ClientGone, Overloaded, UpstreamError
from mistral_filter.proxy import sockets
from mistral_filter.proxy.body import RequestBody
from mistral_filter.proxy.budget import SMALL_BODY, Budget, Held
from mistral_filter.proxy.call import Call, Timeouts, call_of
from mistral_filter.proxy.calls import Calls, Ended, close_connection
from mistral_filter.proxy.lingering import linger

MB = 1024 * 1024
App = Callable[[dict[str, Any], Any], Any]


def environ(**more: Any) -> dict[str, Any]:
    return {**EnvironBuilder(method="POST", data=b"x" * 100).get_environ(), **more}


def ignore(*_: Any) -> Any:
    return ignore


def answering(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"x"]


@pytest.fixture
def ended() -> list[Ended]:
    return []


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_nothing_keeps_a_call(without_collector: None) -> None:
    """A request that is over is freed at once, without the garbage collector: it holds no cycle."""
    app = Calls(answering)
    before = {id(thing) for thing in gc.get_objects() if isinstance(thing, Call)}
    for _ in range(5):
        response = app(environ(), ignore)
        assert list(response) == [b"x"]
        response.close()  # type: ignore[attr-defined]
    del response
    assert [thing for thing in gc.get_objects() if isinstance(thing, Call) and id(thing) not in before] == []


def test_a_call_ends_once_also_when_the_response_is_thrown_away(ended: list[Ended]) -> None:
    """Closed by the server, closed twice, or dropped without a word: its place is free and there is one line."""
    budget = Budget(calls=1)

    def taking(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        call_of(environ).take_place()
        return answering(environ, start_response)

    app = Calls(taking, budget=budget, report=ended.append)
    for count, leave in enumerate((lambda one: one.close(), lambda one: (one.close(), one.close()), lambda one: None), 1):
        leave(app(environ(), ignore))
        assert len(ended) == count
    budget.take_call()
    with pytest.raises(Overloaded):
        budget.take_call()


def test_an_application_that_raises_ends_its_call(ended: list[Ended]) -> None:
    """Whatever is raised goes on to the server, and the call is over."""

    def raising(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Calls(raising, report=ended.append)(environ(), ignore)
    assert [(one.status, one.ended) for one in ended] == [(500, "error")]


UNREAD: dict[str, tuple[dict[str, Any], bool]] = {
    "a short rest": ({"CONTENT_LENGTH": "100"}, False),
    "a short rest on a connection that ends": ({"CONTENT_LENGTH": "100", "HTTP_CONNECTION": "close"}, True),
    "a short rest of HTTP/1.0": ({"CONTENT_LENGTH": "100", "SERVER_PROTOCOL": "HTTP/1.0"}, True),
    "a long rest": ({"CONTENT_LENGTH": "100000"}, True),
    "a length beyond all bounds": ({"CONTENT_LENGTH": "9" * 19}, True),
    "a length that is none": ({"CONTENT_LENGTH": "1e3"}, True),
    "chunks": ({"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}, True),
    "no body": ({"CONTENT_LENGTH": ""}, False),
}


@pytest.mark.parametrize("name", list(UNREAD))
def test_a_connection_with_an_unread_body_is_closed(name: str) -> None:
    """Else the server would read the rest, however long, before the next request."""
    more, closes = UNREAD[name]
    closed: list[bool] = []
    token = close_connection.set(lambda: closed.append(True))
    try:
        Calls(answering)(environ(**more), ignore).close()  # type: ignore[attr-defined]
    finally:
        close_connection.reset(token)
    assert closed == [True] * closes


def test_a_body_that_was_read_leaves_the_connection() -> None:
    """By length to its last byte, in chunks to the empty read behind it."""
    for more in ({}, {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}):
        unread: list[bool] = []

        def reading(environ: dict[str, Any], start_response: Any, unread: list[bool] = unread) -> list[bytes]:
            assert environ["wsgi.input"].read() == b"x" * 100
            body = call_of(environ).body
            assert body is not None
            unread.append(body.unread)
            return answering(environ, start_response)

        Calls(reading)({**environ(**more), "wsgi.input": io.BytesIO(b"x" * 100)}, ignore).close()  # type: ignore[attr-defined]
        assert unread == [False]


def test_the_budget_counts_as_the_bytes_come() -> None:
    """Small bodies have a reserve of their own; a body that grows large leaves it; what is given back can be taken."""
    budget = Budget(body_bytes=8 * MB, max_body=4 * MB)  # 2 MB for small ones, 6 MB for large ones
    large = [Held(budget) for _ in range(3)]
    for held in large[:2]:
        held.add(3 * MB)
        assert held.large
    with pytest.raises(Overloaded) as caught:
        large[2].add(2 * MB)
    assert caught.value.code == "body_budget"
    small = Held(budget)
    small.add(SMALL_BODY)
    assert not small.large
    with pytest.raises(Overloaded):
        small.add(1)  # it would be a large one
    large[0].release()
    small.add(1)
    assert small.large
    for held in (*large, small, small):
        held.release()
    whole = Held(budget)
    whole.add(6 * MB)
    for _ in range(2):  # what the body that grew had of the reserve is free again
        Held(budget).add(SMALL_BODY)


def test_one_body_of_the_largest_size_always_has_room() -> None:
    """Also where the budget is set as low as that; the byte by which a body of unknown length is found too large as well."""
    Held(Budget(body_bytes=4 * MB, max_body=4 * MB)).add(4 * MB + 1)


def test_a_silent_client_is_not_lingered_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a 408 the socket is shut for reading and never waits: a second without a byte ends the lingering all the same."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr("mistral_filter.proxy.lingering.time", clock)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        client, _ = listener.accept()
        with client:
            client.shutdown(socket.SHUT_RD)
            linger(client, shut=True)
    assert 0 < clock.now < 2


class Slow:
    """A client's body that comes in pieces of 64 KiB, *seconds* apart, on a clock of its own."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 1000.0
        self.call: Call | None = None

    def monotonic(self) -> float:
        return self.now

    def read1(self, size: int) -> bytes:
        self.now += self.seconds
        assert self.call is not None
        if self.now > self.call.until:
            self.call.overdue(self.now)
            return b""
        return b"x" * min(size, 65536)

    read = readline = read1


@pytest.mark.parametrize(("seconds", "in_time"), [(0.5, True), (5.0, True), (7.0, False)])
def test_a_large_body_keeps_a_least_rate(monkeypatch: pytest.MonkeyPatch, seconds: float, in_time: bool) -> None:
    """Beyond 1 MB so much has to come in every 12 seconds, however long it takes in all; a small one has all its time."""
    for size, good in ((MB, True), (3 * MB, in_time)):
        source = Slow(seconds)
        monkeypatch.setattr("mistral_filter.proxy.body.time", source)
        call = source.call = Call(budget=Budget(body_bytes=16 * MB, max_body=8 * MB), timeouts=Timeouts(body=3600.0))
        body = RequestBody({**environ(), "wsgi.input": source, "CONTENT_LENGTH": str(size)}, call)
        with nullcontext() if good else pytest.raises(BodyTimeout):
            assert len(body.read()) == size


@pytest.mark.parametrize(
    ("wait", "error", "code"),
    [
        (lambda call: call.waits_for_body(0.0), BodyTimeout, "body_timeout"),
        (lambda call: call.waits_for_upstream(0.0), UpstreamError, "upstream_timeout"),
        (lambda call: call.waits_to_connect(0.0), UpstreamError, "upstream_connect_timeout"),
        (lambda call: call.waits_for_client(), ClientGone, "client_slow"),
    ],
)
def test_the_reason_is_what_the_call_waited_for(wait: Callable[[Call], None], error: type[Exception], code: str) -> None:
    """A deadline that passes ends the wait with the code for it, and nothing else overwrites it."""
    call = Call(timeouts=Timeouts(send=0.0))
    wait(call)
    call.overdue(1e12)
    call.client_left(1e12)
    with pytest.raises(error) as caught:
        call.check()
    assert caught.value.code == code  # type: ignore[attr-defined]


@pytest.mark.parametrize("wait", [Call.waits_for_upstream, Call.waits_to_connect])
def test_a_client_that_left_before_is_gone_at_the_next_wait(wait: Callable[[Call, float], None]) -> None:
    """While its body is read, a client that leaves is told by the body; if that was whole, nobody is asked for an answer."""
    call = Call()
    call.waits_for_body(1e12)
    call.client_left(0.0)
    assert call.reason is None
    wait(call, 1e12)
    with pytest.raises(ClientGone):
        call.check()


def test_a_connection_made_too_late_is_ended() -> None:
    """The watcher can end a call in the instant in which it gets a connection: nothing would end that wait any more."""
    call = Call(timeouts=Timeouts(total=0.0))
    call.overdue(1e12)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(10)
        call.attach(ours)
        assert theirs.recv(1) == b""


def test_the_watcher_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be started for the first call; then something it does fails: it still looks after what comes later."""
    looked = threading.Event()

    def fails(_: object) -> bool:
        raise RuntimeError

    def look(_: float) -> bool:
        looked.set()
        return False

    monkeypatch.setattr(sockets, "_own", {})
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        with pytest.raises(RuntimeError):
            sockets.watch(Call())
    sockets.every_interval(fails)
    sockets.every_interval(look)
    assert looked.wait(10)


FIRST_CALLS = """
from gevent import joinall, monkey, spawn
monkey.patch_all()
import threading
from mistral_filter.proxy import sockets
from mistral_filter.proxy.call import Call
joinall([spawn(sockets.watch, Call()) for _ in range(20)])
print([thread.name for thread in threading.enumerate()].count("mistral-filter-sockets"))
"""


def test_there_is_one_watcher_for_calls_that_come_at_once() -> None:
    """On gevent, starting a thread lets other requests run: each of the first ones started a watcher of its own."""
    run = subprocess.run([sys.executable, "-c", FIRST_CALLS], capture_output=True, text=True, check=True)
    assert run.stdout == "1\n"
