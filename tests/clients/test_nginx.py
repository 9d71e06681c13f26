"""Debian's nginx in front, with ``deploy/nginx.conf`` as it is shipped but for the addresses, and mostly without TLS."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

import pytest
from servers import DEADLINE, ROOT, Answer, Gunicorn, Server, ask, build_request, connect, free_port, raw_request, read_response
from upstream import Exchange, ScriptedUpstream, early, event_bytes, head_bytes, json_answer, sse, stall

CHAT = "/v1/chat/completions"
ORIGIN = ("Origin", "https://chat.example.com")
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
CONFIG = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events {}
http {
    access_log off;
    client_body_temp_path bodies;
    proxy_temp_path answers;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include mistral-filter.conf;
}
"""

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx-light)")


class Nginx(Server):
    """nginx in the foreground, in a folder of its own."""

    def __init__(
        self, directory: Path, behind: int, certificate: tuple[Path, Path] | None = None, location: str | None = None
    ) -> None:
        """*behind* is the port of the proxy; *location* takes the place of the shipped ``location /``."""
        self.port = free_port()
        super().__init__(directory, [], directory, {})
        text = (ROOT / "deploy" / "nginx.conf").read_text("utf-8")
        assert text.count("127.0.0.1:8000;") == 2  # the API and /metrics
        if location is not None:
            shipped = "    location / {\n        proxy_pass http://127.0.0.1:8000;\n    }\n"
            assert shipped in text
            text = text.replace(shipped, location)
        text = re.sub(r"127\.0\.0\.1:8000(?=[/;])", f"127.0.0.1:{behind}", text)
        listen, tls = ("443 ssl;", re.compile(r"(ssl_certificate(?:_key)?) \S+;"))
        assert (text.count(listen), len(tls.findall(text))) == (1, 2)
        text = text.replace(listen, f"127.0.0.1:{self.port}{' ssl' if certificate else ''};")
        files = dict(zip(("ssl_certificate", "ssl_certificate_key"), certificate or (), strict=False))
        text = tls.sub(lambda match: f"{match[1]} {files[match[1]]};" if files else "", text)
        (directory / "mistral-filter.conf").write_text(text)
        (directory / "nginx.conf").write_text(CONFIG)
        self._tls = ssl.create_default_context(cafile=certificate[0]) if certificate else None
        self._command = [str(NGINX), "-p", str(directory), "-c", "nginx.conf", "-e", "stderr"]

    def connection(self) -> HTTPConnection:
        """A connection of a client to nginx."""
        if self._tls is not None:
            return HTTPSConnection("127.0.0.1", self.port, timeout=5, context=self._tls)
        return HTTPConnection("127.0.0.1", self.port, timeout=5)

    def _ready(self) -> bool:
        connection = self.connection()
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status in (200, 404)
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


@pytest.fixture(scope="module")
def behind(shared_servers: Callable[..., Gunicorn]) -> Gunicorn:
    """The proxy that nginx passes to."""
    return shared_servers(WEB_CONCURRENCY=1, MISTRAL_FILTER_MAX_BODY="64k", MISTRAL_FILTER_READ_TIMEOUT=60)


@pytest.fixture(scope="module")
def running(behind: Gunicorn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """nginx, started once for this file."""
    with Nginx(tmp_path_factory.mktemp("nginx"), behind.port) as server:
        yield server


@pytest.fixture
def nginx(running: Nginx, upstream: ScriptedUpstream) -> Nginx:
    """It, in front of a proxy in front of ``upstream``."""
    return running


def chat(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True, **more}


@pytest.mark.parametrize("accept", ["identity", "gzip"])
def test_streams_are_live(nginx: Nginx, upstream: ScriptedUpstream, accept: str) -> None:
    """Each event reaches the client before the upstream sends the next."""
    events = [{"n": 1}, {"n": 2}, "[DONE]"]
    seen = [threading.Event() for _ in events]

    def script(exchange: Exchange) -> None:
        exchange.send(head_bytes(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]))
        for event, acknowledged in zip(events, seen, strict=True):
            exchange.chunk(event_bytes(event))
            if not acknowledged.wait(DEADLINE):
                return
        exchange.send(b"0\r\n\r\n")

    upstream.script = script
    with connect(nginx.port) as sock:
        sock.sendall(build_request("POST", CHAT, chat(), [("Accept-Encoding", accept)]))
        answer, came = Answer(sock), b""
        for _, data in answer.pieces():
            came += data
            for event, acknowledged in zip(events, seen, strict=True):
                if event_bytes(event) in came:
                    acknowledged.set()
    assert (came, answer.complete) == (b"".join(map(event_bytes, events)), True)


