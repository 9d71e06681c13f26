"""``MistralFilter`` as a WSGI application: ``wsgiref.validate`` watches both of its sides, at the root and under a prefix."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client, EnvironBuilder, TestResponse

from mistral_filter import Change, MistralFilter
from mistral_filter.middleware import MAX_BODY

App = Callable[[dict[str, Any], Any], Iterable[bytes]]

GOOD = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
BAD = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"user":"u"}'
CHAT = "/v1/chat/completions"
HEADER = "Mistral-Filter-Changes"


class Inner:
    """The application behind the filter: notes what it is given and answers ``ok``."""

    def __init__(self) -> None:
        self.environs: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.closed = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.environs.append(environ)
        length = environ.get("CONTENT_LENGTH") or ""
        chunked = environ.get("wsgi.input_terminated", False)
        self.bodies.append(environ["wsgi.input"].read(10**9 if chunked and not length else int(length or 0)))
        start_response("200 OK", [("Content-Type", "text/plain"), ("X-Inner", "a"), ("X-Inner", "b")])
        return Answer(self, environ["REQUEST_METHOD"] == "HEAD")


class Answer:
    def __init__(self, inner: Inner, empty: bool) -> None:
        self._inner, self._pieces = inner, iter([] if empty else [b"o", b"k"])

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self._inner.closed += 1


def filtered(app: App, **options: Any) -> App:
    """The filter between two validators."""
    return validator(MistralFilter(validator(app), **options))  # type: ignore[arg-type,return-value]


def under_prefix(app: App) -> App:
    return DispatcherMiddleware(not_found, {"/ai": app})  # type: ignore[arg-type,dict-item,return-value]


def not_found(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"outside"]


class Mounted:
    """One way to reach the filter."""

    def __init__(self, inner: Inner, prefix: str, **options: Any) -> None:
        app = filtered(inner, **options)
        self.inner = inner
        self.prefix = prefix
        self.client = Client(under_prefix(app) if prefix == "/ai" else app)

    def post(self, path: str = CHAT, data: bytes = GOOD, **options: Any) -> TestResponse:
        options.setdefault("content_type", "application/json")
        with self.client.post(self.prefix + path, data=data, **options) as response:
            response.get_data()
        return response


@pytest.fixture(params=["", "/ai"], ids=["root", "mounted"])
def mounted(request: pytest.FixtureRequest) -> Callable[..., Mounted]:
    """The filter over an :class:`Inner`, at the root and under ``/ai``."""
    return lambda **options: Mounted(Inner(), request.param, **options)


Mount = Callable[..., Mounted]


def post(app: Any, data: bytes = BAD, **options: Any) -> TestResponse:
    """The answer to one POST, read to its end and closed."""
    with Client(app).post(CHAT, data=data, content_type="application/json", **options) as response:
        response.get_data()
    return response


def error_of(response: TestResponse) -> dict[str, Any]:
    """The error in the one shape."""
    assert response.content_type == "application/json"
    assert response.content_length == len(response.data)
    body = json.loads(response.data)
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    return body["error"]


# ----------------------------------------------------------------------------------------------------------- what passes


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/login"),
        ("POST", "/login"),
        ("POST", "/v1/models"),
        ("POST", "/v1/files"),
        ("POST", "/v1/audio/transcriptions"),
        ("GET", CHAT),
        ("OPTIONS", CHAT),
        ("DELETE", CHAT),
        ("PUT", CHAT),
        ("HEAD", CHAT),
        ("POST", "/"),
    ],
)
def test_what_is_not_ours_passes_untouched(mounted: Mount, method: str, path: str) -> None:
    """A request to another path, or with another method, reaches the application with its body and environ as they were."""
    m = mounted()
    data = b"\x00not json\xff" if method not in ("GET", "HEAD", "OPTIONS") else b""
    with m.client.open(m.prefix + path, method=method, data=data, headers={"Content-Encoding": "gzip"}) as response:
        assert response.status_code == 200
        assert response.data == (b"" if method == "HEAD" else b"ok")
        assert HEADER not in response.headers
        assert response.headers.getlist("X-Inner") == ["a", "b"]
    assert m.inner.bodies == [data]
    assert not any(key.startswith("mistral_filter") for key in m.inner.environs[0])
    assert m.inner.closed == 1


def test_the_application_sees_the_filtered_body(mounted: Mount) -> None:
    """The body is filtered, its length is right, and the changes are in the environ and in the header."""
    m = mounted()
    response = m.post(data=BAD)
    assert (response.status_code, response.data) == (200, b"ok")
    assert response.headers.getlist(HEADER) == ['drop;path="user";loss=none']
    assert m.inner.bodies == [GOOD]
    environ = m.inner.environs[0]
    assert environ["CONTENT_LENGTH"] == str(len(GOOD))
    assert environ["mistral_filter.endpoint"] == "chat"
    (change,) = environ["mistral_filter.changes"]
    assert isinstance(change, Change)
    assert (change.action, change.path) == ("drop", "user")
    assert environ["SCRIPT_NAME"] == m.prefix
    assert environ["PATH_INFO"] == CHAT
    assert m.inner.closed == 1


def test_a_good_body_passes_with_its_bytes(mounted: Mount) -> None:
    """Nothing to change: the very same bytes, an empty list of changes and no header."""
    m = mounted()
    body = b' {"temperature": 1.10, "model":"\\u006d"}\n'
    response = m.post(data=body)
    assert m.inner.bodies == [body]
    assert m.inner.environs[0]["mistral_filter.changes"] == ()
    assert HEADER not in response.headers


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "text/plain", "", "multipart/form-data; boundary=x"])
def test_the_content_type_does_not_decide(mounted: Mount, content_type: str) -> None:
    """A body is filtered by its path, whatever the client calls it."""
    m = mounted()
    m.post(data=BAD, content_type=content_type)
    assert m.inner.bodies == [GOOD]


def test_an_encoding_of_identity_is_none(mounted: Mount) -> None:
    """``Content-Encoding: identity`` says that the body is plain."""
    m = mounted()
    assert m.post(data=BAD, headers={"Content-Encoding": " Identity "}).status_code == 200
    assert m.inner.bodies == [GOOD]


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/v1/v1/chat/completions", "//v1/chat/completions", f"{CHAT}/", f"{CHAT}/chat/completions"]
)
def test_every_spelling_is_filtered(path: str) -> None:
    """The harmless spellings of clients' base URLs do not go past the filter."""
    inner = Inner()
    response = call(filtered(inner), path, BAD)
    assert response[0] == "200 OK"
    assert inner.bodies == [GOOD]


