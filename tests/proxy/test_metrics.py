"""The metrics: what they count, that no caller can make them grow, and that several workers count as one."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from servers import ROOT, Gunicorn, ask, eventually
from upstream import ScriptedUpstream
from werkzeug.test import Client

from mistral_filter.changes import Change
from mistral_filter.errors import CODES
from mistral_filter.proxy.call import call_of
from mistral_filter.proxy.calls import Calls
from mistral_filter.proxy.gunicorn.hooks import on_exit, on_starting
from mistral_filter.proxy.logs import Record, RequestLog
from mistral_filter.proxy.metrics import OUTCOMES, create_metrics

pytest.importorskip("prometheus_client", reason="prometheus_client is missing: pip install 'mistral-filter[metrics]'")

from prometheus_client.parser import text_string_to_metric_families

RECORD = Record("POST", "/v1/chat/completions", "chat", 200, 300, 0.2, "ok", "-")

Samples = dict[tuple[str, frozenset[str]], float]


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)


def samples(text: bytes | str) -> Samples:
    """What Prometheus reads: name and values of the labels, and the number."""
    families = text_string_to_metric_families(text if isinstance(text, str) else text.decode())
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith(("_created", "_bucket"))
    }


def test_requests_are_counted_by_their_labels() -> None:
    """Each record adds to its counters and to its histogram, and an answer is Prometheus' text."""
    observe, render = create_metrics()
    observe(RECORD)
    changes = (Change("drop", "user", "", "none"), Change("drop", "a", ""), Change("drop", "b", ""))
    observe(RECORD._replace(status=499, ended="client_gone", sent=5, seconds=4.0, changes=changes))
    text, kind = render()
    assert kind.startswith("text/plain; version=")
    assert samples(text) == {
        ("mistral_filter_requests_total", frozenset({"POST", "chat", "2xx", "ok"})): 1,
        ("mistral_filter_requests_total", frozenset({"POST", "chat", "4xx", "client_gone"})): 1,
        ("mistral_filter_request_seconds_count", frozenset({"chat"})): 2,
        ("mistral_filter_request_seconds_sum", frozenset({"chat"})): 4.2,
        ("mistral_filter_response_bytes_total", frozenset({"chat"})): 305,
        ("mistral_filter_changes_total", frozenset({"drop", "none"})): 1,
        ("mistral_filter_changes_total", frozenset({"drop", "lost"})): 2,
        ("mistral_filter_log_lines_dropped_total", frozenset()): 0,
    }
    assert b'mistral_filter_request_seconds_bucket{endpoint="chat",le="0.25"} 1.0' in text


DROPPING = """
import logging, sys
from mistral_filter.proxy.logs import configure
from mistral_filter.proxy.metrics import create_metrics
configure("INFO", "text")
observe, render = create_metrics()
for _ in range(3000):
    logging.getLogger("mistral_filter").warning("x" * 1000)
sys.stdout.buffer.write(render()[0])
"""


def test_dropped_log_lines_are_counted(tmp_path: Path) -> None:
    """What standard error did not take is a number: a pipe of 64 KB takes fewer than a hundred lines of 1 KB."""
    reading, writing = os.pipe()
    try:
        environ = {"PYTHONPATH": str(ROOT)}
        ended = subprocess.run([sys.executable, "-c", DROPPING], env=environ, stdout=subprocess.PIPE, stderr=writing, timeout=60)
    finally:
        os.close(reading)
        os.close(writing)
    assert ended.returncode == 0
    assert 2900 <= samples(ended.stdout)["mistral_filter_log_lines_dropped_total", frozenset()] < 3000


def test_no_caller_makes_them_grow() -> None:
    """Whatever methods, paths, ids and outcomes come: they add to the series that are there, and leave nothing of their text."""
    observe, render = create_metrics()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        call_of(environ).outcome = environ["HTTP_X"]
        start_response("404 Not Found", [("X-Request-Id", environ["HTTP_X"])])
        return [b""]

    client = Client(Calls(app, report=RequestLog(observe=observe)))

    def send(number: int) -> Samples:
        for path in ("/CANARY{}", "/v1/models/CANARY{}", "/v1/CANARY{}", "/v1/files/CANARY{}/content", "/explain/CANARY{}"):
            client.open(path.format(number), method=f"CANARY{number}", headers={"X": f"canary_{number}"}, buffered=True)
        return samples(render()[0])

    first = send(1)
    many = [send(number) for number in range(2, 30)][-1]
    assert many.keys() == first.keys()
    assert many["mistral_filter_requests_total", frozenset({"other", "models", "4xx"})] == 29
    assert b"canary" not in render()[0].lower()


