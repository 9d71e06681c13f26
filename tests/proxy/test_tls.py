"""A TLS upstream and its faults (T1 of the second catalogue): gunicorn with the shipped configuration against scripted upstreams.

Each test also checks the invariants: a failure is visible, the key reaches only the upstream, and the next request is served.
"""

from __future__ import annotations

import itertools
import random
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from servers import DEADLINE, Answer, Gunicorn, Response, ask, build_request, connect, eventually, read_response
from tls import EXPIRED, Authority, Relay, TLSUpstream, closed, cut
from upstream import (
    Event,
    Exchange,
    Framing,
    Script,
    ScriptedUpstream,
    chain,
    early,
    early_hints,
    event_bytes,
    head_bytes,
    in_turn,
    json_answer,
    raw,
    reset,
    self_signed,
    sse,
    sse_bytes,
    stall,
)

CONNECT_TIMEOUT = 3
READ_TIMEOUT = 4
HEARTBEAT = 0.5
LONG = 4000
"""Bytes. The relays "half" and "slow-record" halve TLS records that are longer; no handshake message here is."""

DELTA = {"role": "assistant", "content": "mot, слово "}
EVENTS: list[Event] = [{"n": n, "choices": [{"index": 0, "delta": DELTA}]} for n in range(6)]
STREAM: list[Event] = [*EVENTS, "[DONE]"]
WHOLE = b"".join(map(event_bytes, STREAM))
BEAT = b": keep-alive\n\n"
KEYS = (f"canary-key-{number}" for number in itertools.count())


