"""What the proxy does in gunicorn's place: the head of a response, the wait for the next request, ``wsgi.errors``."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from gunicorn.config import Config
from gunicorn.http import wsgi
from servers import DEADLINE, Gunicorn, ask, connect, read_response
from upstream import ScriptedUpstream, chain, json_answer, stall

from mistral_filter.flask import init_app
from mistral_filter.proxy.call import Call
from mistral_filter.proxy.gunicorn.messages import Response
from mistral_filter.proxy.upstream import Upstream
from mistral_filter.proxy.view import create_blueprint

KEEP_ALIVE = 1

HEADERS: dict[str, list[Any]] = {
    "none": [],
    "plain": [("Content-Length", "5"), ("A", " b\t"), ("X-Y", "é")],
    "a length in capitals": [("CONTENT-LENGTH", " 7")],
    "hop by hop": [("Connection", "close"), ("Transfer-Encoding", "chunked"), ("A", "1")],
    "an upgrade": [("Upgrade", "websocket"), ("Connection", "upgrade")],
    "long names": [("A" * 5000, "1"), ("Content-Length", "5")],
    "a name with a blank": [("A", "1"), ("a b", "1")],
    "an empty name": [("", "1")],
    "a line break in a value": [("A", "x\r\ny")],
    "a line break at the end": [("A", "x\n")],
    "DEL in a value": [("A", "x\x7f")],
    "no latin-1": [("A", "\u0100")],
    "bytes for a value": [("A", b"x")],
    "bytes for a name": [(b"A", "x")],
    "a length that is none": [("Content-Length", "x")],
}


def outcome(response: Any, headers: list[Any]) -> Any:
    """What *response* makes of *headers*: what it will send, or the exception's type."""
    try:
        response.process_headers(headers)
    except Exception as error:
        return type(error)
    return response.headers, response.response_length, response.upgrade


@pytest.mark.parametrize("case", HEADERS)
def test_headers_are_judged_as_gunicorn_judges_them(case: str) -> None:
    """The same headers go out, and the same are refused, as in gunicorn's own response."""
    request = SimpleNamespace(method="POST", version=(1, 1), should_close=lambda: False)
    expected = outcome(wsgi.Response(request, None, Config()), HEADERS[case])
    assert outcome(Response(request, None, Config()), HEADERS[case]) == expected


@pytest.mark.parametrize(
    ("method", "status", "body"),
    [("GET", "200 OK", b"ab"), ("HEAD", "200 OK", b""), ("GET", "204 No Content", b""), ("GET", "304 Not Modified", b"")],
)
def test_an_answer_is_no_longer_than_it_says(method: str, status: str, body: bytes) -> None:
    """An application that gives more than its length, or a body where there is none, does not write into the next answer."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = SimpleNamespace(method=method, version=(1, 1), should_close=lambda: False)
        response = Response(request, ours, Config())
        response.start_response(status, [("Content-Length", "2")])
        for piece in (b"a", b"bc", b"d"):
            response.write(piece)
        response.close()
        assert theirs.recv(4096).partition(b"\r\n\r\n")[2] == body


def test_what_is_written_to_the_errors_goes_to_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """``wsgi.errors`` is standard error, where gunicorn's error log is, as it is when something is written."""
    wsgi.base_environ(Config())["wsgi.errors"].write("a line\n")
    assert capsys.readouterr().err == "a line\n"


def test_an_idle_connection_is_closed_in_time(gunicorn_server: Callable[..., Gunicorn]) -> None:
    """The client that sends nothing, or no second request, is hung up on after the keep-alive time; the worker serves on."""
    server = gunicorn_server("--keep-alive", str(KEEP_ALIVE))
    with (
        socket.create_connection(("127.0.0.1", server.port)) as silent,
        socket.create_connection(("127.0.0.1", server.port)) as served,
    ):
        served.sendall(b"GET /robots.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"Disallow: /\n"):
            answer += served.recv(4096)
        for connection in (silent, served):
            connection.settimeout(DEADLINE)
            assert connection.recv(1) == b""
        assert ask(server.port, "GET", "/health").status == 200


def test_a_request_may_take_longer_than_a_connection_may_be_idle(
    gunicorn_server: Callable[..., Gunicorn], upstream: ScriptedUpstream
) -> None:
    """The keep-alive time bounds the wait for a request, not the request."""
    server = gunicorn_server("--keep-alive", str(KEEP_ALIVE))
    upstream.script = chain(stall(KEEP_ALIVE + 2.5), json_answer({"id": "1"}))
    response = ask(server.port, "POST", "/v1/chat/completions", {"model": "m", "messages": []})
    assert (response.status, response.complete) == (200, True)


def test_requests_that_lie_ready_do_not_go_before_those_of_others(gunicorn_server: Callable[..., Gunicorn]) -> None:
    """A client that sends four hundred at once takes turns with another, although none of them waits for anything."""
    server = gunicorn_server("-w", "1")
    request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(server.port) as one, connect(server.port) as many:
        for client in (one, many):
            client.sendall(request)
            assert read_response(client).status == 200
        many.sendall(400 * request)
        assert read_response(many).status == 200  # the worker is at it
        one.sendall(request)
        assert read_response(one).status == 200
        many.setblocking(False)
        came = b""
        with contextlib.suppress(BlockingIOError):  # no more has come yet
            while piece := many.recv(1 << 20):
                came += piece
        assert came.count(b"HTTP/1.1 200 OK") < 350


def test_no_header_that_a_server_lets_through_is_two(upstream: ScriptedUpstream) -> None:
    """gunicorn refuses a line break in a field; where another server does not, the field stays here."""
    app = Flask("host")
    app.register_blueprint(create_blueprint({"": Upstream(upstream.url)}))
    broken = dict.fromkeys(("HTTP_ACCEPT", "HTTP_X_AFFINITY", "HTTP_USER_AGENT", "HTTP_ACCEPT_ENCODING"), "a\r\nX-Mine: 1")
    assert init_app(app).test_client().get("/v1/models", environ_overrides=broken).status_code == 200
    (request,) = upstream.requests
    assert (request.header("X-Mine"), request.header("Accept"), request.header("X-Affinity")) == (None, None, None)
    assert (request.header("User-Agent") or "").startswith("mistral-filter/")


def test_what_a_host_asks_for_is_called_when_the_response_is_closed(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a host's app without Calls, the call ends with the response, and so does what the host's ``call_on_close`` names."""
    seen: list[str] = []
    monkeypatch.setattr(Call, "close", lambda call: seen.append("call"))
    app = Flask("host")
    app.register_blueprint(create_blueprint({"": Upstream(upstream.url)}))

    @app.after_request
    def note(response: Any) -> Any:
        response.call_on_close(lambda: seen.append("host"))
        return response

    upstream.script = json_answer({"id": "1"})
    response = init_app(app).test_client().post("/v1/chat/completions", json={"model": "m", "messages": []}, buffered=False)
    assert not seen
    assert response.data == b'{"id": "1"}'
    response.close()
    assert seen == ["call", "host"]
