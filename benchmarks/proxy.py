"""What the whole proxy costs: CPU time, latency and memory of ``gunicorn app:app`` between a load and an upstream on loopback.

Run: python -m benchmarks.proxy [--tls] [--callers N] [--quick] [--only NAME]

One worker, pinned to one core; the upstream and the load, each a process of its own, share another. CPU time is that of the
proxy's process tree as /proc counts it (Linux only). The requests carry the headers that the OpenAI SDK sends, read from
tests/records; with --tls the upstream speaks TLS and the proxy's CA bundle is as long as the one it ships with. Figures only.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.fast_upstream import LENGTH, certificate, serve
from benchmarks.filter import body, conversation

ROOT = Path(__file__).resolve().parent.parent
CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE, LOAD_CORE = CORES[-1], CORES[0]
TICK = os.sysconf("SC_CLK_TCK")
WARM_UP = 0.6  # seconds
ROUTER = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https", "X-Request-Id": "bench", "Connection": "keep-alive"}
"""What the router in front of a proxy adds."""
HEADINGS = "section          callers keys  requests   CPU µs per        p50 ms  RSS MB failed"


class Section(NamedTuple):
    name: str
    messages: list[dict[str, object]]
    callers: int
    seconds: float
    keys: tuple[str, ...] = ("one", "each")
    model: str = "mistral-small-latest"
    """``late-<ms>`` is answered after so long, ``stream-<chunks>-<ms>`` with so many chunks, so long apart."""


SECTIONS = [
    Section("1 KB", conversation(1, 600), 32, 4, ("one", "each", "new")),
    Section("32 KB", conversation(21, 1500), 32, 4),
    Section("256 KB", conversation(499, 455), 32, 4),
    Section("waiting 300 ms", conversation(1, 600), 200, 4, ("one", "each", "new"), "late-300"),
    Section("streams", conversation(1, 600), 50, 4, ("one", "each"), "stream-100-20"),
]


# --------------------------------------------------------------------------------------------------------------- load


class Caller(asyncio.Protocol):
    """One caller on one connection: the next request as soon as the last is answered, until *end*."""

    def __init__(self, requests: Iterator[bytes], end: float, times: list[float], counts: dict[str, int]) -> None:
        self.requests, self.end, self.times, self.counts = requests, end, times, counts
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.received, self.waiting, self.began = bytearray(), True, time.perf_counter()
        self.transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        self.received += data
        head = self.received.find(b"\r\n\r\n") + 4
        length = LENGTH.search(self.received, 0, head)
        if head < 4 or (len(self.received) < head + int(length[1]) if length else not self.received.endswith(b"\r\n0\r\n\r\n")):
            return
        self.times.append(time.perf_counter() - self.began)
        self.counts["chunks"] += self.received.count(b'"delta"')
        self.counts["failed"] += not self.received.startswith(b"HTTP/1.1 200 ")
        self.waiting = False
        if time.perf_counter() < self.end:
            self.send()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.counts["failed"] += self.waiting
        self.done.set_result(None)


def message(section: Section) -> tuple[bytes, bytes]:
    """Head, without Authorization and its last line end, and body of the section's request, as the OpenAI SDK sends it."""
    records = (ROOT / "tests/records/openai-python.jsonl").read_text().splitlines()
    sent = next(record for record in map(json.loads, records) if record["path"] == "/v1/chat/completions")["headers"]
    data = body(section.messages).replace(b'"mistral-small-latest"', b'"%b"' % section.model.encode(), 1)
    headers = {"Host": "localhost", **{name.title(): text for name, text in sent.items()}, **ROUTER, "Content-Length": len(data)}
    del headers["Authorization"]
    lines = [f"{name}: {text}\r\n" for name, text in headers.items()]
    return "".join(["POST /v1/chat/completions HTTP/1.1\r\n", *lines]).encode(), data


def requests(head: bytes, data: bytes, keys: str, caller: int) -> Iterator[bytes]:
    """The requests of one caller: all callers with "one" key, "each" with its own, or a "new" key for each request."""
    for number in itertools.count():
        key = {"one": "bench", "each": f"bench-{caller}", "new": f"bench-{caller}-{number}-{time.monotonic_ns()}"}[keys]
        yield b"%bAuthorization: Bearer %b\r\n\r\n%b" % (head, key.encode(), data)


