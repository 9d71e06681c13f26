"""The settings: their defaults, what they take, and that a wrong one stops the start by its name."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import certifi
import pytest

from mistral_filter.proxy.cors import origin_patterns
from mistral_filter.proxy.settings import SETTINGS, SettingError, Settings, from_environment, misspelt_variables, new_warnings

ROOT = Path(__file__).resolve().parent.parent.parent

DEFAULTS: dict[str, Any] = {
    "upstream": "https://api.mistral.ai",
    "upstreams": {"codestral": "https://codestral.mistral.ai"},
    "fields": "classic",
    "allow": (),
    "drop": (),
    "translate": True,
    "bridge": False,
    "strict": False,
    "models": {},
    "learn": True,
    "reasoning": "openai",
    "api_key": None,
    "api_keys": {},
    "tokens": (),
    "max_body": 32 * 1024 * 1024,
    "body_budget": 64 * 1024 * 1024,
    "cors_origins": ("*",),
    "connect_timeout": 10.0,
    "read_timeout": 600.0,
    "total_timeout": None,
    "send_timeout": 60.0,
    "body_timeout": 120.0,
    "heartbeat": None,
    "patience": 0.0,
    "concurrency": 1000,
    "proxy": None,
    "ca_bundle": None,
    "log_level": "INFO",
    "log_format": "text",
    "metrics": False,
}
"""By hand."""


def variable(name: str) -> str:
    return "MISTRAL_FILTER_" + name.upper()


def read(name: str, text: str) -> Any:
    return getattr(from_environment({variable(name): text}), name)


def test_without_an_environment_everything_has_its_default() -> None:
    """An empty environment gives the documented defaults."""
    assert dataclasses.asdict(from_environment({})) == DEFAULTS


def test_every_setting_has_a_variable() -> None:
    """What ``create_app`` takes as Settings can be set in the environment, and the other way round."""
    assert [setting.name for setting in SETTINGS] == [field.name for field in dataclasses.fields(Settings)]
    assert [setting.variable for setting in SETTINGS] == [variable(name) for name in DEFAULTS]


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_empty_variable_is_not_set(name: str) -> None:
    """Platforms that set empty variables get the defaults."""
    assert read(name, "") == read(name, "  ") == DEFAULTS[name]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("upstream", "https://api.eu.mistral.ai", "https://api.eu.mistral.ai"),
        ("upstream", "https://api.eu.mistral.ai/", "https://api.eu.mistral.ai"),
        ("upstream", " https://gateway.example.com:8443 ", "https://gateway.example.com:8443"),
        ("upstream", "http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("upstream", "http://localhost:9000", "http://localhost:9000"),
        ("upstream", "http://[::1]:9000", "http://[::1]:9000"),
        (
            "upstreams",
            "eu=https://api.eu.mistral.ai",
            {"codestral": "https://codestral.mistral.ai", "eu": "https://api.eu.mistral.ai"},
        ),
        (
            "upstreams",
            "codestral=https://api.mistral.ai/ b-2=http://localhost:1",
            {"codestral": "https://api.mistral.ai", "b-2": "http://localhost:1"},
        ),
        ("fields", "classic", "classic"),
        ("fields", "current", "current"),
        ("allow", "n", ("n",)),
        ("allow", "n, metadata top_k", ("n", "metadata", "top_k")),
        ("drop", "safe_prompt", ("safe_prompt",)),
        ("translate", "off", False),
        ("translate", "On", True),
        ("bridge", "on", True),
        ("strict", "on", True),
        ("models", "gpt-4o=mistral-large-latest", {"gpt-4o": "mistral-large-latest"}),
        ("models", " gpt-*=small  gpt-4o=large,*=small ", {"gpt-*": "small", "gpt-4o": "large", "*": "small"}),
        ("models", "mistral-large-latest=mistral-large-latest", {"mistral-large-latest": "mistral-large-latest"}),
        ("learn", "off", False),
        ("max_body", "1000", 1000),
        ("max_body", "64k", 65536),
        ("max_body", "32m", 32 << 20),
        ("max_body", "32MB", 32 << 20),
        ("body_budget", "32m", 32 << 20),
        ("body_budget", "1 GiB", 1 << 30),
        ("cors_origins", "*", ("*",)),
        ("cors_origins", "https://chat.example.com", ("https://chat.example.com",)),
        ("cors_origins", "https://a.example.com,http://localhost:3000", ("https://a.example.com", "http://localhost:3000")),
        ("cors_origins", "None", ()),
        ("cors_origins", "HTTPS://Chat.Example.com", ("https://chat.example.com",)),
        (
            "cors_origins",
            "https://a.example:443 http://a.example:80 http://a.example:443",
            ("https://a.example", "http://a.example", "http://a.example:443"),
        ),
        ("cors_origins", "http://[::1]:3000 https://[2001:DB8:0::1]", ("http://[::1]:3000", "https://[2001:db8::1]")),
        (
            "cors_origins",
            "app://obsidian.md app://. capacitor://localhost",
            ("app://obsidian.md", "app://.", "capacitor://localhost"),
        ),
        ("cors_origins", "tauri://localhost", ("tauri://localhost",)),
        ("reasoning", "mistral", "mistral"),
        ("connect_timeout", "0.5", 0.5),
        ("total_timeout", "300", 300.0),
        ("send_timeout", "off", None),
        ("body_timeout", "0", None),
        ("heartbeat", "15", 15.0),
        ("heartbeat", "Off", None),
        ("patience", "30", 30.0),
        ("patience", "0.5", 0.5),
        ("patience", "0", 0.0),
        ("patience", "OFF", 0.0),
        ("concurrency", "64", 64),
        ("concurrency", "off", None),
        ("log_format", "json", "json"),
        ("metrics", "on", True),
        ("read_timeout", "86400", 86400.0),
        ("proxy", "http://proxy.example.com:3128", "http://proxy.example.com:3128"),
        ("ca_bundle", certifi.where(), certifi.where()),
        ("log_level", "debug", "DEBUG"),
        ("log_level", "WARNING", "WARNING"),
    ],
)
def test_a_good_value_is_taken(name: str, text: str, value: Any) -> None:
    """Each setting takes its documented forms, and touches no other."""
    assert dataclasses.asdict(from_environment({variable(name): text})) == {**DEFAULTS, name: value}


WRONG = [
    ("upstream", "api.mistral.ai"),
    ("upstream", "ftp://api.mistral.ai"),
    ("upstream", "https://"),
    ("upstream", "https://api.mistral.ai/v1"),
    ("upstream", "https://api.mistral.ai?a=1"),
    ("upstream", "https://api.mistral.ai?"),
    ("upstream", "https://api.mistral.ai/?"),
    ("upstream", "https://api.mistral.ai#"),
    ("upstream", "https://api.mistral.ai#x"),
    ("upstream", "https://user:password@api.mistral.ai"),
    ("upstream", "https://user@api.mistral.ai"),
    ("upstream", "https://@api.mistral.ai"),
    ("upstream", "https://api.mistral.ai:port"),
    ("upstream", "https://api.mistral.ai:99999"),
    ("upstream", "https://api.mistral.ai:0"),
    ("upstream", "https://api mistral.ai"),
    ("upstream", "https://api.mistral.ai\\@evil.example"),
    ("upstream", "https://[::1"),
    ("upstream", "https://api.mistral.ai:\u0664\u0664\u0663"),
    ("upstream", "https://[::::]"),
    ("upstream", "http://api.mistral.ai"),
    ("upstream", "http://localhost.evil.example"),
    ("upstream", "http://127.0.0.1.evil.example"),
    ("upstream", "http://127.0.0.1@evil.example"),
    ("upstream", "http://10.0.0.1:8000"),
    ("upstream", "http://0.0.0.0:8000"),
    ("upstream", "on"),
    ("upstreams", "https://api.mistral.ai"),
    ("upstreams", "eu"),
    ("upstreams", "eu="),
    ("upstreams", "=https://api.mistral.ai"),
    ("upstreams", "EU=https://api.mistral.ai"),
    ("upstreams", "a/b=https://api.mistral.ai"),
    ("upstreams", "..=https://api.mistral.ai"),
    ("upstreams", "1a=https://api.mistral.ai"),
    ("upstreams", "v1=https://api.mistral.ai"),
    ("upstreams", "health=https://api.mistral.ai"),
    ("upstreams", "explain=https://api.mistral.ai"),
    ("upstreams", "models=https://api.eu.mistral.ai"),
    ("upstreams", "files=https://api.eu.mistral.ai"),
    ("upstreams", "agents=https://api.eu.mistral.ai"),
    ("upstreams", "eu=http://api.mistral.ai"),
    ("upstreams", "eu=https://api.mistral.ai/v1"),
    ("upstreams", "good=https://api.mistral.ai bad"),
    ("models", "gpt-4o"),
    ("models", "gpt-4o="),
    ("models", "=mistral-large-latest"),
    ("models", "gpt-4o=mistral-*"),
    ("models", "gpt-4o=a=b"),
    ("models", "gpt-4o=a gpt-4o=b"),
    ("models", "gpt-4o=a a=b"),
    ("models", "gpt-4o = mistral-large-latest"),
    ("fields", "Classic"),
    ("fields", "modern"),
    ("fields", "classic,current"),
    ("allow", "messages[0].name"),
    ("allow", "a.b"),
    ("allow", "é"),
    ("drop", "*"),
    ("translate", "yes"),
    ("translate", "1"),
    ("bridge", "true"),
    ("strict", "maybe"),
    ("learn", "none"),
    ("max_body", "0"),
    ("max_body", "-1"),
    ("max_body", "1.5m"),
    ("max_body", "32 apples"),
    ("max_body", "much"),
    ("body_budget", "0"),
    ("body_budget", "off"),
    ("body_budget", "64 bodies"),
    ("body_budget", "31m"),
    ("cors_origins", "chat.example.com"),
    ("cors_origins", "none https://chat.example.com"),
    ("cors_origins", "file://"),
    ("cors_origins", "file:///home/me/chat.html"),
    ("cors_origins", "data:text/html,x"),
    ("cors_origins", "blob://chat.example.com"),
    ("cors_origins", "ws://chat.example.com"),
    ("cors_origins", "http://[::1"),
    ("cors_origins", "http://[::1]x"),
    ("cors_origins", "http://[::1%25eth0]"),
    ("cors_origins", "http://[12345::]"),
    ("cors_origins", "http://::1"),
    ("cors_origins", "https://chat.example.com:0"),
    ("cors_origins", "https://chat.example.com:65536"),
    ("cors_origins", "https://"),
    ("cors_origins", "app://"),
    ("cors_origins", "app://*"),
    ("cors_origins", "app://a/b"),
    ("cors_origins", "chrome-extension://.*"),
    ("cors_origins", "://localhost"),
    ("cors_origins", "https://*.example.com"),
    ("cors_origins", "https://chat.example.com/"),
    ("cors_origins", "https://chat.example.com/x"),
    ("cors_origins", ".*"),
    ("cors_origins", "https://.example.com"),
    ("cors_origins", "https://a.example.com|https://b.example.com"),
    ("cors_origins", "* https://chat.example.com"),
    ("cors_origins", "null"),
    ("cors_origins", "https://user@chat.example.com"),
    ("cors_origins", "https://chat.example.com:x"),
    ("cors_origins", ","),
    ("connect_timeout", "0"),
    ("connect_timeout", "-1"),
    ("connect_timeout", "ten"),
    ("connect_timeout", "1e9"),
    ("connect_timeout", "inf"),
    ("connect_timeout", "nan"),
    ("reasoning", "anthropic"),
    ("api_key", "short"),
    ("api_key", "two keys12345"),
    ("api_key", "schlüssel-123"),
    ("api_key", "one-key-1,two-key-2"),
    ("api_keys", "codestral"),
    ("api_keys", "codestral=short"),
    ("api_keys", "codestral=12345678 codestral=12345679"),
    ("tokens", "short"),
    ("tokens", "long-enough short"),
    ("total_timeout", "-1"),
    ("total_timeout", "never"),
    ("send_timeout", "1e3"),
    ("body_timeout", "on"),
    ("heartbeat", "often"),
    ("patience", "-1"),
    ("patience", "86401"),
    ("patience", "long"),
    ("concurrency", "0"),
    ("concurrency", "-5"),
    ("concurrency", "1.5"),
    ("concurrency", "many"),
    ("log_format", "xml"),
    ("metrics", "yes"),
    ("read_timeout", "86401"),
    ("read_timeout", "10s"),
    ("proxy", "proxy.example.com:3128"),
    ("proxy", "socks5://proxy.example.com"),
    ("proxy", "https://proxy.example.com"),
    ("proxy", "http://proxy.example.com/path"),
    ("proxy", "http://proxy.example.com:port"),
    ("proxy", "http://proxy.example.com:99999"),
    ("proxy", "http://proxy.example.com:\uff18\uff10"),
    ("proxy", "http://user:password@[1:2]:3128"),
    ("proxy", "http://"),
    ("ca_bundle", "/no/such/file.pem"),
    ("ca_bundle", "/" + "a" * 300),
    ("ca_bundle", str(ROOT)),
    ("ca_bundle", __file__),
    ("log_level", "LOUD"),
    ("log_level", "10"),
]


@pytest.mark.parametrize(("name", "text"), WRONG)
def test_a_wrong_value_stops_the_start_and_names_itself(name: str, text: str) -> None:
    """A value that cannot be used is an error at start whose message begins with the variable's name."""
    with pytest.raises(SettingError) as caught:
        from_environment({variable(name): text})
    assert str(caught.value).startswith(f"{variable(name)}: ")


