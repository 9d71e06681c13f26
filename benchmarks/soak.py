"""A soak of bounded length: mixed load with faults against gunicorn and a scripted upstream, all on loopback.

Run: python benchmarks/soak.py [--minutes 5] [--no-tls] [--callers 500] [--clients 24] [--workers 2]

The upstream speaks TLS, behind a CA bundle as long as the one the proxy ships with. Each request carries the key of one of
the *callers*, at random; *clients* requests are under way at once.

It prints what happened, and exits with 1 when file descriptors are not back at the baseline, when the memory of a worker
grew by more than a fifth after the warm-up, when an answer was wrong, or when the server does not serve any more.
"""

from __future__ import annotations

import argparse
import collections
import random
import socket
import struct
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests/tools"), str(ROOT)]

from servers import Answer, BadFraming, Gunicorn, ask, build_request, connect, eventually, read_response  # noqa: E402
from tls import cut  # noqa: E402
from upstream import (  # noqa: E402
    Exchange,
    ScriptedUpstream,
    chain,
    event_bytes,
    extra_bytes_after,
    json_answer,
    no_reply,
    raw,
    reset,
    sse,
    sse_bytes,
    stall,
)

from benchmarks.fast_upstream import certificate  # noqa: E402

CHAT = "/v1/chat/completions"
EVENTS = 20
WARM_UP = 0.2  # of the time: pools, caches and arenas fill
GROWTH = 1.2
MEGABYTE = 1024 * 1024

SETTINGS = {
    "MISTRAL_FILTER_READ_TIMEOUT": 2,
    "MISTRAL_FILTER_BODY_TIMEOUT": 2,
    "MISTRAL_FILTER_SEND_TIMEOUT": 2,
    "MISTRAL_FILTER_HEARTBEAT": 0.5,
    "MISTRAL_FILTER_LOG_LEVEL": "ERROR",
}


def chunks(tag: str) -> list[dict[str, object]]:
    deltas = [{"role": "assistant", "content": ""}, *[{"content": "word "}] * (EVENTS - 1)]  # the role first, as Mistral does
    return [{"tag": tag, "n": n, "choices": [{"index": 0, "delta": delta}]} for n, delta in enumerate(deltas)]


def answer(exchange: Exchange) -> None:
    """What the model's name asks for: ``kind/tag``."""
    request = exchange.request
    if request.path != CHAT:
        json_answer({"size": len(request.body), "cut": request.cut})(exchange)
        return
    kind, _, tag = str(request.model).partition("/")
    stream = [*chunks(tag), "[DONE]"]
    wire = sse_bytes(stream)
    scripts = {
        "stream": lambda: sse(stream, gap=0.01),
        "close": lambda: sse(stream, framing="close"),
        "large": lambda: json_answer({"tag": tag, "data": "x" * 3_000_000}),
        "refused": lambda: json_answer({"detail": "no"}, 400),
        "limited": lambda: json_answer({"message": "slow down"}, 429, [("Retry-After", "1")]),
        "no reply": lambda: no_reply,
        "reset": lambda: reset,
        "garbage": lambda: raw(b"not http\r\n\r\n"),
        "left over": lambda: extra_bytes_after(json_answer({"tag": tag})),
        "cut": lambda: raw(wire[: random.randrange(1, len(wire) - 1)]),
        "cut at once": lambda: chain(raw(wire[: random.randrange(1, len(wire) - 1)]), cut),
        "cut close": lambda: chain(
            sse(stream, framing="close", cut_at=random.randrange(sum(map(len, map(event_bytes, stream))))), cut
        ),
        "stall": lambda: chain(raw(wire[:400]), stall(5)),
        "silence": lambda: stall(5),
        "pause": lambda: chain(raw(wire[:-200]), stall(1.2), raw(wire[-200:]), Exchange.keep_alive),
    }
    scripts.get(kind, lambda: json_answer({"tag": tag}))()(exchange)


WEIGHTS = {
    "plain": 30,
    "stream": 20,
    "close": 4,
    "large": 2,
    "refused": 4,
    "limited": 4,
    "no reply": 3,
    "reset": 3,
    "garbage": 2,
    "left over": 3,
    "cut": 6,
    "cut at once": 3,
    "cut close": 3,  # only TLS tells it from an end
    "stall": 1,
    "silence": 1,
    "pause": 2,
    "upload": 4,
    "cut upload": 3,
    "bad JSON": 3,
    "not HTTP": 2,
    "leaves early": 5,
    "leaves in stream": 5,
    "reads nothing": 1,
    "drips": 1,
    "health": 3,
}

