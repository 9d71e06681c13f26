"""The proxy as it is deployed, the happy ways: gunicorn with the shipped configuration, real sockets, a scripted upstream."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from servers import (
    DEADLINE,
    Answer,
    Gunicorn,
    Response,
    ask,
    build_request,
    connect,
    eventually,
    free_port,
    raw_request,
    read_response,
)
from upstream import Event, Exchange, Script, ScriptedUpstream, chain, early, event_bytes, in_turn, json_answer, raw, reset, sse

from mistral_filter import __version__
from mistral_filter.paths import PATHS

CHAT = "/v1/chat/completions"
KEY = ("Authorization", "Bearer caller-key")
ORIGIN = ("Origin", "https://chat.example.com")
EVENTS: list[Event] = [{"n": 1}, {"text": "zwei\u2028"}, b": a comment\n\n", "[DONE]"]

Headers = Iterable[tuple[str, str]]
Servers = Callable[..., Gunicorn]


@pytest.fixture
def proxy(gunicorn_server: Servers) -> Gunicorn:
    """One worker with default settings, so that requests meet each other's connections."""
    return gunicorn_server(WEB_CONCURRENCY=1)


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An environment with a proxy that is dead and a .netrc that has a key for every host."""
    home = tmp_path_factory.mktemp("home")
    (home / ".netrc").write_text("machine 127.0.0.1 login intruder password secret\ndefault login intruder password secret\n")
    (home / ".netrc").chmod(0o600)
    dead = f"http://127.0.0.1:{free_port()}"
    proxies = {name: dead for upper in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") for name in (upper, upper.lower())}
    return {"HOME": home, "NETRC": home / ".netrc", **proxies}


@pytest.fixture
def adjusted(gunicorn_server: Servers, surroundings: dict[str, Any]) -> Gunicorn:
    """A server that learns nothing, takes bodies up to 64 KiB and believes any proxy in front of it, in odd surroundings."""
    return gunicorn_server(
        WEB_CONCURRENCY=1,
        MISTRAL_FILTER_CORS_ORIGINS="*",
        MISTRAL_FILTER_LEARN="off",
        MISTRAL_FILTER_MAX_BODY="64k",
        FORWARDED_ALLOW_IPS="*",
        **surroundings,
    )


def chat(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], **more}


def post(server: Gunicorn, body: object = None, headers: Headers = (), target: str = CHAT, key: bool = True) -> Response:
    """A POST by a browser with a key."""
    return ask(server.port, "POST", target, chat() if body is None else body, [ORIGIN, *([KEY] if key else []), *headers])


def error_of(response: Response, status: int) -> dict[str, Any]:
    """The error object of an answer to a request with an Origin, when all that must be true of our errors is."""
    assert response.status == status, response
    assert response.complete
    assert response.header("Content-Type") == "application/json"
    assert response.header("Access-Control-Allow-Origin") == "*"
    answer = response.json()
    assert answer.keys() == {"error"}
    error: dict[str, Any] = answer["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert {type(error["param"]), type(error["code"])} <= {str, type(None)}
    return error


def names(headers: Headers) -> set[str]:
    return {name.lower() for name, _ in headers}


def listed(value: str | None) -> set[str]:
    """The members of a comma-separated header, in lower case."""
    return {item.strip().lower() for item in (value or "").split(",")} - {""}


# ------------------------------------------------------------------------------------------------------------ way up


def test_a_request_arrives_filtered_and_with_allowed_headers_only(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Method, path, query, the kept fields and exactly the allowed headers reach the upstream; the echo comes back."""
    sent = [("Accept", "text/event-stream"), ("User-Agent", "my-client/2"), ("Accept-Encoding", "br, gzip"), ("X-Affinity", "a1")]
    response = post(proxy, chat(no_such=1, temperature=0.5), sent, CHAT + "?a=1&a=2")
    (request,) = upstream.requests
    assert (request.method, request.target) == ("POST", CHAT + "?a=1&a=2")
    assert request.json() == chat(temperature=0.5)
    assert dict(request.headers) == {
        "Host": f"127.0.0.1:{upstream.port}",
        "Authorization": "Bearer caller-key",
        "Content-Type": "application/json",
        "Content-Length": str(len(request.body)),
        "Accept": "text/event-stream",
        "User-Agent": "my-client/2",
        "Accept-Encoding": request.header("Accept-Encoding"),
        "X-Affinity": "a1",
    }
    assert len(request.headers) == 8
    assert request.header("Accept-Encoding") in ("gzip", "identity")
    assert response.status == 200
    assert response.json()["object"] == "echo"
    assert response.header("Mistral-Filter-Changes") == 'drop;path="no_such";loss=lost'


