"""What a path that is not there was to be: an API that Mistral does not have, a near spelling, an unknown upstream.

Nothing of a path is quoted: a segment of it may be a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from mistral_filter.paths import PATHS, Target

__all__ = ["NOT_OFFERED", "hint_for", "hint_for_unknown"]

_CHAT_ONLY = (
    "Let the client use chat completions: .chat(model) in the AI SDK, openai-chat: in pydantic-ai, use_responses_api=False in "
    'LangChain, set_default_openai_api("chat_completions") in openai-agents. Codex CLI knows nothing else: it needs an upstream '
    "that has them."
)

NOT_OFFERED = dict.fromkeys(
    ("/v1/responses", "/v1/responses/input_tokens"),
    f"This upstream does not offer /v1/responses; api.mistral.ai does (since 2026). {_CHAT_ONLY}",
)
"""Paths that not every upstream has, and what to do when it answers 404."""

MISSING = {
    "completions": "Mistral has no /v1/completions. Use /v1/chat/completions (in LlamaIndex's OpenAILike: is_chat_model=True), "
    "or /v1/fim/completions for code with a suffix.",
    "images": "Mistral has no /v1/images. Images are made by agents with the image_generation tool.",
    "dashboard": "Mistral has no billing API. The client works without it; usage is shown at https://admin.mistral.ai.",
    "messages": "/v1/messages is Anthropic's API, which is not translated here. Set the client to an OpenAI-compatible provider "
    "with a base URL that ends in /v1, so that it uses /v1/chat/completions. Clients that know only Anthropic's form cannot use "
    "this server.",
}
"""First segments below /v1 that OpenAI or Anthropic have and Mistral has not (OpenAPI 2026-08-21), and what to do instead."""

_SHORT_FORMS = {
    "chat": "chat/completions",
    "completion": "completions",
    "chat/complete": "chat/completions",
    "fim": "fim/completions",
    "embed": "embeddings",
    "model": "models",
}
"""Spellings that are too far from what is meant to be found by likeness."""

_MEANT = (*PATHS.values(), "responses", "completions", "audio/transcriptions")
_LIKENESS = 0.85
"""Of 1: one letter more, less or different in a word of seven."""
_LONGEST = 64
"""Characters of a path in which a near spelling is looked for."""


def hint_for(target: Target, method: str) -> str | None:
    """What to say of a path below /v1 that is not to be forwarded; None: it is for the upstream to know."""
    below = target.path.removeprefix("/v1/")
    missing = MISSING.get(below.split("/")[0])
    if missing is not None or target.endpoint is not None:
        return missing
    meant = _SHORT_FORMS.get(below) or (_near(below) if method == "POST" else None)
    return None if meant is None else MISSING.get(meant) or f"There is no such path. Did you mean {target.prefix}/v1/{meant}?"


def hint_for_unknown(path: str, prefixes: Sequence[str]) -> str:
    """What to say of a *path* that is none of Mistral's API under any of the *prefixes* (``""`` and ``/NAME``)."""
    segments = [segment for segment in path[: 2 * _LONGEST].split("/") if segment] if len(path) <= 2 * _LONGEST else []
    if (meant := _meant(segments)) is not None:
        return MISSING.get(meant) or f"There is no such path. Did you mean /v1/{meant}?"
    if len(segments) > 1 and (segments[1] == "v1" or _meant(segments[1:]) is not None):
        known = [prefix for prefix in prefixes if prefix]
        near = get_close_matches("/" + segments[0], known, 1, _LIKENESS - 0.15)
        where = f"Did you mean {near[0]}/v1?" if near else "Without a name the base URL ends in /v1 alone."
        return f"There is no upstream of this name here. {where}"
    return (
        "There is nothing at this path. Mistral's API is below /v1: use a base URL that ends in /v1, and plain paths such as "
        "/v1/chat/completions."
    )


def _meant(segments: Sequence[str]) -> str | None:
    below = "/".join(segments[1:] if segments[:1] == ["v1"] else segments)
    return below if below in _MEANT or below in MISSING else _SHORT_FORMS.get(below) or _near(below)


def _near(below: str) -> str | None:
    """The path that *below* nearly is: one of as many segments, or one that is written as a single segment."""
    if len(below) > _LONGEST or below in _MEANT:
        return None
    if "/" in below:
        spelled = {path: path for path in _MEANT if path.count("/") == below.count("/")}
    else:
        spelled = {path.replace("/", ""): path for path in _MEANT}
        below = below.replace("-", "").replace("_", "")
    return next((spelled[near] for near in get_close_matches(below.lower(), spelled, 1, _LIKENESS)), None)
