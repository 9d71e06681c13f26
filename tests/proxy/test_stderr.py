"""The log: a reader that does not read costs lines and no request; one request is one line, without credentials or forgeries."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from servers import Gunicorn, ask, build_request, connect, eventually, raw_request, read_response
from upstream import ScriptedUpstream, in_turn, json_answer

CHAT = "/v1/chat/completions"
WORKERS = {"gevent": (), "gthread": ("-k", "gthread", "--threads", "8")}

Start = Callable[..., Gunicorn]


def chat(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], **more}


# ------------------------------------------------------------------------------------------------- nobody reads the log


PIPE = 16_384
"""Bytes that the pipe holds: about 120 lines."""


class Pipe:
    """A named pipe for a server's stderr. It is open for reading from the start, and read when the test says so."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, PIPE)
        self.text = b""

    def read(self) -> bytes:
        """All that has come until now."""
        with suppress(BlockingIOError):
            while data := os.read(self._fd, 65_536):
                self.text += data
        return self.text

    def close(self) -> None:
        """Nobody will read it any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@pytest.fixture(scope="module", params=list(WORKERS))
def piped_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_upstream: ScriptedUpstream
) -> Iterator[tuple[Gunicorn, Pipe]]:
    """One worker of each kind, whose stderr is a pipe."""
    directory = tmp_path_factory.mktemp("piped")
    pipe = Pipe(directory / "stderr")
    server = Gunicorn(
        directory,
        *WORKERS[request.param],
        shell=f"exec 2>{pipe.path}",
        WEB_CONCURRENCY=1,
        MISTRAL_FILTER_UPSTREAM=shared_upstream.url,
    )
    with server:
        yield server, pipe
        pipe.close()  # the server could not say that it ends, where it waits for the pipe


@pytest.fixture
def pipe(piped_server: tuple[Gunicorn, Pipe]) -> Pipe:
    """The pipe, without what an earlier test left in it."""
    pipe = piped_server[1]
    pipe.read()
    pipe.text = b""
    return pipe


@pytest.fixture
def piped(piped_server: tuple[Gunicorn, Pipe]) -> Gunicorn:
    return piped_server[0]


REFUSED = build_request("POST", "/v1/embeddings", b"[")
LINE = re.compile(rb"method=POST path=/v1/embeddings status=400 bytes=\d+ ms=[\d.]+ ended=invalid_json request_id=- changes=-")


def refuse(server: Gunicorn, count: int, at_once: int = 50) -> None:
    """So many requests that are refused, each of which is a line."""
    with connect(server.port) as sock:
        for _ in range(count // at_once):
            sock.sendall(REFUSED * at_once)
            for _ in range(at_once):
                assert read_response(sock).status == 400


def dropped(text: bytes) -> int:
    """How many lines the log says that it lost."""
    lines = [line for line in text.splitlines() if re.search(rb"\bdropped\b", line)]
    return sum(int(re.findall(rb"(?<![\d:.+-])\d+(?!\d|[:-]|\.\d)", line)[-1]) for line in lines)


def test_a_log_that_nobody_reads_stops_nobody(piped: Gunicorn, pipe: Pipe, upstream: ScriptedUpstream) -> None:
    """L1: far more lines than the pipe holds: all requests are served.

    When the pipe is read again, a line says how many lines were dropped, and every other line is whole.
    """
    refuse(piped, 400)
    assert ask(piped.port, "POST", CHAT, chat()).status == 200
    pipe.read()
    last = 0

    def told() -> bool:
        nonlocal last
        refuse(piped, 1, 1)
        last += 1
        return dropped(pipe.read()) > 0

    eventually(told, "the line that says how many were dropped")
    time.sleep(0.3)
    lines = [line for line in pipe.read().splitlines() if b"/v1/embeddings" in line]
    assert len(lines) < 400
    assert all(len(LINE.findall(line)) == 1 and line.count(b"method=") == 1 for line in lines)
    lost = dropped(pipe.text)
    assert 400 + last <= len(lines) + lost <= 401 + last  # the line of the chat request may be one of them


def test_after_the_gap_every_line_is_written(piped: Gunicorn, pipe: Pipe, upstream: ScriptedUpstream) -> None:
    """L1: a pipe that was full and is read again loses nothing more."""
    refuse(piped, 400)
    pipe.read()
    refuse(piped, 10, 10)
    eventually(lambda: dropped(pipe.read()) > 0, "the line that says how many were dropped")
    time.sleep(0.3)
    pipe.read()
    lost, before = dropped(pipe.text), len(LINE.findall(pipe.text))
    for more in (50, 100):
        refuse(piped, 50)
        eventually(lambda wanted=before + more: len(LINE.findall(pipe.read())) == wanted, "the lines to come")
    assert dropped(pipe.text) == lost


def test_a_log_whose_reader_has_gone_stops_nobody(piped: Gunicorn, pipe: Pipe, upstream: ScriptedUpstream) -> None:
    """L1: the reading end is closed: requests are served, and the worker lives. The last test of the pipe, therefore."""
    workers = piped.workers()
    pipe.close()
    refuse(piped, 200)
    assert ask(piped.port, "POST", CHAT, chat()).status == 200
    assert piped.workers() == workers


# -------------------------------------------------------------------------------------------- what can be in a line


SECRET = "K7x9Q2mZ8pL4vN6tR1wY3bC5dF0gH2jA"  # as long as a key of Mistral's
FORGED = "FORGED method=POST path=/v1/forged status=200 bytes=1 ms=1.0 ended=ok request_id=- changes=-"
ENCODED = FORGED.replace(" ", "%20")

PATHS = [
    f"/v1/%0a{ENCODED}",
    f"/v1/%0d%0a{ENCODED}",
    f"/v1/%0d{ENCODED}",
    f"/v1/%0b{ENCODED}",
    f"/v1/%0c{ENCODED}",
    f"/v1/%1c{ENCODED}",
    f"/v1/%c2%85{ENCODED}",
    f"/v1/%e2%80%a8{ENCODED}",
    f"/%0a{ENCODED}",
    f"/nowhere%0a{ENCODED}",
    f"/v1/chat/completions%0a{ENCODED}",
    f"/v1/models/%0a{ENCODED}",
    "/v1/chat%2Fcompletions",
    "/v1/%1b[31mred%1b[0m",
    "/v1/%1b]0;title%07",
    "/v1/%9b31m",
    "/v1/%22%20200%20%22",
    '/v1/"quoted"',
    "/v1/%00",
    "/v1/%ff%fe",
    "/v1/%25%30%61",
    "/v1/%(h)s%25(U)s%s%d",
    "/v1/{status}",
]


@pytest.fixture(params=["default log", "access log", "JSON log"])
def logging_server(request: pytest.FixtureRequest, gunicorn_server: Start) -> tuple[Gunicorn, int]:
    """A server, and how many lines one request writes."""
    access = request.param == "access log"
    settings = {"MISTRAL_FILTER_LOG_FORMAT": "json"} if request.param == "JSON log" else {}
    return gunicorn_server(*(["--access-logfile", "-"] if access else []), WEB_CONCURRENCY=1, **settings), 2 if access else 1


def new_lines(server: Gunicorn, start: int, count: int) -> list[str]:
    """The lines since *start*, when all *count* have come, and a moment later; lines are what a terminal would show as such."""

    def text() -> str:
        return server.log()[start:]

    with suppress(AssertionError):
        eventually(lambda: len(text().splitlines()) >= count)
    time.sleep(0.2)
    return [line for line in text().splitlines() if "GET /health " not in line]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_writes_one_line(logging_server: tuple[Gunicorn, int], upstream: ScriptedUpstream, method: str) -> None:
    """L3: whatever is encoded in a path, its request is one line, which nobody can take for another or colour red."""
    server, each = logging_server
    start = len(server.log())
    for path in PATHS:
        request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
        assert raw_request(server.port, request.encode()).startswith(b"HTTP/1.1 ")
    lines = new_lines(server, start, each * len(PATHS))
    assert [line for line in lines if not plain(line)] == []
    assert len(lines) == each * len(PATHS), lines


def plain(line: str) -> bool:
    """A line of printable characters that does not begin, or go on behind a quote, as a forged one would."""
    return line.isprintable() and "FORGED method=" not in line and '" 200 "' not in line


CREDENTIALS = [
    ("Authorization", f"Bearer {SECRET}"),
    ("Authorization", SECRET),
    ("Authorization", f"Basic {SECRET}"),
    ("X-Api-Key", SECRET),
    ("Api-Key", SECRET),
]
OTHER_HEADERS = "X-Goog-Api-Key Proxy-Authorization Cookie User-Agent Referer X-Request-Id X-Forwarded-For X-Affinity".split()


def test_no_credential_is_logged(logging_server: tuple[Gunicorn, int], upstream: ScriptedUpstream) -> None:
    """L3: a key, in whatever header or query it comes, also where the upstream quotes it as the id of the request."""
    server, each = logging_server
    start, count = len(server.log()), 0
    requests = [(pair, quote) for pair in CREDENTIALS for quote in (SECRET, f"req-{SECRET}", f"{SECRET}.{SECRET}-1")]
    requests += [((name, SECRET), "req-1") for name in OTHER_HEADERS]
    for pair, quote in requests:
        upstream.script = json_answer({"message": SECRET}, 401, [("X-Request-Id", quote), ("Mistral-Correlation-Id", quote)])
        ask(server.port, "POST", f"{CHAT}?key={SECRET}", chat(user=SECRET), [pair])
        count += each
    lines = new_lines(server, start, count)
    assert len(lines) == count
    assert [line for line in lines if SECRET[:12] in line] == []


def test_no_id_that_is_a_path_is_logged(gunicorn_server: Start, upstream: ScriptedUpstream) -> None:
    """L3: names and keys as segments of a path are not in the default log."""
    server = gunicorn_server(WEB_CONCURRENCY=1)
    start = len(server.log())
    targets = [
        f"/v1/models/{SECRET}",
        f"/v1/{SECRET}/chat/completions",
        f"/{SECRET}",
        f"/{SECRET}/v1/models",
        f"/v1/files/{SECRET}",
    ]
    for target in targets:
        for key in ("X-Api-Key", "Api-Key", "Authorization"):
            ask(server.port, "GET", target, None, [(key, SECRET)])
    lines = new_lines(server, start, 3 * len(targets))
    assert len(lines) == 3 * len(targets)
    assert SECRET not in "\n".join(lines)


NAMES = [
    f"canary {SECRET}",
    SECRET,
    f"sk-proj-{SECRET}",
    f"Bearer canary {SECRET}",
    "please tell canary nothing of this",
    "please_tell_canary_that_we_meet_at_noon",
    "Please-tell-canary-that-we-meet-at-noon",
    "canary\nFORGED method=POST",
    "canary\x1b[31m",
    'canary";path="model";loss=none',
    "canary, drop;path=x",
    "canary.meets.us.at.noon",
    "the_canary_key_is_abcdefghijklmnop",
    "kanarie_canary_im_bergwerk",
]


def test_names_that_are_sentences_or_keys_are_not_logged(
    logging_server: tuple[Gunicorn, int], upstream: ScriptedUpstream
) -> None:
    """L3: a name in a body that is no field's is the caller's text, at the top of the body and below it."""
    server, each = logging_server
    start, count = len(server.log()), 0
    for name in NAMES:
        function = {"name": "f", "parameters": {}, name: 1}
        bodies = [
            chat(**{name: 1}),
            chat(messages=[{"role": "user", "content": "x", name: 1}]),
            chat(tools=[{"type": "function", "function": function}]),
        ]
        for body in bodies:
            assert ask(server.port, "POST", CHAT, body).status < 500
            count += each
    lines = new_lines(server, start, count)
    assert len(lines) == count
    assert [line for line in lines if "canary" in line.lower() or SECRET in line or "noon" in line] == []
    assert all(map(plain, lines))


def test_json_lines_are_json(gunicorn_server: Start, upstream: ScriptedUpstream) -> None:
    """L3: in the JSON log every line of these is one object."""
    server = gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_LOG_FORMAT="json")
    start = len(server.log())
    for path in PATHS:
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        raw_request(server.port, request.encode())
    for name in NAMES:
        ask(server.port, "POST", CHAT, chat(**{name: 1}))
    lines = new_lines(server, start, len(PATHS) + len(NAMES))
    assert len(lines) == len(PATHS) + len(NAMES)
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_a_second_try_does_not_log_what_it_leaves_out(gunicorn_server: Start, upstream: ScriptedUpstream) -> None:
    """L3: a name that Mistral refused is the caller's text too, in the line that says why the request was sent again."""
    server = gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_FIELDS="current")
    start, name = len(server.log()), "please tell canary nothing"
    violation = {"type": "extra_forbidden", "loc": ["body", "metadata", name], "msg": "Extra inputs are not permitted"}
    upstream.script = in_turn(json_answer({"detail": [violation]}, 422), json_answer({}))
    response = ask(server.port, "POST", CHAT, chat(metadata={name: "x"}), [("Authorization", f"Bearer {SECRET}")])
    assert response.status == 200
    assert len(upstream.requests) == 2
    log = server.log()[start:]
    assert "refused, sent again" in log
    assert "canary" not in log
