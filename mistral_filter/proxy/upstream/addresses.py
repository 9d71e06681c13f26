"""Where a host is: names are looked up within the caller's time, at most once at a time, and remembered for seconds."""

from __future__ import annotations

import math
import socket
import threading
import time
from typing import Any

__all__ = ["Addresses", "NoAddress"]

_FRESH_SECONDS = 10.0
_OLD_SECONDS = 600.0
"""Addresses of this age are still used when the resolver is silent or fails."""
_BAD_SECONDS = 300.0
"""For so long an address that did not answer is tried last."""
_PATIENCE_SECONDS = 1.0
"""How long a caller waits for a resolver when there are old addresses to fall back on."""

Address = tuple[Any, Any, Any, Any, Any]
"""An item of ``socket.getaddrinfo``."""


class NoAddress(Exception):
    """The name cannot be resolved. *final*: it does not exist, so a second try cannot help."""

    def __init__(self, *, final: bool) -> None:
        super().__init__()
        self.final = final


class _Lookup:
    """One question to the resolver, and its answer for all who wait for it."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.found = False
        """Its addresses are those in use."""
        self.final = False


class Addresses:
    """The addresses of one host and port. A resolver that is silent takes no caller more than the time it has."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._lock = threading.Lock()
        self._lookup: _Lookup | None = None
        self._known: list[Address] = []
        self._known_since = 0.0
        self._bad: dict[Address, float] = {}
        """When an address last did not answer."""

    def get(self, seconds: float) -> list[Address]:
        """The addresses, the one to be tried first at the front.

        Waits at most *seconds*; raises TimeoutError then, and NoAddress where there is none.
        """
        known = self._known
        if known and time.monotonic() - self._known_since < _FRESH_SECONDS:
            return known
        with self._lock:
            lookup = self._lookup
            if lookup is None:
                lookup = _Lookup()
                threading.Thread(target=self._ask, args=(lookup,), name="mistral-filter-resolver", daemon=True).start()
                self._lookup = lookup
        usable = bool(self._known) and time.monotonic() - self._known_since < _OLD_SECONDS
        answered = lookup.done.wait(min(seconds, _PATIENCE_SECONDS) if usable else seconds)
        if usable or lookup.found:
            return self._known
        if not answered:
            raise TimeoutError
        raise NoAddress(final=lookup.final)

    def _ask(self, lookup: _Lookup) -> None:
        """Asks the resolver, in a thread of its own: the call cannot be given up."""
        addresses: list[Address] = []
        try:
            addresses = list(socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))
        except socket.gaierror as error:
            lookup.final = error.errno == socket.EAI_NONAME
        except (OSError, UnicodeError):
            pass
        finally:
            with self._lock:
                self._lookup = None
                if addresses:
                    now = time.monotonic()
                    self._bad = {address: since for address, since in self._bad.items() if address in addresses}
                    lately = [now - self._bad.get(address, -math.inf) < _BAD_SECONDS for address in addresses]
                    order = sorted(range(len(lately)), key=lately.__getitem__)
                    self._known, self._known_since = [addresses[place] for place in order], now
                    lookup.found = True
            lookup.done.set()

    def forget(self) -> None:
        """None of the addresses answers: the next caller asks the resolver, and tries them again if that is silent or fails."""
        self._known_since = min(self._known_since, time.monotonic() - _FRESH_SECONDS)

    def failed(self, address: Address) -> None:
        """*address* did not answer: it is tried last from now on."""
        with self._lock:
            known = self._known
            if len(known) > 1 and address in known:
                self._bad[address] = time.monotonic()
                self._known = [*(other for other in known if other != address), address]
