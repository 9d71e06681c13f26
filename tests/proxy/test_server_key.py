"""A key that the server holds: who may spend it, and that nobody ever sees it."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from servers import ROOT, Gunicorn, Response, ask
from upstream import Exchange, Script, ScriptedUpstream, event_bytes, head_bytes, json_answer, raw, sse, sse_bytes

from mistral_filter.proxy.settings import SettingError, Settings, from_environment

CHAT = "/v1/chat/completions"
KEY = "server-key-Kx81"
OTHER_KEY = "second-key-Qm27"
TOKENS = ("team-token-Ab12", "team-token-Cd34")
PAGE = "https://chat.example.com"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
SECRETS = (KEY, OTHER_KEY, *TOKENS)

Start = Callable[..., Gunicorn]


@pytest.fixture
def holder(gunicorn_server: Start, upstream: ScriptedUpstream) -> Gunicorn:
    """A server with a key for the main upstream and one for a named one, none for another; everything is logged."""
    return gunicorn_server(
        "--log-level",
        "debug",
        WEB_CONCURRENCY=1,
        MISTRAL_FILTER_UPSTREAMS=f"second={upstream.url} keyless={upstream.url}",
        MISTRAL_FILTER_API_KEY=KEY,
        MISTRAL_FILTER_API_KEYS=f"second={OTHER_KEY}",
        MISTRAL_FILTER_TOKENS=", ".join(TOKENS),
        MISTRAL_FILTER_CORS_ORIGINS=PAGE,
        MISTRAL_FILTER_READ_TIMEOUT=2,
        MISTRAL_FILTER_LOG_LEVEL="DEBUG",
    )


def bearer(token: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {token}")


def post(server: Gunicorn, *headers: tuple[str, str], target: str = CHAT, body: object = BODY) -> Response:
    return ask(server.port, "POST", target, body, [("Origin", PAGE), *headers])


def error_code(response: Response, status: int) -> str:
    assert (response.status, response.complete) == (status, True), response
    assert response.header("Access-Control-Allow-Origin") == PAGE
    return str(response.json()["error"]["code"])


def nothing_secret(server: Gunicorn, response: Response) -> None:
    """Neither in the answer (packed or not), nor in the server's log."""
    body = gzip.decompress(response.body) if response.body.startswith(b"\x1f\x8b") else response.body
    shown = repr(response.headers) + body.decode("latin-1")
    assert [secret for secret in SECRETS if secret in shown] == []
    log = server.log()
    fresh = log[_looked_at.get(server.pid, 0) :]  # what an earlier test found is its own failure
    _looked_at[server.pid] = len(log)
    assert [secret for secret in SECRETS if secret in fresh] == []


_looked_at: dict[int, int] = {}


# ------------------------------------------------------------------------------------------------------------ settings