def call(app: App, path: str, body: bytes, **environ: Any) -> tuple[str, dict[str, str], bytes]:
    """One POST with exactly this PATH_INFO and environ: status, headers, body."""
    base = EnvironBuilder(method="POST", input_stream=io.BytesIO(body), headers={"Content-Length": str(len(body))}).get_environ()
    base.update({"PATH_INFO": path, "QUERY_STRING": "", **environ})
    base = {key: value for key, value in base.items() if value is not None}
    seen: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        seen.append((status, headers))
        return lambda data: None

    result = app(base, start_response)
    try:
        data = b"".join(result)
    finally:
        if hasattr(result, "close"):
            result.close()
    (status, headers) = seen[-1]
    return status, dict(headers), data


# ------------------------------------------------------------------------------------------------------- routes and prefixes


def test_an_applications_own_route_is_filtered() -> None:
    """``routes`` names paths of the host's own, each with its endpoint; Mistral's paths stay filtered beside them."""
    m = Mounted(Inner(), "", routes={"/my/chat": "chat", "/my/fim": "fim"})
    m.post("/my/chat", BAD)
    m.post("/my/fim", b'{"model":"m","prompt":"p","user":"u"}')
    m.post(CHAT, BAD)
    m.post("/my/other", BAD)
    assert m.inner.bodies == [GOOD, b'{"model":"m","prompt":"p"}', GOOD, BAD]


def test_prefixes_say_where_mistrals_paths_are() -> None:
    """``prefixes`` moves the filter to a path of the application's own; the root is only filtered when named."""
    m = Mounted(Inner(), "", prefixes=("/llm",))
    m.post(f"/llm{CHAT}", BAD)
    m.post(CHAT, BAD)
    assert m.inner.bodies == [GOOD, BAD]
    m = Mounted(Inner(), "", prefixes=("", "/llm"))
    m.post(f"/llm{CHAT}", BAD)
    m.post(CHAT, BAD)
    assert m.inner.bodies == [GOOD, GOOD]


