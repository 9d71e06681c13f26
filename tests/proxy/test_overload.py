"""More than a worker takes, and the end of workers: places, signals, the master's own timeout."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from servers import (
    DEADLINE,
    Answer,
    BadFraming,
    Gunicorn,
    Response,
    alive,
    ask,
    build_request,
    connect,
    eventually,
    read_response,
)
from upstream import (
    Exchange,
    Script,
    ScriptedUpstream,
    chain,
    event_bytes,
    head_bytes,
    in_turn,
    json_answer,
    no_reply,
    raw,
    reset,
    sse,
    sse_bytes,
    stall,
)

CHAT = "/v1/chat/completions"
ORIGIN = ("Origin", "https://chat.example.com")
PLACES = 4
WORKERS = {"gevent": (), "gthread": ("-k", "gthread", "--threads", "16")}

Start = Callable[..., Gunicorn]


@pytest.fixture(params=list(WORKERS))
def arguments(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The command line for each kind of worker."""
    return WORKERS[request.param]


@pytest.fixture
def narrow(arguments: tuple[str, ...], gunicorn_server: Start) -> Gunicorn:
    """One worker that takes four calls at a time."""
    return gunicorn_server(
        *arguments,
        WEB_CONCURRENCY=1,
        MISTRAL_FILTER_CONCURRENCY=PLACES,
        MISTRAL_FILTER_READ_TIMEOUT=3,
        MISTRAL_FILTER_BODY_TIMEOUT=1,
        MISTRAL_FILTER_SEND_TIMEOUT=1,
    )


def chat(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], **more}


@contextmanager
def held(server: Gunicorn, upstream: ScriptedUpstream, count: int) -> Iterator[Callable[[], list[Response]]]:
    """So many calls that the upstream has and does not answer; what is yielded lets it answer, and returns the answers."""
    release = threading.Event()

    def script(exchange: Exchange) -> None:
        for _ in range(1000):
            if release.wait(0.01):
                break
            exchange.sleep(0)
        json_answer({"held": True})(exchange)

    upstream.script = {"held": script}
    with ExitStack() as stack:
        socks = [stack.enter_context(connect(server.port)) for _ in range(count)]
        for sock in socks:
            sock.sendall(build_request("POST", CHAT, chat(model="held")))

        def finish() -> list[Response]:
            release.set()
            return [read_response(sock) for sock in socks]

        yield finish
        release.set()


def all_places_are_free(server: Gunicorn, upstream: ScriptedUpstream) -> None:
    """As many calls as there are places reach the upstream at once, and not one more."""

    def there() -> int:
        return sum(request.model == "held" for request in upstream.requests)

    def as_many_as_it_takes() -> bool:
        upstream.clear()
        with held(server, upstream, PLACES) as finish:
            try:
                eventually(lambda: there() == PLACES, timeout=2)
            except AssertionError:  # those who left just now are being noticed
                finish()
                return False
            assert ask(server.port, "POST", CHAT, chat()).status == 503
            assert [response.status for response in finish()] == [200] * PLACES
        return True

    eventually(as_many_as_it_takes, "all places to be free")


def test_beyond_the_places_calls_are_refused(narrow: Gunicorn, upstream: ScriptedUpstream) -> None:
    """503 in JSON with Retry-After, nothing upstream, /health answers; when a call has ended the next one is served."""
    with held(narrow, upstream, PLACES) as finish:
        upstream.wait(PLACES)
        calls = [("POST", CHAT, chat()), ("GET", "/v1/models", None), ("POST", "/v1/files", b"data")]
        calls += [("POST", "/explain/chat", chat())]
        for method, target, body in calls:
            response = ask(narrow.port, method, target, body, [ORIGIN])
            assert response.status == 503
            assert response.header("Retry-After") == "1"
            assert response.header("Access-Control-Allow-Origin") == "*"
            assert "retry-after" in (response.header("Access-Control-Expose-Headers") or "").lower()
            assert response.json()["error"]["code"] == "overloaded"
        assert ask(narrow.port, "GET", "/health").json() == {"status": "ok"}
        assert len(upstream.requests) == PLACES
        assert [response.json() for response in finish()] == [{"held": True}] * PLACES
    upstream.script = json_answer({"next": True})
    assert ask(narrow.port, "POST", CHAT, chat()).json() == {"next": True}


