"""The request log: what a line says, what it never says, and that the answer passes as it is."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.handlers import SimpleHandler
from wsgiref.validate import validator

import pytest
from werkzeug.test import Client, EnvironBuilder

from mistral_filter import MistralFilter
from mistral_filter.changes import Change
from mistral_filter.fields import CHAT_FIELDS, ENDPOINTS, Array, Object, Tagged
from mistral_filter.proxy import logs
from mistral_filter.proxy.call import call_of
from mistral_filter.proxy.calls import Calls
from mistral_filter.proxy.logs import Record, RequestLog, access_path, changes_text, configure, request_id_of

KEY, QUERY, PROMPT, PATH, HEADER = "kkCANARYkk1a2b3c4d5e6f7g8h9", "qqCANARYqq", "ppCANARYpp", "xxCANARYxx", "hhCANARYhh"
PREFIXES = ("", "/codestral")

Log = Callable[[], list[str]]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Log]]:
    """``lines("INFO", "json")`` sets the log up; what it returns gives the lines written since it was last asked."""
    loggers = [logging.getLogger(name) for name in ("mistral_filter", "mistral_filter.access")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]

    def start(level: str = "INFO", form: str = "text") -> Log:
        configure(level, form)
        return lambda: capsys.readouterr().err.splitlines()

    yield start
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate
        logger.manager._clear_cache()  # type: ignore[attr-defined]  # a level that was set by hand


@pytest.fixture
def records() -> list[Record]:
    return []


class Body:
    """An iterable that notes what is done to it."""

    def __init__(self, *pieces: bytes | BaseException, on_close: BaseException | None = None) -> None:
        self.pieces = iter(pieces)
        self.on_close = on_close
        self.given = self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = next(self.pieces)
        if isinstance(piece, BaseException):
            raise piece
        self.given += 1
        return piece

    def close(self) -> None:
        self.closed += 1
        if self.on_close is not None:
            raise self.on_close


def logged(app: Callable[..., Any], **options: Any) -> Calls:
    return Calls(app, report=RequestLog(**options))


def answering(
    body: Iterable[bytes], status: str = "200 OK", *headers: tuple[str, str], **environ_too: Any
) -> Callable[..., Iterable[bytes]]:
    """A WSGI application that answers with *body*, and puts *environ_too* into ``mistral_filter.…``."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        call_of(environ).outcome = environ_too.pop("outcome", None)
        environ.update({f"mistral_filter.{name}": value for name, value in environ_too.items()})
        start_response(status, [("Content-Type", "text/plain"), *headers])
        return body

    return app


def ask(app: Callable[..., Any], method: str = "GET", path: str = "/v1/models", **options: Any) -> Any:
    """One request through a log, with the standard library as the judge on both of its sides."""
    return Client(validator(logged(validator(app), prefixes=PREFIXES))).open(path, method=method, buffered=True, **options)


def observed(app: Callable[..., Any], records: list[Record]) -> Calls:
    return logged(app, prefixes=PREFIXES, observe=records.append)


def environ(path: str = "/v1/models", **options: Any) -> dict[str, Any]:
    return EnvironBuilder(path, **options).get_environ()


def ignore(*args: Any) -> Any:
    """A start_response that does nothing."""
    return ignore


# --------------------------------------------------------------------------------------------------------------- what a line says


def test_a_text_line_has_every_fact_of_the_request(lines: Callable[..., Log]) -> None:
    """A filtered request makes one line with all facts, in a fixed order, and nothing else."""
    log = lines()
    inner = answering([b"12345", b"678"], "200 OK", ("X-Request-Id", "req-1.a_B"))
    body = {"model": "m", "messages": [], "user": "u"}
    response = ask(MistralFilter(inner), "POST", "/chat/completions/", json=body)
    assert response.data == b"12345678"
    (line,) = (line for line in log() if "method=" in line)
    time, level, *facts = line.split(" ")
    assert time[10] == "T"
    assert time.endswith("+00:00")
    assert level == "INFO"
    ms = facts.pop(4)
    assert ms.startswith("ms=")
    assert float(ms[3:]) >= 0
    expected = "method=POST path=/v1/chat/completions status=200 bytes=8 ended=ok request_id=req-1.a_B changes="
    assert " ".join(facts) == expected + response.headers["Mistral-Filter-Changes"]


