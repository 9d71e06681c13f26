"""The server's own key: which callers may use it, and that no response holds it.

The judge of a body is ``json.loads``: no string that it reads holds the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replies import JSON, ScriptedReply

from mistral_filter.errors import Unauthorized, UpstreamError
from mistral_filter.proxy.secret import Reply, ServerKey, _Spellings

KEY = "server-key/Kx81"
TOKENS = ("team-token-Ab12", "team-token-Cd34")
SSE = ("Content-Type", "text/event-stream; charset=utf-8")


def keyless(reply: ScriptedReply, key: str = KEY) -> Reply:
    return ServerKey(key, TOKENS).keyless(reply)


def passed(body: bytes, *cuts: int, key: str = KEY) -> bytes:
    """What comes down of a body that is cut at these offsets."""
    edges = [0, *sorted(cuts), len(body)]
    pieces = [body[start:end] for start, end in pairwise(edges)]
    return b"".join(keyless(ScriptedReply(*pieces), key).pieces())


def drained(reply: Reply) -> tuple[list[bytes], UpstreamError | None]:
    """The pieces of the body, and the error with which they end."""
    pieces = []
    try:
        for piece in reply.pieces():
            pieces.append(piece)
    except UpstreamError as error:
        return pieces, error
    return pieces, None


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


# ------------------------------------------------------------------------------------------------------- who may use it


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Token"])
def test_a_caller_with_a_token_uses_the_servers_key(scheme: str, token: str) -> None:
    """Any of the tokens is exchanged for the key."""
    assert ServerKey(KEY, TOKENS).authorize(f"{scheme} {token}") == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "credentials",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        TOKENS[0],
        f"Bearer {TOKENS[0][:-1]}",
        f"Bearer {TOKENS[0]}x",
        f"Bearer {TOKENS[0].upper()}",
        f"Bearer {' '.join(TOKENS)}",
        f"Bearer {KEY}",
        "Bearer team-token-Äb12",
        "Bearer \udce9",
    ],
)
def test_other_callers_are_refused(credentials: str | None) -> None:
    """Everything but an exact token is a 401, which quotes neither a token nor the key."""
    with pytest.raises(Unauthorized) as caught:
        ServerKey(KEY, TOKENS).authorize(credentials)
    assert caught.value.code == "invalid_api_key"
    assert not [secret for secret in (KEY, *TOKENS) if secret in str(caught.value)]


def test_an_upstream_without_a_key_is_refused() -> None:
    """A token is never sent upstream in place of a missing key; a wrong token does not learn that the key is missing."""
    with pytest.raises(Unauthorized) as caught:
        ServerKey(None, TOKENS).authorize(f"Bearer {TOKENS[0]}")
    assert caught.value.code == "no_key"
    with pytest.raises(Unauthorized) as caught:
        ServerKey(None, TOKENS).authorize("Bearer wrong-token")
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("credentials", [None, "Bearer own-key", "Basic x"])
def test_without_tokens_callers_use_their_own_credentials(key: str | None, credentials: str | None) -> None:
    """They go up unchanged, the server's key is never used, and replies are passed as they are."""
    server_key, reply = ServerKey(key), ScriptedReply(KEY.encode(), status=401)
    assert server_key.authorize(credentials) == credentials
    assert not server_key.used
    assert server_key.keyless(reply) is reply


def test_the_key_is_in_no_repr() -> None:
    """Neither that of the object that holds it nor that of a reply."""
    server_key = ServerKey(KEY, TOKENS)
    shown = repr(server_key) + str(server_key) + repr(server_key.keyless(ScriptedReply()))
    assert not [secret for secret in (KEY, *TOKENS) if secret in shown]
    assert server_key.used


# ---------------------------------------------------------------------------------------------------------------- heads

ENCODED_KEYS = [
    KEY,
    KEY.lower(),
    f"Bearer {KEY}",
    f'Bearer realm="{KEY}"',
    f"/login?key={quote(KEY, safe='')}&x=1",
    f"/login?next={quote(quote('/x?key=' + quote(KEY, safe=''), safe=''), safe='')}",
    "".join(f"%{ord(letter):02X}" for letter in KEY),
    f"attachment; filename*=UTF-8''{''.join(f'%{ord(letter):02x}' for letter in KEY)}",
    f'{{"key": "{escaped(KEY)}"}}',
    json.dumps({"key": KEY}).replace("/", "\\/"),
    '"' + "".join(f"\\{letter}" for letter in KEY) + '"',
    "%" + "25" * 200 + "41",
]


