"""Fixtures: one scripted upstream for the whole run, and one gunicorn for each set of settings."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from servers import ROOT, Gunicorn, Sandbox, Server
from upstream import ScriptedUpstream, self_signed

StartGunicorn = Callable[..., Gunicorn]


LONGEST = [
    "proxy/test_deadlines.py",
    "proxy/test_budgets.py",
    "proxy/test_tls.py",
    "proxy/test_faults.py",
    "test_command.py",
    "clients/test_node_clients.py",
    "clients/test_page_browser.py",
    "proxy/test_rude_clients.py",
    "proxy/test_stderr.py",
    "proxy/test_overload.py",
]
"""Files that take long, most of it waiting: they begin first, so that none of several processes is alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_configure() -> None:
    # A run that is ended from outside (a time limit in CI) unwinds like Ctrl-C, so that its servers stop too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # What collection makes is there to stay: looking through it for garbage, then and in each test, takes a third of its time.
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the servers wrote last."""
    report = yield
    if report.failed:
        for server in Server.running:
            tail = "\n".join(server.log().splitlines()[-60:])
            report.sections.append((f"end of the log of {type(server).__name__} on port {server.port}", tail))
    return report


@pytest.fixture(scope="session")
def shared_upstream() -> Iterator[ScriptedUpstream]:
    """The upstream of all shared servers; tests take ``upstream``, which is the same one, cleared."""
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def upstream(shared_upstream: ScriptedUpstream) -> Iterator[ScriptedUpstream]:
    """The scripted upstream, without requests, connections or script of an earlier test."""
    shared_upstream.clear()
    yield shared_upstream
    shared_upstream.clear()


@pytest.fixture
def new_upstream() -> Iterator[Callable[..., ScriptedUpstream]]:
    """A factory for more upstreams, with or without TLS, stopped after the test."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(ScriptedUpstream(*args, **options))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def shared_servers(tmp_path_factory: pytest.TempPathFactory, shared_upstream: ScriptedUpstream) -> Iterator[StartGunicorn]:
    """One server for each set of arguments and settings, started when it is first asked for, stopped after the run.

    It has one worker, unless more are asked for: a start takes most of a second, and half of that again for each further worker.
    """
    servers: dict[object, Gunicorn] = {}
    with ExitStack() as stack:

        def start(*args: str, **settings: Any) -> Gunicorn:
            settings = {"MISTRAL_FILTER_UPSTREAM": shared_upstream.url, "WEB_CONCURRENCY": 1, **settings}
            key = (args, tuple(sorted((name, str(value)) for name, value in settings.items())))
            if key not in servers:
                servers[key] = stack.enter_context(Gunicorn(tmp_path_factory.mktemp("gunicorn"), *args, **settings))
            assert servers[key].process.poll() is None, f"an earlier test ended this server:\n{servers[key].log()}"
            return servers[key]

        yield start
        for server in servers.values():  # all at once: each of them takes a second
            server.process.terminate()


@pytest.fixture
def gunicorn_server(upstream: ScriptedUpstream, shared_servers: StartGunicorn) -> StartGunicorn:
    """``gunicorn_server("-w", "2", MISTRAL_FILTER_READ_TIMEOUT=1)``: a running server in front of ``upstream``.

    Tests share it, so they leave it alive. One that signals or kills its server starts a :class:`Gunicorn` of its own.
    """
    return shared_servers


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The embedded stand-in for Mistral, one for all tests."""
    with Sandbox(tmp_path_factory.mktemp("sandbox")) as server:
        yield server