def test_a_body_over_the_limit_is_refused_by_us(nginx: Nginx, upstream: ScriptedUpstream) -> None:
    """The 413 is JSON with CORS headers, not nginx's page, for a body that is above our limit and below nginx's."""
    response = ask(nginx.port, "POST", CHAT, chat(extra="x" * 3_000_000), [ORIGIN])
    assert (response.status, response.header("Access-Control-Allow-Origin")) == (413, "*")
    assert response.json()["error"]["code"] == "body_too_large"
    assert upstream.requests == []


@pytest.mark.parametrize("when", ["before the head", "in a stream"])
def test_a_client_that_leaves_frees_the_upstream(nginx: Nginx, upstream: ScriptedUpstream, when: str) -> None:
    """nginx passes on that the client left, and the proxy does."""

    def begun(exchange: Exchange) -> None:
        exchange.send(head_bytes(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]))
        exchange.chunk(b"data: 1\n\n")
        exchange.sleep(60)

    upstream.script = stall() if when == "before the head" else begun
    with connect(nginx.port) as sock:
        sock.sendall(build_request("POST", CHAT, chat()))
        upstream.wait()
        if when == "in a stream":
            assert next(Answer(sock).pieces())[1] == b"data: 1\n\n"
    upstream.wait_left()
    upstream.script = json_answer({"next": True})
    assert ask(nginx.port, "POST", CHAT, chat()).json() == {"next": True}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_cut_stream_is_visible(nginx: Nginx, upstream: ScriptedUpstream, version: str) -> None:
    """An error event reaches the client, and then an HTTP/1.1 client sees broken framing."""
    upstream.script = sse([{"n": 1}, {"n": 2}], cut_at=len(event_bytes({"n": 1})))
    request = build_request("POST", CHAT, chat()).replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1)
    if version == "1.0":
        body, complete = raw_request(nginx.port, request).partition(b"\r\n\r\n")[2], False
    else:
        with connect(nginx.port) as sock:
            sock.sendall(request)
            response = read_response(sock)
        body, complete = response.body, response.complete
    assert not complete
    first, error, rest = body.split(b"\n\n")
    assert (json.loads(first[6:]), rest) == ({"n": 1}, b"")
    assert json.loads(error[6:])["error"]["code"] == "upstream_cut"


