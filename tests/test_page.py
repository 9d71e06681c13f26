"""The page at ``/``: what it says, to whom in which form, and that no request can put anything of its own into it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from base64 import b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from mistral_filter import __version__, filter_body
from mistral_filter.fields import CHAT_FIELDS
from mistral_filter.proxy.page import create_page

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
UPSTREAMS = {"": "https://api.mistral.ai", "codestral": "https://codestral.mistral.ai"}
OWN = "http://server.internal:8000"
ROOT = "https://chat.example.com/mistral"
NOTHING: Mapping[str, str] = {}
AT_ROOT = {"HTTP_HOST": "chat.example.com", "HTTP_X_FORWARDED_PROTO": "https", "SCRIPT_NAME": "/mistral"}


def make_app(**options: Any) -> Flask:
    app = Flask("page_test", static_folder=None)
    app.register_blueprint(create_page(**{"fields": "classic", "upstreams": UPSTREAMS, **options}))
    return app


def get(
    environ: Mapping[str, str] = NOTHING, *, accept: str = BROWSER, method: str = "GET", app: Flask | None = None
) -> TestResponse:
    """``/`` as a server named ``OWN`` answers it; *environ* are further WSGI variables, headers among them."""
    own = {"SERVER_NAME": "server.internal", "SERVER_PORT": "8000", "HTTP_HOST": "", "HTTP_ACCEPT": accept}
    client = (app or make_app()).test_client()
    return client.open("/", method=method, environ_overrides={**own, **environ})


def base_url(environ: Mapping[str, str]) -> str:
    response = get(environ, accept="application/json")
    assert response.status_code == 200
    assert isinstance(response.json, dict)
    return str(response.json["base_url"])


class Page(HTMLParser):
    """The parts of a page that tests look at; fails on tags that do not match, and on what no page of ours may hold."""

    VOID = ("meta",)

    def __init__(self, response: TestResponse) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.snippets: list[str] = []
        self.rows: list[tuple[str, str, list[str]]] = []
        """Of each row of a table's body: its head, its text, its codes."""
        self.feed(response.text)
        self.close()
        assert self.open == [], "elements that are never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"an attribute twice on {tag}"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "pre":
            self.snippets.append("")
        if tag == "tr" and "tbody" in self.open:
            self.rows.append(("", "", []))
        if tag == "code" and "td" in self.open:
            self.rows[-1][2].append("")

    def handle_endtag(self, tag: str) -> None:
        assert [tag] == self.open[-1:], f"</{tag}> closes something else"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if "pre" in self.open:
            self.snippets[-1] += data
        if "th" in self.open and "tbody" in self.open:
            self.rows[-1] = (self.rows[-1][0] + data, *self.rows[-1][1:])
        if "td" in self.open:
            head, text, codes = self.rows[-1]
            if "code" in self.open:
                codes[-1] += data
            self.rows[-1] = (head, text + data, codes)

    def of(self, tag: str) -> Iterator[dict[str, str]]:
        return (attributes for name, attributes in self.elements if name == tag)

    def snippet(self, start: str) -> str:
        (found,) = (snippet for snippet in self.snippets if snippet.startswith(start))
        return found


def arguments(snippet: str) -> list[str]:
    """The arguments that a shell gives to curl when *snippet* is pasted."""
    script = "curl() { printf '%s\\0' \"$@\"; }\n" + snippet
    output = subprocess.run(["sh", "-c", script], env={"MISTRAL_API_KEY": "KEY"}, capture_output=True, check=True)
    assert output.stderr == b""
    return output.stdout.decode().split("\0")[:-1]


def setting(page: Page, client: str) -> tuple[str, list[str]]:
    """The text and the codes that the table has for *client*."""
    (found,) = ((text, codes) for head, text, codes in page.rows if client in head)
    return found


# ------------------------------------------------------------------------------------------------------- HTML or JSON


@pytest.mark.parametrize("accept", [BROWSER, "text/html", "text/*", "application/json;q=0.5, text/html"])
def test_whoever_prefers_html_gets_the_page(accept: str) -> None:
    """A browser's Accept, and whatever else prefers HTML to JSON, is answered with HTML."""
    response = get(accept=accept)
    assert (response.status_code, response.content_type) == (200, "text/html; charset=utf-8")
    assert response.text.startswith("<!doctype html>")


