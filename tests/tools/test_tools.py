"""The tools of the other tests, proved by clients and servers that are not ours."""

from __future__ import annotations

import http.client
import signal
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import requests
from servers import (
    Answer,
    BadFraming,
    Gunicorn,
    Server,
    alive,
    ask,
    build_request,
    connect,
    eventually,
    raw_request,
    read_response,
)
from upstream import (
    Event,
    Exchange,
    Framing,
    Script,
    ScriptedUpstream,
    chain,
    early,
    early_hints,
    extra_bytes_after,
    full_backlog,
    in_turn,
    json_answer,
    no_reply,
    raw,
    reset,
    sse,
    sse_bytes,
    stall,
)

EVENTS: list[Event] = [{"n": 1}, "two", b": three\n\n", "[DONE]"]
STREAM = b'data: {"n": 1}\n\ndata: two\n\n: three\n\ndata: [DONE]\n\n'


# ------------------------------------------------------------------------------------------------------- recording


def test_the_echo_answers_and_the_request_is_recorded_as_it_came(upstream: ScriptedUpstream) -> None:
    """Method, target, header order and spelling, and the body are recorded; the echo shows them to the client."""
    client = http.client.HTTPConnection("127.0.0.1", upstream.port)
    client.request("POST", "/v1/x?a=1", b"\x00body", {"X-oDD": "1"})
    answer = client.getresponse()
    body = answer.read()
    client.close()
    assert answer.status == 200
    assert b'"target": "/v1/x?a=1"' in body
    (request,) = upstream.wait()
    assert (request.method, request.path, request.body, request.cut) == ("POST", "/v1/x", b"\x00body", False)
    assert ("X-oDD", "1") in request.headers
    assert request.head.startswith(b"POST /v1/x?a=1 HTTP/1.1\r\n")
    assert request.head.endswith(b"\r\n\r\n")


def test_a_chunked_body_is_put_together(upstream: ScriptedUpstream) -> None:
    """Chunks from a library's generator and hand-made ones with an extension and a trailer are recorded whole."""
    requests.post(upstream.url, data=iter([b"one", b"two"]), timeout=60)
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    raw_request(upstream.port, head + b"3;a=b\r\nabc\r\n00A\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n")
    first, second = upstream.wait(2)
    assert first.body == b"onetwo"
    assert (second.body, second.trailers, second.cut) == (b"abc0123456789", [("X-T", "1")], False)


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nhello", b"hello"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"hello"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhel", b"hel"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", b""),
        (b"POST / HTT", b""),
    ],
)
def test_a_cut_request_is_recorded_as_cut(upstream: ScriptedUpstream, data: bytes, body: bytes) -> None:
    """A head or body that ends too early, or whose framing is wrong, is kept as far as it came and gets no answer."""
    assert raw_request(upstream.port, data, half_close=True) == b""
    (request,) = upstream.wait()
    assert (request.cut, request.body) == (True, body)


def test_scripts_are_chosen_by_path_by_model_and_in_turn(upstream: ScriptedUpstream) -> None:
    """A dict looks at the path, then at the model, then falls back on the echo; in_turn counts requests."""
    upstream.script = {"/path": json_answer({"by": "path"}), "m": in_turn(json_answer({}, 429), json_answer({}, 201))}
    assert ask(upstream.port, "GET", "/path?x").json() == {"by": "path"}
    assert [ask(upstream.port, "POST", "/", {"model": "m"}).status for _ in range(3)] == [429, 201, 201]
    assert ask(upstream.port, "POST", "/", [1]).json()["object"] == "echo"


def test_connections_are_kept_counted_and_freed(upstream: ScriptedUpstream) -> None:
    """Two requests of one session share a connection; when the session closes, the upstream sees it go."""
    with requests.Session() as session:
        for _ in range(2):
            assert session.get(upstream.url, timeout=60).ok
        assert (upstream.connections, upstream.accepted) == (1, 1)
    upstream.wait_connections(0)
    assert [request.connection for request in upstream.requests] == [1, 1]


