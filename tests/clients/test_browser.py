"""A page in a real browser, on another origin than the proxy: what its scripts can send, and what they can read.

The page is served by a little server of its own, to which it also posts what it found. Skipped without Chromium.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cdp import FLAGS, chromium
from servers import DEADLINE, Gunicorn, Sandbox, alive, ask, eventually, free_port
from test_clients import KEY, MODEL, SAID, USER, WORDS, Lockstep, chunk, completion, start_proxy, straight
from test_clients_answers import REFUSALS, THOUGHT
from test_node_clients import packages
from upstream import ScriptedUpstream, json_answer

__all__ = ["chromium", "packages"]  # fixtures

Json = dict[str, Any]

PREFLIGHTED = (
    "x-stainless-lang x-stainless-package-version x-stainless-os x-stainless-arch x-stainless-runtime "
    "x-stainless-runtime-version x-stainless-retry-count x-stainless-timeout x-stainless-helper-method "
    "openai-organization openai-project http-referer x-title x-api-key cache-control"
).split()
"""What clients in pages ask leave for, beside authorization and content-type."""

RATES = {
    "x-ratelimit-limit-req-minute": "60",
    "x-ratelimit-remaining-req-minute": "59",
    "x-ratelimit-remaining-tokens-minute": "1000",
    "x-ratelimit-limit-tokens-month": "9",
    "retry-after": "7",
    "retry-after-ms": "7000",
    "x-should-retry": "true",
    "mistral-correlation-id": "f00",
}
"""What Mistral tells in headers, or may."""
LIMITS = {"x-ratelimit-limit-req-minute": "60", "x-ratelimit-remaining-req-minute": "0"}
"""Of what the stand-in tells with its 429."""
MISTRALS_CORS = [("Access-Control-Allow-Origin", "*"), ("Access-Control-Expose-Headers", "x-kong"), ("Set-Cookie", "__cf_bm=1")]

COMMON = """<!doctype html><title>a chat client</title>
<script type="importmap">{"imports": {"openai": "/openai/index.mjs"}}</script>
<script type="module">
const given = GIVEN;
const post = (path, value) => fetch(path, {method: "POST", body: JSON.stringify(value)});
const found = {};
const check = async (name, run) => {
  try { found[name] = await run(); } catch (error) { found[name] = {thrown: error.name, message: error.message}; }
};
await check("the page itself", async () => {
"""
PLAIN = """
const headers = {authorization: "Bearer none", "content-type": "application/json"};
const more = Object.fromEntries(given.preflighted.map((name) => [name, "x"]));
const chat = (base, body, options = {}) => fetch(base + "/chat/completions", {
  method: "POST", headers, body: typeof body === "string" ? body : JSON.stringify({messages: [given.user], ...body}), ...options,
});
const read = async (answer) => ({
  status: answer.status, headers: Object.fromEntries(answer.headers), body: await answer.json(),
});
async function pieces(answer, report) {
  const texts = [], reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const events = (held + part.value).split("\\n\\n");
      held = events.pop();
      for (const event of events) {
        const data = event.slice("data: ".length);
        const text = data === "[DONE]" ? "" : JSON.parse(data).choices?.[0].delta.content ?? JSON.parse(data).error.code;
        texts.push(text);
        if (text && report) await post("/seen", [report, text]);
      }
    }
  } catch (error) { texts.push(error.name); }
  return {type: answer.headers.get("content-type"), texts};
}