def test_no_prefixes_leaves_routes_only() -> None:
    """With ``prefixes=()`` nothing but the named routes is filtered."""
    m = Mounted(Inner(), "", prefixes=(), routes={"/my/chat": "chat"})
    m.post(CHAT, BAD)
    m.post("/my/chat", BAD)
    assert m.inner.bodies == [BAD, GOOD]


@pytest.mark.parametrize("prefix", ["ai", "/", "/ai/", "ai/"])
def test_a_prefix_of_another_form_stops_the_start(prefix: str) -> None:
    """A prefix that would never match is an error when the application is put together, not a hole at night."""
    with pytest.raises(ValueError, match="prefix"):
        MistralFilter(Inner(), prefixes=(prefix,))


@pytest.mark.parametrize(
    ("options", "choices"),
    [
        ({"fields": "curent"}, "'curent'.* classic, current"),
        ({"fields": ""}, "classic, current"),
        ({"routes": {"/x": "nowhere"}}, "'/x'.*'nowhere'.* chat, agents, fim"),
    ],
)
def test_an_unknown_name_stops_the_start(options: dict[str, Any], choices: str) -> None:
    """So is an unknown list or endpoint, and the error names what there is."""
    with pytest.raises(ValueError, match=choices):
        MistralFilter(Inner(), **options)


def test_an_unknown_option_stops_the_start() -> None:
    """A keyword that does not exist is an error when the application is put together."""
    with pytest.raises(TypeError, match="filds"):
        MistralFilter(Inner(), filds="current")  # type: ignore[call-arg]


@pytest.mark.parametrize("route", ["/my/chat", "/my/chat/"])
@pytest.mark.parametrize("path", ["/my/chat", "/my/chat/"])
def test_a_route_matches_with_and_without_a_slash_at_the_end(route: str, path: str) -> None:
    """A framework that takes both spellings of a path gets no unfiltered body through either."""
    m = Mounted(Inner(), "", routes={route: "chat"})
    m.post(path, BAD)
    assert m.inner.bodies == [GOOD]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"fields": "current"}, b'"n":2'), ({"allow": ["n"]}, b'"n":2'), ({"allow": ["n"], "drop": ["n"]}, b"")],
)
def test_options_are_those_of_the_filter(options: dict[str, Any], expected: bytes) -> None:
    """Keyword arguments reach ``filter_body``."""
    m = Mounted(Inner(), "", **options)
    m.post(data=b'{"model":"m","n":2}')
    assert m.inner.bodies == [b'{"model":"m"%s}' % (b"," + expected if expected else b"")]


# ---------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"model":NaN}', b'{"model":"m"} x', b'{"model":"\xff"}', b"[" * 100_000, "{}".encode("utf-16")]
)
def test_what_does_not_parse_is_refused(mounted: Mount, data: bytes) -> None:
    """A 400 whose message begins with ``Invalid JSON``; the application is not called."""
    m = mounted()
    response = m.post(data=data)
    assert response.status_code == 400
    assert error_of(response)["message"].startswith("Invalid JSON")
    assert m.inner.environs == []


@pytest.mark.parametrize("data", [b"[]", b"null", b"1", b'"x"'])
def test_what_is_not_an_object_is_refused(mounted: Mount, data: bytes) -> None:
    """A 400 that says what a body is."""
    m = mounted()
    response = m.post(data=data)
    assert (response.status_code, error_of(response)["code"]) == (400, "not_an_object")
    assert m.inner.environs == []


@pytest.mark.parametrize("length", ["100", "59", str(MAX_BODY)])
def test_a_body_that_was_cut_short_is_refused(length: str) -> None:
    """Fewer bytes than announced: 400, also where what came is good JSON."""
    inner = Inner()
    status, headers, body = call(filtered(inner), CHAT, GOOD, CONTENT_LENGTH=length)
    assert len(GOOD) < int(length)
    assert (status[:3], json.loads(body)["error"]["code"]) == ("400", "body_cut_short")
    assert headers["Content-Type"] == "application/json"
    assert inner.environs == []