Counts = collections.Counter[tuple[str, str]]


def client(
    port: int, number: int, callers: int, kinds: list[str], until: threading.Event, counts: Counts, wrong: list[str]
) -> None:
    dice = random.Random(number)
    weights = [WEIGHTS[kind] for kind in kinds]
    turn = 0
    while not until.is_set():
        turn += 1
        kind, tag = dice.choices(kinds, weights)[0], f"{number}-{turn}"
        try:
            result = one(port, kind, tag, f"caller-{dice.randrange(callers)}", dice)
        except BadFraming:
            result = "no answer"
        except OSError as error:
            result = type(error).__name__
        except (AssertionError, ValueError, KeyError) as error:
            result = "WRONG"
            wrong.append(f"{kind}: {str(error)[:300]}")
        counts[kind, result] += 1


def one(port: int, kind: str, tag: str, key: str, dice: random.Random) -> str:
    """One request with *key*; returns how it ended. An answer that must not be raises AssertionError."""
    authorization = [("Authorization", f"Bearer {key}")]
    if kind == "health":
        return str(ask(port, "GET", "/health").status)
    if kind == "not HTTP":
        with connect(port) as sock:
            sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length : 3\r\n\r\n")
            return str(read_response(sock).status)
    if kind == "bad JSON":
        response = ask(port, "POST", CHAT, b'{"model": ')
        assert response.status == 400, response
        return "400"
    if kind == "upload":
        data = dice.randbytes(200_000)
        response = ask(port, "POST", "/v1/files", data, authorization)
        assert response.body == b'{"size": 200000, "cut": false}', response
        return "200"
    if kind == "cut upload":
        with connect(port) as sock:
            sock.sendall(build_request("POST", "/v1/files", b"x" * 100_000, authorization)[:-1000])
        return "left"
    model = {"leaves early": "stream", "leaves in stream": "stream", "reads nothing": "large", "drips": "plain"}.get(kind, kind)
    body = {"model": f"{model}/{tag}", "messages": [{"role": "user", "content": "hello " * 20}], "user": "u", "stream": True}
    request = build_request("POST", CHAT, body, authorization)
    with connect(port, 30) as sock:
        if kind == "drips":
            sock.sendall(request[:-20])
            response = read_response(sock)
            assert response.status == 408, response
            return "408"
        sock.sendall(request)
        if kind.startswith("leaves"):
            if kind == "leaves in stream":
                sock.recv(1)
            else:
                time.sleep(dice.choice([0, 0.01, 0.1]))
            if dice.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return "left"
        if kind == "reads nothing":
            time.sleep(2.5)
            return "left"
        answer = Answer(sock)
        content = b"".join(data for _, data in answer.pieces()).replace(b": keep-alive\n\n", b"")
    return judged(kind, tag, answer, content)


def judged(kind: str, tag: str, answer: Answer, content: bytes) -> str:
    whole = b"".join(map(event_bytes, [*chunks(tag), "[DONE]"]))
    shown = f"{answer.status} {answer.complete} {content[:200]!r}"
    if kind in ("plain", "left over", "large"):
        assert answer.status == 200, shown
        assert answer.complete, shown
        assert content.startswith(f'{{"tag": "{tag}"'.encode()), shown
    elif kind in ("stream", "close", "pause"):
        assert answer.status == 200, shown
        assert answer.complete, shown
        assert content == whole, shown
    elif kind in ("cut", "cut at once", "cut close", "stall"):
        assert answer.status in (200, 502, 504), shown
        # what was cut may be no more than the last line end
        assert answer.status != 200 or not answer.complete or content == whole, shown
        begin = content.split(b'data: {"error"')[0]
        assert answer.status != 200 or whole.startswith(begin), shown
    else:
        wanted = {"refused": 400, "limited": 429, "silence": 504}.get(kind, 502)
        assert (answer.status, answer.complete) == (wanted, True), shown
    return f"{answer.status}{'' if answer.complete else ' cut'}"