@pytest.mark.parametrize("accept", ["application/json", "*/*", "", "image/png", "text/html;q=0, */*", "application/*", "}{;=,,"])
def test_everything_else_gets_json(accept: str) -> None:
    """Programs, which ask for JSON, for anything or for nothing they would get, are answered with JSON."""
    response = get(accept=accept)
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert json.loads(response.data)["name"] == "mistral-filter"


def test_the_json_says_what_a_program_needs() -> None:
    """The JSON holds version, base URLs, endpoints, the list in use and where health and explain are."""
    summary = json.loads(get(AT_ROOT, accept="application/json").data)
    assert summary["version"] == __version__
    assert summary["base_url"] == f"{ROOT}/v1"
    assert summary["upstreams"] == {"codestral": f"{ROOT}/codestral/v1"}
    assert summary["endpoints"]["chat"] == f"{ROOT}/v1/chat/completions"
    assert summary["endpoints"]["embeddings"] == f"{ROOT}/v1/embeddings"
    assert (summary["list"], summary["fields"]) == ("classic", list(CHAT_FIELDS["classic"].fields))
    assert (summary["health"], summary["explain"]) == (f"{ROOT}/health", f"{ROOT}/explain/chat")


@pytest.mark.parametrize("accept", [BROWSER, "*/*"])
def test_head_has_the_headers_of_get_and_no_body(accept: str) -> None:
    """HEAD is answered as GET is, without the body."""
    head, whole = get(accept=accept, method="HEAD"), get(accept=accept)
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers == whole.headers
    assert int(head.headers["Content-Length"]) == len(whole.data)


def test_a_mount_point_without_a_slash_is_not_redirected() -> None:
    """Asked for exactly its mount point (an empty PATH_INFO), the page answers as with a slash."""
    assert base_url({**AT_ROOT, "PATH_INFO": ""}) == f"{ROOT}/v1"


def test_nothing_can_be_sent_to_the_page() -> None:
    """POST is refused with 405."""
    assert get(method="POST").status_code == 405


# --------------------------------------------------------------------------------------------------------- the address


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, OWN),
        ({"HTTP_HOST": "chat.example.com"}, "http://chat.example.com"),
        ({"HTTP_HOST": "chat.example.com:8443", "wsgi.url_scheme": "https"}, "https://chat.example.com:8443"),
        ({"HTTP_HOST": "my_service:8000"}, "http://my_service:8000"),
        ({"HTTP_HOST": "127.0.0.1:8000"}, "http://127.0.0.1:8000"),
        ({"HTTP_HOST": "[2001:db8::1]:8000"}, "http://[2001:db8::1]:8000"),
        ({"HTTP_HOST": "inner", "HTTP_X_FORWARDED_HOST": "outer.example"}, "http://outer.example"),
        ({"HTTP_HOST": "inner", "HTTP_X_FORWARDED_HOST": "outer.example:444 , middle"}, "http://outer.example:444"),
        ({"HTTP_HOST": "inner", "HTTP_X_FORWARDED_HOST": "<b>"}, "http://inner"),
        ({"HTTP_HOST": "a@b", "HTTP_X_FORWARDED_HOST": "<b>"}, OWN),
        ({"HTTP_HOST": "a@b", "HTTP_X_FORWARDED_HOST": "outer.example"}, "http://outer.example"),
        ({"HTTP_HOST": "inner", "HTTP_X_FORWARDED_HOST": ", outer.example"}, "http://inner"),
        ({"HTTP_X_FORWARDED_PROTO": "https"}, OWN.replace("http", "https")),
        ({"HTTP_X_FORWARDED_PROTO": "HTTPS, http"}, OWN.replace("http", "https")),
        ({"HTTP_X_FORWARDED_PROTO": "http", "wsgi.url_scheme": "https"}, OWN),
        ({"HTTP_X_FORWARDED_PROTO": "javascript"}, OWN),
        ({"HTTP_X_FORWARDED_PROTO": "https://evil.example/"}, OWN),
        ({"SCRIPT_NAME": "/pre/fix"}, f"{OWN}/pre/fix"),
        ({"SCRIPT_NAME": "/pre/"}, f"{OWN}/pre"),
        ({"SCRIPT_NAME": "/\u00c3\u00a9 '\"<"}, f"{OWN}/%C3%A9%20%27%22%3C"),
    ],
)
def test_the_base_url_is_the_one_the_caller_used(environ: dict[str, str], expected: str) -> None:
    """Forwarded scheme and host count where they have the form of such; then Host; then the server's own name."""
    assert base_url(environ) == f"{expected}/v1"


