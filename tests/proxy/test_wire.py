"""The wire reads answers as h11 does, and refuses what h11 refuses, over a corpus of answers made for it.

What the wire refuses beyond h11 is listed in BEYOND; nothing else may be refused, and all of it must be. A long run over random
answers: ``python tests/proxy/test_wire.py 300000``.
"""

from __future__ import annotations

import itertools
import os
import re
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import h11
import pytest
from answers_corpus import BASES, CHUNKED, Case, boundaries, cuts, in_pieces, mutations, rand, random_case, systematic
from hypothesis import given
from hypothesis import strategies as st

from mistral_filter.proxy.call import Call
from mistral_filter.proxy.upstream import body as body_module
from mistral_filter.proxy.upstream import wire as wire_module
from mistral_filter.proxy.upstream.body import Body
from mistral_filter.proxy.upstream.head import HEAD_END, Broken, Malformed, parse_head
from mistral_filter.proxy.upstream.wire import Wire

BODY = b"{}"
REQUESTS = {
    method: h11.Request(method=method, target="/v1/x", headers=[("Host", "h"), ("Content-Length", str(len(body)))])
    for method, body in (("GET", b""), ("HEAD", b""), ("POST", BODY))
}


class Read(NamedTuple):
    """What a reader made of an answer."""

    status: int
    reason: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    left: bytes
    """What came behind the answer."""
    reusable: bool
    """Another request may go up on the connection, if it stays open."""


# -------------------------------------------------------------------------------------------------------------- the two readers


NULL = os.open(os.devnull, os.O_RDONLY)
"""For poll it always has something to read: what there is, a scripted socket says."""


class ScriptedSocket:
    """Gives *pieces*, one at each read, and then the end of the connection; an exception among them is raised."""

    def __init__(self, pieces: Iterable[bytes | Exception]) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.pieces.reverse()
        self.timeout: float | None = None
        self.open = False
        """The connection does not end behind the pieces."""
        self.sent = b""

    def fileno(self) -> int:
        return NULL

    def recv(self, size: int) -> bytes:
        if self.pieces:
            piece = self.pieces.pop()
            if isinstance(piece, Exception):
                raise piece
            if len(piece) > size:
                self.pieces.append(piece[size:])
            return piece[:size]
        if self.open and self.timeout == 0:
            raise BlockingIOError
        return b""

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def settimeout(self, seconds: float | None) -> None:
        self.timeout = seconds

    def getsockopt(self, *what: int) -> bytes:
        raise OSError

    def shutdown(self, how: int) -> None:
        raise AssertionError("nothing ends this call")


def begun(pieces: Iterable[bytes | Exception]) -> tuple[Wire, ScriptedSocket]:
    sock = ScriptedSocket(pieces)
    wire = Wire(sock, "caller")
    wire.begin(Call(), 60)
    return wire, sock


def read_by_wire(method: str, pieces: Iterable[bytes | Exception]) -> Read | None:
    """The wire's reading, or None where it refuses. Any exception but those of refusals is a failure."""
    wire, sock = begun(pieces)
    given_back: list[bool] = []
    try:
        wire.send(b"%b /v1/x HTTP/1.1\r\nHost: h\r\n\r\n" % method.encode(), BODY)
        head = wire.read_head(method)

        def give_back(back: Wire, good: bool) -> None:
            assert back is wire
            assert not (good and wire.buffer), "no next answer begins with what is left of this one"
            given_back.append(good)

        body = Body(wire, head, give_back)
        parts = list(iter(body.read, b""))
        assert body.ended
    except (Malformed, Broken):
        assert not given_back
        return None
    assert len(given_back) == 1, "given back exactly once"
    assert all(0 < len(part) <= 1 << 17 for part in parts)
    left = wire.buffer + b"".join(piece for piece in reversed(sock.pieces) if isinstance(piece, bytes))
    sock.open = True
    reusable = given_back[0] and wire.is_quiet()
    fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.fields]
    return Read(head.status, head.reason.encode("latin-1"), fields, b"".join(parts), left, reusable)