@dataclass
class Proxied:
    """The proxy and its upstreams, by the name under which the proxy serves them. Relays have names too and lead to "good"."""

    server: Gunicorn
    upstreams: dict[str, ScriptedUpstream]
    bundle: Path
    """The certificate of the authority that the proxy trusts."""

    @property
    def good(self) -> ScriptedUpstream:
        """Behind a certificate for localhost, of the authority in the proxy's CA bundle."""
        return self.upstreams["good"]

    def request(self, name: str, key: str | None = None, **more: object) -> bytes:
        """A chat request to the upstream *name*, with a key of its own unless *key* is given: on a connection of its own."""
        body = {"model": "canary-model", "messages": [{"role": "user", "content": "canary-prompt"}], **more}
        return build_request("POST", f"/{name}/v1/chat/completions", body, [("Authorization", f"Bearer {key or next(KEYS)}")])

    def send(self, name: str = "good", key: str | None = None, **more: object) -> Response:
        """The whole response to :meth:`request`."""
        with connect(self.server.port) as sock:
            sock.sendall(self.request(name, key, **more))
            answer = Answer(sock)
            body = b"".join(data for _, data in answer.pieces())
        return Response(answer.status, answer.headers, body, bool(answer.complete))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """One proxy, one worker, one authority in its CA bundle, and all upstreams; tests take ``proxied``."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    good = authority.issue("good")
    with ExitStack() as stack:
        upstreams: dict[str, ScriptedUpstream] = {
            "good": TLSUpstream(good),
            "tls12": TLSUpstream(good, ssl.TLSVersion.TLSv1_2),
            "tls13": TLSUpstream(good, ssl.TLSVersion.TLSv1_3),
            "wrong-host": TLSUpstream(authority.issue("wrong-host", "DNS:elsewhere.example")),
            "expired": TLSUpstream(authority.issue("expired", validity=EXPIRED)),
            "self-signed": TLSUpstream(self_signed(tmp_path_factory.mktemp("self-signed"), "DNS:localhost")),
            "unknown": TLSUpstream(Authority(tmp_path_factory.mktemp("unknown")).issue("unknown")),
            "mutual": TLSUpstream(good, mutual=True),
            "plaintext": ScriptedUpstream(),
        }
        for upstream in upstreams.values():
            stack.enter_context(upstream)
        port = upstreams["good"].port
        relays = {
            "bytes": Relay(port, size=1),
            "dripping": Relay(port, size=40, gap=0.3),
            "half": Relay(port, cut=LONG),
            "garbled": Relay(port, garble=LONG),
            "slow-record": Relay(port, cut=LONG, rest=READ_TIMEOUT / 2),
        }
        for relay in relays.values():
            stack.enter_context(relay)
        urls = {name: f"https://localhost:{each.port}" for name, each in (upstreams | relays).items()}
        urls["address"] = f"https://127.0.0.1:{port}"
        server = Gunicorn(
            tmp_path_factory.mktemp("gunicorn"),
            WEB_CONCURRENCY=1,
            MISTRAL_FILTER_CA_BUNDLE=authority.bundle,
            MISTRAL_FILTER_CONNECT_TIMEOUT=CONNECT_TIMEOUT,
            MISTRAL_FILTER_READ_TIMEOUT=READ_TIMEOUT,
            MISTRAL_FILTER_HEARTBEAT=HEARTBEAT,
            MISTRAL_FILTER_UPSTREAMS=" ".join(f"{name}={url}" for name, url in urls.items()),
        )
        yield Proxied(stack.enter_context(server), upstreams, authority.bundle)


@pytest.fixture
def proxied(shared: Proxied) -> Iterator[Proxied]:
    """The shared proxy, with its upstreams reset. After the test: it serves, and has logged no key, prompt or traceback."""
    for upstream in shared.upstreams.values():
        upstream.clear()
    before = len(shared.server.log())
    yield shared
    shared.good.script, shared.good.on_connect = json_answer({"next": True}), None
    assert shared.send().json() == {"next": True}
    lines = shared.server.log()[before:]
    assert "canary" not in lines
    assert "Traceback" not in lines


def error_of(response: Response, status: int) -> Any:
    """The error object of a whole JSON error response with *status*."""
    assert (response.status, response.complete) == (status, True), response
    assert b"canary" not in response.body
    return response.json()["error"]


def broken(response: Response) -> bool:
    """Whether the client can see that the response failed, in its status or in its framing."""
    return response.status >= 400 or not response.complete


# ------------------------------------------------------------------------------------------------------- certificates

INVALID = ["wrong-host", "expired", "self-signed", "unknown"]


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_certificate_is_a_502(proxied: Proxied, name: str) -> None:
    """Chat and an upload: one connection each and no request on it, so neither the key nor the body was sent."""
    assert error_of(proxied.send(name), 502)["code"] == "upstream_tls"
    headers = [("Authorization", f"Bearer {next(KEYS)}")]
    upload = ask(proxied.server.port, "POST", f"/{name}/v1/files", b"canary-upload", headers)
    assert error_of(upload, 502)["code"] == "upstream_tls"
    assert proxied.upstreams[name].accepted == 2
    assert proxied.upstreams[name].requests == []


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_certificate_stops_the_retries_of_sdks(proxied: Proxied, name: str) -> None:
    """A retry cannot help: the OpenAI SDKs obey ``x-should-retry: false``."""
    assert proxied.send(name).header("x-should-retry") == "false"


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_certificate_names_the_host_and_the_setting(proxied: Proxied, name: str) -> None:
    """The message names the host and a setting; for an unknown authority, the setting that adds it."""
    message = error_of(proxied.send(name), 502)["message"]
    assert "localhost" in message
    settings = r"MISTRAL_FILTER_CA_BUNDLE" if name in ("self-signed", "unknown") else r"MISTRAL_FILTER_(CA_BUNDLE|UPSTREAM)"
    assert re.search(settings, message), message


@pytest.mark.parametrize("name", ["good", "tls12", "tls13"])
def test_a_certificate_of_the_ca_bundle_is_trusted(proxied: Proxied, name: str) -> None:
    """Only the bundle of MISTRAL_FILTER_CA_BUNDLE holds the authority; the server may speak TLS 1.2 or 1.3."""
    upstream = proxied.upstreams[name]
    assert isinstance(upstream, TLSUpstream)
    assert proxied.send(name, key="canary-own").status == 200
    assert upstream.requests[0].header("Authorization") == "Bearer canary-own"
    upstream.script = sse(STREAM)
    response = proxied.send(name)
    assert (response.status, response.body, response.complete) == (200, WHOLE, True)
    assert upstream.secured().version() == ("TLSv1.2" if name == "tls12" else "TLSv1.3")


def test_the_handshake_asks_for_the_host_and_for_http_1(proxied: Proxied) -> None:
    """SNI, without which shared hosts send another certificate, and no HTTP/2 (ALPN), which the proxy does not speak."""
    assert proxied.send().status == 200
    assert isinstance(proxied.good, TLSUpstream)
    assert proxied.good.server_names[-1] == "localhost"
    assert proxied.good.secured().selected_alpn_protocol() in (None, "http/1.1")


def test_an_upstream_may_be_an_address(proxied: Proxied) -> None:
    """The certificate holds the address (a subject alternative name of type IP)."""
    assert proxied.send("address").status == 200


# ---------------------------------------------------------------------------------------------------------- handshake


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 ready\r\n", b"\x00" * 64])
def test_plaintext_on_a_tls_port_is_a_502(proxied: Proxied, answer: bytes) -> None:
    """The upstream receives a ClientHello and nothing else, once."""
    received: list[bytes] = []

    def plaintext(exchange: Exchange) -> None:
        received.append(exchange._connection.sock.recv(65536))
        chain(raw(answer), stall(5))(exchange)

    proxied.upstreams["plaintext"].on_connect = plaintext
    assert error_of(proxied.send("plaintext"), 502)["code"] == "upstream_tls"
    assert len(received) == proxied.upstreams["plaintext"].accepted == 1
    assert received[0][:1] == b"\x16"  # a TLS record of the handshake
    assert b"canary" not in received[0]


@pytest.mark.parametrize("name", ["good", "dripping"])
def test_a_handshake_that_takes_too_long_is_a_504(proxied: Proxied, name: str) -> None:
    """No byte at all, or a few at a time: the connect timeout is one for the whole handshake, and there is one try."""
    if name == "good":
        proxied.good.on_connect = stall(60)
    began = time.monotonic()
    response = proxied.send(name)
    assert error_of(response, 504)["code"] == "upstream_connect_timeout"
    assert time.monotonic() - began > CONNECT_TIMEOUT - 0.5
    assert proxied.good.accepted == 1
    assert proxied.good.requests == []


def test_a_slow_handshake_within_the_connect_timeout_succeeds(proxied: Proxied) -> None:
    """A third of the connect timeout passes before the server speaks, for a plain answer and for a stream."""
    proxied.good.on_connect = stall(CONNECT_TIMEOUT / 3)
    assert proxied.send().status == 200
    proxied.good.script = sse(STREAM)
    assert proxied.send().body == WHOLE


@pytest.mark.parametrize("fault", [reset, Exchange.close], ids=["RST", "FIN"])
def test_a_handshake_that_is_broken_off_is_a_502(proxied: Proxied, fault: Script) -> None:
    """In answer to the ClientHello; tried once, the key not sent."""
    proxied.good.on_connect = chain(Exchange.wait_for_bytes, fault)
    error_of(proxied.send(), 502)
    assert proxied.good.accepted == 1
    assert proxied.good.requests == []


def test_an_upstream_that_requires_a_client_certificate_is_a_502(proxied: Proxied) -> None:
    """In TLS 1.3 the refusal comes after the client's last handshake message, instead of an answer; tried once."""
    error_of(proxied.send("mutual"), 502)
    assert proxied.upstreams["mutual"].accepted == 1
    assert proxied.upstreams["mutual"].requests == []


