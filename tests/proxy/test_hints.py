"""What is said of a path that is not there, and of a key without its scheme."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import Gunicorn, Response, ask
from upstream import ScriptedUpstream, json_answer

from mistral_filter.paths import PATHS, locate
from mistral_filter.proxy.hints import hint_for, hint_for_unknown

KEY = ("Authorization", "Bearer caller-key")
PREFIXES = ("", "/codestral")


@pytest.fixture
def proxy(gunicorn_server: Any) -> Gunicorn:
    server: Gunicorn = gunicorn_server(WEB_CONCURRENCY=1)
    return server


def post(server: Gunicorn, target: str, headers: Any = (KEY,)) -> Response:
    return ask(server.port, "POST", target, {"model": "m", "messages": []}, headers)


def told(response: Response, status: int, code: str) -> str:
    error = response.json()["error"]
    assert (response.status, error["code"]) == (status, code), response
    message: str = error["message"]
    return message


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/v1/messages", "Anthropic"),
        ("/v1/messages?beta=true", "Anthropic"),
        ("/v1/messages/count_tokens", "Anthropic"),
        ("/messages", "Anthropic"),
        ("/v1/v1/messages", "Anthropic"),
        ("/codestral/v1/messages", "Anthropic"),
        ("/v1/chat/completion", "/v1/chat/completions?"),
        ("/v1/chat/completition", "/v1/chat/completions?"),
        ("/v1/chat/Completions", "/v1/chat/completions"),
        ("/v1/chat-completions", "/v1/chat/completions?"),
        ("/v1/chat", "/v1/chat/completions?"),
        ("/chat/completion", "/v1/chat/completions?"),
        ("/chat", "/v1/chat/completions?"),
        ("/codestral/v1/chat/completion", "/codestral/v1/chat/completions?"),
        ("/v1/completion", "Mistral has no /v1/completions"),
        ("/completion", "Mistral has no /v1/completions"),
        ("/v1/embedding", "/v1/embeddings?"),
        ("/v1/embed", "/v1/embeddings?"),
        ("/v1/moderation", "/v1/moderations?"),
        ("/v1/agents/completion", "/v1/agents/completions?"),
        ("/v1/fim", "/v1/fim/completions?"),
        ("/v1/fim/completion", "/v1/fim/completions?"),
        ("/v1/response", "/v1/responses?"),
        ("/v1/model", "/v1/models?"),
        ("/codestrall/v1/chat/completions", "Did you mean /codestral/v1?"),
        ("/codestrl/v1/fim/completions", "Did you mean /codestral/v1?"),
        ("/codestrl/chat/completion", "Did you mean /codestral/v1?"),
        ("/openai/v1/chat/completions", "no upstream of this name here. Without a name the base URL ends in /v1"),
        ("/v2/chat/completions", "no upstream of this name here"),
        ("/nothing", "use a base URL that ends in /v1"),
    ],
)
def test_a_path_that_is_not_there_says_what_is_meant(proxy: Gunicorn, upstream: ScriptedUpstream, target: str, said: str) -> None:
    """Nothing goes upstream."""
    assert said in told(post(proxy, target), 404, "not_found")
    assert upstream.requests == []


MISTRALS = [
    *(f"/v1/{path}" for path in PATHS.values()),
    *"/v1/models /v1/models/mistral-small-latest /v1/files /v1/agents /v1/agents/ag_1 /v1/agents/ag_1/version".split(),
    *"/v1/conversations /v1/conversations/conv_1/restart /v1/batch/jobs /v1/batch/jobs/1/cancel /v1/audio/speech".split(),
    *"/v1/audio/transcriptions /v1/audio/voices /v1/libraries /v1/libraries/1/documents /v1/fine_tuning/jobs".split(),
    *"/v1/responses /v1/responses/input_tokens /v1/responses/resp_1 /v1/something/new /v1/chat/new /v1/ocr/1".split(),
]


@pytest.mark.parametrize("path", MISTRALS)
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_mistrals_own_paths_are_forwarded(path: str, method: str) -> None:
    """Those of the OpenAPI document of 2026-08-21, and what may come."""
    target = locate(path)
    assert target is not None
    assert hint_for(target, method) is None


@given(st.text(alphabet="abchtopmles-/v1.%", max_size=300))
def test_any_path_has_an_answer_that_quotes_nothing(path: str) -> None:
    """A segment may be a key."""
    hint = hint_for_unknown("/" + path, PREFIXES)
    assert len(hint) < 400
    secret = hint_for_unknown(f"/sk-{path.replace('/', '')}/v1/chat/completions", PREFIXES)
    assert "sk-" not in secret


@pytest.mark.parametrize("target", ["/v1/responses", "/v1/responses/input_tokens", "/codestral/v1/responses"])
def test_an_upstream_without_responses(gunicorn_server: Any, upstream: ScriptedUpstream, target: str) -> None:
    """Which has them, and what each client sets otherwise."""
    server = gunicorn_server(WEB_CONCURRENCY=1, MISTRAL_FILTER_UPSTREAMS=f"codestral={upstream.url}")
    upstream.script = json_answer({"message": "no Route matched with those values"}, 404)
    message = told(ask(server.port, "POST", target, {"model": "m", "input": "x"}, [KEY]), 404, "not_found")
    for word in ("api.mistral.ai does", ".chat(model)", "openai-chat:", "use_responses_api=False", "Codex CLI"):
        assert word in message


@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/models", "/v1/files"])
@pytest.mark.parametrize("value", ["caller-key-of-32-letters", "Bearer:caller-key", "Bearercaller-key"])
def test_a_key_without_its_scheme(proxy: Gunicorn, upstream: ScriptedUpstream, target: str, value: str) -> None:
    """A 401 that says what is missing, without the key in it, and nothing goes upstream."""
    response = post(proxy, target, [("Authorization", value)])
    assert 'lacks the word "Bearer"' in told(response, 401, "invalid_api_key")
    assert b"caller-key" not in response.body
    assert upstream.requests == []


@pytest.mark.parametrize("value", ["Bearer caller-key", "bearer caller-key", "Basic Y2FsbGVy"])
def test_a_key_with_a_scheme_goes_up(proxy: Gunicorn, upstream: ScriptedUpstream, value: str) -> None:
    """Whichever it is: an upstream may want another one."""
    assert post(proxy, "/v1/chat/completions", [("Authorization", value)]).status == 200
    assert upstream.requests[0].header("Authorization") == value
