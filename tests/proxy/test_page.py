"""The page at ``/``: what it says, to whom in which form, and that no request can put anything of its own into it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from test_places import bodies
from werkzeug.test import TestResponse

from mistral_filter import __version__, filter_body
from mistral_filter.errors import MistralFilterError
from mistral_filter.explain import explain
from mistral_filter.fields import CHAT_FIELDS, ENDPOINTS
from mistral_filter.proxy import page as page_package
from mistral_filter.proxy.page import LANGUAGES, create_page

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
UPSTREAMS = {"": "https://api.mistral.ai", "codestral": "https://codestral.mistral.ai"}
OWN = "http://server.internal:8000"
ROOT = "https://chat.example.com/mistral"
NOTHING: Mapping[str, str] = {}
FILES = Path(page_package.__file__).parent
TEXTS = {language: json.loads((FILES / f"{language}.json").read_text("utf-8")) for language in LANGUAGES}
CLIENTS = json.loads((FILES / "clients.json").read_text("utf-8"))
SAMPLES = json.loads((FILES / "samples.json").read_text("utf-8"))
CHINESE = "zh-CN,zh;q=0.9,en;q=0.8"
AT_ROOT = {"HTTP_HOST": "chat.example.com", "HTTP_X_FORWARDED_PROTO": "https", "SCRIPT_NAME": "/mistral"}


def make_app(**options: Any) -> Flask:
    app = Flask("page_test", static_folder=None)
    app.register_blueprint(create_page(**{"fields": "classic", "upstreams": UPSTREAMS, **options}))
    return app


_usual_app = cache(make_app)  # the template is compiled once for each application


def get(
    environ: Mapping[str, str] = NOTHING,
    *,
    accept: str = BROWSER,
    method: str = "GET",
    app: Flask | None = None,
    path: str = "/",
) -> TestResponse:
    """*path* as a server named ``OWN`` answers it; *environ* are further WSGI variables, headers among them."""
    own = {"SERVER_NAME": "server.internal", "SERVER_PORT": "8000", "HTTP_HOST": "", "HTTP_ACCEPT": accept}
    client = (app or _usual_app()).test_client()
    return client.open(path, method=method, environ_overrides={**own, **environ})


def base_url(environ: Mapping[str, str]) -> str:
    response = get(environ, accept="application/json")
    assert response.status_code == 200
    assert isinstance(response.json, dict)
    return str(response.json["base_url"])


class Page(HTMLParser):
    """The parts of a page that tests look at; fails on tags that do not match, and on what no page of ours may hold."""

    VOID = ("meta", "input")

    def __init__(self, response: TestResponse) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.snippets: list[str] = []
        self.inside: dict[str, str] = {}
        """The text of each element that has an id."""
        self.clients: dict[str, list[str]] = {}
        """The settings of each client."""
        self._ids: list[str] = []
        self.feed(response.text)
        self.close()
        assert self.open == [], "elements that are never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"an attribute twice on {tag}"
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        self.inside.setdefault(attributes.get("id", ""), "")
        if tag in self.VOID:
            return
        self.open.append(tag)
        self._ids.append(attributes.get("id", ""))
        if tag == "pre":
            self.snippets.append("")
            for client in self._clients():
                self.clients.setdefault(client, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert [tag] == self.open[-1:], f"</{tag}> closes something else"
        self.open.pop()
        self._ids.pop()

    def handle_data(self, data: str) -> None:
        for name in filter(None, self._ids):
            self.inside[name] += data
        if "style" in self.open or "script" in self.open:
            return
        self.text += data
        if "pre" in self.open:
            self.snippets[-1] += data
            for client in self._clients():
                self.clients[client][-1] += data

    def _clients(self) -> list[str]:
        return [name.removeprefix("client-") for name in self._ids if name.startswith("client-")]

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
        ({"HTTP_X_FORWARDED_PREFIX": "/ai"}, f"{OWN}/ai"),
        ({"HTTP_X_FORWARDED_PREFIX": "/ai/"}, f"{OWN}/ai"),
        ({"HTTP_X_FORWARDED_PREFIX": "/team/ai, /inner"}, f"{OWN}/team/ai"),
        ({"HTTP_X_FORWARDED_PREFIX": "/ai", "SCRIPT_NAME": "/mount"}, f"{OWN}/ai/mount"),
        ({"HTTP_X_FORWARDED_PREFIX": "/ai", "SCRIPT_NAME": "/ai"}, f"{OWN}/ai"),
        ({"HTTP_X_FORWARDED_PREFIX": "/ai", "SCRIPT_NAME": "/ai/mount"}, f"{OWN}/ai/mount"),
        ({"HTTP_X_FORWARDED_PREFIX": "/"}, OWN),
        ({"HTTP_X_FORWARDED_PREFIX": "ai"}, OWN),
        ({"HTTP_X_FORWARDED_PREFIX": "//evil.example"}, OWN),
        ({"HTTP_X_FORWARDED_PREFIX": "/a/../b"}, OWN),
        ({"HTTP_X_FORWARDED_PREFIX": "/<script>"}, OWN),
        ({"HTTP_X_FORWARDED_PREFIX": "/'x"}, OWN),
        ({"HTTP_X_FORWARDED_PREFIX": "/" + "a" * 300}, OWN),
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
        assert base_url({"HTTP_X_FORWARDED_PREFIX": "/" + host}) == f"{OWN}/v1"


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
    page = Page(get({"HTTP_HOST": host, "HTTP_X_FORWARDED_PROTO": scheme}))
    assert ("unencrypted" in page.text) is ("plain" in page.inside) is warned


# --------------------------------------------------------------------------------------------------------------- safety


@pytest.mark.parametrize("accept", [BROWSER, "*/*"])
def test_the_security_headers(accept: str) -> None:
    """Nothing may be loaded, framed, submitted, sniffed, referred to or kept; and there is no cookie."""
    headers = get(accept=accept).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
    assert re.fullmatch("'sha256-[A-Za-z0-9+/=]{44}'", policy.pop("style-src"))
    assert re.fullmatch("'sha256-[A-Za-z0-9+/=]{44}'", policy.pop("script-src"))
    assert policy.pop("connect-src") == "'self'"
    assert policy.pop("require-trusted-types-for") == "'script'"  # no text can become markup
    assert set(policy) == {"default-src", "trusted-types", "base-uri", "form-action", "frame-ancestors"}
    assert set(policy.values()) == {"'none'"}
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Vary"] == "Accept, Accept-Language, X-Forwarded-Host, X-Forwarded-Prefix, X-Forwarded-Proto"
    assert "Set-Cookie" not in headers


@pytest.mark.parametrize("language", ["en", CHINESE])
@pytest.mark.parametrize(("tag", "directive"), [("<style>", "style-src"), ('<script type="module">', "script-src")])
def test_the_policy_allows_this_text_and_no_other(tag: str, directive: str, language: str) -> None:
    """Each is the hash of the one style element or script as it is served, with no word more."""
    response = get({**AT_ROOT, "HTTP_ACCEPT_LANGUAGE": language})
    (text,) = re.findall(f"{tag}(.*?)</", response.text, re.DOTALL)
    digest = b64encode(sha256(text.encode()).digest()).decode()
    assert f"{directive} 'sha256-{digest}';" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """No images, style attributes, handlers or foreign scripts; links lead here or, unreferred, to Mistral."""
    page = Page(get(AT_ROOT))
    assert not {"link", "img", "iframe", "object", "base", "svg"} & {tag for tag, _ in page.elements}
    assert [script["type"] for script in page.of("script")] == ["application/json", "module"]
    for _, attributes in page.elements:
        assert not [name for name in attributes if name in ("style", "src", "srcset", "action") or name.startswith("on")]
    for link in page.of("a"):
        outside = re.match(r"https://(docs|console)\.mistral\.ai/", link["href"])
        own = link["href"] in (f"{ROOT}/health", "?lang=zh") or link["href"].removeprefix("#") in page.inside
        assert link["rel"] == "noreferrer" if outside else own
    text = "".join((FILES / name).read_text("utf-8") for name in ("page.css", "page.js", "page.html"))
    assert not re.search(
        r"url\(|@import|@font-face|innerHTML|insertAdjacent|document\.write|eval\(|https?://(?!console|docs)", text
    )


def test_what_the_script_is_given_cannot_end_its_element() -> None:
    """The data for the script is JSON in which no < stands as itself."""
    page = Page(get({**AT_ROOT, "SCRIPT_NAME": "/</script><b>"}))
    assert "<" not in page.inside["data"]
    assert json.loads(page.inside["data"])["root"].startswith("https://chat.example.com/")


def test_settings_are_escaped() -> None:
    """What the server was started with is text on the page, never markup."""
    response = get(app=make_app(upstreams={"": "https://a.example/<i>", "x<i>": "<i>"}, allow=["<i>"], drop=["</p>"]))
    assert "<i>" not in response.text
    assert Page(response).text.count("<i>") >= 4


# -------------------------------------------------------------------------------------------------------- what it says


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "options", [{}, {"fields": "current"}, {"upstreams": {}, "own_key": False, "translate": False, "strict": True}]
)
def test_the_page_is_proper_html(options: dict[str, Any], language: str) -> None:
    """Tags match, ids are unique, sections are labelled, headings leave no level out, the landmarks are there, once."""
    page = Page(get({**AT_ROOT, "HTTP_ACCEPT_LANGUAGE": language}, app=make_app(**options)))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert [section["id"] for section in page.of("section")] == ["start", "inspector", "try"]
    assert all(section["aria-label"] for section in page.of("section"))
    tags = [tag for tag, _ in page.elements]
    assert [tags.count(tag) for tag in ("html", "head", "title", "body", "header", "main", "footer", "h1")] == [1] * 8
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert next(page.of("html")) == {"lang": "zh-Hans" if language == "zh" else "en"}
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in list(page.of("meta"))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("fields", CHAT_FIELDS)
def test_the_page_is_small(fields: str, language: str) -> None:
    """With a long name and several upstreams the page, script and style included, stays below 72 KB."""
    upstreams = {"": UPSTREAMS[""], **{f"upstream-{n}": f"https://upstream-{n}.example.com" for n in range(4)}}
    environ = {"HTTP_HOST": "a-rather-long-name.apps.example.com", "HTTP_ACCEPT_LANGUAGE": language}
    assert 10_000 < len(get(environ, app=make_app(fields=fields, upstreams=upstreams)).data) < 72 * 1024


def test_colours_can_be_told_apart() -> None:
    """Every text colour has a contrast of 4.5 or more (WCAG AA) on each of its backgrounds, light and dark."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    style = (FILES / "page.css").read_text("utf-8")
    schemes = [dict(re.findall(r"--(\w+): #([0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)]
    assert len(schemes) == 2
    assert schemes[0].keys() == schemes[1].keys()
    pairs = [(text, ground) for text in ("ink", "soft", "link", "good", "warn", "bad") for ground in ("paper", "code")]
    pairs += [(text, f"{loss}bg") for loss in ("good", "warn", "bad") for text in ("ink", loss)]
    pairs += [("on", "fill"), ("paper", "bad")]
    for scheme in schemes:
        for text, ground in pairs:
            light, dark = sorted((luminance(scheme[text]), luminance(scheme[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


# ----------------------------------------------------------------------------------------------------------- languages


@pytest.mark.parametrize(
    ("accepted", "path", "expected"),
    [
        (CHINESE, "/", "zh"),
        ("zh-TW", "/", "zh"),
        ("zh-Hans-CN", "/", "zh"),
        ("fr, zh;q=0.5", "/", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.8", "/", "en"),
        ("fr", "/", "en"),
        ("", "/", "en"),
        ("*", "/", "en"),
        ("}{;q=x", "/", "en"),
        ("en", "/?lang=zh", "zh"),
        (CHINESE, "/?lang=en", "en"),
        (CHINESE, "/?lang=<b>", "zh"),
    ],
)
def test_the_language_is_the_readers(accepted: str, path: str, expected: str) -> None:
    """Accept-Language decides, the switch overrides it, and English is for readers of neither."""
    page = Page(get({"HTTP_ACCEPT_LANGUAGE": accepted}, path=path))
    assert TEXTS[expected]["lead"] in page.text
    (switch,) = (link for link in page.of("a") if link["href"].startswith("?lang="))
    assert switch["href"] == ("?lang=en" if expected == "zh" else "?lang=zh")


def test_both_languages_say_the_same() -> None:
    """Every text is there in both, with the same places for values and the same code in it; Chinese ones are Chinese."""

    def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
        if isinstance(value, str):
            yield path, value
            return
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{path}.{key}")

    english, chinese = ({**TEXTS[language]} for language in LANGUAGES)
    assert english.pop("reasons") == {}  # they are written in English
    reasons = chinese.pop("reasons")
    texts, translated = dict(leaves(english)), dict(leaves(chinese))
    assert list(texts) == list(translated)
    for path, text in texts.items():
        for pattern in (r"\{\d?\}", r"`[^`]+`"):
            assert sorted(re.findall(pattern, text)) == sorted(re.findall(pattern, translated[path])), path
    chinese_only = [text for path, text in translated.items() if path not in (".other_language", ".main_upstream")]
    assert [text for text in [*chinese_only, *reasons.values()] if not re.search("[\u4e00-\u9fff\uff01-\uff60]", text)] == []


def test_most_reasons_have_a_chinese_form() -> None:
    """Over the bodies of the rules and of the recorded clients, most are in the table; the others are shown in English."""
    reasons = TEXTS["zh"]["reasons"]
    given: list[str] = []
    for body, endpoint, options in bodies():
        with suppress(MistralFilterError):
            given += [change.reason for change in filter_body(json.dumps(body).encode(), endpoint, **options).changes]
    assert len(given) > 300
    parts = [reason.split(": ") for reason in given]
    assert sum(all(part in reasons for part in split) for split in parts) > 0.85 * len(given)
    known = {part for split in parts for part in split}
    assert len(reasons.keys() - known) < 0.3 * len(reasons)  # few have outlived the rule that gave them


def test_no_text_is_left_over() -> None:
    """Each text is used by the template or by the script, and they use no other."""
    html, script = ((FILES / name).read_text("utf-8") for name in ("page.html", "page.js"))
    used = set(re.findall(r"\bt\.(\w+)", html)) | {f"group_{group['id']}" for group in CLIENTS["groups"]}
    assert used | {"js", "reasons"} == TEXTS["en"].keys()
    assert set(re.findall(r"\bt\.(\w+)", script)) == TEXTS["en"]["js"].keys()


# ------------------------------------------------------------------------------------------------------------ contents


def test_each_upstream_has_a_base_url() -> None:
    """The page shows the base URL of the main upstream first, and one for each named one, with where it leads."""
    page = Page(get(AT_ROOT))
    assert page.snippets[0] == f"{ROOT}/v1"
    assert page.snippets[1] == f"{ROOT}/codestral/v1"
    assert "codestral (https://codestral.mistral.ai)" in page.text
    assert "upstream" in page.inside
    alone = Page(get(app=make_app(upstreams={"": UPSTREAMS[""]})))
    assert "Further upstreams" not in alone.text
    assert "upstream" not in alone.inside


@pytest.mark.parametrize("named", ["sandbox", "codestral"])
def test_the_hint_at_the_stand_in_is_for_servers_that_have_it(named: str) -> None:
    """Its keys are only told where it can be asked; its address there is of no use to a reader."""
    text = Page(get(app=make_app(upstreams={**UPSTREAMS, named: "http://127.0.0.1:8001"}))).text
    assert (f"sandbox ({TEXTS['en']['stand_in']})" in text) is (named == "sandbox")
    assert ("8001" in text) is (named != "sandbox")
    assert ("stand-in" in Page(get(app=make_app(upstreams={**UPSTREAMS, named: "http://127.0.0.1:8001"}))).text) is (
        named == "sandbox"
    )


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


ISSUE = (
    "Cursor, Codex CLI, Continue, Cline, Roo, opencode, Zed, NextChat, LobeChat, Cherry Studio, Chatbox, Open WebUI, LibreChat, "
    "SillyTavern, TypingMind, Immersive Translate, openai, LangChain, LlamaIndex, LiteLLM, AI SDK, openai-agents, pydantic-ai"
).split(", ")
"""The clients that have to be there."""


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_client_has_a_tab_with_its_setting(language: str) -> None:
    """Each client has a link to its panel, a setting that is complete, and what is known of it; none is forgotten."""
    page = Page(get({**AT_ROOT, "HTTP_ACCEPT_LANGUAGE": language}))
    clients = [client for group in CLIENTS["groups"] for client in group["clients"]]
    names = [client["name"] for client in clients]
    assert [name for name in ISSUE if not any(known.startswith(name) for known in names)] == []
    assert list(page.clients) == [client["id"] for client in clients]
    for client in clients:
        assert {"href": f"#client-{client['id']}"} in list(page.of("a"))
        assert f"{ROOT}" in "".join(page.clients[client["id"]])
        text = page.inside[f"client-{client['id']}"]
        assert client["notes"][language]
        assert all(note.replace("`", "") in text for note in client["notes"][language])
    assert not re.search(r"\{(base|root|model)\}", "".join(page.snippets))


def test_clients_that_need_another_form_are_given_that() -> None:
    """Without /v1, with the whole path, or with what else a client needs (CLIENTS table of 2026-11-27)."""
    clients = Page(get(AT_ROOT)).clients
    assert clients["nextchat"][0] == clients["cherry-studio"][0] == ROOT
    assert clients["mistralai"][0] == f'Mistral(server_url="{ROOT}", api_key=KEY)'
    assert clients["typingmind"][0] == clients["immersive-translate"][0] == f"{ROOT}/v1/chat/completions"
    for name in ("cline", "roo", "open-webui", "sillytavern", "cursor", "chatbox", "lobechat"):
        assert clients[name][0] == f"{ROOT}/v1"
    assert f'createOpenAI({{baseURL: "{ROOT}/v1", apiKey: KEY}}).chat("mistral-small-latest")' in clients["ai-sdk"]
    assert 'set_default_openai_api("chat_completions")' in clients["openai-agents"]
    assert "is_chat_model=True" in clients["llamaindex"][0]
    assert "check_embedding_ctx_length=False" in clients["langchain"][1]
    assert json.loads(clients["opencode"][0])["provider"]["mistral-filter"]["options"]["baseURL"] == f"{ROOT}/v1"
    assert json.loads(clients["zed"][0])["language_models"]["openai_compatible"]["Mistral Filter"]["api_url"] == f"{ROOT}/v1"
    assert "provider: mistral\n" in clients["continue"][1]  # Continue's provider openai knows no FIM (core/llm/llms, 2026-06)
    assert f'base_url = "{ROOT}/v1"' in clients["codex"][0]
    assert 'wire_api = "responses"' in clients["codex"][0]


def test_the_clients_are_one_table() -> None:
    """clients.json has one form throughout: others read it, too."""
    assert CLIENTS.keys() == {"listed", "model", "groups"}
    for group in CLIENTS["groups"]:
        assert group.keys() == {"id", "clients"}
        for client in group["clients"]:
            assert client.keys() == {"id", "name", "settings", "notes"}
            assert re.fullmatch("[a-z0-9-]+", client["id"])
            assert list(client["notes"]) == list(LANGUAGES)
            assert len({len(notes) for notes in client["notes"].values()}) == 1
            for setting in client["settings"]:
                assert setting.keys() == {"label", "code"}
                assert setting["label"] is None or list(setting["label"]) == list(LANGUAGES)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["id"])
def test_every_sample_shows_changes(sample: dict[str, Any]) -> None:
    """The inspector's samples are bodies in which the filter changes several things, none of them refused."""
    endpoint = sample["endpoint"] if sample["endpoint"] in ENDPOINTS else "chat"
    explanation = explain(json.dumps(sample["body"]).encode(), endpoint)
    assert explanation.error is None
    assert len(explanation.changes) >= 3


def test_the_inspector_offers_every_endpoint_and_list() -> None:
    """It takes them from the tables, and begins with the list in use."""
    page = Page(get(app=make_app(fields="current")))
    assert page.inside["endpoint"] == "".join(ENDPOINTS)
    assert page.inside["list"] == "".join(CHAT_FIELDS)
    assert [option for option in page.of("option") if "selected" in option] == [{"selected": ""}]
    assert "<option selected>current</option>" in get(app=make_app(fields="current")).text


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/explain/chat", f"{ROOT}/?endpoint=chat#inspector"),
        ("/explain/chat/moderations", f"{ROOT}/?endpoint=chat/moderations#inspector"),
        ("/explain/nothing", f"{ROOT}/#inspector"),
        ("/explain", f"{ROOT}/?endpoint=chat#inspector"),
    ],
)
def test_explain_in_a_browser_leads_to_the_inspector(path: str, target: str) -> None:
    """A browser that opens the address of /explain gets the page instead of an error."""
    response = get(AT_ROOT, path=path)
    assert (response.status_code, response.headers["Location"]) == (303, target)


def test_explain_tells_a_program_that_it_takes_post() -> None:
    """A GET by what is no browser is a 405 that allows POST."""
    response = get(AT_ROOT, accept="*/*", path="/explain/chat")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST, OPTIONS")


@pytest.mark.parametrize("fields", CHAT_FIELDS)
def test_the_lists_are_the_ones_in_use(fields: str) -> None:
    """What the page calls kept is the list in use, and what it calls dropped is what the filter drops."""
    page = Page(get(app=make_app(fields=fields)))
    kept, dropped = page.inside["kept"].split(), page.inside["dropped"].removeprefix(TEXTS["en"]["everything_else"]).split()
    assert f"the list “{fields}”" in page.text
    assert kept == list(CHAT_FIELDS[fields].fields)
    assert len(dropped) >= 5
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **dict.fromkeys(dropped, 7)}
    assert sorted(json.loads(filter_body(json.dumps(body).encode(), "chat", fields=fields).body)) == ["messages", "model"]


def test_settings_change_the_lists() -> None:
    """Fields that the server is told to keep or to drop stand where they belong, and drop wins, as in the filter."""
    app = make_app(allow=["n", "presence_penalty"], drop=["safe_prompt", "n"])
    summary = json.loads(get(accept="*/*", app=app).data)
    assert summary["fields"] == [*list(CHAT_FIELDS["classic"].fields)[:-1], "presence_penalty"]
    dropped = Page(get(app=app)).inside["dropped"].removeprefix(TEXTS["en"]["everything_else"]).split()
    assert dropped[:2] == ["safe_prompt", "n"]
    assert "presence_penalty" not in dropped


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_says_what_the_switches_do(language: str) -> None:
    """Without translation none is promised; strict says refused; a key that the server holds is not said to pass through."""
    texts, environ = TEXTS[language], {"HTTP_ACCEPT_LANGUAGE": language}
    usual = Page(get(environ)).text
    other = Page(get(environ, app=make_app(translate=False, strict=True, own_key=False))).text
    passes = texts["key_passes_named"].format("https://api.mistral.ai")
    for sentence in (
        texts["translated"] + "\n",
        texts["dropped"] + "\n",
        passes,
        texts["give_own"],
        texts["lead"],
        texts["try_lead"],
    ):
        assert sentence in usual
        assert sentence not in other
    for sentence in (
        texts["lead_strict"],
        texts["refused"],
        texts["key_stays"],
        texts["give_token"],
        texts["token"],
        texts["try_lead_token"],
    ):
        assert sentence in other
        assert sentence not in usual
    assert ("MISTRAL_API_KEY" in usual, "FILTER_TOKEN" in usual, "YOUR_KEY" in usual) == (True, False, True)
    assert ("MISTRAL_API_KEY" in other, "FILTER_TOKEN" in other, "YOUR_KEY" in other) == (False, True, False)
    assert usual.count(texts["nothing_stored"]) == other.count(texts["nothing_stored"]) == 1
