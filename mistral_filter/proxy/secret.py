r"""The server's own key: which callers may use it, and how it is kept out of responses.

``ServerKey.authorize`` judges a caller's token from the request head. ``ServerKey.keyless`` wraps the upstream's reply. Nothing
else in the proxy knows of keys.

Strategy: one compiled pattern finds the key in every spelling that a JSON reader undoes. Each character may stand as itself, as
``\u00XX`` with hex digits of either case or, for a slash, as ``\/``. More backslashes before an escape are those of a JSON string
inside a JSON string. A second pattern finds the beginning of a spelling at the end of a piece; only that is held back until the
next piece. The first pattern runs only on bytes that hold the key verbatim or an escape of one of its characters.

In UTF-16 and UTF-32 each character of the key has NUL bytes beside it. JSON and other text may hold none; in every other body the
key is looked for a second time without them.

Not covered: a key spread over the deltas of several events, other encodings of text (base64, percent-encoding in a body, HTML
entities), an escaped backslash written as ``\u005c``, and a key that stands as a JSON number, which asterisks make invalid.
"""

from __future__ import annotations

import hmac
import http.client
import re
from collections.abc import Iterable, Iterator
from typing import Protocol

from mistral_filter.errors import Unauthorized, UpstreamError
from mistral_filter.proxy.budget import Held

__all__ = ["Reply", "ServerKey"]


