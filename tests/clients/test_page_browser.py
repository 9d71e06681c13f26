"""The page at ``/`` in a real browser: both languages, light, dark, a phone, the keyboard alone; copy, inspect, try, errors.

One browser for all tests, a tab of its own for each. Skipped without Chromium.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cdp import Browser, Tab, chromium
from servers import DEADLINE, Gunicorn, eventually
from test_clients import END, WORDS, Lockstep, chunk
from test_page import CLIENTS, SAMPLES, TEXTS
from upstream import Exchange, ScriptedUpstream, event_bytes, json_answer, sse

from mistral_filter.explain import explain

__all__ = ["chromium"]  # a fixture

ENGLISH, CHINESE = "en-US", "zh-CN,zh"
LIGHT, DARK = "rgb(253, 252, 250)", "rgb(23, 21, 19)"
"""The background of each scheme (page.css, --paper)."""
MODELS = ["held", "reasons", "refuses", "breaks", "plain"]
THOUGHT = chunk(role="assistant", content=[{"type": "thinking", "thinking": [{"type": "text", "text": "I think."}]}])
UNAUTHORIZED = json_answer({"detail": "Unauthorized"}, 401)
LISTED = "[...document.querySelectorAll('#list-of-changes > li')]"


def _held(exchange: Exchange) -> None:
    """A stream that says one word and no more, until it is left."""
    exchange.head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])
    exchange.chunk(event_bytes(chunk(role="assistant", content="Half")))
    exchange.sleep(2 * DEADLINE)


@pytest.fixture(scope="module")
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(chromium, tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def shared_tab(browser: Browser) -> Tab:
    """One tab for all tests that store nothing: a new one takes as long as most of them."""
    return browser.tab()


@pytest.fixture
def tab(browser: Browser, shared_tab: Tab) -> Iterator[Tab]:
    """The tab, in whose console nothing has been said yet."""
    browser.events.clear()
    yield shared_tab
    shared_tab.go("about:blank")


@pytest.fixture(scope="module")
def server(shared_servers: Callable[..., Gunicorn], shared_upstream: ScriptedUpstream) -> Gunicorn:
    """A proxy whose upstreams, the main one and one named sandbox, are scripted."""
    return shared_servers(MISTRAL_FILTER_UPSTREAMS=f"sandbox={shared_upstream.url}")


@pytest.fixture
def scripted(upstream: ScriptedUpstream) -> ScriptedUpstream:
    """The upstream of both, with a few models."""
    upstream.script = {
        "/v1/models": json_answer({"object": "list", "data": [{"id": name} for name in MODELS]}),
        "held": _held,
        "reasons": sse([THOUGHT, chunk(content="Paris."), *END]),
        "refuses": UNAUTHORIZED,
        "breaks": Lockstep([], None),
        "plain": sse([chunk(role="assistant", content="Paris."), *END]),
    }
    return upstream


def is_quiet(tab: Tab, *, but: tuple[str, ...] = ()) -> bool:
    """Whether the console is empty, *but* for the browser's own lines about failed requests with these statuses."""
    return [line for line in tab.messages() if not any(f"status of {status} " in line for status in but)] == []


def focus(tab: Tab, selector: str, *, most: int = 60) -> None:
    """Presses Tab until the element has the focus, and checks that it can be seen there."""
    for _ in range(most):
        tab.press("Tab")
        if tab.run(f"document.activeElement.matches({json.dumps(selector)})"):
            break
    else:
        raise AssertionError(f"Tab does not lead to {selector}")
    style = "getComputedStyle(document.activeElement)"
    assert tab.run(f"{style}.outlineStyle !== 'none' && parseFloat({style}.outlineWidth) >= 2")


def inspect(tab: Tab, body: str, endpoint: str = "chat") -> None:
    tab.run(f"document.querySelector('#body').value = {json.dumps(body)}")
    tab.run(f"document.querySelector('#endpoint').value = {json.dumps(endpoint)}")
    tab.click("#inspect .main")
    tab.until(f"document.querySelector('#verdict').innerText && !{json.dumps(WORKING)}.includes(verdict.innerText)")


WORKING = [TEXTS[language]["js"]["working"] for language in TEXTS]


