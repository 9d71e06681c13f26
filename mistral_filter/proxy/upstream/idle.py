"""The idle wires of one upstream: each serves its own caller again, or is closed soon.

Strategy: a wire rests a moment before it serves again, so that bytes behind a complete answer are seen; after a burst all wires
but one are closed within a second, so that nothing is left of it.
"""

from __future__ import annotations

import time

from mistral_filter.proxy import sockets
from mistral_filter.proxy.upstream.sessions import Sessions
from mistral_filter.proxy.upstream.wire import Wire

__all__ = ["Idle"]

_REST_SECONDS = 0.03
_KEPT, _KEPT_SECONDS = 1, 20.0
_IDLE_SECONDS = 0.75
_MOST_IDLE = 500


class Idle:
    """Wires by caller. *sessions* are told of each that has brought its first answer; None where there is no TLS."""

    def __init__(self, sessions: Sessions | None) -> None:
        self._sessions = sessions
        self._wires: dict[str, list[Wire]] = {}
        """By caller, the one that has rested longest first."""
        self._count = 0
        self._lock = sockets.brief_lock()

    def take(self, caller: str | None) -> Wire | None:
        """A wire of *caller* that has rested and is open; None if there is none."""
        while caller is not None:
            with self._lock:
                wires = self._wires.get(caller)
                if not wires or wires[0].idle_since > time.monotonic() - _REST_SECONDS:
                    return None
                wire = wires.pop(0)
                self._count -= 1
                if not wires:
                    del self._wires[caller]
            if wire.is_quiet():
                wire.used = True
                return wire
            wire.close()
        return None

    def put(self, wire: Wire, good: bool) -> None:
        """The wire has served its call; *good*: it can serve another."""
        wire.end()
        if not good or wire.caller is None:
            wire.close()
            return
        if self._sessions is not None and not wire.used:
            self._sessions.keep(wire.caller, wire.sock)
        wire.idle_since = time.monotonic()
        with self._lock:
            oldest = self._pop_oldest() if self._count >= _MOST_IDLE else None
            self._wires.setdefault(wire.caller, []).append(wire)
            self._count += 1
        if oldest is not None:
            oldest.close()
        sockets.every_interval(self._reap)

    def _pop_oldest(self) -> Wire:
        caller, wires = next(iter(self._wires.items()))
        wire = wires.pop(0)
        self._count -= 1
        if not wires:
            del self._wires[caller]
        return wire

    def _reap(self, now: float) -> bool:
        """Closes what has been idle for long, or was closed by the other side; whether anything is left to look after."""
        closing: list[Wire] = []
        with self._lock:
            for caller, wires in list(self._wires.items()):
                kept: list[Wire] = []
                for wire in wires:
                    spare = self._count - len(closing) > _KEPT
                    late = now - wire.idle_since > (_IDLE_SECONDS if spare else _KEPT_SECONDS)
                    (closing if late or not wire.is_quiet() else kept).append(wire)
                if kept:
                    self._wires[caller] = kept
                else:
                    del self._wires[caller]
            self._count -= len(closing)
        for wire in closing:
            wire.close()
        return self._count > 0

    def close_all(self) -> bool:
        """Closes all of them; whether there were any."""
        with self._lock:
            closing = [wire for wires in self._wires.values() for wire in wires]
            self._wires, self._count = {}, 0
        for wire in closing:
            wire.close()
        return bool(closing)
