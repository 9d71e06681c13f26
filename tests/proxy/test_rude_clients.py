"""What one rude client does to the others on its worker: bodies that nobody reads, at full speed, by drops and unread answers.

Others are well-behaved requests on the same single worker meanwhile. A worker that yields answers several of them before the
rude client has come to its end; one that does not answers none until then. No test looks at how long that takes.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from servers import DEADLINE, Answer, Gunicorn, Probe, Response, ask, build_request, connect, eventually, read_response
from upstream import Exchange, ScriptedUpstream, early, head_bytes, json_answer

CHAT = "/v1/chat/completions"
ORIGIN = ("Origin", "https://chat.example.com")
WORKERS = {"gevent": (), "gthread": ("-k", "gthread", "--threads", "8")}

Start = Callable[..., Gunicorn]


def chat(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], **more}


OTHERS = (build_request("GET", "/health"), build_request("POST", CHAT, chat(), [("Authorization", "Bearer others")]))


@pytest.fixture
def server(gunicorn_server: Start) -> Gunicorn:
    """One gevent worker, with a limit that bodies of 1-byte chunks reach soon."""
    return gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_MAX_BODY="512k")


@pytest.fixture
def default_server(gunicorn_server: Start) -> Gunicorn:
    """One gevent worker as it is shipped."""
    return gunicorn_server(WEB_CONCURRENCY=1)


# --------------------------------------------------------------------------------------------- the rest of a refused body


class Flood(NamedTuple):
    """What became of a client that writes at full speed and reads nothing."""

    closed: bool
    """The server ended the connection; otherwise the client did, since it had seen enough or sent :data:`MOST`."""
    sent: int


MOST = 1 << 30
"""Bytes after which a flood ends that the server does not end. Lingering reads 64 MiB of it."""


def flood(port: int, head: bytes, piece: bytes, enough: Callable[[], bool] = lambda: False) -> Flood:
    """Send *head*, then *piece* again and again until the server closes the connection, *enough* is true or it was too much."""
    sent, end = 0, time.monotonic() + 2 * DEADLINE
    with connect(port, 0.5) as sock:
        try:
            sock.sendall(head)
            while sent < MOST:
                offset = 0
                while offset < len(piece):
                    if enough():
                        return Flood(False, sent)
                    assert time.monotonic() < end, f"neither closed nor enough after {sent} bytes"
                    with suppress(TimeoutError):  # the server does not read just now
                        count = sock.send(memoryview(piece)[offset:])
                        offset, sent = offset + count, sent + count
        except ConnectionError:
            return Flood(True, sent)
    return Flood(False, sent)


FRAMINGS = {
    "length": (f"Content-Length: {8 << 30}", b"x" * 262_144),
    "chunks": ("Transfer-Encoding: chunked", b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
    "1-byte chunks": ("Transfer-Encoding: chunked", b"1\r\nx\r\n" * 40_000),
}
REFUSED = {
    "no such path": "POST /nowhere",
    "no such endpoint": "POST /v1/images/generations",
    "a path that is refused": "POST /v1/./chat/completions",
    "wrong method": "PUT /v1/chat/completions",
    "a body that nobody wants": "POST /health",
    "GET with a body": "GET /health",
    "explain": "POST /explain/chat",
    "compressed": "POST /v1/embeddings",
    "too large": "POST /v1/chat/completions",
}


def head_of(name: str, framing: str) -> bytes:
    lines = [f"{REFUSED[name]} HTTP/1.1", "Host: x", "Content-Type: application/json", "Authorization: Bearer rude"]
    lines += [FRAMINGS[framing][0], *(["Content-Encoding: gzip"] if name == "compressed" else []), "", ""]
    return "\r\n".join(lines).encode()


FLOODS = [(name, "length") for name in REFUSED]
FLOODS += [(name, framing) for name in ("no such path", "too large") for framing in ("chunks", "1-byte chunks")]


@pytest.mark.parametrize(("name", "framing"), FLOODS)
def test_the_rest_of_a_body_holds_up_nobody(server: Gunicorn, upstream: ScriptedUpstream, name: str, framing: str) -> None:
    """M4: gigabytes at full speed behind a request that is refused or needs no body: others are served, and it is closed."""
    with Probe(server.port, *OTHERS) as probe:
        probe.wait(1)
        before = len(probe.answers)
        seen = flood(server.port, head_of(name, framing), FRAMINGS[framing][1])
        during = len(probe.answers) - before
        probe.wait(1)
    probe.check()
    assert seen.closed, seen
    if (name, framing) == ("too large", "1-byte chunks"):  # half a million chunks are read first; elsewhere it is soon over
        assert during >= 3
    assert all(request.header("Authorization") == "Bearer others" for request in upstream.requests)


@pytest.mark.parametrize("framing", list(FRAMINGS))
def test_an_upload_that_the_upstream_refuses_early_holds_up_nobody(
    server: Gunicorn, upstream: ScriptedUpstream, framing: str
) -> None:
    """M4: the upstream has answered and takes no more of an upload, of which gigabytes are still to come."""
    upstream.script = {"/v1/files": early(json_answer({"message": "too large"}, 413))}
    with Probe(server.port, *OTHERS) as probe:
        head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\n{FRAMINGS[framing][0]}\r\nAuthorization: Bearer rude\r\n\r\n"
        probe.wait(1)
        seen = flood(server.port, head.encode(), FRAMINGS[framing][1])
        probe.wait(1)
    probe.check()
    assert seen.closed, seen


def test_an_upload_of_1_byte_chunks_holds_up_nobody(server: Gunicorn, upstream: ScriptedUpstream) -> None:
    """M4: an upload that is passed on, at full speed in chunks of one byte."""
    head = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer rude\r\n\r\n"
    with Probe(server.port, *OTHERS) as probe:
        probe.wait(1)
        enough = probe.rounds + 3
        flood(server.port, head, b"1\r\nx\r\n" * 40_000, lambda: probe.rounds >= enough)
        assert probe.rounds >= enough
    probe.check()


@pytest.mark.parametrize("name", ["no such path", "too large"])
def test_threads_hold_up_nobody_either(gunicorn_server: Start, upstream: ScriptedUpstream, name: str) -> None:
    """M4 on a threaded worker: more floods than threads, and the threads are free again."""
    server = gunicorn_server(*WORKERS["gthread"], WEB_CONCURRENCY=1, MISTRAL_FILTER_MAX_BODY="512k")
    with ThreadPoolExecutor(10) as pool:
        seen = list(pool.map(lambda _: flood(server.port, head_of(name, "length"), b"x" * 262_144), range(10)))
    assert all(one.closed for one in seen), seen
    assert ask(server.port, "POST", CHAT, chat(), [ORIGIN]).status == 200


def drip(port: int, head: bytes) -> bool:
    """Send *head* and then a byte five times a second; whether the server closes the connection."""
    end = time.monotonic() + DEADLINE
    with connect(port) as sock:
        try:
            sock.sendall(head + b"x" * 1024)
            while time.monotonic() < end:
                time.sleep(0.2)
                sock.sendall(b"x")
        except ConnectionError:
            return True
    return False


def test_lingering_ends_for_a_client_that_drips(server: Gunicorn, upstream: ScriptedUpstream) -> None:
    """M4: a refused body that comes by drops, and one that stops, end their connections after some seconds too."""
    heads = [head_of(name, "length") for name in REFUSED if name != "compressed"]
    before = server.fds()
    with ExitStack() as stack, ThreadPoolExecutor(len(heads)) as pool:
        for head in heads:
            stack.enter_context(connect(server.port)).sendall(head + b"x" * 100_000)  # and nothing more
        assert all(pool.map(lambda head: drip(server.port, head), heads))
        eventually(lambda: server.fds() <= before + 4, "the descriptors to be closed")


BODIES = {
    "no such path": ("/nowhere", 404),
    "no such endpoint": ("/v1/images/generations", 404),
    "a path that is refused": ("/v1/./chat/completions", 404),
    "too large": (CHAT, 413),
    "explain": ("/explain/chat", 413),
}


def answer_after_writing(port: int, target: str, size: int, chunked: bool) -> Response:
    """What a client reads that writes its whole body first."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    with connect(port) as sock:
        sock.sendall(f"POST {target} HTTP/1.1\r\nHost: x\r\n{ORIGIN[0]}: {ORIGIN[1]}\r\n{framing}\r\n\r\n".encode())
        piece = b"x" * 65_536
        for start in range(0, size, len(piece)):
            part = piece[: size - start]
            sock.sendall(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
        if chunked:
            sock.sendall(b"0\r\n\r\n")
        response = read_response(sock)
        assert sock.recv(1) == b"", "the connection is still open"
    return response


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("name", list(BODIES))
def test_a_client_that_writes_on_reads_its_refusal(
    server: Gunicorn, upstream: ScriptedUpstream, name: str, chunked: bool
) -> None:
    """M4: 3 MB behind a request that is refused: the client writes them all, reads the JSON, and the connection is closed."""
    target, status = BODIES[name]
    response = answer_after_writing(server.port, target, 3_000_000, chunked)
    assert (response.status, response.complete) == (status, True)
    assert response.json()["error"]["code"]
    assert response.header("Access-Control-Allow-Origin") == "*"
    assert (response.header("Connection") or "").lower() == "close"
    assert upstream.requests == []


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_client_that_writes_40_megabytes_reads_its_refusal(
    default_server: Gunicorn, upstream: ScriptedUpstream, chunked: bool
) -> None:
    """M4: a little beyond the default limit: the answer says so, instead of a broken pipe."""
    response = answer_after_writing(default_server.port, CHAT, 40_000_000, chunked)
    assert response.status == 413
    assert response.json()["error"]["code"] == "body_too_large"
    assert (response.header("Connection") or "").lower() == "close"


# ------------------------------------------------------------------------------------------- an answer before the body's end

EARLY = {"refused": (413, {"message": "too large"}), "unauthorized": (401, {"message": "no"}), "served": (200, {"id": "file-1"})}


@pytest.mark.parametrize("arguments", list(WORKERS.values()), ids=list(WORKERS))
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("name", list(EARLY))
def test_an_early_answer_reaches_a_client_that_pauses(
    gunicorn_server: Start, upstream: ScriptedUpstream, arguments: tuple[str, ...], name: str, chunked: bool
) -> None:
    """S1: the upstream answers while the upload pauses: the client has the answer although it sends nothing more."""
    server = gunicorn_server(*arguments, WEB_CONCURRENCY=1)
    status, answer = EARLY[name]
    answered = threading.Event()

    def script(exchange: Exchange) -> None:
        json_answer(answer, status)(exchange)
        answered.wait(DEADLINE)  # it neither reads nor closes before the client has the answer

    upstream.script = {"/v1/files": early(script)}
    with connect(server.port, DEADLINE / 2) as sock:
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 50000000"
        piece = b"x" * 65_536
        sock.sendall(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n" + framing + b"\r\n\r\n")
        sock.sendall(b"10000\r\n" + piece + b"\r\n" if chunked else piece)
        response = read_response(sock)  # a TimeoutError: it did not come
    answered.set()
    assert (response.status, response.complete) == (status, True)
    assert response.json().items() >= answer.items()
    upstream.wait_connections()
    assert len(upstream.requests) == 1
    assert ask(server.port, "POST", CHAT, chat()).status == 200


def test_an_early_stream_reaches_a_client_that_pauses(default_server: Gunicorn, upstream: ScriptedUpstream) -> None:
    """S1: an answer of several pieces, each of them while the upload pauses."""

    def script(exchange: Exchange) -> None:
        exchange.send(head_bytes(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]))
        for number in range(3):
            exchange.chunk(b"data: %d\n\n" % number)
            exchange.sleep(0.3)
        exchange.send(b"0\r\n\r\n")

    upstream.script = {"/v1/audio/transcriptions": early(script)}
    with connect(default_server.port) as sock:
        head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: 50000000\r\n\r\n"
        sock.sendall(head + b"x" * 65_536)
        answer = Answer(sock)
        body = b"".join(data for _, data in answer.pieces())
    assert (answer.status, answer.complete, body) == (200, True, b"data: 0\n\ndata: 1\n\ndata: 2\n\n")


@pytest.mark.parametrize("arguments", list(WORKERS.values()), ids=list(WORKERS))
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_an_early_answer_comes_through_where_the_upstream_takes_no_more(
    gunicorn_server: Start,
    new_upstream: Callable[..., ScriptedUpstream],
    certificate: tuple[Path, Path],
    arguments: tuple[str, ...],
    tls: bool,
) -> None:
    """S1: a refusal before the body is read, which then is not read and leaves the connection open, is the answer."""
    upstream = new_upstream(tls=certificate if tls else None)
    server = gunicorn_server(
        *arguments, WEB_CONCURRENCY=1, MISTRAL_FILTER_UPSTREAM=upstream.url, MISTRAL_FILTER_CA_BUNDLE=certificate[0]
    )
    answered = threading.Event()

    def script(exchange: Exchange) -> None:
        json_answer({"message": "too large"}, 413)(exchange)
        answered.wait(DEADLINE)

    upstream.script = early(script)
    large = chat(messages=[{"role": "user", "content": "x" * (20 << 20)}])
    for count, (path, body) in enumerate([("/v1/files", b"x" * (20 << 20)), (CHAT, large)], 1):
        answered.clear()
        response = ask(server.port, "POST", path, body, [("Authorization", "Bearer k")], timeout=DEADLINE / 2)
        answered.set()
        assert (response.status, response.complete, response.json()["message"]) == (413, True, "too large")
        upstream.wait_connections()
        assert len(upstream.requests) == count


@pytest.mark.parametrize("body", [b"x" * (20 << 20), b"x" * 1000], ids=["large", "small"])
def test_an_interim_answer_does_not_end_an_upload(default_server: Gunicorn, upstream: ScriptedUpstream, body: bytes) -> None:
    """S1: 1xx (RFC 9110, 15.2) may come at any time, in pieces too, and the body is still wanted."""

    def script(exchange: Exchange) -> None:
        for piece in (b"HTTP/1", b".1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>", b"\r\n\r\n"):
            exchange.send(piece)
            exchange.sleep(0.4)  # longer than the watcher's interval
        exchange.read_body()
        json_answer({"bytes": len(exchange.request.body)})(exchange)

    upstream.script = {"/v1/files": early(script)}
    head, half = build_request("POST", "/v1/files", body, [("Authorization", "Bearer k")]), len(body) // 2
    with connect(default_server.port, DEADLINE / 2) as sock:
        sock.sendall(head[:-half])
        time.sleep(1.5)
        sock.sendall(head[-half:])
        response = read_response(sock)
    assert (response.status, response.json()) == (200, {"bytes": len(body)})


# ----------------------------------------------------------------------------------------------------------------- explain


def test_explain_takes_256_kilobytes(default_server: Gunicorn, upstream: ScriptedUpstream) -> None:
    """M5: a body limit of its own, far below that of a call."""
    sizes = {250_000: 200, 270_000: 413, 5_000_000: 413}
    for size, status in sizes.items():
        body = chat(user="")
        body["user"] = "x" * (size - len(build_request("POST", "/", body).partition(b"\r\n\r\n")[2]))
        response = ask(default_server.port, "POST", "/explain/chat", body, [ORIGIN])
        assert response.status == status
        if status == 413:
            assert response.json()["error"]["code"] == "body_too_large"
            assert response.header("Access-Control-Allow-Origin") == "*"


def unknown_keys(count: int, length: int) -> dict[str, object]:
    return chat(**{f"x{number:05}".ljust(length, "y"): 1 for number in range(count)})


REPORTS: dict[str, tuple[dict[str, Any], int | None]] = {
    # a body and how many changes there are in it
    "5,000 unknown names": (unknown_keys(5_000, 25), 5_000),
    "15,000 short ones": (unknown_keys(15_000, 6), 15_000),
    "20 names of 10 KB": (unknown_keys(20, 10_000), 20),
    "messages": (
        {"model": "m", "messages": [{"role": "user", "content": "", "a": 1, "b": 2, "c": 3} for _ in range(4_000)]},
        None,
    ),
    "empty messages": ({"model": "m", "messages": [{}] * 40_000}, None),
    "empty parts": (chat(messages=[{"role": "user", "content": [{}] * 40_000}]), None),
    "empty tools": (chat(tools=[{}] * 40_000), None),
    "repeated names": (chat(stop=["x" * 100] * 1_800), None),
}


@pytest.mark.parametrize("name", list(REPORTS))
def test_what_explain_answers_is_bounded(default_server: Gunicorn, upstream: ScriptedUpstream, name: str) -> None:
    """M5: about 200 KB in, at most 2 MB out; ``more`` says how many changes are not listed, 0 where all are."""
    body, count = REPORTS[name]
    response = ask(default_server.port, "POST", "/explain/chat", body)
    assert response.status == 200
    assert len(response.body) < 2_200_000
    answer = response.json()
    assert isinstance(answer["more"], int)
    assert answer["more"] >= 0
    if count is not None and answer["error"] is None:
        assert len(answer["changes"]) + answer["more"] == count


def test_explain_counts_like_a_call(gunicorn_server: Start, upstream: ScriptedUpstream) -> None:
    """M5: where all places are taken it is a 503 with Retry-After like any other, and afterwards it is served."""
    server = gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_CONCURRENCY=1)
    upstream.script = lambda exchange: exchange.sleep(2 * DEADLINE)
    with connect(server.port) as sock:
        sock.sendall(build_request("POST", CHAT, chat()))
        upstream.wait()
        response = ask(server.port, "POST", "/explain/chat", chat(), [ORIGIN])
    assert response.status == 503
    assert response.json()["error"]["code"] == "overloaded"
    assert response.header("Retry-After")
    assert response.header("Access-Control-Allow-Origin") == "*"
    eventually(lambda: ask(server.port, "POST", "/explain/chat", chat()).status == 200, "the place to be free")
    for _ in range(3):  # it gives its place back
        assert ask(server.port, "POST", "/explain/chat", chat()).status == 200


