"""Request heads and bodies that are not HTTP/1.1 (RFC 9112), and paths in disguise, as raw bytes to the running server."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import Gunicorn, ask, raw_request
from upstream import Exchange, ScriptedUpstream, json_answer

from mistral_filter.paths import PATHS

CHAT = "/v1/chat/completions"
BODY = b'{"model": "m", "messages": []}'
LENGTH = f"Content-Length: {len(BODY)}"


@pytest.fixture
def proxy(gunicorn_server: Any, upstream: ScriptedUpstream) -> Gunicorn:
    """One worker with default settings, the named upstream not being on the network."""
    server: Gunicorn = gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_UPSTREAMS=f"codestral={upstream.url}")
    return server


class Case(NamedTuple):
    """Bytes that no server may serve as a request, and where the standard says so."""

    name: str
    data: bytes
    section: str
    framed: bool = False
    """Where it ends is beyond doubt, so that a request behind it may be served."""


def head(*lines: str, line: str = f"POST {CHAT} HTTP/1.1", body: bytes = BODY, end: str = "\r\n") -> bytes:
    """A request with these header lines and a Host."""
    return end.join([line, "Host: 127.0.0.1", *lines, "", ""]).encode("latin-1") + body


def chunked(body: bytes, coding: str = "chunked") -> bytes:
    return head(f"Transfer-Encoding: {coding}", body=body)


CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)
CHUNKED = CHUNK + b"0\r\n\r\n"

CASES = [
    # the request line: RFC 9112, 3
    Case("an empty method", head(LENGTH, line=f" {CHAT} HTTP/1.1"), "3"),
    Case("a method with a bracket", head(LENGTH, line=f"PO(ST {CHAT} HTTP/1.1"), "3.1"),
    Case("a method with a quote", head(LENGTH, line=f'"POST" {CHAT} HTTP/1.1'), "3.1"),
    Case("a method with a control character", head(LENGTH, line=f"PO\x01ST {CHAT} HTTP/1.1"), "3.1"),
    Case("a method with a letter beyond ASCII", head(LENGTH, line=f"PÖST {CHAT} HTTP/1.1"), "3.1"),
    Case("an unknown method", head(LENGTH, line=f"FOO {CHAT} HTTP/1.1"), "RFC 9110, 9.1", framed=True),
    Case("a method in small letters", head(LENGTH, line=f"post {CHAT} HTTP/1.1"), "3.1: case-sensitive"),
    Case("TRACE", head(line=f"TRACE {CHAT} HTTP/1.1", body=b""), "RFC 9110, 9.3.8", framed=True),
    Case("CONNECT", head(line="CONNECT 127.0.0.1:80 HTTP/1.1", body=b""), "3.2.3"),
    Case("CONNECT with a path", head(line=f"CONNECT {CHAT} HTTP/1.1", body=b""), "3.2.3"),
    Case("no target", head(LENGTH, line="POST HTTP/1.1"), "3"),
    Case("an empty target", head(LENGTH, line="POST  HTTP/1.1"), "3"),
    Case("a target without a slash", head(LENGTH, line="POST v1/chat/completions HTTP/1.1"), "3.2"),
    Case("a target with a space", head(LENGTH, line=f"POST {CHAT} x HTTP/1.1"), "3.2"),
    Case("a target with a tab", head(LENGTH, line=f"POST {CHAT}\tx HTTP/1.1"), "3.2"),
    Case("a target with NUL", head(LENGTH, line=f"POST {CHAT}\0 HTTP/1.1"), "3.2"),
    Case("a target with a control character", head(LENGTH, line=f"POST {CHAT}\x0b HTTP/1.1"), "3.2"),
    Case("a target with a bare CR", head(LENGTH, line=f"POST {CHAT}\rX HTTP/1.1"), "2.2"),
    Case("a target with a byte beyond ASCII", head(LENGTH, line=f"POST {CHAT}\xe9 HTTP/1.1"), "3.2"),
    Case("a target with a fragment", head(LENGTH, line=f"POST {CHAT}#x HTTP/1.1"), "3.2"),
    Case("the asterisk form", head(LENGTH, line="POST * HTTP/1.1"), "3.2.4"),
    Case("the authority form", head(LENGTH, line="POST 127.0.0.1:80 HTTP/1.1"), "3.2.3"),
    Case("a scheme that is not ours", head(LENGTH, line=f"POST ftp://127.0.0.1{CHAT} HTTP/1.1"), "3.2.2"),
    Case("a target of 20 KB", head(LENGTH, line=f"POST {CHAT}?{'x' * 20_000} HTTP/1.1"), "3: 414"),
    Case("no version", head(LENGTH, line=f"POST {CHAT}"), "3"),
    Case("an HTTP/0.9 request", f"GET {CHAT}\r\n\r\n".encode(), "3"),
    Case("a small version", head(LENGTH, line=f"POST {CHAT} http/1.1"), "2.3"),
    Case("a version without a dot", head(LENGTH, line=f"POST {CHAT} HTTP/11"), "2.3"),
    Case("a version of two digits", head(LENGTH, line=f"POST {CHAT} HTTP/1.10"), "2.3"),
    Case("a version of letters", head(LENGTH, line=f"POST {CHAT} HTTP/a.b"), "2.3"),
    Case("HTTP/2", head(LENGTH, line=f"POST {CHAT} HTTP/2.0"), "2.3"),
    Case("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "2.3"),
    Case("HTTP/0.1", head(LENGTH, line=f"POST {CHAT} HTTP/0.1"), "2.3"),
    Case("another protocol", head(LENGTH, line=f"POST {CHAT} ICAP/1.0"), "2.3"),
    Case("something after the version", head(LENGTH, line=f"POST {CHAT} HTTP/1.1 x"), "3"),
    Case("a space before the line", head(LENGTH, line=f"  POST {CHAT} HTTP/1.1"), "3"),
    Case("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100 + b"\r\n\r\n", "3"),
    Case("zeros", b"\0" * 64 + b"\r\n\r\n", "3"),
    # fields: RFC 9112, 5
    Case("a space before the colon", head("Content-Length : 30"), "5.1"),
    Case("a tab before the colon", head("Content-Length\t: 30"), "5.1"),
    Case("a name with a space", head(LENGTH, "X Y: 1"), "5.1"),
    Case("an empty name", head(LENGTH, ": 1"), "5"),
    Case("a name with a bracket", head(LENGTH, "X(Y): 1"), "5"),
    Case("a name beyond ASCII", head(LENGTH, "X\xe9: 1"), "5"),
    Case("a name with NUL", head(LENGTH, "X\0: 1"), "5"),
    Case("no colon", head(LENGTH, "Authorization"), "5"),
    Case("a value with NUL", head(LENGTH, "X: a\0b"), "RFC 9110, 5.5"),
    Case("a value with a bare CR", head(LENGTH, "X: a\rb"), "2.2"),
    Case("a value with a bare LF", head(LENGTH, "X: a\nTransfer-Encoding: chunked"), "2.2"),
    Case("a value with DEL", head(LENGTH, "Authorization: Bearer a\x7fb"), "RFC 9110, 5.5"),
    Case("a folded value", head(LENGTH, "X: a\r\n b"), "5.2"),
    Case("a folded length", head(f"Content-Length:\r\n {len(BODY)}"), "5.2"),
    Case("white space before the first field", f"POST {CHAT} HTTP/1.1\r\n Host: x\r\n{LENGTH}\r\n\r\n".encode() + BODY, "2.2"),
    Case("a value of 70 KB", head(LENGTH, "X: " + "x" * 70_000), "5.4: 431"),
    Case("500 fields", head(LENGTH, *(f"X-{n}: 1" for n in range(500))), "5.4: 431"),
    Case("bare line feeds", head(LENGTH, end="\n"), "2.2"),
    Case("bare carriage returns", head(LENGTH, end="\r"), "2.2"),
    # Host: RFC 9112, 3.2
    Case("no Host", f"POST {CHAT} HTTP/1.1\r\n{LENGTH}\r\n\r\n".encode() + BODY, "3.2"),
    Case("two Hosts", head(LENGTH, "Host: other.example"), "3.2"),
    Case("a Host with a path", f"POST {CHAT} HTTP/1.1\r\nHost: a/b\r\n{LENGTH}\r\n\r\n".encode() + BODY, "3.2"),
    Case("a Host with a space", f"POST {CHAT} HTTP/1.1\r\nHost: a b\r\n{LENGTH}\r\n\r\n".encode() + BODY, "3.2"),
    Case("a Host with a user", f"POST {CHAT} HTTP/1.1\r\nHost: u@a\r\n{LENGTH}\r\n\r\n".encode() + BODY, "3.2"),
    # the body's length: RFC 9112, 6
    Case("two different lengths", head(LENGTH, "Content-Length: 3"), "6.3"),
    Case("a list of lengths", head(f"Content-Length: {len(BODY)}, 3"), "6.3"),
    Case("a negative length", head("Content-Length: -1"), "6.2"),
    Case("a signed length", head(f"Content-Length: +{len(BODY)}"), "6.2"),
    Case("a hexadecimal length", head("Content-Length: 0x1e"), "6.2"),
    Case("a length with an underscore", head("Content-Length: 3_0"), "6.2"),
    Case("a length with a fraction", head("Content-Length: 30.0"), "6.2"),
    Case("a length of letters", head("Content-Length: abc"), "6.2"),
    Case("an empty length", head("Content-Length: "), "6.2"),
    Case("a length in other digits", head("Content-Length: \xb2"), "6.2"),
    Case("a length beyond all numbers", head("Content-Length: " + "9" * 5000), "6.2"),
    Case("length and chunks", head(LENGTH, "Transfer-Encoding: chunked", body=CHUNKED), "6.1"),
    Case("chunks and length", head("Transfer-Encoding: chunked", LENGTH, body=CHUNKED), "6.1"),
    Case("chunks in HTTP/1.0", head("Transfer-Encoding: chunked", line=f"POST {CHAT} HTTP/1.0", body=CHUNKED), "6.1"),
    Case("an unknown coding", chunked(CHUNKED, "foo"), "6.1: 501"),
    Case("chunked, but not last", chunked(CHUNKED, "chunked, gzip"), "6.3"),
    Case("chunked twice", chunked(CHUNKED, "chunked, chunked"), "6.1"),
    Case("chunked on two lines", head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKED), "6.1"),
    Case("chunked with a letter more", chunked(CHUNKED, "xchunked"), "6.1"),
    Case("chunked in quotes", chunked(CHUNKED, '"chunked"'), "6.1"),
    Case("chunked with a vertical tab", chunked(CHUNKED, "\x0bchunked"), "6.1"),
    Case("identity", chunked(BODY, "identity"), "6.1"),
    Case("gzip, then chunked", chunked(CHUNKED, "gzip, chunked"), "7: 501", framed=True),
    # chunks: RFC 9112, 7.1
    Case("a chunk size of letters", chunked(b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"), "7.1"),
    Case("a signed chunk size", chunked(b"+" + CHUNK + b"0\r\n\r\n"), "7.1"),
    Case("a negative chunk size", chunked(b"-" + CHUNK + b"0\r\n\r\n"), "7.1"),
    Case("a chunk size with 0x", chunked(b"0x" + CHUNK + b"0\r\n\r\n"), "7.1"),
    Case("a chunk size with an underscore", chunked(b"1_e\r\n" + BODY + b"\r\n0\r\n\r\n"), "7.1"),
    Case("an empty chunk size", chunked(b"\r\n" + BODY + b"\r\n0\r\n\r\n"), "7.1"),
    Case("a space before a chunk size", chunked(b" " + CHUNK + b"0\r\n\r\n"), "7.1"),
    Case("a chunk size beyond all numbers", chunked(b"f" * 5000 + b"\r\n" + BODY), "7.1"),
    Case("a chunk longer than its size", chunked(b"3\r\n" + BODY + b"\r\n0\r\n\r\n"), "7.1"),
    Case("a chunk shorter than its size", chunked(b"ff\r\n" + BODY + b"\r\n0\r\n\r\n"), "7.1"),
    Case("a chunk that ends with LF", chunked(CHUNK[:-2] + b"\n0\r\n\r\n"), "7.1"),
    Case("a chunk size that ends with LF", chunked(b"%x\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)), "7.1"),
    Case("a chunk extension with a bare CR", chunked(b"%x;a\rb\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)), "7.1.1"),
    Case("a chunk extension with a bare LF", chunked(b"%x;a\nb\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)), "7.1.1"),
    Case("chunks without an end", chunked(CHUNK), "8"),
    Case("chunks with half an end", chunked(CHUNK + b"0\r\n"), "8"),
    Case("a trailer that is a length", chunked(CHUNK + b"0\r\nContent-Length: 3\r\n\r\n"), "RFC 9110, 6.5.1"),
    Case("a trailer that is a key", chunked(CHUNK + b"0\r\nAuthorization: Bearer x\r\n\r\n"), "RFC 9110, 6.5.1"),
    Case("a trailer that is no field", chunked(CHUNK + b"0\r\nx y\r\n\r\n"), "7.1.2"),
    Case("a body that is cut", head("Content-Length: 99"), "8"),
    # what comes twice where one is meant
    Case("two keys", head(LENGTH, "Authorization: Bearer a", "Authorization: Bearer b"), "RFC 9110, 5.3", framed=True),
    Case("two content types", head(LENGTH, "Content-Type: a/b", "Content-Type: application/json"), "RFC 9110, 5.3"),
    Case("an unknown expectation", head(LENGTH, "Expect: the-impossible"), "RFC 9110, 10.1.1: 417"),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_is_not_http_is_not_served(proxy: Gunicorn, upstream: ScriptedUpstream, case: Case) -> None:
    """An error or a closed connection, nothing upstream, nor anything that follows it in doubt; the next request is served."""
    follows = b"" if case.section == "8" else head("Content-Length: 36", body=b'{"model": "follows", "messages": []}')
    answer = raw_request(proxy.port, case.data + follows, half_close=True)
    assert not re.match(rb"HTTP/1\.[01] [123]", answer), answer
    if answer:
        assert re.match(rb"HTTP/1\.[01] [45]\d\d ", answer), answer
    assert [request for request in upstream.requests if not (case.framed and request.model == "follows")] == []
    assert ask(proxy.port, "POST", CHAT, BODY).json()["object"] == "echo"


def test_refusals_of_the_server_itself_are_readable(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """What gunicorn refuses is JSON in the one shape, with CORS, and the connection ends."""
    for name in ("a space before the colon", "a method with a bracket", "a target of 20 KB", "no colon", "two Hosts"):
        answer = raw_request(proxy.port, next(case.data for case in CASES if case.name == name))
        start, _, body = answer.partition(b"\r\n\r\n")
        assert b"\r\naccess-control-allow-origin: *" in start.lower()
        assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}
    assert upstream.requests == []


def test_an_absolute_target_does_not_choose_the_host(proxy: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Whatever host it names, with or without a user: refused, or filtered and sent to our own upstream."""
    for start in ("http://evil.example", "https://evil.example:8443", "http://u:p@evil.example", "http://127.0.0.1"):
        content = b'{"model": "m", "messages": [], "store": 1}'
        data = head(f"Content-Length: {len(content)}", line=f"POST {start}{CHAT} HTTP/1.1", body=content)
        raw_request(proxy.port, data, half_close=True)
    for request in upstream.requests:
        assert (request.target, request.json()) == (CHAT, {"model": "m", "messages": []})
        assert request.header("Host") == f"127.0.0.1:{upstream.port}"