# ------------------------------------------------------------------------------------------------------- half a record


GAPS = pytest.mark.parametrize("gap", [0, 0.3])
"""Seconds between two events: half a record is there at once, or comes while the proxy waits for it."""


@GAPS
def test_half_a_record_in_a_stream_stops_neither_heartbeats_nor_the_read_timeout(proxied: Proxied, gap: float) -> None:
    """Two events, then half of the record with the third: heartbeats, an error event, broken framing, upstream freed."""
    proxied.good.script = chain(sse([EVENTS[0], EVENTS[1], {"data": "x" * 2 * LONG}], gap), stall(60))
    began = time.monotonic()
    response = proxied.send("half", stream=True)
    assert time.monotonic() - began > READ_TIMEOUT - 0.5
    events = response.body.split(BEAT)
    assert events[0] == event_bytes(EVENTS[0]) + event_bytes(EVENTS[1])
    assert len(events) >= 2, "no heartbeat"
    assert b"".join(events[1:]).startswith(b'data: {"error"')
    assert b"upstream_timeout" in events[-1]
    assert not response.complete
    proxied.good.wait_left()


@pytest.mark.parametrize("where", ["head", "body"])
def test_half_a_record_in_an_answer_ends_at_the_read_timeout(proxied: Proxied, where: str) -> None:
    """Half a record is no byte of the answer: a 504, or broken framing where the head had gone out."""
    data = "x" * 2 * LONG
    headers = [("X-Long", data)] if where == "head" else []
    parts = [head_bytes(200, [("Content-Type", "application/json"), ("Content-Length", "20000"), *headers]), data.encode()]
    proxied.good.script = chain(*map(raw, parts), stall(60))
    began = time.monotonic()
    response = proxied.send("half")
    assert time.monotonic() - began > READ_TIMEOUT - 0.5
    assert broken(response)
    if where == "head":
        assert error_of(response, 504)["code"] == "upstream_timeout"
    proxied.good.wait_left()