def test_every_setting_that_can_be_wrong_is_tried() -> None:
    """No setting is left out above."""
    assert {name for name, _ in WRONG} == DEFAULTS.keys()


KEY, TOKEN = "a-key-of-the-server", "a-token-of-a-caller"
ORIGINS = {"cors_origins": "https://chat.example.com"}


def variables(**settings: str) -> dict[str, str]:
    return {variable(name): text for name, text in settings.items()}


def test_a_key_that_the_server_holds_needs_tokens_and_origins() -> None:
    """The three that belong together are taken together, and the secrets are not in what the settings print."""
    settings = from_environment(variables(api_key=KEY, api_keys=f"codestral={KEY}2", tokens=f"{TOKEN}, {TOKEN}2", **ORIGINS))
    assert (settings.api_key, settings.api_keys, settings.tokens) == (KEY, {"codestral": f"{KEY}2"}, (TOKEN, f"{TOKEN}2"))
    assert KEY not in repr(settings)
    assert TOKEN not in repr(settings)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"api_key": KEY, **ORIGINS}, "tokens"),
        ({"api_keys": f"codestral={KEY}", **ORIGINS}, "tokens"),
        ({"tokens": TOKEN, **ORIGINS}, "api_key"),
        ({"api_key": KEY, "tokens": TOKEN}, "cors_origins"),
        ({"api_keys": f"elsewhere={KEY}", "tokens": TOKEN, **ORIGINS}, "api_keys"),
    ],
)
def test_settings_that_do_not_go_together_stop_the_start(settings: dict[str, str], named: str) -> None:
    """A key without tokens, tokens without a key, either for every origin, a key for no upstream: one variable is named."""
    with pytest.raises(SettingError) as caught:
        from_environment(variables(**settings))
    assert str(caught.value).startswith(f"{variable(named)}: ")
    assert KEY not in str(caught.value)