class Reply(Protocol):
    """An upstream's response: its head, and the way to its body."""

    @property
    def status(self) -> int:
        """The status code."""

    @property
    def reason(self) -> str:
        """The reason phrase."""

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers that may be passed on, in order."""

    @property
    def length(self) -> int | None:
        """The declared length of the body in bytes."""

    def pieces(self, heartbeat: float | None = None) -> Iterator[bytes]:
        """The body as it comes, content-encoding untouched; an empty piece after each *heartbeat* seconds of silence."""

    def whole(self, limit: int, held: Held | None = None) -> tuple[bytes, Iterator[bytes] | None]:
        """The body if it has at most *limit* bytes and *held* takes them; else its beginning and the rest."""

    def close(self) -> None:
        """Gives the response up."""


class ServerKey:
    """The key for one upstream, None if the server has none, and the *tokens* that callers send in its place.

    *key*: printable ASCII without ``"`` and backslash (``settings`` checks this). Without tokens the key is not used, and callers
    send credentials of their own.
    """

    def __init__(self, key: str | None, tokens: Iterable[str] = ()) -> None:
        self._tokens = tuple(token.encode() for token in tokens)
        self._key = key if self._tokens else None
        self._spellings = None if self._key is None else _Spellings(self._key)

    @property
    def used(self) -> bool:
        """Whether requests carry this key, so that responses must be readable: ask for no content-encoding."""
        return self._key is not None

    def authorize(self, credentials: str | None) -> str | None:
        """The Authorization value for the upstream: the server's key for a caller with a token, else the caller's *credentials*.

        *credentials* is the Authorization value that the caller sent (``Bearer TOKEN``), None if there was none. Raises
        Unauthorized for a token that is not one of the server's (``invalid_api_key``), and where the server has tokens but no key
        for this upstream (``no_key``).
        """
        if not self._tokens:
            return credentials
        token = (credentials or "").partition(" ")[2].strip().encode("utf-8", "surrogatepass")
        # Every token is compared, so that the time does not depend on which one matches.
        if not sum(hmac.compare_digest(token, known) for known in self._tokens):
            raise Unauthorized("This server wants one of its own tokens: Authorization: Bearer TOKEN.")
        if self._key is None:
            raise Unauthorized("This server has no key for this upstream.", code="no_key")
        return f"Bearer {self._key}"

    def keyless(self, reply: Reply) -> Reply:
        """*reply* without the key in its headers, reason phrase and body; the same object where the server's key is not used.

        In a body of status < 400 asterisks replace the key, as many as its spelling has bytes: a Content-Length stays right,
        and JSON stays valid. Raises UpstreamError and closes *reply*: ``upstream_unauthorized`` for a 401, here, and, while it
        is read, for an error body that quotes the key, a ``whole`` one that spells it with escapes or any that has it in UTF-16
        or UTF-32; ``upstream_protocol`` for a body that cannot be searched, because of a content-encoding, which the request
        did not accept, or of a charset that does not contain ASCII.
        """
        if self._spellings is None:
            return reply
        if reply.status == 401:
            reply.close()
            raise _key_refused()
        if reply.status not in (204, 304) and not _searchable(reply.headers):
            reply.close()
            raise _unreadable()
        return _Keyless(reply, self._spellings)


def _key_refused() -> UpstreamError:
    return UpstreamError("upstream_unauthorized")


def _unreadable() -> UpstreamError:
    return UpstreamError("upstream_protocol")


# ---------------------------------------------------------------------------------------------------------------- heads

_CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]*)", re.IGNORECASE)
_ASCII_BASED = re.compile(r"|utf-?8|(us-)?ascii|latin-?1|iso-?8859-\d+|windows-125\d|cp125\d", re.IGNORECASE)
"""Charsets in which each byte below 0x80 is the ASCII character. Others are refused: UTF-16, UTF-7, EBCDIC."""


def _values(headers: Iterable[tuple[str, str]], name: str) -> list[str]:
    return [value for given, value in headers if given.lower() == name]


def _searchable(headers: list[tuple[str, str]]) -> bool:
    """Whether the body is sent without a content-encoding, however often or long the header, and in a known charset."""
    codings = ",".join(_values(headers, "content-encoding")).split(",")
    charsets = [charset for value in _values(headers, "content-type") for charset in _CHARSET.findall(value)]
    return all(coding.strip().lower() in ("", "identity") for coding in codings) and all(map(_ASCII_BASED.fullmatch, charsets))


def _is_text(headers: list[tuple[str, str]]) -> bool:
    """Whether the body is JSON or other text, in which a NUL byte is a sign of UTF-16 or UTF-32."""
    kinds = [value.partition(";")[0].strip().lower() for value in _values(headers, "content-type")] or [""]
    return any(not kind or kind.startswith("text/") or "json" in kind for kind in kinds)


_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})|\\+u00([0-9A-Fa-f]{2})|\\+")
"""Percent-encoding, a JSON escape, and the backslash of a quoted pair (RFC 9110, 5.6.4)."""

_ROUNDS = 4
"""How many times over a header may be encoded and still be decoded here."""


def _quotes(text: str, key: str) -> bool:
    """Whether a part of a head holds *key*, encoded or not, in any case of letters; true also for what is encoded too often."""
    for _ in range(_ROUNDS):
        if key.lower() in text.lower():
            return True
        if "%" not in text and "\\" not in text:
            return False
        decoded = _ENCODED.sub(_decoded, text)
        if decoded == text:
            return False
        text = decoded
    return True


def _decoded(match: re.Match[str]) -> str:
    digits: str | None = match[1] or match[2]
    return chr(int(digits, 16)) if digits else ""


# --------------------------------------------------------------------------------------------------------------- bodies

_MOST_BACKSLASHES = 16
"""Before one escape: a JSON string inside a JSON string doubles them, so this is five strings inside each other."""

_ESCAPE_BEFORE = re.compile(rb"(\\+)(?:u[0-9a-fA-F]{0,3})?\Z")
_ESCAPE_LENGTH = _MOST_BACKSLASHES + 5


class _Spellings:
    """The spellings of one key, compiled."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.verbatim = verbatim = key.encode("ascii")
        letters = [re.escape(verbatim[i : i + 1]) for i in range(len(verbatim))]
        escapes = [_escape(code) for code in verbatim]
        begun = [_begun_escape(code) for code in verbatim]
        most = b"\\\\{1,%d}" % _MOST_BACKSLASHES
        # The first escape begins at its last backslash: what stands before it is looked at where a match was found.
        first = b"(?:%b|\\\\%b)" % (letters[0], escapes[0])
        rest = (b"(?:%b|%b%b)" % (letter, most, escape) for letter, escape in zip(letters[1:], escapes[1:], strict=True))
        self.whole = re.compile(b"".join((first, *rest)))
        # The same, but where the bytes end, each token may be cut, and the tokens behind it may be missing.
        first = b"(?:%b|\\\\(?:%b|%b))" % (letters[0], escapes[0], begun[0])
        tokens = zip(letters[1:], escapes[1:], begun[1:], strict=True)
        rest = (b"(?:%b|%b(?:%b|%b)|\\Z)" % (letter, most, escape, cut) for letter, escape, cut in tokens)
        self.begun = re.compile(b"".join((first, *rest)))
        self.escape = re.compile(b"\\\\(?:%b)" % b"|".join(sorted(set(escapes))))
        self.bytes = bytes(sorted({*verbatim, *b"\\/u0123456789abcdefABCDEF"}))
        self.mask = bytes((next((code for code in b"*-_.#x" if code not in verbatim), ord("*")),))
        """Not in the key, so that no new spelling of it comes about."""
        self.longest = len(verbatim) * _ESCAPE_LENGTH

    def masked(self, data: bytes) -> bytes:
        """*data* with the key masked where it stands verbatim."""
        return data.replace(self.verbatim, self.mask * len(self.verbatim))

    def may_be_in(self, data: bytes) -> bool:
        """Whether *data* has to be searched; nearly always false, at the speed of ``bytes.find``."""
        return self.verbatim in data or self.escape.search(data) is not None

    def start(self, data: bytes, floor: int, at: int) -> int:
        r"""Where asterisks begin for a spelling found at *at*, at *floor* or behind it.

        Its first character may be the end of an escape that is no spelling of it (``\n`` for a key that begins with n, ``\u00e9``
        for one that begins with e9), and an escape may be one in a JSON string inside a JSON string (``\\u006e``). The whole
        escape goes, since a single backslash before an asterisk is not JSON. An escaped backslash before the key stays.
        """
        if data[at] == _BACKSLASH:
            count = _backslashes(data, floor, at + 1)
            return at if count % 2 else at + 1 - count
        before = _ESCAPE_BEFORE.search(data, max(floor, at - _ESCAPE_LENGTH), at)
        if before is None or _backslashes(data, floor, before.end(1)) % 2 == 0:
            return at
        return before.end(1) - 1

    def held(self, data: bytes, floor: int) -> int:
        """Where the bytes at the end of *data* begin that more bytes may make a spelling of, at *floor* or behind it."""
        if len(data) == floor or data[-1] not in self.bytes:
            return len(data)
        tail = max(floor, len(data) - self.longest)
        tail += len(data[tail:].rstrip(self.bytes))
        begun = self.begun.search(data, tail)
        at = len(data) if begun is None else begun.start()
        if begun is not None and data[at] == _BACKSLASH:
            end = at + 1
        elif before := _ESCAPE_BEFORE.search(data, max(floor, at - _ESCAPE_LENGTH), at):
            end = before.end(1)  # ``start`` has to see the escape
        else:
            return at
        count = _backslashes(data, floor, end)
        # Of more backslashes an even number goes, so that those kept still say whether the next character is escaped.
        return end - min(count, _MOST_BACKSLASHES + count % 2)


