"""The stand-in over HTTP: paths, methods, keys, framing, streams; and the program that serves it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asking import KEY, USER, ask, chat, post, raw_exchange, says

from mistral_filter.sandbox import main, make_server

Json = dict[str, Any]


# --------------------------------------------------------------------------------------------------------------------- HTTP


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/completions", "/chat/completions", "/v1/chat/completions/", "/v1/models/a/b"])
def test_an_unknown_path_is_not_found(port: int, path: str) -> None:
    """Any other path is the gateway's 404, key or no key."""
    status, headers, raw = ask(port, "POST", path, {}, {})
    answer = json.loads(raw)
    assert (status, answer.pop("message"), list(answer)) == (404, "no Route matched with those values", ["request_id"])
    assert headers["mistral-correlation-id"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/embeddings", "POST"),
        ("PUT", "/v1/ocr?x=1", "POST"),
        ("POST", "/v1/models", "GET"),
        ("OPTIONS", "/v1/models/x", "GET"),
        ("HEAD", "/v1/fim/completions", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_one(port: int, method: str, path: str, allow: str) -> None:
    """A known path answers 405 with Allow to any other method."""
    status, headers, raw = ask(port, method, path)
    assert (status, headers["Allow"]) == (405, allow)
    assert raw == (b"" if method == "HEAD" else b'{"detail":"Method Not Allowed"}')


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer ", "Bearer   ", "Basic abc", "none"])
def test_a_key_is_needed(port: int, value: str | None) -> None:
    """Without a bearer token, or with an empty one, the answer is 401, before the body is looked at."""
    headers = {} if value is None else {"Authorization": value}
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models")):
        status, answered, raw = ask(port, method, path, b"{" if method == "POST" else None, headers)
        assert (status, raw) == (401, b'{"detail":"Unauthorized"}')
        assert answered["mistral-correlation-id"]


def with_key(key: str) -> Json:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/chat/completions"), ("POST", "/v1/responses"), ("GET", "/v1/models")])
def test_the_wrong_key_is_refused(port: int, method: str, path: str) -> None:
    """``wrong`` is answered as Mistral answers a key that it does not know."""
    assert ask(port, method, path, None, with_key("wrong"))[::2] == (401, b'{"detail":"Invalid API Key"}')


def test_a_key_over_its_limit_gets_the_headers_of_the_rate(port: int) -> None:
    """``limit`` is a 429 with the rates in headers and no Retry-After; the list of models can be read all the same."""
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/responses"):
        status, headers, raw = ask(port, "POST", path, chat(), with_key("limit"))
        assert (status, json.loads(raw)["code"]) == (429, "1300")
        assert (headers["x-ratelimit-limit-req-minute"], headers["x-ratelimit-remaining-req-minute"]) == ("60", "0")
        assert headers["Retry-After"] is None
    assert ask(port, "GET", "/v1/models", None, with_key("limit"))[0] == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", chat()), ("/v1/responses", {"model": "mistral-small-latest", "input": "Hi"})],
    ids=["chat", "responses"],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_breaks_off_under_the_broken_key(port: int, path: str, body: Json, version: bytes, stream: bool) -> None:
    """Under ``broken`` a stream has three whole events and no end, another answer half of its bytes, and the connection ends."""
    raw = json.dumps({**body, "stream": stream}).encode()
    head = b"POST %b HTTP/%b\r\nHost: x\r\nAuthorization: Bearer broken\r\n" % (path.encode(), version)
    answer = raw_exchange(port, head + b"Content-Length: %d\r\n\r\n" % len(raw) + raw)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    if stream:
        assert rest.count(b"data: ") == 3
        assert not rest.endswith(b"0\r\n\r\n")
        assert b"[DONE]" not in rest
    else:
        assert 0 < len(rest) < int(re.findall(rb"Content-Length: (\d+)", head)[0])


def test_head_is_get_without_the_body(port: int) -> None:
    """HEAD has the length of the answer to GET and no body."""
    _, got, body = ask(port, "GET", "/v1/models")
    status, headers, nothing = ask(port, "HEAD", "/v1/models")
    assert (status, headers["Content-Length"], nothing) == (200, got["Content-Length"], b"")
    assert got["Content-Length"] == str(len(body))


def test_a_connection_is_used_again_whatever_happened_on_it(port: int) -> None:
    """Refusals, streams and bodies nobody wanted leave the connection usable, each answer with an id of its own."""
    ids = set()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.connect()
        kept = connection.sock
        for method, path, body, status in [
            ("POST", "/nowhere", b"x" * 100_000, 404),
            ("GET", "/v1/chat/completions", b"unread", 405),
            ("POST", "/v1/chat/completions", b"{", 422),
            ("POST", "/v1/chat/completions", json.dumps(chat(stream=True)).encode(), 200),
            ("POST", "/v1/chat/completions", json.dumps(chat(USER, says())).encode(), 400),
            ("HEAD", "/v1/models", None, 200),
            ("POST", "/v1/chat/completions", iter([json.dumps(chat()).encode()[:9], json.dumps(chat()).encode()[9:]]), 200),
        ]:
            connection.request(method, path, body, KEY, encode_chunked=not isinstance(body, bytes))
            response = connection.getresponse()
            assert response.status == status
            ids.add(response.headers["mistral-correlation-id"])
            response.read()
            assert connection.sock is kept
    assert len(ids) == 7


def test_a_stream_is_chunked_and_its_events_leave_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event is a chunk of its own that arrives before the next is made, and the last is [DONE]."""
    arrived = threading.Semaphore(0)

    def until_it_has_arrived(seconds: float) -> None:
        assert seconds == 0 or arrived.acquire(timeout=60)

    monkeypatch.setattr("mistral_filter.sandbox.server.time", SimpleNamespace(time=time.time, sleep=until_it_has_arrived))
    server = make_server(delay=0.15)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        body = json.dumps(chat(stream=True)).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nConnection: close\r\n"
        with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=60) as connection:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            received, seen = b"", 0
            while data := connection.recv(65536):
                received += data
                while seen < received.count(b"\n\n\r\n"):
                    seen += 1
                    arrived.release()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    head, _, rest = received.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert b"Content-Type: text/event-stream" in head
    events = re.findall(rb"([0-9a-f]+)\r\n(data: [^\n]*\n\n)\r\n", rest)
    assert [int(size, 16) for size, _ in events] == [len(event) for _, event in events]
    assert events[-1][1] == b"data: [DONE]\n\n"
    assert rest.endswith(b"\r\n0\r\n\r\n")


def test_http_1_0_gets_a_stream_that_ends_with_the_connection(port: int) -> None:
    """A client that knows no chunks, nginx by default, gets none."""
    body = json.dumps(chat(stream=True)).encode()
    head = b"POST /v1/chat/completions HTTP/1.0\r\nAuthorization: Bearer x\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = raw_exchange(port, head + body)
    assert b"chunked" not in answer
    assert answer.partition(b"\r\n\r\n")[2].startswith(b"data: {")
    assert answer.endswith(b"data: [DONE]\n\n")


ASKING = (
    b'{"model":"mistral-small-latest","messages":[{"role":"user","content":"call f"}],"tool_choice":"any",'
    b'"tools":[{"type":"function","function":{"name":"f","parameters":{"required":["x"],"properties":{"x":{"const":"%b"}}}}}]}'
)


def test_a_stream_may_hold_line_separators_and_half_an_emoji(port: int) -> None:
    """U+2028 comes raw, as from Mistral; a lone surrogate, legal in a request, does not end the answer."""
    status, _, raw = ask(port, "POST", "/v1/chat/completions", ASKING % b"a\\u2028b\\ud83d")
    assert status == 200
    assert "a\u2028b?" in raw.decode("utf-8")


@pytest.mark.parametrize(
    ("framing", "status"),
    [
        (b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", 400),
        (b"Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n", 413),
        (b"Content-Length: -1\r\n\r\n", 400),
        (b"Content-Length: 9\r\n\r\nab", 400),
        (b"Content-Length: 999999999999\r\n\r\n", 413),
    ],
)
def test_a_body_that_cannot_be_read_ends_the_connection(port: int, framing: bytes, status: int) -> None:
    """Broken framing and boundless bodies are refused in JSON, and nothing that follows is taken for a request."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n"
    answer = raw_exchange(port, head + framing)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"mistral-correlation-id: " in answer
    json.loads(answer.partition(b"\r\n\r\n")[2])


def test_chunk_extensions_and_trailers_are_passed_over(port: int) -> None:
    """A chunked body with all that RFC 9112 allows is read, and the next request on the connection is answered."""
    body = json.dumps(chat()).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n"
    chunked = b"Transfer-Encoding: Chunked\r\n\r\n%X;a=b\r\n%b\r\n000\r\nX-Trailer: 1\r\n\r\n" % (len(body), body)
    answer = raw_exchange(port, head + chunked + b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"404"]


def test_a_broken_request_line_is_answered_in_json(port: int) -> None:
    """What the HTTP server refuses by itself has Mistral's header and a JSON body as well."""
    answer = raw_exchange(port, b"BREW /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 501 ")
    assert b"mistral-correlation-id: " in answer
    json.loads(answer.partition(b"\r\n\r\n")[2])


def test_a_client_that_leaves_is_no_noise(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    """A reset in the middle of a stream prints nothing, and nor does any request."""
    body = json.dumps(chat(stream=True, n=16)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: %d\r\n\r\n" % len(body)
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            connection.sendall(head + body)
            connection.recv(1)
    assert post(port, chat())[0] == 200
    time.sleep(0.1)
    assert capfd.readouterr() == ("", "")


# -------------------------------------------------------------------------------------------------------------- the program


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.com", "", "127.0.0.1.example.com"])
def test_binds_loopback_only(host: str) -> None:
    """A host that others could reach is refused before anything is bound."""
    with pytest.raises(ValueError, match=r"127\.0\.0\.1"):
        make_server(host)


def test_localhost_is_loopback() -> None:
    """The name that people type works."""
    with make_server("localhost") as server:
        assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--port", "70000"], ["--delay", "-1"], ["--delay", "soon"]])
def test_a_wrong_argument_stops_the_start(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument is one line on standard error and status 2."""
    with pytest.raises(SystemExit) as stopped:
        main(["--port", "0", *arguments])
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_port_in_use_is_one_sentence(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it cannot listen it says so in one line that names the option which helps, and ends with status 1."""
    with pytest.raises(SystemExit) as stopped:
        main(["--port", str(port)])
    assert stopped.value.code == f"mistral-filter sandbox: port {port} on 127.0.0.1 is in use; choose another with --port."


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_starts_says_where_and_stops_clean(number: signal.Signals) -> None:
    """The program prints its address when it is ready, logs no request, and a signal ends it with status 0."""
    command = [sys.executable, "-m", "mistral_filter.sandbox", "--port", "0"]
    root = Path(__file__).parent.parent.parent
    environ = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, cwd=root, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            ready = re.fullmatch(r"mistral-filter sandbox on http://127\.0\.0\.1:(\d+)\n", line)
            assert ready
            assert post(int(ready[1]), chat())[0] == 200
        finally:
            process.send_signal(number)
            rest = process.communicate(timeout=60)
    assert (process.returncode, *rest) == (0, "", "")