@pytest.mark.parametrize("script", [stall(60), sse(["x"] * 10_000, gap=0.01), sse(["x" * 1000] * 100_000)])
def test_a_peer_that_leaves_in_mid_answer_is_noticed(upstream: ScriptedUpstream, script: Script) -> None:
    """Whether the script waits, drips or writes against a full buffer: a closed client ends it and is recorded."""
    upstream.script = script
    with connect(upstream.port) as sock:
        sock.sendall(build_request("GET", "/"))
        upstream.wait()
        assert not upstream.requests[0].left
    upstream.wait_left()
    upstream.wait_connections(0)


# -------------------------------------------------------------------------------------------------------- breaking


@pytest.mark.parametrize("framing", get_args(Framing))
def test_a_good_stream_is_read_by_other_clients(upstream: ScriptedUpstream, framing: Framing) -> None:
    """requests and our own reader get the same bytes in all three framings, and call them complete."""
    upstream.script = sse(EVENTS, framing=framing)
    assert requests.get(upstream.url, timeout=60).content == STREAM
    response = ask(upstream.port, "GET", "/")
    assert (response.body, response.complete) == (STREAM, True)
    assert raw_request(upstream.port, build_request("GET", "/", headers=[("Connection", "close")])) == sse_bytes(EVENTS, framing)


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("cut_at", [0, 3, 16, 30, len(STREAM) - 1])
def test_a_cut_stream_shows_in_its_framing(upstream: ScriptedUpstream, framing: Framing, cut_at: int) -> None:
    """A prefix of exactly cut_at bytes arrives, our reader calls it incomplete, and requests refuses it."""
    upstream.script = sse(EVENTS, framing=framing, cut_at=cut_at)
    response = ask(upstream.port, "GET", "/")
    assert (response.body, response.complete) == (STREAM[:cut_at], False)
    with pytest.raises(requests.RequestException):
        requests.get(upstream.url, timeout=60)


def test_a_missing_last_chunk_is_a_cut(upstream: ScriptedUpstream) -> None:
    """A chunked stream with all its events and no terminating chunk is not complete."""
    upstream.script = sse(EVENTS, cut_at=len(STREAM))
    response = ask(upstream.port, "GET", "/")
    assert (response.body, response.complete) == (STREAM, False)


def test_a_stream_without_framing_ends_by_fin_or_breaks_by_reset(upstream: ScriptedUpstream) -> None:
    """Close-delimited: FIN is a clean end even when events are missing, which a client cannot know; RST is not."""
    upstream.script = in_turn(sse(EVENTS, framing="close", cut_at=20), chain(sse(EVENTS, framing="close"), stall(0.1), reset))
    assert ask(upstream.port, "GET", "/")[2:] == (STREAM[:20], True)
    assert ask(upstream.port, "GET", "/")[2:] == (STREAM, False)


@pytest.mark.parametrize("script", [no_reply, reset, raw(b"HTTP/1.1 200 OK\r\nContent-"), raw(b"nonsense\r\n\r\n")])
def test_an_answer_without_a_proper_head_is_bad_framing(upstream: ScriptedUpstream, script: Script) -> None:
    """No reply, RST, half a head (which http.client takes for a whole one) and nonsense: our reader says so."""
    upstream.script = script
    with pytest.raises(BadFraming):
        ask(upstream.port, "GET", "/")