def test_a_json_line_is_one_object(lines: Callable[..., Log]) -> None:
    """The JSON format writes the same facts as one object a line, numbers as numbers."""
    log = lines(form="json")
    ask(answering([b"no"], "404 Not Found", outcome="not_found"), "DELETE", "/v1/nothing/here")
    (line,) = map(json.loads, log())
    assert line.pop("time").endswith("+00:00")
    assert line.pop("ms") >= 0
    facts = {"method": "DELETE", "path": "other", "status": 404, "bytes": 2, "ended": "not_found"}
    assert line == {"level": "INFO", "logger": "mistral_filter.access", **facts, "request_id": "-", "changes": "-"}


@pytest.mark.parametrize(
    ("path", "canonical", "endpoint"),
    [
        ("/v1/chat/completions", "/v1/chat/completions", "chat"),
        ("/codestral/fim/completions/", "/codestral/v1/fim/completions", "fim"),
        ("/v1/chat/moderations", "/v1/chat/moderations", "chat/moderations"),
        ("/v1/models/ft:open-mistral-7b:abc", "/v1/models/*", "models"),
        ("/files/4711/content", "/v1/files/*/content", "files"),
        ("/v1/" + "files/" * 50, "/v1/files/files/files/files/files/files", "files"),
        ("/v1", "/v1", "/v1"),
        ("/", "/", "/"),
        ("/metrics", "/metrics", "/metrics"),
        ("/explain/v1/chat/completions", "/explain", "/explain"),
        ("/v1/secret", "other", "other"),
        ("/v1/./chat/completions", "other", "other"),
        ("/wp-login.php", "other", "other"),
        ("", "other", "other"),
    ],
)
def test_paths_are_canonical_and_from_a_closed_set(path: str, canonical: str, endpoint: str, records: list[Record]) -> None:
    """A path is logged in its one spelling without ids, an unknown one as ``other``."""
    observed(answering([]), records)(environ() | {"PATH_INFO": path}, ignore).close()  # type: ignore[attr-defined]
    assert [(record.path, record.endpoint) for record in records] == [(canonical, endpoint)]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("x-request-id", "a-1")], "a-1"),
        ([("Mistral-Correlation-Id", "c_2.3")], "c_2.3"),
        ([("mistral-correlation-id", "second"), ("X-REQUEST-ID", "first")], "first"),
        ([("x-request-id", "a" * 65)], "-"),
        ([("x-request-id", "a b")], "-"),
        ([("x-request-id", "")], "-"),
        ([], "-"),
    ],
)
def test_the_request_id_is_the_upstreams_if_it_looks_like_one(
    headers: list[tuple[str, str]], expected: str, records: list[Record]
) -> None:
    """Only a short plain word of the answer's head is taken for a request id."""
    Client(observed(answering([b""], "200 OK", *headers), records)).get("/v1/models", buffered=True)
    assert [record.request_id for record in records] == [expected]


def test_a_request_id_that_is_the_callers_key_is_not_logged(records: list[Record]) -> None:
    """An upstream that sends the key back as an id does not get it written down."""
    app = observed(answering([b""], "200 OK", ("x-request-id", KEY)), records)
    Client(app).get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}, buffered=True)
    Client(app).get("/v1/models", headers={"Authorization": "Bearer other"}, buffered=True)
    assert [record.request_id for record in records] == ["-", KEY]


def test_health_is_quiet(lines: Callable[..., Log]) -> None:
    """A platform's health checks fill no log, but can be seen at DEBUG."""
    log = lines("INFO")
    ask(answering([b""]), path="/health")
    ask(answering([b""]), path="/healthz")
    assert log() == []
    log = lines("DEBUG")
    ask(answering([b""]), path="/healthz")
    assert [" DEBUG " in line and "path=/healthz" in line for line in log()] == [True]


