"""Memory: what requests leave behind, and how many bytes of bodies a worker holds at once.

The workers of the first part never collect cycles, so that what a refused request leaves in one stays for good and is seen,
however the collector is tuned.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any

import pytest
from servers import (
    DEADLINE,
    Answer,
    BadFraming,
    Gunicorn,
    Probe,
    Response,
    ask,
    build_request,
    connect,
    eventually,
    read_response,
)
from upstream import Exchange, Script, ScriptedUpstream, early, head_bytes, json_answer, no_reply, reset, sse, stall

CHAT = "/v1/chat/completions"
ORIGIN = ("Origin", "https://x.example")
KEY = ("Authorization", "Bearer caller-key")
MEGABYTE = 1_000_000
HEALTH = build_request("GET", "/health")
WORKERS = {"gevent": (), "gthread": ("-k", "gthread", "--threads", "16")}
IN_THREADS = ["aborted", "broken chunks", "silent", "invalid JSON", "no reply", "gone before the answer"]
"""The ends of requests that a threaded worker is tried with too; the gevent worker is tried with all."""

Start = Callable[..., Gunicorn]
Run = Callable[[int], None]
"""What a client does, given the server's port."""


def chat(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], **more}


def body_of(size: int, **more: object) -> bytes:
    """A chat body of about *size* bytes, nearly all of them one message."""
    return filled(chat(messages=[{"role": "user", "content": "@"}], **more), b"x" * size)


def filled(body: dict[str, object], text: bytes) -> bytes:
    """*body* as JSON, with *text* in place of its only "@". To encode a long text as JSON takes longer than to send it."""
    before, after = json.dumps(body).encode().split(b"@")
    return before + text + after


def head_of(target: str, length: int | None, *headers: tuple[str, str]) -> bytes:
    """A POST's head; without a length the body is chunked."""
    framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
    lines = [f"POST {target} HTTP/1.1", "Host: x", "Content-Type: application/json"]
    return "\r\n".join([*lines, *(": ".join(pair) for pair in (KEY, framing, *headers)), "", ""]).encode()


def chunked(body: bytes, size: int = MEGABYTE) -> bytes:
    """*body* in chunks, without the last one."""
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def leave(sock: socket.socket, by_reset: bool) -> None:
    """Close, with FIN or with RST."""
    if by_reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_if_any(sock: socket.socket) -> Response | None:
    """The response, or None where the connection ended without one."""
    try:
        return read_response(sock)
    except (BadFraming, ConnectionError):
        return None


# ------------------------------------------------------------------------------------------- nothing outlives its request


