"""Plain conversations: roles and texts and nothing else, in an order that every API takes. Most requests hold one."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw

from mistral_filter.rawjson import encode

__all__ = ["is_plain"]


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
    one. False may mean anything.
    """
    if len(raw) > _LONGEST:
        return False
    try:
        messages = _decode_plain(raw)
    except msgspec.ValidationError:
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
