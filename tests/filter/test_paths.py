"""Which paths are an endpoint's. The judge is a normaliser of its own, more obliging than any server."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote

import pytest
from examples import examples
from hypothesis import example, given
from hypothesis import strategies as st

from mistral_filter.paths import PATHS, Target, locate

QUICK = examples(200)

BELOW_V1 = {
    "chat": "chat/completions",
    "agents": "agents/completions",
    "fim": "fim/completions",
    "embeddings": "embeddings",
    "moderations": "moderations",
    "classifications": "classifications",
    "chat/moderations": "chat/moderations",
    "chat/classifications": "chat/classifications",
    "ocr": "ocr",
    "responses": "responses",
    "responses/input_tokens": "responses/input_tokens",
}
"""Mistral's paths, by hand (OpenAPI document of 2026-08-21; the Responses API: mistralai 3.7.0)."""

HARMLESS = ["/v1/{}", "/{}", "/v1/v1/{}", "//v1/{}", "/v1/{}/", "/{}/", "/v1//{}", "/v1/{0}/{0}", "/{0}/{0}", "/v1/{0}/{0}/"]


def test_every_endpoint_has_mistrals_path() -> None:
    """The table of paths is Mistral's."""
    assert PATHS == BELOW_V1


@pytest.mark.parametrize("spelling", HARMLESS)
@pytest.mark.parametrize("endpoint", BELOW_V1)
def test_a_harmless_spelling_is_the_endpoint(endpoint: str, spelling: str) -> None:
    """Every base URL that clients are given leads to the endpoint, under its one canonical path."""
    path = BELOW_V1[endpoint]
    assert locate(spelling.format(path)) == Target("", f"/v1/{path}", endpoint)


@pytest.mark.parametrize("spelling", HARMLESS)
def test_a_harmless_spelling_is_found_under_a_prefix(spelling: str) -> None:
    """The same below a named place, and only there when the root is not named."""
    path = spelling.format("chat/completions")
    assert locate(f"/ai{path}", ("/ai",)) == Target("/ai", "/v1/chat/completions", "chat")
    assert locate(f"/ai{path}", ("", "/ai")) == Target("/ai", "/v1/chat/completions", "chat")
    assert locate(path, ("/ai",)) is None
    assert locate(path, ()) is None


def test_a_prefix_may_have_several_segments() -> None:
    """A prefix matches whole segments only."""
    assert locate("/a/b/v1/ocr", ("/a/b",)) == Target("/a/b", "/v1/ocr", "ocr")
    assert locate("/a/bc/v1/ocr", ("/a/b",)) is None
    assert locate("/a/v1/ocr", ("/a/b",)) is None


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/v1/models", "/v1/models"),
        ("/models", "/v1/models"),
        ("/v1/v1/models", "/v1/models"),
        ("//v1/models/", "/v1/models"),
        ("/v1/models/mistral-small-latest", "/v1/models/mistral-small-latest"),
        ("/v1/models/ft:open-mistral-7b:abc:20240101:xyz", "/v1/models/ft:open-mistral-7b:abc:20240101:xyz"),
        ("/v1/files/3b6d45eb-e30b-416f-8019-f47e2e93d930/content", "/v1/files/3b6d45eb-e30b-416f-8019-f47e2e93d930/content"),
        ("/v1/audio/transcriptions", "/v1/audio/transcriptions"),
        ("/v1/responses/resp_0a1", "/v1/responses/resp_0a1"),
        ("/v1/responses/resp_0a1/cancel", "/v1/responses/resp_0a1/cancel"),
        ("/responses/compact", "/v1/responses/compact"),
        ("/v1/batch/jobs", "/v1/batch/jobs"),
        ("/v1/something/new", "/v1/something/new"),
        ("/v1", "/v1"),
        ("/v1/", "/v1"),
    ],
)
def test_what_is_not_judged_is_forwarded_as_it_is(path: str, canonical: str) -> None:
    """The rest of Mistral's API keeps its own path and has no list."""
    assert locate(path) == Target("", canonical, None)


@pytest.mark.parametrize(
    "path", ["", "/", "/health", "/login", "/chat", "/completion", "/v2/chat/completions", "/api/v1/chat/completions", "*"]
)
def test_what_is_not_ours_is_nothing(path: str) -> None:
    """A host application's own paths are not looked at."""
    assert locate(path) is None