@GAPS
def test_a_record_that_comes_in_two_halves_is_read_when_it_is_whole(proxied: Proxied, gap: float) -> None:
    """Slower than the heartbeat, faster than the read timeout: a heartbeat at the boundary, then the event, complete."""
    events: list[Event] = [EVENTS[0], {"data": "x" * 2 * LONG}, "[DONE]"]
    proxied.good.script = sse(events, gap)
    response = proxied.send("slow-record", stream=True)
    assert BEAT in response.body
    first, *beats, rest = response.body.split(BEAT)
    assert (response.status, response.complete) == (200, True)
    assert first == event_bytes(events[0])
    assert not any(beats)
    assert rest == b"".join(map(event_bytes, events[1:]))


def test_an_altered_record_is_a_failure(proxied: Proxied) -> None:
    """None of it is passed on: a 502 instead of an answer, an error event and broken framing in a stream."""
    proxied.good.script = json_answer({"data": "x" * 2 * LONG})
    assert error_of(proxied.send("garbled"), 502)["code"].startswith("upstream_")
    proxied.good.script = sse([EVENTS[0], {"data": "x" * 2 * LONG}, "[DONE]"])
    response = proxied.send("garbled", stream=True)
    assert broken(response)
    if response.status == 200:
        assert response.body.startswith(event_bytes(EVENTS[0]) + b'data: {"error"')
    assert len(proxied.good.requests) == 2


# ---------------------------------------------------------------------------------------------------------------- cuts


@pytest.mark.parametrize("fault", [cut, reset], ids=["FIN", "RST"])
@pytest.mark.parametrize("offset", [0, 25, len(event_bytes(EVENTS[0])), len(event_bytes(EVENTS[0])) + 1])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_a_stream_that_is_cut_without_close_notify_never_ends_cleanly(
    proxied: Proxied, framing: Framing, offset: int, fault: Script
) -> None:
    """Inside an event and between two, in all three framings: a prefix, an error event where one can begin, no clean end.

    TLS tells that a close-delimited stream was cut, so it is one like the others. A reset may overtake what was sent.
    """
    proxied.good.script = chain(sse(EVENTS, framing=framing, cut_at=offset), stall(0.1), fault)
    response = proxied.send(stream=True)
    assert broken(response)
    if response.status == 200:
        before, error, _ = response.body.partition(b'data: {"error"')
        assert WHOLE.startswith(before)
        assert bool(error) == (before == b"" or before.endswith(b"\n\n")), "an error event where one can begin, only there"
    assert len(proxied.good.requests) == 1


