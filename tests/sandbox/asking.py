"""Requests to the stand-in over its own socket, and the bodies that they mostly have."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from typing import Any

Json = dict[str, Any]

KEY = {"Authorization": "Bearer none"}
USER = {"role": "user", "content": "Hi"}


def ask(port: int, method: str, path: str, body: Any = None, headers: Any = KEY) -> tuple[int, http.client.HTTPMessage, bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, json.dumps(body) if isinstance(body, (dict, list)) else body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def post(port: int, body: Any, path: str = "/v1/chat/completions") -> tuple[int, Json]:
    status, _, raw = ask(port, "POST", path, body)
    return status, json.loads(raw)


def raw_exchange(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def chat(*messages: Json, **fields: Any) -> Json:
    return {"model": "mistral-small-latest", "messages": list(messages or [USER]), **fields}


def says(content: Any = "ok", **fields: Any) -> Json:
    return {"role": "assistant", "content": content, **fields}