DISGUISED = [
    "/v1/./chat/completions",
    "/v1/x/../chat/completions",
    "/v1/chat/x/../completions",
    "/./v1/chat/completions",
    "/../v1/chat/completions",
    "/v1/chat/completions/.",
    "/v1/chat/completions/x/..",
    "/v1/%2e/chat/completions",
    "/v1/x/%2e%2e/chat/completions",
    "/v1/x/%252e%252e/chat/completions",
    "/v1/%63hat/completions",
    "/v1/%2563hat/completions",
    "/v1/%252563hat/completions",
    "/v1%2fchat%2fcompletions",
    "/v1/chat%2Fcompletions",
    "/v1/chat%5ccompletions",
    "/v1/chat\\completions",
    "\\v1\\chat\\completions",
    "/v1/chat/completions?",
    "/v1/chat/completions?x=1",
    "/v1/chat/completions%3Fx=1",
    "/v1/chat/completions#x",
    "/v1/chat/completions%23x",
    "/v1/chat/completions;x",
    "/v1;x/chat/completions",
    "/v1/chat;x=1/completions",
    "/v1/chat/completions;",
    "/v1/Chat/Completions",
    "/V1/chat/completions",
    "/V1/CHAT/COMPLETIONS",
    "/v1/chat/completions ",
    "/v1/chat/completions%20",
    "/v1/chat/completions\t",
    "/v1/chat/completions\x00",
    "/v1/chat/completions%00",
    "/v1/ch\nat/completions",
    "/v1/chat/completions\r\n",
    " /v1/chat/completions",
    "v1/chat/completions/..//completions",
    "/v1/models/../chat/completions",
    "/v1/V1/chat/completions",
    "/v1/chat/completions/Chat/Completions",
    "/V1/v1/chat/completions",
    "/EMBEDDINGS",
    "/v1/Embeddings/",
    "/v1/./embeddings",
    "/OCR/ocr",
]


@pytest.mark.parametrize("path", DISGUISED)
def test_a_disguised_endpoint_is_refused(path: str) -> None:
    """A path that some server or library reads as an endpoint's, but that no honest client writes, is not served."""
    target = locate(path)
    assert target is None or target.endpoint is not None, "it would be forwarded unfiltered"
    if path.startswith(("/", "\\", " ")):
        assert target is not None
        assert target.refused


UNDER_A_PREFIX = [path for path in DISGUISED if path.startswith("/") and not path.startswith("/../")]


@pytest.mark.parametrize(
    ("prefix", "path"), [("/ai", path) for path in UNDER_A_PREFIX] + [("/Api", path) for path in UNDER_A_PREFIX[::12]]
)
def test_a_disguised_endpoint_under_a_prefix_is_refused(prefix: str, path: str) -> None:
    """The same below a mount prefix, also one with capitals."""
    target = locate(prefix + path, (prefix,))
    assert target is not None
    assert target.refused


@pytest.mark.parametrize(
    "path",
    ["/ai/../v1/chat/completions", "/AI/v1/./chat/completions", "/ai%2fv1/chat/completions", "/x/../ai/v1/chat/completions"],
)
def test_a_disguised_prefix_is_refused(path: str) -> None:
    """Neither does a prefix hide an endpoint when it is disguised itself."""
    target = locate(path, ("", "/ai"))
    assert target is not None
    assert target.refused


@pytest.mark.parametrize(
    "path",
    [
        "/@evil.example/v1/models",
        "/v1/models@evil.example",
        "//evil.example/v1/models",
        "/v1/mod els",
        "/v1/é",
        "/v1/a%2e",
        "/v1/a?b",
        "/v1/../models",
        "/v1/.",
        "/v1/..",
        "/v1/a\\b",
    ],
)
def test_only_plain_paths_are_put_behind_a_host(path: str) -> None:
    """What is forwarded is safe behind a host name: plain segments below /v1, no dots alone, nothing to decode."""
    target = locate(path)
    assert target is None or re.fullmatch(r"/v1(/[A-Za-z0-9._~:-]+)+", target.path)
    assert target is None or not re.search(r"/\.+(/|$)", target.path)