const all = {headers: {...headers, ...more}};
await check("plain", async () => read(await chat(given.proxy, {model: given.model, user: "me"}, all)));
await check("stream", async () => pieces(await chat(given.proxy, {model: given.model, stream: true})));
await check("arrival", async () => pieces(await chat(given.scripted, {model: "arrival", stream: true}), "arrival"));
await check("cut", async () => pieces(await chat(given.scripted, {model: "cut", stream: true}), "cut"));
await check("headers", async () => read(await chat(given.scripted, {model: "headers"})));
for (const name of given.refusals) await check(`error ${name}`, async () => read(await chat(given.scripted, {model: name})));
await check("no key", async () => read(await chat(given.proxy, {}, {headers: {"content-type": "application/json"}})));
await check("empty key", async () => read(await chat(given.proxy, {}, {headers: {...headers, authorization: "Bearer"}})));
await check("not JSON", async () => read(await chat(given.proxy, "{")));
await check("too large", async () => read(await chat(given.named, {model: given.model, pad: "x".repeat(5000)})));
await check("upstream down", async () => read(await chat(given.down, {model: given.model})));
await check("not found", async () => read(await fetch(given.root + "/elsewhere", {headers})));
await check("GET", async () => read(await fetch(given.proxy + "/chat/completions", {headers})));
await check("DELETE", async () => read(await fetch(given.scripted + "/files/1", {method: "DELETE", headers})));
await check("models", async () => read(await fetch(given.proxy + "/models", {headers})));
await check("upload", async () => {
  const body = new FormData();
  body.append("purpose", "ocr");
  body.append("file", new Blob(["text"]), "a.txt");
  return read(await fetch(given.scripted + "/files", {method: "POST", headers: {authorization: "Bearer none"}, body}));
});
await check("named origin", async () => read(await chat(given.named, {model: given.model})));
await check("named origin, error", async () => read(await chat(given.named, "{")));
await check("other origin", async () => read(await chat(given.other, {model: given.model})));
await check("other origin, no preflight", async () => read(await fetch(given.other + "/models")));
"""
SDK = """
const {default: OpenAI} = await import("openai");
const client = new OpenAI({baseURL: given.proxy, apiKey: "none", dangerouslyAllowBrowser: true, maxRetries: 0});
const {completions} = client.chat, messages = [given.user];
const shown = async (promise) => {
  try { await promise; } catch (error) {
    const headers = Object.fromEntries(error.headers ?? []);
    return {name: error.constructor.name, status: error.status, message: error.message, headers};
  }
};
await check("plain", async () => {
  const {data, request_id, response} = await completions.create({model: given.model, messages, user: "me"}).withResponse();
  const changes = response.headers.get("mistral-filter-changes");
  return {text: data.choices[0].message.content, changes, request: Boolean(request_id)};
});
await check("stream", async () => {
  const texts = [];
  for await (const chunk of await completions.create({model: given.thinker, messages, stream: true})) {
    texts.push(chunk.choices[0].delta);
  }
  const all = (key) => texts.map((delta) => delta[key] ?? "").join("");
  return {content: all("content"), reasoning: all("reasoning_content")};
});
await check("embeddings", async () => {
  const answer = await client.embeddings.create({model: "mistral-embed", input: ["one"]});
  return Array.from(answer.data[0].embedding);
});
await check("models", async () => (await client.models.list()).data.map((model) => model.id));
await check("error", () => shown(completions.create({model: given.model, messages, temperature: "hot"})));
for (const key of ["wrong", "limit", "broken"]) {
  const other = client.withOptions({apiKey: key}).chat.completions, question = {model: given.model, messages, stream: true};
  await check(key, () => shown((async () => { for await (const chunk of await other.create(question)); })()));
}
await check("stop", async () => {
  const texts = [], stream = await completions.create({model: given.model, messages, stream: true});
  for await (const chunk of stream) {
    texts.push(chunk.choices[0].delta.content ?? "");
    stream.controller.abort();
  }
  return texts.length;
});
"""
END = """
});
await post("/done", found);
</script>
"""


class Page:
    """The server of the page: it gives the page, the SDK's files, and takes what the page posts."""

    def __init__(self, files: Path | None = None) -> None:
        self.html = ""
        self.seen: Callable[[Any], None] = lambda value: None
        self.found: Json | None = None
        files, page = files and files.resolve(), self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                inside = files and (files / self.path.removeprefix("/openai/")).resolve()
                if self.path == "/":
                    self.answer("text/html", page.html.encode())
                elif inside and self.path.startswith("/openai/") and inside.is_file() and inside.is_relative_to(files):
                    self.answer("text/javascript", inside.read_bytes())
                else:
                    self.send_error(404)

            def do_POST(self) -> None:
                value = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.answer("text/plain", b"")
                if self.path == "/done":
                    page.found = value
                else:
                    page.seen(value)

            def answer(self, kind: str, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="page")
        self._thread.start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join(DEADLINE)
        self._server.server_close()

    def browse(self, chromium: str, directory: Path, script: str, **given: object) -> Json:
        """Open the page with *script* in it; what the script found."""
        self.html = COMMON.replace("GIVEN", json.dumps(given)) + script + END
        environ = {"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8"}
        with (directory / "chromium.log").open("w+") as log:
            process = subprocess.Popen(
                [chromium, *FLAGS, "--enable-logging=stderr", f"--user-data-dir={directory}/profile", self.origin],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                eventually(lambda: self.found is not None or process.poll() is not None, "the page to be done", 60)
                assert self.found is not None, "the browser ended by itself"
            except AssertionError as exc:
                log.seek(0)
                raise AssertionError(f"{exc}\n{log.read()[-3000:]}") from None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # the group that it leads: all its helpers
                process.wait(DEADLINE)
        assert not alive(process.pid)
        assert self.found.pop("the page itself", None) is None
        return self.found


@pytest.fixture(scope="module")
def servers(
    shared_servers: Callable[..., Gunicorn], sandbox: Sandbox, shared_upstream: ScriptedUpstream
) -> Iterator[tuple[Page, Callable[[str], Gunicorn]]]:
    """The page, and a proxy for an origin that may use it."""
    named = f"scripted={shared_upstream.url} down=http://127.0.0.1:{free_port()}"

    def start(origin: str) -> Gunicorn:
        return shared_servers(
            MISTRAL_FILTER_UPSTREAM=sandbox.url,
            MISTRAL_FILTER_UPSTREAMS=named,
            MISTRAL_FILTER_CORS_ORIGINS=origin,
            MISTRAL_FILTER_MAX_BODY="4k",
        )

    with Page() as page:
        yield page, start


@pytest.fixture(scope="module")
def other(servers: tuple[Page, Callable[[str], Gunicorn]]) -> Gunicorn:
    """A proxy that is for another origin than the page's."""
    return servers[1]("https://chat.example.com")


@pytest.fixture(scope="module")
def steps() -> dict[str, Lockstep]:
    """The streams of which the page tells what it has, by the name of the check: the second is cut after its only event."""
    return {"arrival": Lockstep(), "cut": Lockstep([chunk(role="assistant", content="Half")], None)}


@pytest.fixture(scope="module")
def found(
    chromium: str,
    servers: tuple[Page, Callable[[str], Gunicorn]],
    other: Gunicorn,
    steps: dict[str, Lockstep],
    shared_servers: Callable[..., Gunicorn],
    sandbox: Sandbox,
    shared_upstream: ScriptedUpstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Json:
    """What the page's script found, by the name of its check."""
    page, start = servers
    proxy, named = start_proxy(shared_servers, sandbox, shared_upstream, "classic"), start(page.origin)
    told = [*RATES.items(), *MISTRALS_CORS]
    shared_upstream.script = {
        **{name: refusal.script for name, refusal in REFUSALS.items()},
        "429": json_answer(REFUSALS["429"].body, 429, told),
        "headers": json_answer(completion(), 200, told),
        **steps,
        "/v1/files/1": json_answer({"deleted": True}),
    }
    page.seen = lambda value: steps[value[0]].seen(value[1])
    try:
        return page.browse(
            chromium,
            tmp_path_factory.mktemp("chromium"),
            PLAIN,
            root=proxy.url,
            proxy=f"{proxy.url}/v1",
            scripted=f"{proxy.url}/scripted/v1",
            down=f"{named.url}/down/v1",
            named=f"{named.url}/v1",
            other=f"{other.url}/v1",
            preflighted=PREFLIGHTED,
            refusals=list(REFUSALS),
            model=MODEL,
            user=USER,
        )
    finally:
        shared_upstream.clear()


def error_of(answer: Json) -> tuple[int, str | None]:
    return answer["status"], answer["body"]["error"]["code"]


def test_a_page_may_send_what_clients_send(found: Json) -> None:
    """A request with a key, JSON and every header that clients add passes the preflight and gets its answer."""
    assert found["plain"]["status"] == 200
    assert found["plain"]["body"]["choices"][0]["message"]["content"] == SAID


def test_a_page_may_read_our_headers(found: Json) -> None:
    """The report of changes and the request's id are among the headers that a script sees."""
    headers = found["plain"]["headers"]
    assert headers["mistral-filter-changes"] == 'drop;path="user";loss=none'
    assert headers["x-request-id"] == headers["mistral-correlation-id"]


@pytest.mark.parametrize("name", ["headers", "error 429"])
def test_a_page_may_read_mistrals_headers(found: Json, name: str) -> None:
    """Limits, waiting times and the id are readable, although Mistral's own CORS headers name others."""
    headers = found[name]["headers"]
    assert {header: headers.get(header) for header in RATES} == RATES
    assert headers["x-request-id"] == RATES["mistral-correlation-id"]


def test_a_page_reads_a_stream(found: Json) -> None:
    """A streamed answer is read in pieces, as what it is."""
    assert found["stream"]["type"].startswith("text/event-stream")
    assert "".join(found["stream"]["texts"]) == SAID
    assert len(list(filter(None, found["stream"]["texts"]))) > 1


def test_a_page_receives_each_piece_before_the_next_is_sent(found: Json, steps: dict[str, Lockstep]) -> None:
    """The upstream sends an event only when the page has told that it has the one before: none is held back."""
    assert "".join(found["arrival"]["texts"]) == "".join(WORDS)
    assert steps["arrival"].log == Lockstep.expected(WORDS)


def test_a_page_notices_a_stream_that_was_cut(found: Json) -> None:
    """A stream that breaks is not a whole one: the reader throws, with the error event before it or in its place."""
    texts = found["cut"]["texts"]
    assert texts[0] == "Half"
    assert texts[1:] in (["upstream_cut", "TypeError"], ["TypeError"])  # a browser drops what no script has read by then


@pytest.mark.parametrize("name", REFUSALS)
def test_a_page_reads_mistrals_errors(found: Json, name: str) -> None:
    """The status and the JSON of an upstream's error reach the script, not an opaque failure."""
    answer = found[f"error {name}"]
    assert answer["status"] == REFUSALS[name].status
    assert answer["body"]["error"]["message"]


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("empty key", 401, "invalid_api_key"),
        ("not JSON", 400, "invalid_json"),
        ("named origin, error", 400, "invalid_json"),
        ("too large", 413, "body_too_large"),
        ("not found", 404, "not_found"),
        ("GET", 405, "method_not_allowed"),
        ("upstream down", 502, "upstream_unreachable"),
    ],
)
def test_a_page_reads_our_errors(found: Json, name: str, status: int, code: str) -> None:
    """So do those of ours, whoever answers them: the middleware, Flask or the proxy."""
    assert error_of(found[name]) == (status, code)


