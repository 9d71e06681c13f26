"""What the filter's work on one body is bounded by. Run: python -m benchmarks.growth [MEGABYTES ...]

Each kind of body is made of very many small parts. For each size the time and the memory are measured in a process of its own,
beside ``json.loads`` of the same bytes, and for each kind the largest body that is not refused as too complex is looked for: the
dearest that anybody can send. A kind fails when the filter takes more than ``json.loads`` and half a second, or more memory than
four bodies and 4 MiB (and 3 MB for what the allocator adds).
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mistral_filter import MistralFilterError, filter_body
from mistral_filter.document import ROOM, ROOM_FOR_EACH_BYTE

USER = '{"role":"user","content":"Hi"}'
SECONDS = 0.5
MEGABYTE = 1_000_000
ALLOCATOR = 3 * MEGABYTE


def repeated(item: str) -> Callable[[int], str]:
    return lambda count: ",".join([item]) + f",{item}" * (count - 1)


def numbered(item: str) -> Callable[[int], str]:
    return lambda count: ",".join(item.replace("#", str(n)) for n in range(count))


def messages(items: Callable[[int], str], before: str = USER + ",") -> Callable[[int], str]:
    return lambda count: f'{{"model":"m","messages":[{before}{items(count)}]}}'


def field(name: str, items: Callable[[int], str], around: str = "[%s]") -> Callable[[int], str]:
    return lambda count: f'{{"model":"m","messages":[{USER}],"{name}":{around % items(count)}}}'


def one_message(start: str, items: Callable[[int], str], end: str) -> Callable[[int], str]:
    return lambda count: f'{{"model":"m","messages":[{start}{items(count)}{end},{USER}]}}'


CALLS = '{"role":"assistant","content":null,"tool_calls":['
CALL = '{"id":"call_#","type":"function","function":{"name":"f","arguments":"{}"}}'
RESULT = '{"role":"tool","tool_call_id":"call_#","content":"r"}'


def calls_and_results(count: int) -> str:
    backwards = ",".join(RESULT.replace("#", str(n)) for n in reversed(range(count)))
    return f'{{"model":"m","messages":[{USER},{CALLS}{numbered(CALL)(count)}]}},{backwards},{USER}]}}'


def calls_and_nameless(count: int) -> str:
    results = ",".join(['{"role":"tool"}'] * count)
    return f'{{"model":"m","messages":[{USER},{CALLS}{numbered(CALL)(count)}]}},{results}]}}'


def turns(count: int) -> str:
    one = f"{USER},{CALLS}{CALL}]}},{RESULT}" + ',{"role":"assistant","content":"A","name":"n","refusal":null}'
    return messages(numbered(one))(count)


def results_at_the_end(count: int) -> str:
    results = ",".join(RESULT.replace("#", str(n)) for n in range(count))
    return f'{{"model":"m","messages":[{USER},{numbered(f"{CALLS}{CALL}]}},{USER}")(count)},{results}]}}'


LEGACY = '{"role":"assistant","function_call":{"name":"f"}}'
LEGACY_RESULT = '{"role":"function","name":"f"}'
ONE_ID = CALL.replace("#", "1")

ITEM = '{"type":"function_call","call_id":"c#","name":"f","arguments":"{}"}'
UNKNOWN = '{"type":"x"}'
TEXT = '{"role":"assistant","content":"x"}'
DONE = '{"type":"function_call_output","call_id":"c#","output":"r"}'

KINDS: dict[str, Callable[[int], str]] = {
    "turns with tools": turns,
    "calls and results": calls_and_results,
    "results at the end": results_at_the_end,
    "calls without results": messages(numbered(f"{CALLS}{CALL}]}},{USER}")),
    "calls with one id without results": messages(repeated(f"{CALLS}{ONE_ID},{ONE_ID}]}}")),
    "results for one call": messages(repeated(RESULT.replace("#", "1")), f"{USER},{CALLS}{ONE_ID}]}},"),
    "legacy results at the end": lambda count: messages(lambda n: f"{repeated(LEGACY)(n)},{repeated(LEGACY_RESULT)(n)}")(count),
    "names of tools": field("tools", numbered('{"type":"function","function":{"name":"a.#","parameters":{}}}')),
    "names of calls": one_message(CALLS, numbered('{"function":{"name":"a.#"}}'), "]}"),
    "empty tool calls": one_message(CALLS, repeated("{}"), "]}"),
    "tool calls without ids": one_message(CALLS, repeated('{"function":{"name":"f"}}'), "]}"),
    "custom calls": one_message(CALLS, repeated('{"type":"custom","custom":{}}'), "]}"),
    "orphan results": messages(repeated('{"role":"tool","tool_call_id":"x"}')),
    "results without ids": messages(repeated('{"role":"tool"}')),
    "results without ids behind their calls": calls_and_nameless,
    "turns with results without ids": messages(numbered(f'{CALLS}{CALL}]}},{{"role":"tool"}},{{"role":"tool","name":"f"}}')),
    "legacy calls": messages(repeated('{"role":"assistant","function_call":{}}')),
    "empty messages": messages(repeated("{}")),
    "empty answers": messages(repeated('{"role":"assistant"}')),
    "plain messages": messages(repeated(USER)),
    "spaced messages": messages(repeated('{"role" : "user","content":"" }')),
    "lists for messages": messages(repeated("[]")),
    "lists of messages": messages(repeated("[{}]")),
    "numbers for messages": messages(repeated("0")),
    "unknown fields of a message": one_message('{"role":"user","content":"",', numbered('"k#":0'), "}"),
    "unknown fields of messages": messages(repeated('{"role":"user","content":"","x":0}')),
    "repeated keys": lambda count: f'{{"model":"m",{repeated(chr(34) + "x" + chr(34) + ":0")(count)}}}',
    "repeated keys of messages": messages(repeated('{"role":"user","role":"user"}')),
    "keys with escapes": lambda count: '{"model":"m",' + numbered('"\\u0061#":0')(count) + "}",
    "parts": one_message('{"role":"user","content":[', repeated('{"type":"text","text":""}'), "]}"),
    "empty parts": one_message('{"role":"user","content":[', repeated("{}"), "]}"),
    "parts that change": one_message('{"role":"user","content":[', repeated('{"type":"input_text"}'), "]}"),
    "parts that move": one_message('{"role":"tool","content":[', repeated('{"type":"image_url"}'), "]}"),
    "thoughts": one_message('{"role":"user","content":[{"type":"thinking","thinking":[', repeated("{}"), "]}]}"),
    "nested lists of parts": one_message('{"role":"user","content":[', repeated("[[[]]]"), "]}"),
    "lists of parts": one_message('{"role":"user","content":[', repeated("[{}]"), "]}"),
    "functions": field("functions", repeated("{}")),
    "functions with names": field("functions", repeated('{"name":"f"}')),
    "namespaces": field("tools", numbered('{"type":"namespace","name":"n#","tools":[{"name":"f"}]}')),
    "tools in a namespace": field("tools", numbered('{"name":"f#"}'), '[{"type":"namespace","name":"n","tools":[%s]}]'),
    "flat tools": field("tools", repeated('{"name":"f"}')),
    "empty tools": field("tools", repeated("{}")),
    "unknown tools": field("tools", repeated('{"type":"x"}')),
    "allowed tools": field("tool_choice", repeated("{}"), '{"type":"allowed_tools","tools":[%s]}'),
    "prediction": field("prediction", repeated("{}"), '{"content":[%s]}'),
    "stop": field("stop", repeated('""')),
    "metadata": field("metadata", repeated("[]")),
    "nested metadata": field("metadata", repeated("[[[[[[]]]]]]")),
    "deep lists": field("metadata", lambda count: "[" * count + "]" * count, "%s"),
    "open brackets": lambda count: "[" * count,
    "open objects": lambda count: '{"":[' * count,
    "items": lambda count: f'{{"model":"m","input":[{repeated("{}")(count)}]}}',
    "items of unknown types": lambda count: f'{{"model":"m","input":[{repeated(UNKNOWN)(count)}]}}',
    "calls and results as items": lambda count: f'{{"model":"m","input":[{numbered(ITEM)(count)},{numbered(DONE)(count)}]}}',
    "calls of chat as items": lambda count: f'{{"model":"m","input":[{numbered(f"{CALLS}{CALL}]}}")(count)}]}}',
    "texts beside a call as items": lambda count: f'{{"model":"m","input":[{ITEM},{repeated(TEXT)(count)},{DONE}]}}',
    "half emoji": one_message('{"role":"user","content":"', lambda count: "\\ud83d" * count, '"}'),
    "escapes beside half an emoji": one_message('{"role":"user","content":"\\ud83d', lambda count: "\\n" * count, '"}'),
    "private characters beside half an emoji": one_message(
        '{"role":"user","content":"\\ud83d', lambda count: "\ue000" * count, '"}'
    ),
    "commas in text": messages(repeated('{"role":"user","content":"' + ",,[{," * 20000 + '","name":"n"}')),
    "quotes in text": messages(repeated('{"role":"user","content":"' + '\\"[' * 20000 + '","name":"n"}')),
}


def peak() -> int:
    """The most memory that this process has had so far, in bytes (Linux; getrusage would count the parent's before exec)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert found is not None
    return int(found[1]) * 1024


def outcome() -> tuple[str, int, float, float, int]:
    """What becomes of the body on stdin: the outcome, its bytes, seconds of the filter and of json.loads, and memory taken."""
    body = sys.stdin.buffer.read()
    before = peak()
    began = time.process_time()
    result = "kept"
    try:
        if filter_body(body).changes:
            result = "changed"
    except MistralFilterError as error:
        result = str(error.code)
    spent = time.process_time() - began
    memory = peak() - before
    began = time.process_time()
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(body)
    return result, len(body), spent, time.process_time() - began, memory


def measured(kind: str, count: int) -> tuple[str, int, float, float, int]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", "--one"]
    ended = subprocess.run(command, input=KINDS[kind](count).encode(), capture_output=True, check=True)
    result, size, spent, loads, memory = json.loads(ended.stdout)
    return result, size, spent, loads, memory


def sized(kind: str, size: int) -> int:
    """How many parts make a body of about *size* bytes."""
    each = (len(KINDS[kind](1001).encode()) - len(KINDS[kind](1).encode())) / 1000
    return max(1, int(size / each))


def most(kind: str, size: int) -> int:
    """The most parts that a body of at most *size* bytes may have before it is too complex."""
    low, high = 1, sized(kind, size)
    while high - low > low // 50 + 1:
        middle = (low + high) // 2
        try:
            filter_body(KINDS[kind](middle).encode())
        except MistralFilterError as error:
            if error.code in ("too_complex", "json_too_deep"):
                high = middle
                continue
        low = middle
    return low


def show(kind: str, count: int) -> bool:
    result, size, spent, loads, memory = measured(kind, count)
    good = spent < loads + SECONDS and memory < (ROOM_FOR_EACH_BYTE + 1) * size + ROOM + ALLOCATOR
    print(
        f"{kind:40} {count:>9} {size / MEGABYTE:6.1f} {spent * 1000:7.0f} {loads * 1000:7.0f} {memory / MEGABYTE:7.1f}  {result}"
        + ("" if good else "  TOO MUCH"),
        flush=True,
    )
    return good


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(outcome()))
        return
    sizes = [float(size) for size in sys.argv[1:]] or [3.0, 24.0]
    print(f"{'kind':40} {'parts':>9} {'MB':>6} {'ms':>7} {'json ms':>7} {'+MB':>7}  outcome")
    good = True
    for kind in KINDS:
        for size in sizes:
            good &= show(kind, sized(kind, int(size * MEGABYTE)))
        good &= show(kind, most(kind, int(max(sizes) * MEGABYTE)))
    sys.exit(not good)


if __name__ == "__main__":
    main()