def try_it(tab: Tab, model: str, question: str = "What is the capital of France?") -> None:
    """Asks a model of the upstream named sandbox, which needs no key and is chosen while there is none."""
    if not tab.run("document.querySelector('#model').length > 1"):
        tab.click("#load")
        tab.until(f"document.querySelector('#model').length === {len(MODELS)}")
    tab.run(f"document.querySelector('#model').value = {json.dumps(model)}")
    tab.run("document.querySelector('#message').focus()")
    tab.type(question)
    tab.press("Enter")


def answered(tab: Tab) -> str:
    """The last answer, when it has ended."""
    tab.until("document.querySelector('.turn:not(.you)') && !document.querySelector('.live')")
    return str(tab.run("[...document.querySelectorAll('.turn')].at(-1).innerText"))


# --------------------------------------------------------------------------------------------------------------- Start


@pytest.mark.parametrize(
    ("language", "scheme", "width"),
    [(ENGLISH, "light", 1280), (ENGLISH, "dark", 390), (CHINESE, "light", 390), (CHINESE, "dark", 1280)],
)
def test_the_page_shows_as_the_reader_likes_it(tab: Tab, server: Gunicorn, language: str, scheme: str, width: int) -> None:
    """Language and colours are the browser's, nothing is wider than the window, and the console stays empty."""
    tab.open(server.url, language=language, scheme=scheme, width=width)
    texts = TEXTS["zh" if language == CHINESE else "en"]
    assert texts["lead"] in tab.text("header")
    assert tab.run("getComputedStyle(document.body).backgroundColor") == (DARK if scheme == "dark" else LIGHT)
    for name in ("start", "inspector", "try"):
        tab.click(f"#tab-{name}")
        if name == "inspector":
            tab.click("#samples button")
            tab.until(f"{LISTED}.length > 2")
            below = tab.run("after.getBoundingClientRect().top >= before.getBoundingClientRect().bottom")
            assert below is (width == 390)  # side by side, or one below the other
        assert tab.run("[...document.querySelectorAll('section')].filter((e) => !e.hidden).map((e) => e.id)") == [name]
        assert tab.run("document.documentElement.scrollWidth") <= width
    assert is_quiet(tab)


def test_the_switch_changes_the_language_in_place(tab: Tab, server: Gunicorn) -> None:
    """It leads to the same tab in the other language."""
    tab.open(f"{server.url}/#inspector")
    tab.click(".language")
    tab.until(f"document.body.innerText.includes({json.dumps(TEXTS['zh']['inspect_lead'])})")
    assert tab.run("location.search + location.hash") == "?lang=zh#inspector"
    assert tab.run("document.documentElement.lang") == "zh-Hans"
    assert is_quiet(tab)


def test_every_client_can_be_chosen(tab: Tab, server: Gunicorn) -> None:
    """A click on a client shows its panel alone; its address leads there again."""
    tab.open(server.url)
    shown = "[...document.querySelectorAll('.client')].filter((e) => !e.hidden).map((e) => e.id)"
    names = [f"client-{client['id']}" for group in CLIENTS["groups"] for client in group["clients"]]
    assert tab.run(shown) == names[:1]
    for name in names:
        tab.run(f"document.getElementById('tab-{name}').click()")
        assert tab.run(shown) == [name]
    address = tab.run("location.href")
    assert address.endswith(f"#{names[-1]}")
    assert tab.open(address).run(shown) == names[-1:]


def test_the_base_url_can_be_copied(tab: Tab, server: Gunicorn) -> None:
    """The button copies, also where scripts have no clipboard (plain http); a paste brings the base URL."""
    tab.open(server.url)
    for script in ("0", "navigator.clipboard.writeText = () => Promise.reject(new Error('refused'))"):
        tab.run(script)
        tab.click("#tab-inspector")
        tab.run("body.value = 'old'; body.select(); document.execCommand('copy')")
        tab.click("#tab-start")
        tab.click(".copy")
        tab.until(f"document.querySelector('.copy').innerText === {json.dumps(TEXTS['en']['js']['copied'])}")
        tab.click("#tab-inspector")
        tab.run("body.value = ''; body.focus()")
        tab.send("Input.dispatchKeyEvent", type="keyDown", key="v", code="KeyV", modifiers=2, commands=["paste"])
        tab.until(f"body.value === '{server.url}/v1'")
        tab.click("#tab-start")
        tab.until(f"document.querySelector('.copy').innerText === {json.dumps(TEXTS['en']['js']['copy'])}")
    assert is_quiet(tab)


