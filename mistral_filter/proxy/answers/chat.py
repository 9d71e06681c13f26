"""Chat, agents and FIM: whole answers and the chunks of a stream, as OpenAI's clients expect them.

- ``content`` as a list of chunks (reasoning models, references; ``ContentChunk`` in mistralai 3.7.0) becomes a string: the text
  of the text chunks, one after the other. The text of thinking chunks goes into ``reasoning_content``, DeepSeek's name for it,
  which clients of OpenAI's API read. A chunk that says more than its text (``reference``, ``image_url``, ``tool_reference``, a
  thinking chunk with references or a ``signature``, whatever comes in future) is kept, unchanged and in order, in the list
  ``content_chunks``, a key of our own that is there only then.
- ``finish_reason`` ``model_length`` becomes ``length``. ``error`` is an error: UpstreamError for a whole answer; in a stream the
  chunk without it (its text and its usage are not lost), then an ``error`` event.
- Tool calls get ``type`` where it is missing, and ``index`` in a stream: a new id is the next index, the same id keeps its own.
- Mistral's flat error as an event (``{"object":"error","message":…}``) gets the ``error`` object.

Strings and numbers keep the bytes in which Mistral wrote them; texts are joined without being decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Raw

from mistral_filter.errors import UpstreamError
from mistral_filter.proxy.answers.errors import put_error
from mistral_filter.proxy.answers.reading import UNREADABLE, absent, each
from mistral_filter.rawjson import Node, as_array, as_number, as_object, as_text, first_byte

__all__ = ["Chunks", "is_plain", "of_whole"]

_FINISH = {"model_length": b'"length"', "error": b"null"}
"""finish_reason: what OpenAI's clients are told (``ChatCompletionChoiceFinishReason`` in mistralai 3.7.0; OpenAI knows no other
than stop, length, tool_calls and content_filter)."""

_SAID = {"text": frozenset({"type", "text"}), "thinking": frozenset({"type", "thinking", "closed", "signature"})}
"""type of chunk: the keys of which nothing is lost when only its text is kept (``closed`` is for prefixes in requests)."""

_NO_ID = (None, "", "null")
"""What stands for no id; the last is the SDK's default."""


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    tool_calls: None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Message | None = None
    message: _Message | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None


class _Plain(msgspec.Struct, gc=False):
    """An answer, or a chunk, in which there is nothing to rewrite: what decodes as this needs no second look."""

    choices: list[_Choice]


_plain = msgspec.json.Decoder(_Plain).decode


def is_plain(data: bytes) -> bool:
    """Whether *data* is JSON in which there is nothing to rewrite. Exact, and faster than looking for a few words."""
    try:
        _plain(data)
    except UNREADABLE:
        return False
    return True


def of_whole(node: Node, lists: bool) -> Iterator[Node]:
    """The answer *node*, if anything was rewritten. *lists*: content lists too. Raises UpstreamError, see above."""
    changed, failed = _choices(node, lists, None)
    if failed:
        raise _failure()
    if changed:
        yield node


class Chunks:
    """The chunks of one stream; remembers which tool call has which index."""

    def __init__(self, lists: bool) -> None:
        self._lists = lists
        self._calls: dict[object, _Calls] = {}

    def rewrite(self, node: Node) -> Iterator[Node]:
        """What the chunk *node* becomes: one or two chunks, or nothing where it may stay."""
        if "choices" not in node:
            if (as_text(node.get("object")) or "").lower() == "error":
                status = as_number(node.get("raw_status_code")) or 0
                if put_error(node, int(status) if 400 <= status < 600 else 500):
                    yield node
            return
        changed, failed = _choices(node, self._lists, self._calls)
        if changed:
            yield node
        if failed:
            yield msgspec.json.decode(_failure().body(), type=dict[str, Raw])