class Taken(NamedTuple):
    """What h11 took."""

    read: Read
    heads: list[Any]
    """h11's events, those of interim answers first."""
    trailers: list[tuple[bytes, bytes]]
    raw_heads: list[bytes]
    raw_body: bytes
    chunked: bool


def read_by_h11(method: str, pieces: list[bytes]) -> Taken | None:
    """h11's reading, or None where it refuses."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(REQUESTS[method])
    if method == "POST":
        connection.send(h11.Data(data=BODY))
    connection.send(h11.EndOfMessage())
    heads: list[Any] = []
    body: list[bytes] = []
    try:
        for number, piece in enumerate([*pieces, b""]):
            connection.receive_data(piece)
            while (event := connection.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.EndOfMessage):
                    pending, ended = connection.trailing_data
                    left = pending + b"".join(pieces[number + 1 :])
                    done = connection.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}
                    return _taken(method, b"".join(pieces), heads, event, b"".join(body), left, done and not ended and not left)
                if isinstance(event, h11.Data):
                    body.append(bytes(event.data))
                else:
                    assert isinstance(event, (h11.InformationalResponse, h11.Response)), event
                    heads.append(event)
    except h11.RemoteProtocolError:
        return None
    raise AssertionError("h11 neither took it nor refused it")


def _taken(method: str, data: bytes, heads: list[Any], end: h11.EndOfMessage, body: bytes, left: bytes, reusable: bool) -> Taken:
    last, at, raw_heads = heads[-1], 0, []
    fields = [(bytes(name), bytes(value)) for name, value in last.headers.raw_items()]
    for _ in heads:
        stop = re.compile(rb"\n\r?\n").search(data, at).end()  # type: ignore[union-attr]
        raw_heads.append(data[at:stop])
        at = stop
    read = Read(last.status_code, bytes(last.reason), fields, body, left, reusable)
    chunked = (b"transfer-encoding", b"chunked") in list(last.headers) and method != "HEAD" and last.status_code not in (204, 304)
    return Taken(read, heads, end.headers.raw_items(), raw_heads, data[at : len(data) - len(left)], chunked)


# -------------------------------------------------------------------------------------------------------- what they differ in


def alike(read: Read) -> Read:
    """*read* without what is told differently though it was read alike: h11 leaves blanks around the reason, writes the coding in
    lower case, and keeps one of several equal lengths."""
    fields, length_seen = [], False
    for name, value in read.fields:
        if name.lower() == b"content-length":
            if length_seen:
                continue
            length_seen = True
        fields.append((name, value.lower() if name.lower() == b"transfer-encoding" else value))
    return read._replace(fields=fields, reason=read.reason.strip(b" \t"))


def _chunk_lines(taken: Taken) -> Iterator[bytes]:
    data, at, size = taken.raw_body, 0, int(taken.chunked)
    while size:
        stop = data.index(b"\r\n", at) + 2
        yield data[at:stop]
        size = int(data[at:stop].split(b";")[0], 16)
        at = stop + size + 2


def _lines(taken: Taken) -> Iterator[bytes]:
    return itertools.chain.from_iterable(head.splitlines(keepends=True) for head in taken.raw_heads)


def _raw_trailers(taken: Taken) -> bytes:
    return taken.raw_body[sum(_chunk_extents(taken)) :] if taken.chunked else b""


def _chunk_extents(taken: Taken) -> Iterator[int]:
    """How many bytes each chunk takes with its line and its line end; the last one is its line."""
    for line in _chunk_lines(taken):
        size = int(line.split(b";")[0], 16)
        yield len(line) + (size + 2 if size else 0)


def _names(fields: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    return {bytes(name).lower() for name, _ in fields}


BEYOND: dict[str, Callable[[Taken], bool]] = {
    "head: version": lambda taken: any(head.http_version not in (b"1.0", b"1.1") for head in taken.heads),
    "head: status": lambda taken: taken.read.status > 599,
    "head: control character in the reason": lambda taken: any(
        re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", head.reason) for head in taken.heads
    ),
    "head: DEL in a field": lambda taken: any(b"\x7f" in value for head in taken.heads for _, value in head.headers),
    "head: both framings": lambda taken: any(
        {b"content-length", b"transfer-encoding"} <= _names(head.headers) for head in taken.heads
    ),
    "head: list of lengths": lambda taken: any(
        re.search(rb"\ncontent-length:[^\n]*(\n[ \t][^\n]*)*,", head, re.IGNORECASE) for head in taken.raw_heads
    ),
    "head: length over 18 digits": lambda taken: any(
        name == b"content-length" and len(value) > 18 for head in taken.heads for name, value in head.headers
    ),
    "head: over 100 fields": lambda taken: any(
        len(re.findall(rb"\n[^ \t\r\n]", head)) > 100 for head in taken.raw_heads
    ),
    "head: over 128 KiB": lambda taken: any(len(head) > 131072 for head in taken.raw_heads),
    "head: line over 64 KiB": lambda taken: any(
        len(line) > 65536 for head in taken.raw_heads for line in head.split(b"\n")
    ),
    "over 20 interim answers": lambda taken: len(taken.heads) > 21,
    "chunk line: over 8 KiB": lambda taken: any(len(line) > 8192 for line in _chunk_lines(taken)),
    "chunk line: over 15 digits": lambda taken: any(re.match(rb"[0-9A-Fa-f]{16}", line) for line in _chunk_lines(taken)),
    "chunk line: carriage return inside": lambda taken: any(b"\r" in line[:-2] for line in _chunk_lines(taken)),
    "trailers: DEL in a field": lambda taken: any(b"\x7f" in value for _, value in taken.trailers),
    "trailers: framing": lambda taken: bool({b"content-length", b"transfer-encoding"} & _names(taken.trailers)),
    "trailers: over 100 fields": lambda taken: len(taken.trailers) > 100,
    "trailers: over 16 KiB": lambda taken: len(_raw_trailers(taken)) > 16384,
}  # fmt: skip
"""What the wire refuses and h11 takes, as categories and how to tell them from what h11 took."""


def judge(case: Case, count: Counter[str], *, byte_by_byte: bool = True) -> None:
    """Holds the wire's reading of *case*, in every delivery, against h11's."""
    method, data = case
    taken = read_by_h11(method, [data])
    pieces = in_pieces(data, rand(data))
    taken_cut = read_by_h11(method, pieces)
    assert taken_cut == taken or (taken and taken_cut and taken_cut.read == taken.read), (
        case,
        "h11 itself depends on the delivery",
    )
    beyond = [category for category, holds in BEYOND.items() if holds(taken)] if taken else []
    expected = alike(taken.read) if taken and not beyond else None
    deliveries = [[data], pieces]
    if byte_by_byte:
        deliveries.append([data[at : at + 1] for at in range(len(data))])
    for delivery in deliveries:
        read = read_by_wire(method, delivery)
        assert (read and alike(read)) == expected, (case, [len(piece) for piece in delivery], beyond)
    count.update(beyond)
    count["taken" if expected else "beyond" if beyond else "refused"] += 1


# ---------------------------------------------------------------------------------------------------------------------- tests


def every(cases: Iterable[Case], step: int) -> Iterable[Case]:
    """One in *step* of the cases, of all kinds alike."""
    draw = rand("every", step)
    return (case for case in cases if draw.randrange(step) == 0)


@pytest.mark.parametrize(
    ("cases", "taken", "refused"),
    [
        pytest.param(lambda: every(systematic(), 10), 300, 300, id="each part in each form"),
        pytest.param(cuts, 50, 500, id="cut at every offset"),
        pytest.param(lambda: every(mutations(), 60), 100, 300, id="one byte broken"),
        pytest.param(lambda: map(random_case, range(600)), 100, 200, id="random"),
    ],
)
def test_the_wire_reads_what_h11_reads_and_refuses_what_h11_refuses(
    cases: Callable[[], Iterable[Case]], taken: int, refused: int
) -> None:
    """Status, reason, fields, body, end and reuse are alike, and do not depend on how the bytes are delivered."""
    count: Counter[str] = Counter()
    for case in cases():
        judge(case, count)
    assert (count["taken"] >= taken, count["refused"] >= refused) == (True, True), count  # the corpus holds enough of both


def test_what_is_refused_beyond_h11_is_what_is_listed() -> None:
    """The last size, number or byte within a limit is taken and the first beyond it refused; no category lacks its example."""
    count: Counter[str] = Counter()
    for case in boundaries():
        judge(case, count, byte_by_byte=False)
    assert {category for category in BEYOND if count[category]} == set(BEYOND)


@given(st.sampled_from(BASES), st.lists(st.tuples(st.integers(0, 150), st.integers(0, 2), st.binary(max_size=3)), max_size=4))
def test_any_edit_of_an_answer_is_read_alike(case: Case, edits: list[tuple[int, int, bytes]]) -> None:
    """Answers with a few bytes taken out and others put in."""
    data = case.data
    for at, out, put in edits:
        data = data[:at] + put + data[at + out :]
    judge(Case(case.method, data), Counter())


def test_heads_of_the_usual_form_are_read_as_all_others() -> None:
    """One expression looks at a usual head; a bare line feed sends the same head the long way, with the same result."""
    compared = 0
    for case in every(systematic(), 2):
        end = case.data.find(b"\r\n\r\n") + 4
        head = case.data[:end].decode("latin-1")
        if end < 4 or "\n\n" in head.replace("\r\n", "\n")[:-1]:
            continue
        usual, other = (_parsed(text, case.method) for text in (head, head[:-2] + "\n"))
        assert usual == other, case
        compared += usual is not None
    assert compared > 500


def _parsed(text: str, method: str) -> object:
    try:
        return parse_head(text, method)
    except Malformed:
        return None


def test_what_precedes_a_fault_is_passed_on_in_every_delivery() -> None:
    """The bytes of a chunked body in front of a malformed line reach the client, and each further read says the same."""
    data = CHUNKED + b"3\r\nabc\r\n2\r\nde\r\nworse\r\n"
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))], in_pieces(data, rand(1))):
        wire, _ = begun(pieces)
        body, read = Body(wire, wire.read_head("GET"), lambda wire, good: None), b""
        while len(read) < 5:
            read += body.read()
        assert read == b"abcde"
        with pytest.raises(Malformed):
            body.read()
        with pytest.raises(Malformed):
            body.read()


@pytest.mark.parametrize(
    "error", [TimeoutError("ETIMEDOUT"), ConnectionResetError(), ssl.SSLError(1, "bad record"), OSError(5, "?")]
)
@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200", BASES[0].data[:-1], CHUNKED + b"5\r\nab"])
def test_a_failing_read_is_a_broken_answer(data: bytes, error: OSError) -> None:
    """In the head and in the body, also where TCP itself gives up; a timeout is only one that was asked for."""
    assert read_by_wire("GET", [data, error]) is None


def test_a_body_can_be_read_on_after_a_timeout() -> None:
    """The upstream is silent for a while before each byte, and none is lost."""
    for case in BASES[:4]:
        at = case.data.index(b"\r\n\r\n") + 4
        pieces: list[bytes | Exception] = [case.data[:at]]
        for byte in case.data[at:]:
            pieces += [TimeoutError(), bytes([byte])]
        wire, _ = begun(pieces)
        body, read, timeouts = Body(wire, wire.read_head(case.method), lambda wire, good: None), b"", 0
        while not body.ended:
            try:
                read += body.read(5)
            except TimeoutError:
                timeouts += 1
        taken = read_by_h11(case.method, [case.data])
        assert taken is not None
        assert (read, timeouts) == (taken.read.body, len(case.data) - at - len(taken.read.left))


HOSTILE = {
    "a head that never ends": (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 140000, 16),
    "blanks before a bad byte": (b"HTTP/1.1 200 OK\r\n" + (b"A:" + b" " * 60000 + b"\0\r\n") * 2 + b"\r\n", 1000),
    "blanks in a value before a bad byte": (b"HTTP/1.1 200 OK\r\n" + b"A: b" + b" c" * 30000 + b" " * 4000 + b"\0\r\n\r\n", 1000),
    "blanks behind a value": (b"HTTP/1.1 200 OK\r\nA:\x01" + b" " * 60000 + b"\r\nContent-Length: 0\r\n\r\n", 1000),
    "folds": (b"HTTP/1.1 200 OK\r\nA: b" + b"\n " * 60000 + b"\r\nContent-Length: 0\r\n\r\n", 1000),
    "fields": (b"HTTP/1.1 200 OK\r\n" + b"A:\r\n" * 30000 + b"\r\n", 1000),
    "options": (b"HTTP/1.1 200 OK\r\nConnection: " + b"," * 60000 + b"\r\nContent-Length: 0\r\n\r\n", 1000),
    "lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 60000 + b"\r\n\r\n", 1000),
    "interim answers": (b"HTTP/1.1 100 C\r\n\r\n" * 50000, 65536),
    "a chunk line that never ends": (CHUNKED + b"5;" + b"x" * 9000, 1),
    "chunk lines of blanks": (CHUNKED + (b"5;" + b" " * 8000 + b"\r\nhello\r\n") * 3 + b"0\r\n\r\n", 1),
    "a chunk line with a bad end": (CHUNKED + b"5;" + b" \t" * 4000 + b"\n", 1),
    "zeros": (CHUNKED + b"0" * 9000, 1),
    "trailers that never end": (CHUNKED + b"0\r\n" + b"A: b\r\n" * 1000, 1),
    "trailers of blanks": (CHUNKED + b"0\r\nA:" + b" " * 16000 + b"\0\r\n\r\n", 1),
    "chunks of one byte": (CHUNKED + b"1\r\nx\r\n" * 30000 + b"0\r\n\r\n", 65536),
    "chunks of one byte, byte by byte": (CHUNKED + b"1\r\nx\r\n" * 4000 + b"0\r\n\r\n", 1),
}
"""Answers made to cost much, and how many bytes come at a time."""


class Searching:
    """A pattern that adds up the bytes through which it may have gone."""

    def __init__(self, compiled: re.Pattern[bytes]) -> None:
        self.compiled, self.total = compiled, 0

    def search(self, data: bytes, at: int = 0) -> re.Match[bytes] | None:
        self.total += len(data) - at
        return self.compiled.search(data, at)


def work_on(data: bytes, size: int) -> tuple[int, int]:
    """What it takes to read *data* in pieces of *size* bytes: functions called, and bytes searched for the end of a head."""
    steps = 0

    def called(_frame: object, event: str, _argument: object) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    with pytest.MonkeyPatch.context() as patch:
        searching = Searching(HEAD_END)
        for module in (wire_module, body_module):
            patch.setattr(module, "HEAD_END", searching)
        sys.setprofile(called)
        try:
            read_by_wire("GET", pieces)
        finally:
            sys.setprofile(None)
    return steps, searching.total


@pytest.mark.parametrize("name", HOSTILE)
def test_no_answer_costs_more_than_its_length(name: str) -> None:
    """A few steps for a byte, at most 30, and each byte is searched a few times: neither grows with what came before."""
    data, size = HOSTILE[name]
    steps, searched = work_on(data, size)
    assert (steps < 30 * len(data), searched < 10 * len(data)) == (True, True)


def run(number: int) -> None:
    """All the systematic cases, and random ones up to *number* in all."""
    for name in HOSTILE:
        print(*work_on(*HOSTILE[name]), len(HOSTILE[name][0]), name, flush=True)
    count: Counter[str] = Counter()
    for case in boundaries():
        judge(case, count, byte_by_byte=False)
    began, failed = time.perf_counter(), 0
    cases = itertools.chain(systematic(), cuts(), mutations(), map(random_case, itertools.count()))
    for done, case in enumerate(itertools.islice(cases, number), 1):
        try:
            judge(case, count)
        except AssertionError as error:
            failed += 1
            print("FAILED", error, flush=True)
            if failed >= 50:
                break
        if done % 20000 == 0:
            print(f"{done} cases, {failed} failed, {time.perf_counter() - began:.0f} s", flush=True)
    for what, times in count.most_common():
        print(f"{times:8} {what}")


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 300_000)