def test_a_page_without_a_key_reads_that_it_needs_one(found: Json) -> None:
    """A request without Authorization gets Mistral's 401, readable."""
    assert found["no key"]["status"] == 401
    assert found["no key"]["body"]["detail"] == "Unauthorized"


def test_a_page_may_use_the_other_methods(found: Json) -> None:
    """GET, DELETE and a multipart upload pass as well."""
    assert MODEL in [model["id"] for model in found["models"]["body"]["data"]]
    assert found["DELETE"]["body"] == {"deleted": True}
    upload = found["upload"]["body"]
    assert (upload["method"], upload["target"]) == ("POST", "/v1/files")
    assert 'filename="a.txt"' in upload["body"]


def test_a_page_of_an_allowed_origin_is_served(found: Json) -> None:
    """With MISTRAL_FILTER_CORS_ORIGINS the origins in it may use the proxy."""
    assert found["named origin"]["body"]["choices"][0]["message"]["content"] == SAID


@pytest.mark.parametrize("name", ["other origin", "other origin, no preflight"])
def test_a_page_of_another_origin_is_not(found: Json, other: Gunicorn, name: str) -> None:
    """Other origins' scripts read nothing, with and without a preflight, although the server answers others than browsers."""
    answer = ask(other.port, "GET", "/v1/models", headers=[("Authorization", f"Bearer {KEY}")])
    assert answer.status == 200
    assert found[name] == {"thrown": "TypeError", "message": "Failed to fetch"}