class _Calls:
    """The tool calls of one choice."""

    def __init__(self) -> None:
        self.by_id: dict[str, int] = {}
        self.latest = self.highest = -1

    def put_index(self, call: Node) -> bool:
        """Gives *call* its index; false: it has one."""
        given = None if absent(call, "index") else as_number(call["index"])
        name = as_text(call.get("id"))
        if isinstance(given, int):
            index = given
        elif name not in _NO_ID:
            index = self.by_id.get(str(name), self.highest + 1)
        else:  # more of the latest, unless it begins anew
            function = as_object(call.get("function")) or {}
            new = self.latest < 0 or bool(as_text(function.get("name")))
            index = self.highest + 1 if new else self.latest
        if name not in _NO_ID:
            self.by_id[str(name)] = index
        self.latest, self.highest = index, max(index, self.highest)
        if index == given:
            return False
        call["index"] = index
        return True


def _choices(node: Node, lists: bool, calls: dict[object, _Calls] | None) -> tuple[bool, bool]:
    """Rewrites the choices of *node*: whether any was changed, whether any says that the model failed."""
    failed = False

    def rewrite(position: int, choice: Node) -> bool:
        nonlocal failed
        changed = False
        index = position if absent(choice, "index") else bytes(choice["index"])
        for key in ("message", "delta"):
            message = as_object(choice.get(key))
            if message is not None and _message(message, lists, None if calls is None else calls.setdefault(index, _Calls())):
                choice[key] = message
                changed = True
        reason = as_text(choice.get("finish_reason"))
        if reason in _FINISH:
            choice["finish_reason"] = Raw(_FINISH[reason])
            failed |= reason == "error"
            changed = True
        return changed

    return each(node, "choices", rewrite), failed


def _message(message: Node, lists: bool, calls: _Calls | None) -> bool:
    def rewrite(_: int, call: Node) -> bool:
        changed = calls.put_index(call) if calls else False
        if absent(call, "type"):
            call["type"] = "function"
            changed = True
        return changed

    changed = each(message, "tool_calls", rewrite)
    chunks = as_array(message.get("content")) if lists else None
    if chunks is not None:
        message.update(_flat(chunks))
        changed = True
    return changed


def _flat(chunks: list[Raw]) -> Node:
    """The keys that stand for a list of content chunks."""
    texts: list[Raw] = []
    thoughts: list[Raw] = []
    others: list[Raw] = []
    for raw in chunks:
        chunk = as_object(raw) or {}
        kind = as_text(chunk.get("type")) or next((name for name in _SAID if name in chunk), None)
        if kind == "text" and first_byte(chunk.get("text")) == ord('"'):
            texts.append(chunk["text"])
            whole = chunk.keys() <= _SAID[kind]
        elif kind == "thinking":
            whole = _think(chunk.get("thinking"), thoughts) and chunk.keys() <= _SAID[kind] and absent(chunk, "signature")
        else:
            whole = False
        if not whole:
            others.append(raw)
    flat: Node = {"content": _join(texts)}
    if thoughts:
        flat["reasoning_content"] = _join(thoughts)
    if others:
        flat["content_chunks"] = others
    return flat


def _think(thinking: object, thoughts: list[Raw]) -> bool:
    """Adds the texts of a thinking chunk; whether they are all of it."""
    if isinstance(thinking, Raw) and first_byte(thinking) == ord('"'):
        thoughts.append(thinking)
        return True
    parts = as_array(thinking)
    whole = parts is not None
    for raw in parts or ():
        part = as_object(raw) or {}
        text = part.get("text")
        if isinstance(text, Raw) and first_byte(text) == ord('"'):
            thoughts.append(text)
        whole = whole and text is not None and part.keys() <= _SAID["text"]
    return whole


def _join(texts: list[Raw]) -> Raw:
    """One JSON string of several."""
    return texts[0] if len(texts) == 1 else Raw(b'"' + b"".join(bytes(text)[1:-1] for text in texts) + b'"')


def _failure() -> UpstreamError:
    return UpstreamError(502, "upstream_finish_error", 'The model stopped with an error (finish_reason "error").')