@pytest.fixture
def unread(gunicorn_server: Start) -> Iterator[tuple[Gunicorn, int, list[socket.socket]]]:
    """A server with a send timeout of a second, its descriptors before, and clients that do not read."""
    server = gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_SEND_TIMEOUT=1)
    assert ask(server.port, "POST", "/explain/chat", chat()).status == 200
    before = server.fds()
    with ExitStack() as stack:
        socks = []
        for _ in range(5):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(0.3)
            sock.connect(("127.0.0.1", server.port))
            socks.append(sock)
        yield server, before, socks


def test_unread_explanations_are_cut(unread: tuple[Gunicorn, int, list[socket.socket]], upstream: ScriptedUpstream) -> None:
    """M5: clients that ask for many explanations and read none lose their connections after the send timeout."""
    server, before, socks = unread
    request = build_request("POST", "/explain/chat", chat(user="x" * 200_000))

    def ask_on(sock: socket.socket) -> None:
        with suppress(OSError):
            for _ in range(40):
                sock.sendall(request)

    with ThreadPoolExecutor(len(socks)) as pool:
        list(pool.map(ask_on, socks))
    # the clients still hold their ends
    eventually(lambda: server.fds() <= before, "the descriptors to be freed")
    assert ask(server.port, "POST", "/explain/chat", chat()).status == 200