@pytest.mark.parametrize("length", ["abc", "-5", "+5", "1_0", "1.0", "0x5", "٣", "5,5", "9" * 5000])
def test_a_content_length_that_is_none_is_refused(length: str) -> None:
    """A length that is not a number of bytes, or that no machine counts to, is the client's fault: a 4xx."""
    inner = Inner()
    status, _, body = call(MistralFilter(inner), CHAT, GOOD, CONTENT_LENGTH=length)
    assert status[:3] in ("400", "413")
    assert json.loads(body)["error"]["code"] in ("bad_content_length", "body_too_large")
    assert inner.environs == []


@pytest.mark.parametrize("length", ["", None, "0"])
def test_no_length_is_no_body(length: str | None) -> None:
    """Without Content-Length and chunks nothing is waited for: an empty body is no JSON."""
    inner = Inner()
    status, _, body = call(MistralFilter(inner), CHAT, GOOD, CONTENT_LENGTH=length)
    assert status[:3] == "400"
    assert json.loads(body)["error"]["message"].startswith("Invalid JSON")


def padded(size: int) -> bytes:
    return GOOD + b" " * (size - len(GOOD))


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("over", "status"), [(-1, "200"), (0, "200"), (1, "413"), (100_000, "413")])
def test_the_limit_holds_to_the_byte(over: int, status: str, chunked: bool) -> None:
    """A body of exactly the limit passes and one byte more is a 413, by Content-Length and by chunks; it is read away first."""
    inner = Inner()
    body = padded(5000 + over)
    source = io.BytesIO(body)
    length = {"CONTENT_LENGTH": None, "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"} if chunked else {}
    answer = call(filtered(inner, max_body=5000), CHAT, body, **{**length, "wsgi.input": source})
    assert answer[0][:3] == status
    assert source.read() == b""
    if status == "413":
        assert json.loads(answer[2])["error"]["code"] == "body_too_large"
        assert "5000" in json.loads(answer[2])["error"]["message"]
        assert inner.environs == []
    else:
        assert inner.bodies == [body]
        assert inner.environs[0]["CONTENT_LENGTH"] == str(len(body))


def test_a_chunked_body_is_filtered() -> None:
    """What came in chunks goes on whole, with a length and without Transfer-Encoding."""
    inner = Inner()
    chunked = {"CONTENT_LENGTH": None, "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    assert call(MistralFilter(inner), CHAT, BAD, **chunked)[0] == "200 OK"
    assert inner.bodies == [GOOD]
    assert inner.environs[0]["CONTENT_LENGTH"] == str(len(GOOD))
    assert "HTTP_TRANSFER_ENCODING" not in inner.environs[0]


class Slices(io.BytesIO):
    """A body that arrives in pieces smaller than what is asked for."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size, 7) if size is not None and size >= 0 else 7)


class Broken(io.BytesIO):
    """A body whose framing breaks."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise self.error
        return super().read(5)

    error: Exception = OSError("broken")


def test_a_body_in_small_pieces_is_read_whole() -> None:
    """A short read is not the end."""
    inner = Inner()
    assert call(MistralFilter(inner), CHAT, BAD, **{"wsgi.input": Slices(BAD)})[0] == "200 OK"
    assert inner.bodies == [GOOD]


@pytest.mark.parametrize("error", [OSError("x"), ValueError("x"), RuntimeError("x"), EOFError()])
def test_a_body_that_breaks_is_refused(error: Exception) -> None:
    """Whatever the server raises for a broken body is a 400 that does not quote it."""
    inner = Inner()
    source = Broken(GOOD)
    source.error = error
    status, _, body = call(MistralFilter(inner), CHAT, GOOD, **{"wsgi.input": source})
    assert (status[:3], json.loads(body)["error"]["code"]) == ("400", "body_cut_short")
    assert inner.environs == []


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "GZIP", "gzip, identity", "x"])
def test_a_compressed_body_is_refused(encoding: str) -> None:
    """What cannot be looked into does not pass: 415, after the body was read away."""
    inner = Inner()
    source = io.BytesIO(GOOD)
    status, _, body = call(filtered(inner), CHAT, GOOD, **{"wsgi.input": source, "HTTP_CONTENT_ENCODING": encoding})
    assert (status[:3], json.loads(body)["error"]["code"]) == ("415", "unsupported_content_encoding")
    assert source.read() == b""
    assert inner.environs == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/./chat/completions",
        "/v1/x/../chat/completions",
        "/v1/chat/completions;x",
        "/v1/chat\\completions",
        "/v1/chat/completions?x",
        "/v1/chat/completions#x",
        "/v1/%63hat/completions",
        "/v1/Chat/Completions",
        "/V1/chat/completions",
        "/v1/chat/completions\x00",
        "/v1/V1/chat/completions",
    ],
)
def test_a_disguised_path_is_refused(path: str) -> None:
    """A path that the application or an upstream could read as an endpoint's is a 404, and says how to write it."""
    inner = Inner()
    status, _, body = call(MistralFilter(inner), path, BAD)
    assert status[:3] == "404"
    assert CHAT in json.loads(body)["error"]["message"]
    assert inner.environs == []


