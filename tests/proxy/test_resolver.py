"""Name resolution: a DNS server that says nothing, addresses that do not answer, and how often a name is asked for.

A module put in front of ``app`` replaces ``socket.getaddrinfo`` for one name; what it does is read from a file at each look-up,
so that a test can change it while the server runs. ``time.sleep`` waits in a thread, and in a greenlet under gevent, as the
real look-up does.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import Gunicorn, Probe, Response, ask, build_request, eventually
from tls import Authority, TLSUpstream
from upstream import Exchange, ScriptedUpstream, chain, full_backlog, json_answer, stall

CHAT = "/v1/chat/completions"
ORIGIN = ("Origin", "https://chat.example.com")
WORKERS = {"gevent": (), "gthread": ("-k", "gthread", "--threads", "40")}
NAME = "localhost"
"""The only name that may be reached without TLS."""

Start = Callable[..., Gunicorn]

RESOLVER = """
import json
import socket
import time
from pathlib import Path

real = socket.getaddrinfo
here = Path(__file__).parent


def getaddrinfo(host, port, *args, **kwargs):
    if host not in ("localhost", b"localhost"):
        return real(host, port, *args, **kwargs)
    with (here / "lookups").open("a") as file:
        file.write("x")
    while (answer := json.loads((here / "answer.json").read_text())) == "silent":
        time.sleep(0.05)
    if answer == "unknown":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port))) for address in answer]


socket.getaddrinfo = getaddrinfo

from app import app  # noqa: E402, F401
"""


class Resolver:
    """What the server is told about :data:`NAME`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "resolving.py").write_text(RESOLVER)
        self.answer("127.0.0.1")

    def answer(self, *addresses: str) -> None:
        """These addresses, in this order."""
        self._set(list(addresses))

    def say_nothing(self) -> None:
        """No answer until there is one again."""
        self._set("silent")

    def know_nothing(self) -> None:
        """There is no such name."""
        self._set("unknown")

    def lookups(self) -> int:
        """How often it was asked."""
        file = self.directory / "lookups"
        return file.stat().st_size if file.exists() else 0

    def _set(self, value: object) -> None:
        new = self.directory / "answer.new"
        new.write_text(json.dumps(value))
        new.rename(self.directory / "answer.json")  # at once: it is being read meanwhile


@pytest.fixture
def resolver(tmp_path: Path) -> Resolver:
    return Resolver(tmp_path)


@pytest.fixture(params=["gevent"])  # a test that threads could fail asks for both
def start(request: pytest.FixtureRequest, resolver: Resolver, upstream: ScriptedUpstream) -> Callable[[], Gunicorn]:
    """A server whose upstream has a name, and a second upstream with an address."""
    return lambda: Gunicorn(
        resolver.directory,
        *WORKERS[request.param],
        app="resolving:app",
        WEB_CONCURRENCY=1,
        PYTHONPATH=resolver.directory,
        MISTRAL_FILTER_UPSTREAM=f"http://{NAME}:{upstream.port}",
        MISTRAL_FILTER_UPSTREAMS=f"other={upstream.url}",
        MISTRAL_FILTER_CONNECT_TIMEOUT=3,
    )


def chat(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], **more}


def error_code(response: Response) -> object:
    return response.json()["error"]["code"]


def post(server: Gunicorn, caller: str | None = None) -> Response:
    headers = [ORIGIN, *([("Authorization", f"Bearer {caller}")] if caller else [])]
    return ask(server.port, "POST", CHAT, chat(), headers)


@pytest.mark.parametrize("start", list(WORKERS), indirect=True)
def test_a_silent_resolver_costs_the_connect_timeout(
    start: Callable[[], Gunicorn], resolver: Resolver, upstream: ScriptedUpstream
) -> None:
    """L2: thirty callers at once have their 504 while it is silent, another upstream is served meanwhile; then all is well."""
    resolver.say_nothing()
    with start() as server:
        with Probe(server.port, build_request("POST", "/other" + CHAT, chat())) as probe, ThreadPoolExecutor(30) as pool:
            probe.wait(1)
            before = len(probe.answers)
            answers = list(pool.map(lambda number: post(server, f"caller-{number}"), range(30)))
            assert len(probe.answers) - before >= 5, "others wait for those who wait for the resolver"
            fds = server.fds()
            resolver.answer("127.0.0.1")
        for response in answers:
            assert response.status == 504
            assert response.json()["error"]["code"] == "upstream_connect_timeout"
            assert response.header("Access-Control-Allow-Origin") == "*"
        probe.check()
        assert fds < 100
        eventually(lambda: post(server, "later").status == 200, "the name to be resolved")


def test_a_name_is_not_asked_for_at_each_request(
    start: Callable[[], Gunicorn], resolver: Resolver, upstream: ScriptedUpstream
) -> None:
    """L2: fifty requests on fifty connections need few look-ups; a failed look-up is not remembered for long."""
    with start() as server:
        for number in range(50):
            assert post(server, f"caller-{number}").status == 200
        assert upstream.accepted == 50
        assert 1 <= resolver.lookups() <= 10


