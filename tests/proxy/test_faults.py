"""The proxy under faults: gunicorn with the shipped configuration against an upstream and clients that break on purpose.

Every case ends with the invariants: what failed is visible, the upstream saw the expected number of requests, and the next
caller is served with an answer of his own.
"""

from __future__ import annotations

import gzip
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from servers import (
    DEADLINE,
    ROOT,
    Answer,
    BadFraming,
    Gunicorn,
    Response,
    Server,
    ask,
    build_request,
    connect,
    eventually,
    free_port,
    raw_request,
    read_response,
)
from test_proxy import CHAT, ORIGIN, Servers, chat, error_of
from upstream import (
    Event,
    Exchange,
    Framing,
    Received,
    Script,
    ScriptedUpstream,
    chain,
    early,
    early_hints,
    echo,
    event_bytes,
    extra_bytes_after,
    full_backlog,
    head_bytes,
    in_turn,
    json_answer,
    no_reply,
    raw,
    reset,
    self_signed,
    sse,
    sse_bytes,
    stall,
)

KEY = ("Authorization", "Bearer canary-key")
NewUpstream = Callable[..., ScriptedUpstream]


def send(server: Gunicorn, target: str = CHAT, tag: str = "canary-prompt", **more: object) -> Response:
    """A chat request whose model is *tag*."""
    return ask(server.port, "POST", target, chat(model=tag, **more), [ORIGIN, KEY])


def send_bytes(server: Gunicorn, body: bytes, kind: str | None) -> Response:
    """A chat request with this body and Content-Type."""
    lines = [f"POST {CHAT} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *(": ".join(pair) for pair in (ORIGIN, KEY))]
    with connect(server.port) as sock:
        sock.sendall("\r\n".join([*lines, *([f"Content-Type: {kind}"] if kind else []), "", ""]).encode() + body)
        return read_response(sock)


def invariants(server: Gunicorn, upstream: ScriptedUpstream, requests: int) -> None:
    """The upstream has seen *requests*; the next two callers get their own answers, for one request each."""
    assert len(upstream.requests) == requests
    upstream.script = echo
    for tag in ("next-1", "next-2"):
        response = send(server, tag=tag)
        assert (response.status, response.complete) == (200, True), response
        assert json.loads(response.json()["body"])["model"] == tag
    assert len(upstream.requests) == requests + 2


NAMES_ITS_HOST = ("upstream_connect_timeout", "upstream_dns", "upstream_tls", "upstream_unreachable")
"""Errors that say where the request was to go, and which setting says so."""


def refused(response: Response, status: int, code: str | None = None) -> None:
    """It is an error of ours that quotes nothing."""
    error = error_of(response, status)
    assert code in (None, error["code"])
    assert b"canary" not in response.body
    if error["code"] not in NAMES_ITS_HOST:
        assert b"127.0.0.1" not in response.body


@pytest.fixture(autouse=True)
def clean_logs() -> Iterator[None]:
    """After each test: no server has written a key, a prompt or a traceback."""
    before = {server: server.logged() for server in Server.running}
    yield
    for server in Server.running:
        lines = server.log(before.get(server, 0))
        assert "canary" not in lines
        assert "Traceback" not in lines


@pytest.fixture(scope="module")
def baseline() -> dict[int, int]:
    """How many descriptors each server had open when this module first met it."""
    return {}


@pytest.fixture
def proxy(gunicorn_server: Servers, upstream: ScriptedUpstream, baseline: dict[int, int]) -> Gunicorn:
    """One worker with default settings: what one caller leaves on a connection, the next one meets."""
    server = gunicorn_server(WEB_CONCURRENCY=1)
    if server.pid not in baseline:
        assert send(server).status == 200
        baseline[server.pid] = server.fds()
        upstream.clear()
    return server


@pytest.fixture
def impatient(gunicorn_server: Servers) -> Gunicorn:
    """One worker that waits for a second at most."""
    return gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_READ_TIMEOUT=1, MISTRAL_FILTER_CONNECT_TIMEOUT=1)


@pytest.fixture
def two_places(gunicorn_server: Servers) -> Gunicorn:
    """One worker that takes two calls at a time."""
    return gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_CONCURRENCY=2)


# ------------------------------------------------------------------------------------------- A. bodies that are refused

DEEP = b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}"


class Body(NamedTuple):
    name: str
    body: bytes
    code: str | None = None


BAD_BODIES = [
    Body("A6 arrays", b"[" * 100_000, None),
    Body("A6 objects", b'{"a":' * 2000, "json_too_deep"),
    Body("A6 closed", DEEP, "json_too_deep"),
    Body("A11 invalid UTF-8", b'{"model": "\xff"}', "invalid_json"),
    Body("A11 invalid UTF-8 in a prompt", b'{"model": "m", "messages": [{"role": "user", "content": "\xc3("}]}', "invalid_json"),
    Body("A11 encoded surrogate", b'{"model": "\xed\xa0\x80"}', "invalid_json"),
    Body("A11 overlong", b'{"model": "\xc0\xaf"}', "invalid_json"),
    Body("A12 empty", b""),
    Body("A12 whitespace", b" \r\n\t "),
    Body("A12 null", b"null"),
    Body("A12 array", b"[]"),
    Body("A12 string", b'"x"'),
    Body("A12 number", b"1"),
    Body("A13 trailing comma", b'{"a": 1,}', "invalid_json"),
    Body("A13 trailing data", b"{} {}", "invalid_json"),
    Body("A13 NUL after it", b"{}\x00", "invalid_json"),
    Body("A13 control character", b'{"a": "\x01"}', "invalid_json"),
    Body("A13 line end in a string", b'{"a": "\n"}', "invalid_json"),
    Body("A13 no end", b'{"a": ', "invalid_json"),
    Body("A13 single quotes", b"{'a': 1}", "invalid_json"),
    Body("A13 comment", b'{"a": 1 /* x */}', "invalid_json"),
    Body("NaN", b'{"temperature": NaN}', "invalid_json"),
    Body("Infinity", b'{"temperature": -Infinity}', "invalid_json"),
    Body("leading zero", b'{"temperature": 01}', "invalid_json"),
    Body("UTF-16", '{"model": "m"}'.encode("utf-16"), "invalid_json"),
    Body("UTF-16 without BOM", '{"model": "m"}'.encode("utf-16-le"), "invalid_json"),
    Body("UTF-32", '{"model": "m"}'.encode("utf-32"), "invalid_json"),
    Body("a form", b"model=m&messages=x", "invalid_json"),
]


@pytest.mark.parametrize(("body", "code"), [case[1:] for case in BAD_BODIES], ids=[case.name for case in BAD_BODIES])
def test_a_body_that_is_no_json_object_is_refused(
    proxy: Gunicorn, upstream: ScriptedUpstream, body: bytes, code: str | None
) -> None:
    """400 in JSON, whatever its Content-Type says, and nothing goes upstream."""
    for kind in ("application/json", "text/plain", None):
        refused(send_bytes(proxy, body, kind), 400, code)
    invariants(proxy, upstream, 0)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/json; charset=utf-16", "multipart/form-data; boundary=x", "x/y", None]
)
def test_the_content_type_does_not_decide(proxy: Gunicorn, upstream: ScriptedUpstream, kind: str | None) -> None:
    """A15: JSON for an endpoint is filtered or refused whatever it is called; it is never passed on as it is."""
    body = json.dumps(chat(no_such=1)).encode()
    response = send_bytes(proxy, body, kind)
    assert response.status in (200, 415)
    assert [request.json() for request in upstream.requests] == [chat()] * (response.status == 200)
    invariants(proxy, upstream, len(upstream.requests))


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip", "x"])
def test_a_compressed_body_is_refused(proxy: Gunicorn, upstream: ScriptedUpstream, encoding: str) -> None:
    """What cannot be filtered does not go on: 415."""
    refused(ask(proxy.port, "POST", CHAT, chat(), [ORIGIN, KEY, ("Content-Encoding", encoding)]), 415)
    invariants(proxy, upstream, 0)


VERBATIM = [
    b'{"model":"m","messages":[],"temperature":1.10,"top_p":1e-2}',
    b'{ "top_p" : 0.10 ,\n\t"messages":[ ] , "model":"m" }  ',
    '{"model":"ü€😀\\u00fc\\/","messages":[{"role":"user","content":"\\ud83d\\ude00 ü"}]}'.encode(),
    b'{"model":"m","messages":[],"random_seed":' + b"9" * 40 + b"}",
    b'{"model":"m","messages":[],"random_seed":' + b"9" * 4301 + b"}",
    b'{"model":"m","messages":[{"role":"user","content":"\\ud83d"}]}',
]


@pytest.mark.parametrize("body", VERBATIM)
def test_a_body_in_which_nothing_changes_goes_up_as_it_is(proxy: Gunicorn, upstream: ScriptedUpstream, body: bytes) -> None:
    """A7, A11, A16: spaces, key order, escapes, long and odd numbers arrive byte for byte."""
    assert ask(proxy.port, "POST", CHAT, body, [KEY]).status == 200
    assert upstream.requests[0].body == body
    invariants(proxy, upstream, 1)


