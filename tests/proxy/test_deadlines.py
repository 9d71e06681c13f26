"""Who does not come along is let go: clients that leave, stop or drip, upstreams that are silent or never end. Heartbeats.

On the shipped workers (gevent) and on threads. No test looks at how long something took: the settings are small, the waits long.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from openai import OpenAI
from servers import DEADLINE, Answer, Gunicorn, Response, ask, build_request, connect, eventually, read_response
from upstream import (
    Exchange,
    Framing,
    Script,
    ScriptedUpstream,
    chain,
    early,
    event_bytes,
    extra_bytes_after,
    full_backlog,
    head_bytes,
    json_answer,
    raw,
    sse,
    stall,
)

CHAT = "/v1/chat/completions"
ORIGIN = ("Origin", "https://chat.example.com")
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
WORKERS = {"gevent": (), "gthread": ("-k", "gthread", "--threads", "24")}
BEAT = b": keep-alive\n\n"
STREAM_HEAD = {
    "chunked": head_bytes(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]),
    "length": head_bytes(200, [("Content-Type", "text/event-stream"), ("Content-Length", "1000000")]),
    "close": head_bytes(200, [("Content-Type", "text/event-stream"), ("Connection", "close")]),
}

Start = Callable[..., Gunicorn]


@pytest.fixture(params=list(WORKERS))
def start(request: pytest.FixtureRequest, gunicorn_server: Start) -> Start:
    """One worker of each kind."""
    return partial(gunicorn_server, *WORKERS[request.param], WEB_CONCURRENCY=1)


@pytest.fixture
def patient(start: Start) -> Gunicorn:
    """Waits for the upstream longer than any test does, but for clients a second only."""
    return start(MISTRAL_FILTER_READ_TIMEOUT=3600, MISTRAL_FILTER_SEND_TIMEOUT=1, MISTRAL_FILTER_BODY_TIMEOUT=1)


@pytest.fixture(scope="module")
def full() -> Iterator[int]:
    """A port that takes no connection and refuses none."""
    with full_backlog() as port:
        yield port


@pytest.fixture
def hurried(start: Start, full: int) -> Gunicorn:
    """Gives an answer a second in all; the upstream "full" accepts no connection."""
    return start(
        MISTRAL_FILTER_CONNECT_TIMEOUT=3600,
        MISTRAL_FILTER_READ_TIMEOUT=3600,
        MISTRAL_FILTER_TOTAL_TIMEOUT=1,
        MISTRAL_FILTER_UPSTREAMS=f"full=http://127.0.0.1:{full}",
    )


@pytest.fixture
def beating(start: Start) -> Gunicorn:
    """Fills the silence of streams, and gives them up after three seconds."""
    return start(MISTRAL_FILTER_READ_TIMEOUT=3, MISTRAL_FILTER_HEARTBEAT=0.15)


def serves(server: Gunicorn, upstream: ScriptedUpstream) -> None:
    """The next request is served by the upstream."""
    upstream.script = json_answer({"next": True})
    assert ask(server.port, "POST", CHAT, BODY).json() == {"next": True}


def error_of(response: Response, status: int) -> dict[str, Any]:
    """The error of an answer of ours that a page can read."""
    assert (response.status, response.complete) == (status, True), response
    assert response.header("Access-Control-Allow-Origin") == "*"
    error: dict[str, Any] = response.json()["error"]
    return error


def together(server: Gunicorn, upstream: ScriptedUpstream, scripts: dict[str, Script], **options: Any) -> dict[str, Response]:
    """One request for each script, all at the same time, and their answers; the model of each is its name."""
    target, headers = options.get("target", CHAT), [ORIGIN, *options.get("headers", [])]
    upstream.script = dict(scripts)
    with ThreadPoolExecutor(len(scripts)) as pool:
        answers = pool.map(lambda name: ask(server.port, "POST", target, {**BODY, "model": name}, headers), scripts)
        return dict(zip(scripts, answers, strict=True))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# ------------------------------------------------------------------------------------------------- clients that leave


def by_fin(sock: socket.socket) -> None:
    sock.close()


def by_half(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


def by_reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


SILENCES: dict[str, tuple[Script, bytes]] = {
    "before the head": (stall(), b""),
    "in the head": (chain(raw(b"HTTP/1.1 200 OK\r\nContent-Le"), stall()), b""),
    "before the first event": (chain(raw(STREAM_HEAD["chunked"]), stall()), b""),
    "in a stream": (chain(raw(STREAM_HEAD["chunked"] + chunk(b"data: 1\n\n")), stall()), b"data: 1"),
    "in a stream without framing": (chain(raw(STREAM_HEAD["close"] + b"data: 1\n\n"), stall()), b"data: 1"),
    "in a whole body": (
        chain(raw(head_bytes(200, [("Content-Type", "application/json"), ("Content-Length", "99")]) + b'{"a":'), stall()),
        b"",
    ),
}
"""How the upstream falls silent, and what the client has until then."""


@pytest.mark.parametrize("leave", [by_fin, by_half, by_reset])
def test_clients_that_leave_free_the_upstream(
    patient: Gunicorn, upstream: ScriptedUpstream, leave: Callable[[socket.socket], None]
) -> None:
    """However they leave, and wherever the upstream is silent: it sees them go, and no answer ever looks complete."""
    upstream.script = {name: script for name, (script, _) in SILENCES.items()}
    came = dict.fromkeys(SILENCES, b"")
    with ExitStack() as stack:
        socks = {name: stack.enter_context(connect(patient.port)) for name in SILENCES}
        for name, sock in socks.items():
            sock.sendall(build_request("POST", CHAT, {**BODY, "model": name}))
        upstream.wait(len(SILENCES))
        for name, sock in socks.items():
            while SILENCES[name][1] not in came[name]:
                came[name] += sock.recv(65536) or pytest.fail(f"{name}: the answer ended early: {came[name]!r}")
        for sock in socks.values():
            leave(sock)
        upstream.wait_left(len(SILENCES))
        if leave is by_half:
            for name, sock in socks.items():
                with suppress(ConnectionError):
                    while data := sock.recv(65536):
                        came[name] += data
                assert b"\r\n0\r\n\r\n" not in came[name], name
                assert not came[name].startswith(b"HTTP/1.1 2") or b"chunked" in came[name], name
    upstream.wait_connections(0)
    serves(patient, upstream)


def read_nothing(exchange: Exchange) -> None:
    """Leaves the body of the request in its socket, and never answers."""
    exchange.sleep(60)


@pytest.mark.parametrize("how", ["length", "chunked"])
@pytest.mark.parametrize("leave", [by_fin, by_half, by_reset])
def test_a_client_that_leaves_in_an_upload_frees_the_upstream(
    patient: Gunicorn, upstream: ScriptedUpstream, leave: Callable[[socket.socket], None], how: str
) -> None:
    """Half an upload, and the client is gone: the upstream sees a request that was cut, at once."""
    framing, size = ("Content-Length: 10000000", 100_000) if how == "length" else ("Transfer-Encoding: chunked", 100_000)
    begun = threading.Event()

    def script(exchange: Exchange) -> None:
        exchange._connection._take(60_000, bytearray())
        begun.set()
        exchange.read_body()
        exchange.request.left = exchange.request.cut

    upstream.script = early(script)
    with connect(patient.port) as sock:
        sock.sendall(f"POST /v1/files HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
        sock.sendall(b"a" * size if how == "length" else chunk(b"a" * size))
        assert begun.wait(DEADLINE)
        leave(sock)
        eventually(lambda: upstream.requests[0].cut, "the upload to end")
    upstream.wait_connections(0)
    serves(patient, upstream)


def test_a_client_that_leaves_while_the_upstream_takes_no_more_of_its_upload(
    patient: Gunicorn, upstream: ScriptedUpstream
) -> None:
    """The proxy waits in a write, the client resets its connection: the upstream is freed all the same."""
    upstream.script = early(read_nothing)
    with connect(patient.port) as sock:
        sock.sendall(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        upstream.wait()
        sock.settimeout(0.5)
        with suppress(TimeoutError):
            while True:
                sock.sendall(b"a" * 1_000_000)
        by_reset(sock)
        # There is unread data in the upstream's socket, so it cannot see the end: what it can see is that nobody listens.
        eventually(lambda: not established(upstream), "the proxy to close its upstream connection")
    upstream.drop()
    serves(patient, upstream)


def established(upstream: ScriptedUpstream) -> bool:
    """Whether any connection of the upstream's still has an open other end (state 01 in Linux's table)."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table]
    return any(row[2].endswith(f":{upstream.port:04X}") and row[3] == "01" for row in rows[1:])