CANARY = "S3cret9x7"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(
            (name, f"https://user:{CANARY}@host.example/path")
            for name in ("upstream", "upstreams", "proxy", "cors_origins", "allow")
        ),
        ("upstreams", f"{CANARY}=https://host.example"),
        ("proxy", f"http://user:{CANARY}@host.example:99999"),
        ("proxy", f"http://user:{CANARY}@host.example:port"),
        ("proxy", f"socks5://user:{CANARY}@host.example"),
        ("cors_origins", CANARY),
        ("cors_origins", f"https://{CANARY}@host.example:99999"),
        ("cors_origins", f"file://{CANARY}"),
        ("api_key", f"{CANARY} {CANARY}"),
        ("api_key", f'"{CANARY}"'),
        ("api_keys", CANARY),
        ("api_keys", f"{CANARY}={CANARY}"),
        ("api_keys", f"{CANARY}==" + CANARY),
        ("api_keys", f"codestral={CANARY},x"),
        ("tokens", f'{CANARY} "{CANARY}"'),
        ("allow", f"n {CANARY}-"),
        *(
            (name, CANARY)
            for name in ("fields", "translate", "max_body", "read_timeout", "heartbeat", "concurrency", "log_level")
        ),
        ("ca_bundle", f"/no/{CANARY}"),
    ],
)
def test_a_secret_in_a_wrong_value_is_not_repeated(name: str, text: str) -> None:
    """The message of a stopped start goes into logs: whatever stands in the variable by mistake, it is not quoted."""
    together = {"tokens": "a-token-of-callers"} if name == "api_keys" else {}
    with pytest.raises(SettingError) as caught:
        from_environment(variables(**{name: text}, **together, **(ORIGINS if together else {})))
    assert CANARY.lower() not in str(caught.value).lower()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_no_secret_is_in_what_the_settings_print() -> None:
    """The settings can be printed: keys, tokens and a proxy's password are not in their text, in any way of writing it."""
    environ = variables(
        api_key=f"key-{CANARY}",
        api_keys=f"codestral=named-{CANARY}",
        tokens=f"token-{CANARY}",
        proxy=f"http://user:{CANARY}@proxy.example:3128",
        **ORIGINS,
    )
    settings = from_environment(environ)
    assert settings.proxy == environ["MISTRAL_FILTER_PROXY"]
    for text in (repr(settings), str(settings), f"{settings}", "%s %r" % (settings, settings)):  # noqa: UP031
        assert CANARY not in text
    assert {setting.name for setting in SETTINGS if setting.secret} == {"api_key", "api_keys", "tokens", "proxy"}