# ------------------------------------------------------------------------------------------------------------- how a request ends


def test_a_client_that_leaves_is_a_499(records: list[Record]) -> None:
    """An answer closed before its end is logged as client_gone with status 499, and is closed once."""
    body = Body(b"one", b"two", b"three")
    answer = observed(answering(body), records)(environ(), ignore)
    assert next(iter(answer)) == b"one"
    answer.close()  # type: ignore[attr-defined]
    assert [(record.status, record.ended, record.sent) for record in records] == [(499, "client_gone", 3)]
    assert body.closed == 1


def test_pieces_pass_when_they_come() -> None:
    """Nothing is read ahead: a piece is asked for when the server asks for it."""
    body = Body(b"one", b"two")
    pieces = iter(logged(answering(body))(environ(), ignore))
    assert body.given == 0
    assert next(pieces) == b"one"
    assert body.given == 1
    assert list(pieces) == [b"two"]


@pytest.mark.parametrize(
    ("outcome", "ended", "status"),
    [
        ("upstream_timeout", "upstream_timeout", 200),
        ("client_gone", "client_gone", 499),
        ("client_slow", "client_slow", 499),
        (f"no word: {PROMPT}", "error", 200),
        (None, "ok", 200),
    ],
)
def test_an_inner_room_says_how_it_ended(outcome: str | None, ended: str, status: int, records: list[Record]) -> None:
    """The outcome of the call goes before what is seen from outside, if it is one word."""
    Client(observed(answering([b"x"], outcome=outcome), records)).get("/v1/models", buffered=True)
    assert [(record.ended, record.status) for record in records] == [(ended, status)]


def test_an_outcome_set_while_closing_counts(records: list[Record]) -> None:
    """The line is written after the inner close, which may be where an inner room learns how it ended."""
    environment = environ()

    class Late(Body):
        def close(self) -> None:
            call_of(environment).outcome = "upstream_cut"

    observed(answering(Late(b"x")), records)(environment, ignore).close()  # type: ignore[attr-defined]
    assert [record.ended for record in records] == ["upstream_cut"]