# --------------------------------------------------------------------------------- clients that stop reading or drip


@contextmanager
def deaf(port: int, request: bytes) -> Iterator[socket.socket]:
    """A client with the smallest receive buffer, which sent *request* and reads nothing by itself."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(DEADLINE)
        sock.connect(("127.0.0.1", port))
        sock.sendall(request)
        yield sock


def flood(kind: str) -> Script:
    """An answer without end."""

    def script(exchange: Exchange) -> None:
        exchange.head(200, [("Content-Type", kind), ("Transfer-Encoding", "chunked")])
        while True:
            exchange.chunk(b"data: " + b"x" * 60_000 + b"\n\n")

    return script


@pytest.mark.parametrize("kind", ["text/event-stream", "audio/mpeg"])
def test_a_client_that_stops_reading_is_cut(patient: Gunicorn, upstream: ScriptedUpstream, kind: str) -> None:
    """It is let go after the send timeout, the upstream with it; others are served meanwhile; what it has is visibly cut."""
    upstream.script = {CHAT: flood(kind), "/v1/models": json_answer({"other": True})}
    with deaf(patient.port, build_request("POST", CHAT, BODY)) as sock:
        upstream.wait()
        served = 0
        while not any(request.left for request in upstream.requests):
            assert ask(patient.port, "GET", "/v1/models").json() == {"other": True}
            served += 1
            assert served < 10_000
            time.sleep(0.02)
        assert served
        answer = Answer(sock)
        list(answer.pieces())
        assert answer.complete is False
    upstream.drop()
    serves(patient, upstream)


def test_the_deadline_needs_no_send_timeout(start: Start, upstream: ScriptedUpstream) -> None:
    """Without one a client may take its time, but not more than there is in all."""
    server = start(MISTRAL_FILTER_CONCURRENCY=1, MISTRAL_FILTER_SEND_TIMEOUT="off", MISTRAL_FILTER_TOTAL_TIMEOUT=1)
    upstream.script = {CHAT: flood("text/event-stream"), "/v1/models": json_answer({"other": True})}
    with deaf(server.port, build_request("POST", CHAT, BODY)):
        upstream.wait()
        eventually(lambda: ask(server.port, "GET", "/v1/models").status == 200, "the place is free")
    upstream.drop()
    serves(server, upstream)


@pytest.mark.parametrize("half_close", [True, False], ids=["half-closed", "deadline"])
def test_a_client_that_stops_reading_when_its_time_is_over_is_cut(
    start: Start, upstream: ScriptedUpstream, half_close: bool
) -> None:
    """Whatever else ended the request first: who takes nothing of what is being sent does not hold a place."""
    limit = {} if half_close else {"MISTRAL_FILTER_TOTAL_TIMEOUT": 1}
    server = start(MISTRAL_FILTER_CONCURRENCY=1, MISTRAL_FILTER_SEND_TIMEOUT=2, **limit)
    upstream.script = {CHAT: flood("text/event-stream"), "/v1/models": json_answer({"other": True})}
    with deaf(server.port, build_request("POST", CHAT, BODY)) as sock:
        upstream.wait()
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        eventually(lambda: ask(server.port, "GET", "/v1/models").status == 200, "the place is free")
    upstream.drop()
    serves(server, upstream)


def test_a_slow_reader_has_no_more_time_than_there_is(start: Start, upstream: ScriptedUpstream) -> None:
    """The total deadline is for what has come already, too: the answer is cut, visibly, and its place is free."""
    server = start(MISTRAL_FILTER_CONCURRENCY=1, MISTRAL_FILTER_SEND_TIMEOUT="off", MISTRAL_FILTER_TOTAL_TIMEOUT=1)
    upstream.script = {
        "/v1/embeddings": json_answer({"data": [{"embedding": [0.5] * 1000}] * 2500}),
        "/v1/models": json_answer({"other": True}),
    }
    with connect(server.port) as sock:
        sock.sendall(build_request("POST", "/v1/embeddings", {"model": "m", "input": "x", "encoding_format": "base64"}))
        answer = Answer(sock)
        pieces = answer.pieces()
        next(pieces)
        eventually(lambda: ask(server.port, "GET", "/v1/models").status == 200, "the place is free")
        list(pieces)
    assert (answer.status, answer.complete) == (200, False)
    serves(server, upstream)


def test_a_slow_but_steady_reader_gets_all_of_a_large_answer(patient: Gunicorn, upstream: ScriptedUpstream) -> None:
    """The send timeout is for those who stop: who goes on reading, a few megabytes a second, is not cut."""
    data = "x" * 10_000_000  # more than the kernel's buffers take off the server's hands
    upstream.script = json_answer(data)
    with connect(patient.port) as sock:
        sock.sendall(build_request("POST", CHAT, BODY))
        answer, size = Answer(sock), 0
        for _, piece in answer.pieces():
            size += len(piece)
            time.sleep(0.01)
    assert (size, answer.complete) == (len(data) + 2, True)


def test_silence_after_the_head_is_not_the_clients_fault(patient: Gunicorn, upstream: ScriptedUpstream) -> None:
    """An upstream that thinks between head and first event for longer than the send timeout: the stream comes whole."""
    stream = [{"n": 1}, "[DONE]"]
    upstream.script = chain(
        raw(STREAM_HEAD["chunked"]), stall(2.2), raw(b"".join(chunk(event_bytes(e)) for e in stream) + b"0\r\n\r\n")
    )
    response = ask(patient.port, "POST", CHAT, BODY)
    assert (response.body, response.complete) == (b"".join(map(event_bytes, stream)), True)


def test_an_upstream_that_takes_a_body_slowly_is_not_silent(start: Start, upstream: ScriptedUpstream) -> None:
    """The read timeout is for silence: it begins anew with all that the upstream takes of a large body."""
    server = start(MISTRAL_FILTER_READ_TIMEOUT=3)

    def script(exchange: Exchange) -> None:
        exchange.read_body(gap=0.015)
        json_answer({"bytes": len(exchange.request.body)})(exchange)

    upstream.script = early(script)
    large = {"model": "m", "messages": [{"role": "user", "content": "x" * (25 << 20)}]}
    response = ask(server.port, "POST", CHAT, large)
    assert (response.status, response.json()) == (200, {"bytes": len(upstream.requests[0].body)})


def drip(port: int, head: bytes, piece: bytes = b" ") -> Response:
    """The answer to a request whose body comes byte by byte, and never ends."""
    with connect(port) as sock:
        sock.sendall(head)
        end = time.monotonic() + DEADLINE
        while not select.select([sock], [], [], 0.05)[0]:
            assert time.monotonic() < end, "no answer while the body drips"
            with suppress(ConnectionError):
                sock.sendall(piece)
        return read_response(sock)


SLOW = {
    "chat": f"POST {CHAT}",
    "embeddings": "POST /v1/embeddings",
    "upload": "POST /v1/files",
    "explain": "POST /explain/chat",
}


def test_bodies_that_drip_are_refused(patient: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Byte by byte beyond the body timeout: 408 in JSON; the upstream never sees a whole request; others are served meanwhile."""
    ways = [("Content-Length: 100000", b" "), ("Transfer-Encoding: chunked", b"1\r\n \r\n")]
    cases = [(kind, *way) for kind in SLOW for way in ways]

    def dripped(case: tuple[str, str, bytes]) -> Response:
        head = f"{SLOW[case[0]]} HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\n{case[1]}\r\n\r\n"
        return drip(patient.port, head.encode(), case[2])

    with ThreadPoolExecutor(len(cases)) as pool:
        answers = {case: pool.submit(dripped, case) for case in cases}
        served = 0
        while not all(answer.done() for answer in answers.values()):
            assert ask(patient.port, "GET", "/v1/models").status == 200
            served += 1
            time.sleep(0.02)
        assert served
        for case, answer in answers.items():
            assert error_of(answer.result(), 408)["code"] == "body_timeout", case
    assert all(request.cut for request in upstream.requests if request.path != "/v1/models")
    serves(patient, upstream)


