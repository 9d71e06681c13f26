"""TLS sessions: a caller that comes back does not pay for a whole handshake again (RFC 8446, 2.2; RFC 5246, 7.3).

Resuming leaves out the certificates, about half of what a handshake costs here. So a session is used for minutes only, after
which the upstream has to show its certificate again, and it is its caller's alone, like a connection.
"""

from __future__ import annotations

import ssl
import time
from typing import NamedTuple

from mistral_filter.proxy.sockets import brief_lock

__all__ = ["Sessions"]

_SECONDS = 600.0
_MOST = 500
"""Callers. Those that came longest ago are forgotten first."""


class _Known(NamedTuple):
    since: float
    session: ssl.SSLSession | None
    """None of a caller that was here once: to take a session costs as much as it saves the next time."""


class Sessions:
    """The sessions of one upstream, by caller. Callers without credentials have none."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._lock = brief_lock()

    def get(self, caller: str | None) -> ssl.SSLSession | None:
        """What a new connection of *caller* may resume."""
        known = None if caller is None else self._known.get(caller)
        return None if known is None or time.monotonic() - known.since > _SECONDS else known.session

    def keep(self, caller: str, sock: ssl.SSLSocket) -> None:
        """A new connection of *caller* has brought its first answer, and with it what can be resumed."""
        if self.get(caller) is not None:  # also where it was not accepted: another one need not fare better
            return
        session = sock.session if caller in self._known else None
        with self._lock:
            self._known.pop(caller, None)
            if len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            self._known[caller] = _Known(time.monotonic(), session)

    def forget(self, caller: str | None) -> None:
        """A handshake of *caller* failed: the next one is a whole one."""
        with self._lock:
            self._known.pop(caller or "", None)
