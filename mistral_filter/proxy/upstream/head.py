"""The head of an answer, read strictly (RFC 9112), and what can be wrong with an answer.

Nothing is repaired or guessed; what is refused beyond h11's reading is listed in ``wire``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = [
    "HEAD_END",
    "MAX_FIELDS",
    "PLAIN_VALUE",
    "Broken",
    "Head",
    "Malformed",
    "Stale",
    "WireError",
    "frames_a_body",
    "parse_fields",
    "parse_head",
]

MAX_FIELDS = 100
_MAX_LINE = 65536
_LENGTH_DIGITS = 18

HEAD_END = re.compile(rb"\n\r?\n")

PLAIN_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""A field's value without control characters, in a request or an answer."""
_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?\r?\n")
_FIELD_LINES = re.compile(rf"(?:{_NAME}:[\t\x20-\x7e\x80-\xff]*\r\n)*")
"""Nearly every head, in one look. What does not match is looked at line by line."""
_FIELD_NAME = re.compile(_NAME)
_FIELD_VALUE = re.compile(r"[^\x00\n\v\f\r\x7f]*")
"""Control characters are let through, as many readers do; what passes an answer on has to look."""
# No two neighbours in these expressions match the same character, so that none takes more than linear time.
_BLANK = " \t"


class WireError(Exception):
    """The connection cannot give the answer."""


class Malformed(WireError):
    """What came is no HTTP."""


class Broken(WireError):
    """The connection ended before the answer did, or before there was any. *reset*: by a reset, not by an end."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


class Stale(Broken):
    """A reused connection was closed before the request reached the other side: it may be sent again."""


class Head(NamedTuple):
    """The head of an answer."""

    status: int
    reason: str
    """Without blanks around it."""
    fields: list[tuple[str, str]]
    """Names as they were written, values without blanks around them, in order."""
    length: int | None
    """The declared number of bytes in the body, None if it ends in another way."""
    chunked: bool
    closes: bool
    """The connection ends with this answer."""
    connection: str
    """All options of Connection, with commas between them."""
    is_plain: bool
    """There is no control character in a value."""


def parse_head(text: str, method: str) -> Head:
    """The head in *text*, which ends with its empty line."""
    first = _STATUS_LINE.match(text)
    if first is None:
        raise Malformed
    start, stop = first.end(), len(text) - 2
    is_plain = text.startswith("\r\n", stop) and _FIELD_LINES.fullmatch(text, start, stop) is not None
    if is_plain:
        lines = text[start : stop - 2].split("\r\n") if start < stop else []
        fields = [(name, value.strip(_BLANK)) for name, _, value in [line.partition(":") for line in lines]]
    else:
        fields = parse_fields(text[start:])
        is_plain = PLAIN_VALUE.fullmatch("".join([value for _, value in fields])) is not None
    if len(fields) > MAX_FIELDS or (len(text) > _MAX_LINE and max(map(len, text.split("\n"))) > _MAX_LINE):
        raise Malformed
    status = int(first[2])
    lengths = codings = None
    connection = ""
    for name, value in fields:
        meaning = _MEANINGS.get(name.lower())
        if meaning is None:
            continue
        if meaning == "length":
            if not (value.isascii() and value.isdigit() and len(value) <= _LENGTH_DIGITS) or lengths not in (None, value):
                raise Malformed
            lengths = value
        elif meaning == "coding":
            if codings is not None or value.lower() != "chunked":
                raise Malformed
            codings = value
        else:
            connection = f"{connection},{value.lower()}"
    if (lengths is not None and codings is not None) or status == 101:
        raise Malformed
    closes = first[1] == "0" or (connection != "" and "close" in {option.strip(_BLANK) for option in connection.split(",")})
    length = None if lengths is None else int(lengths)
    if method == "HEAD" or status < 200 or status in (204, 304):
        return Head(status, (first[3] or "").strip(_BLANK), fields, 0, False, closes, connection, is_plain)
    return Head(status, (first[3] or "").strip(_BLANK), fields, length, codings is not None, closes, connection, is_plain)


_MEANINGS = {"content-length": "length", "transfer-encoding": "coding", "connection": "connection"}


def parse_fields(text: str) -> list[tuple[str, str]]:
    """Fields with folded lines, bare line feeds or control characters; raises Malformed for what is no field."""
    lines: list[list[str]] = []
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if not line:
            break
        if line.startswith((" ", "\t")):  # folded (RFC 9112, 5.2): one field still
            if not lines:
                raise Malformed
            lines[-1].append(line.lstrip(_BLANK))
        else:
            lines.append([line])
    fields = []
    for parts in lines:
        name, colon, value = " ".join(parts).partition(":")
        value = value.strip(_BLANK)
        if not (colon and _FIELD_NAME.fullmatch(name) and _FIELD_VALUE.fullmatch(value)):
            raise Malformed
        fields.append((name, value))
    return fields


def frames_a_body(name: str) -> bool:
    """Whether a field of this *name* says where a body ends."""
    return _MEANINGS.get(name.lower()) in ("length", "coding")
