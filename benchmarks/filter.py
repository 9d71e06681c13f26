"""What the filter costs, beside the standard library's parse and write. Run: python -m benchmarks.filter

Bodies of 1 KB, 32 KB, 256 KB (500 messages) and 5 MB (an image), each with five fields that Mistral does not take; 30 tools of
1 KB, and 100 messages with tool calls.
"""

from __future__ import annotations

import base64
import json
import random
import timeit
from collections.abc import Callable
from functools import partial

from mistral_filter import filter_body

DICE = random.Random(7)
WORDS = 'the model answer token stream naïve café 数据 поток 🙂 quote " backslash \\ newline'.split(" ")
EXTRA = {"frequency_penalty": 0.1, "presence_penalty": -0.25, "logit_bias": {"50256": -100}, "user": "u", "stream_options": {}}


def text(size: int) -> str:
    words: list[str] = []
    while size > 0:
        words.append(DICE.choice(WORDS))
        size -= len(words[-1].encode()) + 1
    return " ".join(words)


def body(messages: list[dict[str, object]], **more: object) -> bytes:
    request = {"model": "mistral-small-latest", "messages": messages, "temperature": 0.7, "max_tokens": 256, **EXTRA, **more}
    return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode()


def conversation(count: int, size: int) -> list[dict[str, object]]:
    return [{"role": "assistant" if i % 2 else "user", "content": text(size)} for i in range(count)]


def image(size: int) -> list[dict[str, object]]:
    url = "data:image/png;base64," + base64.b64encode(DICE.randbytes(size * 3 // 4)).decode()
    parts = [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


def tools(count: int, size: int) -> list[dict[str, object]]:
    parameters = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    function = {"name": "look_up", "description": text(size), "parameters": parameters}
    return [{"type": "function", "function": function} for _ in range(count)]


def turns(count: int) -> list[dict[str, object]]:
    talk: list[dict[str, object]] = []
    for number in range(count):
        call = {"id": f"call_{number}", "type": "function", "function": {"name": "look_up", "arguments": '{"a":"b"}'}}
        talk += [
            {"role": "user", "content": text(100)},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": text(200)},
            {"role": "assistant", "content": text(200)},
        ]
    return [*talk, {"role": "user", "content": "go on"}]


BODIES = {
    "1 KB": conversation(1, 600),
    "32 KB": conversation(21, 1500),
    "256 KB, 500 messages": conversation(499, 455),
    "5 MB image": image(5 << 20),
}


def microseconds(work: Callable[[], object], seconds: float = 0.2) -> float:
    timer = timeit.Timer(work)
    count = max(1, int(seconds / max(timer.timeit(1), 1e-6)))
    return min(timer.repeat(5, count)) / count * 1e6


def parse_and_write(raw: bytes) -> str:
    return json.dumps(json.loads(raw))


def main() -> None:
    print(f"{'body':24} {'bytes':>9} {'classic':>9} {'current':>9} {'lists only':>10} {'json':>9}   µs, best of 5")
    requests = {name: body(messages) for name, messages in BODIES.items()}
    requests["30 tools of 1 KB"] = body(conversation(1, 100), tools=tools(30, 900))
    requests["100 messages, 25 calls"] = body(turns(25))
    for name, raw in requests.items():
        figures = (
            microseconds(partial(filter_body, raw, fields="classic")),
            microseconds(partial(filter_body, raw, fields="current")),
            microseconds(partial(filter_body, raw, translate=False)),
            microseconds(partial(parse_and_write, raw)),
        )
        print(f"{name:24} {len(raw):9} {figures[0]:9.0f} {figures[1]:9.0f} {figures[2]:10.0f} {figures[3]:9.0f}")


if __name__ == "__main__":
    main()