@pytest.mark.parametrize("value", ENCODED_KEYS)
def test_a_header_that_quotes_the_key_is_left_out(value: str) -> None:
    """Verbatim, percent-encoded, with JSON escapes or quoted pairs; the other headers stay in order."""
    headers = (("X-A", "1"), ("X-Debug", value), JSON, ("X-A", "100%"), ("X-Path", "C:\\x%41"))
    assert keyless(ScriptedReply(headers=headers)).headers == [headers[0], *headers[2:]]


def test_a_header_name_that_quotes_the_key_is_left_out() -> None:
    """Names are compared without regard to case."""
    assert keyless(ScriptedReply(headers=((f"X-{KEY.upper()}", "1"), ("X-B", "2")))).headers == [("X-B", "2")]


@pytest.mark.parametrize("value", ENCODED_KEYS[:-1])
def test_a_reason_phrase_that_quotes_the_key_becomes_the_usual_one(value: str) -> None:
    """Others stay as they came."""
    reply = ScriptedReply(status=404)
    reply.reason = f"no {value}"
    assert keyless(reply).reason == "Not Found"
    reply.reason = "Nicht da"
    assert keyless(reply).reason == "Nicht da"


@pytest.mark.parametrize("status", [200, 206, 302, 400, 403, 500])
@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Encoding", "gzip")],
        [("content-encoding", "br")],
        [("Content-Encoding", "identity, gzip")],
        [("Content-Encoding", "identity"), ("Content-Encoding", "zstd")],
        [("Content-Encoding", "x-unknown")],
        [("Content-Encoding", "gzip;q=0")],
        [("Content-Type", "application/json; charset=utf-16")],
        [("Content-Type", 'text/plain; Charset = "UTF-32LE"')],
        [("Content-Type", "text/plain;charset=utf-7")],
        [("Content-Type", "text/plain;charset=cp037")],
        [("Content-Type", "text/plain;charset=unicode_escape")],
        [("Content-Type", "text/plain; charset=utf-8; charset=utf-16")],
    ],
)
def test_a_body_that_cannot_be_searched_is_refused(status: int, headers: list[tuple[str, str]]) -> None:
    """No content-encoding was accepted, so one in the answer, in whatever header, is a fault of the upstream."""
    reply = ScriptedReply(b"x", status=status, headers=tuple(headers))
    with pytest.raises(UpstreamError) as caught:
        keyless(reply)
    assert (caught.value.status, caught.value.code, reply.closed) == (502, "upstream_protocol", True)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Content-Encoding", "identity")],
        [("Content-Encoding", "Identity , identity"), ("Content-Encoding", "")],
        [("Content-Type", "text/html; charset=ISO-8859-1")],
        [("Content-Type", "text/html; charset=utf8"), ("Content-Encoding", "")],
        [("Content-Type", 'text/html; charset="UTF-8"; x=charset')],
    ],
)
def test_a_body_that_is_not_encoded_passes(headers: list[tuple[str, str]]) -> None:
    """``identity`` is no encoding, and ASCII is a part of most charsets."""
    reply = keyless(ScriptedReply(b"x", headers=tuple(headers)))
    assert (reply.headers, reply.whole(9)) == (headers, (b"x", None))


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_needs_no_search(status: int) -> None:
    """Its Content-Encoding is about another answer."""
    assert keyless(ScriptedReply(status=status, headers=(("Content-Encoding", "gzip"),))).status == status


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/problem+json", ""])
def test_json_in_another_encoding_of_unicode_is_refused(codec: str, kind: str) -> None:
    """``json.loads`` reads UTF-16 and UTF-32 without being told, and each of their ASCII characters has a NUL byte."""
    body = json.dumps({"detail": KEY}).encode(codec)
    assert json.loads(body)["detail"] == KEY
    for status in (200, 400):
        reply = ScriptedReply(body, status=status, headers=(("Content-Type", kind),) if kind else ())
        with pytest.raises(UpstreamError, match="not valid") as caught:
            keyless(reply).whole(1000)
        assert (caught.value.code, reply.closed) == ("upstream_protocol", True)


def test_binary_bodies_pass() -> None:
    """A file or a voice may have NUL bytes; the key is looked for as in text."""
    body = b"\0\xff" + KEY.encode() + b"\0\\u00"
    reply = keyless(ScriptedReply(body, headers=(("Content-Type", "audio/mpeg"),)))
    assert b"".join(reply.pieces()) == b"\0\xff" + b"*" * len(KEY) + b"\0\\u00"


