"""What one caller causes stays with that caller: lessons from refusals, late bytes, descriptors."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from servers import BadFraming, Gunicorn, Response, ask, build_request, connect, eventually, read_response
from upstream import Exchange, Script, ScriptedUpstream, json_answer

from mistral_filter.proxy.call import Call
from mistral_filter.proxy.upstream import Upstream

CHAT = "/v1/chat/completions"
WORKERS = {"gevent": (), "gthread": ("-k", "gthread", "--threads", "16")}

Start = Callable[..., Gunicorn]
NewUpstream = Callable[..., ScriptedUpstream]


def chat(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], **more}


def key(name: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {name}")


# -------------------------------------------------------------------------------------------------------------- lessons


def refusing(callers: set[str | None], models: set[str], field: str = "temperature") -> Script:
    """An upstream that does not know *field* where one of *callers* asks one of *models*, and echoes the rest."""
    detail = [{"type": "extra_forbidden", "loc": ["body", field], "msg": "Extra inputs are not permitted", "input": 1}]

    def script(exchange: Exchange) -> None:
        request = exchange.request
        body = request.json()
        if field in body and request.header("Authorization") in callers and body["model"] in models:
            json_answer({"detail": detail}, 422)(exchange)
        else:
            json_answer({"object": "echo", "body": request.body.decode()})(exchange)

    return script


def sent(upstream: ScriptedUpstream, server: Gunicorn, caller: str | None, model: str, target: str = CHAT) -> list[bool]:
    """Ask with a temperature; for each request that the upstream has seen, whether it was in it."""
    upstream.clear_requests()
    headers = [] if caller is None else [key(caller)]
    response = ask(server.port, "POST", target, chat(model=model, temperature=0.5), headers)
    assert response.status == 200, response
    return ["temperature" in request.json() for request in upstream.requests]


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gunicorn, ScriptedUpstream]]:
    """A server that has learnt nothing of the models of the next test, with one upstream under three names."""
    with ScriptedUpstream() as upstream:
        others = f"other=http://localhost:{upstream.port} third={upstream.url}"
        settings = {"MISTRAL_FILTER_UPSTREAM": upstream.url, "MISTRAL_FILTER_UPSTREAMS": others}
        with Gunicorn(tmp_path_factory.mktemp("learner"), WEB_CONCURRENCY=1, **settings) as server:
            yield server, upstream


def test_a_lesson_is_for_its_caller_model_and_upstream(learner: tuple[Gunicorn, ScriptedUpstream]) -> None:
    """I1: the same caller and model are spared the second request; other callers, models and upstreams keep the field."""
    server, upstream = learner
    upstream.script = refusing({"Bearer a"}, {"small-1"})
    assert sent(upstream, server, "a", "small-1") == [True, False]
    assert sent(upstream, server, "a", "small-1") == [False]
    assert sent(upstream, server, "b", "small-1") == [True]
    assert sent(upstream, server, None, "small-1") == [True]
    assert sent(upstream, server, "a", "large-1") == [True]
    upstream.script = refusing(set(), set())
    assert sent(upstream, server, "a", "small-1", "/other" + CHAT) == [True]
    assert sent(upstream, server, "a", "small-1", "/third" + CHAT) == [True]
    assert sent(upstream, server, "a", "small-1") == [False]


def test_each_caller_learns_anew(learner: tuple[Gunicorn, ScriptedUpstream]) -> None:
    """I1: where the upstream refuses everybody, each caller, model and upstream pays one second request of its own."""
    server, upstream = learner
    upstream.script = refusing({"Bearer a", "Bearer b", None}, {"small-2", "large-2"})
    for target in (CHAT, "/other" + CHAT):
        for caller in ("a", "b"):
            for model in ("small-2", "large-2"):
                assert sent(upstream, server, caller, model, target) == [True, False]
                assert sent(upstream, server, caller, model, target) == [False]


def test_callers_without_credentials_are_not_one_caller(learner: tuple[Gunicorn, ScriptedUpstream]) -> None:
    """I1: what a request without a key caused is not applied to a caller that has one."""
    server, upstream = learner
    upstream.script = refusing({None}, {"small-3"})
    assert sent(upstream, server, None, "small-3") == [True, False]
    assert sent(upstream, server, "a", "small-3") == [True]
    assert sent(upstream, server, "b", "small-3") == [True]


def test_a_reported_lesson_is_not_reported_to_others(learner: tuple[Gunicorn, ScriptedUpstream]) -> None:
    """I1: the header of changes names the field for the caller concerned only."""
    server, upstream = learner
    upstream.script = refusing({"Bearer a"}, {"small-4"})
    for caller, named in [("a", True), ("a", True), ("b", False)]:
        response = ask(server.port, "POST", CHAT, chat(model="small-4", temperature=0.5), [key(caller)])
        assert ("temperature" in (response.header("Mistral-Filter-Changes") or "")) is named


# ------------------------------------------------------------------------------------------------------------ late bytes


def poisoned(pause: float) -> Script:
    """A complete answer that names the request, and a moment later another one that nobody asked for."""
    poison = b'{"poison": true}'

    def script(exchange: Exchange) -> None:
        json_answer({"model": exchange.request.model})(exchange)
        exchange.sleep(pause)
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(poison) + poison)

    return script


@pytest.mark.parametrize("arguments", list(WORKERS.values()), ids=list(WORKERS))
@pytest.mark.parametrize("pause", [0, 0.02, 0.1])
def test_callers_without_a_key_share_no_connection(
    gunicorn_server: Start, upstream: ScriptedUpstream, arguments: tuple[str, ...], pause: float
) -> None:
    """I2: twenty in turn and twenty at once: each has its own answer, from a connection that nobody else used."""
    server = gunicorn_server(*arguments, WEB_CONCURRENCY=1)
    upstream.script = poisoned(pause)

    def one(number: int) -> Response:
        return ask(server.port, "POST", CHAT, chat(model=f"m{number}"))

    for number in range(20):
        response = one(number)
        assert (response.status, response.json()) == (200, {"model": f"m{number}"})
        time.sleep(0.03)
    with ThreadPoolExecutor(5) as pool:
        for number, response in enumerate(pool.map(one, range(20, 40)), 20):
            assert (response.status, response.json()) == (200, {"model": f"m{number}"})
    assert len(upstream.requests) == 40
    assert len({request.connection for request in upstream.requests}) == 40


def test_one_client_connection_without_a_key_is_not_one_caller(gunicorn_server: Start, upstream: ScriptedUpstream) -> None:
    """I2: a proxy in front sends many callers' requests down one connection; behind it they are apart all the same."""
    server = gunicorn_server(WEB_CONCURRENCY=1)
    upstream.script = poisoned(0.02)
    with connect(server.port) as sock:
        for number in range(10):
            sock.sendall(build_request("POST", CHAT, chat(model=f"m{number}")))
            assert read_response(sock).json() == {"model": f"m{number}"}
            time.sleep(0.04)
        for number in range(5):
            sock.sendall(build_request("GET", f"/v1/models/m{number}"))
            assert read_response(sock).status == 200
    assert len({request.connection for request in upstream.requests}) == 15