def test_the_keyboard_is_enough(tab: Tab, server: Gunicorn, scripted: ScriptedUpstream) -> None:
    """Tab and arrows reach tabs, clients, samples and the chat; the focus can be seen; Enter does what a click does."""
    tab.open(server.url)
    focus(tab, "#tab-start")
    focus(tab, "#tab-client-curl")
    tab.press("ArrowRight")
    assert tab.run("document.activeElement.id") == "tab-client-cursor"
    assert not tab.run("document.getElementById('client-cursor').hidden")
    tab.press("End")
    assert tab.run("document.activeElement.id") == "tab-client-mistralai"
    tab.run("document.activeElement.blur()")
    focus(tab, "#tab-start")
    tab.press("ArrowRight")
    assert tab.run("document.activeElement.id + document.activeElement.ariaSelected") == "tab-inspectortrue"
    focus(tab, "#samples button")
    tab.press("Enter")
    tab.until(f"{LISTED}.length > 2")
    focus(tab, "#list-of-changes a")
    tab.press("Enter")
    assert tab.run("document.querySelectorAll('.flash').length") == 3
    tab.run("document.getElementById('tab-inspector').focus()")
    tab.press("ArrowRight")
    focus(tab, "#key")
    tab.type("k")
    focus(tab, "#load")
    tab.press("Enter")
    tab.until(f"document.querySelector('#model').length === {len(MODELS)}")
    tab.run("model.value = 'held'")
    focus(tab, "#message")
    tab.type("Hello")
    tab.press("Enter")
    tab.until("chat.innerText.includes('Half')")
    focus(tab, "#stop")
    tab.press("Enter")
    assert TEXTS["en"]["js"]["stopped"] in answered(tab)
    assert tab.run("document.activeElement.id") == "message"
    assert is_quiet(tab)


class Front:
    """A reverse proxy that serves the one behind it below ``/team/ai`` and takes the prefix away."""

    def __init__(self, port: int, *, tells: bool) -> None:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                path = self.path.removeprefix("/team/ai")
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {**self.headers, **({"X-Forwarded-Prefix": "/team/ai"} if tells else {})}
                connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
                connection.request(self.command, path if path != self.path else "/nowhere", body, headers)
                response = connection.getresponse()
                content = response.read()
                self.send_response(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection", "server", "date"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                connection.close()

            do_POST = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="front")
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/team/ai"

    def __enter__(self) -> Front:
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join(DEADLINE)
        self._server.server_close()


@pytest.mark.parametrize("tells", [True, False], ids=["X-Forwarded-Prefix", "no header"])
def test_the_page_works_below_a_path_prefix(tab: Tab, server: Gunicorn, tells: bool) -> None:
    """Behind a proxy that strips a prefix, base URL, inspector and links have it; where no header tells, the browser knows."""
    with Front(server.port, tells=tells) as front:
        for address in (f"{front.url}/", front.url) if tells else (f"{front.url}/",):
            tab.open(address)
            assert tab.text(".base") == f"{front.url}/v1"
            tab.click("#tab-inspector")
            tab.click("#samples button")
            tab.until(f"{LISTED}.length > 2")
            assert is_quiet(tab)
        if tells:
            tab.open(f"{front.url}/explain/fim")
            assert tab.run("location.href") == f"{front.url}/?endpoint=fim#inspector"
            assert tab.run("document.querySelector('#endpoint').value") == "fim"


# ----------------------------------------------------------------------------------------------------------- Inspector


def shown_json(tab: Tab, pane: str) -> Any:
    """The JSON that a pane shows, without its marks."""
    lines = tab.run(
        f"[...document.querySelectorAll('#{pane} > div:not(.ghost)')].map((line) => {{ const copy = line.cloneNode(true);"
        "copy.querySelectorAll('.chip').forEach((chip) => chip.remove()); return copy.textContent; })"
    )
    return json.loads("".join(lines))