WIDE = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
BINARY = ("Content-Type", "application/octet-stream")


@pytest.mark.parametrize("codec", WIDE)
@pytest.mark.parametrize("spelled", [KEY, "".join(f"\\u{ord(letter):04x}" for letter in KEY), KEY.replace("/", "\\/")])
@pytest.mark.parametrize("kind", ["application/octet-stream", "image/png", "application/xml", "x/y"])
def test_a_file_with_the_key_in_wide_characters_is_cut(kind: str, spelled: str, codec: str) -> None:
    """In one piece, in two, and byte by byte: none of the key has gone out when the error comes."""
    before = b"\0\xff\x01"
    body = before + spelled.encode(codec) + b"\0\0\xfe"
    for pieces in ([body], [body[:20], body[20:]], [body[:50], body[50:]], [bytes([byte]) for byte in body]):
        reply = ScriptedReply(*pieces, headers=(("Content-Type", kind),))
        sent, error = drained(keyless(reply))
        assert error is not None
        assert (error.code, reply.closed) == ("upstream_unauthorized", True)
        assert before.startswith(b"".join(sent).rstrip(b"\0"))
    reply = ScriptedReply(body, status=500, headers=(("Content-Type", kind),))
    with pytest.raises(UpstreamError):
        keyless(reply).whole(1000)


@pytest.mark.parametrize("codec", WIDE)
def test_a_file_with_most_of_the_key_passes(codec: str) -> None:
    """In the midst and at the end, however it is cut."""
    part = KEY[:-1].encode(codec)
    body = b"\x89PNG\0" + part + b"\0\0\0\x01" + KEY[1:].encode(codec) + part
    for size in (1, 3, 64, len(body)):
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        assert b"".join(keyless(ScriptedReply(*pieces, headers=(BINARY,))).pieces()) == body
    assert keyless(ScriptedReply(body, headers=(BINARY,))).whole(10_000) == (body, None)


def test_ordinary_answers_are_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON and events, in which a NUL byte is refused, and no piece of them is copied."""
    counted: list[bytes] = []
    search = _Spellings.may_be_in
    monkeypatch.setattr(_Spellings, "may_be_in", lambda self, data: counted.append(data) or search(self, data))
    for headers in ((JSON,), (SSE,), ()):
        pieces = [b'{"a":"b"}\n\n', b"data: [DONE]\n\n"]
        passed_on = list(keyless(ScriptedReply(*pieces, headers=headers)).pieces())
        assert [id(piece) for piece in passed_on] == [id(piece) for piece in pieces]
        assert len(counted) == 2
        counted.clear()


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("body", [b"", b'{"detail":"Unauthorized"}', KEY.encode()])
def test_a_401_is_about_the_servers_key(body: bytes) -> None:
    """The caller must not take it for a fault of its token; nothing of the body is read."""
    reply = ScriptedReply(body, status=401, headers=(JSON, ("Content-Encoding", "gzip")))
    with pytest.raises(UpstreamError) as caught:
        keyless(reply)
    assert (caught.value.status, caught.value.code, reply.closed) == (502, "upstream_unauthorized", True)


@pytest.mark.parametrize("status", [400, 403, 422, 500, 503])
@pytest.mark.parametrize("spelling", [KEY, escaped(KEY), KEY.replace("/", "\\/"), "se\\u0072ver-key\\u002FKx81"])
@pytest.mark.parametrize("kind", ["application/json", "application/problem+json", "text/html", "text/event-stream", ""])
def test_an_error_that_quotes_the_key_is_a_502(status: int, spelling: str, kind: str) -> None:
    """In every spelling and media type, in one piece or byte by byte; nothing that holds the key is passed before."""
    body = f'{{"detail": "the key {spelling} is not known"}}'.encode()
    headers = (("Content-Type", kind),) if kind else ()
    for pieces in ([body], [body[i : i + 1] for i in range(len(body))]):
        reply = ScriptedReply(*pieces, status=status, headers=headers)
        with pytest.raises(UpstreamError) as caught:
            keyless(reply).whole(10_000)
        assert (caught.value.status, caught.value.code, reply.closed) == (502, "upstream_unauthorized", True)
        reply = ScriptedReply(*pieces, status=status, headers=headers)
        received, error = drained(keyless(reply))
        seen = b"".join(received)
        assert (error and error.code) == "upstream_unauthorized"
        assert body.startswith(seen)
        assert spelling.encode() not in seen
        assert reply.closed


def test_an_error_that_quotes_nothing_passes() -> None:
    """As the same bytes, with its headers and its reason."""
    body = b'{"detail":"Rate limit exceeded \\u00e9 \\/ server-key"}'
    reply = keyless(ScriptedReply(body, status=429, headers=(JSON, ("Retry-After", "7"))))
    assert (reply.status, reply.reason, reply.headers, reply.length) == (429, "OK", [JSON, ("Retry-After", "7")], len(body))
    assert reply.whole(1000) == (body, None)


# --------------------------------------------------------------------------------------------------------------- bodies

LETTERS = [letter for letter in map(chr, range(0x21, 0x7F)) if letter not in ',"\\']
KEYS = st.text(st.sampled_from(LETTERS), min_size=8, max_size=24) | st.text("u04e9n/*", min_size=8, max_size=12)


@st.composite
def spelled(draw: st.DrawFn, key: str, nested: bool = False) -> str:
    """The key as a part of a JSON string, or of a JSON string in one: each character in one of its spellings."""
    parts = []
    for letter in key:
        code = draw(st.sampled_from([f"\\u{ord(letter):04x}", f"\\u{ord(letter):04X}"]))
        ways = [letter, letter, code, *(["\\/"] if letter == "/" else [])]
        if nested:
            ways += ["\\" + code, *(["\\\\/"] if letter == "/" else [])]
        parts.append(draw(st.sampled_from(ways)))
    return "".join(parts)


def strings(value: object) -> list[str]:
    """All strings in a decoded JSON value, and in JSON that stands in one of them."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in strings(part)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    if not isinstance(value, str):
        return []
    try:
        return [value, *strings(json.loads(value))]
    except ValueError:
        return [value]


