"""Plain conversations: roles and texts and nothing else, in an order that every API takes. Most requests hold one."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
from msgspec import Raw

from mistral_filter.errors import MistralFilterError
from mistral_filter.parsing import is_utf8, parse
from mistral_filter.rawjson import Node, encode

__all__ = ["LEAST", "Plain", "is_plain", "read_plain"]


class _Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A message that is a role and a text and nothing else."""

    role: Literal["system", "user", "assistant"]
    content: Raw


_decode_plain = msgspec.json.Decoder(list[_Plain]).decode


_BEFORE_ROLE, _BEFORE_CONTENT, _AFTER_CONTENT = len('[{"role":"'), len('","content":'), len("}")
"""Bytes, for the first message of a list and for any other."""

_LONGEST = 512 * 1024
"""Bytes. All messages are held twice here; and what is longer is not plain but holds an image, as a rule."""


def is_plain(raw: Raw) -> bool:
    """Whether *raw* is a conversation as nearly all begin: roles and texts in an order that every API takes, a user's last.

    Nothing in it is changed (the tests compare it with the long way), and it costs a third of looking at the messages one by
    one. False may mean anything, also that *raw* is no JSON.
    """
    if len(raw) > _LONGEST:
        return False
    try:
        messages = _decode_plain(raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    compact = encode(messages)
    before, at = "", 0
    for message in messages:
        role, size = message.role, len(message.content)
        at += _BEFORE_ROLE + len(role) + _BEFORE_CONTENT
        # to look at a byte of the whole is quicker than to look into each content
        if size < 3 or compact[at] != 0x22 or (role == "system" and before == "assistant"):
            return False
        before = role
        at += size + _AFTER_CONTENT
    if before != "user":
        return False
    # as long as without white space, or as json.dumps writes it: then no key is repeated
    if len(raw) == len(compact):
        return True
    if len(raw) != len(compact) + 4 * len(messages) - 1:
        return False
    spaced = [b'{"role": "%b", "content": %b}' % (message.role.encode(), message.content) for message in messages]
    return bool(Raw(b"[%b]" % b", ".join(spaced)) == raw)


class Plain(NamedTuple):
    """A body with a plain conversation."""

    fields: Node
    """Its top level."""
    messages: Raw
    """The conversation, which is one of its fields."""
    rest: bytes
    """All but the conversation: JSON as well, with a word in its place."""


LEAST = 16384
"""Bytes of a body that is worth reading in two pieces."""
_NEAR = 4096
"""Bytes before and after the conversation, at most."""
_KEY, _BEFORE, _END = "messages", b'"messages":', b'"}]'
_WORD = b'"\xee\x80\x82"'
"""Stands for the conversation: a character for private use, so that hardly any body has it. One that does is read as a whole."""


def read_plain(body: bytes) -> Plain | None:
    """The top level of *body* if it has a plain conversation, which is gone through only once; None: it may be anything else.

    The conversation is JSON, and so is the rest with a word in its place; then the whole is.
    """
    start, end = body.find(_BEFORE, 0, _NEAR) + len(_BEFORE), body.rfind(_END, -_NEAR) + len(_END)
    if start < len(_BEFORE) or end < start:
        return None
    start += body[start : start + 1] == b" "
    messages = Raw(memoryview(body)[start:end])
    if _WORD in body[:start] or _WORD in body[end:] or not is_plain(messages):
        return None
    if not (body.isascii() or is_utf8(memoryview(body)[start:end])):
        return None
    rest = body[:start] + _WORD + body[end:]
    try:
        fields = parse(rest)
    except MistralFilterError:  # what is said of the whole body names the byte
        return None
    if fields.get(_KEY) != Raw(_WORD):
        return None
    fields[_KEY] = messages
    return Plain(fields, messages, rest)