EVIL = [
    'evil"><script>alert(1)</script>',
    "evil' onclick='x",
    "a@b",
    "user:password@evil.example",
    "evil.example/path",
    "evil.example?q",
    "evil.example#f",
    "evil.example\\@good.example",
    "evil example",
    " ",
    "evil.example\r\nSet-Cookie: evil=1",
    "evil.example\n",
    "evil.example\x00",
    "ev\u00efl.example",
    "\u212aelvin.example".encode().decode("latin-1"),
    "evil.example:80:80",
    "evil.example:",
    "evil.example:http",
    "evil.example:\u00b2",
    "-evil.example",
    "[evil]",
    "[::1",
    "$(evil)",
    "`evil`",
    "evil;id",
    "{{ 7 * 7 }}",
    "evil.example, other.example",
    ".".join(["evil"] * 60),
]


@pytest.mark.parametrize("host", EVIL)
@pytest.mark.parametrize("accept", [BROWSER, "*/*"])
def test_what_is_no_host_appears_nowhere(host: str, accept: str) -> None:
    """A Host that is none is passed over for the server's own name, and leaves no trace in the answer."""
    response = get({"HTTP_HOST": host}, accept=accept)
    assert response.status_code == 200
    assert f"{OWN}/v1" in response.text
    for part in ("evil", host.strip() or "\x00"):
        assert part not in response.text
        assert part not in str(response.headers)


@pytest.mark.parametrize("host", [host for host in EVIL if "," not in host and host.strip(" ")])
def test_what_is_no_forwarded_host_appears_nowhere(host: str) -> None:
    """The same for X-Forwarded-Host: the next best name is taken."""
    response = get({"HTTP_X_FORWARDED_HOST": host, "HTTP_HOST": "inner.example"})
    assert "http://inner.example/v1" in response.text
    assert "evil" not in response.text
    assert Page(response).text.count("inner.example") > 10


@pytest.mark.parametrize("host", ["evil" * 16, "evil..example", ".evil.example"])
def test_empty_and_overlong_labels_are_not_shown(host: str) -> None:
    """A name with an empty label, or with one of more than 63 characters, is refused or passed over, never shown."""
    response = get({"HTTP_HOST": host})
    assert response.status_code in (200, 400)  # 400 is Werkzeug's answer, before the page is asked
    assert "evil" not in response.text
    assert base_url({"HTTP_X_FORWARDED_HOST": host}) == f"{OWN}/v1"


def test_a_server_without_a_name_says_localhost() -> None:
    """Behind a Unix socket the server's own name comes from Host as well: what is no name becomes localhost."""
    assert base_url({"HTTP_HOST": "<b>", "SERVER_NAME": "<b>", "SERVER_PORT": ""}) == "http://localhost/v1"


def test_long_hosts_are_judged_quickly() -> None:
    """The pattern of a host has no input on which it takes long."""
    for host in ("a" * 60_000, "a." * 30_000, "a-" * 30_000 + "!", "1" * 60_000 + ":"):
        assert base_url({"HTTP_X_FORWARDED_HOST": host}) == f"{OWN}/v1"


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("http://chat.example.com", True),
        ("http://localhost.example.com", True),
        ("https://chat.example.com", False),
        ("http://localhost:8000", False),
        ("http://127.0.0.1:8000", False),
        ("http://[::1]:8000", False),
    ],
)
def test_plain_http_is_warned_of(address: str, warned: bool) -> None:
    """The page says that keys travel unencrypted, except over TLS and to this machine."""
    scheme, _, host = address.partition("://")
    assert ("unencrypted" in get({"HTTP_HOST": host, "HTTP_X_FORWARDED_PROTO": scheme}).text) is warned


# --------------------------------------------------------------------------------------------------------------- safety


@pytest.mark.parametrize("accept", [BROWSER, "*/*"])
def test_the_security_headers(accept: str) -> None:
    """Nothing may be loaded, framed, submitted, sniffed, referred to or kept; and there is no cookie."""
    headers = get(accept=accept).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
    assert set(policy) == {"default-src", "style-src", "base-uri", "form-action", "frame-ancestors"}
    assert {value for name, value in policy.items() if name != "style-src"} == {"'none'"}
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Vary"] == "Accept, X-Forwarded-Host, X-Forwarded-Proto"
    assert "Set-Cookie" not in headers


