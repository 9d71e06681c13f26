"""OpenAI's way of saying things, in Mistral's: small functions, one per rule, each on one decoded node.

Every rule edits a node in place and appends a Change for what it did; a node without the rule's words is not touched.
Sources of the rules: recorded requests of OpenAI-style clients, OpenAI's API reference of 2026-11, and the sources of
``mistral_filter.fields``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mistral_filter.changes import Change
from mistral_filter.dialect import request, tools
from mistral_filter.dialect.messages import Conversation
from mistral_filter.dialect.responses import responses_body
from mistral_filter.dialect.values import DROP, REPEATED, repair_value, report_drop, report_repeated
from mistral_filter.rawjson import Node

__all__ = [
    "DROP",
    "REPEATED",
    "Conversation",
    "conversation",
    "repair_value",
    "report_drop",
    "report_repeated",
    "translate_top",
]

_CHAT_ENDPOINTS = ("chat", "agents")


def translate_top(endpoint: str, body: Node, accepted: Any, changes: list[Change]) -> list[str] | None:
    """All rules above the messages. *accepted*: Mistral's names for the endpoint.

    Returns where the messages come from, if from anywhere but ``messages``. Raises Refused where nothing can be done.
    """
    origins = None
    if endpoint in _CHAT_ENDPOINTS:
        origins = responses_body(body, changes)
        if "functions" in body or "function_call" in body:
            tools.legacy_functions(body, changes)
        if "tools" in accepted:
            tools.tools(body, changes)
            tools.tool_choice(body, changes)
        if "prediction" in accepted:
            request.prediction(body, changes)
        request.response_format(body, changes)
        request.reasoning(body, changes)
    elif endpoint == "embeddings":
        request.embedding_input(body)
    request.rename_fields(body, accepted, changes)
    request.stop(body, changes)
    return origins


def conversation(
    endpoint: str, body: Node, changes: list[Change], *, bridge: bool, origins: list[str] | None
) -> Callable[..., Conversation]:
    """Makes the translator of a conversation in one request, which may hold several."""
    options = {"whole": endpoint in _CHAT_ENDPOINTS, "thinks": request.thinks(body), "bridge": bridge}

    def converse(*, inner: bool) -> Conversation:
        return Conversation(changes, **options, origins=None if inner else origins)

    return converse