def test_the_budget_for_bodies_holds_one_body() -> None:
    """A budget below the largest body is an error that names both variables; the two may be equal."""
    for environ in (variables(body_budget="1m"), variables(max_body="65m"), variables(max_body="2k", body_budget="1k")):
        with pytest.raises(SettingError, match=r"^MISTRAL_FILTER_BODY_BUDGET: .*MISTRAL_FILTER_MAX_BODY"):
            from_environment(environ)
    assert from_environment(variables(max_body="65m", body_budget="65m")).body_budget == 65 << 20


def test_a_key_that_the_server_holds_needs_no_browser() -> None:
    """The word ``none`` stands for no origin at all, and the message about ``*`` says so."""
    settings = from_environment(variables(api_key=KEY, tokens=TOKEN, cors_origins="none"))
    assert settings.cors_origins == ()
    with pytest.raises(SettingError, match=r"\bnone\b"):
        from_environment(variables(api_key=KEY, tokens=TOKEN))


def test_null_is_refused_with_the_reason() -> None:
    """What file:// pages send cannot be told from any sandboxed frame; the message says so."""
    for text in ("null", "https://chat.example.com null", "file://"):
        with pytest.raises(SettingError, match="null"):
            from_environment(variables(cors_origins=text))


def test_an_unknown_variable_is_found() -> None:
    """A misspelt variable changes nothing and is named with what was meant; other programs' variables are not looked at."""
    environ = {"MISTRAL_FILTER_FIELD": "current", "MISTRAL_FILTER_FIELDS": "classic", "FIELDS": "x", "MISTRAL_API_KEY": "x"}
    assert from_environment(environ) == Settings()
    assert misspelt_variables(environ) == [
        "MISTRAL_FILTER_FIELD is not a setting of this version and is ignored; did you mean MISTRAL_FILTER_FIELDS?"
    ]
    assert misspelt_variables({"MISTRAL_FILTER_QQ": ""}) == ["MISTRAL_FILTER_QQ is not a setting of this version and is ignored."]


