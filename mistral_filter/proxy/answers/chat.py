"""Chat, agents and FIM: whole answers and the chunks of a stream, as OpenAI's clients expect them.

- ``content`` as a list of chunks (reasoning models, references; ``ContentChunk`` in mistralai 3.7.0) becomes a string: the text
  of the text chunks, one after the other. The text of thinking chunks goes into ``reasoning_content``, DeepSeek's name for it,
  which clients of OpenAI's API read. A chunk that says more than its text (``reference``, ``image_url``, ``tool_reference``, a
  thinking chunk with references or a ``signature``, whatever comes in future) is kept, unchanged and in order, in the list
  ``content_chunks``, a key of our own that is there only then. In a stream each has its ``index``, by which OpenAI's SDK for
  Python puts lists together.
- ``finish_reason`` ``model_length`` becomes ``length``. ``error`` is an error: UpstreamError for a whole answer; in a stream the
  chunk without it (its text and its usage are not lost), then an ``error`` event.
- Tool calls get ``type`` where it is missing, arguments that are an object become the text of it, and in a stream ``index``: a
  new id is the next index, the same id keeps its own. Further pieces of a call go without an id (``"null"`` was seen in streams
  of 2026: clients join ids, or keep the last).
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
            named = (as_text(node.get("object")) or "").lower() == "error" or as_text(node.get("message")) is not None
            if named or not (absent(node, "error") and absent(node, "detail")):
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
    """The tool calls of one choice, and what else is counted in it."""

    def __init__(self) -> None:
        self.by_id: dict[str, int] = {}
        self.begun: set[int] = set()
        self.moved: dict[int, int] = {}
        """Where two calls came with one index: that index, and the one that its latest call has got instead."""
        self.latest = self.highest = -1
        self.chunks = 0
        """How many content chunks were kept."""

    def place(self, call: Node) -> bool:
        """Gives *call*, or a further piece of one, its index, and takes the id from a further piece; whether it was changed.

        Clients put the pieces of a call together by the index, and join their ids or keep the last one.
        """
        given = None if absent(call, "index") else as_number(call["index"])
        id = as_text(call.get("id"))
        id = None if id in _NO_ID else id
        starts = bool(as_text((as_object(call.get("function")) or {}).get("name")))
        if isinstance(given, int):
            index = self.by_id.get(id or "", self.moved[given]) if given in self.moved else given
            if id is not None and starts and index in self.begun and self.by_id.get(id) != index:
                index = self.moved[given] = self.by_id.get(id, self.highest + 1)
        elif id is not None:
            index = self.by_id.get(id, self.highest + 1)
        else:  # more of the latest, unless it begins anew
            index = self.highest + 1 if self.latest < 0 or starts else self.latest
        if id is not None:
            self.by_id[id] = index
        further = index in self.begun
        self.begun.add(index)
        self.latest, self.highest = index, max(index, self.highest)
        changed = index != given
        call["index"] = index
        if further and "id" in call:
            del call["id"]
            changed = True
        return changed

    def numbered(self, raw: Raw) -> object:
        """A content chunk that is kept, with its number."""
        chunk = as_object(raw)
        if chunk is None or "index" in chunk:
            return raw
        number, self.chunks = self.chunks, self.chunks + 1
        return {"index": number, **chunk}


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
        changed = calls.place(call) if calls else False
        if absent(call, "type"):
            call["type"] = "function"
            changed = True
        function = as_object(call.get("function")) or {}
        arguments = function.get("arguments")
        if isinstance(arguments, Raw) and first_byte(arguments) in b"{[":
            call["function"] = {**function, "arguments": bytes(arguments).decode()}
            changed = True
        return changed

    changed = each(message, "tool_calls", rewrite)
    chunks = as_array(message.get("content")) if lists else None
    if chunks is not None:
        flat = _flat(chunks)
        if calls is not None and "content_chunks" in flat:
            flat["content_chunks"] = [calls.numbered(raw) for raw in flat["content_chunks"]]
        message.update(flat)
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
    return UpstreamError("upstream_finish_error")