def test_a_sample_shows_every_change_in_both_bodies(tab: Tab, server: Gunicorn) -> None:
    """Both bodies are whole, every change has a number in both and in the list, and a colour and a word for its loss."""
    tab.open(f"{server.url}/#inspector")
    for number in range(len(SAMPLES)):
        tab.click(f"#samples button:nth-of-type({number + 1})")
        tab.until(f"{LISTED}.length && before.innerText")
        endpoint = tab.run("document.querySelector('#endpoint').value")
        expected = explain(json.dumps(SAMPLES[number]["body"]).encode(), endpoint)
        assert shown_json(tab, "before") == SAMPLES[number]["body"]
        assert shown_json(tab, "after") == json.loads(expected.after or b"")
        numbers = [str(n + 1) for n in range(len(expected.changes))]
        for pane in ("before", "after"):
            found = tab.run(f"[...document.querySelectorAll('#{pane} .chip')].map((e) => e.textContent)")
            assert sorted(found, key=int) == numbers
        assert not tab.run("[...document.querySelectorAll('#after .ghost')].some((e) => !e.querySelector('s'))")  # none is there
        edges = "(e) => [e.getBoundingClientRect().top, e.getBoundingClientRect().bottom]"
        for pane in ("before", "after"):  # the first change is in sight
            box, chip = tab.run(f"[{pane}, {pane}.querySelector('.chip')].map({edges})")
            assert box[0] <= chip[0] <= chip[1] <= box[1]
        words = TEXTS["en"]["js"]
        kinds = {"none": "good", "approximate": "warn", "lost": "bad"}
        for n, change in enumerate(expected.changes):
            assert tab.run(f"{LISTED}[{n}].className") == kinds[change.loss]
            text = tab.run(f"{LISTED}[{n}].innerText")
            for part in (str(n + 1), words["action"][change.action], change.path, words["loss"][change.loss], change.reason):
                assert part in text
            assert (words["current_keeps"] in text) is (change.path in expected.kept_by_current)
    assert is_quiet(tab)


def test_what_current_would_keep_is_one_click_away(tab: Tab, server: Gunicorn) -> None:
    """The fields that only the list classic drops are named; the button shows the body as current would leave it."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "n": 2,
        "reasoning_effort": "high",
        "logit_bias": {"1": 2},
    }
    tab.open(f"{server.url}/#inspector", language=CHINESE)
    inspect(tab, json.dumps(body))
    assert tab.run("[...verdict.querySelectorAll('code')].map((e) => e.textContent)") == ["n", "reasoning_effort"]
    assert "n" not in shown_json(tab, "after")
    tab.click("#verdict button")
    tab.until(f"{LISTED}.length === 1")
    assert shown_json(tab, "after") == {key: value for key, value in body.items() if key != "logit_bias"}
    assert tab.run("document.querySelector('#list').value") == "current"
    assert TEXTS["zh"]["js"]["loss"]["lost"] in tab.text("#list-of-changes")
    assert is_quiet(tab)


def test_a_body_without_changes_says_so(tab: Tab, server: Gunicorn) -> None:
    """Nothing to change is said; an empty body asks for one."""
    tab.open(f"{server.url}/#inspector")
    inspect(tab, '{"model": "m", "temperature": 1.10}')
    assert tab.text("#verdict") == TEXTS["en"]["js"]["unchanged"]
    assert "1.10" in tab.text("#before")  # as it was written, not as JavaScript would write it
    inspect(tab, "  ")
    assert tab.text("#verdict") == TEXTS["en"]["js"]["empty"]
    assert tab.run("document.querySelector('#panes').hidden")


def test_broken_json_is_shown_where_it_breaks(tab: Tab, server: Gunicorn) -> None:
    """The error, its line and column, and the character itself, which the text field has selected."""
    tab.open(f"{server.url}/#inspector")
    for body, line, column, marked in (
        ('{\n  "model": "m",\n  "messages": [1,]\n}', 3, 17, ","),
        ('{"é": "😀", x}', 1, 12, "x"),
        ('{"a": NaN}', 1, 7, "N"),
        ('{"a": 1', 1, 8, "␣"),
        ("\n" + "[" * 300 + "]" * 300, 2, 201, "["),
    ):
        inspect(tab, body)
        assert ("json_too_deep" if "[[" in body else "invalid_json") in tab.text(".alert strong")
        assert f"Line {line}, column {column}" in tab.text("#verdict")
        assert tab.text("#verdict mark") == marked
        assert tab.run("body.value.slice(body.selectionStart, body.selectionEnd)") == marked.replace("␣", "")
    assert is_quiet(tab)


def test_a_refusal_is_shown_where_it_is(tab: Tab, server: Gunicorn) -> None:
    """What has no translation is marked in the original, with the sentence of the error."""
    tab.open(f"{server.url}/#inspector")
    inspect(tab, '{"model": "mistral-embed", "input": [1, 2]}', "embeddings")
    assert "token_ids" in tab.text(".alert")
    assert tab.run("[...document.querySelectorAll('#before .mark')].map((e) => e.textContent)") == ['"input": [']
    assert tab.text("#after") == TEXTS["en"]["js"]["nothing"]
    assert is_quiet(tab)


def test_a_body_that_is_too_large_is_told_in_words(tab: Tab, server: Gunicorn) -> None:
    """The limit of /explain is named, in the reader's language, and nothing is sent that would be refused."""
    tab.open(f"{server.url}/#inspector", language=CHINESE)
    inspect(tab, json.dumps({"model": "x" * 300_000}))
    assert tab.text(".alert") == TEXTS["zh"]["js"]["too_large"].format(256)
    inspect(tab, json.dumps({"model": "é" * 131_050}, ensure_ascii=False))
    assert tab.text("#verdict") == TEXTS["zh"]["js"]["unchanged"]
    assert is_quiet(tab)