@pytest.fixture(scope="module")
def without_collector(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """How a server is started whose workers never look for cycles."""
    directory = tmp_path_factory.mktemp("without-collector")
    (directory / "nogc.py").write_text("import gc\n\ngc.disable()\n\nfrom app import app  # noqa: E402, F401\n")
    return {"app": "nogc:app", "PYTHONPATH": directory}


@pytest.fixture
def leaky(worker: str, gunicorn_server: Start, without_collector: dict[str, Any], upstream: ScriptedUpstream) -> Gunicorn:
    """One worker that keeps every cycle."""
    server = gunicorn_server(
        *WORKERS[worker],
        WEB_CONCURRENCY=1,
        MISTRAL_FILTER_MAX_BODY="12m",
        MISTRAL_FILTER_READ_TIMEOUT=2,
        MISTRAL_FILTER_BODY_TIMEOUT=2,
        MISTRAL_FILTER_SEND_TIMEOUT=2,
        **without_collector,
    )
    return server


def cut(target: str, body: bytes, by_reset: bool = False, in_chunks: bool = False) -> Run:
    """A client that leaves before the last tenth."""
    head = head_of(target, None if in_chunks else len(body))
    part = body[: len(body) // 10 * 9]

    def run(port: int) -> None:
        with connect(port) as sock, suppress(ConnectionError):
            sock.sendall(head + (chunked(part) if in_chunks else part))
            time.sleep(0.02)
            leave(sock, by_reset)

    return run


def answered(status: int, *request: bytes) -> Run:
    """A request that is answered so."""

    def run(port: int) -> None:
        with connect(port) as sock:
            for part in request:
                sock.sendall(part)
            assert read_response(sock).status == status

    return run


def gone(*request: bytes) -> Run:
    """A client that sends all and leaves before the answer."""

    def run(port: int) -> None:
        with connect(port) as sock:
            for part in request:
                sock.sendall(part)
            time.sleep(0.05)

    return run


def whole(target: str, body: bytes, *headers: tuple[str, str]) -> tuple[bytes, bytes]:
    """Head and body of a request."""
    return head_of(target, len(body), *headers), body


EXTRA = {"detail": [{"type": "extra_forbidden", "loc": ["body", "temperature"], "msg": "Extra inputs are not permitted"}]}


@cache
def leftovers(size: int) -> dict[str, tuple[Run, Script | None]]:
    """Ways in which requests with bodies of *size* bytes end, and the script of the upstream for each.

    The bodies that are too large are larger by half.
    """
    good, large = body_of(size), b"x" * (size * 3 // 2)
    part, binary = good[: size // 10 * 9], b"\x00" * (size // 10 * 9)
    head, open_head = head_of(CHAT, len(good)), head_of(CHAT, None)
    stream = body_of(size, stream=True)
    return {
        "aborted": (cut(CHAT, good), None),
        "reset": (cut(CHAT, good, by_reset=True), None),
        "aborted in chunks": (cut(CHAT, good, in_chunks=True), None),
        "aborted upload": (cut("/v1/files", good), None),
        "reset upload in chunks": (cut("/v1/files", good, by_reset=True, in_chunks=True), None),
        "broken chunks": (answered(400, open_head, chunked(part), b"zz\r\n"), None),
        "silent": (answered(408, head, part), None),
        "too large in chunks": (answered(413, open_head, chunked(large), b"0\r\n\r\n"), None),
        "too large": (answered(413, *whole(CHAT, large)), None),
        "invalid JSON": (answered(400, *whole(CHAT, good[:-1])), None),
        "invalid at its start": (answered(400, *whole(CHAT, b"x" + good)), None),
        "invalid UTF-8": (answered(400, *whole(CHAT, good[:-5] + b'\xff"}]}')), None),
        "not an object": (answered(400, *whole(CHAT, b"[" + good + b"]")), None),
        "binary": (answered(400, *whole(CHAT, binary)), None),
        "no such path": (answered(404, *whole("/nowhere", binary)), None),
        "compressed": (answered(415, *whole(CHAT, binary, ("Content-Encoding", "gzip"))), None),
        "strict": (answered(400, *whole(CHAT, body_of(size, no_such=1), ("Mistral-Filter-Strict", "on"))), None),
        "no reply": (answered(502, *whole(CHAT, good)), no_reply),
        "upstream reset": (answered(502, *whole(CHAT, good)), early(reset)),
        "upstream silent": (answered(504, *whole(CHAT, good)), stall(2 * DEADLINE)),
        "refused by the upstream": (answered(422, *whole(CHAT, good)), json_answer({"detail": "no"}, 422)),
        "sent twice": (answered(422, *whole(CHAT, body_of(size, temperature=1))), json_answer(EXTRA, 422)),
        "gone before the answer": (gone(*whole(CHAT, good)), stall(2 * DEADLINE)),
        "gone in the stream": (gone(*whole(CHAT, stream)), sse(["a"] * 200, gap=0.05)),
        "cut stream": (answered(200, *whole(CHAT, stream)), sse(["a", "b"], cut_at=5)),
    }


def gives_back(server: Gunicorn, most: int) -> bool:
    """Whether the memory of *server* falls below *most* bytes; some of it is given back a moment later."""
    with suppress(AssertionError):
        return eventually(lambda: server.rss() < most, timeout=10)
    return False


SLOW = {"silent", "upstream silent"}
ENDS = [("gevent", name) for name in leftovers(100)] + [("gthread", name) for name in IN_THREADS]


@pytest.mark.parametrize(("worker", "name"), ENDS)
def test_nothing_of_a_request_outlives_it(leaky: Gunicorn, upstream: ScriptedUpstream, name: str) -> None:
    """M2: bodies of 9 MB that are refused, cut or aborted, six times and more: the memory is given back without the collector."""
    run, script = leftovers(9 * MEGABYTE)[name]
    if script is not None:
        upstream.script = script
    at_once = 2 if name in SLOW else 1
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(run, [leaky.port] * at_once))  # the heap has met as much before
        grown = []
        while len(grown) < 3 and all(grown):  # what malloc keeps of what was freed, up to 32 MiB, it keeps once
            before = leaky.rss()
            list(pool.map(run, [leaky.port] * 6))
            grown.append(not gives_back(leaky, before + 27 * MEGABYTE))
    assert not grown[-1], "54 MB went in three times, and each time more than half of it was kept"
    upstream.script = json_answer({})
    assert ask(leaky.port, "POST", CHAT, chat(), [KEY]).status == 200


def long_texts(text: str) -> dict[str, dict[str, object]]:
    """Bodies with *text* in every place that a report, a table or a cache could keep it from."""
    function = {"name": "f", "parameters": {}}
    return {
        "a field": chat(**{text: 1}),
        "a field of a message": chat(messages=[{"role": "user", "content": "x", text: 1}]),
        "a field of a function": chat(tools=[{"type": "function", "function": {**function, text: 1}}]),
        "a tool's type": chat(tools=[{"type": text, "function": function}]),
        "a tool's name": chat(tools=[{"type": "function", "function": {**function, "name": text}}]),
        "a role": chat(messages=[{"role": text, "content": "x"}]),
        "a part's type": chat(messages=[{"role": "user", "content": [{"type": text}]}]),
        "a choice": chat(tool_choice=text),
        "an effort": chat(reasoning_effort=text),
        "a format": chat(response_format={"type": text}),
        "a model": chat(model=text, temperature=1),
    }


@pytest.mark.parametrize("place", list(long_texts("")))
def test_no_text_of_a_caller_is_kept(gunicorn_server: Start, upstream: ScriptedUpstream, place: str) -> None:
    """M3: eight texts of 4 MB, all different, in the places where names stand: none of them is kept after its request."""
    server = gunicorn_server(WEB_CONCURRENCY=1)
    refused = json_answer(EXTRA, 422)  # it teaches something of a model

    def run(numbers: range) -> None:
        for number in numbers:
            upstream.clear()
            upstream.script = lambda exchange: (refused if b"temperature" in exchange.request.body else json_answer({}))(exchange)
            body = filled(long_texts("@")[place], f"{place}{number:04}".ljust(4 * MEGABYTE, "k").encode())
            assert ask(server.port, "POST", CHAT, body, [KEY]).status < 500

    run(range(2))
    before = server.rss()
    run(range(2, 10))
    eventually(lambda: server.rss() < before + 16 * MEGABYTE, f"the memory ({before}, {server.rss()})")


# -------------------------------------------------------------------------------------------- half-sent and waiting bodies


def test_half_sent_bodies_are_bounded(gunicorn_server: Start, upstream: ScriptedUpstream) -> None:
    """M6: thirty clients send 15 of 20 MB and stop: a few are held, the others refused; those get their 408 early.

    Early is long before the body timeout, which is an hour here. While they are held small requests are served, and after the
    408s a large one is.
    """
    server = gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_BODY_TIMEOUT=3600)  # its own: memory is measured from the start
    assert ask(server.port, "POST", CHAT, body_of(20 * MEGABYTE), [KEY]).status == 200
    before, peak = server.rss(), 0
    part = body_of(20 * MEGABYTE)
    head, part = head_of(CHAT, len(part), ORIGIN), part[: 15 * MEGABYTE]

    def send(_: int) -> Response | None:
        with connect(server.port) as sock:
            with suppress(ConnectionError):
                sock.sendall(head + part)
            return read_if_any(sock)

    small = build_request("POST", CHAT, body_of(900_000), [KEY])
    with ThreadPoolExecutor(31) as pool, Probe(server.port, HEALTH, small, gap=0.2) as probe:
        clients = [pool.submit(send, number) for number in range(30)]
        served = 0
        while not all(client.done() for client in clients):
            peak = max(peak, server.rss())
            served = len(probe.answers)
            time.sleep(0.05)
        answers = [client.result() for client in clients]  # a TimeoutError: the 408s did not come early
        large = ask(server.port, "POST", CHAT, body_of(20 * MEGABYTE), [KEY])
    assert peak - before < 150 * MEGABYTE
    assert large.status == 200
    probe.check()
    assert served >= 6
    refused = [answer for answer in answers if answer is not None and answer.status == 503]
    late = [answer for answer in answers if answer is not None and answer.status == 408]
    assert len(refused) >= 20
    assert 1 <= len(late) <= 4
    for answer in refused:
        assert answer.json()["error"]["code"] == "body_budget"
        assert int(answer.header("Retry-After") or "0") > 0
        assert answer.header("Access-Control-Allow-Origin") == "*"
    assert {answer.json()["error"]["code"] for answer in late} == {"body_timeout"}


def test_bodies_that_wait_for_the_upstream_are_bounded(gunicorn_server: Start, upstream: ScriptedUpstream) -> None:
    """M6: whole bodies of 15 MB whose calls are under way count too."""
    server = gunicorn_server(WEB_CONCURRENCY=1, CASE="waiting")
    assert ask(server.port, "POST", CHAT, body_of(15 * MEGABYTE), [KEY]).status == 200
    before, peak = server.rss(), 0
    held = body_of(15 * MEGABYTE, model="held")

    def script(exchange: Exchange) -> None:
        exchange.sleep(3)
        json_answer({})(exchange)

    upstream.script = {"held": script}
    with ThreadPoolExecutor(20) as pool:
        request = build_request("POST", CHAT, held, [KEY])

        def send(_: int) -> Response | None:
            with connect(server.port) as sock:
                with suppress(ConnectionError):
                    sock.sendall(request)
                return read_if_any(sock)

        clients = [pool.submit(send, number) for number in range(20)]
        while not all(client.done() for client in clients):
            peak = max(peak, server.rss())
            time.sleep(0.05)
        answers = [client.result() for client in clients]
    statuses = [None if answer is None else answer.status for answer in answers]
    assert set(statuses) <= {200, 503, None}, statuses
    assert statuses.count(200) >= 1
    assert statuses.count(503) >= 10
    assert peak - before < 250 * MEGABYTE
    assert ask(server.port, "POST", CHAT, body_of(20 * MEGABYTE), [KEY]).status == 200


@pytest.fixture
def tight(worker: str, gunicorn_server: Start) -> Gunicorn:
    """One worker with room for one body of 3 MB."""
    return gunicorn_server(
        *WORKERS[worker],
        WEB_CONCURRENCY=1,
        MISTRAL_FILTER_MAX_BODY="4m",
        MISTRAL_FILTER_BODY_BUDGET="4m",
        MISTRAL_FILTER_READ_TIMEOUT=2,
        MISTRAL_FILTER_BODY_TIMEOUT=2,
        MISTRAL_FILTER_SEND_TIMEOUT=2,
    )


LARGE = 3 * MEGABYTE


def large(port: int) -> Response | None:
    """A good body of 3 MB."""
    with connect(port) as sock:
        with suppress(ConnectionError):
            sock.sendall(b"".join(whole(CHAT, body_of(LARGE), ORIGIN)))
        return read_if_any(sock)


@contextmanager
def half_sent(server: Gunicorn, in_chunks: bool = False) -> Iterator[None]:
    """A request of which nearly 3 MB have come, and are held; it is over after the body timeout."""
    part = body_of(LARGE)[: -LARGE // 10]
    with connect(server.port) as sock:
        sock.sendall(head_of(CHAT, None if in_chunks else LARGE) + (chunked(part) if in_chunks else part))
        time.sleep(0.3)
        yield


def refused_for_room(answer: Response | None) -> None:
    """It is the 503 of a full budget."""
    assert answer is not None
    assert answer.status == 503
    assert answer.json()["error"]["code"] == "body_budget"
    assert answer.header("Retry-After")
    assert answer.header("Access-Control-Allow-Origin") == "*"


@pytest.mark.parametrize("worker", list(WORKERS))
def test_a_full_budget_refuses_large_bodies_only(tight: Gunicorn, upstream: ScriptedUpstream) -> None:
    """M6: beside a half-sent body of 3 MB another one gets 503 ``body_budget``, small ones are served; then it is served."""
    for in_chunks in (False, True):
        with half_sent(tight, in_chunks):
            refused_for_room(large(tight.port))
            for size in (10, 100_000, 900_000):
                assert ask(tight.port, "POST", CHAT, body_of(size), [KEY]).status == 200
        eventually(lambda: (answer := large(tight.port)) is not None and answer.status == 200, "the budget")


@pytest.mark.parametrize("worker", ["gevent"])
def test_a_body_counts_until_the_upstream_has_it(tight: Gunicorn, upstream: ScriptedUpstream) -> None:
    """While one request of 3 MB is answered by a stream, another one of 3 MB is served."""
    release = threading.Event()

    def stream(exchange: Exchange) -> None:
        exchange.send(head_bytes(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]))
        exchange.chunk(b"data: 1\n\n")
        for _ in range(6000):
            if release.wait(0.01):
                break
            exchange.sleep(0)
        exchange.send(b"0\r\n\r\n")

    upstream.script = {"stream": stream}
    with connect(tight.port) as sock:
        sock.sendall(build_request("POST", CHAT, body_of(LARGE, model="stream"), [KEY]))
        answer = Answer(sock)
        pieces = answer.pieces()
        assert next(pieces)[1] == b"data: 1\n\n"
        second = large(tight.port)
        assert second is not None
        assert second.status == 200
        release.set()
        assert (list(pieces), answer.complete) == ([], True)


@pytest.mark.parametrize("worker", ["gevent"])
def test_an_upload_counts_for_nothing(tight: Gunicorn, upstream: ScriptedUpstream) -> None:
    """It is held by nobody, so that one of twice the budget is passed on."""
    assert ask(tight.port, "POST", "/v1/files", b"x" * 3 * LARGE, [KEY]).status == 200
    assert len(upstream.requests[0].body) == 3 * LARGE


@pytest.mark.parametrize(("worker", "name"), [end for end in ENDS if end[0] == "gevent"])
def test_every_end_gives_its_bytes_back(tight: Gunicorn, upstream: ScriptedUpstream, name: str) -> None:
    """M6: whatever way requests of 3 MB end, one of 3 MB is served afterwards, and the budget still holds."""
    run, script = leftovers(LARGE + 100_000)[name]
    if script is not None:
        upstream.script = script
    # the one before may be seen as gone a moment later
    eventually(lambda: large_fits(tight, upstream, script), "the budget")
    run(tight.port)
    eventually(lambda: large_fits(tight, upstream, script), "the budget")
    with half_sent(tight):  # it has not been given back twice
        answer = large(tight.port)
    refused_for_room(answer)


def large_fits(server: Gunicorn, upstream: ScriptedUpstream, script: Script | None) -> bool:
    """Whether a body of 3 MB is taken now."""
    upstream.script = json_answer({})
    answer = large(server.port)
    if script is not None:
        upstream.script = script
    return answer is not None and answer.status == 200


# ----------------------------------------------------------------------------------- a server-held key: judged from the head


@pytest.fixture
def holder(request: pytest.FixtureRequest, gunicorn_server: Start, upstream: ScriptedUpstream) -> Gunicorn:
    """A server that holds a key for its upstream and for a named one."""
    return gunicorn_server(
        WEB_CONCURRENCY=1,
        MISTRAL_FILTER_API_KEY="the-servers-own-key",
        MISTRAL_FILTER_UPSTREAMS=f"other={upstream.url}",
        MISTRAL_FILTER_API_KEYS="other=another-key-of-it",
        MISTRAL_FILTER_TOKENS="right-token",
        MISTRAL_FILTER_CORS_ORIGINS="https://x.example",
    )


CREDENTIALS = {
    "wrong": [("Authorization", "Bearer wrong-token")],
    "none": [],
    "empty": [("Authorization", "Bearer ")],
    "other header": [("X-Api-Key", "wrong-token")],
    "right one twice": [("Authorization", "Bearer right-token"), ("Authorization", "Bearer right-token")],
    "longer": [("Authorization", "Bearer right-token2")],
}


@pytest.mark.parametrize("target", [CHAT, "/v1/files", "/v1/audio/transcriptions", "/other" + CHAT, "/other/v1/files"])
@pytest.mark.parametrize("name", list(CREDENTIALS))
def test_a_wrong_token_is_refused_from_the_head(holder: Gunicorn, upstream: ScriptedUpstream, name: str, target: str) -> None:
    """M6: the head of a POST of 20 MB is answered before anything of the body is sent."""
    length, expect = ("Content-Length", "20000000"), ("Expect", "100-continue")
    for framing in ([length], [("Transfer-Encoding", "chunked")], [length, expect]):
        lines = [f"POST {target} HTTP/1.1", "Host: x", *(": ".join(pair) for pair in [ORIGIN, *CREDENTIALS[name], *framing])]
        with connect(holder.port) as sock:
            sock.sendall("\r\n".join([*lines, "", ""]).encode())
            response = read_response(sock)
        assert response.status in ((400, 401) if "twice" in name else (401,))
        assert response.header("Access-Control-Allow-Origin") == ORIGIN[1]
        assert (response.header("Connection") or "").lower() == "close"
        assert response.json()["error"]["code"]
    assert upstream.requests == []


def test_the_right_token_is_asked_for_its_body(holder: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Judging from the head refuses nobody else: with and without Expect the body is taken, and the server's key goes up."""
    body = body_of(2 * MEGABYTE)
    for target in (CHAT, "/other" + CHAT):
        lines = [f"POST {target} HTTP/1.1", "Host: x", "Authorization: Bearer right-token", "Expect: 100-continue"]
        with connect(holder.port) as sock:
            sock.sendall("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode())
            assert sock.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL) == b"HTTP/1.1 100"
            sock.sendall(body)
            assert read_response(sock).status == 200
    keys = [request.header("Authorization") for request in upstream.requests]
    assert keys == ["Bearer the-servers-own-key", "Bearer another-key-of-it"]


def test_half_sent_bodies_with_a_wrong_token_hold_nothing(holder: Gunicorn, upstream: ScriptedUpstream) -> None:
    """M6: thirty clients without a right token that send their 15 MB all the same: no memory, no places."""
    before, peak = holder.rss(), 0
    part = head_of(CHAT, 20 * MEGABYTE) + b"x" * 15 * MEGABYTE

    def send(sock: socket.socket) -> None:
        with suppress(OSError):
            sock.sendall(part)

    with ExitStack() as stack, ThreadPoolExecutor(30) as pool:
        socks = [stack.enter_context(connect(holder.port)) for _ in range(30)]
        clients = [pool.submit(send, sock) for sock in socks]
        while not all(client.done() for client in clients):
            peak = max(peak, holder.rss())
            time.sleep(0.05)
        peak = max(peak, holder.rss())
        good = ask(holder.port, "POST", CHAT, body_of(20 * MEGABYTE), [("Authorization", "Bearer right-token")])
    assert peak - before < 60 * MEGABYTE
    assert good.status == 200
