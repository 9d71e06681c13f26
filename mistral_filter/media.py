"""Images, documents and sounds: long base64 texts, which are put aside while the rest of a body is read.

Strategy: find them by looking for quotes only, see that each is a legal piece of a JSON string, and leave its beginning and a
token in its place. Every step of the filter then works on a short body; what it writes gets the long texts back, from the very
bytes that came, in one copy. A body of 5 MB with one image is gone through once instead of once for each level.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw

from mistral_filter.fields import MEDIA
from mistral_filter.parsing import is_utf8

__all__ = ["LEAST", "Media", "put_aside"]

LEAST = 65536
"""Bytes of a text that is put aside, at least. No shorter body holds one."""
_STEP = LEAST // 2
"""Between two looks for a quote: no text of LEAST bytes is missed."""
_SHOWN = 1024
"""Bytes at the beginning of a text that stay: rules look at how a value begins (``data:``), and at its length if it is short."""

_KEY = re.compile(rb'"(?:' + "|".join(sorted(MEDIA)).encode() + rb')"[ \t\r\n]{0,8}:[ \t\r\n]{0,8}"\Z')
_LONGEST_KEY = max(map(len, MEDIA)) + 20
_MARK = "\ue001".encode()
_MARKED = re.compile(_MARK + b"|" + rb"\\u[eE]001")
_TOKEN = re.compile(_MARK + b"([0-9]+)" + _MARK)

_whole = msgspec.json.Decoder(Raw).decode


class Media:
    """``body`` is a body with a token in place of each long text."""

    def __init__(self, body: bytes, texts: list[memoryview]) -> None:
        self.body = body
        self._texts = texts

    def restore(self, body: bytes) -> bytes:
        """*body*, which was made of ``self.body``, with the texts in their places."""
        pieces: list[bytes | memoryview] = []
        end = 0
        for token in _TOKEN.finditer(body):
            pieces += (memoryview(body)[end : token.start()], self._texts[int(token[1])])
            end = token.end()
        return b"".join((*pieces, memoryview(body)[end:]))


def put_aside(body: bytes) -> Media | None:
    """*body* without its long texts; None: there is none, or the body may not be JSON. It need not have been parsed yet.

    Only values of the keys in ``fields.MEDIA`` are put aside, and of those only what holds no escape, so that no rule compares
    a text that is not all there. What is put aside is legal inside a JSON string; whether the rest is legal is seen without it.
    """
    view = memoryview(body)
    pieces: list[bytes | memoryview] = []
    texts: list[memoryview] = []
    done, at, is_ascii = 0, 0, body.isascii()
    while at < len(body):
        end = body.find(b'"', at)
        if end - at < _STEP:
            at = at + _STEP if end >= 0 else len(body)
            continue
        begin = body.rfind(b'"', done, at + 1) + 1
        at = end + 1
        if end - begin < LEAST or not _KEY.search(body, max(begin - _LONGEST_KEY, 0), begin):
            continue
        if body.find(b"\\", begin, end) >= 0 or not _is_legal(view[begin - 1 : end + 1], is_ascii=is_ascii):
            continue
        begin += _SHOWN
        pieces += (view[done:begin], b"%b%d%b" % (_MARK, len(texts), _MARK))
        texts.append(view[begin:end])
        done = end
    if not texts:
        return None
    rest = [*pieces[::2], view[done:]]
    if any(map(_MARKED.search, rest)):
        return None
    return Media(b"".join((*pieces, view[done:])), texts)


def _is_legal(text: memoryview, *, is_ascii: bool) -> bool:
    """Whether *text*, with a quote at both ends and none between, is a JSON string."""
    try:
        _whole(text)
    except msgspec.DecodeError:
        return False
    return is_ascii or is_utf8(text)