def test_a_misspelt_variable_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are forked after the master has said it do not repeat it."""
    monkeypatch.setenv("MISTRAL_FILTER_ONCE_ONLY", "x")
    assert [sentence.split()[0] for sentence in new_warnings()] == ["MISTRAL_FILTER_ONCE_ONLY"]
    assert new_warnings() == []


def test_the_processs_own_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument the variables of the process count."""
    monkeypatch.setenv("MISTRAL_FILTER_FIELDS", "current")
    assert from_environment().fields == "current"


# ------------------------------------------------------------------------------------------------------------ create_app


ALLOWED = [
    "https://chat.example.com",
    "http://localhost:3000",
    "http://[::1]:3000",
    "app://obsidian.md",
    "app://.",
    "capacitor://localhost",
    "ionic://localhost",
    "tauri://localhost",
    "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
    "moz-extension://0f3b6c5e-7a1d-4c58-9e64-0c1d2e3f4a5b",
    "safari-web-extension://0F3B6C5E-7A1D-4C58-9E64-0C1D2E3F4A5B",
    "vscode-webview://1g2h3i4j5k",
]


def allowed_origin(origins: tuple[str, ...], sent: str) -> str | None:
    """What the application allows for a request that a page of the origin *sent* makes, and for its preflight."""
    from app import create_app

    client = create_app(Settings(cors_origins=origins)).test_client()
    answered = client.get("/health", headers={"Origin": sent})
    preflight = client.options("/v1/chat/completions", headers={"Origin": sent, "Access-Control-Request-Method": "POST"})
    assert answered.headers.getlist("Access-Control-Allow-Origin") == preflight.headers.getlist("Access-Control-Allow-Origin")
    return answered.headers.get("Access-Control-Allow-Origin")