@pytest.mark.parametrize("body", VERBATIM)
def test_the_rest_of_a_changed_body_stays(proxy: Gunicorn, upstream: ScriptedUpstream, body: bytes) -> None:
    """A17: where one field is dropped, the others keep their text."""
    changed = body.rstrip()[:-1] + b',"no_such": 1}'
    assert ask(proxy.port, "POST", CHAT, changed, [KEY]).status == 200
    assert str(json.loads(upstream.requests[0].body, parse_int=str, parse_float=str)) == str(
        {
            name: json.loads(body, parse_int=str, parse_float=str)[name]
            for name in json.loads(upstream.requests[0].body, parse_int=str)
        }
    )
    assert json.loads(upstream.requests[0].body, parse_int=str).keys() == json.loads(body, parse_int=str).keys()
    invariants(proxy, upstream, 1)


def test_a_large_body_passes(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """A18: 20 MB with a picture in it, one field dropped, while another caller is served."""
    picture = "data:image/png;base64," + "A" * 20_000_000
    content = [{"type": "image_url", "image_url": picture}]
    body = chat(messages=[{"role": "user", "content": content}], no_such=1)
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(ask, proxy.port, "POST", CHAT, body, [KEY])
        assert send(proxy, tag="small").status == 200
        assert large.result(DEADLINE).status == 200
    (request,) = [request for request in upstream.requests if request.model == "m"]
    assert request.json() == chat(messages=[{"role": "user", "content": content}])
    upstream.clear()
    invariants(proxy, upstream, 0)


# ----------------------------------------------------------------------------------------- B. heads that are not HTTP

OK_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
OK_BODY = json.dumps(chat()).encode()
LENGTH = b"Content-Length: %d\r\n" % len(OK_BODY)
CHUNKED_BODY = b"%x\r\n%b\r\n0\r\n\r\n" % (len(OK_BODY), OK_BODY)
LINES = [
    b"",
    b"POST",
    b"POST /v1/chat/completions",
    b"POST /v1/chat/completions ",
    b"POST  /v1/chat/completions HTTP/1.1",
    b"POST /v1/chat/completions  HTTP/1.1",
    b" POST /v1/chat/completions HTTP/1.1",
    b"POST\t/v1/chat/completions\tHTTP/1.1",
    b"POST /v1/chat/completions HTTP/1.1 x",
    b"POST /v1/chat/completions HTTP/2.0",
    b"POST /v1/chat/completions HTTP/0.9",
    b"POST /v1/chat/completions HTTP/1.10",
    b"POST /v1/chat/completions HTTP/1",
    b"POST /v1/chat/completions http/1.1",
    b"POST /v1/chat/completions HTTPS/1.1",
    b"POST /v1/chat/completions HTTP/1.1\x00",
    b"POST /v1/chat/com pletions HTTP/1.1",
    b"POST /v1/chat/completions\x00 HTTP/1.1",
    b"POST /v1/chat/completions\x7f HTTP/1.1",
    b"POST v1/chat/completions HTTP/1.1",
    b"POST * HTTP/1.1",
    b"P\xd6ST /v1/chat/completions HTTP/1.1",
    b"P(ST /v1/chat/completions HTTP/1.1",
    b"PO\x00ST /v1/chat/completions HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0",
    b"CONNECT 127.0.0.1:80 HTTP/1.1",
    b"CONNECT /v1/chat/completions HTTP/1.1",
    b"TRACE /v1/chat/completions HTTP/1.1",
    b"foo /v1/chat/completions HTTP/1.1",
    b"post /v1/chat/completions HTTP/1.1",
    b"PUT /v1/chat/completions HTTP/1.1",
]
FIELDS = [
    b"Content-Length: %d\r\nContent-Length: 1\r\n" % len(OK_BODY),
    b"Content-Length: 1\r\nContent-Length: %d\r\n" % len(OK_BODY),
    b"Content-Length: %d, 1\r\n" % len(OK_BODY),
    b"Content-Length: +%d\r\n" % len(OK_BODY),
    b"Content-Length: -1\r\n",
    b"Content-Length: 0x10\r\n",
    b"Content-Length: 1_0\r\n",
    b"Content-Length: 1 0\r\n",
    b"Content-Length: abc\r\n",
    b"Content-Length: \r\n",
    b"Content-Length: \xb2\r\n",
    b"Content-Length: 9999999999999999999999999999999\r\n",
    b"Content-Length : %d\r\n" % len(OK_BODY),
    b" Content-Length: %d\r\n" % len(OK_BODY),
    b"Content-Length\r\n",
    LENGTH + b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\n" + LENGTH,
    LENGTH + b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Transfer-Encoding: chunked, gzip\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: chunked;x\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n",
    LENGTH + b"X: a\r\n folded\r\n",
    LENGTH + b"no colon\r\n",
    LENGTH + b": no name\r\n",
    LENGTH + b"X\x00Y: 1\r\n",
    LENGTH + b"X: a\x00b\r\n",
    LENGTH + b"X: a\rb\r\n",
    LENGTH + b"X(: 1\r\n",
    LENGTH + b"X\xff: 1\r\n",
    LENGTH + b"Authorization: Bearer a\x00b\r\n",
    LENGTH + b"Authorization: Bearer a\x7fb\r\n",
    LENGTH + b"X: " + b"a" * 70_000 + b"\r\n",
    LENGTH + b"".join(b"X-%d: 1\r\n" % n for n in range(150)),
    LENGTH + b"Host: y\r\n",
    LENGTH + b"Expect: 200-maybe\r\n",
]
BAD_HEADS = [line + b"\r\nHost: x\r\n" + LENGTH + b"\r\n" + OK_BODY for line in LINES]
BAD_HEADS += [OK_HEAD + fields + b"\r\n" + (CHUNKED_BODY if b"ransfer" in fields else OK_BODY) for fields in FIELDS]
BAD_HEADS += [
    b"POST /v1/chat/completions?" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n" + LENGTH + b"\r\n" + OK_BODY,
    b"POST /v1/chat/completions HTTP/1.1\n\rHost: x\n\r" + LENGTH + b"\n\r" + OK_BODY,
    b"POST /v1/chat/completions HTTP/1.1\rHost: x\r" + LENGTH + b"\r" + OK_BODY,
    b"POST /v1/chat/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED_BODY,
    OK_HEAD[:-2],
    OK_HEAD + LENGTH,
]


def test_bad_heads_are_never_served(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """B9, B10, B12, B13: heads and framings that RFC 9112 forbids or that are too large: no 2xx, nothing goes upstream."""
    assert raw_request(proxy.port, OK_HEAD + b"Connection: close\r\n" + LENGTH + b"\r\n" + OK_BODY).startswith(b"HTTP/1.1 200 ")
    upstream.clear()
    assert len(set(BAD_HEADS)) > 75
    served = [head for head in BAD_HEADS if b" 2" in raw_request(proxy.port, head, half_close=True)[:11]]
    assert served == []
    assert [request.head for request in upstream.requests] == []
    upstream.script = echo
    assert send(proxy).status == 200


@pytest.mark.parametrize("upgrade", ["websocket", "h2c", "TLS/1.0"])
def test_an_upgrade_is_not_made(proxy: Gunicorn, upstream: ScriptedUpstream, upgrade: str) -> None:
    """B15: the request is served as it is or refused; the upstream hears nothing of an upgrade, and nobody switches."""
    headers = [KEY, ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", upgrade), ("HTTP2-Settings", "AAMAAABkAAQAAP__")]
    headers += [("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Version", "13")]
    assert ask(proxy.port, "POST", CHAT, chat(), headers).status in (200, 400, 426)
    for request in upstream.requests:
        assert b"pgrade" not in request.head
        assert b"HTTP2" not in request.head
    invariants(proxy, upstream, len(upstream.requests))


@pytest.mark.parametrize("size", [8_000, 16_000])
def test_a_long_key_is_whole_or_refused(proxy: Gunicorn, upstream: ScriptedUpstream, size: int) -> None:
    """B10: never cut short on its way."""
    key = "k" * size
    with connect(proxy.port) as sock:
        sock.sendall(build_request("POST", CHAT, chat(), [("Authorization", f"Bearer {key}")]))
        with suppress(ConnectionError, BadFraming):
            assert read_response(sock).status in (200, 400, 431)
    for request in upstream.requests:
        assert request.header("Authorization") == f"Bearer {key}"
    invariants(proxy, upstream, len(upstream.requests))


# -------------------------------------------------------------------------------------------------- D. connecting


@pytest.fixture(scope="module")
def nowhere(
    shared_servers: Servers, tmp_path_factory: pytest.TempPathFactory, shared_upstream: ScriptedUpstream
) -> Iterator[tuple[Gunicorn, dict[str, ScriptedUpstream]]]:
    """A server with many upstreams that cannot be reached, and those of them that take connections."""
    good = self_signed(tmp_path_factory.mktemp("good"))
    other_name = self_signed(tmp_path_factory.mktemp("other-name"), "DNS:elsewhere.example")
    unknown = self_signed(tmp_path_factory.mktemp("unknown"))
    bundle = tmp_path_factory.mktemp("bundle") / "bundle.pem"
    bundle.write_text(good[0].read_text() + other_name[0].read_text())
    with ExitStack() as stack:
        servers = {
            "good": stack.enter_context(ScriptedUpstream(good)),
            "other-name": stack.enter_context(ScriptedUpstream(other_name)),
            "unknown": stack.enter_context(ScriptedUpstream(unknown)),
            "plain": stack.enter_context(ScriptedUpstream()),
            "rst": stack.enter_context(ScriptedUpstream(good)),
            "hangup": stack.enter_context(ScriptedUpstream(good)),
            "stalled": stack.enter_context(ScriptedUpstream(good)),
        }
        servers["rst"].on_connect = chain(Exchange.wait_for_bytes, reset)
        servers["hangup"].on_connect = no_reply
        servers["plain"].on_connect = chain(Exchange.wait_for_bytes, raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Exchange.close)
        servers["stalled"].on_connect = stall(60)
        urls = {name: f"https://127.0.0.1:{server.port}" for name, server in servers.items()}
        urls["full"] = f"http://127.0.0.1:{stack.enter_context(full_backlog())}"
        urls["closed"] = f"http://127.0.0.1:{free_port()}"
        urls["closed-tls"] = f"https://127.0.0.1:{free_port()}"
        urls["dns"] = "https://no-such.invalid"
        yield (
            shared_servers(
                WEB_CONCURRENCY=1,
                MISTRAL_FILTER_CONNECT_TIMEOUT=1,
                MISTRAL_FILTER_READ_TIMEOUT=1,
                MISTRAL_FILTER_CA_BUNDLE=bundle,
                MISTRAL_FILTER_UPSTREAMS=" ".join(f"{name}={url}" for name, url in urls.items()),
            ),
            servers,
        )


UNREACHABLE = [
    ("closed", 502, "upstream_unreachable"),
    ("closed-tls", 502, "upstream_unreachable"),
    ("dns", 502, "upstream_dns"),
    ("full", 504, "upstream_connect_timeout"),
    ("unknown", 502, "upstream_tls"),
    ("other-name", 502, "upstream_tls"),
    ("plain", 502, "upstream_tls"),
    ("rst", 502, None),
    ("hangup", 502, None),
    ("stalled", 504, None),
]


@pytest.mark.parametrize(("name", "status", "code"), UNREACHABLE, ids=[case[0] for case in UNREACHABLE])
def test_an_upstream_that_cannot_be_reached(
    nowhere: tuple[Gunicorn, dict[str, ScriptedUpstream]], upstream: ScriptedUpstream, name: str, status: int, code: str | None
) -> None:
    """D1 to D4: each in its own words, tried once; nobody who is not the upstream sees the key, and others are served."""
    server, servers = nowhere
    refused(send(server, f"/{name}/v1/chat/completions"), status, code)
    refused(ask(server.port, "POST", f"/{name}/v1/files", b"canary-upload", [ORIGIN, KEY]), status, code)
    if name in servers:
        assert servers[name].accepted == 2
        assert b"canary" not in b"".join(request.head + request.body for request in servers[name].requests)
    invariants(server, upstream, 0)


REST = 0.05
"""Seconds. A connection rests before it is used again, so that late bytes are seen by nobody."""


def test_a_ca_bundle_is_used(nowhere: tuple[Gunicorn, dict[str, ScriptedUpstream]], upstream: ScriptedUpstream) -> None:
    """With the bundle that has its certificate a TLS upstream answers, plainly and in streams, over one connection."""
    server, servers = nowhere
    good = servers["good"]
    assert send(server, "/good/v1/chat/completions").status == 200
    good.script = sse(STREAM)
    time.sleep(REST)
    assert send(server, "/good/v1/chat/completions").body == WHOLE
    assert [request.header("Authorization") for request in good.requests] == ["Bearer canary-key"] * 2
    assert good.accepted == 1
    for script in (sse(STREAM, cut_at=3), sse(STREAM, framing="length", cut_at=3)):
        good.script = script
        assert not send(server, "/good/v1/chat/completions").complete
    good.script = extra_bytes_after(json_answer({"n": 1}))
    assert send(server, "/good/v1/chat/completions").json() == {"n": 1}
    good.script = json_answer({"n": 2})
    assert send(server, "/good/v1/chat/completions").json() == {"n": 2}
    invariants(server, upstream, 0)


def test_a_proxy_is_used_when_set(gunicorn_server: Servers, upstream: ScriptedUpstream, new_upstream: NewUpstream) -> None:
    """With MISTRAL_FILTER_PROXY a plain request goes to the proxy in absolute form; a refused tunnel is 502, without the key."""
    middle = new_upstream()
    server = gunicorn_server(
        WEB_CONCURRENCY=1, MISTRAL_FILTER_PROXY=middle.url, MISTRAL_FILTER_UPSTREAMS="tls=https://api.example.com"
    )
    middle.script = json_answer({"by": "proxy"})
    assert send(server).json() == {"by": "proxy"}
    middle.script = json_answer({}, 403)
    refused(send(server, "/tls/v1/chat/completions"), 502)
    first, second = middle.requests
    assert (first.method, first.target) == ("POST", upstream.url + CHAT)
    assert (second.method, second.target) == ("CONNECT", "api.example.com:443")
    assert b"canary" not in second.head
    assert upstream.requests == []


def test_an_upstream_that_comes_back_is_used_again(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """D8: answered, down, up again: no restart is needed, and each state shows at once."""
    for _ in range(2):
        assert send(proxy).status == 200
        with upstream.down():
            refused(send(proxy), 502, "upstream_unreachable")
    invariants(proxy, upstream, 2)


def test_a_connection_that_the_upstream_closed_is_not_used(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """D6: after the FIN on an idle connection the next request goes over a new one, once, and the caller notices nothing."""
    for count in range(1, 4):
        assert send(proxy).status == 200
        assert len(upstream.requests) == count
        upstream.drop()
    assert [request.connection for request in upstream.requests] == [1, 2, 3]
    invariants(proxy, upstream, 3)


GIVEN_UP: dict[str, tuple[str, list[tuple[str, str]], bytes]] = {
    "a 404 for which there is a better sentence": ("/v1/responses", [("Content-Length", "6")], b""),
    "an answer that closes": (CHAT, [("Content-Length", "2"), ("Connection", "x, Close")], b"{}"),
}


@pytest.mark.parametrize("case", GIVEN_UP)
def test_a_connection_that_was_given_up_is_not_used_again(proxy: Gunicorn, upstream: ScriptedUpstream, case: str) -> None:
    """Its body was not waited for, or it was said to end and does not yet: the next request is on a fresh connection."""
    target, headers, body = GIVEN_UP[case]
    upstream.script = chain(raw(head_bytes(200 if body else 404, headers) + body), stall(0.5), raw(b"poison"))
    assert send(proxy, target).status == (200 if body else 404)
    time.sleep(0.1)  # longer than a connection rests
    upstream.script = json_answer({"n": 1})
    assert send(proxy).json() == {"n": 1}
    assert [request.connection for request in upstream.requests] == [1, 2]
    invariants(proxy, upstream, 2)


def test_a_good_connection_is_used_again(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Answers of all kinds leave a connection that serves the next request."""
    scripts = [json_answer({}), sse(STREAM), json_answer({}, 404), sse(STREAM, framing="length"), chain(early_hints(), echo)]
    for script in [*scripts, json_answer({})]:
        upstream.script = script
        assert send(proxy).complete
        time.sleep(REST)
    assert upstream.accepted == 1
    invariants(proxy, upstream, 6)


# ------------------------------------------------------------------------------------------------ E. response heads


class Fault(NamedTuple):
    name: str
    script: Script
    status: int = 502
    code: str | None = None


def answer(lines: bytes, body: bytes = b'{"n": 1}') -> Script:
    """A raw answer, head lines and body; then the connection closes."""
    return raw(lines.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body)


def ok(lines: bytes, body: bytes = b'{"n": 1}') -> Script:
    """The same, with a good status line and content type."""
    return answer(b"HTTP/1.1 200 OK\nContent-Type: application/json" + (b"\n" + lines if lines else b""), body)


def redirect(status: int, location: str) -> Script:
    return json_answer({}, status, [("Location", location)])


BAD_ANSWERS = [
    Fault("E1 hang-up", no_reply, code="upstream_disconnected"),
    Fault("E1 reset", reset, code="upstream_disconnected"),
    Fault("E1 103, then nothing", chain(early_hints(), no_reply)),
    Fault("E1 half a status line", raw(b"HTTP/1.1 20")),
    Fault("E1 half a head", raw(b"HTTP/1.1 200 OK\r\nContent-Ty")),
    Fault("E1 a head without its end", raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")),
    Fault("E1 a head without its end, reset", chain(raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"), reset)),
    Fault("E4 101", raw(head_bytes(101, [("Upgrade", "websocket"), ("Connection", "Upgrade")])), code="upstream_protocol"),
    Fault("E4 199, then nothing", raw(b"HTTP/1.1 199 X\r\n\r\n")),
    Fault("E4 no end of 103", chain(*[early_hints()] * 200, json_answer({})), code="upstream_protocol"),
    Fault("E5 301", redirect(301, "/v1/other"), code="upstream_redirect"),
    Fault("E5 302 to another host", redirect(302, "http://evil.example/"), code="upstream_redirect"),
    Fault("E5 303", redirect(303, "?"), code="upstream_redirect"),
    Fault("E5 307 to itself", redirect(307, CHAT), code="upstream_redirect"),
    Fault("E5 308 elsewhere", redirect(308, "https://127.0.0.1:9/v1/x"), code="upstream_redirect"),
    Fault("E5 307 without a place", json_answer({}, 307), code="upstream_redirect"),
    Fault("E5 300", json_answer({}, 300)),
    Fault("E8 two lengths", ok(b"Content-Length: 8\nContent-Length: 4"), code="upstream_protocol"),
    Fault("E8 two lengths in one", ok(b"Content-Length: 8, 4"), code="upstream_protocol"),
    Fault(
        "E8 length and chunks",
        ok(b"Content-Length: 8\nTransfer-Encoding: chunked", b"1\r\na\r\n0\r\n\r\n"),
        code="upstream_protocol",
    ),
    Fault(
        "E8 chunks and length",
        ok(b"Transfer-Encoding: chunked\nContent-Length: 8", b"1\r\na\r\n0\r\n\r\n"),
        code="upstream_protocol",
    ),
    Fault("E8 length abc", ok(b"Content-Length: abc"), code="upstream_protocol"),
    Fault("E8 length -5", ok(b"Content-Length: -5"), code="upstream_protocol"),
    Fault("E8 length +8", ok(b"Content-Length: +8"), code="upstream_protocol"),
    Fault("E8 length 8x", ok(b"Content-Length: 8x"), code="upstream_protocol"),
    Fault("E8 length 1_0", ok(b"Content-Length: 1_0"), code="upstream_protocol"),
    Fault("E8 an empty length", ok(b"Content-Length: "), code="upstream_protocol"),
    Fault("E8 unknown coding", ok(b"Transfer-Encoding: x"), code="upstream_protocol"),
    Fault("E8 gzip, chunked", ok(b"Transfer-Encoding: gzip, chunked", b"1\r\na\r\n0\r\n\r\n"), code="upstream_protocol"),
    Fault("E8 chunked, gzip", ok(b"Transfer-Encoding: chunked, gzip", b"1\r\na\r\n0\r\n\r\n"), code="upstream_protocol"),
    Fault(
        "E8 chunked twice", ok(b"Transfer-Encoding: chunked\nTransfer-Encoding: chunked", b"0\r\n\r\n"), code="upstream_protocol"
    ),
    Fault("E8 xchunked", ok(b"Transfer-Encoding: xchunked", b"0\r\n\r\n"), code="upstream_protocol"),
    Fault("E10 no colon", ok(b"nonsense\nContent-Length: 8"), code="upstream_protocol"),
    Fault("E10 space before the colon", ok(b"Content-Length : 8"), code="upstream_protocol"),
    Fault("E10 a first line that is folded", answer(b"HTTP/1.1 200 OK\n folded\nContent-Length: 8"), code="upstream_protocol"),
    Fault("E11 70 KB header", ok(b"X: " + b"a" * 70_000 + b"\nContent-Length: 8"), code="upstream_protocol"),
    Fault(
        "E11 150 headers", ok(b"\n".join(b"X-%d: 1" % n for n in range(150)) + b"\nContent-Length: 8"), code="upstream_protocol"
    ),
    Fault(
        "E11 a head without end", chain(raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 30_000), stall(100)), code="upstream_protocol"
    ),
    Fault("E11 HTTP/0.9", raw(b"hello there\r\n"), code="upstream_protocol"),
    Fault("E11 HTML without a head", raw(b"<html>\r\n\r\n"), code="upstream_protocol"),
    Fault("E11 FOO", answer(b"FOO 200 OK\nContent-Length: 8"), code="upstream_protocol"),
    Fault("E11 HTTP/2", answer(b"HTTP/2 200 OK\nContent-Length: 8"), code="upstream_protocol"),
    Fault("E11 status 000", answer(b"HTTP/1.1 000 X\nContent-Length: 8"), code="upstream_protocol"),
    Fault("E11 status 99", answer(b"HTTP/1.1 99 X\nContent-Length: 8"), code="upstream_protocol"),
    Fault("E11 status 600", answer(b"HTTP/1.1 600 X\nContent-Length: 8"), code="upstream_protocol"),
    Fault("E11 status 99999", answer(b"HTTP/1.1 99999 X\nContent-Length: 8"), code="upstream_protocol"),
    Fault("E11 status abc", answer(b"HTTP/1.1 abc X\nContent-Length: 8"), code="upstream_protocol"),
    Fault("E11 status -200", answer(b"HTTP/1.1 -200 X\nContent-Length: 8"), code="upstream_protocol"),
    Fault("E11 TLS", raw(b"\x15\x03\x03\x00\x02\x02\x46"), code="upstream_protocol"),
    Fault("an illegal reason", answer(b"HTTP/1.1 200 \x00\x01\xff\x7f\nContent-Length: 8"), code="upstream_protocol"),
    Fault("JSON cut, by length", ok(b"Content-Length: 9"), code="upstream_cut"),
    Fault("JSON cut, no byte of it", ok(b"Content-Length: 9", b""), code="upstream_cut"),
    Fault("JSON cut, by reset", chain(ok(b"Content-Length: 9"), reset), code="upstream_cut"),
    Fault("JSON cut, in a chunk", ok(b"Transfer-Encoding: chunked", b'9\r\n{"n"'), code="upstream_cut"),
    Fault("JSON cut, between chunks", ok(b"Transfer-Encoding: chunked", b'8\r\n{"n": 1}\r\n'), code="upstream_cut"),
    Fault(
        "JSON cut, before the last chunk's size", ok(b"Transfer-Encoding: chunked", b'8\r\n{"n": 1}\r\n0'), code="upstream_cut"
    ),
    Fault("F5 bad chunk size", ok(b"Transfer-Encoding: chunked", b'zz\r\n{"n": 1}\r\n0\r\n\r\n')),
    Fault("F5 negative chunk size", ok(b"Transfer-Encoding: chunked", b'-8\r\n{"n": 1}\r\n0\r\n\r\n')),
    Fault("F5 chunk longer than it says", ok(b"Transfer-Encoding: chunked", b'4\r\n{"n": 1}\r\n0\r\n\r\n')),
    Fault("F5 no chunk size", ok(b"Transfer-Encoding: chunked", b'\r\n{"n": 1}\r\n0\r\n\r\n')),
    Fault("F5 endless chunk size", ok(b"Transfer-Encoding: chunked", b"0" * 100_000)),
    Fault("an error cut", answer(b"HTTP/1.1 429 X\nContent-Type: application/json\nContent-Length: 99"), code="upstream_cut"),
    Fault("a 422 cut", answer(b"HTTP/1.1 422 X\nContent-Type: application/json\nContent-Length: 99"), code="upstream_cut"),
]


@pytest.mark.parametrize("fault", BAD_ANSWERS, ids=[fault.name for fault in BAD_ANSWERS])
def test_an_answer_that_cannot_be_used(proxy: Gunicorn, upstream: ScriptedUpstream, fault: Fault) -> None:
    """E, F: on a fresh connection and on one used before: 502 with its code, after one request upstream."""
    upstream.script = in_turn(fault.script, json_answer({}), fault.script)
    refused(send(proxy), fault.status, fault.code)
    assert send(proxy).status == 200
    refused(send(proxy), fault.status, fault.code)
    invariants(proxy, upstream, 3)


def test_no_redirect_is_followed(proxy: Gunicorn, upstream: ScriptedUpstream, new_upstream: NewUpstream) -> None:
    """E5: whatever the status, the other host hears nothing, for chat and for an upload."""
    other = new_upstream()
    for status in (301, 302, 303, 307, 308):
        upstream.script = redirect(status, f"{other.url}/v1/files")
        refused(send(proxy), 502, "upstream_redirect")
        refused(ask(proxy.port, "POST", "/v1/files", b"canary-upload", [ORIGIN, KEY]), 502, "upstream_redirect")
        refused(ask(proxy.port, "GET", "/v1/models", headers=[ORIGIN, KEY]), 502, "upstream_redirect")
    assert other.requests == []
    invariants(proxy, upstream, 15)


GOOD_ANSWERS = [
    Fault("103 first", chain(early_hints(), ok(b"Content-Length: 8")), 200),
    Fault("103, then a good keep-alive answer", chain(early_hints(), json_answer({"n": 1})), 200),
    Fault(
        "103 and the answer in one packet", raw(head_bytes(103) + head_bytes(200, [("Content-Length", "8")]) + b'{"n": 1}'), 200
    ),
    Fault("several interim answers", chain(*map(early_hints, (100, 102, 103, 103, 199)), json_answer({"n": 1})), 200),
    Fault("the answer late after a 103", chain(early_hints(), stall(0.2), json_answer({"n": 1})), 200),
    Fault("the same length twice", ok(b"Content-Length: 8\nContent-Length: 8"), 200),
    Fault("no length", ok(b""), 200),
    Fault("HTTP/1.0", answer(b"HTTP/1.0 200 OK\nContent-Type: application/json"), 200),
    Fault("no reason", answer(b"HTTP/1.1 200\nContent-Length: 8"), 200),
    Fault("bare line feeds", raw(b'HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 8\n\n{"n": 1}'), 200),
    Fault("E9 folded", ok(b"X: a\n b\nContent-Length: 8"), 200),
    Fault("E9 NUL", ok(b"X: a\x00b\nContent-Length: 8"), 200),
    Fault("E9 vertical tab", ok(b"X: a\x0bb\nContent-Length: 8"), 200),
    Fault("E9 0x85", ok(b"X: a\x85b\nContent-Length: 8"), 200),
    Fault("E9 0x1c", ok(b"X: a\x1cb\nContent-Length: 8"), 200),
    Fault("E9 latin-1", ok(b"X: \xe9\nContent-Length: 8"), 200),
    Fault("E9 UTF-8", ok("X: é€😀\nContent-Length: 8".encode()), 200),
    Fault("E9 an illegal name", ok(b"X(y): a\nContent-Length: 8"), 200),
    Fault("E9 DEL", ok(b"X: a\x7fb\nContent-Length: 8"), 200),
    Fault("E10 bare CR", ok(b"X: a\rb\nContent-Length: 8"), 200),
    Fault("E10 a bare CR that hides a header", ok(b"X: a\rSet-Cookie: b=1\nContent-Length: 8"), 200),
    Fault("F10 the connection closed late", chain(ok(b"Connection: close\nContent-Length: 8"), stall(60)), 200),
    Fault(
        "F10 chunked, closed late",
        chain(ok(b"Connection: close\nTransfer-Encoding: chunked", b'8\r\n{"n": 1}\r\n0\r\n\r\n'), stall(60)),
        200,
    ),
    Fault(
        "chunks with extensions and trailers", ok(b"Transfer-Encoding: chunked", b'8;x=y\r\n{"n": 1}\r\n0\r\nX-T: 1\r\n\r\n'), 200
    ),
    Fault("F5 no last line end", ok(b"Transfer-Encoding: chunked", b'8\r\n{"n": 1}\r\n0\r\n'), 200),
    Fault("in pieces of a byte", raw(b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"n": 1}', size=1), 200),
    Fault("F17 HTML", answer(b"HTTP/1.1 200 OK\nContent-Type: text/html\nContent-Length: 8"), 200),
]


@pytest.mark.parametrize("fault", GOOD_ANSWERS, ids=[fault.name for fault in GOOD_ANSWERS])
def test_an_odd_answer_is_whole_or_an_error(proxy: Gunicorn, upstream: ScriptedUpstream, fault: Fault) -> None:
    """E9, E10, F: an answer with an odd head gives its own body, or a 502; never a 500, a wait or a smuggled header."""
    upstream.script = fault.script
    response = send(proxy)
    if response.status == 502 and fault.name[:2] in ("E9", "E1", "F5", "ba"):
        refused(response, 502)
    else:
        assert (response.status, response.body, response.complete) == (200, b'{"n": 1}', True)
        assert response.header("Set-Cookie") is None
        assert response.header("X(y)") is None
        assert response.header("Access-Control-Allow-Origin") == "*"
    invariants(proxy, upstream, 1)


POISON = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"poison": 1}'
GOOD_ENDS = {
    "length": json_answer({"n": 1}),
    "chunked": chain(ok(b"Transfer-Encoding: chunked", b'8\r\n{"n": 1}\r\n0\r\n\r\n'), Exchange.keep_alive),
    "error": json_answer({"n": 1}, 429),
    "422": json_answer({"n": 1}, 422),
    "large": json_answer({"n": 1, "long": "x" * 2_000_000}),
    "stream": sse([{"n": 1}]),
    "stream by length": sse([{"n": 1}], framing="length"),
}
EXTRAS = {
    "an answer": POISON,
    "half an answer": POISON[:30],
    "line ends": b"\r\n\r\n",
    "rubbish": b"\x00" * 100,
    "much": POISON * 5000,
}
POISON_LENGTH = [("Content-Length", str(len(POISON)))]
BODILESS: dict[str, tuple[str, bytes, int]] = {
    "HEAD": ("HEAD", head_bytes(200, POISON_LENGTH), 200),
    "HEAD, chunked": ("HEAD", head_bytes(200, [("Transfer-Encoding", "chunked")]), 200),
    "HEAD, 404": ("HEAD", head_bytes(404, POISON_LENGTH), 404),
    "204": ("DELETE", head_bytes(204), 204),
    "204, chunked": ("GET", head_bytes(204, [("Transfer-Encoding", "chunked")]), 204),
    "304": ("GET", head_bytes(304, POISON_LENGTH), 304),
    "an empty 200": ("GET", head_bytes(200, [("Content-Length", "0")]), 200),
}


@pytest.mark.parametrize("late", [False, True], ids=["together", "late"])
@pytest.mark.parametrize("name", BODILESS)
def test_bodies_that_nobody_announced_poison_nobody(proxy: Gunicorn, upstream: ScriptedUpstream, name: str, late: bool) -> None:
    """A body after an answer that has none is not the next caller's answer."""
    method, head, status = BODILESS[name]
    upstream.script = chain(raw(head), stall(0.02), raw(POISON)) if late else raw(head + POISON)
    upstream.script = chain(upstream.script, Exchange.keep_alive)
    response = ask(proxy.port, method, "/v1/models", headers=[ORIGIN, KEY])
    assert (response.status, response.body, response.complete) == (status, b"", True)
    if late:
        time.sleep(0.04)
    invariants(proxy, upstream, 1)


@pytest.mark.parametrize("value", ["http://[::1", "http://h:canary/", "http://h:99999/", "/a b\xe9", "/x?y=%zz"])
@pytest.mark.parametrize("name", ["Location", "Content-Location"])
def test_a_location_is_passed_on_as_it_came(two_places: Gunicorn, upstream: ScriptedUpstream, name: str, value: str) -> None:
    """Nobody parses it, and so nobody fails on it; each call gives its place back."""
    for status in (200, 201, 400):
        upstream.script = json_answer({"n": 1, "error": {"message": "x"}}, status, [(name, value)])
        response = send(two_places)
        assert (response.status, response.header(name), response.complete) == (status, value, True)
    invariants(two_places, upstream, 3)


BEFORE_THE_BODY: dict[str, list[tuple[str, str]]] = {
    "audio": [("Content-Type", "audio/mpeg"), ("Content-Length", "100")],
    "text in chunks": [("Content-Type", "text/plain"), ("Transfer-Encoding", "chunked")],
    "large JSON": [("Content-Type", "application/json"), ("Content-Length", "2000000")],
}


@pytest.mark.parametrize("end", [Exchange.close, reset, stall()], ids=["close", "reset", "stall"])
@pytest.mark.parametrize("kind", BEFORE_THE_BODY)
@pytest.mark.parametrize("target", [CHAT, "/v1/files/x/content"])
def test_a_break_before_the_first_byte_is_a_status(
    impatient: Gunicorn, upstream: ScriptedUpstream, target: str, kind: str, end: Script
) -> None:
    """The head of an answer that is no event stream waits for the first byte of its body: nobody gets an empty reply."""
    upstream.script = chain(raw(head_bytes(200, BEFORE_THE_BODY[kind])), end)
    refused(send(impatient, target), 504 if end not in (Exchange.close, reset) else 502)
    invariants(impatient, upstream, 1)


def test_a_compressed_stream_that_breaks_at_once_is_cut_visibly(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Its head goes out at once, as every event stream's does; then the framing is broken."""
    headers = [("Content-Type", "text/event-stream"), ("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")]
    upstream.script = chain(raw(head_bytes(200, headers)), Exchange.close)
    response = send(proxy)
    assert (response.status, response.complete) == (200, False)
    invariants(proxy, upstream, 1)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_refusal_without_end_is_not_cut(proxy: Gunicorn, upstream: ScriptedUpstream, packed: bool) -> None:
    """A 422 that is too long to be read is said to be that, not passed on in part."""
    body = json.dumps({"detail": random.Random(1).randbytes(2_000_000).hex()}).encode()
    coding = [("Content-Encoding", "gzip")] if packed else []
    body = gzip.compress(body, 1) if packed else body
    upstream.script = raw(
        head_bytes(422, [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *coding]) + body
    )
    refused(
        ask(proxy.port, "POST", "/v1/embeddings", {"model": "m", "input": "x"}, [ORIGIN, KEY]), 502, "upstream_error_too_large"
    )
    invariants(proxy, upstream, 1)


def test_a_refusal_in_several_members_is_read(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """gzip may come in pieces, one behind the other."""
    body = json.dumps({"detail": [{"type": "missing", "loc": ["body", "input"], "msg": "Field required"}]}).encode()
    members = gzip.compress(body[:20]) + gzip.compress(body[20:])
    head = [("Content-Type", "application/json"), ("Content-Encoding", "gzip"), ("Content-Length", str(len(members)))]
    upstream.script = raw(head_bytes(422, head) + members)
    response = ask(proxy.port, "POST", "/v1/moderations", {"model": "m"}, [ORIGIN, KEY, ("Accept-Encoding", "gzip")])
    assert (response.status, response.json()["error"]["message"]) == (422, "input: Field required")
    invariants(proxy, upstream, 1)


def test_the_end_of_a_chunk_is_looked_at(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """What stands where a chunk has to end is not read over."""
    headers = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]
    upstream.script = chain(raw(head_bytes(200, headers) + b'8\r\n{"ok":1}XX0\r\n\r\n'), Exchange.keep_alive)
    refused(send(proxy), 502, "upstream_cut")
    invariants(proxy, upstream, 1)


@pytest.mark.parametrize("worker", [(), ("-k", "gthread", "--threads", "4"), ("-k", "sync")], ids=["gevent", "gthread", "sync"])
def test_http_1_0_shows_a_cut_by_a_reset(gunicorn_server: Servers, upstream: ScriptedUpstream, worker: tuple[str, ...]) -> None:
    """Without framing the end of the connection is the end of the answer: one that was cut is reset, a whole one is not."""
    server = gunicorn_server(*worker, WEB_CONCURRENCY=1)
    old = build_request("GET", "/v1/files/x/content", None, [KEY]).replace(b"HTTP/1.1", b"HTTP/1.0")
    headers = [("Content-Type", "audio/mpeg"), ("Transfer-Encoding", "chunked")]
    for end, whole in ((b"0\r\n\r\n", True), (b"", False)):
        upstream.script = chain(raw(head_bytes(200, headers) + b"5\r\nhello\r\n"), stall(0.1), raw(end), Exchange.close)
        with connect(server.port) as sock:
            sock.sendall(old)
            received = bytearray()
            try:
                while data := sock.recv(65536):
                    received += data
                reset_seen = False
            except ConnectionResetError:
                reset_seen = True
        assert received.endswith(b"\r\n\r\nhello")
        assert reset_seen is not whole
    assert len(upstream.requests) == 2
    upstream.script = echo
    assert send(server).status == 200


def test_a_length_beyond_all_lengths_is_refused(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Thousands of digits are no number of bytes."""
    upstream.script = raw(head_bytes(200, [("Content-Type", "application/json"), ("Content-Length", "1" * 5000)]) + b"{}")
    refused(send(proxy), 502, "upstream_protocol")
    invariants(proxy, upstream, 1)


def test_an_upload_beyond_all_lengths_is_refused(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Its length cannot be passed on as it is."""
    with connect(proxy.port) as sock:
        head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: {10**30}\r\n"
        sock.sendall(f"{head}{': '.join(ORIGIN)}\r\n\r\n".encode())
        refused(read_response(sock), 400, "bad_content_length")
    invariants(proxy, upstream, 0)


@pytest.mark.parametrize("kind", ["text/plain", "application/json"])
def test_a_length_said_twice_is_said_once(proxy: Gunicorn, upstream: ScriptedUpstream, kind: str) -> None:
    """Two equal lengths are one; some clients refuse two."""
    upstream.script = raw(head_bytes(200, [("Content-Type", kind), ("Content-Length", "2"), ("Content-Length", "2")]) + b"{}")
    response = send(proxy)
    assert (response.body, [v for n, v in response.headers if n.lower() == "content-length"]) == (b"{}", ["2"])
    invariants(proxy, upstream, 1)


def test_head_gets_no_length_of_ours(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Where the upstream says nothing of a length, nothing is made up."""
    upstream.script = raw(head_bytes(200, [("Content-Type", "audio/mpeg"), ("Transfer-Encoding", "chunked")]))
    response = ask(proxy.port, "HEAD", "/v1/files/x/content", None, [ORIGIN, KEY])
    assert (response.status, response.header("Content-Length")) == (200, None)
    invariants(proxy, upstream, 1)


def together(script: Script, more: bytes) -> Script:
    """*script*'s answer and *more* in one write, so that they come in one packet as far as that can be had."""

    def both(exchange: Exchange) -> None:
        pieces: list[bytes] = []
        write = exchange.send
        exchange.send = pieces.append  # type: ignore[method-assign]
        script(exchange)
        write(b"".join([*pieces, more]))

    return both


def announced(script: Script) -> tuple[Script, threading.Event]:
    """*script*, and an event that is set when it has ended."""
    ended = threading.Event()

    def announcing(exchange: Exchange) -> None:
        try:
            script(exchange)
        finally:
            ended.set()

    return announcing, ended


@pytest.mark.parametrize("when", ["together", "at once", "later"])
@pytest.mark.parametrize("end", GOOD_ENDS)
def test_bytes_after_an_answer_are_nobodys_answer(proxy: Gunicorn, upstream: ScriptedUpstream, end: str, when: str) -> None:
    """What follows a complete answer on a connection that stays open never reaches the next caller."""
    for more in EXTRAS.values():
        upstream.clear()
        good = GOOD_ENDS[end]
        if when == "together":
            upstream.script = together(good, more)
        elif when == "at once":
            upstream.script = extra_bytes_after(good, more)
        else:
            upstream.script = chain(good, stall(0.02), raw(more))
        upstream.script, sent = announced(upstream.script)
        response = send(proxy)
        assert response.complete
        assert b'"n":1' in response.body.replace(b" ", b"")
        assert b"poison" not in response.body
        assert sent.wait(DEADLINE)  # bytes that come after the next request are taken for its answer, by any client
        invariants(proxy, upstream, 1)


def test_a_late_second_answer_is_not_the_next_one(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """A connection rests before it serves again: bytes that come a moment after an answer are seen before the next request."""
    late = chain(json_answer({"n": 1}), stall(0.02), raw(POISON))
    for _ in range(5):
        upstream.script = in_turn(late, json_answer({"n": 2}))
        assert send(proxy).json() == {"n": 1}
        assert send(proxy).json() == {"n": 2}
    invariants(proxy, upstream, 10)


SLOW = [
    Fault("E2 no byte", stall(60), 504, "upstream_timeout"),
    Fault("E2 half a head", chain(raw(b"HTTP/1.1 200 OK\r\nContent-"), stall(60)), 504, "upstream_timeout"),
    Fault("E2 half a line", chain(raw(b"HTTP/1.1 20"), stall(60)), 504, "upstream_timeout"),
    Fault("E2 only a 103", chain(early_hints(), stall(60)), 504, "upstream_timeout"),
    Fault("JSON stalled", chain(ok(b"Content-Length: 9"), stall(60)), 504, "upstream_timeout"),
    Fault("an error stalled", chain(answer(b"HTTP/1.1 429 X\nContent-Length: 9"), stall(60)), 504, "upstream_timeout"),
    Fault(
        "JSON stalled in chunks", chain(ok(b"Transfer-Encoding: chunked", b'8\r\n{"n": 1}'), stall(60)), 504, "upstream_timeout"
    ),
]


def test_silence_ends_at_the_read_timeout(impatient: Gunicorn, upstream: ScriptedUpstream) -> None:
    """E2: wherever before the end of a JSON answer the upstream falls silent, all at the same time: 504, one request each."""
    upstream.script = {fault.name: fault.script for fault in SLOW}
    with ThreadPoolExecutor(len(SLOW)) as pool:
        responses = list(pool.map(lambda fault: send(impatient, tag=fault.name), SLOW))
    for fault, response in zip(SLOW, responses, strict=True):
        refused(response, fault.status, fault.code)
    upstream.wait_connections(0)
    invariants(impatient, upstream, len(SLOW))


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_an_answer_may_take_longer_than_the_read_timeout(
    impatient: Gunicorn, upstream: ScriptedUpstream, framing: Framing
) -> None:
    """Each byte begins the silence anew: the timeout is not one for the whole answer."""
    events = [b"data: %d\n\n" % number for number in range(8)]
    upstream.script = chain(stall(0.5), sse(events, gap=0.25, framing=framing))
    response = send(impatient, stream=True)
    assert (response.status, response.body, response.complete) == (200, b"".join(events), True)


def test_an_early_refusal_comes_through(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """E13: a 413 that the upstream sends while the body is still on its way, then a reset: the caller sees the 413."""
    upstream.script = early(chain(json_answer({"message": "too large"}, 413), stall(0.5)))
    body = chat(messages=[{"role": "user", "content": "x" * 20_000_000}])
    response = ask(proxy.port, "POST", CHAT, body, [ORIGIN, KEY])
    assert (response.status, response.json()["message"]) == (413, "too large")
    time.sleep(0.1)  # longer than a connection rests; of this one the upstream may still expect the rest of the body
    upstream.script = json_answer({"n": 1})
    assert send(proxy).json() == {"n": 1}
    invariants(proxy, upstream, 2)


# ------------------------------------------------------------------------------------------------------- F. streams

STREAM: list[Event] = [
    {"id": "1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Grüße"}}]},
    b"data: crlf\r\n\r\n",
    b": a comment\n\n",
    {"id": "2", "choices": [{"index": 0, "delta": {"content": " 😀"}, "finish_reason": "stop"}]},
    "[DONE]",
]
WHOLE = b"".join(map(event_bytes, STREAM))


def is_cut_well(response: Response, sent: bytes) -> str | None:
    """What is wrong with a stream of which the upstream sent only *sent* before it broke; None: nothing.

    A prefix of what was sent; then, exactly where an event could begin, an error event; then no proper end.
    """
    body, mark = response.body, b'data: {"error":'
    came, found, event = body.partition(mark)
    if response.complete:
        return "a clean end"
    if not sent.startswith(came):
        return f"{came!r} is not what was sent"
    at_boundary = not came or came.endswith((b"\n\n", b"\r\n\r\n"))
    if bool(found) != at_boundary:
        return f"error event {bool(found)}, although {at_boundary} is where an event could begin: {came!r}"
    if found:
        error = json.loads(mark[len(b"data: ") :] + event)["error"]
        if not event.endswith(b"\n\n") or error["type"] != "upstream_error" or not error["message"]:
            return f"not an error event: {event!r}"
    return None


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("user_agent", ["my-client", "mistral-client-python/3.7.0"])
def test_a_stream_cut_at_every_offset(proxy: Gunicorn, upstream: ScriptedUpstream, framing: Framing, user_agent: str) -> None:
    """F11: a prefix, an error event where one can stand, broken framing: at each of the stream's offsets, rewritten or not.

    By length, at every third: what the two framings share is seen with chunks.
    """
    bad = {}
    for offset in range(0, len(WHOLE), 3) if framing == "length" else range(len(WHOLE) + 1):
        upstream.script = sse(STREAM, framing=framing, cut_at=offset)
        response = ask(proxy.port, "POST", CHAT, chat(stream=True), [ORIGIN, KEY, ("User-Agent", user_agent)])
        assert response.status == 200
        if trouble := is_cut_well(response, WHOLE[:offset]):
            bad[offset] = trouble
    assert bad == {}
    invariants(proxy, upstream, len(upstream.requests))


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_an_answer_cut_at_every_byte_on_the_wire(proxy: Gunicorn, upstream: ScriptedUpstream, framing: Framing, end: str) -> None:
    """F11: in the head it is a 502, in the body of a stream broken framing; never a clean end or another status."""
    stream = sse_bytes(STREAM[-2:], framing)
    plain = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    plain += b"Content-Length: 8\r\n\r\n" if framing == "length" else b"Transfer-Encoding: chunked\r\n\r\n8\r\n"
    plain += b'{"n": 1}' + (b"" if framing == "length" else b"\r\n0\r\n\r\n")
    bad = {}
    for wire in (stream, plain):
        head = wire.index(b"\r\n\r\n") + 4
        last = len(wire) - (2 if framing == "chunked" else 0)  # the line end after the last chunk is missed by nobody
        for offset in range(0, last, 1 if end == "FIN" else 5):  # where a reset cuts is up to the kernel anyway
            upstream.script = chain(raw(wire[:offset]), reset if end == "RST" else no_reply)
            response = send(proxy)
            if response.status == 502:
                refused(response, 502)
                good = offset < head or wire is plain
            else:
                good = response.status == 200 and not response.complete and wire is stream and offset >= head
            if not good:
                bad[offset] = (response.status, response.complete, response.body)
    assert bad == {}
    invariants(proxy, upstream, len(upstream.requests))


def test_a_close_delimited_stream_that_is_reset_is_cut(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Without framing only a reset tells a cut: it is passed on as one; the end by FIN is the end."""
    upstream.script = sse(STREAM, framing="close")
    response = send(proxy)
    assert (response.body, response.complete) == (WHOLE, True)
    for events in (STREAM, [*STREAM, b"data: half"]):
        upstream.script = chain(sse(events, framing="close"), stall(0.1), reset)
        assert is_cut_well(send(proxy), WHOLE + b"data: half") is None
    invariants(proxy, upstream, 3)


@pytest.mark.parametrize("kind", [b"audio/mpeg", b"application/json", b"application/octet-stream", b"text/plain"])
def test_what_is_no_event_stream_gets_no_error_event(proxy: Gunicorn, upstream: ScriptedUpstream, kind: bytes) -> None:
    """Two megabytes of something else, cut: a prefix and broken framing, nothing added."""
    body = random.Random(3).randbytes(1_000_000).hex().encode()
    for framing in (b"Content-Length: 3000000\n", b"Transfer-Encoding: chunked\n"):
        wire = body if framing.startswith(b"C") else b"2dc6c0\r\n" + body
        upstream.script = answer(b"HTTP/1.1 200 OK\n" + framing + b"Content-Type: " + kind, wire)
        response = send(proxy)
        if kind == b"application/json" and response.status == 502:
            refused(response, 502)
            continue
        assert (response.status, response.complete) == (200, False)
        assert body.startswith(response.body)
        assert len(response.body) > 1_000_000
    invariants(proxy, upstream, 2)


ODD_STREAMS: dict[str, list[Event]] = {
    "F12 an error event of theirs": [STREAM[0], b'data: {"error": {"message": "x"}}\n\n'],
    "F12 no DONE": STREAM[:-1],
    "F12 two DONE": [*STREAM, "[DONE]"],
    "no event": [],
    "half an event at the end": [*STREAM, b"data: half"],
    "no JSON": ["{", b"data\n\n", b"\n\n\n\n", b"nonsense\n\n", b"data: \xff\xfe\x00\n\n"],
    "a long event": [{"id": "1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "x" * 300_000}}]}],
    "line ends inside": ["a\u2028b\u0085c", b"data: a\r\rdata: b\n\ndata: c\r\n\r\n"],
}


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("name", ODD_STREAMS)
def test_odd_streams_are_byte_equal(proxy: Gunicorn, upstream: ScriptedUpstream, name: str, framing: Framing) -> None:
    """F8, F12: what is not ours to judge passes untouched and ends cleanly."""
    events = ODD_STREAMS[name]
    upstream.script = sse(events, framing=framing)
    response = send(proxy, stream=True)
    assert (response.status, response.body, response.complete) == (200, b"".join(map(event_bytes, events)), True)
    invariants(proxy, upstream, 1)


@pytest.mark.parametrize("body", [b"not gzip at all", b"\x1f\x8b\x08\x00cut"])
def test_bad_compression_is_passed_or_refused(proxy: Gunicorn, upstream: ScriptedUpstream, body: bytes) -> None:
    """F13: what says gzip and is not comes down raw or as a 502, with any status; never a 500."""
    for status in (200, 422, 429):
        head = b"HTTP/1.1 %d X\nContent-Type: application/json\nContent-Encoding: gzip\nContent-Length: %d" % (status, len(body))
        upstream.script = answer(head, body)
        response = ask(proxy.port, "POST", CHAT, chat(), [ORIGIN, KEY, ("Accept-Encoding", "gzip")])
        if response.status == 502:
            refused(response, 502)
        else:
            assert (response.status, response.body, response.header("Content-Encoding")) == (status, body, "gzip")
    invariants(proxy, upstream, 3)


def test_silence_in_a_stream_is_a_cut(impatient: Gunicorn, upstream: ScriptedUpstream) -> None:
    """A stream that falls silent between events, in an event and before the first: broken like any other cut."""

    def silent(offset: int) -> Script:
        head = head_bytes(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])
        return chain(raw(head + b"%x\r\n" % len(WHOLE) + WHOLE[:offset]), stall(60))

    first = len(event_bytes(STREAM[0]))
    offsets = (0, first, first + 5)
    upstream.script = {str(offset): silent(offset) for offset in offsets}
    with ThreadPoolExecutor(len(offsets)) as pool:
        responses = list(pool.map(lambda offset: send(impatient, tag=str(offset)), offsets))
    assert [is_cut_well(response, WHOLE[:offset]) for response, offset in zip(responses, offsets, strict=True)] == [None] * 3
    upstream.wait_connections(0)
    invariants(impatient, upstream, 3)


# ------------------------------------------------------------------------------------------------------- G. clients


@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_a_client_that_leaves_in_mid_stream_frees_the_upstream(proxy: Gunicorn, upstream: ScriptedUpstream, end: str) -> None:
    """Once the upstream writes again its connection is closed, so that no tokens are burnt."""
    upstream.script = sse([STREAM[0]] * 10_000, gap=0.02)
    with connect(proxy.port) as sock:
        sock.sendall(build_request("POST", CHAT, chat(stream=True), [KEY]))
        assert next(Answer(sock).pieces())
        if end == "RST":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    upstream.wait_left()
    upstream.wait_connections(0)
    invariants(proxy, upstream, 1)


def test_a_client_that_leaves_before_the_answer_frees_the_upstream(impatient: Gunicorn, upstream: ScriptedUpstream) -> None:
    """G2: at the read timeout at the latest, and without a traceback."""
    upstream.script = stall(60)
    with connect(impatient.port) as sock:
        sock.sendall(build_request("POST", CHAT, chat(), [KEY]))
        upstream.wait()
    upstream.wait_left()
    upstream.wait_connections(0)
    invariants(impatient, upstream, 1)


def test_a_client_that_leaves_in_mid_request_costs_nothing(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """G7: silent connections and half-sent heads and bodies hold up nobody, and are gone when their clients are."""
    before = proxy.fds()
    starts = [b"", b"POST /v1/chat", OK_HEAD, OK_HEAD + LENGTH + b"\r\n" + OK_BODY[:5]]
    with ExitStack() as stack:
        for start in starts * 10:
            stack.enter_context(connect(proxy.port)).sendall(start)
        assert send(proxy).status == 200
        assert ask(proxy.port, "GET", "/health").status == 200
    eventually(lambda: proxy.fds() <= before + 1, "the descriptors to be freed")
    invariants(proxy, upstream, 1)


def test_fifty_streams_at_a_time(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """G6: each caller gets his own stream, all are open at once, health answers meanwhile, and descriptors come back."""
    everybody = threading.Barrier(51)

    def script(exchange: Exchange) -> None:
        tag = str(exchange.request.model)
        exchange.head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])
        exchange.chunk(event_bytes({"tag": tag}))
        everybody.wait(DEADLINE)
        exchange.chunk(event_bytes({"tag": tag}))
        exchange.send(b"0\r\n\r\n")

    upstream.script = script
    before = proxy.fds()
    with ThreadPoolExecutor(50) as pool:
        streams = [pool.submit(send, proxy, CHAT, f"caller-{n}") for n in range(50)]
        upstream.wait(50)
        assert ask(proxy.port, "GET", "/health").status == 200
        everybody.wait(DEADLINE)
        for n, stream in enumerate(streams):
            response = stream.result(DEADLINE)
            assert (response.body, response.complete) == (event_bytes({"tag": f"caller-{n}"}) * 2, True)
    eventually(lambda: proxy.fds() <= before + 1, "the descriptors to be freed")
    invariants(proxy, upstream, 50)


def test_calls_that_have_ended_do_not_count(two_places: Gunicorn, upstream: ScriptedUpstream) -> None:
    """D9, I8: whatever way a call ends, its place is free again: two are enough for any number, one after the other."""
    scripts = [
        echo,
        sse(STREAM),
        json_answer({}, 404),
        sse(STREAM, cut_at=9),
        no_reply,
        json_answer({}, 422),
        raw(head_bytes(101)),
    ]
    for script in scripts * 3:
        upstream.script = script
        assert send(two_places).status != 503
    for method in ("HEAD", "GET", "DELETE") * 3:
        upstream.script = json_answer({}, 204 if method == "DELETE" else 200)
        assert ask(two_places.port, method, "/v1/files/f1", headers=[KEY]).status != 503
    for _ in range(4):
        upstream.script = sse([STREAM[0]] * 10_000, gap=0.02)
        with connect(two_places.port) as sock:
            sock.sendall(build_request("POST", CHAT, chat(stream=True), [KEY]))
            assert Answer(sock).status == 200
        upstream.wait_connections(1)  # none but the one that rests for whoever comes next
    invariants(two_places, upstream, 34)


# ------------------------------------------------------------------------------------------ H. isolation and lifecycle


def test_a_connection_is_one_callers(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Bytes that come when the next caller's request is on its way are not his answer; his own connection is used again."""
    asked = threading.Event()

    def script(exchange: Exchange) -> None:
        if exchange.request.model == "first":
            chain(json_answer({"n": 1}), lambda _: asked.wait(1), raw(POISON))(exchange)
        else:
            asked.set()
            chain(stall(0.1), json_answer({"n": 2}))(exchange)

    upstream.script = script
    other = [ORIGIN, ("Authorization", "Bearer canary-key-of-another")]
    assert send(proxy, tag="first").json() == {"n": 1}
    time.sleep(REST)
    assert ask(proxy.port, "POST", CHAT, chat(model="second"), other).json() == {"n": 2}
    assert upstream.accepted == 2
    time.sleep(REST)
    assert ask(proxy.port, "POST", CHAT, chat(model="third"), other).json() == {"n": 2}
    assert upstream.accepted == 2
    invariants(proxy, upstream, 3)


def tagged_fault(exchange: Exchange) -> None:
    """Answers with the request's own tag and key, or breaks; which, the tag decides. The key is in late bytes too."""
    request = exchange.request
    own = {"tag": request.model, "key": request.header("Authorization")}
    late = json.dumps({"key": own["key"]}).encode()
    late = head_bytes(200, [("Content-Type", "application/json"), ("Content-Length", str(len(late)))]) + late
    dice = random.Random(str(request.model))
    faults: list[Script] = [
        json_answer(own),
        json_answer(own),
        json_answer(own, 429),
        sse([own, own, "[DONE]"]),
        sse([own, own], framing="length"),
        sse([own, own], framing="close"),
        chain(early_hints(), json_answer(own)),
        extra_bytes_after(json_answer(own), late),
        chain(sse([own]), raw(late[:20]), stall(0.01)),
        chain(json_answer(own), Exchange.close),
        sse([own, own], cut_at=dice.randrange(60)),
        sse([own, own], framing="length", cut_at=dice.randrange(60)),
        chain(sse([own], framing="close"), reset),
        raw(head_bytes(200, [("Content-Type", "application/json"), ("Content-Length", "999")]) + json.dumps(own).encode()),
        raw(head_bytes(101)),
        redirect(307, "/elsewhere"),
        no_reply,
        reset,
    ]
    if dice.random() < 0.2:
        exchange.sleep(dice.random() * 0.02)
    dice.choice(faults)(exchange)


def test_nobody_gets_what_is_anothers(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """H3, H9: 32 callers with 10 requests each, faults at random: body and key are one's own or there is none.

    Bytes that come too late can be taken for the next answer by nobody but the caller whose they are.
    """
    upstream.script = tagged_fault
    good = 0
    told: set[str] = set()  # of a failure, as where the upstream was closing the connection just then, without having said so

    def caller(number: int) -> list[str]:
        wrong = []
        sock = None
        for turn in range(10):
            tag, key = f"tag-{number}-{turn}-end", f"Bearer key-{number}-end"
            sock = sock or connect(proxy.port)
            sock.sendall(build_request("POST", CHAT, chat(model=tag), [("Authorization", key)]))
            response = read_response(sock)
            if not response.complete:
                sock.close()
                sock = None
            text = response.body.decode()
            for mark, own in (("tag-", tag), ("Bearer key-", key)):
                rest = text.split(mark)[1:]
                if any(not own.startswith((mark + part)[: len(own)]) and not own.startswith(mark + part) for part in rest):
                    wrong.append(f"{own} got {text}")
            if response.status not in (200, 429, 502, 504):
                wrong.append(f"{tag}: {response}")
            late = key in text and tag not in text  # they came when the next request was on its way
            if late or response.status in (502, 504) or not response.complete:
                told.add(tag)
            nonlocal good
            good += response.status == 200 and response.complete and tag in text
        if sock:
            sock.close()
        return wrong

    with ThreadPoolExecutor(32) as pool:
        assert [wrong for wrongs in pool.map(caller, range(32)) for wrong in wrongs] == []
    assert good > 75
    seen = [(request.model, request.header("Authorization")) for request in upstream.requests]
    assert len(seen) == len(set(seen)), "no request is sent twice"
    everyone = {f"tag-{number}-{turn}-end" for number in range(32) for turn in range(10)}
    assert everyone - {model for model, _ in seen} <= told, "who is not told of a failure was served"
    assert all(f"Bearer key-{str(r.model).split('-')[1]}-end" == r.header("Authorization") for r in upstream.requests)
    assert upstream.accepted < len(seen), "connections are used again"
    upstream.clear()
    invariants(proxy, upstream, 0)


def both_workers(server: Gunicorn, upstream: ScriptedUpstream, count: int = 200) -> list[Response]:
    """Many requests at a time, each with a tag; the answers in the order of the tags."""
    upstream.script = chain(stall(0.005), echo)
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda n: send(server, tag=f"tag-{n}"), range(count)))


def test_a_session_is_not_shared_between_workers(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """An app that was used before the fork, as with --preload and a warm-up, answers each caller in both workers."""
    (tmp_path / "warm.py").write_text(
        "from app import app\n"
        "answer = app.test_client().post('/v1/chat/completions', json={'model': 'warm', 'messages': []})\n"
        "assert answer.json['object'] == 'echo'\n"
    )
    args = ("--preload", "-c", str(ROOT / "gunicorn.conf.py"), "--pythonpath", str(ROOT), "-w", "2")
    with Gunicorn(tmp_path, *args, app="warm:app", root=tmp_path, MISTRAL_FILTER_UPSTREAM=upstream.url) as server:
        upstream.wait()  # the warm-up itself
        for n, response in enumerate(both_workers(server, upstream)):
            assert json.loads(response.json()["body"])["model"] == f"tag-{n}"
        eventually(lambda: len(server.workers()) == 2, "two workers")


# ------------------------------------------------------------------------------------------------------- at the end


def test_at_the_end_descriptors_are_back(proxy: Gunicorn, upstream: ScriptedUpstream, baseline: dict[int, int]) -> None:
    """I7: after all of this the worker has as many descriptors open as after its first request."""
    seen: list[Received] = upstream.requests
    assert seen == []
    upstream.drop()
    assert send(proxy).status == 200
    eventually(lambda: proxy.fds() <= baseline[proxy.pid], "the descriptors to be back at the baseline")
    assert len(proxy.workers()) == 1