@given(st.data())
def test_no_spelling_of_the_key_comes_down(data: st.DataObject) -> None:
    """Random keys, spellings and cuts: the length and everything else is equal, the JSON is valid and does not hold the key."""
    key = data.draw(KEYS, "key")
    around = st.text(max_size=12).map(lambda text: json.dumps(text)[1:-1]).filter(lambda text: not text.endswith("\\"))
    before, between, after = (data.draw(around) for _ in range(3))
    first, second = data.draw(spelled(key)), data.draw(spelled(key))
    parts = [f'["a", "{before}', first, f' {between}", "', second, f'{after}"]']
    if any(key in part for part in (parts[0], parts[2], parts[4])):
        return
    body = "".join(parts).encode()
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=8), "cuts")
    out = passed(body, *cuts, key=key)
    assert len(out) == len(body)
    assert not [text for text in strings(json.loads(out)) if key in text]
    if not set(key) & set("\\/u0123456789abcdefABCDEF*"):  # then nothing beside a spelling can be one, or begin one
        mask = ["*" * len(part) if part in (first, second) else part for part in parts]
        assert out.decode() == "".join(mask)


@given(st.data())
def test_no_spelling_comes_down_inside_a_string_of_json(data: st.DataObject) -> None:
    """JSON inside a JSON string, as errors quote requests: both stay valid JSON and do not hold the key."""
    key = data.draw(KEYS, "key")
    inner = f'{{"key": "{data.draw(spelled(key))}"}}'
    body = json.dumps({"detail": inner}).encode()
    if data.draw(st.booleans()):
        body = body.replace(b"/", b"\\/")
    assert key in strings(json.loads(body))
    out = passed(body, *data.draw(st.lists(st.integers(0, len(body)), max_size=8)), key=key)
    assert len(out) == len(body)
    assert not [text for text in strings(json.loads(out)) if key in text]
    if not key.startswith("/"):  # of `\\\/` the first two backslashes may be a character of the outer string
        assert set(json.loads(json.loads(out)["detail"])) == {"key"}


@given(st.data())
def test_mixed_depths_of_escapes_do_not_come_down(data: st.DataObject) -> None:
    """Each character of the key with backslashes for another depth of strings in strings."""
    key = data.draw(KEYS)
    body = f'["{data.draw(spelled(key, nested=True))}"]'.encode()
    out = passed(body, *data.draw(st.lists(st.integers(0, len(body)), max_size=8)), key=key)
    assert len(out) == len(body)
    assert not [text for text in strings(json.loads(out)) if key in text]


