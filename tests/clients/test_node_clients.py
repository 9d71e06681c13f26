"""Real clients that run in Node: openai's SDK and the AI SDK with three of its providers.

``tests/node/CLIENT.mjs`` makes the calls and prints one JSON line for each; what is expected stands here, one test for each line.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from servers import ROOT, Gunicorn, Sandbox
from test_clients import SAID, WORDS, Lockstep, start_proxy, straight
from test_clients_answers import REFUSALS, THOUGHT
from upstream import Exchange, ScriptedUpstream, json_answer

from mistral_filter.sandbox import RESULT_CAME

Json = dict[str, Any]
Expected = tuple[str, object]
"""The outcome (``ok`` or the class of the error) and the text: a value, or a pattern that has to match all of it."""

NODE = ROOT / "tests" / "node"
OLDEST = 20
"""The first of Node's major versions that the packages in package-lock.json take."""
_NETWORK = re.compile(
    "ENOTFOUND|EAI_AGAIN|ECONN|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|ERR_SOCKET|network|E(401|403|407|5[0-9][0-9])"
)

# -------------------------------------------------------------------------------------------------------- expectations

VECTORS = object()
"""Stands for the vectors that the stand-in gives without a proxy."""

OPENAI: dict[str, Expected] = {
    "plain": ("ok", SAID),
    "changes": ("ok", 'drop;path="user";loss=none'),
    "stream": ("ok", {"text": SAID, "several": True, "usage": True}),
    "tool loop": ("ok", [RESULT_CAME, {"name": "weather", "arguments": '{"city":"Paris"}'}, RESULT_CAME]),
    "tool runner": ("ok", RESULT_CAME),
    "embeddings as floats": ("ok", VECTORS),
    "dimensions": ("ok", 5),
    "models": ("ok", True),
    "responses": ("ok", {"output_text": SAID, "status": "completed", "usage": True}),
    "responses in a stream": ("ok", {"output_text": SAID, "several": True, "same": True}),
    "responses tool loop": ("ok", ["weather", '{"city":"Paris"}', RESULT_CAME]),
    "responses reasoning": ("ok", ["reasoning", THOUGHT, SAID]),
    "responses state": ("BadRequestError", re.compile("400 previous_response_id: .*")),
    "no such path": ("NotFoundError", re.compile("404 Mistral has no /v1/completions. Use /v1/chat/completions .*")),
    "conversation refused": ("BadRequestError", "400 Conversation must have at least one message"),
    "token ids": ("BadRequestError", re.compile("400 input: Mistral embeds text, not token ids. .*")),
    "empty key": ("AuthenticationError", re.compile("401 The Authorization header is empty. .*")),
}
AI: dict[str, Expected] = {
    "plain": ("ok", {"text": SAID, "finishReason": "stop", "usage": True}),
    "stream": ("ok", {"text": SAID, "several": True, "finishReason": "stop"}),
    "tool loop": ("ok", [RESULT_CAME, [["weather", {"city": "Paris"}]], RESULT_CAME]),
    "tool loop in a stream": ("ok", RESULT_CAME),
    "PDF": ("ok", SAID),
    "embeddings": ("ok", VECTORS),
}
AI_RESPONSES: dict[str, Expected] = {
    "responses": ("ok", {"text": SAID, "finishReason": "stop", "usage": True}),
    "responses in a stream": ("ok", {"text": SAID, "several": True, "finishReason": "stop"}),
    "responses tool loop": ("ok", [["9 degrees in Paris"], RESULT_CAME]),
    "responses tool loop in a stream": ("ok", [2, RESULT_CAME]),
    "responses reasoning": ("ok", SAID),
}
REQUESTS: dict[str, dict[str, Expected]] = {
    "openai": OPENAI,
    "ai-openai": {**AI, **AI_RESPONSES},
    "ai-compatible": AI,
    "ai-mistral": AI,
}
"""By client: what needs requests that Mistral accepts."""