def test_an_upload_may_take_longer_than_the_body_timeout(patient: Gunicorn, upstream: ScriptedUpstream) -> None:
    """What is streamed up has its time for each piece, not for the whole."""
    piece, count = b"x" * 65536, 8
    with connect(patient.port) as sock:
        sock.sendall(f"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: {count * len(piece)}\r\n\r\n".encode())
        for _ in range(count):
            sock.sendall(piece)
            time.sleep(0.25)
        assert read_response(sock).status == 200
    assert upstream.requests[0].body == piece * count


REFUSED_UNREAD = {
    "compressed": (f"POST {CHAT}", "Content-Encoding: gzip", 415),
    "no path": ("POST /V1/chat/completions", "X-A: b", 404),
}


@pytest.mark.parametrize("case", REFUSED_UNREAD)
def test_refused_bodies_that_drip_are_not_waited_for(patient: Gunicorn, upstream: ScriptedUpstream, case: str) -> None:
    """What is refused unread is read away for so long, not until it ends."""
    line, header, status = REFUSED_UNREAD[case]
    for way, piece in [("Content-Length: 100000", b" "), ("Transfer-Encoding: chunked", b"1\r\n \r\n")]:
        head = f"{line} HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\n{header}\r\n{way}\r\n\r\n"
        error_of(drip(patient.port, head.encode(), piece), status)
    assert upstream.requests == []
    serves(patient, upstream)