@pytest.mark.parametrize("sent", [0, 30, 60], ids=["head", "half", "whole"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_an_answer_that_is_cut_without_close_notify_never_ends_cleanly(proxied: Proxied, framing: str, sent: int) -> None:
    """JSON after its head, in the middle, and where nothing but the end is missing: a 502, or broken framing."""
    body = b'{"object": "list", "data": ["' + b"x" * 28 + b'"]}'
    assert len(body) == 60
    how = {"chunked": ("Transfer-Encoding", "chunked"), "length": ("Content-Length", "61"), "close": ("Connection", "close")}
    part = body[:sent]
    if framing == "chunked" and sent:
        part = b"%x\r\n%b" % (sent, part)
    proxied.good.script = chain(raw(head_bytes(200, [("Content-Type", "application/json"), how[framing]])), raw(part), cut)
    response = proxied.send()
    assert broken(response), response
    assert response.status == 502 or response.body == body[:sent]
    assert len(proxied.good.requests) == 1


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 2", head_bytes(200)[:-2]], ids=["nothing", "a part", "no empty line"])
def test_an_answer_whose_head_is_cut_is_a_502(proxied: Proxied, sent: bytes) -> None:
    """Nothing has been sent to the client, so the failure is a status, and the request is not repeated."""
    proxied.good.script = chain(raw(sent), cut)
    error_of(proxied.send(), 502)
    assert len(proxied.good.requests) == 1


def test_a_close_delimited_body_is_whole_with_close_notify(proxied: Proxied) -> None:
    """The TLS end of a connection is the end of the body (RFC 9112, 9.8), of JSON and of a stream."""
    proxied.good.script = closed(b'{"whole": true}')
    response = proxied.send()
    assert (response.status, response.json(), response.complete) == (200, {"whole": True}, True)
    proxied.good.script = sse(STREAM, framing="close")
    response = proxied.send(stream=True)
    assert (response.status, response.body, response.complete) == (200, WHOLE, True)


# --------------------------------------------------------------------------------------------------------- good answers


@pytest.mark.parametrize("name", ["tls12", "tls13"])
@pytest.mark.parametrize(
    "script", [json_answer({"n": 1}), sse(STREAM), sse(STREAM, framing="length")], ids=["JSON", "SSE", "length"]
)
def test_a_connection_is_used_again_by_its_caller(proxied: Proxied, name: str, script: Script) -> None:
    """Session tickets come after the handshake (RFC 8446, 4.6.1): no part of an answer, and the connection stays usable."""
    upstream, key = proxied.upstreams[name], next(KEYS)
    upstream.script = script
    for _ in range(3):
        response = proxied.send(name, key)
        assert (response.status, response.complete) == (200, True)
        time.sleep(0.15)
    assert [request.connection for request in upstream.requests] == [1, 1, 1]


def test_a_connection_that_the_upstream_closed_while_idle_is_replaced(proxied: Proxied) -> None:
    """With close_notify, without, and by RST: the caller does not notice, and the upstream sees each request once."""
    key = next(KEYS)
    for ending in (Exchange.close, cut, reset, Exchange.keep_alive):
        proxied.good.script = chain(json_answer({"n": 1}), stall(0.2), ending)
        assert proxied.send(key=key).json() == {"n": 1}
        if ending is not Exchange.keep_alive:
            proxied.good.wait_connections(0)
    assert [request.connection for request in proxied.good.requests] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["tls12", "tls13"])
def test_new_connections_resume_the_session_of_their_caller(proxied: Proxied, name: str) -> None:
    """From the third on; no other caller ever resumes it, and a caller without credentials resumes none."""
    upstream, resumed = proxied.upstreams[name], []

    def note(exchange: Exchange) -> None:
        sock = exchange._connection.sock
        assert isinstance(sock, ssl.SSLSocket)
        resumed.append(sock.session_reused)

    upstream.script = chain(note, json_answer({"n": 1}), stall(0.05), Exchange.close)
    mine, other = next(KEYS), next(KEYS)
    for key in (mine, mine, mine, other, mine, other, other, None, None, None):
        headers = [] if key is None else [("Authorization", f"Bearer {key}")]
        body = {"model": "canary-model", "messages": []}
        assert ask(proxied.server.port, "POST", f"/{name}/v1/chat/completions", body, headers).json() == {"n": 1}
        upstream.wait_connections(0)
    assert resumed == [False, False, True, False, True, False, True, False, False, False]


def test_a_reused_connection_that_closes_unread_is_tried_once_more(proxied: Proxied) -> None:
    """The upstream closed it in the instant of reuse: the request goes once more, on a fresh connection."""

    def closed_when_reused(exchange: Exchange) -> None:
        exchange.wait_for_bytes()
        exchange.close_unread()

    proxied.good.script = in_turn(chain(json_answer({"n": 1}), closed_when_reused), json_answer({"n": 2}))
    key = next(KEYS)
    assert proxied.send(key=key).json() == {"n": 1}
    time.sleep(0.15)
    assert proxied.send(key=key).json() == {"n": 2}
    assert [request.connection for request in proxied.good.requests] == [1, 2]


@pytest.mark.parametrize("ending", [Exchange.close, cut, reset], ids=["close_notify", "FIN", "RST"])
def test_what_a_reused_connection_took_is_not_sent_again(proxied: Proxied, ending: Script) -> None:
    """The upstream read the request and then hung up: it may have served it, so there is no second request."""
    proxied.good.script = in_turn(json_answer({"n": 1}), ending, json_answer({"n": 2}))
    key = next(KEYS)
    assert proxied.send(key=key).json() == {"n": 1}
    time.sleep(0.15)
    error_of(proxied.send(key=key), 502)
    assert [request.connection for request in proxied.good.requests] == [1, 1]


def test_callers_do_not_share_a_connection(proxied: Proxied) -> None:
    """Each key has a connection of its own, over TLS too."""
    for _ in range(2):
        assert proxied.send().status == 200
        time.sleep(0.15)
    assert [request.connection for request in proxied.good.requests] == [1, 2]


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_records_that_come_byte_by_byte_are_one_answer(proxied: Proxied, framing: Framing) -> None:
    """TCP segments of one byte, in the handshake and after it: byte-equal."""
    proxied.good.script = sse(STREAM, framing=framing)
    response = proxied.send("bytes", stream=True)
    assert (response.status, response.body, response.complete) == (200, WHOLE, True)
    proxied.good.script = json_answer({"text": "données " * 100})
    assert proxied.send("bytes").json() == {"text": "données " * 100}


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_answer_may_be_cut_into_records_anywhere(proxied: Proxied, size: int) -> None:
    """One record for every *size* bytes of head and body: byte-equal, also where one read holds many records."""
    proxied.good.script = chain(raw(sse_bytes(STREAM), size=size), Exchange.keep_alive)
    response = proxied.send(stream=True)
    assert (response.status, response.body, response.complete) == (200, WHOLE, True)


def test_a_large_answer_is_byte_equal(proxied: Proxied) -> None:
    """3 MB in full records: decrypted data is read before the socket is polled for more."""
    data = random.Random(3).randbytes(3_000_000)
    head = head_bytes(200, [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(data)))])
    proxied.good.script = chain(raw(head + data), Exchange.keep_alive)
    response = ask(proxied.server.port, "GET", "/good/v1/files/1/content", None, [("Authorization", f"Bearer {next(KEYS)}")])
    assert (response.status, response.complete) == (200, True)
    assert sha256(response.body).digest() == sha256(data).digest()


