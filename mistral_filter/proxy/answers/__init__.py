"""Mistral → OpenAI: what a client of OpenAI's API is shown of an upstream's answer.

Pure functions on bytes. ``plan`` decides from the request alone what an answer to it could need; ``Plan.whole`` and
``Plan.events`` do it; ``error_answer`` is for every status of 400 or more. An answer that needs nothing is the same bytes.

=============== ==================================================================================
``errors``      the ``error`` object beside what Mistral sent
``chat``        content lists, finish reasons, tool calls
``embeddings``  numbers as base64
``names``       the client's own names of its tools
``events``      server-sent events: cutting a stream into them and putting it together again
``responses``   errors in streams of the Responses API
``reading``     JSON of which only the visited levels are decoded
``pieces``      large answers, as they come
=============== ==================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from mistral_filter.errors import MistralFilterError
from mistral_filter.proxy.answers.chat import Chunks, is_plain, of_whole
from mistral_filter.proxy.answers.embeddings import with_base64
from mistral_filter.proxy.answers.errors import error_answer
from mistral_filter.proxy.answers.events import rewrite_events
from mistral_filter.proxy.answers.names import with_own_names
from mistral_filter.proxy.answers.pieces import rewrite_pieces
from mistral_filter.proxy.answers.reading import is_json, is_simple, rewritten
from mistral_filter.proxy.answers.responses import ResponseEvents, response_error
from mistral_filter.toolnames import restore_tool_names

__all__ = ["Plan", "error_answer", "plan"]

NATIVE = ("mistral-client-python/", "mistral-client-typescript/", "mistral-client-js/", "ai-sdk/mistral/", "ai-sdk-mistral/")
"""How a word of the User-Agent begins in clients that read what Mistral sends, and would lose the reasoning otherwise.

mistralai 0.4.2 and 3.7.0 (PyPI); @mistralai/mistralai 1.10.0 and 2.7.0, and 0.5.0 (npm; where a browser forbids that header, they
send it as X-Mistral-User-Agent); @ai-sdk/mistral 3.0.69 (npm), which is not Mistral's but knows the list only."""

_COMPLETIONS = frozenset({"chat", "agents", "fim"})


class Plan(NamedTuple):
    """What an answer could need."""

    completions: bool = False
    """The answer is a completion, whole or as a stream."""
    lists: bool = False
    """Content lists in it become strings."""
    base64: bool = False
    """The answer is embeddings, and base64 was asked for."""
    responses: bool = False
    """The answer is one of the Responses API, whose streams have an event for errors."""
    tool_names: Mapping[str, str] = MappingProxyType({})
    """The names of tools that were replaced in the request, and the client's own: an answer has those again."""

    @property
    def rewrites_answer(self) -> bool:
        """Whether a JSON answer may be rewritten: its bytes are wanted whole and without a content-encoding."""
        return self.completions or self.base64 or bool(self.tool_names)

    @property
    def rewrites_stream(self) -> bool:
        """Whether a stream may be rewritten: its bytes are wanted without a content-encoding.

        Any stream of chat or Responses may: whatever the request says, it can end with an error. So each event of a chat stream
        is tried on ``Chunks.plain``, a third of a microsecond.
        """
        return self.completions or self.responses or bool(self.tool_names)

    def whole(self, status: int, content_type: str, body: bytes) -> bytes:
        """The *body* of a complete answer as the client is to see it; the same object where nothing has to change.

        Only JSON with a status of 2xx is looked at (``error_answer`` is for the rest). Raises UpstreamError (502,
        ``upstream_finish_error``) when the model's answer says that it failed.
        """
        if not self.rewrites_answer or not 200 <= status < 300 or not is_json(content_type):
            return body
        if self.completions and not is_plain(body) and is_simple(body):
            texts = rewritten(body, partial(of_whole, lists=self.lists))
            body = texts[0] if texts else body
        return self._replaced(body)

    @property
    def rewrites_pieces(self) -> bool:
        """Whether an answer may be rewritten that is too large to be read whole: base64 and names of tools, no more."""
        return self.base64 or bool(self.tool_names)

    def pieces(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The *pieces* of a large answer as the client is to see them."""
        return rewrite_pieces(pieces, self._replaced) if self.rewrites_pieces else pieces

    def _replaced(self, body: bytes) -> bytes:
        """*body* with what is replaced without the rest of the answer being known."""
        return restore_tool_names(with_base64(body) if self.base64 else body, self.tool_names)

    def events(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The event stream *chunks* as the client is to see it; see ``events`` for how it is cut and what stays as it came."""
        if self.completions:
            chunks = rewrite_events(chunks, Chunks(self.lists))
        elif self.responses:
            chunks = rewrite_events(chunks, ResponseEvents())
        return with_own_names(chunks, self.tool_names) if self.tool_names else chunks

    def error_event(self, error: MistralFilterError, sequence_number: int = 0) -> bytes:
        """The event for an *error* that ends a stream.

        *sequence_number* is the number of an event that follows all that were sent; only the Responses API counts.
        """
        return response_error(error, sequence_number) if self.responses else b"data: " + error.body() + b"\n\n"


def plan(
    endpoint: str | None,
    base64: bool,
    user_agent: str,
    reasoning: str = "openai",
    tool_names: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """What the answer to a request could need.

    *endpoint* is a key of ``paths.PATHS`` or None, *base64*: embeddings are asked for in that form.
    *reasoning* is ``"openai"`` (content is a
    string, reasoning in ``reasoning_content``) or ``"mistral"`` (content lists stay). Clients named in NATIVE get what Mistral
    sends, whatever *reasoning* says. *tool_names* are those of the request's facts.
    """
    if endpoint == "responses":
        return Plan(responses=True, tool_names=tool_names)
    if any(word.startswith(NATIVE) for word in user_agent.lower().split()):
        return Plan(tool_names=tool_names)
    if endpoint in _COMPLETIONS:
        return Plan(completions=True, lists=reasoning == "openai", tool_names=tool_names)
    return Plan(base64=endpoint == "embeddings" and base64, tool_names=tool_names)