HEX = re.compile(r"[0-9a-fA-F]+")
"""A key that can begin within the digits of an escape, where it is masked although a reader would not see it."""
CODE = re.compile(r"\\+(?:u00([0-9a-fA-F]{2})|(/))")


@given(st.data())
def test_what_does_not_hold_the_key_is_unchanged(data: st.DataObject) -> None:
    """Bytes that nearly hold the key, pieces of it and of escapes, come down as they are in whatever cuts."""
    key = data.draw(KEYS.filter(lambda key: "u0" not in key and not HEX.fullmatch(key)), "key")
    codes = [f"\\u{ord(letter):04x}" for letter in key]
    crumbs = ["\\", "\\u", "\\u00", codes[0], "".join(codes[:-1]), key[0], key[:-1], key[1:], '"', "\n\n", " ", "é"]
    text = "".join(data.draw(st.lists(st.sampled_from(crumbs), max_size=20)))
    if key in text or key in CODE.sub(lambda match: match[2] or chr(int(match[1], 16)), text):
        return
    body = text.encode()
    assert passed(body, *data.draw(st.lists(st.integers(0, len(body)), max_size=8)), key=key) == body


@pytest.mark.parametrize("spelling", [KEY, escaped(KEY), KEY.replace("/", "\\/"), escaped(KEY).replace("\\", "\\\\")])
def test_every_cut_is_the_same(spelling: str) -> None:
    """The key is found wherever one or two cuts are, and byte by byte."""
    body = f'{{"a": "x{spelling}y", "b": "{spelling}"}}'.encode()
    want = body.replace(spelling.encode(), b"*" * len(spelling))
    assert passed(body, *range(len(body))) == want
    for cut in range(len(body)):
        assert passed(body, cut) == want
        assert passed(body, cut, cut + 5) == want