@pytest.mark.parametrize("status", [100, 102, 103])
def test_informational_answers_are_not_the_answer(proxied: Proxied, status: int) -> None:
    """1xx in a record of its own, then the final answer after a while; the next request gets its own answer too."""
    key = next(KEYS)
    proxied.good.script = chain(early_hints(status), stall(0.3), json_answer({"final": status}))
    for _ in range(2):
        assert proxied.send(key=key).json() == {"final": status}
        time.sleep(0.15)


def test_an_upload_of_5_mb_arrives(proxied: Proxied) -> None:
    """Byte-equal, in one request."""
    data = random.Random(5).randbytes(5 << 20)
    response = ask(proxied.server.port, "POST", "/good/v1/files", data, [("Authorization", f"Bearer {next(KEYS)}")])
    assert response.status == 200
    [request] = proxied.good.requests
    assert not request.cut
    assert sha256(request.body).digest() == sha256(data).digest()


@pytest.mark.parametrize("script", [sse([EVENTS[0]] * 1000, gap=0.05), chain(sse(EVENTS[:1], framing="close"), stall(60))])
def test_a_client_that_leaves_frees_the_upstream_connection(proxied: Proxied, script: Script) -> None:
    """In an active stream and in a silent one, before the read timeout: the log says that the client ended it."""
    proxied.good.script = script
    start = len(proxied.server.log())
    with connect(proxied.server.port) as sock:
        sock.sendall(proxied.request("good", stream=True))
        next(Answer(sock).pieces())
    proxied.good.wait_left()
    # the line of the request before may still have been to come
    ended = eventually(lambda: set(re.findall(r" ended=(\w+) ", proxied.server.log()[start:])) - {"ok"}, "the log line")
    assert ended == {"client_gone"}
    proxied.good.wait_connections(0)


def test_callers_at_once_get_their_own_answers(proxied: Proxied) -> None:
    """50 keys, 50 connections, one answer each, with the caller's own key and body; all of them are under way together."""
    everybody = threading.Barrier(50)

    def answer(exchange: Exchange) -> None:
        everybody.wait(DEADLINE)
        request = exchange.request
        json_answer({"key": request.header("Authorization"), "user": request.json()["messages"][0]["content"]})(exchange)

    def one(number: int) -> tuple[int, object]:
        messages = [{"role": "user", "content": f"text {number}"}]
        response = proxied.send("good", f"canary-{number}", messages=messages)
        return response.status, response.json()

    proxied.good.script = answer
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(one, range(50)))
    assert answers == [(200, {"key": f"Bearer canary-{number}", "user": f"text {number}"}) for number in range(50)]
    assert proxied.good.accepted == 50


# ------------------------------------------------------------------------------------------------------- HTTP proxies