def test_what_goes_as_a_whole_is_marked_as_a_whole(tab: Tab, server: Gunicorn) -> None:
    """All lines of a dropped object carry its colour, of a renamed one the first; in Chinese, its reason has Chinese colons."""
    tab.open(f"{server.url}/#inspector", language=CHINESE)
    inspect(tab, '{"model": "m", "seed": {"a": 1}, "logit_bias": {"1": {"2": 3}}, "stream_options": {}}')
    marked = "[...document.querySelectorAll('#before .mark')].map((e) => [e.className, e.firstChild.textContent])"
    lines = ['"logit_bias": {', '"1": {', '"2": 3', "}", "},"]
    assert tab.run(marked) == [
        ["mark good", '"seed": {'],
        *([["mark bad", line] for line in lines]),
        ["mark good", '"stream_options": {}'],
    ]
    assert "Mistral 没有这个字段\uff1a" in tab.text("#list-of-changes")
    assert is_quiet(tab)


def test_a_deep_body_stays_in_its_pane(tab: Tab, server: Gunicorn) -> None:
    """The panes scroll instead of widening the page."""
    for width in (1280, 360):
        tab.open(f"{server.url}/#inspector", width=width)
        inspect(tab, '{"model": "m", "messages": ' + "[" * 150 + "]" * 150 + "}")
        assert tab.text("#verdict") == TEXTS["en"]["js"]["unchanged"]
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.run("before.scrollWidth > before.clientWidth")


def test_a_server_that_cannot_answer_is_told_in_words(tab: Tab, server: Gunicorn) -> None:
    """Busy and out of reach are sentences, not codes."""
    tab.open(f"{server.url}/#inspector")
    for failure, text in (("new Response('{}', {status: 503})", "busy"), ("Promise.reject(new TypeError())", "network")):
        tab.run(f"window.fetch = async () => {failure}")
        inspect(tab, "{}")
        assert TEXTS["en"]["js"][text] in tab.text(".alert")


def test_a_large_body_is_shown(tab: Tab, server: Gunicorn) -> None:
    """Long strings and many lines are cut for the eye, and the page stays usable."""
    messages = [{"role": "user", "content": "x" * 100_000}] + [{"role": "user", "content": "a", "name": "b"}] * 1500
    tab.open(f"{server.url}/#inspector")
    inspect(tab, json.dumps({"model": "m", "messages": messages}))
    tab.until(f"{LISTED}.length > 100")
    assert "characters" in tab.text("#before")
    assert tab.run("document.querySelectorAll('#before > div').length") <= 4001
    assert "further changes" in tab.run(f"{LISTED}.at(-1).innerText")
    assert is_quiet(tab)


def test_no_body_can_put_markup_into_the_page(tab: Tab, server: Gunicorn) -> None:
    """Names and values that are HTML are shown as text, in both panes, in the list and in errors."""
    tab.open(f"{server.url}/#inspector")
    evil = "<img src=x onerror=document.title=1>"
    inspect(tab, json.dumps({"model": evil, "messages": [{"role": "user", "content": evil, evil: evil}], evil: {evil: evil}}))
    assert evil in tab.text("#after")
    assert evil in tab.text("#list-of-changes")
    inspect(tab, "{" + evil)
    assert "img src=x" in tab.text("#verdict pre")
    assert tab.run("document.querySelectorAll('img').length") == 0
    assert tab.run("document.title") == TEXTS["en"]["title"]
    assert is_quiet(tab)