@pytest.mark.parametrize("run", [*range(1, 20), 40, 41])
@pytest.mark.parametrize("cut", [0, 1, 3, 12])
def test_json_stays_valid_after_backslashes(run: int, cut: int) -> None:
    """An escaped backslash before the key stays; a single one goes with the character that it escapes."""
    key = "nurbs-ab12"
    for spelling in (key, escaped(key), "\\u006eurbs-ab12"):
        body = b'["' + b"\\" * (run if spelling != key else run // 2 * 2) + spelling.encode() + b'"]'
        if spelling != key and run % 2 == 1:
            body = body.replace(b'["', b'["\\', 1)
        json.loads(body)
        out = passed(body, *range(2 + cut, len(body)), key=key)
        assert len(out) == len(body)
        assert not [text for text in strings(json.loads(out)) if key in text]
    body = b'["' + b"\\" * (run | 1) + b'nurbs-ab12"]'  # the last backslash makes the n a line end
    json.loads(body)
    assert json.loads(passed(body, *range(2 + cut, len(body)), key=key))[0].count("*") >= len(key)


@pytest.mark.parametrize(
    ("key", "string"), [("e9-abcdef", "\\u00e9-abcdef"), ("0041-xyz", "\\u0041-xyz"), ("u0041-xyz", "\\u0041-xyz")]
)
def test_json_stays_valid_where_the_key_begins_in_an_escape(key: str, string: str) -> None:
    """The bytes hold the key though the JSON does not: they are masked with the whole escape."""
    body = f'["a{string}"]'.encode()
    for cuts in ([], list(range(len(body)))):
        out = passed(body, *cuts, key=key)
        assert (len(out), key.encode() in out, json.loads(out)[0][0]) == (len(body), False, "a")


def test_a_mask_makes_no_new_key() -> None:
    """Where the key has asterisks itself, another character replaces it."""
    for key in ("a*******", "********", "-*-*-*-*", "*_*_*_*-"):
        body = f'["a{key}*{key}"]'.encode()
        assert key not in json.loads(passed(body, key=key))[0]


def test_a_percent_encoded_key_in_a_url_of_a_header_is_gone() -> None:
    """What ``urllib.parse.unquote`` makes of any header does not hold the key."""
    for key in (KEY, "key%41bcd", "k+y=/&x%"):
        for encoded in (quote(key, safe=""), quote(quote(key, safe="")), key):
            reply = ServerKey(key, TOKENS).keyless(ScriptedReply(headers=(("Location", f"/?k={encoded}"), JSON)))
            assert not [value for _, value in reply.headers if key in unquote(unquote(value))]
            assert reply.headers == [JSON]


# -------------------------------------------------------------------------------------------------------------- streams


def test_a_live_event_is_never_held_back() -> None:
    """Each event comes down before the next is asked for, and a heartbeat is passed as one."""
    events = [b'data: {"n":"' + text + b'"}\n\n' for text in (b"server", b"server-key/Kx8", b"\\u0073", b"x\\\\", b"\xc3\xa9")]
    sent = [events[0], b"", *events[1:], b"data: [DONE]\n\n"]
    assert list(keyless(ScriptedReply(*sent, headers=(SSE,))).pieces(heartbeat=1.0)) == sent


def test_only_a_possible_beginning_is_held() -> None:
    """Of a piece that ends in the key's beginning the rest is passed at once, and the beginning as soon as it is none."""
    pieces = [b"abc ser", b"", b"ver-k", b"ing server-", b"key/Kx81", b"x\\u00", b"e9 server"]
    assert list(keyless(ScriptedReply(*pieces, headers=(SSE,))).pieces()) == [
        b"abc ",
        b"",
        b"server-king ",
        b"*" * len(KEY),
        b"x",
        b"\\u00e9 ",
        b"server",
    ]


def test_the_key_in_a_stream_is_masked() -> None:
    """In events, comments and other lines; the beginning of the key at the end of the stream is passed."""
    body = f'data: {{"error": "{KEY}"}}\r\n\r\n: {KEY}\nid: {KEY}\n\ndata: {escaped(KEY)}\n\ndata: {KEY[:5]}'.encode()
    want = body.replace(KEY.encode(), b"*" * len(KEY)).replace(escaped(KEY).encode(), b"*" * len(escaped(KEY)))
    for size in (1, 2, 7, 1000):
        pieces = [body[i : i + size] for i in range(0, len(body), size)]
        assert b"".join(keyless(ScriptedReply(*pieces, headers=(SSE,))).pieces()) == want


def test_a_break_in_a_stream_is_passed_on() -> None:
    """The error of the upstream's reply comes through, after what can be passed."""

    class Broken(ScriptedReply):
        def pieces(self, heartbeat: float | None = None) -> Iterator[bytes]:
            yield b"data: 1\n\nda ser"
            raise UpstreamError("upstream_cut")

    seen, error = drained(keyless(Broken(headers=(SSE,))))
    assert (seen, error and error.code) == ([b"data: 1\n\nda "], "upstream_cut")


def test_a_long_body_is_masked_too() -> None:
    """``whole`` returns the beginning and the rest of a body over the limit, and the key is not in the joint."""
    spelling = KEY
    body = f'["{"x" * 5000}{spelling}{"y" * 5000}{KEY}"]'.encode()
    want = body.replace(KEY.encode(), b"*" * len(KEY)).replace(spelling.encode(), b"*" * len(spelling))
    for size in (1, 100, 4999, 6000, 20_000):
        reply = keyless(ScriptedReply(*(body[i : i + size] for i in range(0, len(body), size))))
        beginning, rest = reply.whole(5030)
        assert rest is not None
        assert beginning + b"".join(rest) == want
    assert keyless(ScriptedReply(body)).whole(len(body)) == (want, None)
    short = b'{"a": "server-key"}'
    assert keyless(ScriptedReply(short)).whole(100)[0] is short


def test_a_complete_body_that_spells_the_key_with_escapes_is_a_502() -> None:
    """An upstream that hides the key in a body that can still be refused does not quote it by accident."""
    reply = keyless(ScriptedReply(f'["{escaped(KEY)}"]'.encode()))
    with pytest.raises(UpstreamError) as caught:
        reply.whole(1000)
    assert caught.value.code == "upstream_unauthorized"


@pytest.mark.parametrize(
    "piece", [b"\\" * 1001, b"server" * 200, b"\\u0073" * 200, escaped(KEY[:-1]).encode() * 20, b"\\u" * 500]
)
def test_what_is_held_back_is_bounded(piece: bytes) -> None:
    """A reply that goes on like the key for ever costs no more memory than one spelling of it."""
    received = passed_on = 0

    class Endless(ScriptedReply):
        def pieces(self, heartbeat: float | None = None) -> Iterator[bytes]:
            nonlocal received
            for _ in range(50):
                received += len(piece)
                yield piece

    for part in keyless(Endless(headers=(SSE,))).pieces():
        passed_on += len(part)
        assert received - passed_on <= len(KEY) * 21
    assert passed_on == 50 * len(piece)
