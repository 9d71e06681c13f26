"""Generates answers of an upstream as bytes: valid ones, each broken in each place, cut anywhere, and random ones.

Everything is deterministic: the same case comes at the same place in every run.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["BASES", "Case", "boundaries", "cuts", "in_pieces", "mutations", "rand", "random_case", "systematic"]


class Case(NamedTuple):
    """What an upstream sends to a request with *method* before it closes the connection."""

    method: str
    data: bytes


INTERESTING = b'\x00\t\n\v\f\r "+,-0159:;=aFgHx_\x1f\x7f\x80\xa0\xff'
"""Bytes that mean something in HTTP, or nearly do."""

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

BASES = [
    Case("GET", b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"),
    Case(
        "POST",
        b'HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a="b"\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n',
    ),
    Case("GET", CHUNKED + b"003 \r\nabc\r\n00\r\nX-Sum: 1\r\nY: \tz\t\r\n\r\nHTTP/1.1 200"),
    Case("GET", b"HTTP/1.1 200 OK\r\nConnection: keep-alive , Close\r\n\r\nuntil the end"),
    Case("GET", b"HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nnoHTTP/1.1 200 OK\r\n\r\n"),
    Case(
        "POST",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 201 \r\nContent-Length: 1\r\n\r\n1",
    ),
    Case("HEAD", b"HTTP/1.1 200 OK\nContent-Length: 1234\nX-Folded: a,\n  b\n\nleft"),
    Case("GET", b"HTTP/1.1 204\r\nX-Empty:\r\nx-one: 1\r\nX-One:2\r\n\r\n"),
    Case("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n'),
    Case("POST", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 2\r\nX: \x80\x01\xff\r\n\r\n{}\r\n"),
]
"""Answers of each kind, from which others are made by breaking them."""


def rand(*seed: object) -> random.Random:
    """Random numbers that depend on *seed* alone."""
    return random.Random(repr(seed))


# --------------------------------------------------------------------------------------------------------- broken and cut


def cuts() -> Iterator[Case]:
    """Every base answer, ended at every offset."""
    for method, data in BASES:
        for offset in range(len(data) + 1):
            yield Case(method, data[:offset])


def mutations() -> Iterator[Case]:
    """Every base answer with one byte deleted, doubled, replaced or put in, at every offset."""
    for method, data in BASES:
        for at in range(len(data) + 1):
            for byte in INTERESTING:
                yield Case(method, data[:at] + bytes([byte]) + data[at:])
            if at < len(data):
                yield Case(method, data[:at] + data[at + 1 :])
                yield Case(method, data[: at + 1] + data[at:])
                for byte in INTERESTING:
                    yield Case(method, data[:at] + bytes([byte]) + data[at + 1 :])


# ------------------------------------------------------------------------------------------------------------ by the grammar


def _forms(text: str) -> list[bytes]:
    r"""The forms in *text*, between bars: what stands there without the blanks around it, escapes read (``\x20`` is a blank)."""
    return [form.strip().encode().decode("unicode_escape").encode("latin-1") for form in text.split("|")]


def systematic() -> Iterator[Case]:
    """Each part of an answer in each of its forms, right and wrong, with the rest as it should be."""
    for data in _status_lines():
        yield Case("GET", data + b"\r\nContent-Length: 2\r\n\r\nokleft")
    for line in _field_lines():
        yield Case("GET", b"HTTP/1.1 200 OK\r\n" + line + b"\r\nContent-Length: 2\r\n\r\nokleft")
        yield Case("GET", b"HTTP/1.1 200 OK\r\nA: b\r\n" + line + b"\r\n\r\nto the end")
        yield Case("POST", CHUNKED + b"1\r\na\r\n0\r\n" + line + b"\r\n\r\nleft")
    for fields in _framings():
        for version in (b"1.1", b"1.0"):
            for method, status in (("GET", b"200"), ("HEAD", b"200"), ("POST", b"204"), ("GET", b"304"), ("POST", b"500")):
                head = b"HTTP/" + version + b" " + status + b" X\r\n" + fields + b"\r\n"
                for body in (b"", b"3\r\nabc\r\n0\r\n\r\n", b"0123456789ab\r\n"):
                    yield Case(method, head + body)
        interim = b"HTTP/1.1 100 Continue\r\n" + fields + b"\r\n"
        yield Case("POST", interim + BASES[0].data)
        yield Case("POST", CHUNKED + b"1\r\na\r\n0\r\n" + fields + b"\r\n")
    for body in _chunked_bodies():
        yield Case("POST", CHUNKED + body)
        yield Case("POST", CHUNKED + body + b"HTTP/1.1 200 OK\r\n\r\n")
    for before in (
        b"\n",
        b"\r\n",
        b"\r",
        b" ",
        b"\x00",
        b"\r\n\r\n",
        b"\xef\xbb\xbf",
        b"HTTP/1.1 199 \r\nContent-Length: 9\r\n\r\n",
    ):
        for method, data in BASES:
            yield Case(method, before + data)
            yield Case(method, data + before)
    for code in range(100, 200):
        for method, data in BASES[:2]:
            yield Case(method, b"HTTP/1.1 %d Interim\r\nA: b\r\n\r\n" % code + data)


_VERSIONS = _forms("0.9 | 1.0 | 1.1 | 1.2 | 1.9 | 2.0 | 2 | 3.1 | 1. | .1 | 11 | 1.10 | 01.1 | 1,1 | -1.1 | x.y")

_STATUSES = _forms(
    r"| 2 | 20 | 2000 | +20 | -20 | 2_0 | 0x2 | 20a | 200OK | 200\t | 200\x20\x20 | 200\x20 | \xb2\xb9\xb3 | \x20200"
)


def _status_lines() -> Iterator[bytes]:
    for number in range(1000):
        yield b"HTTP/1.1 %03d Reason" % number
    for version in _VERSIONS:
        for space in (b" ", b"", b"  ", b"\t", b"\xa0"):
            yield b"HTTP/" + version + space + b"200 OK"
    for name in (b"http", b"Http", b"HTTPS", b"ICY", b"", b" HTTP", b"HTTP ", b"XHTTP"):
        yield name + b"/1.1 200 OK"
    for status in _STATUSES:
        for reason in (b"", b" OK", b"OK", b"  two  blanks  ", b" \t"):
            yield b"HTTP/1.1 " + status + reason
    for byte in range(256):
        for reason in (b"%c", b" %c", b" a%cb", b" %ca", b" a%c"):
            yield b"HTTP/1.1 200" + reason % byte


_FIELDS = _forms(
    r"""
    Name | Name v | : v | : | Name: | Name:\x20 | Name:\t \t | Name:v | Name:\t v \t | Name: a:b: c | Name : v
    | \x20Name: v | \tName: v | \x20 | \r | Name: a  b\t\tc | Name: a\r b | Name: a\n b | Name: a\r\n b
    | Name: a\r\n\tb\r\n  c \t | Name:\r\n v | Name: a\r\n \r\n b | Name: a\r\n \t\x20 | Name\r\n : v | Na\r\n me: v
    | Name: a\nOther: b | Name: a\n\r b | Name: a\rOther: b | Name: \xc3\xa9 | Na\xc3\xa9: v | Name: "a\\"b"
    | Name: =?utf-8?q?a?= | (Name): v | Name: a\r\r\n b | Connection: close | Connection: Close | connection:close
    | Connection: a,close | Connection: a , CLOSE , b | Connection: closed | Connection: "close" | Connection: close;x
    | Connection: a\r\nConnection: close | Connection: clo\r\n se | Connection:\r\n close | Connection: keep-alive
    | Connection: keep-alive, close | Connection: | Connection: ,,close,, | Connection: \xe7lose | Connection: a\x1fclose
    | Proxy-Connection: close | Connection: close\x1f | Connection : close | Connection: clo\x7fse
    """
)

_BYTE_IN_A_FIELD = _forms(
    r"%cName: v | Na%cme: v | Name%c: v | Name:%cv | Name: %cv | Name: v%cw | Name: v%c | %c | Name: v\r%c | Name: v\n%cw"
)


def _field_lines() -> Iterator[bytes]:
    yield from _FIELDS
    for byte in range(256):
        for line in _BYTE_IN_A_FIELD:
            yield line % byte


_LENGTHS = _forms(
    r"""
    | 0 | 2 | 3 | 5 | 02 | 003 | +3 | -3 | -0 | 3.0 | 3e0 | 0x3 | 0b1 | 1_0 | 3; | 3,3 | 3, 3 | 3 ,3 | 3,4 | ,3 | 3,
    | 3,,3 | , | 3a | \xb3 | \xd9\xa3 | \xef\xbc\x93 | 18446744073709551619 | 340282366920938463463374607431768211459
    | 999999999999999999 | 1000000000000000000 | 000000000000000003 | 0000000000000000003 | 00000000000000000003
    | 000000000000000000003 | 3 3 | "3" | 3\t | \x203\x20 | 3\x1f | 3\x00 | 3\r\n 3 | \r\n 3 | 3\n
    """
)

_CODINGS = _forms(
    r"""
    | chunked | Chunked | CHUNKED | chunke | chunkedd | xchunked | gzip | identity | gzip,chunked | chunked,gzip
    | chunked,chunked | chunked,identity | identity, chunked | chunked;a=b | chunked, | ,chunked | "chunked" | chunked\x0b
    | chunked\x1f | chunked\xa0 | chunked\x00 | ch\xfcnked | \x20\tchunked \t | \r\n chunked | chun\r\n ked
    | chunked\r\n\x20 | chunked\r
    """
)

_SIZES = _forms(
    r"""
    | 3 | 03 | 003 | a | A | f | F | 0a | 0x3 | 0X3 | x3 | 3h | -3 | +3 | 3. | 3_ | 3,3 | g | \xb3 | 000000000000003
    | 0000000000000003 | 00000000000000000003 | 000000000000000000003 | fffffffffffffff | ffffffffffffffff
    | fffffffffffffffffffff | \x203 | 3\x20 | 3\t | 3 \t\x20 | 3 3 | \t3 | 3\x0b | 3\xa0 | 3\x00 | \n3 | \r\n3 | 3\r
    """
)

_EXTENSIONS = _forms(
    r"""
    ; | ;a | ;a=b | ; a=b | \x20;a=b | \t; a = b | ;a="b;c" | ;a="b\\"c" | ;a="b\r\nc" | ;a="b\rc" | ;a="b\nc" | ;a\r
    | ;\r; | ;;;; | ;a \t | ;\x00 | ;\x7f\x80\xff | a | :a | , | ;a=" | ; \r | ;a\n
    """
)


def _framings() -> Iterator[bytes]:
    """Fields that say how long the body is, one way or another."""
    lengths = [b"Content-Length: " + value + b"\r\n" for value in _LENGTHS]
    codings = [b"Transfer-Encoding: " + value + b"\r\n" for value in _CODINGS]
    few = [b"Content-Length: " + value + b"\r\n" for value in (b"2", b"3", b"02")]
    few += [b"Transfer-Encoding: " + value + b"\r\n" for value in (b"chunked", b"CHUNKED", b"gzip")]
    yield b""
    yield from lengths
    yield from codings
    for first in few:
        for second in few:
            yield first + second
            yield first + b"X: y\r\n" + second.swapcase()
    for name in (
        b"Content-Length ",
        b"Content_Length",
        b"Content-Length\t",
        b" Content-Length",
        b"CONTENT-length",
        b"Content-Lengt\xe8",
    ):
        yield name + b": 3\r\n"
    for name in (b"Transfer-Encoding ", b"Transfer_Encoding", b"TRANSFER-encoding", b"Transfer-Encoding\x00", b"Trailer"):
        yield name + b": chunked\r\n"
    yield b"Content-Length: 3\r\nConnection: content-length\r\n"
    yield b"TE: chunked\r\n"


def _chunked_bodies() -> Iterator[bytes]:
    end = b"0\r\n\r\n"
    for size in _SIZES:
        count = int(size.strip(), 16) if re.fullmatch(rb"[ \t]*[0-9A-Fa-f]{1,9}[ \t]*", size) else 3
        for line_end in (b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"", b" \r\n", b";\r\n"):
            yield size + line_end + b"0123456789abcdef"[:count] + b"\r\n" + end
    for extension in _EXTENSIONS:
        yield b"3" + extension + b"\r\nabc\r\n" + end
        yield b"3\r\nabc\r\n0" + extension + b"\r\n\r\n"
    for byte in range(256):
        yield b"3;%c\r\nabc\r\n" % byte + end
        yield b"3%c\r\nabc\r\n" % byte + end
        yield b"%c3\r\nabc\r\n" % byte + end
        yield b"3\r\nabc%c\r\n" % byte + end
        yield b"3\r\nabc\r%c" % byte + end
        yield b"3\r\nabc\r\n0\r\n%c" % byte
        yield b"3\r\nabc\r\n0\r\n%c\r\n\r\n" % byte
        yield b"3\r\nabc\r\n0\r\n\r%c" % byte
    for behind in (b"", b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\n\r", b" \r\n", b"d\r\n", b"\r\n\r\n", b"\r\n ", b"\r\n\n"):
        yield b"3\r\nabc" + behind + end
        yield b"3\r\nabc\r\n0" + behind + b"\r\n"
        yield b"3\r\nabc\r\n0\r\n" + behind
        yield b"3\r\nabc\r\n0\r\nA: b" + behind
    for count in (0, 1, 2, 20):
        yield b"1\r\nx\r\n" * count + end


def boundaries() -> Iterator[Case]:
    """Answers about what is refused though it could be read: the last that is let through, and the first that is not."""
    end = b"Content-Length: 2\r\n\r\nok"
    for more in (-1, 0, 1, 2):
        yield Case("GET", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * (99 + more) + end)
        yield Case("POST", CHUNKED + b"0\r\n" + b"A: b\r\n" * (100 + more) + b"\r\n")
        yield Case("POST", b"HTTP/1.1 102 P\r\n\r\n" * (20 + more) + BASES[0].data)
        for line_end in (b"\r\n", b"\n"):
            line = b"A: " + b"x" * (65536 - 3 - len(line_end) + more) + line_end
            yield Case("GET", b"HTTP/1.1 200 OK" + line_end + line + end)
        yield Case("GET", b"HTTP/1.1 200 OK\r\nA: x\r\n " + b"x" * (65536 - 3 + more) + b"\r\n" + end)
        yield Case("GET", b"HTTP/1.1 200 " + b"x" * (65536 - 14 + more) + b"\r\n" + end)
        head = b"HTTP/1.1 200 OK\r\n" + (b"A: " + b"x" * 43000 + b"\r\n") * 3 + b"B: "
        yield Case("GET", head + b"x" * (131072 - len(head) - 2 - len(end) + 2 + more) + b"\r\n" + end)
        trailers = b"A: " + b"x" * (16384 - 3 - 4 + more) + b"\r\n\r\n"
        yield Case("POST", CHUNKED + b"0\r\n" + trailers)
        yield Case("POST", CHUNKED + b"0\r\n" + trailers[:-1])
        yield Case("POST", CHUNKED + b"5\r\nfirst\r\n3;" + b"x" * (8192 - 4 + more) + b"\r\nabc\r\n0\r\n\r\n")
        yield Case("POST", CHUNKED + b"3;" + b" " * (8192 - 3 + more) + b"\r\nabc\r\n0\r\n\r\n")
        yield Case("POST", CHUNKED + b"3".rjust(15 + more, b"0") + b"\r\nabc\r\n0\r\n\r\n")
        yield Case("GET", b"HTTP/1.1 200 OK\r\nContent-Length: " + b"3".rjust(18 + more, b"0") + b"\r\n\r\nabc")
        yield Case("GET", b"HTTP/1.1 %d X\r\n" % (599 + more) + end)
        yield Case("POST", CHUNKED + b"%x\r\n" % (70000 + more) + b"x" * 70001 + b"\r\n0\r\n\r\n")
    for version in (b"0.9", b"1.0", b"1.1", b"1.2", b"2.0"):
        yield Case("GET", b"HTTP/" + version + b" 200 OK\r\n" + end)
    for byte in b"\x01\x1f\x7f\x80~":
        yield Case("GET", b"HTTP/1.1 200 O%cK\r\n" % byte + end)
        yield Case("GET", b"HTTP/1.1 200 OK\r\nA: b%cc\r\n" % byte + end)
        yield Case("POST", CHUNKED + b"0\r\nA: b%cc\r\n\r\n" % byte)
    for fields in (
        b"Content-Length: 2\r\n",
        b"Content-Length:\r\n 2, 2\r\n",
        b"transfer-encoding: Chunked\r\n",
        b"Connection: close\r\n",
    ):
        yield Case("GET", b"HTTP/1.1 200 OK\r\n" + fields + end)
        yield Case("POST", CHUNKED + b"0\r\n" + fields + b"\r\n")
    yield Case("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    for extension in (b";a", b";a\rb"):
        yield Case("POST", CHUNKED + b"3" + extension + b"\r\nabc\r\n0\r\n\r\n")


# ------------------------------------------------------------------------------------------------------------------- random


def random_case(number: int) -> Case:
    """The answer with this number: parts drawn at random, most of them valid."""
    draw = rand("case", number)
    method = draw.choice(("GET", "POST", "POST", "HEAD"))
    data = b"".join(_random_head(draw, interim=True) for _ in range(draw.choice((0, 0, 0, 1, 2))))
    data += _random_head(draw, interim=False)
    data += draw.choice((_random_chunks, _random_chunks, _random_bytes))(draw)
    for _ in range(draw.choice((0, 0, 1, 2))):
        at = draw.randrange(len(data) + 1)
        data = data[:at] + bytes([draw.choice(INTERESTING)]) + data[at + draw.randrange(3) :]
    if draw.random() < 0.1:
        data = data[: draw.randrange(len(data) + 1)]
    return Case(method, data)


def _random_head(draw: random.Random, *, interim: bool) -> bytes:
    line_end = draw.choice((b"\r\n",) * 9 + (b"\n",))
    status = draw.choice((100, 102, 103, 199) if interim else (200, 200, 200, 201, 204, 304, 422, 503, 599, 600, 999))
    version = draw.choice((b"1.1",) * 9 + (b"1.0", b"1.0", b"2.0"))
    lines = [b"HTTP/%b %d%b" % (version, status, draw.choice((b"", b" ", b" OK", b" Not  Found", b" \xe9")))]
    for _ in range(draw.randrange(5)):
        name = bytes(draw.choice(b"ABCXYZabcxyz-_09!~") for _ in range(draw.randrange(1, 6)))
        blank, behind = draw.choice((b" ", b"", b"\t")), draw.choice((b"", b"", b" "))
        value = bytes(draw.choice(b'abc019:;,=" \t\x80\xff\x01') for _ in range(draw.randrange(6)))
        fold = line_end + b" " + value if draw.random() < 0.1 else b""
        lines.append(name + b":" + blank + value + fold + behind)
    if draw.random() < 0.3:
        lines.append(b"Connection: " + draw.choice((b"close", b"keep-alive", b"x, close", b"upgrade")))
    for _ in range(draw.choice((0, 1, 1, 1, 1, 2))):
        length = b"Content-Length: " + draw.choice((b"0", b"3", b"10", b"03", b"3, 3"))
        lines.append(
            length if draw.random() < 0.5 else b"Transfer-Encoding: " + draw.choice((b"chunked",) * 4 + (b"Chunked", b"gzip"))
        )
    first, rest = lines[0], lines[1:]
    draw.shuffle(rest)
    return line_end.join([first, *rest, b"", b""])


def _random_bytes(draw: random.Random) -> bytes:
    return draw.randbytes(draw.randrange(20))


def _random_chunks(draw: random.Random) -> bytes:
    body = b""
    for _ in range(draw.randrange(5)):
        data = draw.randbytes(draw.randrange(1, 20))
        size = draw.choice((b"%x", b"%X", b"0%x", b"%x ", b"%x;a=b", b"%x;\xff ")) % len(data)
        body += size + b"\r\n" + data + b"\r\n"
    trailers = b"".join(draw.choice((b"A: b\r\n", b"X:\r\n c\r\n", b"Y: z\n")) for _ in range(draw.choice((0, 0, 1, 2))))
    return (
        body + draw.choice((b"0", b"000", b"0;a")) + b"\r\n" + trailers + b"\r\n" + draw.choice((b"", b"", b"HTTP/1.1", b"\r\n"))
    )


def in_pieces(data: bytes, draw: random.Random) -> list[bytes]:
    """*data*, cut at up to eight random places."""
    ends = sorted({draw.randrange(1, len(data)) for _ in range(draw.randrange(1, 9))}) if len(data) > 1 else []
    return [data[start:stop] for start, stop in itertools.pairwise([0, *ends, len(data)]) if start < stop]