ERRORS = {f"error {name}": (refusal.raises.__name__, re.compile(refusal.text)) for name, refusal in REFUSALS.items()}
AI_ERRORS: dict[str, Expected] = {
    **{name: ("APICallError", pattern) for name, (_, pattern) in ERRORS.items()},
    "error in a stream": ("APICallError", ERRORS["error 422 wrapped"][1]),
}
BOTH = {"text": SAID, "reasoningText": THOUGHT}
ANSWERS: dict[str, dict[str, Expected]] = {
    "openai": {
        "embeddings": ("ok", VECTORS),  # as base64, which this SDK asks for by itself
        "request id": ("ok", True),
        "reasoning": ("ok", {"content": SAID, "reasoning_content": THOUGHT}),
        "reasoning in a stream": ("ok", {"content": SAID, "reasoning_content": THOUGHT}),
        "wrong type": ("UnprocessableEntityError", "422 temperature: Input should be a valid number"),
        **{
            name: (kind, re.compile(f"{REFUSALS[name.removeprefix('error ')].status} {pattern.pattern}"))
            for name, (kind, pattern) in ERRORS.items()
        },
    },
    "ai-openai": {
        **AI_ERRORS,
        # This provider reads no reasoning from chat completions.
        "reasoning": ("ok", {"text": SAID}),
        "reasoning in a stream": ("ok", {"text": SAID}),
    },
    "ai-compatible": {**AI_ERRORS, "reasoning": ("ok", BOTH), "reasoning in a stream": ("ok", BOTH)},
    "ai-mistral": {
        **AI_ERRORS,
        # It takes Mistral's flat error only: it shows the status where Mistral sends another one, with and without a proxy.
        **{f"error {name}": ("APICallError", HTTPStatus(422).phrase) for name in ("422 wrapped", "422 bare")},
        "error in a stream": ("APICallError", HTTPStatus(422).phrase),
        "error 403": ("APICallError", "Forbidden"),
        "error 404": ("APICallError", "Not Found"),
        "error 502 HTML": ("APICallError", "Bad Gateway"),
        # generateText sends a user agent of its own in the place of the provider's: nothing tells it from ai-openai.
        "reasoning": ("ok", {"text": SAID}),
        "reasoning in a stream": ("ok", BOTH),
    },
}
"""By client: what needs answers in OpenAI's form."""

# ------------------------------------------------------------------------------------------------------------- running


