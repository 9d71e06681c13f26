"""Streams of requests in which names of tools were replaced: the client sees its own names again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import msgspec

from mistral_filter.proxy.answers.events import rewrite_events
from mistral_filter.toolnames import restore_tool_names

__all__ = ["with_own_names"]


def with_own_names(chunks: Iterator[bytes], names: Mapping[str, str]) -> Iterator[bytes]:
    """The event stream *chunks* of chat or Responses with the client's own names; *names* is ``Facts.tool_names``.

    Mistral sends a name in one piece. One that is spread over several pieces stays as it was sent.
    """
    return rewrite_events(chunks, _OwnNames(names))


class _OwnNames:
    """See ``events.Rewriter``."""

    words = re.compile(rb'"name')

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    @property
    def plain(self) -> Callable[[bytes], object]:
        return _check_names_nothing

    def rewrite(self, data: bytes) -> list[bytes] | None:
        own = restore_tool_names(data, self._names)
        return None if own == data else [own]

    def rewrite_bare(self, _line: bytes) -> None:
        return None


def _check_names_nothing(data: bytes) -> None:
    if b'"name' in data:
        raise msgspec.DecodeError