@pytest.mark.parametrize("error", [OSError(PROMPT), SystemExit(1)])
def test_exceptions_pass_unchanged(error: BaseException, records: list[Record]) -> None:
    """An exception before the answer, inside it or at its close reaches the server as it is, and is logged once each time."""

    def failing(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise error

    with pytest.raises(type(error)) as before:
        observed(failing, records)(environ(), ignore)
    for body in (Body(error), Body(b"x", error)):
        inside: Any = observed(answering(body, "201 Created"), records)(environ(), ignore)
        with pytest.raises(type(error)) as amid:
            list(inside)
        inside.close()
        assert (amid.value, body.closed) == (error, 1)
    for body in (Body(on_close=error), Body(b"x", on_close=error)):
        at_end: Any = observed(answering(body), records)(environ(), ignore)
        list(at_end)
        with pytest.raises(type(error)) as closing:
            at_end.close()
        assert closing.value is error
    assert before.value is error
    assert [(record.status, record.sent) for record in records] == [(500, 0), (500, 0), (201, 1), (200, 0), (200, 1)]
    assert {record.ended for record in records} == {"error"}


def test_a_second_close_does_nothing(records: list[Record]) -> None:
    """The inner close and the line happen once, however often the server closes; a body without close is fine."""
    body = Body(b"x")
    for inner in (body, [b"x"]):
        answer: Any = observed(answering(inner), records)(environ(), ignore)
        list(answer)
        answer.close()
        answer.close()
    assert body.closed == 1
    assert [record.ended for record in records] == ["ok", "ok"]


def test_exc_info_reaches_the_server(records: list[Record]) -> None:
    """A second start_response with exc_info replaces the status in the log as it does in the answer."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            raise ValueError
        except ValueError:
            start_response("503 Service Unavailable", [("Content-Type", "text/plain"), ("X-Request-Id", "r")], sys.exc_info())
        return [b"no"]

    sent = io.BytesIO()
    request = {name: value for name, value in environ().items() if not name.startswith("wsgi.")}
    SimpleHandler(io.BytesIO(), sent, io.StringIO(), request).run(validator(observed(validator(app), records)))
    assert sent.getvalue().startswith(b"HTTP/1.0 503 Service Unavailable\r\n")
    assert b"X-Request-Id: r\r\n" in sent.getvalue()
    assert [(record.status, record.request_id) for record in records] == [(503, "r")]


def test_a_status_that_the_server_refuses_is_not_logged(records: list[Record]) -> None:
    """When the server raises because the head is already sent, the line keeps the status that went out."""
    calls = []

    def server(status: str, headers: Any, *exc_info: Any) -> Any:
        calls.append(status)
        if exc_info:
            raise exc_info[0][1]

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"x"
        try:
            raise OSError("late")
        except OSError:
            start_response("500 Internal Server Error", [], sys.exc_info())

    answer: Any = observed(app, records)(environ(), server)
    with pytest.raises(OSError, match="late"):
        list(answer)
    answer.close()
    assert calls == ["200 OK", "500 Internal Server Error"]
    assert [(record.status, record.ended) for record in records] == [(200, "error")]


# ------------------------------------------------------------------------------------------------------------- what it never says


CANARIES = (KEY, QUERY, PROMPT, PATH, HEADER)


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        f"/v1/models/{PATH}",
        f"/v1/{PATH}",
        f"/{PATH}/v1/chat/completions",
        f"/v1/files/{PATH}/{PATH}/{KEY}",
        f"/v1/chat/completions;{PATH}",
        f"/v1/{PATH}/../chat/completions",
        f"/explain/{PATH}",
        f"/health/{PATH}",
        f"/v1/chat/completions\r\nmethod=GET {PATH}",
        f"/v1/caf\u00e9-{PATH}",
    ],
)
def test_nothing_of_the_caller_is_ever_in_a_line(path: str, form: str, lines: Callable[..., Log]) -> None:
    """Keys, query strings, prompts, odd paths, headers, methods, request ids, outcomes and field names stay out of each line."""
    log = lines("DEBUG", form)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["mistral_filter.outcome"] = f"upstream said {PROMPT}"
        start_response(f"502 {PROMPT}", [("Content-Type", f"text/{HEADER}"), ("X-Request-Id", f"r {HEADER}")])
        return [PROMPT.encode()]

    body = {"model": PROMPT, "messages": [{"role": "user", "content": PROMPT}], "user": PROMPT, f"{PROMPT}, he said": 1, KEY: 2}
    for method in ("POST", HEADER):
        Client(logged(app, prefixes=PREFIXES)).open(
            method=method,
            buffered=True,
            environ_overrides={"PATH_INFO": path.encode().decode("latin-1"), "QUERY_STRING": f"api_key={QUERY}"},
            headers={"Authorization": f"Bearer {KEY}", "X-Request-Id": HEADER, "User-Agent": HEADER, "Cookie": HEADER},
            json=body,
        )
    logged(answering([], changes=tuple(Change("drop", name, PROMPT) for name in body)))(environ(path=path), ignore).close()  # type: ignore[attr-defined]
    written = log()
    assert len(written) == 3
    assert not [line for line in written for canary in CANARIES if canary in line and canary != PROMPT], written
    assert not [line for line in written if PROMPT in line], written


def test_changes_are_named_and_bounded(records: list[Record]) -> None:
    """Fields are named as in the header; what reads like no name is a question mark; a line stays short."""
    changes = (
        Change("rename", "messages[3].function_call", "why", "none", "tool_calls"),
        Change("drop", "logit_bias", "why"),
        Change("drop", f"metadata.{PROMPT}, he said.user", "why"),
    )
    many = tuple(Change("drop", f"field_{'abcdefghij'[n // 10]}{n % 10}", "why") for n in range(100))
    for made in (changes, many):
        observed(answering([], changes=made), records)(environ(), ignore).close()  # type: ignore[attr-defined]
    few, bounded = (str(record.facts()["changes"]) for record in records)
    assert few == (
        'rename;path="messages[*].function_call";to="tool_calls";loss=none, drop;path="logit_bias";loss=lost, '
        'drop;path="metadata.?";loss=lost'
    )
    assert len(bounded) <= 512
    assert bounded.startswith('drop;path="field_a0";loss=lost, ')
    assert "more;count=" in bounded


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("messages[3].tool_calls[12].function.strict", "messages[*].tool_calls[*].function.strict"),
        ("max_completion_tokens", "max_completion_tokens"),
        ("tools[0].function.parameters.$schema", "tools[*].function.parameters.$schema"),
        ("top_k", "top_k"),
        ("input[0].content[1].image_url.detail", "input[*].content[*].image_url.detail"),
        ("sk-proj-abcdefghijklmnop", "?"),
        ("AKIAIOSFODNN7EXAMPLE", "?"),
        ("aGVsbG8gd29ybGQ=", "?"),
        ("a" * 40, "?"),
        ("a" * 15, "?"),
        ("_".join(["word"] * 7), "?"),
        ("abcd1234efgh5678", "?"),
        ("4111111111111111", "?"),
        ("0123456789abcdef0123456789abcdef", "?"),
        ("deadbeef0123", "?"),
        ("caf\u00e9", "?"),
        ("\u0430dmin", "?"),
        ("user name", "?"),
        ("a=b", "?"),
        ('a"b', "?"),
        ("a\nmethod=GET", "?"),
        ("a\u2028b", "?"),
        ("messages\n", "?"),
        ("metadata.J\u00f6rg.age", "metadata.?"),
        ("metadata.Joerg.age", "metadata.?"),
        ("metadata..x", "metadata.?"),
        ("metadata.[x]", "metadata.?"),
        ("messages[" + "9" * 30 + "]", "?"),
        (".".join(["a"] * 10_000), "?"),
        ("we.meet.at.noon", "?"),
        ("messages[0].content[1].we.meet", "messages[*].content[*].?"),
        ("we_meet_at_noon", "?"),
        ("a" * 4_000_000, "?"),
    ],
)
def test_a_name_is_shown_only_if_it_is_written_like_a_field(path: str, shown: str) -> None:
    """Short words in lower case are names of fields; whatever could be a key, a sentence or a name of a person is not shown."""
    for change in (Change("drop", path, PROMPT), Change("rename", "n", PROMPT, "none", path)):
        text = str(Record("POST", "/", "/", 200, 0, 0.1, "ok", "-", (change,)).facts()["changes"])
        assert re.sub(r"\[\d+\]", "[*]", text.split('"')[-2]) == shown


def names_of(node: Any) -> Iterator[str]:
    """All names in a table of fields."""
    if isinstance(node, Object):
        for name, below in node.fields.items():
            yield name
            yield from names_of(below)
    if isinstance(node, Array):
        yield from names_of(node.items)
    if isinstance(node, Tagged):
        for variant in node.variants.values():
            yield from names_of(variant)


def test_every_field_of_mistrals_is_shown() -> None:
    """The rule for names loses none of those in the tables."""
    names = {name for table in (*ENDPOINTS.values(), *CHAT_FIELDS.values()) for name in names_of(table)}
    assert {"messages", "tool_calls", "image_url", "json_schema"} <= names
    assert [name for name in sorted(names) if changes_text([Change("drop", name, "")]) != f'drop;path="{name}";loss=lost'] == []


@pytest.mark.parametrize(
    ("headers", "query", "request_id"),
    [
        ({"Authorization": f"Bearer {KEY}"}, "", KEY),
        ({"Authorization": f"Bearer {KEY}"}, "", f"req-{KEY}"),
        ({"Authorization": f"Bearer {KEY}"}, "", KEY.upper()),
        ({"Authorization": f"Bearer {KEY}"}, "", KEY[5:20]),
        ({"Authorization": KEY}, "", KEY),
        ({"Authorization": f"Basic {KEY}"}, "", f"{KEY[:12]}..."),
        ({"api-key": KEY}, "", KEY),
        ({"X-API-Key": KEY}, "", KEY),
        ({"x-goog-api-key": KEY}, "", KEY),
        ({"X-Auth-Token": KEY}, "", KEY),
        ({"Ocp-Apim-Subscription-Key": KEY}, "", KEY),
        ({"Proxy-Authorization": f"Bearer {KEY}"}, "", KEY),
        ({"Cookie": f"session={KEY}; a=b"}, "", KEY),
        ({}, f"api_key={KEY}", KEY),
        ({}, "key=" + "".join(f"%{ord(letter):02x}" for letter in KEY), KEY),
        ({"api-key": "s3cr3t"}, "", "s3cr3t"),
    ],
)
def test_no_request_id_quotes_a_credential(headers: dict[str, str], query: str, request_id: str, records: list[Record]) -> None:
    """Whatever header or parameter a credential came in: an id that has a part of it is not logged; another one is."""
    app = observed(answering([b""], "200 OK", ("x-request-id", request_id)), records)
    Client(app, use_cookies=False).get("/v1/models", query_string=query, headers=headers, buffered=True)
    Client(app).get("/v1/models", headers={"Authorization": "Bearer of-another", "X-Request-Id": request_id}, buffered=True)
    assert [record.request_id for record in records] == ["-", request_id]


@pytest.mark.parametrize("before", range(9))
def test_eight_characters_of_a_credential_are_too_many(before: int) -> None:
    """Wherever they stand in the id and in the credential. Seven are no quotation, unless they are all of the id."""
    environ = {"HTTP_AUTHORIZATION": f"Bearer {KEY}", "HTTP_USER_AGENT": "of-another"}
    for at in range(len(KEY) - 7):
        for after in range(9):
            eight, seven = ("." * before + KEY[at : at + length] + "." * after for length in (8, 7))
            assert request_id_of([("X-Request-Id", eight)], environ) == "-"
            assert request_id_of([("X-Request-Id", seven)], environ) == (seven if before + after else "-")


FORGING = ["\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\x00", "\x1b[2J", "\ud800", "\x7f", "\u202e"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_one_line_is_one_line(form: str, lines: Callable[..., Log]) -> None:
    """No message can begin a line of its own, move the cursor, or be longer than a pipe takes at once."""
    read = lines("DEBUG", form)
    logger = logging.getLogger("mistral_filter")
    (handler,) = [handler for handler in logger.handlers if handler.name == "mistral_filter"]
    for text in (*FORGING, "x" * 5000, '"' * 5000, "\n" * 5000, "\u2028" * 5000):
        # not through the logger: the test runner captures its records too, and cannot hold half an emoji
        handler.handle(logger.makeRecord(logger.name, logging.WARNING, __file__, 0, "before%sstatus=200 %s", (text, text), None))
        (line,) = read()
        assert line.isascii()
        assert line.isprintable()
        assert len(line) < 4096
        if form == "json":
            assert json.loads(line)["message"].startswith("before")


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"RAW_URI": f"/v1/models?api_key={KEY}"}, "/v1/models"),
        ({"RAW_URI": "/v1/%2e%2E/caf%C3%A9%0d%0a"}, "/v1/%2e%2E/caf%C3%A9%0d%0a"),
        ({"RAW_URI": "/caf\u00c3\u00a9"}, "/caf%C3%A9"),
        ({"RAW_URI": '/a b"c\\d\n\x85\x00'}, "/a%20b%22c%5Cd%0A%85%00"),
        ({"RAW_URI": "/a#b"}, "/a"),
        ({"RAW_URI": f"http://user:{KEY}@host.example/v1?x"}, "/v1"),
        ({"RAW_URI": f"http://user:{KEY}@host.example"}, "/"),
        ({"RAW_URI": "//v1//models"}, "//v1//models"),
        ({"RAW_URI": "*"}, "*"),
        ({"RAW_URI": "?a"}, "/"),
        ({"RAW_URI": "/" + "a" * 5000}, "/" + "a" * 1023),
        ({"RAW_URI": "/" + "\x85" * 5000}, ("/" + "%85" * 1023)[:1024]),
        ({"PATH_INFO": "/caf\u00c3\u00a9/%\r\n", "SCRIPT_NAME": "/ai"}, "/ai/caf%C3%A9/%25%0D%0A"),
        ({}, "/"),
    ],
)
def test_the_access_log_gets_the_path_as_it_was_sent(environ: dict[str, str], path: str) -> None:
    """Never decoded, without host, password and query, and always one word of printable ASCII."""
    assert access_path(environ) == path
    assert access_path(environ).isascii()


def test_exceptions_are_logged_without_their_text(lines: Callable[..., Log]) -> None:
    """A traceback that anybody logs becomes its type and place: its text may quote a prompt, and Flask's message a path."""
    for form in ("text", "json"):
        log = lines(form=form)
        try:
            raise ValueError(PROMPT)
        except ValueError:
            logging.getLogger("mistral_filter").exception("Exception on %s [%s]", PATH, "POST")
        (line,) = log()
        assert "unexpected ValueError in test_exceptions_are_logged_without_their_text:" in line
        assert PROMPT not in line
        assert PATH not in line


# --------------------------------------------------------------------------------------------------------------------- setting up


def test_configuring_twice_writes_each_line_once(lines: Callable[..., Log]) -> None:
    """A second call replaces format and level, keeps a host's own handler, and doubles no line."""
    host = logging.NullHandler()
    logging.getLogger("mistral_filter").addHandler(host)
    lines("DEBUG", "json")
    log = lines("INFO", "text")
    logging.getLogger("mistral_filter").warning("one %s", "thing")
    ask(answering([b""]))
    logging.getLogger("mistral_filter").debug("nothing")
    warning, access = log()
    assert warning.split(" ", 2)[1:] == ["WARNING", "one thing"]
    assert " INFO method=GET path=/v1/models " in access
    assert host in logging.getLogger("mistral_filter").handlers


def test_nothing_goes_to_the_root_logger(lines: Callable[..., Log]) -> None:
    """A host's root handler gets no second copy."""
    lines()
    seen: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign,assignment]
    logging.getLogger().addHandler(handler)
    try:
        ask(answering([b""]))
        logging.getLogger("elsewhere").warning("this one does")
    finally:
        logging.getLogger().removeHandler(handler)
    assert [record.name for record in seen] == ["elsewhere"]