def test_the_policy_allows_this_style_sheet_and_no_other() -> None:
    """style-src is the hash of the one style element as it is served, with no word more."""
    response = get(AT_ROOT)
    (style,) = re.findall(r"<style>(.*?)</style>", response.text, re.DOTALL)
    digest = b64encode(sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}';" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """No scripts, images, forms, style attributes or style sheets; links lead here or, unreferred, to Mistral."""
    page = Page(get(AT_ROOT))
    assert not {"script", "link", "img", "iframe", "object", "form", "base", "svg"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name in ("style", "src", "srcset") or name.startswith("on")]
    links = list(page.of("a"))
    assert len(links) >= 3
    for link in links:
        outside = re.match(r"https://(docs|console)\.mistral\.ai/", link["href"])
        assert link["rel"] == "noreferrer" if outside else link["href"] == f"{ROOT}/health"
    style = get().text.partition("<style>")[2].partition("</style>")[0]
    assert not re.search(r"url\(|@import|@font-face", style)


def test_settings_are_escaped() -> None:
    """What the server was started with is text on the page, never markup."""
    response = get(app=make_app(upstreams={"": "https://a.example/<i>", "x<i>": "<i>"}, allow=["<i>"], drop=["</p>"]))
    assert "<i>" not in response.text
    assert Page(response).text.count("<i>") >= 4


# -------------------------------------------------------------------------------------------------------- what it says


@pytest.mark.parametrize(
    "options", [{}, {"fields": "current"}, {"upstreams": {}, "own_key": False, "translate": False, "strict": True}]
)
def test_the_page_is_proper_html(options: dict[str, Any]) -> None:
    """Tags match, ids are unique, sections are labelled, headings leave no level out, the landmarks are there, once."""
    page = Page(get(AT_ROOT, app=make_app(**options)))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert [section["aria-labelledby"] for section in page.of("section")] == ids
    tags = [tag for tag, _ in page.elements]
    assert [tags.count(tag) for tag in ("html", "head", "title", "body", "header", "main", "footer", "h1")] == [1] * 8
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert next(page.of("html")) == {"lang": "en"}
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in list(page.of("meta"))
    assert all(head["scope"] in ("row", "col") for head in page.of("th"))


@pytest.mark.parametrize("fields", CHAT_FIELDS)
def test_the_page_is_small(fields: str) -> None:
    """With a long name and several upstreams the page stays below 14 KB, what a server sends before it waits for an answer."""
    upstreams = {"": UPSTREAMS[""], **{f"upstream-{n}": f"https://upstream-{n}.example.com" for n in range(4)}}
    response = get({"HTTP_HOST": "a-rather-long-name.apps.example.com"}, app=make_app(fields=fields, upstreams=upstreams))
    assert 4_000 < len(response.data) < 14_000