@pytest.mark.parametrize("script", [no_reply, reset, raw(b"nonsense\r\n\r\n")])
def test_no_answer_breaks_other_clients_too(upstream: ScriptedUpstream, script: Script) -> None:
    """No reply, RST and nonsense are connection errors for requests."""
    upstream.script = script
    with pytest.raises(requests.ConnectionError):
        requests.get(upstream.url, timeout=60)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 1\r\nContent-Length: 2",
        b"Content-Length: 1\r\nTransfer-Encoding: chunked",
        b"Content-Length: -1",
        b"No colon",
        b"Name : x",
        b"X: \x00",
    ],
)
def test_our_reader_is_strict_about_heads(upstream: ScriptedUpstream, headers: bytes) -> None:
    """Heads that other clients read in different ways fail a test instead of being guessed at."""
    upstream.script = raw(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\na")
    with pytest.raises(BadFraming):
        ask(upstream.port, "GET", "/")


@pytest.mark.parametrize("tail", [b"0\r\n", b"zz\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b""])
def test_our_reader_is_strict_about_chunks(upstream: ScriptedUpstream, tail: bytes) -> None:
    """An unfinished last chunk, a bad size and a chunk longer than announced are not complete."""
    upstream.script = raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n" + tail)
    assert not ask(upstream.port, "GET", "/").complete


def test_early_hints_and_extra_bytes(upstream: ScriptedUpstream) -> None:
    """The reader passes over a 103 and stops at the answer's end; the poison behind it stays in the socket."""
    upstream.script = in_turn(chain(early_hints(), extra_bytes_after(json_answer({"n": 1}))), json_answer({"n": 2}))
    with connect(upstream.port) as sock:
        sock.sendall(build_request("GET", "/"))
        assert read_response(sock).json() == {"n": 1}
        sock.sendall(build_request("GET", "/"))
        assert [read_response(sock).body, read_response(sock).body] == [b"poison", b'{"n": 2}']


def test_answers_without_a_body(upstream: ScriptedUpstream) -> None:
    """HEAD, 204 and 304 leave the connection usable for the next request."""
    upstream.script = {"/204": json_answer({}, 204), "/304": json_answer({}, 304)}
    with connect(upstream.port) as sock:
        for method, target, status in [("HEAD", "/", 200), ("GET", "/204", 204), ("GET", "/304", 304), ("GET", "/", 200)]:
            sock.sendall(build_request(method, target))
            assert read_response(sock, method)[0::3] == (status, True)
    assert upstream.accepted == 1


def test_an_early_answer_does_not_wait_for_the_body(upstream: ScriptedUpstream) -> None:
    """A script marked early answers while most of the announced body is still missing."""
    upstream.script = early(json_answer({"error": 1}, 413))
    with connect(upstream.port) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 20000000\r\n\r\nabc")
        assert read_response(sock).status == 413
    assert upstream.requests[0].body == b""


def test_pieces_arrive_one_by_one(upstream: ScriptedUpstream) -> None:
    """The streaming reader yields the first event while the script still holds the second one back."""
    with connect(upstream.port) as sock:
        seen: list[float] = []

        def script(exchange: Exchange) -> None:
            exchange.head(200, [("Transfer-Encoding", "chunked")])
            exchange.chunk(b"one")
            eventually(lambda: seen, "the first piece at the client")
            exchange.chunk(b"two")
            exchange.send(b"0\r\n\r\n")

        upstream.script = script
        sock.sendall(build_request("GET", "/"))
        answer = Answer(sock)
        pieces = []
        for at, data in answer.pieces():
            pieces.append(data)
            seen.append(at)
    assert (pieces, answer.complete) == ([b"one", b"two"], True)
    assert seen == sorted(seen)


def test_tiny_segments(upstream: ScriptedUpstream) -> None:
    """A raw answer in segments of one byte is the same answer."""
    upstream.script = raw(sse_bytes(EVENTS), size=1)
    assert ask(upstream.port, "GET", "/").body == STREAM


# ------------------------------------------------------------------------------------------------------ connecting


def test_down_and_up_again(upstream: ScriptedUpstream) -> None:
    """Inside down() connections are refused, after it the same port answers."""
    assert ask(upstream.port, "GET", "/").status == 200
    with upstream.down(), pytest.raises(ConnectionRefusedError):
        connect(upstream.port)
    assert ask(upstream.port, "GET", "/").status == 200


def test_a_full_backlog_gives_no_answer_at_all() -> None:
    """A connection attempt is neither taken nor refused."""
    with full_backlog() as port, pytest.raises(TimeoutError):
        connect(port, timeout=0.3)


def test_tls(new_upstream: Callable[..., ScriptedUpstream], certificate: tuple[Path, Path]) -> None:
    """requests trusts the certificate when told to, and only then."""
    server = new_upstream(tls=certificate)
    server.script = json_answer({})
    assert requests.get(server.url, verify=str(certificate[0]), timeout=60).json() == {}
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(server.url, timeout=60)
    assert len(server.requests) == 1


def test_tls_is_closed_in_the_proper_way(new_upstream: Callable[..., ScriptedUpstream], certificate: tuple[Path, Path]) -> None:
    """The end of a close-delimited answer is announced by TLS too: a client that insists on it is content."""
    server = new_upstream(tls=certificate)
    server.script = sse(EVENTS, framing="close")
    context = ssl.create_default_context(cafile=str(certificate[0]))
    plain = connect(server.port)
    with context.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as sock:
        sock.sendall(build_request("GET", "/"))
        response = read_response(sock)
    assert (response.body, response.complete) == (STREAM, True)


@pytest.mark.parametrize("fault", [reset, no_reply, raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")])
def test_tls_can_break_in_the_handshake(
    new_upstream: Callable[..., ScriptedUpstream], certificate: tuple[Path, Path], fault: Script
) -> None:
    """on_connect comes before TLS: the client sees its handshake fail, and no request is recorded."""
    server = new_upstream(tls=certificate)
    server.on_connect = chain(Exchange.wait_for_bytes, fault, Exchange.close)
    with pytest.raises(requests.ConnectionError):
        requests.get(server.url, verify=str(certificate[0]), timeout=60)
    assert server.requests == []


def test_close_ends_a_stalled_script_and_a_stalled_handshake(certificate: tuple[Path, Path]) -> None:
    """close() returns with every thread joined, whatever they were waiting for."""
    with ScriptedUpstream(tls=certificate) as server:
        context = ssl.create_default_context(cafile=str(certificate[0]))
        server.script = stall(60)
        with connect(server.port) as silent, context.wrap_socket(connect(server.port), server_hostname="127.0.0.1") as sock:
            sock.sendall(build_request("GET", "/"))
            server.wait()
            server.close()
            assert server.connections == 0
            assert (sock.recv(1), silent.recv(1)) == (b"", b"")


# --------------------------------------------------------------------------------------------------------- gunicorn

TINY = """
import os, time

def app(environ, start_response):
    print("asked for", environ["PATH_INFO"])
    if environ["PATH_INFO"] == "/slow":
        time.sleep(60)
    body = " ".join(sorted(os.environ)).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder with an app that answers everything."""
    (tmp_path / "tiny.py").write_text(TINY)
    return tmp_path


def test_gunicorn_starts_and_nothing_of_it_stays(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It serves with its own settings and none of ours, its log and workers can be read, and then all of it is gone."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with Gunicorn(tiny, "-w", "2", app="tiny:app", root=tiny, SOME_SETTING=1) as server:
        seen = ask(server.port, "GET", "/here").body.decode().split()
        assert "SOME_SETTING" in seen
        assert "HTTPS_PROXY" not in seen
        eventually(lambda: len(server.workers()) == 2, "both workers")
        workers = server.workers()
        assert all(map(alive, workers))
        assert server.fds() > 0
        assert "asked for /here" in server.log()
        assert server in Server.running
    assert server not in Server.running
    assert server.process.returncode == 0
    assert not any(map(alive, [server.pid, *workers]))
    with pytest.raises(ConnectionRefusedError):
        connect(server.port)


def test_a_gunicorn_that_does_not_start_shows_its_log(tiny: Path) -> None:
    """The failure of a broken app carries the traceback, and no process is left."""
    (tiny / "broken.py").write_text("raise RuntimeError('what went wrong')")
    server = Gunicorn(tiny, app="broken:app", root=tiny)
    with pytest.raises(AssertionError, match="what went wrong"):
        server.__enter__()
    assert server.process.poll() is not None
    assert server not in Server.running


def test_a_stuck_gunicorn_is_killed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not follow SIGTERM is killed with its workers when its time is over."""
    monkeypatch.setattr(Server, "grace", 0.5)
    server = Gunicorn(tiny, "--graceful-timeout", "60", app="tiny:app", root=tiny)
    with server, connect(server.port) as sock:
        sock.sendall(build_request("GET", "/slow"))
        eventually(lambda: "asked for /slow" in server.log(), "the slow request")
        workers = server.workers()
        assert server.stop() == -signal.SIGKILL
    assert not any(map(alive, [server.pid, *workers]))