_BACKSLASH = 0x5C


def _escape(code: int) -> bytes:
    """A pattern for what stands behind the backslash in an escape of the character *code*."""
    low = f"{code & 15:x}"
    digits = f"u00{code >> 4:x}{low if low.isdigit() else f'[{low}{low.upper()}]'}"
    return (f"(?:/|{digits})" if code == ord("/") else digits).encode()


def _begun_escape(code: int) -> bytes:
    """The same for an escape that is cut by the end of the bytes."""
    return f"(?:u(?:0(?:0(?:{code >> 4:x})?)?)?)?\\Z".encode()


def _backslashes(data: bytes, floor: int, end: int) -> int:
    """How many backslashes stand before *end*, at *floor* or behind it."""
    if end == floor or data[end - 1] != _BACKSLASH:
        return 0
    return end - floor - len(data[floor:end].rstrip(b"\\"))


class _Search:
    """The search for the key in one body, piece by piece.

    *masks*: the key is replaced; otherwise UpstreamError (``upstream_unauthorized``) is raised where it is found. *text*: a NUL
    byte raises UpstreamError (``upstream_protocol``).
    """

    def __init__(self, spellings: _Spellings, *, masks: bool, text: bool) -> None:
        self._spellings = spellings
        self._masks = masks
        self._text = text
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """What may be passed on now that *piece* has come; the same object where nothing is found and nothing is held."""
        if self._text and b"\0" in piece:
            raise _unreadable()
        data = self._held + piece if self._held else piece
        spellings, parts, end = self._spellings, [], 0
        for match in spellings.whole.finditer(data) if spellings.may_be_in(data) else ():
            if not self._masks:
                raise _key_refused()
            start = spellings.start(data, end, match.start())
            parts += [data[end:start], spellings.mask * (match.end() - start)]
            end = match.end()
        held = spellings.held(data, end)
        self._held = data[held:]
        if not parts and held == len(data):
            return data
        return b"".join((*parts, data[end:held]))

    def end(self) -> bytes:
        """What was held when the body ended: no spelling of the key, since it is not complete."""
        held, self._held = self._held, b""
        return held