@pytest.mark.parametrize("origin", ALLOWED)
def test_an_origin_is_allowed_as_it_is_and_no_other(origin: str) -> None:
    """What browsers and apps send is allowed exactly; what only resembles it, or would match it as a pattern, is not."""
    origins = from_environment(variables(cors_origins=origin)).cors_origins
    assert allowed_origin(origins, origin) == origin
    scheme, host = origin.split("://")
    others = [f"{origin}.evil.example", f"{origin}x", f"{origin}\n", f"x{origin}", f"{scheme}://x{host}", f"{scheme}://x.{host}"]
    others += [
        f"{origin}:8080",
        f"{origin}/",
        "null",
        "https://evil.example",
        f"https://evil.example?{origin}",
        f"{scheme}x://{host}",
    ]
    others += [origin.replace(".", "x")] * ("." in origin) + [origin.replace("[::1]", "1"), "http://::1:3000"] * ("[" in origin)
    for other in others:
        if "\n" in other:
            assert not any(pattern.match(other) for pattern in origin_patterns(origins) if isinstance(pattern, re.Pattern))
        else:
            assert allowed_origin(origins, other) is None, other


def test_no_origin_is_allowed_where_there_are_no_browsers() -> None:
    """With ``none`` no page gets a CORS header, with or without a preflight; the wildcard allows every page."""
    origins = from_environment(variables(cors_origins="none")).cors_origins
    for sent in (*ALLOWED, "null", "none", "*", ""):
        assert allowed_origin(origins, sent) is None
    assert {allowed_origin(("*",), sent) for sent in (*ALLOWED, "null")} == {"*"}


def test_scripts_may_read_every_header_of_the_rate_limits() -> None:
    """The names of recorded responses, which a page needs to show when to try again, are exposed."""
    from app import create_app

    response = create_app(Settings()).test_client().get("/health", headers={"Origin": "https://a.example"})
    exposed = {name.strip().lower() for name in response.headers["Access-Control-Expose-Headers"].split(",")}
    limits = "req-minute req-10-second req-60-second tokens-minute tokens-month audio-seconds-minute input-characters-minute "
    limits += "ocr-pages-minute"
    assert {f"x-ratelimit-{kind}-{limit}" for kind in ("limit", "remaining") for limit in limits.split()} <= exposed
    costs = ("tokens", "audio-seconds", "input-characters", "ocr-pages")
    assert {f"x-ratelimit-{cost}-query-cost" for cost in costs} <= exposed
    assert {
        "x-request-id",
        "mistral-correlation-id",
        "mistral-filter-changes",
        "retry-after",
        "x-should-retry",
        "x-max-retry-attempts-reached",
        "server-timing",
    } <= exposed