async def load(port: int, section: Section, keys: str, seconds: float) -> tuple[list[float], dict[str, int]]:
    """Seconds that each request took, and counts of chunks and failures."""
    times: list[float] = []
    counts = {"chunks": 0, "failed": 0}
    head, data = message(section)
    end = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        ours = Caller(requests(head, data, keys, number), end, times, counts)
        await asyncio.get_running_loop().create_connection(lambda: ours, "127.0.0.1", port)
        await ours.done

    await asyncio.gather(*map(caller, range(section.callers)))
    return times, counts


def run_load(port: int, section: Section, keys: str, seconds: float) -> tuple[list[float], dict[str, int]]:
    os.sched_setaffinity(0, {LOAD_CORE})
    return asyncio.run(load(port, section, keys, seconds))


# -------------------------------------------------------------------------------------------------------------- proxy


def tree(root: int) -> list[int]:
    """The process and its descendants."""
    children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
    return [root, *(pid for child in children for pid in tree(int(child)))]


def cpu(root: int) -> float:
    """Seconds of user and system time that the process tree has used, ended children included."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in tree(root)]
    return sum(sum(map(int, stat[11:15])) for stat in stats) / TICK


def memory(root: int) -> float:
    """Resident megabytes of the process tree; what its processes share counts for each."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in tree(root))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def proxy(directory: Path, upstream: str, bundle: str | None) -> Iterator[tuple[int, int]]:
    """The proxy's port and process id, when it answers; its log goes to a file."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), "WEB_CONCURRENCY": "1"}
    environ |= {"MISTRAL_FILTER_UPSTREAM": upstream} | ({"MISTRAL_FILTER_CA_BUNDLE": bundle} if bundle else {})
    command = [sys.executable, "-m", "gunicorn", "app:app", "-b", f"127.0.0.1:{port}"]
    out = (directory / "log").open("wb")
    with out as log, subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log) as process:
        try:
            os.sched_setaffinity(process.pid, {PROXY_CORE})
            end = time.monotonic() + 30
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > end:
                        raise SystemExit((directory / "log").read_text()) from None
                    time.sleep(0.05)
            yield port, process.pid
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tls", action="store_true", help="the upstream speaks TLS, as Mistral does")
    parser.add_argument("--callers", type=int, help="so many at once in every section")
    parser.add_argument("--quick", action="store_true", help="a second for each row")
    parser.add_argument("--only", help="sections whose name begins so")
    options = parser.parse_args()
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        pem, bundle = certificate(Path(name)) if options.tls else (None, None)
        upstream = context.Process(target=serve, args=(listener, LOAD_CORE, pem), daemon=True)
        upstream.start()
        url = f"{'https' if options.tls else 'http'}://localhost:{listener.getsockname()[1]}"
        with proxy(Path(name), url, bundle) as (port, root), ProcessPoolExecutor(1, context) as loader:
            print(f"{url.partition(':')[0]} upstream, Python {sys.version.split()[0]}, proxy on core {PROXY_CORE} of {CORES}")
            print(HEADINGS)
            for section in SECTIONS:
                if not section.name.startswith(options.only or ""):
                    continue
                section = section._replace(callers=options.callers or section.callers)
                for keys in section.keys:
                    loader.submit(run_load, port, section, keys, WARM_UP).result()
                    before = cpu(root)
                    seconds = 1 if options.quick else section.seconds
                    times, counts = loader.submit(run_load, port, section, keys, seconds).result()
                    spent, unit = cpu(root) - before, "chunk" if counts["chunks"] else "request"
                    per = spent * 1e6 / max(1, counts["chunks"] if unit == "chunk" else len(times))
                    p50 = statistics.median(times or [0]) * 1000
                    row = f"{section.name:16} {section.callers:7} {keys:5} {len(times):8} {per:8.0f} {unit:8}"
                    print(f"{row} {p50:8.1f} {memory(root):7.1f} {counts['failed']:6}", flush=True)
        upstream.terminate()
        upstream.join()


if __name__ == "__main__":
    main()