def test_an_unknown_format_stops_the_start(lines: Callable[..., Log]) -> None:
    """A format that does not exist is an error, not a default."""
    with pytest.raises(KeyError, match="yaml"):
        lines(form="yaml")


def test_requests_are_observed_when_the_log_is_off(lines: Callable[..., Log], records: list[Record]) -> None:
    """Metrics do not depend on the log's level."""
    log = lines("ERROR")
    Client(observed(answering([b"x"]), records)).get("/health", buffered=True)
    assert [record.path for record in records] == ["/health"]
    assert log() == []


def test_a_failing_observer_spoils_no_answer(lines: Callable[..., Log]) -> None:
    """A defect of the log's own is a line with its type; the answer goes out."""
    log = lines()

    def failing(record: Record) -> None:
        raise RuntimeError(PROMPT)

    response = Client(logged(answering([b"x"]), observe=failing)).get("/v1/models", buffered=True)
    assert response.data == b"x"
    assert log()[-1].endswith(" ERROR a request could not be logged: RuntimeError")


def test_records_are_made_only_for_somebody(lines: Callable[..., Log], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the log off and nobody to observe, a request costs no record."""
    made: list[object] = []
    monkeypatch.setattr(logs, "_record", lambda *args: made.append(args))
    lines("ERROR")
    ask(answering([b"x"]))
    assert made == []
    lines("INFO")
    ask(answering([b"x"]))
    assert len(made) == 1
