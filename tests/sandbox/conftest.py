"""Fixtures: the stand-in in a thread, and the two official SDKs in front of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mistral_filter.sandbox import make_server


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = make_server(delay=0)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def openai(port: int) -> Iterator[Any]:
    module = pytest.importorskip("openai")
    with module.OpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def mistral(port: int) -> Iterator[Any]:
    module = pytest.importorskip("mistralai.client")
    with module.Mistral(api_key="none", server_url=f"http://127.0.0.1:{port}") as client:
        yield client