class _BinarySearch(_Search):
    """The same for a body that may hold NUL bytes: a key with some inside raises UpstreamError (``upstream_unauthorized``)."""

    def __init__(self, spellings: _Spellings, *, masks: bool) -> None:
        super().__init__(spellings, masks=masks, text=False)
        self._wide = _Search(spellings, masks=False, text=False)
        self._waiting = b""

    def feed(self, piece: bytes) -> bytes:
        """What may be passed on now that *piece* has come."""
        return self._searched(super().feed(piece))

    def end(self) -> bytes:
        """What was held when the body ended."""
        return self._searched(super().end()) + self._waiting

    def _searched(self, piece: bytes) -> bytes:
        self._wide.feed(piece.replace(b"\0", b""))
        data = self._waiting + piece if self._waiting else piece
        ready = max(len(data) - 4 * len(self._wide._held), 0)  # a character has four bytes at most
        self._waiting = data[ready:]
        return data[:ready]


class _Keyless:
    """A reply without the key; see ``ServerKey.keyless``."""

    def __init__(self, reply: Reply, spellings: _Spellings) -> None:
        key = spellings.key
        self.status = reply.status
        self.reason = http.client.responses.get(reply.status, "Unknown") if _quotes(reply.reason, key) else reply.reason
        self.headers = [header for header in reply.headers if not any(_quotes(text, key) for text in header)]
        self.length = reply.length
        self._reply, self._spellings = reply, spellings
        masks = reply.status < 400
        text = _is_text(reply.headers)
        self._search = _Search(spellings, masks=masks, text=True) if text else _BinarySearch(spellings, masks=masks)

    def pieces(self, heartbeat: float | None = None) -> Iterator[bytes]:
        """The body as it comes, without the key; bytes are held back only while they may be the beginning of the key.

        Raises what the upstream's reply raises, and UpstreamError as ``ServerKey.keyless`` says.
        """
        return self._searched(self._reply.pieces(heartbeat))

    def whole(self, limit: int, held: Held | None = None) -> tuple[bytes, Iterator[bytes] | None]:
        """The body if it has at most *limit* bytes and *held* takes them; else its beginning and the rest.

        Raises what ``pieces`` raises.
        """
        content, rest = self._reply.whole(limit, held)
        try:
            searched = self._search.feed(content)
        except UpstreamError:
            self.close()
            raise
        if rest is not None:
            return searched, self._searched(rest)
        searched += self._search.end()
        if searched is not content and searched != self._spellings.masked(content):
            raise _key_refused()  # an upstream that spells the key with escapes does not quote it by accident
        return searched, None

    def close(self) -> None:
        """Gives the response up."""
        self._reply.close()

    def _searched(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """*pieces* without the key. Empty ones are heartbeats, and pass at once."""
        try:
            for piece in pieces:
                if not piece:
                    yield piece
                elif ready := self._search.feed(piece):
                    yield ready
        except UpstreamError:
            self.close()
            raise
        if rest := self._search.end():
            yield rest