def test_an_unknown_name_is_not_remembered_for_long(
    start: Callable[[], Gunicorn], resolver: Resolver, upstream: ScriptedUpstream
) -> None:
    """L2: 502 where there is no such name, and not the 504 of the connect timeout; served after there is.

    The client is told which host and setting, and not to try again: SDKs obey ``x-should-retry``.
    """
    resolver.know_nothing()
    with start() as server:
        response = post(server)
        assert (response.status, response.json()["error"]["code"]) == (502, "upstream_dns")
        assert response.header("x-should-retry") == "false"
        assert "MISTRAL_FILTER_UPSTREAM" in response.json()["error"]["message"]
        resolver.answer("127.0.0.1")
        eventually(lambda: post(server).status == 200, "the name to be resolved")


def test_known_addresses_serve_while_the_resolver_fails(
    start: Callable[[], Gunicorn], resolver: Resolver, upstream: ScriptedUpstream
) -> None:
    """L2: also those at which nobody answered for a moment: the upstream is back before the resolver is."""
    with start() as server:
        for fail in (resolver.say_nothing, resolver.know_nothing):
            resolver.answer("127.0.0.1")
            eventually(lambda: post(server).status == 200, "the name to be resolved")
            with upstream.down():
                assert error_code(post(server)) == "upstream_unreachable"
                fail()
            assert post(server).status == 200


def test_addresses_are_tried_in_turn(start: Callable[[], Gunicorn], resolver: Resolver, upstream: ScriptedUpstream) -> None:
    """L2: nobody listens at the first addresses; and where nobody does at any, it is a 502 once for all of them."""
    resolver.answer("127.0.0.2", "127.0.0.3", "127.0.0.1")
    with start() as server:
        for number in range(5):
            assert post(server, f"caller-{number}").status == 200
        assert len(upstream.requests) == 5
    resolver.answer("127.0.0.2", "127.0.0.3")
    with start() as server:
        response = post(server)
        assert (response.status, response.json()["error"]["code"]) == (502, "upstream_unreachable")
        resolver.answer("127.0.0.1")  # the name moved to another address
        eventually(lambda: post(server).status == 200, "the new address")


def test_a_silent_address_leaves_time_for_the_next(
    start: Callable[[], Gunicorn], resolver: Resolver, upstream: ScriptedUpstream
) -> None:
    """L2: an address that does not answer takes its share of the connect timeout, and the request is served by the next one."""
    resolver.answer("127.0.0.2", "127.0.0.1")
    with full_backlog("127.0.0.2", upstream.port), start() as server:
        assert post(server).status == 200


def test_the_connect_timeout_is_for_all_addresses_together(
    gunicorn_server: Start, resolver: Resolver, upstream: ScriptedUpstream
) -> None:
    """L2: a hundred addresses that do not answer take one connect timeout of a second, not a hundred."""
    resolver.answer(*["127.0.0.1"] * 100)
    with (
        full_backlog() as port,
        Gunicorn(
            resolver.directory,
            app="resolving:app",
            WEB_CONCURRENCY=1,
            PYTHONPATH=resolver.directory,
            MISTRAL_FILTER_UPSTREAM=f"http://{NAME}:{port}",
            MISTRAL_FILTER_CONNECT_TIMEOUT=1,
        ) as server,
    ):
        response = post(server)  # a TimeoutError: it was a timeout for each
        assert (response.status, response.json()["error"]["code"]) == (504, "upstream_connect_timeout")


def test_over_tls_a_name_may_move_to_another_server(gunicorn_server: Start, resolver: Resolver, tmp_path: Path) -> None:
    """The new server knows no session of the old one, so that its certificate is judged like the first one's."""
    (tmp_path / "trusted").mkdir()
    (tmp_path / "stranger").mkdir()
    trusted, stranger = Authority(tmp_path / "trusted"), Authority(tmp_path / "stranger")
    resumed: list[bool] = []

    def note(exchange: Exchange) -> None:
        sock = exchange._connection.sock
        assert isinstance(sock, ssl.SSLSocket)
        resumed.append(sock.session_reused)

    script = chain(note, json_answer({}), stall(0.05), Exchange.close)
    with TLSUpstream(trusted.issue("first")) as first:
        first.script = script
        server = gunicorn_server(
            app="resolving:app",
            WEB_CONCURRENCY=1,
            PYTHONPATH=resolver.directory,
            MISTRAL_FILTER_UPSTREAM=f"https://{NAME}:{first.port}",
            MISTRAL_FILTER_CA_BUNDLE=trusted.bundle,
        )
        for _ in range(3):
            assert post(server, "caller").status == 200
            first.wait_connections(0)
        assert resumed == [False, False, True]
    with TLSUpstream(trusted.issue("second"), address="127.0.0.2", port=first.port) as second:
        second.script = script
        resolver.answer("127.0.0.2")
        eventually(lambda: post(server, "caller").status == 200, "the new address")
        assert resumed[3:] == [False]
    with TLSUpstream(stranger.issue("third"), address="127.0.0.3", port=first.port) as third:
        resolver.answer("127.0.0.3")
        eventually(lambda: post(server, "caller").json()["error"]["code"] == "upstream_tls", "the certificate to be refused")
        assert third.requests == []
