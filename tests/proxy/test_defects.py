"""H8: whatever is raised behind the view, at whatever moment, nobody gets an empty reply or a clean end of a cut answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
from werkzeug.test import Client

from app import create_app
from mistral_filter.proxy.settings import Settings
from mistral_filter.proxy.upstream import Reply, Upstream
from mistral_filter.proxy.upstream.head import Broken, Malformed

BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
RAISED = [
    requests.ConnectionError("https://host/?key=canary"),
    requests.exceptions.ChunkedEncodingError("canary"),
    Broken(),
    Malformed("canary"),
    OSError("canary"),
    TimeoutError("canary"),
    RuntimeError("canary"),
    RecursionError("canary"),
    MemoryError("canary"),
]


def name(error: BaseException) -> str:
    return type(error).__name__


@pytest.mark.parametrize("error", RAISED, ids=name)
def test_before_the_head_it_is_json(error: Exception, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Raised while the request is sent: a 5xx in the one shape, with CORS, and nothing of the exception's text anywhere."""

    def send(*_: object, **__: object) -> Reply:
        raise error

    monkeypatch.setattr(Upstream, "send", send)
    answer = Client(create_app(Settings())).post("/v1/chat/completions", json=BODY, headers={"Origin": "https://a.example"})
    assert 500 <= answer.status_code < 600
    assert answer.json is not None
    assert answer.json["error"].keys() == {"message", "type", "param", "code"}
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    answer.close()
    assert "canary" not in answer.text + "".join(capfd.readouterr())


class Breaks:
    """A body that breaks after its first piece."""

    def __init__(self, first: list[bytes], error: Exception) -> None:
        self._next = iter(first)
        self._error = error
        self.closed = False

    def read(self, seconds: float | None = None) -> bytes:
        for piece in self._next:
            return piece
        raise self._error

    def close(self) -> None:
        self.closed = True


def pieces(answer: Iterator[bytes]) -> tuple[bytes, BaseException | None]:
    got = b""
    try:
        for piece in answer:
            got += piece
    except Exception as error:
        return got, error
    return got, None


@pytest.mark.parametrize("first", [[], [b'data: {"n": 1}\n\n'], [b'data: {"n"']], ids=["at once", "at a boundary", "in an event"])
@pytest.mark.parametrize("error", RAISED, ids=name)
def test_within_a_stream_it_is_seen(error: Exception, first: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised while the stream is read: the server is told to break off, and the upstream is let go."""
    body = Breaks(first, error)
    reply = Reply(200, "OK", [("Content-Type", "text/event-stream")], None, body)  # type: ignore[arg-type]
    monkeypatch.setattr(Upstream, "send", lambda *_, **__: reply)
    answer = Client(create_app(Settings())).post("/v1/chat/completions", json=BODY, buffered=False)
    got, raised = pieces(iter(answer.response))
    assert raised is not None
    assert b"canary" not in got
    answer.close()
    assert body.closed