def test_a_compressed_upload_goes_up_with_its_coding(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """What is not the filter's goes up as it came, and so does what says how to read it."""
    data = gzip.compress(b"a file")
    assert post(proxy, data, [("Content-Encoding", "gzip")], "/v1/files").status == 200
    (request,) = upstream.requests
    assert (request.body, request.header("Content-Encoding")) == (data, "gzip")


NOT_FORWARDED = """
    Cookie, Origin, Referer, HTTP-Referer, X-Title, X-Stainless-Lang, X-Stainless-Retry-Count, OpenAI-Organization,
    OpenAI-Project, X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, X-Real-Ip, Forwarded, Via, CF-Connecting-IP,
    Keep-Alive, TE, Trailer, Proxy-Authorization, Proxy-Connection, X-HTTP-Method-Override, X-Secret, Cache-Control,
    Mistral-Filter-Strict, Access-Control-Request-Method, Sec-Fetch-Site
"""


def test_no_other_header_is_forwarded(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Whatever tells of the caller or belongs to his connection stays here, also what Connection names."""
    values = {"TE": "trailers", "X-HTTP-Method-Override": "DELETE", "X-Forwarded-Host": "evil.example"}
    headers = [(name, values.get(name, "leak")) for name in re.findall(r"[\w-]+", NOT_FORWARDED)]
    for target, body in [(CHAT, chat()), ("/v1/files", b"data")]:
        assert post(proxy, body, [*headers, ("Connection", "keep-alive, x-secret")], target).status == 200
    for request in upstream.requests:
        assert request.method == "POST"
        assert names(request.headers) & names(headers) == set()
        assert "leak" not in request.head.decode()
        assert "evil.example" not in request.head.decode()
        assert "connection" not in names(request.headers)
    assert len(upstream.requests) == 2


def test_the_key_survives_a_connection_header_that_names_it(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """``Connection: authorization`` does not make the key a hop-by-hop header."""
    assert post(proxy, headers=[("Connection", "authorization")]).status == 200
    assert upstream.requests[0].header("Authorization") == "Bearer caller-key"


@pytest.mark.parametrize("name", ["api-key", "x-api-key", "X-API-Key"])
def test_a_key_may_come_as_an_api_key(proxy: Gunicorn, upstream: ScriptedUpstream, name: str) -> None:
    """What Azure-style clients send as api-key goes up as Authorization, and only so."""
    assert post(proxy, headers=[(name, "other-key")], key=False).status == 200
    assert upstream.requests[0].header("Authorization") == "Bearer other-key"
    assert name.lower() not in names(upstream.requests[0].headers)


def test_authorization_goes_before_an_api_key(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """With both, one key goes up: that of Authorization."""
    assert post(proxy, headers=[("api-key", "other-key")]).status == 200
    assert upstream.requests[0].header("Authorization") == "Bearer caller-key"
    assert b"other-key" not in upstream.requests[0].head


def test_without_a_key_none_is_invented(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """A request without a key goes up without one, and the upstream's own 401 comes back."""
    upstream.script = json_answer({"detail": "Unauthorized"}, 401)
    assert post(proxy, key=False).status == 401
    assert upstream.requests[0].header("Authorization") is None


def test_without_a_user_agent_ours_is_sent(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Never a library's name: mistral-filter and its version."""
    post(proxy)
    assert upstream.requests[0].header("User-Agent") == f"mistral-filter/{__version__}"


SPELLINGS = ["/v1/{}", "/{}", "/v1/v1/{}", "//v1/{}", "/v1//{}", "/v1/{}/", "/v1/{}/{}", "/{}/{}"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_harmless_spelling_is_the_canonical_path_upstream(
    proxy: Gunicorn, upstream: ScriptedUpstream, spelling: str
) -> None:
    """All endpoints, in all the spellings that clients produce: one path upstream, filtered."""
    for path in PATHS.values():
        kept = {"agent_id": "a"} if path.startswith("agents") else {"model": "m"}
        response = post(proxy, {**kept, "no_such_field": 1}, target=spelling.format(path, path))
        assert response.status == 200, path
        request = upstream.requests[-1]
        assert (request.method, request.target, request.json()) == ("POST", f"/v1/{path}", kept)


@pytest.mark.parametrize("spelling", ["/v1/models", "/models", "/v1/v1/models", "//v1/models", "/v1/models/"])
def test_model_lists_are_forwarded_in_every_spelling(proxy: Gunicorn, upstream: ScriptedUpstream, spelling: str) -> None:
    """GET on the models: the canonical path upstream, no body, the answer unchanged."""
    upstream.script = json_answer({"object": "list", "data": [{"id": "m", "created": 1.10}]})
    response = ask(proxy.port, "GET", spelling, headers=[KEY])
    (request,) = upstream.requests
    assert (request.method, request.target, request.body) == ("GET", "/v1/models", b"")
    assert names(request.headers) == {"host", "authorization", "user-agent", "accept-encoding"}
    assert (response.status, response.body) == (200, b'{"object": "list", "data": [{"id": "m", "created": 1.1}]}')


def test_an_escaped_letter_is_the_letter(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """``%63hat`` is ``chat`` by the standard: filtered and forwarded in plain spelling."""
    assert post(proxy, chat(store=True), target="/v1/%63hat/completions").status == 200
    assert (upstream.requests[0].target, upstream.requests[0].json()) == (CHAT, chat())


def test_an_absolute_form_target_does_not_choose_the_host(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """A proxy-style request line is refused, or only its path counts."""
    response = post(proxy, chat(store=True), target="http://evil.example/v1/chat/completions")
    if response.status == 200:
        assert (upstream.requests[0].target, upstream.requests[0].json()) == (CHAT, chat())
        assert b"evil" not in upstream.requests[0].head
    else:
        assert 400 <= response.status < 500
        assert upstream.requests == []


TRICKS = [
    "/v1/./chat/completions",
    "/v1/x/../chat/completions",
    "/v1/files/../chat/completions",
    "/v1/%2e/chat/completions",
    "/v1/%2e%2e/v1/chat/completions",
    "/v1/models/%2E%2E/chat/completions",
    "/v1/%252e%252e/v1/chat/completions",
    "/v1/chat/completions%3F",
    "/v1/chat/completions%3Fx=1",
    "/v1/chat/completions%23",
    "/v1/chat/completions%23x",
    "/v1/%2563hat/completions",
    "/v1/chat%2Fcompletions%2F..%2F..%2Ffiles",
    "/v1/chat;x/completions",
    "/v1/chat/completions;x=1",
    "/v1/chat%5Ccompletions",
    "/v1\\chat\\completions",
    "/v1/chat/completions%20",
    "/v1/chat/completions%00",
    "/v1/chat/completions%0d%0aX-Evil:%201",
    "/v1/Chat/Completions",
    "/V1/CHAT/COMPLETIONS",
    "/@evil.example/v1/chat/completions",
    "//evil.example/v1/chat/completions",
    "/v1/@evil.example:80/chat/completions",
    "/v1/%ef%bc%8fchat/completions",
    "/v1/..%2f..%2fetc/passwd",
    "/v1/files/..",
    "/v1/files/%2e%2e/%2e%2e/admin",
    "/admin",
    "/static/app.py",
]


@pytest.mark.parametrize("target", TRICKS)
def test_path_tricks_are_refused(proxy: Gunicorn, upstream: ScriptedUpstream, target: str) -> None:
    """No disguise of an endpoint, and no way to another place, is forwarded: 404 in JSON, no request upstream."""
    assert error_of(post(proxy, chat(store=True), target=target), 404)["code"] == "not_found"
    assert upstream.requests == []


def test_query_strings_are_forwarded(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Repeated names and escapes stay, bad escapes and brackets are escaped at most; ``_method`` means nothing."""
    target = "/v1/files?a=1&a=2&b=%2F&c=%zz&d=%C3%A9&e=a+b&f[]=1&_method=DELETE&g="
    assert ask(proxy.port, "GET", target, headers=[KEY]).status == 200
    (request,) = upstream.requests
    assert request.method == "GET"
    assert request.target.replace("%25zz", "%zz").replace("%5B%5D", "[]") == target


def test_a_query_with_raw_letters_is_refused_or_escaped(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Bytes that no URL may hold never go upstream as they are."""
    response = ask(proxy.port, "GET", "/v1/files?d=\xc3\xa9", headers=[KEY])
    assert response.status in (200, 400)
    assert [request.target for request in upstream.requests] == ["/v1/files?d=%C3%A9"] * (response.status == 200)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_requests_without_a_body_go_up_without_one(proxy: Gunicorn, upstream: ScriptedUpstream, method: str) -> None:
    """GET and DELETE reach the upstream as they are; a body that a client sends along is left out, and nothing hangs."""
    with connect(proxy.port) as sock:
        for body in (None, b"left out", None):
            sock.sendall(build_request(method, "/v1/files/abc-1?x=1", body, [KEY]))
            assert read_response(sock, method).status == 200
    for request in upstream.requests:
        assert (request.method, request.target, request.body) == (method, "/v1/files/abc-1?x=1", b"")
    assert len(upstream.requests) == 3


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_other_methods_of_the_api_are_forwarded(proxy: Gunicorn, upstream: ScriptedUpstream, method: str) -> None:
    """PUT and PATCH go up with their bodies, byte for byte."""
    assert ask(proxy.port, method, "/v1/agents/a1", b'{"name" : 1.10}', [KEY]).status == 200
    assert (upstream.requests[0].method, upstream.requests[0].body) == (method, b'{"name" : 1.10}')


def test_a_post_without_a_body_is_forwarded_with_an_empty_one(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Neither Content-Length nor chunks: no hang, and a Content-Length of 0 upstream."""
    with connect(proxy.port) as sock:
        sock.sendall(b"POST /v1/batch/jobs/j1/cancel HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_response(sock).status == 200
    assert (upstream.requests[0].body, upstream.requests[0].header("Content-Length")) == (b"", "0")


# ----------------------------------------------------------------------------------------------------------- uploads

BOUNDARY = "multipart/form-data; boundary=frontier"
UPLOAD = b"--frontier\r\nContent-Disposition: form-data; name=file; filename=a.mp3\r\n\r\n%b\r\n--frontier--\r\n" % (
    random.Random(1).randbytes(3_000_000)
)


def chunked(body: bytes, size: int = 50_001) -> Iterator[bytes]:
    """*body* as chunks on the wire, the last one included."""
    for start in range(0, len(body), size):
        piece = body[start : start + size]
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


@pytest.mark.parametrize("target", ["/v1/files", "/v1/audio/transcriptions"])
@pytest.mark.parametrize("how", ["length", "chunked"])
def test_uploads_are_byte_equal(proxy: Gunicorn, upstream: ScriptedUpstream, how: str, target: str) -> None:
    """A multipart upload arrives with the same bytes and content type, framed as it was sent."""
    with connect(proxy.port) as sock:
        head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: {BOUNDARY}\r\n"
        if how == "length":
            sock.sendall(f"{head}Content-Length: {len(UPLOAD)}\r\n\r\n".encode() + UPLOAD)
        else:
            sock.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + b"".join(chunked(UPLOAD)))
        assert read_response(sock).status == 200
    (request,) = upstream.requests
    assert not request.cut
    assert hashlib.sha256(request.body).digest() == hashlib.sha256(UPLOAD).digest()
    assert request.header("Content-Type") == BOUNDARY
    assert request.header("Content-Length") == (str(len(UPLOAD)) if how == "length" else None)


@pytest.mark.parametrize("how", ["length", "chunked"])
def test_uploads_are_streamed(proxy: Gunicorn, upstream: ScriptedUpstream, how: str) -> None:
    """The upstream has the first bytes of an upload while the client still holds the last ones back."""
    begun = threading.Event()
    start, end = b"a" * 70_000, b"z" * 70_000

    def script(exchange: Exchange) -> None:
        exchange._connection._take(len(b"10\r\n") if how == "chunked" else 10, bytearray())
        begun.set()
        exchange._connection._take(len(end), bytearray())
        json_answer({"got": "it"})(exchange)

    upstream.script = early(script)
    with connect(proxy.port) as sock:
        framing = f"Content-Length: {len(start + end)}" if how == "length" else "Transfer-Encoding: chunked"
        sock.sendall(f"POST /v1/files HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
        sock.sendall(start if how == "length" else b"%x\r\n%b\r\n" % (len(start), start))
        assert begun.wait(DEADLINE)
        sock.sendall(end if how == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (len(end), end))
        assert read_response(sock).json() == {"got": "it"}


@pytest.mark.parametrize(
    "upload",
    [
        b"Content-Length: 100000\r\n\r\n" + b"a" * 70_000,
        b"Content-Length: 10\r\n\r\nabc",
        b"Content-Length: 10\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n11170\r\n" + b"a" * 70_000 + b"\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n9\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\nabc\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_a_cut_upload_never_looks_complete(proxy: Gunicorn, upstream: ScriptedUpstream, upload: bytes) -> None:
    """A client that leaves in mid-upload, or breaks its framing, is told so; the upstream sees a broken request or none."""
    head = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\nConnection: close\r\n"
    answer = raw_request(proxy.port, head + upload, half_close=True)
    # the broken body is seen, or that the client has left: whichever comes first
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 499 "))
    assert b'{"error":{"message":' in answer
    assert ask(proxy.port, "GET", "/v1/models").status == 200
    eventually(lambda: any(request.target == "/v1/models" for request in upstream.requests), "the next request")
    uploads = [request for request in upstream.requests if request.target != "/v1/models"]
    assert [request.cut for request in uploads] in ([], [True])


# ----------------------------------------------------------------------------------------------------------- upstreams


def test_named_upstreams(
    gunicorn_server: Servers, upstream: ScriptedUpstream, new_upstream: Callable[..., ScriptedUpstream]
) -> None:
    """``/codestral`` and names of one's own lead to their own hosts, filtered, in every spelling; unknown names lead nowhere."""
    codestral, other = new_upstream(), new_upstream()
    server = gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_UPSTREAMS=f"codestral={codestral.url} my-own={other.url}")
    fim = {"model": "m", "prompt": "def f", "suffix": "return"}
    for spelling in ["/codestral/v1/fim/completions", "/codestral/fim/completions", "/codestral/v1/fim/completions/"]:
        assert post(server, {**fim, "store": True}, target=spelling).status == 200
        assert (codestral.requests[-1].target, codestral.requests[-1].json()) == ("/v1/fim/completions", fim)
    assert post(server, chat(store=True), target="/my-own/v1/chat/completions").status == 200
    assert (other.requests[-1].target, other.requests[-1].json()) == (CHAT, chat())
    assert ask(server.port, "GET", "/my-own/v1/models").json()["target"] == "/v1/models"
    assert upstream.requests == []
    error_of(post(server, target="/nobody/v1/chat/completions"), 404)
    error_of(post(server, target="/v1/codestral/../my-own/v1/chat/completions"), 404)
    assert post(server).status == 200
    assert [len(server.requests) for server in (upstream, codestral, other)] == [1, 3, 2]


# ---------------------------------------------------------------------------------------------------------------- CORS

ASKED = (
    "authorization, content-type, x-stainless-lang, x-stainless-package-version, x-stainless-os, x-stainless-arch, "
    "x-stainless-runtime, x-stainless-runtime-version, x-stainless-retry-count, x-stainless-timeout, "
    "x-stainless-helper-method, openai-organization, openai-project, http-referer, x-title, x-api-key, cache-control"
)


@pytest.mark.parametrize(
    "target", [CHAT, "/chat/completions", "/v1/models", "/codestral/v1/fim/completions", "/explain/chat", "/nowhere"]
)
def test_a_preflight_is_answered_everywhere(proxy: Gunicorn, upstream: ScriptedUpstream, target: str) -> None:
    """204 without a key on known and unknown paths: any origin, the methods, every header that is asked for, for a day."""
    asks = [ORIGIN, ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", ASKED)]
    response = ask(proxy.port, "OPTIONS", target, headers=asks)
    assert (response.status, response.body) == (204, b"")
    assert response.header("Access-Control-Allow-Origin") == "*"
    assert listed(response.header("Access-Control-Allow-Methods")) >= {"get", "post", "options", "delete"}
    assert listed(response.header("Access-Control-Allow-Headers")) == listed(ASKED)
    assert response.header("Access-Control-Max-Age") == "86400"
    assert response.header("Access-Control-Allow-Credentials") is None
    assert upstream.requests == []


def test_options_without_a_preflight_is_answered_too(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """What the original worker answered to a plain OPTIONS: 204 with the four headers."""
    response = ask(proxy.port, "OPTIONS", CHAT, headers=[ORIGIN])
    assert response.status == 204
    assert response.header("Access-Control-Allow-Origin") == "*"
    assert listed(response.header("Access-Control-Allow-Methods")) >= {"get", "post", "options"}
    assert listed(response.header("Access-Control-Allow-Headers")) >= {"authorization", "content-type"}
    assert response.header("Access-Control-Max-Age") == "86400"
    assert upstream.requests == []


EXPOSED = "X-Request-Id, Mistral-Correlation-Id, Retry-After, Retry-After-Ms, X-Should-Retry, Mistral-Filter-Changes, "
EXPOSED += "X-RateLimit-Limit-Req-Minute, X-RateLimit-Remaining-Req-Minute, X-RateLimit-Remaining-Tokens-Minute"


def test_answers_may_be_read_by_pages(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Any origin may read an answer and the headers that matter; the upstream's own CORS headers do not come through."""
    theirs = [
        ("Access-Control-Allow-Origin", "https://theirs.example"),
        ("access-control-allow-credentials", "true"),
        ("Access-Control-Expose-Headers", "X-Theirs"),
        ("Access-Control-Max-Age", "1"),
    ]
    for script in (json_answer({}, headers=theirs), sse(EVENTS, headers=theirs), json_answer({}, 429, theirs)):
        upstream.script = script
        response = post(proxy)
        assert [value for name, value in response.headers if name.lower() == "access-control-allow-origin"] == ["*"]
        assert listed(response.header("Access-Control-Expose-Headers")) >= listed(EXPOSED)
        assert "x-theirs" not in listed(response.header("Access-Control-Expose-Headers"))
        assert names(response.headers) & {"access-control-allow-credentials", "access-control-max-age"} == set()


REFUSALS: list[tuple[str, str, object, Headers, int]] = [
    ("bad JSON", CHAT, b"{", (), 400),
    ("no object", CHAT, b"[]", (), 400),
    ("compressed", CHAT, gzip.compress(b"{}"), [("Content-Encoding", "gzip")], 415),
    ("empty key", CHAT, None, [("Authorization", "Bearer ")], 401),
    ("two keys", CHAT, None, [KEY, ("Authorization", "Bearer b")], 400),
    ("no path", "/nowhere", None, (), 404),
    ("no such API", "/v1/completions", None, (), 404),
    ("no such explanation", "/explain/nothing", None, (), 404),
    ("strict", CHAT, chat(no_such=1), [("Mistral-Filter-Strict", "on")], 400),
]


@pytest.mark.parametrize(("target", "body", "headers", "status"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
def test_every_refusal_is_json_that_a_page_can_read(
    proxy: Gunicorn, upstream: ScriptedUpstream, target: str, body: object, headers: Headers, status: int
) -> None:
    """The one shape, with CORS, and nothing goes upstream."""
    error_of(post(proxy, body, headers, target, key=False), status)
    assert upstream.requests == []


@pytest.fixture
def choosy(gunicorn_server: Servers) -> Gunicorn:
    """A server for two origins only."""
    return gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_CORS_ORIGINS="https://a.ex http://localhost:3000")


@pytest.mark.parametrize("origin", ["https://a.ex", "http://localhost:3000"])
def test_a_listed_origin_is_allowed(choosy: Gunicorn, upstream: ScriptedUpstream, origin: str) -> None:
    """It is named in preflights, answers and errors, which say that they vary by it."""
    asks = [("Origin", origin), ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization")]
    upstream.script = in_turn(json_answer({}), reset)
    for response in (
        ask(choosy.port, "OPTIONS", CHAT, headers=asks),
        ask(choosy.port, "POST", CHAT, chat(), [("Origin", origin)]),
        ask(choosy.port, "POST", CHAT, chat(), [("Origin", origin)]),
        ask(choosy.port, "POST", CHAT, b"{", [("Origin", origin)]),
    ):
        assert response.header("Access-Control-Allow-Origin") == origin
        assert "origin" in listed(response.header("Vary"))


@pytest.mark.parametrize(
    "origin",
    [
        "https://a.ex.evil.net",
        "https://xa.ex",
        "https://evil.net/https://a.ex",
        "http://a.ex",
        "https://a.ex:8443",
        "https://sub.a.ex",
        "https://a_ex",
        "https://axex",
        "null",
        "*",
        "https://a.ex, https://evil.net",
    ],
)
def test_no_other_origin_is_allowed(choosy: Gunicorn, upstream: ScriptedUpstream, origin: str) -> None:
    """Neither what merely looks like a listed origin nor null gets a permission."""
    asks = [("Origin", origin), ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization")]
    for response in (
        ask(choosy.port, "OPTIONS", CHAT, headers=asks),
        ask(choosy.port, "POST", CHAT, chat(), [("Origin", origin)]),
        ask(choosy.port, "POST", CHAT, b"{", [("Origin", origin)]),
    ):
        assert response.header("Access-Control-Allow-Origin") in (None, "https://a.ex", "http://localhost:3000")
        assert response.header("Access-Control-Allow-Origin") != origin
    assert ask(choosy.port, "OPTIONS", CHAT, headers=asks).header("Access-Control-Allow-Headers") is None


# --------------------------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize("path", ["/health", "/healthz"])
def test_health(proxy: Gunicorn, upstream: ScriptedUpstream, path: str) -> None:
    """A tiny JSON, for HEAD too, that asks nobody upstream."""
    assert ask(proxy.port, "GET", path).json() == {"status": "ok"}
    head = ask(proxy.port, "HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert upstream.requests == []


def test_the_small_pages(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """/v1 is a small JSON, robots stay out, there is no icon."""
    assert ask(proxy.port, "GET", "/v1").json()["name"] == "mistral-filter"
    assert ask(proxy.port, "GET", "/codestral/v1/").json()["models"] == "/codestral/v1/models"
    robots = ask(proxy.port, "GET", "/robots.txt")
    assert robots.body.split() == b"User-agent: * Disallow: /".split()
    assert (robots.header("Content-Type") or "").startswith("text/plain")
    icon = ask(proxy.port, "GET", "/favicon.ico")
    assert (icon.status, icon.body) == (204, b"")
    assert upstream.requests == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_a_wrong_method_on_an_endpoint(proxy: Gunicorn, upstream: ScriptedUpstream, method: str) -> None:
    """405 with Allow and a sentence that says what the path takes."""
    for path in PATHS.values():
        response = ask(proxy.port, method, f"/v1/{path}", headers=[ORIGIN, KEY])
        assert "POST" in error_of(response, 405)["message"]
        assert listed(response.header("Allow")) == {"post", "options"}
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/health", "/robots.txt", "/explain/chat"])
def test_a_wrong_method_on_a_page(proxy: Gunicorn, upstream: ScriptedUpstream, path: str) -> None:
    """An error in the one shape, and nothing goes upstream."""
    response = ask(proxy.port, "DELETE", path, headers=[ORIGIN])
    error_of(response, 405 if response.header("Allow") else 404)
    assert upstream.requests == []


FIXES = [
    ("POST", "/v1/completions", "/v1/chat/completions"),
    ("POST", "/completions", "is_chat_model=True"),
    ("POST", "/v1/images/generations", "/v1/images"),
    ("GET", "/dashboard/billing/subscription", "billing"),
    ("GET", "/v1/dashboard/billing/usage?start_date=1", "billing"),
    ("GET", "/nowhere", "/v1"),
    ("POST", "/v1", "/v1/chat/completions"),
]


@pytest.mark.parametrize(("method", "target", "fix"), FIXES)
def test_a_404_names_the_fix(proxy: Gunicorn, upstream: ScriptedUpstream, method: str, target: str, fix: str) -> None:
    """What Mistral does not have is refused here, with what the client should do instead."""
    assert fix in error_of(ask(proxy.port, method, target, None, [ORIGIN, KEY]), 404)["message"]
    assert upstream.requests == []


@pytest.mark.parametrize("target", ["/v1/responses", "/responses", "/v1/v1/responses", "/v1/responses/"])
def test_a_responses_body_is_filtered(proxy: Gunicorn, upstream: ScriptedUpstream, target: str) -> None:
    """What the Responses API takes with one value only goes up with that value, and the change is reported."""
    response = post(proxy, b'{"input" : "x", "store": true, "model":"m"}', target=target)
    assert response.status == 200
    assert response.header("Mistral-Filter-Changes") == 'set;path="store";loss=approximate'
    (request,) = upstream.requests
    assert (request.target, json.loads(request.body)) == ("/v1/responses", {"input": "x", "store": False, "model": "m"})


def test_counting_input_tokens_has_a_list_of_its_own(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """/v1/responses/input_tokens takes what is counted, and nothing that only an answer needs."""
    assert post(proxy, b'{"model":"m","input":"x","stream":true}', target="/v1/responses/input_tokens").status == 200
    (request,) = upstream.requests
    assert (request.target, json.loads(request.body)) == ("/v1/responses/input_tokens", {"model": "m", "input": "x"})


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/v1/responses/resp_1"), ("DELETE", "/v1/responses/resp_1"), ("POST", "/v1/responses/compact")],
)
def test_the_other_paths_of_responses_are_forwarded(
    proxy: Gunicorn, upstream: ScriptedUpstream, method: str, target: str
) -> None:
    """What has no body for the filter goes up as it came."""
    body = b'{"store" : true}' if method == "POST" else None
    assert ask(proxy.port, method, target, body, [ORIGIN, KEY]).status == 200
    (request,) = upstream.requests
    assert (request.target, request.body) == (target, body or b"")


@pytest.mark.parametrize("target", ["/explain/chat", "/explain/chat/completions", "/explain/v1/chat/completions"])
def test_explain(proxy: Gunicorn, upstream: ScriptedUpstream, target: str) -> None:
    """A body comes back as it would go up, with each change and its reason; no key is needed, nothing goes up."""
    response = post(proxy, chat(max_completion_tokens=5, no_such=1), target=target, key=False)
    answer = response.json()
    assert response.header("Access-Control-Allow-Origin") == "*"
    assert (answer["endpoint"], answer["error"]) == ("chat", None)
    assert answer["after"] == chat(max_tokens=5)
    changes = [(change["action"], change["path"], change["to"], change["loss"]) for change in answer["changes"]]
    assert sorted(changes) == [("drop", "no_such", None, "lost"), ("rename", "max_completion_tokens", "max_tokens", "none")]
    assert all(change["reason"] for change in answer["changes"])
    assert upstream.requests == []


def test_explain_tells_of_a_refusal(proxy: Gunicorn) -> None:
    """What would be refused is explained too: the error that the caller would get, and no body after."""
    answer = post(proxy, b'{"a": NaN}', target="/explain/chat").json()
    assert (answer["after"], answer["error"]["error"]["code"]) == (None, "invalid_json")


# ------------------------------------------------------------------------------------------------------------ way down


@pytest.mark.parametrize("status", [200, 201, 400, 401, 403, 404, 409, 422, 429, 500, 503])
def test_status_body_and_headers_come_down(proxy: Gunicorn, upstream: ScriptedUpstream, status: int) -> None:
    """The upstream's status, its body (with an error object beside an error), what clients act on; one request for each."""
    headers = [("Retry-After", "3600"), ("Mistral-Correlation-Id", "c1"), ("X-RateLimit-Remaining-Req-Minute", "0")]
    body = b'{"message" : "x", "n":1.10, "z":1e2}'
    lines = "".join(f"{name}: {value}\r\n" for name, value in [*headers, ("Content-Type", "application/json")])
    upstream.script = raw(f"HTTP/1.1 {status} Whatever\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    response = post(proxy)
    assert (response.status, response.complete) == (status, True)
    if status < 400:
        assert response.body == body
    else:
        assert response.json() == {**json.loads(body), "error": response.json()["error"]}
        assert response.json()["error"]["message"] == "x"
    assert set(headers) <= set(response.headers)
    assert response.header("Access-Control-Allow-Origin") == "*"
    assert len(upstream.requests) == 1


def test_a_request_id_of_the_upstreams_stays(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Mistral's id gets the name that OpenAI's clients read only where that name is free."""
    theirs = [("Mistral-Correlation-Id", "m-1")]
    for more, expected in (([], "m-1"), ([("X-Request-ID", "r-1")], "r-1")):
        upstream.script = json_answer({"a": 1}, headers=[*theirs, *more])
        assert post(proxy).header("x-request-id") == expected


def test_headers_that_are_not_for_the_caller_are_stripped(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Cookies, promises for the upstream's host and hop-by-hop headers stay behind; duplicates of others are kept."""
    kept = [("Vary", "Accept"), ("Vary", "Accept-Encoding"), ("X-D", "1"), ("X-D", "2"), ("CF-Ray", "x")]
    theirs = [
        ("Set-Cookie", "__cf_bm=secret; Path=/"),
        ("Set-Cookie", "_cfuvid=secret"),
        ("Strict-Transport-Security", "max-age=1"),
        ("Alt-Svc", 'h3=":443"'),
        ("X-Accel-Redirect", "/internal"),
        ("X-Accel-Limit-Rate", "1"),
        ("X-Sendfile", "/etc/passwd"),
        ("Mistral-Filter-Changes", "fake"),
        ("Server", "cloudflare"),
        ("Connection", "keep-alive, x-hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("Upgrade", "h2c"),
        ("Trailer", "X-T"),
    ]
    upstream.script = json_answer({"a": 1}, headers=[*kept, *theirs])
    response = post(proxy)
    assert response.json() == {"a": 1}
    assert [header for header in response.headers if header in kept] == kept
    assert names(response.headers) & (names(theirs) - {"server", "connection"}) == set()
    assert all(value not in ("cloudflare", "keep-alive, x-hop") for _, value in response.headers)
    assert len([1 for name, _ in response.headers if name.lower() in ("server", "date", "content-type", "content-length")]) == 4


@pytest.mark.parametrize("target", [CHAT, "/v1/moderations", "/v1/conversations"])
def test_compressed_answers_pass_as_they_are(proxy: Gunicorn, upstream: ScriptedUpstream, target: str) -> None:
    """A gzip body keeps its bytes, its Content-Encoding and its length, whether it was asked for or not."""
    body = gzip.compress(b'{"a": 1}' * 100)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: "
    upstream.script = raw(head + b"%d\r\n\r\n" % len(body) + body)
    response = post(proxy, headers=[("Accept-Encoding", "gzip")], target=target)
    assert (response.body, response.header("Content-Encoding")) == (body, "gzip")
    assert response.header("Content-Length") == str(len(body))
    assert upstream.requests[0].header("Accept-Encoding") in (("gzip",) if target != CHAT else ("gzip", "identity"))


@pytest.mark.parametrize(
    ("accepted", "asked"),
    [
        ("gzip", "gzip"),
        ("br, GZIP;q=0.5", "gzip"),
        ("gzip;q=0, identity", "identity"),
        ("gzip; q=0.0", "identity"),
        ("br", "identity"),
    ],
)
def test_gzip_is_asked_for_where_it_is_taken(proxy: Gunicorn, upstream: ScriptedUpstream, accepted: str, asked: str) -> None:
    """A quality of zero is a no."""
    post(proxy, headers=[("Accept-Encoding", accepted)], target="/v1/moderations")
    assert upstream.requests[0].header("Accept-Encoding") == asked


def test_without_accept_encoding_none_is_asked_for(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """A client that takes no compression does not get one by our doing."""
    post(proxy)
    post(proxy, headers=[("Accept-Encoding", "br")])
    assert [request.header("Accept-Encoding") for request in upstream.requests] == ["identity", "identity"]


def test_answers_without_a_body(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """HEAD, 204, 304 and an empty 200: the right status, no body, no wait, and the client's connection stays usable."""
    upstream.script = {
        "/v1/models": raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4242\r\n\r\n"),
        "/v1/files/204": json_answer(None, 204),
        "/v1/files/304": raw(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 4242\r\n\r\n'),
        "/v1/files/empty": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    }
    asked = [("HEAD", "/v1/models"), ("DELETE", "/v1/files/204"), ("GET", "/v1/files/304"), ("GET", "/v1/files/empty")]
    with connect(proxy.port) as sock:
        for (method, target), status in zip([*asked, *asked], [200, 204, 304, 200] * 2, strict=True):
            sock.sendall(build_request(method, target, headers=[KEY]))
            response = read_response(sock, method)
            assert (response.status, response.body, response.complete) == (status, b"", True)
            if method == "HEAD":
                assert response.header("Content-Length") == "4242"
    assert len(upstream.requests) == 8


def test_a_large_answer_is_whole(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Several megabytes, as JSON of known and of unknown length and as something else, byte for byte."""
    body = b'"' + random.Random(2).randbytes(3_000_000).hex().encode() + b'"'
    for kind in (b"application/json", b"audio/mpeg"):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\n"
        for script in (
            raw(head + b"Content-Length: %d\r\n\r\n" % len(body) + body),
            raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunked(body))),
            raw(head + b"\r\n" + body),
        ):
            upstream.script = script
            response = post(proxy)
            assert (response.status, response.complete, response.body == body) == (200, True, True)
            assert response.header("Content-Type") == kind.decode()


# ------------------------------------------------------------------------------------------------------------- streams

STREAM = b"".join(map(event_bytes, EVENTS))
FRAMINGS: dict[str, list[tuple[str, str]]] = {
    "chunked": [("Transfer-Encoding", "chunked")],
    "length": [("Content-Length", str(len(STREAM)))],
    "close": [],
    "gzip": [("Transfer-Encoding", "chunked"), ("Content-Encoding", "gzip")],
}


def held_back(framing: str, seen: list[threading.Event], kind: str = "text/event-stream; charset=utf-8") -> Script:
    """A stream whose next event is sent only when the client has told by *seen* that it has the one before."""

    def script(exchange: Exchange) -> None:
        exchange.head(200, [("Content-Type", kind), *FRAMINGS[framing]])
        packer = zlib.compressobj(wbits=31)
        for event, acknowledged in zip(EVENTS, seen, strict=True):
            data = event_bytes(event)
            if framing == "gzip":
                data = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
            exchange.chunk(data) if framing in ("chunked", "gzip") else exchange.send(data)
            if not acknowledged.wait(DEADLINE):
                return
        if framing == "gzip":
            exchange.chunk(packer.flush())
        if framing in ("chunked", "gzip"):
            exchange.send(b"0\r\n\r\n")

    return script


@pytest.mark.parametrize("kind", ["text/event-stream; charset=utf-8", "audio/mpeg"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_streams_arrive_piece_by_piece(proxy: Gunicorn, upstream: ScriptedUpstream, framing: str, kind: str) -> None:
    """Each event reaches the client before the upstream sends the next, in every framing; the bytes are the same."""
    seen = [threading.Event() for _ in EVENTS]
    upstream.script = held_back(framing, seen, kind)
    unpacker, came = zlib.decompressobj(wbits=31), b""
    with connect(proxy.port) as sock:
        sock.sendall(build_request("POST", CHAT, chat(stream=True), [KEY, ("Accept-Encoding", "gzip")]))
        answer = Answer(sock)
        for _, piece in answer.pieces():
            came += unpacker.decompress(piece) if framing == "gzip" else piece
            for event in seen[: came.count(b"\n\n")]:
                event.set()
    assert (came, answer.complete) == (STREAM, True)
    headers = dict(answer.headers)
    assert headers["Content-Type"] == kind
    assert headers.get("Content-Encoding") == ("gzip" if framing == "gzip" else None)
    if kind.startswith("text/event-stream"):
        assert headers["Cache-Control"] == "no-cache, no-transform"
        assert headers["X-Accel-Buffering"] == "no"
        assert [name.lower() for name, _ in answer.headers].count("cache-control") == 1


def test_the_upstreams_cache_control_is_replaced_on_streams(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """One Cache-Control reaches the client: ours."""
    upstream.script = sse(EVENTS, headers=[("Cache-Control", "public, max-age=1"), ("X-Accel-Buffering", "yes")])
    response = post(proxy)
    assert (response.header("Cache-Control"), response.header("X-Accel-Buffering")) == ("no-cache, no-transform", "no")


@pytest.mark.parametrize("size", [1, 7])
def test_events_split_anywhere_are_byte_equal(proxy: Gunicorn, upstream: ScriptedUpstream, size: int) -> None:
    """Line ends of all kinds and events torn into tiny segments come through unchanged."""
    odd: list[Event] = [b"data: a\r\n\r\n", b"data: b\r\r", b": c\n\n", "\u2028\u0085", b"id: 1\nevent: x\ndata: d\n\n", "[DONE]"]
    whole = b"".join(map(event_bytes, odd))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream.script = raw(head + b"".join(chunked(whole, 5)), size=size)
    response = post(proxy)
    assert (response.body, response.complete) == (whole, True)


# ------------------------------------------------------------------------------------------------------------ learning


def extra(*fields: str, kind: str = "extra_forbidden", nested: bool = True) -> dict[str, object]:
    """Mistral's 422 for *fields*."""
    detail = [{"type": kind, "loc": ["body", field], "msg": "Extra inputs are not permitted", "input": 1} for field in fields]
    if not nested:
        return {"detail": detail}
    return {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "raw_status_code": 422}


@pytest.fixture(scope="module")
def learner(shared_upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    """A server with two upstreams whose memory no other test needs; each test here teaches it another field."""
    settings = {"MISTRAL_FILTER_UPSTREAM": shared_upstream.url, "MISTRAL_FILTER_UPSTREAMS": f"other={shared_upstream.url}"}
    with Gunicorn(tmp_path_factory.mktemp("learner"), WEB_CONCURRENCY=1, **settings) as server:
        yield server


def refuse_field(name: str, answer: Script) -> Script:
    """Refuses requests that have the field."""
    good = json_answer({"id": "1"})
    return lambda exchange: (answer if name in exchange.request.json() else good)(exchange)


def packed_422(name: str) -> Script:
    body = gzip.compress(json.dumps(extra(name)).encode())
    head = "HTTP/1.1 422 X\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n"
    return raw(head.format(len(body)).encode() + body)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("safe_prompt", json_answer(extra("safe_prompt"), 422)),
        ("random_seed", json_answer(extra("random_seed", nested=False), 422)),
        ("min_tokens", packed_422("min_tokens")),
    ],
)
def test_a_field_that_mistral_refuses_is_learnt(learner: Gunicorn, upstream: ScriptedUpstream, name: str, answer: Script) -> None:
    """One more try without it, reported in the header; from then on it is dropped beforehand."""
    upstream.script = refuse_field(name, answer)
    body = chat(temperature=0.5, **{name: 1})
    first = post(learner, body, [("Accept-Encoding", "gzip")])
    assert (first.status, first.json()) == (200, {"id": "1"})
    assert first.header("Mistral-Filter-Changes") == f'drop;path="{name}";loss=lost'
    assert [request.json() for request in upstream.requests] == [body, chat(temperature=0.5)]
    assert upstream.requests[0].header("Authorization") == upstream.requests[1].header("Authorization")
    second = post(learner, body, [("Accept-Encoding", "gzip")])
    assert (second.status, second.header("Mistral-Filter-Changes")) == (200, first.header("Mistral-Filter-Changes"))
    assert len(upstream.requests) == 3


def test_there_is_one_retry_only(learner: Gunicorn, upstream: ScriptedUpstream) -> None:
    """A second refusal comes down as it is: never a third request. It is remembered all the same."""
    upstream.script = in_turn(json_answer(extra("stop"), 422), json_answer(extra("max_tokens"), 422), json_answer({}))
    response = post(learner, chat(stop="x", max_tokens=5))
    assert response.status == 422
    assert response.json()["message"] == extra("max_tokens")["message"]
    assert response.header("Mistral-Filter-Changes") == 'drop;path="stop";loss=lost'
    assert post(learner, chat(stop="x", max_tokens=5)).status == 200
    sent = [set(request.json()) - set(chat()) for request in upstream.requests]
    assert sent == [{"stop", "max_tokens"}, {"max_tokens"}, set()]


@pytest.mark.parametrize(
    "answer",
    [
        extra("temperature", kind="less_than_equal"),
        extra("model"),
        extra("messages"),
        extra("not_sent"),
        {"detail": "Unprocessable"},
        {"detail": [{"type": "extra_forbidden", "loc": "temperature"}]},
        [1],
    ],
)
def test_any_other_422_is_final(learner: Gunicorn, upstream: ScriptedUpstream, answer: object) -> None:
    """What is not about extra fields alone, or names what must stay, is the caller's to see, after one request."""
    upstream.script = json_answer(answer, 422)
    response = post(learner, chat(temperature=0.5))
    assert response.status == 422
    assert len(upstream.requests) == 1
    if isinstance(answer, dict):
        assert answer.items() <= response.json().items()


def test_learning_can_be_turned_off(adjusted: Gunicorn, upstream: ScriptedUpstream) -> None:
    """With MISTRAL_FILTER_LEARN=off a 422 is final, each time."""
    upstream.script = json_answer(extra("safe_prompt"), 422)
    for _ in range(2):
        assert post(adjusted, chat(safe_prompt=True)).status == 422
    assert [request.json() for request in upstream.requests] == [chat(safe_prompt=True)] * 2


def test_what_is_learnt_is_for_its_upstream(learner: Gunicorn, upstream: ScriptedUpstream) -> None:
    """What one upstream refuses another may take."""
    body = {**chat(), "model": "a model of this test"}  # what is learnt is for one model only
    upstream.script = refuse_field("stop", json_answer(extra("stop"), 422))
    assert post(learner, {**body, "stop": "x"}).status == 200
    upstream.script = json_answer({})
    assert post(learner, {**body, "stop": "x"}, target="/other" + CHAT).status == 200
    assert post(learner, {**body, "stop": "x"}).status == 200
    assert ["stop" in request.json() for request in upstream.requests] == [True, False, True, False]


def test_strict_loses_nothing_on_a_second_try(learner: Gunicorn, upstream: ScriptedUpstream) -> None:
    """With the header a 422 is final, and what is known to be refused is sent all the same."""
    upstream.script = refuse_field("top_p", json_answer(extra("top_p"), 422))
    strict = [("Mistral-Filter-Strict", "on")]
    assert post(learner, chat(top_p=0.5), strict).status == 422
    assert post(learner, chat(top_p=0.5)).status == 200
    assert post(learner, chat(top_p=0.5), strict).status == 422
    assert [("top_p" in request.json()) for request in upstream.requests] == [True, True, False, True]


def test_explain_knows_the_strict_header(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """It tells what would happen to the request with the same header."""
    for path in ("/explain/chat", CHAT):
        response = post(proxy, chat(no_such=1), [("Mistral-Filter-Strict", "on")], target=path)
        error = response.json()["error"]
        assert error.get("error", error)["code"] == "strict"
    assert upstream.requests == []


def test_errors_of_the_server_itself_know_the_origins(adjusted: Gunicorn, choosy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """What gunicorn refuses by itself has no origin that could be looked at: with named ones it names none."""
    bad = b"GET / HTTP/1.1\r\nOrigin: https://evil.example\r\n\r\n"
    for server, named in ((adjusted, b"Access-Control-Allow-Origin: *\r\n"), (choosy, b"")):
        head, _, body = raw_request(server.port, bad).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}
        assert (b"access-control" in head.lower()) is bool(named)
        assert named in head + b"\r\n"


def test_the_strict_header_refuses_a_loss(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """With it a request that would lose something is refused by name; one that loses nothing passes."""
    error = error_of(post(proxy, chat(no_such=1), [("Mistral-Filter-Strict", "on")]), 400)
    assert "no_such" in error["message"]
    assert upstream.requests == []
    assert post(proxy, chat(max_completion_tokens=5), [("Mistral-Filter-Strict", "on")]).status == 200
    assert upstream.requests[0].json() == chat(max_tokens=5)
    assert post(proxy, chat(no_such=1), [("Mistral-Filter-Strict", "off")]).status == 200


# ------------------------------------------------------------------------------------------------------ request bodies


def sized(size: int) -> bytes:
    """A chat body of exactly so many bytes."""
    body = json.dumps(chat()).encode()
    return body.replace(b"hello", b"h" * (size - len(body) + len(b"hello")))


@pytest.mark.parametrize("how", ["length", "chunked"])
@pytest.mark.parametrize("target", [CHAT, "/explain/chat"])
def test_a_body_over_the_limit_is_refused_readably(adjusted: Gunicorn, upstream: ScriptedUpstream, how: str, target: str) -> None:
    """3 MB, all of it written before anything is read: 413 in JSON reaches the client, nothing goes upstream."""
    body = sized(3_000_000)
    with connect(adjusted.port) as sock:
        head = f"POST {target} HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\n"
        if how == "length":
            sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        else:
            sock.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + b"".join(chunked(body)))
        assert error_of(read_response(sock), 413)["code"] == "body_too_large"
    assert upstream.requests == []


@pytest.mark.parametrize("how", ["length", "chunked"])
def test_the_limit_is_exact(adjusted: Gunicorn, upstream: ScriptedUpstream, how: str) -> None:
    """A body of 64 KiB passes, one byte more does not."""
    for size, status in [(65536, 200), (65537, 413)]:
        with connect(adjusted.port) as sock:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
            if how == "length":
                sock.sendall(head + b"Content-Length: %d\r\n\r\n" % size + sized(size))
            else:
                sock.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunked(sized(size), 1000)))
            assert read_response(sock).status == status
    assert [request.body for request in upstream.requests] == [sized(65536)]


def test_uploads_have_no_limit_of_ours(adjusted: Gunicorn, upstream: ScriptedUpstream) -> None:
    """The limit is for what is held in memory: an upload is streamed, however large."""
    assert post(adjusted, UPLOAD, target="/v1/files").status == 200
    assert len(upstream.requests[0].body) == len(UPLOAD)


def test_a_refused_body_that_never_comes_is_not_waited_for(adjusted: Gunicorn, upstream: ScriptedUpstream) -> None:
    """With Expect: 100-continue and a length over the limit: 413, before the body was sent."""
    with connect(adjusted.port) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\nExpect: 100-continue\r\n\r\n")
        assert read_response(sock).status == 413
    assert upstream.requests == []


def test_expect_100_continue(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """A client that waits for 100 gets it, sends its body and gets its answer; Expect does not go up."""
    body = json.dumps(chat()).encode()
    with connect(proxy.port) as sock:
        sock.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode())
        assert sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert read_response(sock).status == 200
    assert upstream.requests[0].body == body
    assert "expect" not in names(upstream.requests[0].headers)


def test_a_chunked_body_goes_up_whole(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Odd chunks, an extension and a trailer: one body with its length, and no Transfer-Encoding."""
    body = json.dumps(chat()).encode()
    wire = b"1;a=b\r\n" + body[:1] + b"\r\n0A\r\n" + body[1:11] + b"\r\n%X\r\n" % len(body[11:]) + body[11:]
    with connect(proxy.port) as sock:
        for _ in range(2):
            sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            sock.sendall(wire + b"\r\n0\r\nX-Trailer: 1\r\n\r\n")
            assert read_response(sock).status == 200
    for request in upstream.requests:
        assert (request.body, request.header("Content-Length")) == (body, str(len(body)))
        assert names(request.headers) & {"transfer-encoding", "x-trailer", "trailer"} == set()


CUT_BODIES = [
    b"Content-Length: 100\r\n\r\n{}",
    b"Content-Length: 100\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}",
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}",
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("body", CUT_BODIES)
def test_a_cut_or_broken_body_is_refused(proxy: Gunicorn, upstream: ScriptedUpstream, body: bytes) -> None:
    """Less than the declared length, or bad chunks: 400 in JSON, never an empty reply, and nothing goes upstream."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\nConnection: close\r\n"
    answer = raw_request(proxy.port, head + body, half_close=True)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'{"error":{"message":' in answer
    assert b"Access-Control-Allow-Origin: *" in answer
    assert upstream.requests == []


BAD_KEYS: list[tuple[list[tuple[str, str]], int]] = [
    ([("Authorization", "Bearer a"), ("Authorization", "Bearer b")], 400),
    ([("Authorization", "Bearer a,b")], 400),
    ([("Authorization", "")], 401),
    ([("Authorization", "Bearer")], 401),
    ([("Authorization", "Bearer  ")], 401),
    ([("Authorization", "Bearer k\xe9y")], 400),
    ([("Authorization", "Bearer k\xc3\xa9y")], 400),
    ([("api-key", "a"), ("api-key", "b")], 400),
    ([("api-key", "a,b")], 400),
    ([("x-api-key", "")], 401),
]


@pytest.mark.parametrize(("headers", "status"), BAD_KEYS)
@pytest.mark.parametrize("target", [CHAT, "/v1/files"])
def test_an_ambiguous_or_empty_key_is_refused(
    proxy: Gunicorn, upstream: ScriptedUpstream, headers: list[tuple[str, str]], status: int, target: str
) -> None:
    """Two keys, a comma, nothing, letters that a header cannot hold: 400 or 401, and nothing goes upstream."""
    error_of(post(proxy, headers=headers, target=target, key=False), status)
    assert upstream.requests == []


# ----------------------------------------------------------------------------------------------------------- framings


def tagged(tag: int, *, extra: str = "", version: str = "1.1", stream: bool = False) -> bytes:
    """A chat request whose model is a number."""
    body = json.dumps(chat(model=str(tag), stream=stream)).encode()
    head = f"POST {CHAT} HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer k\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def tag_of(response: Response) -> object:
    return json.loads(response.json()["body"])["model"]


def test_pipelined_requests_are_answered_in_order(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Three POSTs in one write, the second refused: three answers, each to its own request."""
    with connect(proxy.port) as sock:
        bad = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{"
        sock.sendall(tagged(1) + bad + tagged(2))
        assert tag_of(read_response(sock)) == "1"
        assert read_response(sock).status == 400
        assert tag_of(read_response(sock)) == "2"
    assert len(upstream.requests) == 2


def test_an_http_1_0_client(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """It gets a length, or a stream that ends with the connection, never chunks."""
    answer = raw_request(proxy.port, tagged(1, version="1.0"))
    assert b"\r\nContent-Length: " in answer
    upstream.script = sse(EVENTS)
    answer = raw_request(proxy.port, tagged(1, version="1.0", stream=True))
    assert b"Transfer-Encoding" not in answer
    assert answer.endswith(b"\r\n\r\n" + STREAM)


def test_an_http_1_0_client_that_keeps_its_connection(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """With Connection: keep-alive two requests go over one connection."""
    with connect(proxy.port) as sock:
        for tag in (1, 2):
            sock.sendall(tagged(tag, version="1.0", extra="Connection: keep-alive\r\n"))
            assert tag_of(read_response(sock)) == str(tag)


def test_connection_close_is_honoured(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """The answer ends, and then the connection does, for whole answers and for streams."""
    for script in (json_answer({}), sse(EVENTS)):
        upstream.script = script
        with connect(proxy.port) as sock:
            sock.sendall(tagged(1, extra="Connection: close\r\n"))
            response = read_response(sock)
            assert (response.complete, response.header("Connection")) == (True, "close")
            assert sock.recv(1) == b""


def test_a_connection_is_kept_for_many_requests(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Plain answers, streams and refusals in turn on one client connection, over one upstream connection."""
    upstream.script = {"1": sse(EVENTS)}
    with connect(proxy.port) as sock:
        for _ in range(3):
            sock.sendall(tagged(1))
            assert read_response(sock).body == STREAM
            time.sleep(0.05)  # a connection rests before it is used again, so that late bytes are seen
            sock.sendall(tagged(2))
            assert tag_of(read_response(sock)) == "2"
            time.sleep(0.05)
            sock.sendall(build_request("POST", CHAT, b"[]"))
            assert read_response(sock).status == 400
    assert upstream.accepted == 1


# ------------------------------------------------------------------------------------------------------ environment


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "Script-Name", "PATH_INFO", "REMOTE_USER"])
@pytest.mark.parametrize("value", ["/v1", "/v1/chat", "/x", CHAT])
def test_a_header_cannot_move_the_path_past_the_filter(
    adjusted: Gunicorn, upstream: ScriptedUpstream, name: str, value: str
) -> None:
    """With FORWARDED_ALLOW_IPS=*, as on Heroku, a client's SCRIPT_NAME changes nothing: an endpoint's body is filtered."""
    assert post(adjusted, chat(store=True), [(name, value)]).status == 200
    assert (upstream.requests[0].target, upstream.requests[0].json()) == (CHAT, chat())
    post(adjusted, chat(store=True), [(name, value)], value + CHAT)
    for request in upstream.requests[1:]:
        assert request.json() == chat() if request.target == CHAT else request.target == value + CHAT


def test_the_environments_proxies_and_netrc_are_not_used(adjusted: Gunicorn, upstream: ScriptedUpstream) -> None:
    """A dead proxy in the environment does no harm, and a .netrc does not replace the caller's key or add one."""
    assert post(adjusted).status == 200
    assert post(adjusted, key=False).status == 200
    assert [request.header("Authorization") for request in upstream.requests] == ["Bearer caller-key", None]


def test_cookies_of_one_caller_never_reach_the_next(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Whatever the upstream sets is neither given to the caller nor sent with another's request."""
    cookies = [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Domain=127.0.0.1"), ("Set-Cookie2", "c=3")]
    upstream.script = json_answer({}, headers=cookies)
    for _ in range(3):
        assert names(post(proxy, headers=[("Cookie", "mine=1")]).headers) & {"set-cookie", "set-cookie2"} == set()
    assert [request.header("Cookie") for request in upstream.requests] == [None, None, None]


CANARY_KEY = ("Authorization", "Bearer canary-key")
CANARY_CHAT = {"model": "canary-prompt", "messages": [{"role": "user", "content": "canary-prompt"}], "no_such": "canary-prompt"}


def canaries(server: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Requests with a marked key, prompt and query string, served and refused in many ways; no error may quote them."""
    target = CHAT + "?canary-query=1"
    teach = in_turn(json_answer(extra("temperature"), 422), json_answer({}))
    cut_length = raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
    scripts = [json_answer({}), sse(EVENTS), sse(EVENTS, cut_at=20), reset, raw(b"nonsense\r\n\r\n"), cut_length, teach]
    for script in [*scripts, chain(json_answer({}), raw(b"extra")), json_answer({}, 307, [("Location", "/?canary-query")])]:
        upstream.script = script
        assert b"canary" not in post(server, {**CANARY_CHAT, "temperature": 1}, [CANARY_KEY], target, key=False).body
    refused: list[tuple[str, object, Headers]] = [
        (target, b'{"canary-prompt', ()),
        (target, [CANARY_CHAT], ()),
        (target, CANARY_CHAT, [("Authorization", "Bearer canary-key-2")]),
        (target, CANARY_CHAT, [("Mistral-Filter-Strict", "on"), ("Referer", "https://x/?canary-query")]),
        ("/v1/completions?canary-query", CANARY_CHAT, ()),
        ("/nowhere?canary-query", CANARY_CHAT, ()),
        ("/v1/./chat/completions?canary-query", CANARY_CHAT, ()),
    ]
    for where, body, headers in refused:
        response = post(server, body, [CANARY_KEY, *headers], where, key=False)
        assert response.status in (400, 404)
        assert b"canary" not in response.body


def test_nothing_secret_is_logged(gunicorn_server: Servers, upstream: ScriptedUpstream) -> None:
    """Keys, prompts and query strings appear in no log line and in no error, whatever happens; names of fields may.

    The log has all that is ever written: the lines of each level, and those of gunicorn's access log.
    """
    server = gunicorn_server("--access-logfile", "-", WEB_CONCURRENCY=1, MISTRAL_FILTER_LOG_LEVEL="DEBUG")
    canaries(server, upstream)
    eventually(lambda: "no_such" in server.log(), "the log")
    assert "canary" not in server.log()
    assert "Traceback" not in server.log()


UNREADABLE = [
    b"GET /v1/models?canary-query HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer canary-key\r\n\r\n",
    b"GET /v1/models?canary-query HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer canary-key\x00\r\n\r\n",
    b"GET /v1/models?canary-query HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n canary-key\r\n\r\n",
    b"GET /v1/models?canary-query HTTP/1.1\r\nHost: x\r\nBearer canary-key\r\n\r\n",
    b"GET /v1/models?canary-query HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET /v1/models?canary-query=\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/models?canary-query canary HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/files?canary-query HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\ncanary-prompt\r\n",
]


@pytest.mark.parametrize("request_bytes", UNREADABLE)
def test_a_request_that_gunicorn_refuses_is_not_quoted(proxy: Gunicorn, upstream: ScriptedUpstream, request_bytes: bytes) -> None:
    """A bad head is refused without its text, neither in the answer nor in the log."""
    before = len(proxy.log())
    answer = raw_request(proxy.port, request_bytes, half_close=True)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    assert b"canary" not in answer
    assert post(proxy).status == 200  # it is served later, so what is to be logged has been
    assert "canary" not in proxy.log()[before:]


def test_a_client_that_speaks_slowly_is_served(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """A request in single bytes, while another client is served in between."""
    data = tagged(1, extra="Connection: close\r\n")
    with connect(proxy.port) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for offset in range(len(data)):
            sock.sendall(data[offset : offset + 1])
            if offset == len(data) // 2:
                assert post(proxy).status == 200
        assert tag_of(read_response(sock)) == "1"
    assert len(upstream.requests) == 2