@pytest.mark.parametrize("how", ["length", "chunked"])
def test_a_large_upload_is_streamed(nginx: Nginx, upstream: ScriptedUpstream, how: str) -> None:
    """The upstream has its beginning while the client holds its end back; it arrives byte for byte, whatever its size."""
    data = random.Random(2).randbytes(66_000_000)
    begun, body = threading.Event(), bytearray()

    def script(exchange: Exchange) -> None:
        if how == "length":
            exchange._connection._take(1_000_000, body)
            begun.set()
            exchange._connection._take(len(data) - len(body), body)
        else:
            begun.set()
            exchange.read_body()
            body.extend(exchange.request.body)
        json_answer({"size": len(body)})(exchange)

    upstream.script = early(script)
    framing = f"Content-Length: {len(data)}" if how == "length" else "Transfer-Encoding: chunked"
    with connect(nginx.port) as sock:
        sock.sendall(f"POST /v1/files HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
        half = len(data) // 2
        for part in (data[:half], data[half:]):
            sock.sendall(part if how == "length" else b"%x\r\n%b\r\n" % (len(part), part))
            assert begun.wait(DEADLINE)
        if how == "chunked":
            sock.sendall(b"0\r\n\r\n")
        assert read_response(sock).json() == {"size": len(data)}
    assert hashlib.sha256(body).digest() == hashlib.sha256(data).digest()


def test_errors_and_preflights_pass(nginx: Nginx, upstream: ScriptedUpstream) -> None:
    """Our own answers reach a page as they are, and nginx's forwarding headers do not reach the upstream."""
    asked = [ORIGIN, ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization")]
    preflight = ask(nginx.port, "OPTIONS", CHAT, None, asked)
    assert (preflight.status, preflight.header("Access-Control-Allow-Origin")) == (204, "*")
    refused = ask(nginx.port, "POST", CHAT, b"{", [ORIGIN])
    assert (refused.status, refused.header("Access-Control-Allow-Origin")) == (400, "*")
    assert ask(nginx.port, "POST", CHAT, chat(no_such=1), [("X-Forwarded-Host", "evil.example")]).status == 200
    (request,) = upstream.requests
    assert request.json() == chat()
    assert not [name for name, _ in request.headers if name.lower().startswith("x-")]


def test_connections_to_the_proxy_may_be_shared(nginx: Nginx, upstream: ScriptedUpstream) -> None:
    """Good answers, refusals and cut streams in turn: each client gets its own."""
    for turn in range(30):
        upstream.script = json_answer({"turn": turn}) if turn % 3 else sse([{"n": turn}, {"n": 0}], cut_at=12)
        response = ask(nginx.port, "POST", CHAT, chat(model=str(turn)))
        if turn % 3:
            assert (response.json(), response.complete) == ({"turn": turn}, True)
        else:
            assert not response.complete


def test_over_tls_the_page_says_https(behind: Gunicorn, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    """The shipped block with its TLS lines: the base URL that ``/v1`` and the page show has the scheme and port of the client."""
    with Nginx(tmp_path, behind.port, certificate) as server:
        connection = server.connection()
        try:
            connection.request(
                "GET", "/", headers={"Accept": "text/html", "X-Forwarded-Proto": "http", "X-Forwarded-Prefix": "/x"}
            )
            page = connection.getresponse().read().decode()
        finally:
            connection.close()
    assert f"https://127.0.0.1:{server.port}/v1" in page


def test_below_a_path_as_documented(
    behind: Gunicorn, upstream: ScriptedUpstream, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """The block in docs/deploying.md, in the shipped server block: the page's base URL has the path, and requests arrive."""
    blocks = re.findall(r"^```nginx\n(.*?)^```$", (ROOT / "docs" / "deploying.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (location,) = blocks
    upstream.script = json_answer({"id": "1"})
    forged = {"X-Forwarded-Prefix": "/x", "X-Forwarded-Host": "x.example", "X-Forwarded-Proto": "http"}
    with Nginx(tmp_path, behind.port, certificate, location) as server:
        connection = server.connection()
        try:
            connection.request("GET", "/mistral/", headers={"Accept": "text/html", **forged})
            page = connection.getresponse().read().decode()
            connection.request("POST", f"/mistral{CHAT}", json.dumps(chat(user="u")), {"Authorization": "Bearer k"})
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())) == (200, {"id": "1"})
            connection.request("POST", f"/mistral{CHAT}", json.dumps(chat(extra="x" * 3_000_000)), {"Authorization": "Bearer k"})
            assert json.loads(connection.getresponse().read())["error"]["code"] == "body_too_large"
        finally:
            connection.close()
    assert f"https://127.0.0.1:{server.port}/mistral/v1" in page
    assert "x.example" not in page
    assert [(request.target, "user" in request.json()) for request in upstream.requests] == [(CHAT, False)]
