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
  new id is the next index, the same id keeps its own. Further pieces of a call go without an id (``"null"`` and ids that change
  from piece to piece were seen in 2026: clients join ids, or keep the last), and without a repeated name.
- The first delta of a choice gets ``role`` where it has none (seen of zai-glm-5-2, 2026-09: openai-node throws at the end).
- Mistral's flat error as an event (``{"object":"error","message":…}``) gets the ``error`` object; so does one that stands in the
  stream as a bare line of JSON (mistralai/mistral-vibe#1104, 2026-09), which becomes an event.

Strings and numbers keep the bytes in which Mistral wrote them; texts are joined without being decoded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Raw

from mistral_filter.errors import UpstreamError
from mistral_filter.proxy.answers.errors import STREAM_ERROR, is_error, put_stream_error
from mistral_filter.proxy.answers.events import as_event
from mistral_filter.proxy.answers.reading import UNREADABLE, absent, each, is_simple, rewritten
from mistral_filter.rawjson import Node, as_array, as_number, as_object, as_text, first_byte

__all__ = ["Chunks", "is_plain", "of_whole"]

_FINISH = {"model_length": b'"length"', "error": b"null"}
"""finish_reason: what OpenAI's clients are told (``ChatCompletionChoiceFinishReason`` in mistralai 3.7.0; OpenAI knows no other
than stop, length, tool_calls and content_filter)."""

_SAID = {"text": frozenset({"type", "text"}), "thinking": frozenset({"type", "thinking", "closed", "signature"})}
"""type of chunk: the keys of which nothing is lost when only its text is kept (``closed`` is for prefixes in requests)."""

_NO_ID = (None, "", "null")
"""What stands for no id; the last is the SDK's default."""

_LONGEST_ARGUMENTS = 65536
"""Characters of a call's arguments that are kept to see whether they are whole."""


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


class _Unbegun(msgspec.Struct, gc=False):
    """A chunk without a choice, as long as none has begun."""

    choices: Annotated[list[_Choice], msgspec.Meta(max_length=0)]


_plain = msgspec.json.Decoder(_Plain).decode

_MOST_CHOICES = 16
"""Of a stream. The chunks of further choices are each looked at."""


@cache
def _plain_of(begun: int) -> Callable[[bytes], Any]:
    """Decodes a chunk of a stream in which there is nothing to rewrite, once so many choices have *begun*."""
    if not begun:
        return msgspec.json.Decoder(_Unbegun).decode
    index = ("index", Literal[tuple(range(begun))], 0)
    rest = [(field.name, field.type, field.default) for field in msgspec.structs.fields(_Choice)]
    choice = msgspec.defstruct("_BegunChoice", [index, *rest], gc=False)  # in the order in which they come: it is the fastest
    return msgspec.json.Decoder(msgspec.defstruct("_BegunPlain", [("choices", list[choice])], gc=False)).decode  # type: ignore[valid-type]


def is_plain(data: bytes) -> bool:
    """Whether the answer *data* is JSON in which there is nothing to rewrite. Exact, and faster than looking for a few words."""
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
    """The chunks of one stream; remembers which choices have begun, and which tool call has which index."""

    words = re.compile(rb'"choices"|' + STREAM_ERROR)

    def __init__(self, lists: bool) -> None:
        self._lists = lists
        self._calls: dict[bytes, _Calls] = {}
        self._begun = 0
        """Choices 0 to this have had their first delta."""
        self.plain = _plain_of(0)
        """Raises one of UNREADABLE for a chunk in which there may be something to rewrite."""

    def rewrite(self, data: bytes) -> list[bytes] | None:
        """What the chunk *data* becomes: one or two chunks; nothing, or None, where it may stay."""
        return rewritten(data, self._chunk) if is_simple(data) else None

    def rewrite_bare(self, line: bytes) -> bytes | None:
        """The event that *line*, which is no event, should have been: an error; None, if it is none."""
        texts = rewritten(line, self._bare)
        return as_event(texts[0]) if texts else None

    def _chunk(self, node: Node) -> Iterator[Node]:
        if "choices" not in node:
            if is_error(node) and put_stream_error(node):
                yield node
            return
        changed, failed = _choices(node, self._lists, self._calls)
        while self._begun < _MOST_CHOICES and (calls := self._calls.get(b"%d" % self._begun)) is not None and calls.has_role:
            self._begun += 1
            self.plain = _plain_of(self._begun)
        if changed:
            yield node
        if failed:
            yield msgspec.json.decode(_failure().body(), type=dict[str, Raw])

    def _bare(self, node: Node) -> Iterator[Node]:
        if "choices" not in node and is_error(node):
            put_stream_error(node)
            yield node


class _Calls:
    """The tool calls of one choice, and what else is counted in it."""

    def __init__(self) -> None:
        self.has_role = False
        """A delta has come; the first one has a role."""
        self.by_id: dict[str, int] = {}
        self.begun: dict[int, _Begun] = {}
        self.moved: dict[int, int] = {}
        """Where two calls came with one index: that index, and the one that its latest call has got instead."""
        self.latest = self.highest = -1
        self.chunks = 0
        """How many content chunks were kept."""

    def place(self, call: Node) -> bool:
        """Gives *call*, or a further piece of one, its index, and takes id and name from a further piece; whether it was changed.

        Clients put the pieces of a call together by the index, and join their ids or keep the last one.
        """
        given = None if absent(call, "index") else as_number(call["index"])
        id = as_text(call.get("id"))
        id = None if id in _NO_ID else id
        function = as_object(call.get("function")) or {}
        name = as_text(function.get("name"))
        starts = bool(name)
        if isinstance(given, int):
            index = self.by_id.get(id or "", self.moved[given]) if given in self.moved else given
            before = self.begun.get(index) if id is not None and starts and self.by_id.get(id) != index else None
            if before is not None and id is not None and (before.name != name or before.is_whole()):
                index = self.moved[given] = self.by_id.get(id, self.highest + 1)
        elif id is not None:
            index = self.by_id.get(id, self.highest + 1)
        else:  # more of the latest, unless it begins anew
            index = self.highest + 1 if self.latest < 0 or starts else self.latest
        if id is not None:
            self.by_id[id] = index
        further = index in self.begun
        self.begun.setdefault(index, _Begun(name)).add(as_text(function.get("arguments")))
        self.latest, self.highest = index, max(index, self.highest)
        changed = index != given
        call["index"] = index
        if further and "id" in call:
            del call["id"]
            changed = True
        if further and starts and name == self.begun[index].name:  # clients join names
            call["function"] = {key: value for key, value in function.items() if key != "name"}
            changed = True
        return changed

    def numbered(self, raw: Raw) -> object:
        """A content chunk that is kept, with its number."""
        chunk = as_object(raw)
        if chunk is None or "index" in chunk:
            return raw
        number, self.chunks = self.chunks, self.chunks + 1
        return {"index": number, **chunk}


class _Begun:
    """A tool call of which pieces have come."""

    __slots__ = ("_pieces", "_size", "name")

    def __init__(self, name: str | None) -> None:
        self.name = name
        self._pieces: list[str] = []
        self._size = 0

    def add(self, arguments: str | None) -> None:
        """The next piece of its arguments."""
        if arguments and self._size <= _LONGEST_ARGUMENTS:
            self._size += len(arguments)
            self._pieces.append(arguments)

    def is_whole(self) -> bool:
        """Whether its arguments are JSON by now, so that nothing can follow."""
        try:
            return self._size <= _LONGEST_ARGUMENTS and msgspec.json.decode("".join(self._pieces), type=Raw) is not None
        except UNREADABLE:
            return False


def _choices(node: Node, lists: bool, calls: dict[bytes, _Calls] | None) -> tuple[bool, bool]:
    """Rewrites the choices of *node*: whether any was changed, whether any says that the model failed."""
    failed = False

    def rewrite(position: int, choice: Node) -> bool:
        nonlocal failed
        changed = False
        index = b"%d" % position if absent(choice, "index") else bytes(choice["index"])
        for key in ("message", "delta"):
            message = as_object(choice.get(key))
            if message is None:
                continue
            known = None if calls is None else calls.setdefault(index, _Calls())
            new = _message(message, lists, known)
            if known is not None and not known.has_role:
                known.has_role = True
                if not as_text(message.get("role")):
                    message["role"] = "assistant"
                    new = True
            if new:
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