# ------------------------------------------------------------------------------------------------- paths in disguise

PIECES = [
    *("/", "//", "/./", "/../", "/%2e/", "/%2e%2e/", "/..%2f", "%2f", "%252f", "%5c", "\\", "/;a=1/", ";x", "%3b", "%00", "%20"),
    *("v1", "V1", "%76%31", "%25761", "chat", "Chat", "%63hat", "%2563hat", "%c3%a7hat", "ch%61t", "completions", "COMPLETIONS"),
    *("embeddings", "ocr", "fim", "agents", "models", "files", "codestral", "x", ".", "..", "...", "@evil", ":80", "%23", "%3f"),
    *("?", "?a=", "#", "%", "%zz", "%0a", "%09", "%ef%bc%8f", "+", "*", "~", "http://evil.example", "completions/", "/v1/chat"),
]
ENDPOINT = st.sampled_from([f"/v1/{path}" for path in PATHS.values()])
TARGETS = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=9).map(lambda pieces: "/" + "".join(pieces)),
    # an endpoint's path with something put in somewhere, or with a letter in another spelling
    st.tuples(ENDPOINT, st.integers(0, 20), st.sampled_from(PIECES)).map(lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]),
    st.tuples(ENDPOINT, st.integers(1, 20)).map(
        lambda t: t[0][: t[1]] + "".join(f"%{ord(letter):02x}" for letter in t[0][t[1] : t[1] + 1]) + t[0][t[1] + 1 :]
    ),
    st.tuples(st.sampled_from(PIECES), ENDPOINT, st.sampled_from(PIECES)).map(lambda t: "/" + "".join(t)),
)