@pytest.fixture(scope="module")
def tunnelled(shared: Proxied, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxied, Relay]]:
    """The upstreams "good" and "wrong-host" behind an HTTP proxy, by names that only that proxy knows."""
    with Relay(shared.good.port, tunnel=True) as tunnel:
        server = Gunicorn(
            tmp_path_factory.mktemp("tunnelled"),
            WEB_CONCURRENCY=1,
            MISTRAL_FILTER_CA_BUNDLE=shared.bundle,
            MISTRAL_FILTER_CONNECT_TIMEOUT=CONNECT_TIMEOUT,
            MISTRAL_FILTER_PROXY=f"http://127.0.0.1:{tunnel.port}",
            MISTRAL_FILTER_UPSTREAMS="good=https://localhost:444 wrong-host=https://no-such.invalid",
        )
        with server:
            yield Proxied(server, shared.upstreams, shared.bundle), tunnel


def test_tls_goes_through_an_http_proxy_end_to_end(tunnelled: tuple[Proxied, Relay]) -> None:
    """The HTTP proxy sees host and port, never the key or the body; the connection is used again; the SNI is the upstream's."""
    proxied, tunnel = tunnelled
    proxied.good.clear()
    tunnel.heads.clear()
    key = next(KEYS)
    proxied.good.script = sse(STREAM)
    for _ in range(2):
        response = proxied.send(key=key, stream=True)
        assert (response.status, response.body, response.complete) == (200, WHOLE, True)
        time.sleep(0.15)
    assert [request.connection for request in proxied.good.requests] == [1, 1]
    [head] = tunnel.heads
    assert head.startswith(b"CONNECT localhost:444 HTTP/1.1\r\n")
    assert b"canary" not in head
    assert isinstance(proxied.good, TLSUpstream)
    assert proxied.good.server_names[-1] == "localhost"


def test_a_certificate_is_checked_through_an_http_proxy(tunnelled: tuple[Proxied, Relay]) -> None:
    """The name is the upstream's, which only the HTTP proxy can resolve; no key is sent to a server without it."""
    proxied, tunnel = tunnelled
    proxied.good.clear()
    tunnel.heads.clear()
    assert error_of(proxied.send("wrong-host"), 502)["code"] == "upstream_tls"
    assert len(tunnel.heads) == 1
    assert tunnel.heads[0].startswith(b"CONNECT no-such.invalid:443 HTTP/1.1\r\n")
    assert proxied.good.requests == []


def test_a_handshake_in_a_tunnel_is_inside_the_connect_timeout(tunnelled: tuple[Proxied, Relay]) -> None:
    """A 504 at the connect timeout when the tunnel is open and the upstream behind it silent."""
    proxied, _ = tunnelled
    proxied.good.clear()
    proxied.good.on_connect = stall(60)
    began = time.monotonic()
    assert error_of(proxied.send(), 504)["code"] == "upstream_connect_timeout"
    assert time.monotonic() - began > CONNECT_TIMEOUT - 0.5
    assert proxied.good.requests == []


