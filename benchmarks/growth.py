"""How the filter's time grows with bodies of very many parts. Run: python -m benchmarks.growth

A factor near 2 for twice the parts is linear; near 4 is quadratic, and a way for anybody to stop a server with a small body.
"""

from __future__ import annotations

import json
import time
from typing import Any

from mistral_filter import filter_body

PARTS = 20_000


def bodies(count: int) -> dict[str, bytes]:
    """Requests for chat, by name, of *count* parts each; results are in another order than their calls."""
    user = {"role": "user", "content": "Hi"}

    def call(id: object) -> dict[str, Any]:
        return {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}

    def talk(ids: list[object]) -> bytes:
        calls = {"role": "assistant", "content": None, "tool_calls": [call(id) for id in ids]}
        results = [{"role": "tool", "tool_call_id": id, "content": "r"} for id in reversed(ids)]
        return json.dumps({"model": "m", "messages": [user, calls, *results]}).encode()

    def items(*given: dict[str, Any]) -> bytes:
        return json.dumps({"model": "m", "input": [user, *given]}).encode()

    made = [{"type": "function_call", "call_id": f"c{n}", "name": "f", "arguments": "{}"} for n in range(count)]
    done = [{"type": "function_call_output", "call_id": f"c{n}", "output": "r"} for n in reversed(range(count))]
    said = [{"role": "assistant", "content": "x"} for _ in range(count)]
    return {
        "keys with one repeated": ('{"model":"m","x":1,"x":2,' + ",".join(f'"k{n}":0' for n in range(count)) + "}").encode(),
        "keys written with escapes": ('{"model":"m",' + ",".join(f'"\\u0061{n}" : 0' for n in range(count)) + "}").encode(),
        "calls and results": talk([f"call_{n}" for n in range(count)]),
        "calls without ids": talk([None] * count),
        "calls and results as items": items(*made, *done),
        "texts beside a call as items": items(made[0], *said, done[-1]),
    }


def main() -> None:
    print(f"{'body':30} {PARTS:>8} {2 * PARTS:>8}  factor   ms")
    once, twice = bodies(PARTS), bodies(2 * PARTS)
    for name in once:
        spent = []
        for body in (once[name], twice[name]):
            began = time.process_time()
            filter_body(body)
            spent.append((time.process_time() - began) * 1000)
        print(f"{name:30} {spent[0]:8.0f} {spent[1]:8.0f}  {spent[1] / spent[0]:6.1f}")


if __name__ == "__main__":
    main()