def memory(server: Gunicorn) -> list[int]:
    """The resident bytes of each worker."""
    sizes = []
    for pid in server.workers():
        with suppress(OSError):
            text = Path(f"/proc/{pid}/status").read_text()
            sizes.append(next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS")))
    return sizes


def settled(server: Gunicorn, upstream: ScriptedUpstream) -> int:
    """The descriptors when nothing is under way and no upstream connection is idle."""
    counts: list[int] = []
    end = time.monotonic() + 10
    while time.monotonic() < end and (len(counts) < 5 or len(set(counts[-4:])) > 1):
        upstream.drop()  # pooled connections that the other side closed are closed here within a second
        time.sleep(0.5)
        counts.append(server.fds())
    return counts[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seconds", type=float, help="instead of minutes")
    parser.add_argument("--tls", action=argparse.BooleanOptionalAction, default=True, help="whether the upstream speaks TLS")
    parser.add_argument("--callers", type=int, default=500, help="how many different keys")
    parser.add_argument("--clients", type=int, default=24, help="how many requests at once")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    seconds = options.seconds or options.minutes * 60
    kinds = [kind for kind in WEIGHTS if options.tls or kind != "cut close"]

    counts: Counts = collections.Counter()
    wrong: list[str] = []
    samples: list[tuple[float, list[int], int]] = []
    until = threading.Event()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        pem, bundle = certificate(Path(directory))
        upstream = stack.enter_context(ScriptedUpstream((Path(pem), Path(pem)) if options.tls else None))
        upstream.script = answer
        url = upstream.url.replace("127.0.0.1", "localhost")
        settings = {**SETTINGS, "MISTRAL_FILTER_UPSTREAM": url, "WEB_CONCURRENCY": options.workers}
        settings |= {"MISTRAL_FILTER_CA_BUNDLE": bundle} if options.tls else {}
        with Gunicorn(Path(directory), **settings) as server:
            workers = server.workers()
            for _ in range(50 * options.workers):
                ask(server.port, "POST", CHAT, {"model": "plain/0", "messages": []})
            baseline = settled(server, upstream)
            began = time.monotonic()
            arguments = [(server.port, number, options.callers, kinds, until, counts, wrong) for number in range(options.clients)]
            threads = [threading.Thread(target=client, args=each) for each in arguments]
            for thread in threads:
                thread.start()
            try:
                while (now := time.monotonic() - began) < seconds:
                    samples.append((now, memory(server), server.fds()))
                    time.sleep(min(1.0, seconds / 20))
                    with upstream._changed:
                        upstream._requests.clear()  # the record would grow without end
            finally:
                until.set()
                for thread in threads:
                    thread.join()
            after = settled(server, upstream)
            served = ask(server.port, "POST", CHAT, {"model": "plain/end", "messages": []}).status == 200
            same = server.workers() == workers
            eventually(lambda: memory(server), "the workers")
            samples.append((time.monotonic() - began, memory(server), after))

    warm = next(sample for sample in samples if sample[0] >= seconds * WARM_UP)
    return report(seconds, counts, wrong, samples, warm, baseline, after, served and same)


def report(
    seconds: float,
    counts: Counts,
    wrong: list[str],
    samples: list[tuple[float, list[int], int]],
    warm: tuple[float, list[int], int],
    baseline: int,
    after: int,
    alive: bool,
) -> int:
    total = sum(counts.values())
    print(f"{total} requests in {seconds:.0f} s, {total / seconds:.0f} a second\n")
    print(f"{'kind':18} {'requests':>9}  how they ended")
    for kind in WEIGHTS:
        ends = {result: count for (name, result), count in sorted(counts.items()) if name == kind}
        print(f"{kind:18} {sum(ends.values()):9}  {', '.join(f'{result}: {count}' for result, count in ends.items())}")
    print(f"\n{'':18} {'second':>7} {'RSS of each worker, MB':>26} {'descriptors':>12}")
    rows = {"start": samples[0], "warm": warm, "middle": samples[len(samples) // 2]}
    rows |= {"last under load": samples[-2], "end": samples[-1]}
    for name, (second, sizes, descriptors) in rows.items():
        megabytes = " ".join(f"{size / MEGABYTE:.1f}" for size in sizes)
        print(f"{name:18} {second:7.0f} {megabytes:>26} {descriptors:12}")
    print(f"{'baseline':18} {'':7} {'':26} {baseline:12}\n")
    growth = max(samples[-1][1]) / max(warm[1])
    failures = [f"{len(wrong)} answers were wrong, such as", *wrong[:5]] if wrong else []
    if growth > GROWTH:
        failures.append(f"memory grew to {growth:.0%} of what it was after the warm-up")
    if after > baseline:
        failures.append(f"{after} descriptors are open, {baseline} at the start")
    if not alive:
        failures.append("a worker died, or the server does not serve any more")
    print("\n".join(failures) or f"good: memory at {growth:.0%} of what it was after the warm-up, descriptors at {after}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
