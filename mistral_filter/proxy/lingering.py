"""The rest of an upload that was answered early: closing at once could cost the client the response (RFC 9112, 9.6)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from typing import Any

from mistral_filter.proxy import sockets

__all__ = ["linger"]

_BYTES = 64 * 1024 * 1024
_SECONDS = 10.0
_SILENCE_SECONDS = 1.0
_LOOK_SECONDS = 0.05
_PIECE = 65536


def linger(client: Any, *, shut: bool) -> None:
    """Reads away what a client still sends after its response, within bounds; *shut*: its socket was shut down for reading."""
    sockets.shut_down(client, socket.SHUT_WR)
    left, now = _BYTES, time.monotonic()
    end, silent = now + _SECONDS, now + _SILENCE_SECONDS
    with contextlib.suppress(OSError, ValueError):
        # a socket that was shut down for reading never waits, and does not tell an end from a silence
        client.settimeout(0 if shut else _SILENCE_SECONDS)
        while left > 0 and now < end and now < silent:
            try:
                piece = client.recv(_PIECE)
            except (BlockingIOError, ssl.SSLWantReadError):
                piece = b""
            now = time.monotonic()
            if piece:
                left, silent = left - len(piece), now + _SILENCE_SECONDS
                sockets.let_others_run()
            elif shut:
                time.sleep(_LOOK_SECONDS)
            else:
                return