# -------------------------------------------------------------------------------------------------------------- Try it


def test_an_answer_streams_into_the_page(tab: Tab, server: Gunicorn, scripted: ScriptedUpstream) -> None:
    """The upstream sends a word only when the page shows the one before; then the changes and the times are there."""
    steps = Lockstep()
    scripted.script = {**scripted.script, "plain": steps}  # type: ignore[dict-item]
    tab.open(f"{server.url}/#try")
    try_it(tab, "plain")
    for n in range(1, len(WORDS) + 1):
        tab.until(f"document.querySelector('.turn:not(.you) .text')?.textContent === {json.dumps(''.join(WORDS[:n]))}")
        steps.seen(WORDS[n - 1])
    text = answered(tab)
    assert steps.log == Lockstep.expected(WORDS)
    assert "max_completion_tokens → max_tokens (renamed, nothing lost)" in text
    assert "user (dropped, nothing lost)" in text
    assert "First byte after 0." in text
    sent = scripted.requests[-1].json()
    assert sent["messages"] == [{"role": "user", "content": "What is the capital of France?"}]
    assert sent["max_tokens"] == 2000
    assert is_quiet(tab)


def test_a_conversation_goes_on(tab: Tab, server: Gunicorn, scripted: ScriptedUpstream) -> None:
    """The second question takes the first and its answer along, a new chat does not; the added fields can be switched off."""
    tab.open(f"{server.url}/#try")
    tab.click("#as-client")
    try_it(tab, "plain", "One?")
    assert TEXTS["en"]["js"]["no_changes"] in answered(tab)
    try_it(tab, "plain", "Two?")
    answered(tab)
    tab.until("document.querySelectorAll('.turn').length === 4")
    body = scripted.requests[-1].json()
    assert [message["content"] for message in body["messages"]] == ["One?", "Paris.", "Two?"]
    assert body.keys() == {"model", "messages", "stream"}
    tab.click("#clear")
    try_it(tab, "plain", "Three?")
    answered(tab)
    assert [message["content"] for message in scripted.requests[-1].json()["messages"]] == ["Three?"]


def test_reasoning_is_folded(tab: Tab, server: Gunicorn, scripted: ScriptedUpstream) -> None:
    """It stands apart from the answer, and is opened by a click."""
    tab.open(f"{server.url}/#try", language=CHINESE)
    try_it(tab, "reasons")
    answered(tab)
    assert tab.text(".turn:not(.you) .text") == "Paris."
    assert not tab.run("document.querySelector('details').open")
    tab.click("summary")
    assert tab.text("details").split() == [TEXTS["zh"]["js"]["reasoning"], "I", "think."]
    assert is_quiet(tab)


def test_an_answer_can_be_stopped(tab: Tab, server: Gunicorn, scripted: ScriptedUpstream) -> None:
    """The stop button ends the request, up to the upstream, and the page takes the next question."""
    tab.open(f"{server.url}/#try")
    try_it(tab, "held")
    tab.until("chat.innerText.includes('Half')")
    assert tab.run("document.querySelector('#send').disabled")
    tab.click("#stop")
    assert TEXTS["en"]["js"]["stopped"] in answered(tab)
    eventually(lambda: scripted.requests[-1].left, "the upstream to be left")
    try_it(tab, "plain")
    tab.until("chat.innerText.includes('Paris.')")
    assert is_quiet(tab)


def test_errors_can_be_read(tab: Tab, server: Gunicorn, scripted: ScriptedUpstream) -> None:
    """A refusal shows its status and Mistral's words, a broken stream a sentence; the page is ready again."""
    tab.open(f"{server.url}/#try")
    words = TEXTS["en"]["js"]
    try_it(tab, "refuses")
    assert f"{words['statuses']['401']} Unauthorized" in answered(tab)
    try_it(tab, "breaks")
    tab.until("document.querySelectorAll('.turn .alert').length === 2")
    assert words["cut"] in answered(tab)
    try_it(tab, "plain")
    tab.until("chat.innerText.includes('Paris.')")