def test_a_body_that_stops_is_refused(patient: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Half a body, then silence, the connection open: 408."""
    with connect(patient.port) as sock:
        sock.sendall(build_request("POST", CHAT, BODY, [ORIGIN])[:-5])
        assert error_of(read_response(sock), 408)["code"] == "body_timeout"
    assert upstream.requests == []
    serves(patient, upstream)


# ----------------------------------------------------------------------------------------------- deadlines of the upstream

LONG = [b"data: %d\n\n" % number for number in range(10_000)]


def test_a_dripped_head_ends_at_the_deadline(hurried: Gunicorn, upstream: ScriptedUpstream) -> None:
    """A head that comes byte by byte never breaks the silence rule; the total deadline ends it: 504, upstream freed."""
    upstream.script = raw(head_bytes(200, [("X-Long", "x" * 1000)]), size=1, gap=0.05)
    response = ask(hurried.port, "POST", CHAT, BODY, [ORIGIN])
    assert error_of(response, 504)["code"] == "upstream_deadline"
    upstream.wait_left()
    serves(hurried, upstream)


def test_an_endless_stream_ends_at_the_deadline(hurried: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Whole events, an error event, and then broken framing, however the upstream frames; the upstream is freed."""
    framings: tuple[Framing, ...] = ("chunked", "length", "close")
    scripts = {framing: sse(LONG, gap=0.05, framing=framing) for framing in framings}
    for framing, response in together(hurried, upstream, scripts).items():
        assert (response.status, response.complete) == (200, False), framing
        *events, last, rest = response.body.split(b"\n\n")
        assert rest == b"", framing
        assert [event + b"\n\n" for event in events] == LONG[: len(events)], framing
        assert events, framing
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_deadline"
    upstream.wait_left(len(scripts))
    serves(hurried, upstream)


def test_an_endless_event_ends_at_the_deadline(hurried: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Within an event no error event can be told from data: only the framing breaks."""
    upstream.script = chain(raw(STREAM_HEAD["close"] + b"data: 1\n\ndata: "), raw(b"x" * 10_000, size=1, gap=0.01))
    response = ask(hurried.port, "POST", CHAT, BODY)
    assert (response.status, response.complete) == (200, False)
    first, _, rest = response.body.partition(b"\n\n")
    assert first == b"data: 1"
    # what is held back to be looked at whole never went out, so that an event of ours could follow
    assert re.fullmatch(rb"(data: x*)?|data: \{.*\}\n\n", rest)
    upstream.wait_left()


def dripping(kind: str, framing: str) -> Script:
    """A body without end, two bytes at a time."""
    how = {"chunked": [("Transfer-Encoding", "chunked")], "length": [("Content-Length", "20000")], "close": []}[framing]

    def script(exchange: Exchange) -> None:
        exchange.head(200, [("Content-Type", kind), *how])
        for _ in range(10_000):
            exchange.chunk(b"ab") if framing == "chunked" else exchange.send(b"ab")
            exchange.sleep(0.05)

    return script


@pytest.mark.parametrize("target", ["/v1/audio/speech", CHAT])
def test_an_endless_body_ends_at_the_deadline(hurried: Gunicorn, upstream: ScriptedUpstream, target: str) -> None:
    """JSON that drips is a 504; anything else, already begun, ends with broken framing: never a clean end."""
    cases = {f"{kind} {framing}": (kind, framing) for kind in ("application/json", "audio/mpeg") for framing in STREAM_HEAD}
    scripts = {name: dripping(*case) for name, case in cases.items()}
    for name, response in together(hurried, upstream, scripts, target=target).items():
        if "json" in name:
            assert error_of(response, 504)["code"] == "upstream_deadline", name
        else:
            assert (response.status, response.complete) == (200, False), name
            assert set(response.body) <= set(b"ab"), name
    upstream.wait_left(len(scripts))
    serves(hurried, upstream)


def test_a_dripping_upload_ends_at_the_deadline(hurried: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Long before its body timeout: 504, and the upstream never sees it whole."""
    head = "POST /v1/files HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert error_of(drip(hurried.port, head.encode(), b"1\r\n \r\n"), 504)["code"] == "upstream_deadline"
    assert all(request.cut for request in upstream.requests)
    serves(hurried, upstream)


def test_connecting_ends_at_the_deadline(hurried: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Long before the connect timeout: 504, and it is not that timeout that the client is told of."""
    for _ in range(3):
        response = ask(hurried.port, "POST", "/full" + CHAT, BODY, [ORIGIN])
        assert error_of(response, 504)["code"] == "upstream_deadline"
    serves(hurried, upstream)


def test_a_deadline_that_is_not_reached_changes_nothing(hurried: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Quick answers on shared connections, for longer in all than one may take: every one is whole."""
    events = LONG[:3]
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        upstream.script = sse(events, gap=0.01)
        assert ask(hurried.port, "POST", CHAT, BODY, [("Authorization", "Bearer k")]).body == b"".join(events)
        time.sleep(0.1)
    assert upstream.accepted == 1


def test_silence_before_anything_was_passed_on_is_a_504(beating: Gunicorn, upstream: ScriptedUpstream) -> None:
    """The read timeout ends it, heartbeats or not, before the head, in it, and in JSON: it still can be a status."""
    scripts = {name: SILENCES[name][0] for name in ("before the head", "in the head", "in a whole body")}
    for name, response in together(beating, upstream, scripts).items():
        assert error_of(response, 504)["code"] == "upstream_timeout", name
    upstream.wait_left(len(scripts))
    serves(beating, upstream)


def test_silence_in_a_stream_ends_it(beating: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Longer than the read timeout: heartbeats until then, an error event, broken framing, upstream freed."""
    first = b"data: 1\n\n"
    scripts = {
        framing: chain(raw(head + (chunk(first) if framing == "chunked" else first)), stall())
        for framing, head in STREAM_HEAD.items()
    }
    for framing, response in together(beating, upstream, scripts).items():
        assert (response.status, response.complete) == (200, False), framing
        assert response.body.count(BEAT) >= 2, framing
        begin, _, end = response.body.replace(BEAT, b"").partition(b"\n\n")
        assert begin + b"\n\n" == first, framing
        assert json.loads(end.removeprefix(b"data: "))["error"]["code"] == "upstream_timeout"
    upstream.wait_left(len(scripts))
    serves(beating, upstream)


# ------------------------------------------------------------------------------------------------------------ heartbeats


def beaten(framing: str, pieces: list[bytes | float | threading.Event]) -> Script:
    """*pieces* as a stream; a number is so many seconds of silence, an event a silence until the client has set it."""

    def script(exchange: Exchange) -> None:
        length = sum(len(piece) for piece in pieces if isinstance(piece, bytes))
        exchange.send(STREAM_HEAD[framing].replace(b"1000000", b"%d" % length))
        for piece in pieces:
            if isinstance(piece, bytes):
                exchange.chunk(piece) if framing == "chunked" else exchange.send(piece)
            elif isinstance(piece, threading.Event):
                if not piece.wait(2.7):  # less than the read timeout
                    return
            else:
                exchange.sleep(piece)
        if framing == "chunked":
            exchange.send(b"0\r\n\r\n")

    return script


def read_beats(port: int, model: str, events: list[threading.Event], agent: str) -> tuple[bytes, bool | None]:
    """A stream and whether it was whole; sets the next of *events* after every second heartbeat."""
    waiting, body = list(events), b""
    with connect(port) as sock:
        sock.sendall(build_request("POST", CHAT, {**BODY, "model": model}, [("User-Agent", agent)]))
        answer = Answer(sock)
        for _, data in answer.pieces():
            body += data
            while waiting and body.count(BEAT) >= 2 * (len(events) - len(waiting) + 1):
                waiting.pop(0).set()
    return body, answer.complete


@pytest.mark.parametrize("agent", ["my-client", "mistral-client-python/3.7.0"])
def test_heartbeats_fill_the_silence_between_events(beating: Gunicorn, upstream: ScriptedUpstream, agent: str) -> None:
    """Before the first event, between two and before the end; without them the bytes are the upstream's."""
    seen = {framing: [threading.Event() for _ in range(3)] for framing in STREAM_HEAD}
    parts = [b"data: 1\n\n", b"data: 2\n\ndata: 3\n\n", b"data: [DONE]\n\n"]
    upstream.script = {
        framing: beaten(framing, [item for pair in zip(events, parts, strict=True) for item in pair])
        for framing, events in seen.items()
    }
    with ThreadPoolExecutor(len(seen)) as pool:
        answers = list(pool.map(lambda framing: read_beats(beating.port, framing, seen[framing], agent), seen))
    for framing, (body, complete) in zip(seen, answers, strict=True):
        assert body.replace(BEAT, b"") == b"".join(parts), framing
        assert complete, framing
        assert re.fullmatch(rb"(: keep-alive\n\n|data: [^\n]+\n\n)+", body), framing
        assert body.count(BEAT) >= 6, framing


SPLITS = [
    [b"data: {", b'"n": 1}\n\n'],
    [b"data: 1\n", b"\n"],
    [b"data: 1\n", b"data: 2\n", b"\n"],
    [b"data: 1\r\n\r", b"\n"],
    [b"data: 1\r\n", b"\r\n"],
    [b"data: 1\r", b"\r"],
    [b"event: a\n", b"data: 1\n\n"],
    [b": a com", b"ment\n\n"],
    [b"data: 0\n\nda", b"ta: 1\n\n"],
    ["data: é".encode()[:-1], "é\n\n".encode()[1:]],
]


def test_heartbeats_do_not_need_the_end_of_a_chunk(beating: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Silence after a chunk whose line end came late or in pieces, within the next one's length, and after it."""
    seen = [threading.Event() for _ in range(4)]

    def script(exchange: Exchange) -> None:
        exchange.send(STREAM_HEAD["chunked"] + b"9\r\ndata: 1\n\n")
        exchange.sleep(0.05)
        exchange.send(b"\r")
        seen[0].wait(2.7)
        exchange.send(b"\n")
        exchange.sleep(0.05)
        exchange.send(b"000")
        seen[1].wait(2.7)
        exchange.send(b"0")
        exchange.sleep(0.05)
        exchange.send(b"9;a=b\r\n")
        seen[2].wait(2.7)
        for byte in b"data: 2\n\n\r\n0":
            exchange.send(bytes((byte,)))
            exchange.sleep(0.005)
        seen[3].wait(2.7)
        exchange.send(b"\r\n\r\n")

    upstream.script = script
    body, complete = read_beats(beating.port, "m", seen, "my-client")
    assert all(event.is_set() for event in seen)
    assert (body.replace(BEAT, b""), complete) == (b"data: 1\n\ndata: 2\n\n", True)


@pytest.mark.parametrize("agent", ["my-client", "mistral-client-python/3.7.0"])
def test_no_heartbeat_inside_an_event(beating: Gunicorn, upstream: ScriptedUpstream, agent: str) -> None:
    """Silence in the middle of an event, wherever it is cut: the bytes of each event come through in one piece."""
    cases = {f"{framing} {n}": (framing, parts) for framing in ("chunked", "close") for n, parts in enumerate(SPLITS)}
    scripts = {name: beaten(framing, split_at(parts)) for name, (framing, parts) in cases.items()}
    answers = together(beating, upstream, scripts, headers=[("User-Agent", agent)])
    for name, (_, parts) in cases.items():
        body, whole = answers[name].body, b"".join(parts)
        assert answers[name].complete, (name, body)
        assert body.replace(BEAT, b"") == whole, (name, body)
        for event in re.split(rb"(?<=\n\n)", whole):
            assert event in body, (name, body)


def split_at(parts: list[bytes]) -> list[bytes | float | threading.Event]:
    return [parts[0], *(item for part in parts[1:] for item in (0.5, part))]


def test_heartbeats_only_on_readable_event_streams(beating: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Silent gzip streams, audio and JSON pass byte for byte."""
    packed = gzip.compress(b"data: 1\n\n" * 10)
    chunked = ("Transfer-Encoding", "chunked")

    def silent(headers: list[tuple[str, str]], parts: list[bytes]) -> Script:
        def script(exchange: Exchange) -> None:
            exchange.head(200, [*headers, chunked])
            for part in parts:
                exchange.chunk(part)
                exchange.sleep(0.7)
            exchange.send(b"0\r\n\r\n")

        return script

    scripts = {
        "gzip": silent([("Content-Type", "text/event-stream"), ("Content-Encoding", "gzip")], [packed[:9], packed[9:]]),
        "audio": silent([("Content-Type", "audio/mpeg")], [b"ab\n\n", b"cd\n\n"]),
        "json": silent([("Content-Type", "application/json")], [b'{"a":\n\n', b"1}"]),
        "text": silent([("Content-Type", "text/plain")], [b"data: 1\n\n", b"data: 2\n\n"]),
    }
    wanted = {"gzip": packed, "audio": b"ab\n\ncd\n\n", "json": b'{"a":\n\n1}', "text": b"data: 1\n\ndata: 2\n\n"}
    agent = ("User-Agent", "mistral-client-python/3.7.0")
    for name, response in together(beating, upstream, scripts, headers=[agent]).items():
        assert (name, response.body, response.complete) == (name, wanted[name], True)


def test_the_openai_sdk_does_not_notice_heartbeats(beating: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Its chunks are those that it gets from the upstream directly."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas: list[tuple[object, str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": "two "}, None), ({"content": "words"}, "stop")]
    chunks = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} for delta, reason in deltas]
    events = [*map(event_bytes, chunks), b"data: [DONE]\n\n"]
    results = []
    for server, silence in ((upstream, 0), (beating, 0.4)):
        upstream.script = beaten("chunked", [item for event in events for item in (event, silence)])
        with OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0) as client:
            stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
            results.append([chunk.model_dump() for chunk in stream])
    assert results[0] == results[1]
    assert len(results[0]) == len(chunks)


# ------------------------------------------------------------------------------------------- and nobody else is disturbed


def test_shared_connections_survive_clients_that_leave(patient: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Hundreds of short requests of two callers, a third of whose clients leave at some moment: who stays gets his own answer."""

    def script(exchange: Exchange) -> None:
        model = exchange.request.model
        exchange.sleep(float(str(model).split("/")[1]))
        if exchange.request.json().get("stream"):
            sse([{"model": model}, "[DONE]"], gap=0.01)(exchange)
        else:
            json_answer({"model": model, "key": exchange.request.header("Authorization")})(exchange)

    upstream.script = script

    def client(number: int) -> int:
        dice, answered = random.Random(number), 0
        for turn in range(16):
            model = f"{number}-{turn}/{dice.choice([0, 0, 0, 0.01, 0.3])}"
            stream = dice.random() < 0.3
            key = ("Authorization", f"Bearer {number % 2}")
            request = build_request("POST", CHAT, {**BODY, "model": model, "stream": stream}, [key])
            with connect(patient.port) as sock:
                sock.sendall(request)
                if dice.random() < 0.33:
                    time.sleep(dice.choice([0, 0.005, 0.1, 0.26]))
                    dice.choice([by_fin, by_half, by_reset])(sock)
                    continue
                response = read_response(sock)
            assert response.complete, response
            if stream:
                assert response.body == event_bytes({"model": model}) + b"data: [DONE]\n\n"
            else:
                assert response.json() == {"model": model, "key": f"Bearer {number % 2}"}
            answered += 1
        return answered

    with ThreadPoolExecutor(8) as pool:
        answered = sum(pool.map(client, range(8)))
    assert answered > 50
    assert len({request.connection for request in upstream.requests}) < len(upstream.requests), "connections are shared"
    serves(patient, upstream)


def test_bytes_that_nobody_asked_for_reach_nobody(patient: Gunicorn, upstream: ScriptedUpstream) -> None:
    """An upstream that sends more than its answer, a moment after it: whoever comes next gets his own answer."""

    def script(exchange: Exchange) -> None:
        answer = json_answer({"model": exchange.request.model})
        (extra_bytes_after(answer) if exchange.request.json()["stream"] else answer)(exchange)

    upstream.script = script

    def client(number: int) -> None:
        with connect(patient.port) as sock:
            for turn in range(60):
                body = {**BODY, "model": f"{number}-{turn}", "stream": turn % 3 == 0}
                sock.sendall(build_request("POST", CHAT, body, [("Authorization", f"Bearer caller-{number}")]))
                assert read_response(sock).json() == {"model": f"{number}-{turn}"}

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(client, range(4)))