def test_two_applications_in_one_process_count_apart() -> None:
    """Making the metrics twice is no error, and one does not see the other's requests."""
    observe, _ = create_metrics()
    observe(RECORD)
    assert samples(create_metrics()[1]()[0]) == {("mistral_filter_log_lines_dropped_total", frozenset()): 0}


def test_every_error_code_is_an_outcome() -> None:
    """A new error has a label of its own: it is not lost among ``other``."""
    assert frozenset(CODES) | {"ok", "error"} == OUTCOMES
    observe, render = create_metrics()
    for code in [*CODES, "of_another_version"]:
        observe(RECORD._replace(ended=code))
    counted = {code for code in [*CODES, "other"] if f'outcome="{code}"'.encode() in render()[0]}
    assert counted == {*CODES, "other"}


# -------------------------------------------------------------------------------------------------------------- several processes


PROCESS = """
import sys
from mistral_filter.proxy.logs import Record
from mistral_filter.proxy.metrics import create_metrics
observe, render = create_metrics()
for _ in range(int(sys.argv[1])):
    observe(Record("POST", "/v1/chat/completions", "chat", 200, 300, 0.2, "ok", "-"))
sys.stdout.buffer.write(render()[0])
"""


def test_processes_count_together(tmp_path: Path) -> None:
    """A process counts what others counted in the same directory, also after they have ended."""
    environ = {"PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def run(count: int) -> Samples:
        command = [sys.executable, "-c", PROCESS, str(count)]
        return samples(subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout)

    key = "mistral_filter_requests_total", frozenset({"POST", "chat", "2xx", "ok"})
    assert run(3)[key] == 3
    assert run(4)[key] == 7
    last = run(0)
    assert last[key] == 7
    assert last["mistral_filter_request_seconds_count", frozenset({"chat"})] == 7


def test_gunicorns_workers_count_together(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """As shipped, every worker tells the sum of all, of killed ones too, and nothing of an earlier run."""
    counts = tmp_path / "counts"
    counts.mkdir()
    (counts / "counter_1.db").write_bytes(b"of an earlier run")
    settings: dict[str, Any] = {
        "MISTRAL_FILTER_UPSTREAM": upstream.url,
        "MISTRAL_FILTER_METRICS": "on",
        "PROMETHEUS_MULTIPROC_DIR": counts,
    }
    key = "mistral_filter_requests_total", frozenset({"GET", "models", "2xx", "ok"})
    with Gunicorn(tmp_path, "-w", "2", **settings) as server, ThreadPoolExecutor(8) as pool:

        def told() -> float:
            return samples(ask(server.port, "GET", "/metrics").body)[key]

        asked = 0

        def both_have_counted() -> bool:
            nonlocal asked
            answers = list(pool.map(lambda _: ask(server.port, "GET", "/v1/models").status, range(16)))
            assert answers == [200] * 16
            asked += 16
            return len(list(counts.glob("histogram_*.db"))) == 2

        eventually(both_have_counted, "both workers to have served a request")
        assert eventually(lambda: told() == asked and told(), "the sum of all requests") == asked
        assert [told() for _ in range(8)] == [asked] * 8
        first, second = server.workers()
        os.kill(first, signal.SIGKILL)
        eventually(lambda: len(server.workers()) == 2 and first not in server.workers(), "another worker")
        os.kill(second, signal.SIGKILL)
        eventually(lambda: len(server.workers()) == 2 and second not in server.workers(), "another worker")
        assert told() == asked
    assert not list(tmp_path.glob("counts/*.db"))


def test_metrics_are_off_by_default(gunicorn_server: Any) -> None:
    """Nobody tells the world its numbers without having asked for it."""
    assert ask(gunicorn_server().port, "GET", "/metrics").status == 404


@pytest.mark.parametrize("others", [True, False])
def test_counts_of_another_master_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: bool) -> None:
    """A new binary (USR2) begins while the workers of the old one still count, and ends before they do if it is given up."""
    monkeypatch.setenv("MISTRAL_FILTER_METRICS", "on")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    monkeypatch.setattr("gc.set_threshold", lambda *_: None)
    monkeypatch.setattr("gc.freeze", lambda: None)
    server = SimpleNamespace(master_pid=7 if others else 0, reexec_pid=0, log=logging.getLogger("test"))
    for hook in (on_starting, on_exit):
        tmp_path.mkdir(exist_ok=True)
        counts = tmp_path / "counter_1.db"
        counts.touch()
        hook(server)
        assert counts.exists() is others