def test_a_body_on_its_way_holds_a_place(gunicorn_server: Start, upstream: ScriptedUpstream) -> None:
    """A call counts from its head on: a client whose body is half sent keeps the next one out, until it has left."""
    server = gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_CONCURRENCY=1)
    with connect(server.port) as sock:
        sock.sendall(build_request("POST", CHAT, chat())[:-1])
        eventually(lambda: ask(server.port, "POST", CHAT, chat()).status == 503, "the place to be taken")
    eventually(lambda: ask(server.port, "POST", CHAT, chat()).status == 200, "the place to be free")


def test_a_stream_holds_its_place_to_the_end(narrow: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Streams whose head has been passed on still count, until their last byte."""
    release = threading.Event()

    def script(exchange: Exchange) -> None:
        exchange.send(head_bytes(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]))
        exchange.chunk(b"data: 1\n\n")
        release.wait(DEADLINE)
        exchange.chunk(b"data: 2\n\n")
        exchange.send(b"0\r\n\r\n")

    upstream.script = script
    with ExitStack() as stack:
        streams = []
        for _ in range(PLACES):
            sock = stack.enter_context(connect(narrow.port))
            sock.sendall(build_request("POST", CHAT, chat(stream=True)))
            answer = Answer(sock)
            pieces = answer.pieces()
            assert next(pieces)[1] == b"data: 1\n\n"
            streams.append((answer, pieces))
        assert ask(narrow.port, "POST", CHAT, chat()).status == 503
        release.set()
        for answer, pieces in streams:
            assert b"".join(data for _, data in pieces) == b"data: 2\n\n"
            assert answer.complete
    upstream.script = json_answer({})
    eventually(lambda: ask(narrow.port, "POST", CHAT, chat()).status == 200, "a place")


# ------------------------------------------------------------------------------------------------------ nothing leaks

EVENTS = [{"n": 1}, {"n": 2}, "[DONE]"]
WIRE = sse_bytes(EVENTS)
EXTRA = {"detail": [{"type": "extra_forbidden", "loc": ["body", "temperature"], "msg": "Extra inputs are not permitted"}]}

ENDS: dict[str, Script] = {
    "whole": json_answer({"id": 1}),
    "no content": json_answer(None, 204),
    "large": json_answer("x" * 3_000_000),
    "stream": sse(EVENTS),
    "close-delimited": sse(EVENTS, framing="close"),
    "refused": json_answer({"detail": "no"}, 400),
    "limited": json_answer({"message": "slow down"}, 429, [("Retry-After", "1")]),
    "extra": in_turn(json_answer(EXTRA, 422), json_answer({"id": 1})),
    "no reply": no_reply,
    "reset": reset,
    "not HTTP": raw(b"no http\r\n\r\n"),
    "redirect": raw(head_bytes(302, [("Location", "/"), ("Content-Length", "0")])),
    "bad header": raw(head_bytes(200, [("X-\x00", "1"), ("Content-Length", "0")])),
    "cut head": raw(b"HTTP/1.1 200 OK\r\nContent-"),
    "cut whole": raw(head_bytes(200, [("Content-Type", "application/json"), ("Content-Length", "9")]) + b"{"),
    "cut stream": raw(WIRE[:-20]),
    "reset stream": chain(raw(WIRE[:-20]), reset),
    "silent": stall(),
    "silent stream": chain(raw(WIRE[:-20]), stall()),
    "finish error": json_answer({"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "error"}]}),
}

CLIENTS: dict[str, bytes] = {
    "cut body": build_request("POST", CHAT, chat())[:-4],
    "bad JSON": build_request("POST", CHAT, b"{"),
    "no key": build_request("POST", CHAT, chat(), [("Authorization", "Bearer ")]),
    "two keys": build_request("POST", CHAT, chat(), [("Authorization", "Bearer a,b")]),
    "HEAD": build_request("HEAD", "/v1/models"),
    "missing": build_request("POST", "/v1/images", {}),
    "bad upload": b"POST /v1/files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "cut upload": b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"a" * 70_000,
    "bad length": b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
}


def talk(port: int, request: bytes, leave: str = "") -> None:
    """Sends *request* and reads what comes, or leaves before: after the request, or after the first bytes."""
    with connect(port) as sock:
        sock.sendall(request)
        if leave == "at once":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if leave == "in the answer":
            with suppress(ConnectionError):
                sock.recv(1)
            return
        with suppress(BadFraming):  # some are answered by closing the connection
            read_response(sock, request.split(b" ")[0].decode())


@pytest.mark.parametrize("leave", ["", "at once", "in the answer"])
def test_places_are_given_back(narrow: Gunicorn, upstream: ScriptedUpstream, leave: str) -> None:
    """Every end that a call can take, three times as many as there are places, and all are free again."""
    upstream.script = dict(ENDS)
    requests = [build_request("POST", CHAT, chat(model=name, temperature=1, stream=True)) for name in ENDS]
    if not leave:
        requests += [request for name, request in CLIENTS.items() if not name.startswith("cut")]
    with ThreadPoolExecutor(PLACES) as pool:
        list(pool.map(partial(talk, narrow.port, leave=leave), requests))
    all_places_are_free(narrow, upstream)


def test_places_are_given_back_after_cut_requests(narrow: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Clients that end in the middle of what they send."""

    def cut(request: bytes) -> None:
        with connect(narrow.port) as sock:
            sock.sendall(request)

    for _ in range(2):
        for name, request in CLIENTS.items():
            if name.startswith("cut"):
                for _ in range(PLACES):
                    cut(request)
    all_places_are_free(narrow, upstream)


def test_two_hundred_mixed_calls_leak_nothing(narrow: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Good and bad ones, clients that stay and leave, in any order: then all places are free, and descriptors as before."""
    all_places_are_free(narrow, upstream)
    before = narrow.fds()
    quick = {name: script for name, script in ENDS.items() if not name.startswith("silent")}
    upstream.script = dict(quick)
    dice = random.Random(5)
    todo: list[tuple[bytes, str]] = []
    for _ in range(200):
        name = dice.choice([*quick, *CLIENTS])
        if name in CLIENTS:
            todo.append((CLIENTS[name], "at once" if name.startswith("cut") else ""))
        else:
            request = build_request("POST", CHAT, chat(model=name, stream=dice.random() < 0.5))
            todo.append((request, dice.choice(["", "", "at once", "in the answer"])))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: talk(narrow.port, *item), todo))
    all_places_are_free(narrow, upstream)
    upstream.drop()
    eventually(lambda: narrow.fds() <= before + PLACES, "the descriptors to be closed")


def test_a_refused_call_is_not_counted(narrow: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Many refusals while all places are taken change nothing afterwards."""
    with held(narrow, upstream, PLACES) as finish:
        upstream.wait(PLACES)
        for _ in range(3 * PLACES):
            assert ask(narrow.port, "POST", CHAT, chat()).status == 503
        finish()
    all_places_are_free(narrow, upstream)


# ------------------------------------------------------------------------------------------------------------- endings


@pytest.fixture
def own(tmp_path: Path, upstream: ScriptedUpstream, arguments: tuple[str, ...]) -> Callable[..., Gunicorn]:
    """A server that the test may end."""
    return lambda *more, **settings: Gunicorn(
        tmp_path, *arguments, *more, WEB_CONCURRENCY=1, MISTRAL_FILTER_UPSTREAM=upstream.url, **settings
    )


def two_events(release: threading.Event) -> Script:
    """A stream that waits for *release* between its two events."""

    def script(exchange: Exchange) -> None:
        exchange.send(head_bytes(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]))
        exchange.chunk(b"data: 1\n\n")
        for _ in range(3000):
            if release.wait(0.01):
                break
            exchange.sleep(0)
        exchange.chunk(event_bytes("[DONE]"))
        exchange.send(b"0\r\n\r\n")

    return script


def begin(server: Gunicorn, stack: ExitStack, model: str) -> tuple[Answer, Iterator[tuple[float, bytes]]]:
    """A stream of which the first event has come."""
    sock = stack.enter_context(connect(server.port))
    sock.sendall(build_request("POST", CHAT, chat(model=model, stream=True)))
    answer = Answer(sock)
    pieces = answer.pieces()
    assert next(pieces)[1] == b"data: 1\n\n"
    return answer, pieces


def refuses(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return False
    except OSError:
        return True


def test_sigterm_lets_short_streams_end_and_cuts_long_ones(
    own: Callable[..., Gunicorn], upstream: ScriptedUpstream, arguments: tuple[str, ...]
) -> None:
    """H4: no new connections; the short stream is whole, the long one visibly cut, its upstream freed, and the server ends."""
    short, never = threading.Event(), threading.Event()
    upstream.script = {"short": two_events(short), "long": two_events(never)}
    with own("--graceful-timeout", "3") as server, ExitStack() as stack:
        whole, whole_pieces = begin(server, stack, "short")
        cut, cut_pieces = begin(server, stack, "long")
        workers = server.workers()
        os.kill(server.pid, signal.SIGTERM)
        eventually(lambda: "Handling signal: term" in server.log(), "the signal")
        if not arguments:  # a threaded worker keeps its listener open to the end, and answers nobody on it
            eventually(lambda: refuses(server.port), "the server to take no more connections")
        short.set()
        assert b"".join(data for _, data in whole_pieces) == b"data: [DONE]\n\n"
        assert whole.complete is True
        rest = b"".join(data for _, data in cut_pieces)
        assert b"[DONE]" not in rest
        assert cut.complete is False
        server.process.wait(DEADLINE)
        assert not any(map(alive, workers))
        upstream.wait_left()
        assert server.process.returncode == 0
        assert refuses(server.port)
        assert "Traceback" not in server.log()


def test_an_idle_client_does_not_keep_a_worker_that_stops(own: Callable[..., Gunicorn], upstream: ScriptedUpstream) -> None:
    """Its connection ends at once, with no request on it, while a stream goes on to its end."""
    more = threading.Event()
    upstream.script = {"short": two_events(more)}
    with own() as server, ExitStack() as stack:
        whole, pieces = begin(server, stack, "short")
        idle = stack.enter_context(connect(server.port))
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"".join(data for _, data in Answer(idle).pieces()) == b'{"status":"ok"}'
        os.kill(server.pid, signal.SIGTERM)
        assert idle.recv(1) == b""
        assert not more.is_set()
        more.set()
        assert b"".join(data for _, data in pieces) == b"data: [DONE]\n\n"
        assert whole.complete is True
        server.process.wait(DEADLINE)
        assert server.process.returncode == 0


@pytest.mark.parametrize("arguments", [()], ids=["gevent"])
def test_a_request_on_its_way_to_a_worker_that_stops_is_served(own: Callable[..., Gunicorn]) -> None:
    """A client that was served a moment ago, and has begun to send: nobody gets an empty reply because of a reload."""
    with own() as server, connect(server.port) as sock:
        for later in (False, True):
            sock.sendall(b"GET /healthz HTTP/1.1\r\n")
            if later:
                os.kill(server.pid, signal.SIGTERM)
                time.sleep(1.2)  # stopping workers look at their connections each second
            sock.sendall(b"Host: a\r\n\r\n")
            answer = Answer(sock)
            assert b"".join(data for _, data in answer.pieces()) == b'{"status":"ok"}'
        assert ("Connection", "close") in answer.headers
        server.process.wait(DEADLINE)
        assert server.process.returncode == 0


@pytest.mark.parametrize("arguments", [()], ids=["gevent"])
def test_the_last_answer_of_a_worker_that_stops_says_so(own: Callable[..., Gunicorn], upstream: ScriptedUpstream) -> None:
    """Also to a request that came before: a client that kept the connection would lose its next request."""
    with own() as server, held(server, upstream, 1) as finish:
        upstream.wait(1)
        os.kill(server.pid, signal.SIGTERM)
        eventually(lambda: refuses(server.port), "the worker to stop")
        (answer,) = finish()
        assert (answer.status, answer.header("Connection")) == (200, "close")


STOPPED_WHILE_FORKED = """
import os
import signal
import time
from pathlib import Path

from mistral_filter.proxy.gunicorn_conf import *


def post_fork(server, worker):
    if Path({flag!r}).exists():
        os.kill(os.getppid(), signal.SIGTERM)
        while not (signal.sigpending() or server.SIG_QUEUE.qsize()):
            time.sleep(0.01)
"""


def test_a_worker_that_is_told_to_stop_as_it_is_forked_stops(own: Callable[..., Gunicorn], tmp_path: Path) -> None:
    """The signal comes before the worker has handlers: it is kept for them, and no graceful timeout passes."""
    config, flag = tmp_path / "config.py", tmp_path / "flag"
    config.write_text(STOPPED_WHILE_FORKED.format(flag=str(flag)))
    with own("-c", str(config), "--graceful-timeout", "600") as server:
        flag.touch()
        os.kill(server.pid, signal.SIGTTIN)  # one worker more
        server.process.wait(DEADLINE)
        assert server.process.returncode == 0
        assert server.log().count("Booting worker") == 2


def test_a_killed_worker_is_replaced(narrow: Gunicorn, upstream: ScriptedUpstream) -> None:
    """H5: SIGKILL in mid-stream: broken framing for the client, and a new worker serves the next request."""
    upstream.script = {"long": two_events(threading.Event())}
    with ExitStack() as stack:
        answer, pieces = begin(narrow, stack, "long")
        (worker,) = narrow.workers()
        os.kill(worker, signal.SIGKILL)
        assert list(pieces) == []
        assert answer.complete is False
        upstream.wait_left()
        assert ask(narrow.port, "POST", CHAT, chat()).json()["object"] == "echo"
        assert not alive(worker)
        assert worker not in narrow.workers()


@pytest.mark.parametrize("arguments", [()], ids=["gevent"])
def test_the_masters_timeout_does_not_kill_a_stream(own: Callable[..., Gunicorn], upstream: ScriptedUpstream) -> None:
    """H6: it is for workers that hang, not for streams that take more than twice as long, in silence for most of it."""
    events = [b"data: %d\n\n" % number for number in range(3)]
    upstream.script = sse(events, gap=2.2)
    with own("--timeout", "2") as server:
        (worker,) = server.workers()
        response = ask(server.port, "POST", CHAT, chat(stream=True))
        assert (response.body, response.complete) == (b"".join(events), True)
        assert server.workers() == [worker]


def test_requests_that_lie_ready_do_not_hold_up_others(
    gunicorn_server: Callable[..., Gunicorn], upstream: ScriptedUpstream
) -> None:
    """One client sends hundreds of requests at once, down one connection: another's is served before the last of them."""
    server = gunicorn_server(WEB_CONCURRENCY=1)
    many, one = build_request("POST", "/v1/embeddings", b"["), build_request("POST", "/v1/moderations", b"[")
    with connect(server.port) as greedy, connect(server.port) as modest:
        for sock in (greedy, modest):  # both are being served, on a path that is not counted: its line may come late
            sock.sendall(build_request("POST", "/v1/ocr", b"["))
            assert read_response(sock).status == 400
        start = len(server.log())
        greedy.sendall(many * 200)
        assert read_response(greedy).status == 400
        modest.sendall(one)
        assert read_response(modest).status == 400
        for _ in range(199):
            assert read_response(greedy).status == 400
    lines = eventually(lambda: paths_of(server.log()[start:]), "201 lines")
    assert lines.index("/v1/moderations") < len(lines) - 1


def paths_of(log: str) -> list[str]:
    """The paths of the requests in *log*; none before all of them are there."""
    found = re.findall(r" path=(/v1/(?:embeddings|moderations)) ", log)
    return found if len(found) == 201 else []