@pytest.mark.parametrize(
    ("script", "final"),
    [
        (raw(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"), True),
        (raw(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"), True),
        (raw(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), False),
        (raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), True),
        (raw(b"HTTP/1.1 102 Processing\r\n\r\n" * 30 + b"HTTP/1.1 200 OK\r\n\r\n"), False),
        (raw(b"HTTP/1.1 200 OK\r\n\r\nmore"), False),
        (raw(b""), False),
        (raw(b"HTTP/1.1 200 Conn"), False),
        (chain(raw(b"HTTP/1.1 200 Conn"), stall(0.1), reset), False),
        (reset, False),
    ],
    ids=["407", "403", "503", "100 and 403", "30 times 102", "more than 200", "no answer", "closes", "resets", "resets at once"],
)
def test_a_proxy_that_makes_no_tunnel_is_named(
    gunicorn_server: Callable[..., Gunicorn], upstream: ScriptedUpstream, script: Script, final: bool
) -> None:
    """The HTTP proxy is at fault: the error says its address and its setting, not the upstream's, and no credentials."""
    proxy = upstream.url.replace("//", "//user:pass%40word@")
    server = gunicorn_server(MISTRAL_FILTER_UPSTREAM="https://no-such.invalid", MISTRAL_FILTER_PROXY=proxy)
    upstream.script = script
    response = ask(server.port, "POST", "/v1/chat/completions", {"model": "m", "messages": []}, [("Authorization", "Bearer k")])
    error = error_of(response, 502)
    assert error["code"] == "upstream_unreachable"
    assert f"127.0.0.1:{upstream.port}" in error["message"]
    assert "MISTRAL_FILTER_PROXY" in error["message"]
    assert not any(word in error["message"] for word in ("no-such", "user", "pass", "MISTRAL_FILTER_UPSTREAM"))
    assert response.header("x-should-retry") == ("false" if final else None)
    assert [request.target for request in upstream.requests] == ["no-such.invalid:443"]


def test_interim_answers_of_a_proxy_are_skipped(shared: Proxied, gunicorn_server: Callable[..., Gunicorn]) -> None:
    """A 1xx before the 200 of CONNECT is no refusal (RFC 9110, 15.2), in one segment with it or before it."""
    shared.good.clear()
    shared.good.script = json_answer({"n": 1})
    for interim in (b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 2):
        with Relay(shared.good.port, tunnel=True, interim=interim) as tunnel:
            server = gunicorn_server(
                WEB_CONCURRENCY=1,
                MISTRAL_FILTER_CA_BUNDLE=shared.bundle,
                MISTRAL_FILTER_PROXY=f"http://127.0.0.1:{tunnel.port}",
                MISTRAL_FILTER_UPSTREAM="https://localhost:444",
            )
            response = ask(server.port, "POST", "/v1/chat/completions", {"model": "m", "messages": []})
            assert (response.status, response.json()) == (200, {"n": 1})


class Encrypted(Gunicorn):
    """gunicorn with TLS of its own; *trust* is what its clients trust."""

    trust: ssl.SSLContext

    def connect(self) -> ssl.SSLSocket:
        return self.trust.wrap_socket(connect(self.port, DEADLINE / 2), server_hostname="127.0.0.1")

    def _ready(self) -> bool:
        with suppress(OSError), self.connect() as sock:
            sock.sendall(build_request("GET", "/health"))
            return read_response(sock).status == 200
        return False


@pytest.mark.parametrize("worker", [(), ("-k", "gthread", "--threads", "4")], ids=["gevent", "gthread"])
def test_a_client_on_tls_reads_the_answer_to_a_body_that_stops(
    tmp_path: Path, upstream: ScriptedUpstream, certificate: tuple[Path, Path], worker: tuple[str, ...]
) -> None:
    """With gunicorn's own TLS: the 408, and what the upstream answers while an upload pauses, not an alert in their place."""
    files = ("--certfile", str(certificate[0]), "--keyfile", str(certificate[1]))
    server = Encrypted(
        tmp_path, *files, *worker, WEB_CONCURRENCY=1, MISTRAL_FILTER_UPSTREAM=upstream.url, MISTRAL_FILTER_BODY_TIMEOUT=2
    )
    server.trust = ssl.create_default_context(cafile=str(certificate[0]))
    upstream.script = early(json_answer({"message": "too large"}, 413))
    with server:
        for path, status in (("/v1/chat/completions", 408), ("/v1/files", 413)):
            with server.connect() as sock:
                sock.sendall(build_request("POST", path, b"x" * 1000, [("Authorization", "Bearer k")])[:-1])
                response = read_response(sock)
            assert (response.status, response.complete) == (status, True)


def test_what_is_no_handshake_on_tls_is_one_short_line_at_most(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """Plain HTTP, no trust, a reset, an end: no traceback, nothing of what came, and few lines however many come."""
    files = ("--certfile", str(certificate[0]), "--keyfile", str(certificate[1]))
    server = Encrypted(tmp_path, *files, WEB_CONCURRENCY=1)
    server.trust = ssl.create_default_context(cafile=str(certificate[0]))
    with server:
        before = len(server.log().splitlines())
        for number in range(40):
            with connect(server.port) as sock:
                if number % 4 == 0:
                    sock.sendall(build_request("GET", "/canary"))
                    with suppress(ConnectionResetError):
                        while sock.recv(65536):
                            pass
                elif number % 4 == 1:
                    with suppress(ssl.SSLError):
                        ssl.create_default_context().wrap_socket(sock, server_hostname="127.0.0.1").close()
                elif number % 4 == 2:
                    sock.sendall(b"\x16")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert server._ready()
        new = server.log().splitlines()[before:]
    lines = [line for line in new if "path=/health" not in line]
    assert 1 <= len(lines) <= 20, "\n".join(lines)
    assert all("A client's TLS handshake failed." in line for line in lines), "\n".join(lines)
    assert "canary" not in "".join(lines)