def test_a_disguised_path_is_drained_before_it_is_refused() -> None:
    """A client that still writes its body sees the 404, not a broken pipe: the body is read away first."""
    source = io.BytesIO(padded(300_000))
    status, _, _ = call(MistralFilter(Inner()), "/v1/./chat/completions", padded(300_000), **{"wsgi.input": source})
    assert status[:3] == "404"
    assert source.read() == b""


def test_a_refusal_holds_nothing_of_the_body(mounted: Mount) -> None:
    """No error quotes what the caller wrote as a value."""
    m = mounted()
    for data in (
        b'{"model":"S3cret',
        b'["S3cret"]',
        b'{"messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"S3cret"}}]}]}',
    ):
        response = m.post(data=data)
        assert response.status_code == 400
        assert b"S3cret" not in response.data


# -------------------------------------------------------------------------------------------------------------- strict mode


def test_strict_by_header(mounted: Mount) -> None:
    """The request header alone turns strict mode on, in any case of its word; other words do not."""
    m = mounted()
    lossy = b'{"model":"m","logit_bias":{"1":1}}'
    for word in ("on", "On", "ON"):
        response = m.post(data=lossy, headers={"Mistral-Filter-Strict": word})
        assert response.status_code == 400
        error = error_of(response)
        assert (error["code"], error["param"]) == ("strict", "logit_bias")
    assert m.inner.environs == []
    for word in ("off", "", "true", "1"):
        assert m.post(data=lossy, headers={"Mistral-Filter-Strict": word}).status_code == 200
    assert m.post(data=BAD, headers={"Mistral-Filter-Strict": "on"}).status_code == 200


def test_strict_by_option_cannot_be_turned_off(mounted: Mount) -> None:
    """Where the operator wants strict mode, a request cannot leave it."""
    m = mounted(strict=True)
    assert m.post(data=b'{"logit_bias":{"1":1}}', headers={"Mistral-Filter-Strict": "off"}).status_code == 400


# ------------------------------------------------------------------------------------------------------- the way back


def test_write_and_generators_work() -> None:
    """The callable that start_response returns still writes, and a generator is closed when the client leaves."""
    closed = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"written ")
        try:
            yield b"one "
            yield b"two"
        finally:
            closed.append(True)

    def outer(environ: Any, start_response: Any) -> Iterable[bytes]:
        return MistralFilter(app)(environ, start_response)

    response = Client(outer).post(CHAT, data=BAD, buffered=False)
    assert HEADER in response.headers
    pieces = response.iter_encoded()
    assert next(iter(pieces)) == b"written "
    response.close()
    assert closed == [True]


def test_a_stream_is_not_held_back() -> None:
    """Nothing is read ahead of the client: each piece is made when it is asked for."""
    made = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        for n in range(3):
            made.append(n)
            yield b"data: %d\n\n" % n

    result = MistralFilter(app)(EnvironBuilder(CHAT, method="POST", data=BAD).get_environ(), lambda *args: lambda data: None)
    pieces = iter(result)
    assert (next(pieces), made) == (b"data: 0\n\n", [0])
    assert (next(pieces), made) == (b"data: 1\n\n", [0, 1])