def test_create_app_takes_settings() -> None:
    """The settings decide the list, the switches, the limit, the upstreams and the origins of the application."""
    from app import create_app

    settings = Settings(
        upstreams={"eu": "https://api.eu.mistral.ai"},
        fields="current",
        translate=False,
        max_body=100,
        models={"gpt-*": "mistral-small-latest"},
        cors_origins=("https://a.example",),
    )
    client = create_app(settings).test_client()
    explained = client.post("/explain/chat", data=b'{"n":2,"seed":1}').json
    assert explained["after"] == {"n": 2}
    assert client.post("/explain/chat", data=b'{"model":"gpt-4o"}').json["after"] == {"model": "mistral-small-latest"}
    response = client.post("/v1/chat/completions", data=b" " * 101, headers={"Origin": "https://a.example"})
    assert (response.status_code, response.headers["Access-Control-Allow-Origin"]) == (413, "https://a.example")
    assert client.post("/explain/chat", data=b" " * 101).status_code == 413
    assert client.get("/eu/v1").json["models"] == "/eu/v1/models"
    assert client.get("/codestral/v1").status_code == 404
    other = client.get("/health", headers={"Origin": "https://b.example"})
    assert "Access-Control-Allow-Origin" not in other.headers


def test_create_app_as_it_is_deployed() -> None:
    """The defaults: any origin by the wildcard, health without a key, a preflight without a body."""
    from app import create_app

    client = create_app(Settings()).test_client()
    health = client.get("/health", headers={"Origin": "https://b.example"})
    assert (health.json, health.headers["Access-Control-Allow-Origin"]) == ({"status": "ok"}, "*")
    asked = {
        "Origin": "https://b.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, x-stainless-os",
    }
    for path in ("/v1/chat/completions", "/nowhere", "/codestral/v1/fim/completions"):
        preflight = client.options(path, headers=asked)
        assert (preflight.status_code, preflight.data) == (204, b"")
        assert preflight.headers["Access-Control-Allow-Origin"] == "*"
        assert preflight.headers["Access-Control-Max-Age"] == "86400"
        allowed = {name.strip().lower() for name in preflight.headers["Access-Control-Allow-Headers"].split(",")}
        assert {"authorization", "x-stainless-os"} <= allowed
        assert {"GET", "POST", "OPTIONS", "DELETE"} <= {
            m.strip() for m in preflight.headers["Access-Control-Allow-Methods"].split(",")
        }


def test_create_app_refuses_a_list_that_there_is_not() -> None:
    """A list given as an argument that does not exist stops the start too."""
    from app import create_app

    with pytest.raises(KeyError):
        create_app(Settings(fields="modern"))


def start(**environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MISTRAL_FILTER_")}
    return subprocess.run(
        [sys.executable, "-c", "import app"], cwd=ROOT, env={**clean, **environ}, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("name", "text"), [("max_body", "much"), ("upstream", "http://api.mistral.ai"), ("cors_origins", "https://*.example.com")]
)
def test_a_wrong_variable_stops_the_program(name: str, text: str) -> None:
    """What gunicorn imports does not start with a wrong setting, and says which."""
    ended = start(**{variable(name): text})
    assert ended.returncode != 0
    assert f"{variable(name)}: " in ended.stderr


def test_a_right_variable_does_not() -> None:
    """The same program starts in silence when the settings are good."""
    ended = start(MISTRAL_FILTER_MAX_BODY="1m")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_misspelt_variable_is_mentioned() -> None:
    """It starts all the same, with one line that names the variable."""
    ended = start(MISTRAL_FILTER_FIELD="current", MISTRAL_FILTER_LOG_FORMAT="json")
    assert ended.returncode == 0
    line = json.loads(ended.stderr)
    assert (line["level"], line["message"].split()[0]) == ("WARNING", "MISTRAL_FILTER_FIELD")