def as_an_obliging_server(target: str) -> str:
    """*target* with everything undone that some server or library would undo."""
    path = target
    for _ in range(4):
        path = unquote(path, "latin-1")
    path = re.split(r"[?#]", path.replace("\\", "/"))[0].lower()
    segments: list[str] = []
    for segment in re.sub(r"[\x00-\x20\x7f]", "", path).split("/"):
        name = segment.split(";")[0]
        if name == "..":
            del segments[-1:]
        elif name not in ("", "."):
            segments.append(name)
    return "/" + "/".join(segments)


@settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(target=TARGETS)
def test_no_spelling_of_a_path_gets_past_the_filter(proxy: Gunicorn, upstream: ScriptedUpstream, target: str) -> None:
    """What arrives upstream at an endpoint, read as kindly as can be, has been filtered; and nothing but /v1 ever arrives."""
    seen: list[str] = []

    def script(exchange: Exchange) -> None:
        request = exchange.request
        path = as_an_obliging_server(request.target)
        endpoint = any(re.fullmatch(rf"(/v1)*(/{name})+", path) for name in PATHS.values())
        if endpoint and b"no_such_field" in request.body:
            seen.append(f"unfiltered at {request.target}")
        if not path.startswith("/v1") or request.header("Host") != f"127.0.0.1:{upstream.port}":
            seen.append(f"out of place: {request.target}")
        json_answer({})(exchange)

    upstream.script = script
    content = b'{"model": "m", "messages": [], "no_such_field": 1}'
    data = head(f"Content-Length: {len(content)}", "Connection: close", line=f"POST {target} HTTP/1.1", body=content)
    answer = raw_request(proxy.port, data)
    assert re.match(rb"HTTP/1\.1 [245]\d\d ", answer), (target, answer)
    assert seen == [], target