def test_a_caller_with_a_key_gets_no_late_answer(gunicorn_server: Start, upstream: ScriptedUpstream) -> None:
    """I2: an idle connection on which something came is not used again, not even by the caller whose it was."""
    server = gunicorn_server(WEB_CONCURRENCY=1)
    upstream.script = poisoned(0.02)
    for number in range(10):
        response = ask(server.port, "POST", CHAT, chat(model=f"m{number}"), [key("a")])
        assert (response.status, response.json()) == (200, {"model": f"m{number}"})
        time.sleep(0.06)


# ------------------------------------------------------------------------------------------------------------ descriptors


def limits(server: Gunicorn) -> list[tuple[int, int]]:
    """Soft and hard limit of descriptors of each worker."""
    texts = [Path(f"/proc/{pid}/limits").read_text() for pid in server.workers()]
    found = [re.search(r"^Max open files +(\d+) +(\d+)", text, re.MULTILINE) for text in texts]
    return [(int(match[1]), int(match[2])) for match in found if match]


@pytest.mark.parametrize("arguments", list(WORKERS.values()), ids=list(WORKERS))
def test_the_soft_limit_is_raised_to_the_hard_one(
    gunicorn_server: Start, upstream: ScriptedUpstream, arguments: tuple[str, ...]
) -> None:
    """I3: a shell's soft limit of 64 descriptors is not the worker's, and more calls than that are served at once."""
    server = gunicorn_server(*arguments, WEB_CONCURRENCY=1, shell="ulimit -Sn 64 && ulimit -Hn 1024")
    assert limits(server) == [(1024, 1024)]


@pytest.fixture
def few(gunicorn_server: Start) -> Gunicorn:
    """One gevent worker that can never have more than 128 descriptors."""
    return gunicorn_server(WEB_CONCURRENCY=1, shell="ulimit -n 128")


