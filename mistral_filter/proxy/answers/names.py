"""Streams of requests in which names of tools were replaced: the client sees its own names again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mistral_filter.proxy.answers.events import rewrite_events
from mistral_filter.toolnames import restore_tool_names

__all__ = ["with_own_names"]


def with_own_names(chunks: Iterator[bytes], names: Mapping[str, str]) -> Iterator[bytes]:
    """The event stream *chunks* of chat or Responses with the client's own names; *names* is ``Facts.tool_names``.

    Mistral sends a name in one piece. One that is spread over several pieces stays as it was sent.
    """

    def rewrite(data: bytes) -> list[bytes] | None:
        own = restore_tool_names(data, names)
        return None if own == data else [own]

    return rewrite_events(chunks, _names_nothing, rewrite)


def _names_nothing(data: bytes) -> bool:
    return b'"name' not in data
