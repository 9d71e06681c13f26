"""What it costs to look at a stream, and to rewrite it: CPU time per chunk. Run: python -m benchmarks.answers"""

from __future__ import annotations

import json
import time
import timeit
from collections.abc import Callable

from mistral_filter.proxy.answers import Plan, plan

CHUNKS = 1000
ROUNDS = 20


def event(delta: object) -> bytes:
    head = {"id": "0" * 32, "object": "chat.completion.chunk", "created": 1767225600, "model": "magistral-small-latest"}
    chunk = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


CALL = {"id": "a1B2c3D4e", "index": 0, "function": {"name": "search", "arguments": '{"q":'}}
TEXT = event({"content": " word"})
THINKING = event({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": " word"}]}]})

OPENAI = plan("chat", False, "")
LEFT_ALONE = plan("chat", False, "mistral-client-python/3.7.0")
HALVES = [half for _ in range(CHUNKS // 2) for half in (TEXT[:100], TEXT[100:])]

ROWS: list[tuple[str, Plan, list[bytes]]] = [
    ("passed through unlooked", LEFT_ALONE, [TEXT] * CHUNKS),
    ("plain: looked at, nothing to do", OPENAI, [TEXT] * CHUNKS),
    ("plain, ten events a piece", OPENAI, [TEXT * 10] * CHUNKS),
    ("plain, every event cut in two", OPENAI, HALVES),
    ("tool calls, complete", OPENAI, [event({"tool_calls": [{**CALL, "type": "function"}]})] * CHUNKS),
    ("tool calls, type added", OPENAI, [event({"tool_calls": [CALL]})] * CHUNKS),
    ("reasoning, rewritten", OPENAI, [THINKING] * CHUNKS),
]


def read(plan: Plan, pieces: list[bytes]) -> Callable[[], None]:
    def run() -> None:
        for _ in plan.events(iter(pieces)):
            pass

    return run


def main() -> None:
    print(f"{'stream':34} {'CPU µs per piece':>16} {'bytes':>6}")
    for name, ours, pieces in ROWS:
        seconds = min(timeit.repeat(read(ours, pieces), number=1, repeat=ROUNDS, timer=time.process_time))
        print(f"{name:34} {seconds / len(pieces) * 1e6:16.2f} {len(pieces[0]):6}")


if __name__ == "__main__":
    main()