def test_a_limit_is_told_in_the_readers_language(tab: Tab, server: Gunicorn, scripted: ScriptedUpstream) -> None:
    """With the time to wait, where the answer names one, and Mistral's own words; models are asked for in the same way."""
    limit = json_answer({"message": "Rate limit exceeded"}, 429, [("Retry-After", "7")])
    scripted.script = {**scripted.script, "plain": limit}  # type: ignore[dict-item]
    tab.open(f"{server.url}/#try", language=CHINESE)
    try_it(tab, "plain")
    words = TEXTS["zh"]["js"]
    told = f"{words['statuses']['429']} {words['wait'].format(7)} Rate limit exceeded"
    assert told in answered(tab)
    scripted.script = {**scripted.script, "/v1/models": limit}  # type: ignore[dict-item]
    tab.click("#load")
    tab.until(f"models.innerText === {json.dumps(told)}")


def test_a_server_that_holds_a_key_asks_for_its_token(
    tab: Tab, shared_servers: Callable[..., Gunicorn], shared_upstream: ScriptedUpstream, scripted: ScriptedUpstream
) -> None:
    """The page speaks of a token throughout, offers no upstream without a key, and says whose token is missing or wrong."""
    server = shared_servers(
        MISTRAL_FILTER_UPSTREAM=shared_upstream.url,
        MISTRAL_FILTER_UPSTREAMS=f"second={shared_upstream.url} keyless={shared_upstream.url}",
        MISTRAL_FILTER_API_KEY="held-key-Kx81aa",
        MISTRAL_FILTER_API_KEYS="second=held-key-Kx82aa",
        MISTRAL_FILTER_TOKENS="token-for-anna-Jx2k",
        MISTRAL_FILTER_CORS_ORIGINS="none",
    )
    tab.open(f"{server.url}/#try")
    assert tab.run("[...upstream.options].map((option) => option.value)") == ["", "second"]
    assert "keyless" not in tab.run("document.documentElement.outerHTML")
    tab.click("#load")
    assert tab.text("#models") == TEXTS["en"]["js"]["need_key"].format(TEXTS["en"]["token"])
    for token, text in (("wrong", "one of its own tokens"), ("token-for-anna-Jx2k", f"Models: {len(MODELS)}")):
        tab.run("key.value = ''; key.focus()")
        tab.type(token)
        tab.click("#load")
        tab.until(f"models.innerText.includes({json.dumps(text)})")
    assert scripted.requests[-1].header("Authorization") == "Bearer held-key-Kx81aa"
    tab.run("key.value = 'wrong'; message.focus()")
    tab.type("Hello")
    tab.press("Enter")
    assert "one of its own tokens" in answered(tab)
    assert TEXTS["en"]["js"]["no_changes"] not in answered(tab)  # nothing was filtered
    assert is_quiet(tab, but=("401",))


def test_a_key_stays_in_its_tab_and_with_its_upstream(browser: Browser, server: Gunicorn, scripted: ScriptedUpstream) -> None:
    """It survives a reload, goes to no other upstream and to no other tab; there are no cookies and no lasting storage."""
    tab = browser.tab().open(f"{server.url}/#try")
    assert tab.run("upstream.value") == "sandbox"
    tab.run("upstream.value = ''; upstream.dispatchEvent(new Event('change')); message.focus()")
    tab.type("Hello")
    tab.press("Enter")
    tab.until(f"models.innerText === {json.dumps(TEXTS['en']['js']['need_key'].format(TEXTS['en']['key']))}")
    assert scripted.requests == []
    tab.run("document.querySelector('#key').focus()")
    tab.type("canary-key")
    tab.go(f"{server.url}/?lang=en#try")
    assert tab.run("upstream.value") == ""
    tab.until("document.querySelector('#key')?.value === 'canary-key'")
    tab.click("#load")
    tab.until(f"document.querySelector('#model').length === {len(MODELS)}")
    assert scripted.requests[-1].header("Authorization") == "Bearer canary-key"
    tab.run("upstream.value = 'sandbox'; upstream.dispatchEvent(new Event('change'))")
    tab.until("document.querySelector('#key').value === ''")
    eventually(lambda: len(scripted.requests) == 2, "the models of the other upstream")
    assert "canary-key" not in str(scripted.requests[-1].headers)
    assert tab.run("document.cookie + localStorage.length") == "0"
    assert browser.tab().open(f"{server.url}/#try").run("document.querySelector('#key').value") == ""
    assert is_quiet(tab)