@pytest.fixture(scope="module")
def sdk(
    chromium: str,
    packages: Path,
    shared_servers: Callable[..., Gunicorn],
    sandbox: Sandbox,
    shared_upstream: ScriptedUpstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Json:
    """What OpenAI's own SDK finds in a page."""
    proxy = start_proxy(shared_servers, sandbox, shared_upstream, "classic")
    directory = tmp_path_factory.mktemp("chromium")
    with Page(packages / "node_modules" / "openai") as page:
        return page.browse(
            chromium, directory, SDK, proxy=f"{proxy.url}/v1", model=MODEL, thinker="magistral-small-latest", user=USER
        )


def test_openais_sdk_works_in_a_page(sdk: Json, sandbox: Sandbox) -> None:
    """OpenAI's SDK, whose headers need a preflight, chats, streams, embeds and lists models from a page."""
    assert sdk["plain"] == {"text": SAID, "changes": 'drop;path="user";loss=none', "request": True}
    assert sdk["stream"] == {"content": SAID, "reasoning": THOUGHT}
    assert sdk["embeddings"] == straight(sandbox, "one")
    assert MODEL in sdk["models"]


def test_openais_sdk_shows_errors_in_a_page(sdk: Json) -> None:
    """It shows Mistral's text and the field, not a connection error."""
    text = "422 temperature: Input should be a valid number"
    del sdk["error"]["headers"]
    assert sdk["error"] == {"name": "UnprocessableEntityError", "status": 422, "message": text}


def test_openais_sdk_reads_what_a_refusal_tells(sdk: Json) -> None:
    """Keys that the stand-in refuses: a 401 and a 429, streamed or not, with the waiting time and the limits in headers."""
    wrong, limit = sdk["wrong"], sdk["limit"]
    assert (wrong["name"], wrong["status"], wrong["message"]) == ("AuthenticationError", 401, "401 Invalid API Key")
    assert (limit["name"], limit["status"], limit["message"]) == ("RateLimitError", 429, "429 Rate limit exceeded")
    assert limit["headers"].items() >= LIMITS.items()
    assert wrong["headers"]["x-request-id"] == wrong["headers"]["mistral-correlation-id"]


def test_openais_sdk_shows_a_broken_stream_and_stops_one(sdk: Json) -> None:
    """A stream that breaks is an error, not a short answer; one that the page aborts ends at once without one."""
    assert sdk["broken"]["name"] in ("APIError", "TypeError")  # the error event, or what a browser makes of the end
    assert sdk["stop"] < len(SAID.split())