GOOD: dict[str, Any] = {
    "MISTRAL_FILTER_API_KEY": KEY,
    "MISTRAL_FILTER_TOKENS": " ".join(TOKENS),
    "MISTRAL_FILTER_CORS_ORIGINS": PAGE,
}
BAD = {
    "a key and no tokens": ({"MISTRAL_FILTER_TOKENS": ""}, "MISTRAL_FILTER_TOKENS"),
    "a named key and no tokens": (
        {"MISTRAL_FILTER_API_KEY": "", "MISTRAL_FILTER_TOKENS": "", "MISTRAL_FILTER_API_KEYS": f"codestral={OTHER_KEY}"},
        "MISTRAL_FILTER_TOKENS",
    ),
    "any origin": ({"MISTRAL_FILTER_CORS_ORIGINS": "*"}, "MISTRAL_FILTER_CORS_ORIGINS"),
    "the default origin": ({"MISTRAL_FILTER_CORS_ORIGINS": ""}, "MISTRAL_FILTER_CORS_ORIGINS"),
    "tokens and no key": ({"MISTRAL_FILTER_API_KEY": ""}, "MISTRAL_FILTER_API_KEY"),
    "two keys": ({"MISTRAL_FILTER_API_KEY": f"{KEY} {OTHER_KEY}"}, "MISTRAL_FILTER_API_KEY"),
    "two keys with a comma": ({"MISTRAL_FILTER_API_KEY": f"{KEY},{OTHER_KEY}"}, "MISTRAL_FILTER_API_KEY"),
    "two keys for one name": (
        {"MISTRAL_FILTER_API_KEYS": f"codestral={KEY} codestral={OTHER_KEY}"},
        "MISTRAL_FILTER_API_KEYS",
    ),
    "a key for nobody": ({"MISTRAL_FILTER_API_KEYS": f"nobody={OTHER_KEY}"}, "MISTRAL_FILTER_API_KEYS"),
    "a short token": ({"MISTRAL_FILTER_TOKENS": "abc"}, "MISTRAL_FILTER_TOKENS"),
    "a key with a line end": ({"MISTRAL_FILTER_API_KEY": f"{KEY}\r\nX-Evil: 1"}, "MISTRAL_FILTER_API_KEY"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_half_a_configuration_is_refused(case: str) -> None:
    """The sentence names the variable to set, and quotes no secret."""
    changed, variable = BAD[case]
    from_environment(GOOD)
    with pytest.raises(SettingError, match=f"^{variable}:") as caught:
        from_environment({**GOOD, **changed})
    assert [secret for secret in SECRETS if secret in str(caught.value)] == []


@pytest.mark.parametrize("case", ["a key and no tokens", "the default origin"])
def test_the_server_does_not_start_with_it(case: str) -> None:
    """gunicorn ends with an error that names the variable; no secret is in what it writes."""
    settings = {name: value for name, value in {**GOOD, **BAD[case][0]}.items() if value}
    environ = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", **settings}
    command = [sys.executable, "-m", "gunicorn", "app:app", "-b", "127.0.0.1:0", "-w", "1", "--log-level", "debug"]
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30)
    assert ended.returncode != 0
    assert BAD[case][1] in ended.stderr
    assert [secret for secret in SECRETS if secret in ended.stdout + ended.stderr] == []


def test_create_app_checks_settings_that_come_from_a_program() -> None:
    """Not only those of the environment."""
    good = from_environment(GOOD)
    for wrong in (replace(good, tokens=()), replace(good, cors_origins=("*",)), replace(good, api_key=None)):
        with pytest.raises(SettingError):
            wrong.check()


def test_settings_do_not_show_secrets() -> None:
    """Neither ``repr`` nor ``str`` of the settings holds a key or a token."""
    settings = from_environment({**GOOD, "MISTRAL_FILTER_API_KEYS": f"codestral={OTHER_KEY}"})
    assert (settings.api_key, settings.tokens, dict(settings.api_keys)) == (KEY, TOKENS, {"codestral": OTHER_KEY})
    assert [secret for secret in SECRETS if secret in repr(settings) + str(settings)] == []
    assert Settings().tokens == ()


# ------------------------------------------------------------------------------------------------------- who is served

SHOWN = [
    ("Authorization", f"Bearer {TOKENS[0]}"),
    ("Authorization", f"Bearer {TOKENS[1]}"),
    ("Authorization", f"bearer {TOKENS[0]}"),
    ("api-key", TOKENS[0]),
    ("x-api-key", TOKENS[1]),
]


@pytest.mark.parametrize("header", SHOWN, ids=" ".join)
@pytest.mark.parametrize(("method", "target"), [("POST", CHAT), ("GET", "/v1/models"), ("POST", "/v1/files")])
def test_a_caller_with_a_token_spends_the_servers_key(
    holder: Gunicorn, upstream: ScriptedUpstream, header: tuple[str, str], method: str, target: str
) -> None:
    """However the token is shown: upstream sees the server's key, once, and nothing of the token."""
    response = ask(holder.port, method, target, BODY if method == "POST" else None, [header, ("Cookie", f"t={TOKENS[0]}")])
    assert response.status == 200
    (request,) = upstream.requests
    assert request.header("Authorization") == f"Bearer {KEY}"
    assert [token for token in TOKENS if token.encode() in request.head + request.body] == []


def test_each_upstream_has_its_own_key(holder: Gunicorn, upstream: ScriptedUpstream) -> None:
    """A named upstream gets its own key and never the main one's; one without a key is refused, not called without."""
    assert post(holder, bearer(TOKENS[0]), target="/second" + CHAT).status == 200
    assert upstream.requests[0].header("Authorization") == f"Bearer {OTHER_KEY}"
    assert KEY.encode() not in upstream.requests[0].head
    for target in ("/keyless" + CHAT, "/codestral" + CHAT, "/keyless/v1/files"):
        assert error_code(post(holder, bearer(TOKENS[0]), target=target), 401) == "no_key"
    assert len(upstream.requests) == 1


REFUSED: dict[str, list[tuple[str, str]]] = {
    "nothing": [],
    "a wrong token": [bearer("team-token-XXXX")],
    "a part of a token": [bearer(TOKENS[0][:-1])],
    "more than a token": [bearer(TOKENS[0] + "x")],
    "another case": [bearer(TOKENS[0].upper())],
    "both tokens": [bearer(" ".join(TOKENS))],
    "both tokens with a comma": [bearer(",".join(TOKENS))],
    "the key itself": [bearer(KEY)],
    "a token without a scheme": [("Authorization", TOKENS[0])],
    "an empty one": [bearer("")],
    "two headers": [bearer(TOKENS[0]), bearer("x")],
    "a wrong one before a right one": [bearer("wrong-token"), ("api-key", TOKENS[0])],
    "another letter": [bearer("team-token-Äb12")],
    "in a cookie": [("Cookie", f"token={TOKENS[0]}")],
    "in another header": [("X-Token", TOKENS[0])],
}


@pytest.mark.parametrize("case", list(REFUSED))
@pytest.mark.parametrize("target", [CHAT, "/v1/models", "/second/v1/files"])
def test_nobody_else_is_served(holder: Gunicorn, upstream: ScriptedUpstream, case: str, target: str) -> None:
    """401 (or 400 for what is no header) in JSON for the page, nothing upstream."""
    response = post(holder, *REFUSED[case], target=target)
    assert response.status in (400, 401), response
    assert error_code(response, response.status) in ("invalid_api_key", "bad_authorization")
    assert upstream.requests == []
    nothing_secret(holder, response)


def test_a_token_in_the_query_opens_nothing(holder: Gunicorn, upstream: ScriptedUpstream) -> None:
    """URLs are logged everywhere, so a token there does not count."""
    response = ask(holder.port, "GET", f"/v1/models?key={TOKENS[0]}&access_token={TOKENS[0]}")
    assert response.status == 401
    assert upstream.requests == []
    nothing_secret(holder, response)


def test_what_needs_no_key_needs_no_token(holder: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Health and preflights; a page of another origin gets no permission."""
    assert ask(holder.port, "GET", "/health").status == 200
    asked = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization")]
    mine = ask(holder.port, "OPTIONS", CHAT, None, [("Origin", PAGE), *asked])
    assert (mine.status, mine.header("Access-Control-Allow-Origin")) == (204, PAGE)
    other = ask(holder.port, "OPTIONS", CHAT, None, [("Origin", "https://evil.example"), *asked])
    assert other.header("Access-Control-Allow-Origin") is None
    assert upstream.requests == []


# ------------------------------------------------------------------------------------------------ the key never comes down


def packed(body: bytes, status: int, coding: str = "gzip") -> Script:
    data = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    headers = [("Content-Type", "application/json"), ("Content-Encoding", coding), ("Content-Length", str(len(data)))]
    return raw(head_bytes(status, headers) + data)


QUOTE = f'{{"detail": "the key {KEY} is not known"}}'.encode()
ESCAPED = '{"detail": "' + "".join(f"\\u{ord(letter):04x}" for letter in KEY) + '"}'


def echo_head(status: int) -> Script:
    """Quotes the whole head of the request."""

    def script(exchange: Exchange) -> None:
        json_answer({"detail": exchange.request.head.decode("latin-1")}, status)(exchange)

    return script


QUOTING: dict[str, tuple[Script, int | None]] = {
    "401": (json_answer({"detail": f"the key {KEY} is not known"}, 401), 502),
    "401 without a quote": (json_answer({"detail": "Unauthorized"}, 401), 502),
    "401 in gzip": (packed(QUOTE, 401), 502),
    "400": (json_answer({"detail": f"Bearer {KEY}"}, 400), 502),
    "403": (echo_head(403), 502),
    "422": (json_answer({"detail": [{"type": "missing", "loc": ["header"], "msg": "no", "input": KEY}]}, 422), 502),
    "422 for a field": (
        json_answer({"detail": [{"type": "extra_forbidden", "loc": ["body", "temperature"], "msg": KEY}]}, 422),
        None,
    ),
    "500 as text": (raw(head_bytes(500, [("Content-Type", "text/plain")]) + f"crash: {KEY}".encode()), 502),
    "500 in gzip": (packed(QUOTE, 500), 502),
    "500 in deflate": (packed(QUOTE, 500, "deflate"), None),
    "500 escaped": (raw(head_bytes(500, [("Content-Type", "application/json")]) + ESCAPED.encode()), None),
    "a header of an error": (json_answer({"detail": "no"}, 400, [("X-Debug", f"Bearer {KEY}")]), None),
    "a header of a success": (json_answer({"id": 1}, 200, [("X-Debug", KEY), ("X-Request-Id", KEY)]), None),
    "a header of a stream": (sse(["[DONE]"], headers=[("X-Debug", KEY)]), None),
    "the reason": (raw(f"HTTP/1.1 400 {KEY}\r\nContent-Length: 2\r\n\r\n{{}}".encode()), None),
    "WWW-Authenticate": (json_answer({"detail": "no"}, 403, [("WWW-Authenticate", f'Bearer realm="{KEY}"')]), None),
    "a success": (json_answer({"message": f"the key {KEY} is new"}), 200),
    "a success, escaped": (raw(head_bytes(200, [("Content-Type", "application/json")]) + ESCAPED.encode()), 502),
    "a success as text": (raw(head_bytes(200, [("Content-Type", "text/plain")]) + f"{KEY} {KEY}".encode()), 200),
    "a success in gzip": (packed(QUOTE, 200), 502),
    "a stream": (sse([{"error": KEY}, {"n": KEY[:-1]}, "[DONE]"]), 200),
    "a stream in small pieces": (raw(sse_bytes([{"error": KEY}, {"n": KEY[:5]}]), size=1), 200),
    "a redirect": (raw(head_bytes(302, [("Location", f"/login?key={KEY}"), ("Content-Length", "0")])), 502),
    "not HTTP": (raw(f"{KEY}\r\n\r\n".encode()), 502),
}


@pytest.mark.parametrize("case", list(QUOTING))
@pytest.mark.parametrize("target", [CHAT, "/v1/files"])
def test_an_upstream_that_quotes_the_key_is_not_passed_on(
    holder: Gunicorn, upstream: ScriptedUpstream, case: str, target: str
) -> None:
    """In bodies, packed or not, in headers, in the reason: the key does not reach the caller, nor the log."""
    upstream.script, status = QUOTING[case]
    headers = [bearer(TOKENS[0]), ("Accept-Encoding", "gzip, deflate"), ("User-Agent", "mistral-client-python/3.7.0")]
    response = post(holder, *headers, target=target, body={**BODY, "temperature": 1})
    if status == 200:
        assert (response.status, response.complete) == (200, True)
        assert b"*" * len(KEY) in response.body
    elif status is not None:
        assert error_code(response, status)
    body = zlib.decompress(response.body) if response.header("Content-Encoding") == "deflate" else response.body
    assert KEY.encode() not in body
    if response.body and response.header("Content-Type") == "application/json" and not response.header("Content-Encoding"):
        assert KEY not in repr(response.json())
    nothing_secret(holder, response)


def test_a_401_of_the_upstream_is_not_the_callers(holder: Gunicorn, upstream: ScriptedUpstream) -> None:
    """It would make a client throw its good token away: it is a 502 that says whose key is meant."""
    upstream.script = json_answer({"detail": "Unauthorized"}, 401)
    response = post(holder, bearer(TOKENS[0]))
    assert error_code(response, 502) == "upstream_unauthorized"


def test_answers_that_quote_nothing_pass(holder: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Errors and streams of the upstream come down as ever, a refusal's text included."""
    upstream.script = json_answer({"message": "Rate limit exceeded"}, 429, [("Retry-After", "7")])
    response = post(holder, bearer(TOKENS[0]))
    assert (response.status, response.header("Retry-After")) == (429, "7")
    assert response.json()["message"] == "Rate limit exceeded"
    events = [{"n": 1}, "[DONE]"]
    upstream.script = sse(events)
    assert post(holder, bearer(TOKENS[0])).body == b"".join(map(event_bytes, events))


def test_the_upstream_never_sees_what_the_caller_showed(holder: Gunicorn, upstream: ScriptedUpstream) -> None:
    """Everywhere at once: every header that could carry a credential stays here."""
    names = "Cookie Proxy-Authorization X-Api-Key Api-Key X-Auth-Token X-Token OpenAI-Organization X-Forwarded-Authorization"
    headers = [(name, TOKENS[0]) for name in names.split()]
    for target in (CHAT, "/v1/files"):
        assert post(holder, bearer(TOKENS[0]), *headers, target=target).status == 200
    for request in upstream.requests:
        assert request.all("Authorization") == [f"Bearer {KEY}"]
        assert TOKENS[0].encode() not in request.head