@pytest.fixture(scope="session")
def packages() -> Path:
    """tests/node with its packages, as package-lock.json has them; skips where they cannot be had."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST:
        pytest.skip(f"Node {version} is too old: the clients need {OLDEST} or newer")
    wanted = hashlib.sha256((NODE / "package-lock.json").read_bytes()).hexdigest()
    stamp = NODE / "node_modules" / ".installed"
    with (NODE / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be installing
        if not stamp.is_file() or stamp.read_text() != wanted:
            command = ["npm", "ci", "--prefix", str(NODE), "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            except subprocess.TimeoutExpired:
                pytest.skip("npm ci did not end within 300 s")
            if done.returncode and _NETWORK.search(done.stderr):
                said = " ".join(line for line in done.stderr.splitlines() if line.startswith("npm error"))
                pytest.skip(f"npm ci could not get the packages: {said[:300]}")
            assert done.returncode == 0, done.stderr
            stamp.write_text(wanted)
    return NODE


Run = Callable[[str, str], dict[str, Json]]


@pytest.fixture(scope="session")
def run(packages: Path, shared_servers: Callable[..., Gunicorn], sandbox: Sandbox, shared_upstream: ScriptedUpstream) -> Run:
    """``run("openai", "classic")``: the lines of a client by their names, with the log of its ``arrival``. Each runs once."""
    known: dict[tuple[str, str], dict[str, Json]] = {}

    def once(client: str, fields: str) -> dict[str, Json]:
        if (client, fields) not in known:
            proxy = start_proxy(shared_servers, sandbox, shared_upstream, fields)
            lockstep = Lockstep()

            def seen(exchange: Exchange) -> None:
                lockstep.seen(exchange.request.json()["seen"])
                json_answer({})(exchange)

            refusals = {name: refusal.script for name, refusal in REFUSALS.items()}
            shared_upstream.script = {**refusals, "lockstep": lockstep, "/seen": seen}
            addresses = [f"{proxy.url}/v1", f"{proxy.url}/scripted/v1", f"{shared_upstream.url}/seen"]
            command = ["node", str(packages / f"{client}.mjs"), *addresses]
            environ = {"PATH": os.environ["PATH"]}
            try:
                done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
            finally:
                shared_upstream.clear()
            assert done.returncode == 0, done.stderr
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            known[client, fields] = {line["name"]: line for line in lines}
            known[client, fields]["arrival"]["log"] = lockstep.log
        return known[client, fields]

    return once


FIELDS = pytest.mark.parametrize("fields", ["classic", "current"])
CLIENTS = pytest.mark.parametrize("client", REQUESTS)


def each(table: dict[str, dict[str, Expected]]) -> pytest.MarkDecorator:
    found = [pytest.param(client, name, id=f"{client}, {name}") for client, names in table.items() for name in names]
    return pytest.mark.parametrize(("client", "name"), found)


def compare(line: Json, expected: Expected, sandbox: Sandbox) -> None:
    outcome, text = expected
    shown = line.get("text")
    assert line["outcome"] == outcome, line
    if text is VECTORS:
        assert shown == [straight(sandbox, "one"), straight(sandbox, "two")]
    elif isinstance(text, re.Pattern):
        assert text.fullmatch(str(shown)), line
    else:
        assert shown == text


# --------------------------------------------------------------------------------------------------------------- tests


@FIELDS
@each(REQUESTS)
def test_a_node_client_is_served(run: Run, sandbox: Sandbox, client: str, name: str, fields: str) -> None:
    """The client's call is accepted, and it makes of the answer what it is to make."""
    compare(run(client, fields)[name], REQUESTS[client][name], sandbox)


@FIELDS
@each(ANSWERS)
def test_a_node_client_reads_the_answer(run: Run, sandbox: Sandbox, client: str, name: str, fields: str) -> None:
    """The client shows Mistral's error, reasoning or vector as one of OpenAI's."""
    compare(run(client, fields)[name], ANSWERS[client][name], sandbox)


@FIELDS
@CLIENTS
def test_a_node_client_receives_each_piece_before_the_next_is_sent(run: Run, client: str, fields: str) -> None:
    """The upstream sends an event only when the client has told that it has the one before: none is held back."""
    line = run(client, fields)["arrival"]
    assert (line["outcome"], line["log"]) == ("ok", Lockstep.expected(WORDS))


@CLIENTS
def test_every_check_of_a_node_client_is_expected(run: Run, client: str) -> None:
    """No check is printed that no test looks at."""
    assert run(client, "classic").keys() == {*REQUESTS[client], *ANSWERS[client], "arrival"}


@CLIENTS
def test_a_node_client_says_when_its_errors_are_worth_another_try(run: Run, client: str) -> None:
    """Status and code are where the client's users look for them."""
    lines = run(client, "classic")
    assert {check: line["status"] for check, line in lines.items() if check in ERRORS} == {
        f"error {error}": refusal.status for error, refusal in REFUSALS.items()
    }
    if client == "openai":
        assert {error for error, refusal in REFUSALS.items() if lines[f"error {error}"]["code"] == refusal.code} >= {
            "400",
            "429",
            "500",
        }
        assert lines["error 422 wrapped"]["param"] == lines["error 422 bare"]["param"] == "messages[0].surname"
    else:
        again = {error for error in REFUSALS if lines[f"error {error}"]["isRetryable"]}
        assert again == {"429", "500", "502 HTML"}


def test_the_lock_file_names_no_registry() -> None:
    """The packages come from whatever registry a machine has."""
    packages = json.loads((NODE / "package-lock.json").read_text())["packages"]
    assert len(packages) > 1
    assert [name for name, package in packages.items() if "resolved" in package] == []