# -------------------------------------------------------------------------------------------------------------- any spelling

_PIECES = st.sampled_from(
    [
        "v1",
        "V1",
        "chat",
        "completions",
        "Chat",
        "embeddings",
        "ocr",
        "models",
        "fim",
        "..",
        ".",
        "",
        "%2e",
        "%2E%2e",
        "%2f",
        "%5c",
        "%252f",
        "\\",
        ";a",
        "?b",
        "#c",
        "%3f",
        "%23",
        " ",
        "%00",
        "\x00",
        "\t",
        "x",
        "%63hat",
        "%2563hat",
        "v%31",
        "@h",
        "completions;",
        "é",
        "ocr%20",
    ]
)
PATHS_OF_ANY_KIND = st.one_of(
    st.lists(_PIECES, max_size=8).map(lambda pieces: "/" + "/".join(pieces)),
    st.lists(_PIECES | st.sampled_from("/"), max_size=10).map(lambda pieces: "/v1/" + "".join(pieces)),
    st.tuples(
        st.sampled_from(["/v1/chat/completions", "/v1/ocr", "/chat/completions", "/v1/v1/embeddings"]),
        st.integers(0, 22),
        st.one_of(_PIECES, st.characters()),
    ).map(lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]),
    st.text(max_size=12).map(lambda text: "/" + text),
)

_ENDPOINT = "|".join(map(re.escape, sorted(BELOW_V1.values(), key=len, reverse=True)))
_HARMLESS = re.compile(rf"/+(?:v1/+)*(?P<a>{_ENDPOINT.replace('/', '/+')})(?:/+(?P<b>{_ENDPOINT.replace('/', '/+')}))?/*")


def is_harmless(path: str) -> str | None:
    """By a regular expression of its own: the endpoint of a harmless spelling."""
    match = _HARMLESS.fullmatch(path)
    if match is None:
        return None
    a, b = (part and re.sub("/+", "/", part) for part in (match["a"], match["b"]))
    return a if b in (None, a) else None


def most_obliging(path: str) -> str:
    """*path* as the most obliging chain of servers reads it: decoded, resolved, without case, parameters and white space."""
    for _ in range(4):
        path = unquote(path, "latin-1")
    path = re.split("[?#]", path.replace("\\", "/"))[0].lower()
    path = re.sub(r"[\x00-\x20\x7f]", "", re.sub(r";[^/]*", "", path))
    path = re.sub("/+", "/", posixpath.normpath("/" + path))
    return re.sub("^(/v1)+(?=/)", "", path).strip("/")


@QUICK
@given(PATHS_OF_ANY_KIND)
@example("/v1/chat/completions/embeddings")
@example("/v1/v1/v1/ocr//ocr/")
def test_what_is_accepted_is_a_harmless_spelling(path: str) -> None:
    """Whatever is served as an endpoint is one of the harmless spellings, and every harmless spelling is served."""
    target = locate(path)
    served = target is not None and target.endpoint is not None and not target.refused
    assert served == (is_harmless(path) is not None)
    if served and target is not None:
        assert target.path == f"/v1/{is_harmless(path)}"


@QUICK
@given(PATHS_OF_ANY_KIND)
@example("/v1/V1/chat/completions")
@example("/v1/x/%2e%2e/%2563hat/completions;a?b")
def test_what_others_read_as_an_endpoint_is_filtered_or_refused(path: str) -> None:
    """A path that the most obliging reader takes for an endpoint's is either filtered or not served at all."""
    read = most_obliging(path)
    if read in BELOW_V1.values():
        target = locate(path)
        assert target is not None
        assert target.endpoint is not None


@QUICK
@given(PATHS_OF_ANY_KIND, st.sampled_from([("",), ("/ai",), ("", "/ai")]))
def test_what_is_forwarded_stays_as_it_is(path: str, prefixes: tuple[str, ...]) -> None:
    """The canonical path means itself, and no reader sees another path in it."""
    target = locate(path, prefixes)
    if target is not None and not target.refused:
        again = locate(target.prefix + target.path, prefixes)
        assert again == target
        assert posixpath.normpath(target.path) == target.path
        assert unquote(target.path) == target.path
