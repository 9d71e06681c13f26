"""Plain conversations: roles and texts and nothing else, in an order that every API takes. Most requests hold one."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw

__all__ = ["is_plain"]


class _Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A message that is a role and a text and nothing else."""

    role: Literal["system", "user", "assistant"]
    content: Raw


_decode_plain = msgspec.json.Decoder(list[_Plain]).decode


_AROUND = '{"role":"","content":},'
"""What stands around a role and a content."""

_LONGEST = 512 * 1024
"""Bytes. All messages are held at once here; and what is longer is not plain but holds an image, as a rule."""


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
    before, compact = "", 1 + len(_AROUND) * len(messages)
    for message in messages:
        content, role = message.content, message.role
        size = len(content)
        if size < 3 or memoryview(content)[0] != 0x22 or (role == "system" and before == "assistant"):
            return False
        compact += len(role) + size
        before = role
    if before != "user":
        return False
    # as long as without white space, or as json.dumps writes it: then no key is repeated
    if len(raw) == compact:
        return True
    if len(raw) != compact + 4 * len(messages) - 1:
        return False
    spaced = [b'{"role": "%b", "content": %b}' % (message.role.encode(), message.content) for message in messages]
    return bool(Raw(b"[%b]" % b", ".join(spaced)) == raw)