def test_exc_info_is_passed_on() -> None:
    """An application that starts again after an error does so through the filter, and the header is on the second head too."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            raise RuntimeError("late")
        except RuntimeError:
            import sys

            start_response("500 Internal Server Error", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]

    seen: list[Any] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        seen.append((status, dict(headers).get(HEADER), exc_info and exc_info[0]))
        return lambda data: None

    result = MistralFilter(app)(EnvironBuilder(CHAT, method="POST", data=BAD).get_environ(), start_response)
    assert b"".join(result) == b"sorry"
    header = 'drop;path="user";loss=none'
    assert seen == [("200 OK", header, None), ("500 Internal Server Error", header, RuntimeError)]


def test_the_applications_own_list_of_headers_is_not_touched() -> None:
    """An application that reuses one list of headers does not collect ours in it."""
    headers = [("Content-Type", "text/plain")]

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", headers)
        return [b"ok"]

    for _ in range(2):
        assert post(MistralFilter(app), BAD).headers.getlist(HEADER) == ['drop;path="user";loss=none']
    assert headers == [("Content-Type", "text/plain")]


def test_what_the_application_changes_is_reported_too() -> None:
    """Changes that an inner application adds to the environ are in the header with the rest."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ["mistral_filter.changes"] += (Change("drop", "n", "refused", "lost"),)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    header = post(filtered(app), BAD).headers[HEADER]
    assert header == 'drop;path="user";loss=none, drop;path="n";loss=lost'
    header = post(filtered(app), GOOD).headers[HEADER]
    assert header == 'drop;path="n";loss=lost'


def test_an_application_that_clears_its_environ_is_no_crash() -> None:
    """An environ without the changes, which is the application's right, still gets its answer."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ.pop("mistral_filter.changes")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    assert post(MistralFilter(app), BAD).data == b"ok"


def test_two_filters_report_everything() -> None:
    """A filter inside a filter (a proxy mounted into an application that has one) does not hide the outer one's changes."""
    inner = Inner()
    response = post(MistralFilter(MistralFilter(inner)), BAD)
    assert inner.bodies == [GOOD]
    assert response.headers.getlist(HEADER) == ['drop;path="user";loss=none']


def test_an_odd_name_makes_no_odd_header(mounted: Mount) -> None:
    """A key with line breaks and control characters cannot end the header or start another."""
    response = mounted().post(data=json.dumps({"model": "m", 'x\r\nSet-Cookie: a=b\x00"': 1, "é": 2}).encode())
    assert response.status_code == 200
    assert "Set-Cookie" not in response.headers
    assert response.headers[HEADER].isprintable()
    assert response.headers[HEADER].isascii()


# ------------------------------------------------------------------------------------------------------------- fail closed


@pytest.mark.parametrize("error", [RuntimeError, RecursionError, MemoryError, OSError, KeyError])
def test_a_defect_inside_never_lets_the_body_through(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """Whatever is raised while filtering is a 500 in the one shape that does not quote it; the application is not called."""

    def broken(*args: Any, **options: Any) -> Any:
        raise error("S3cret")

    inner = Inner()
    app = MistralFilter(inner)
    monkeypatch.setattr(app, "_filter", broken)
    response = post(validator(app), BAD)  # type: ignore[arg-type]
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"
    assert b"S3cret" not in response.data
    assert inner.environs == []


def test_refuse_can_be_replaced() -> None:
    """A subclass answers refusals in its own way, and sees which error it is."""

    class Own(MistralFilter):
        def refuse(self, error: Any, environ: Any, start_response: Any) -> Iterable[bytes]:
            start_response(f"{error.status} Own", [("Content-Type", "text/plain")])
            return [error.code.encode()]

    assert post(Own(Inner()), b"{").data == b"invalid_json"


# -------------------------------------------------------------------------------------------------- errors as applications


def test_an_error_answers_head_without_a_body() -> None:
    """An error that answers a HEAD request keeps its headers and sends no body."""
    from mistral_filter.errors import MethodNotAllowed, NotFound

    with Client(validator(NotFound("Nothing here."))).head("/") as response:  # type: ignore[arg-type]
        assert (response.status_code, response.data) == (404, b"")
        assert response.content_length == len(NotFound("Nothing here.").body())
    with Client(validator(MethodNotAllowed("No.", "POST"))).get("/") as response:  # type: ignore[arg-type]
        assert (response.status_code, response.headers["Allow"]) == (405, "POST")