def test_idle_connections_leave_room_for_new_callers(few: Gunicorn, upstream: ScriptedUpstream) -> None:
    """I3: four hundred callers in turn, each with a key of its own whose connection could be kept: all are served."""
    before = few.fds()
    for number in range(400):
        response = ask(few.port, "POST", CHAT, chat(model=f"m{number}"), [key(f"caller-{number}")])
        assert response.status == 200, (number, response)
        assert json.loads(response.json()["body"])["model"] == f"m{number}"
    upstream.drop()
    eventually(lambda: few.fds() <= before + 4, "the descriptors to be closed")


def test_so_many_idle_connections_are_kept_and_no_more(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """I3: beyond the bound the one that has rested longest is closed; the caller that came last keeps its own."""
    monkeypatch.setattr("mistral_filter.proxy.upstream.idle._MOST_IDLE", 3)
    monkeypatch.setattr("mistral_filter.proxy.upstream.idle._IDLE_SECONDS", 3600.0)
    proxy = Upstream(upstream.url)

    def ask_for(caller: str) -> None:
        assert proxy.send(Call(), "GET", "/v1/models", "", [], b"", caller=caller).whole(1000)[1] is None

    for number in range(8):
        ask_for(f"caller-{number}")
    upstream.wait_connections(3)
    time.sleep(0.1)  # longer than a connection rests
    ask_for("caller-7")
    assert [request.connection for request in upstream.requests] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    upstream.drop()


def test_idle_connections_of_others_are_closed_first(few: Gunicorn, upstream: ScriptedUpstream) -> None:
    """I3: many callers with an idle connection each, and then calls under way that need most of the descriptors."""
    for number in range(80):
        assert ask(few.port, "POST", CHAT, chat(), [key(f"idle-{number}")]).status == 200

    def script(exchange: Exchange) -> None:
        exchange.sleep(1)
        json_answer({})(exchange)

    upstream.script = script
    with ThreadPoolExecutor(30) as pool:
        answers = pool.map(lambda n: ask(few.port, "POST", CHAT, chat(), [key(f"busy-{n}")]).status, range(30))
        assert list(answers) == [200] * 30


def test_without_descriptors_calls_are_refused(few: Gunicorn, upstream: ScriptedUpstream) -> None:
    """I3: more calls at once than there are descriptors: 503 with Retry-After for those beyond; then all is as before."""
    before = few.fds()

    def script(exchange: Exchange) -> None:
        exchange.sleep(1.5)
        json_answer({"model": exchange.request.model})(exchange)

    upstream.script = script

    def one(number: int) -> Response | str:
        try:
            return ask(few.port, "POST", CHAT, chat(model=f"m{number}"), [key(f"caller-{number}")], 20)
        except (OSError, BadFraming) as exc:
            return repr(exc)

    with ThreadPoolExecutor(110) as pool:
        answers = list(pool.map(one, range(110)))
    statuses = [answer if isinstance(answer, str) else answer.status for answer in answers]
    assert set(statuses) <= {200, 503}, statuses
    assert statuses.count(200) >= 20
    for number, answer in enumerate(answers):
        assert not isinstance(answer, str)
        if answer.status == 503:
            assert int(answer.header("Retry-After") or "0") > 0
            assert answer.json()["error"]["code"]
        else:
            assert answer.json() == {"model": f"m{number}"}
    upstream.script = json_answer({})
    for number in range(20):
        assert ask(few.port, "POST", CHAT, chat(), [key(f"after-{number}")]).status == 200
    upstream.drop()
    eventually(lambda: few.fds() <= before + 4, "the descriptors to be closed")


def test_silent_connections_take_no_call_its_descriptor(few: Gunicorn, upstream: ScriptedUpstream) -> None:
    """I3: more idle clients than descriptors: when they have left, the next request is served.

    The log says so in a few lines, without a traceback: gevent tries again after 0.01 s, and each time after twice as long.
    """
    socks = []
    with suppress(OSError):
        socks = [connect(few.port) for _ in range(150)]
    assert len(socks) == 150
    time.sleep(0.5)
    for sock in socks:
        sock.close()
    eventually(lambda: ask(few.port, "POST", CHAT, chat(), [key("next")], 5).status == 200, "a request to be served")
    lines = few.log()
    assert 1 <= lines.count("No file descriptor is left for a client's connection.") <= 20
    assert "Traceback" not in lines