def test_colours_can_be_told_apart() -> None:
    """Every text colour has a contrast of 4.5 or more (WCAG AA) on both backgrounds, light and dark."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    schemes = [dict(re.findall(r"--(\w+): #([0-9a-f]{6})", line)) for line in get().text.splitlines() if ":root" in line]
    assert len(schemes) == 2
    for scheme in schemes:
        for text in ("ink", "soft", "link"):
            for ground in ("paper", "code"):
                light, dark = sorted((luminance(scheme[text]), luminance(scheme[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_each_upstream_has_a_base_url() -> None:
    """The page shows the base URL of the main upstream first, and one for each named one, with where it leads."""
    page = Page(get(AT_ROOT))
    assert page.snippets[0] == f"{ROOT}/v1"
    assert setting(page, "codestral") == (f"{ROOT}/codestral/v1", [f"{ROOT}/codestral/v1"])
    assert "Further upstreams" not in get(app=make_app(upstreams={"": UPSTREAMS[""]})).text


def test_the_curl_snippet_can_be_pasted() -> None:
    """A shell reads the curl snippet as meant, and the filter does to its body what the page says of it."""
    flag, url, *headers, data, body = arguments(Page(get(AT_ROOT)).snippet("curl -i"))
    assert (flag, url, data) == ("-i", f"{ROOT}/v1/chat/completions", "-d")
    assert headers == ["-H", "Authorization: Bearer KEY", "-H", "Content-Type: application/json"]
    assert list(json.loads(body))[-2:] == ["max_completion_tokens", "user"]
    assert {change.path for change in filter_body(body.encode(), "chat").changes} == {"max_completion_tokens", "user"}


def test_the_explain_snippet_can_be_pasted() -> None:
    """A shell reads it as meant, and its body shows a translation and a drop."""
    url, data, body = arguments(Page(get(AT_ROOT)).snippet(f"curl '{ROOT}/explain"))
    assert (url, data) == (f"{ROOT}/explain/chat", "-d")
    assert {(change.action, change.path) for change in filter_body(body.encode(), "chat").changes} == {
        ("rename", "seed"),
        ("drop", "logit_bias"),
    }


def test_the_python_snippet_can_be_pasted() -> None:
    """It is Python, and gives the base URL to the client."""
    tree = ast.parse(Page(get(AT_ROOT)).snippet("import os"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "OpenAI"]
    assert [{word.arg: ast.unparse(word.value) for word in call.keywords} for call in calls] == [
        {"base_url": repr(f"{ROOT}/v1"), "api_key": "os.environ['MISTRAL_API_KEY']"}
    ]


def test_every_client_has_a_setting() -> None:
    """Each row names its clients and what to set, and whoever needs another form than ``…/v1`` is given that."""
    page = Page(get(AT_ROOT))
    assert len(page.rows) > 10
    assert all(head.strip() and codes and all(codes) for head, _, codes in page.rows)
    for client in ("NextChat", "Cherry Studio"):
        assert setting(page, client)[1][0] == ROOT
    assert setting(page, "own SDKs")[1][0] == f'server_url="{ROOT}"'
    for client in ("TypingMind", "Immersive Translate"):
        assert setting(page, client)[1] == [f"{ROOT}/v1/chat/completions"]
    for client in ("Cline", "Roo", "LibreChat", "Open WebUI", "SillyTavern"):
        assert setting(page, client)[1] == [f"{ROOT}/v1"]
    assert setting(page, "AI SDK")[1] == [f'createOpenAI({{baseURL: "{ROOT}/v1"}}).chat("mistral-small-latest")']
    assert 'set_default_openai_api("chat_completions")' in setting(page, "openai-agents")[1]
    assert "is_chat_model=True" in setting(page, "LlamaIndex")[1]


def test_the_readme_names_no_client_that_the_page_does_not() -> None:
    """The table of clients here has every name of README.md's."""
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    table = re.findall(r"^\| ([^|]+) \|", readme.partition("## Clients")[2].partition("\n## ")[0], re.MULTILINE)[1:]
    heads = " ".join(head for head, _, _ in Page(get()).rows).replace("\u2019", "'")
    names = [name.strip() for row in table for name in re.sub(r" \(.*?\)|`", "", row).split(",")]
    assert len(names) > 10
    assert [name for name in names if name not in heads] == []


@pytest.mark.parametrize("fields", CHAT_FIELDS)
def test_the_lists_are_the_ones_in_use(fields: str) -> None:
    """What the page calls kept is the list in use, and what it calls dropped is what the filter drops."""
    text = Page(get(app=make_app(fields=fields))).text
    lists = text.partition(f"the list “{fields}”")[2]
    kept, _, dropped, *_ = re.split("Translated|Everything else, such as|Mistral takes some|And yours", lists)
    assert kept.split() == list(CHAT_FIELDS[fields].fields)
    assert len(dropped.split()) >= 5
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **dict.fromkeys(dropped.split(), 7)}
    assert sorted(json.loads(filter_body(json.dumps(body).encode(), "chat", fields=fields).body)) == ["messages", "model"]


def test_settings_change_the_lists() -> None:
    """Fields that the server is told to keep or to drop stand where they belong, and drop wins, as in the filter."""
    app = make_app(allow=["n", "presence_penalty"], drop=["safe_prompt", "n"])
    summary = json.loads(get(accept="*/*", app=app).data)
    assert summary["fields"] == [*list(CHAT_FIELDS["classic"].fields)[:-1], "presence_penalty"]
    dropped = Page(get(app=app)).text.partition("Everything else, such as")[2].split()
    assert dropped[:2] == ["safe_prompt", "n"]
    assert "presence_penalty" not in dropped


def test_the_page_says_what_the_switches_do() -> None:
    """Without translation none is promised; strict says refused; a key that the server holds is not said to pass through."""
    usual, other = get().text, get(app=make_app(translate=False, strict=True, own_key=False)).text
    for sentence in ("<h3>Translated</h3>", "<h3>Dropped</h3>", "Your key passes through to https://api.mistral.ai,"):
        assert sentence in usual
        assert sentence not in other
    for sentence in ("refuses what would be lost", "the key for Mistral stays here"):
        assert sentence in other
        assert sentence not in usual
    assert usual.count("Nothing is stored") == other.count("Nothing is stored") == 1
