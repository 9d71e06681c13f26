"""What one worker holds at a time, all callers together: calls under way, and bytes of bodies, of requests and of answers."""

from __future__ import annotations

from mistral_filter.errors import Overloaded
from mistral_filter.proxy.sockets import brief_lock

__all__ = ["SMALL_BODY", "Budget", "Held"]

SMALL_BODY = 1024 * 1024
"""Bytes. Bodies up to this size have a reserve of their own, so that large ones cannot starve chat."""


class Budget:
    """The bounds of one worker.

    *calls* is the number of calls under way, None for no bound. *body_bytes* is what the bodies in hand may hold together, at
    least *max_body*, the largest body allowed. A quarter of it is the reserve for small bodies.
    """

    def __init__(self, *, calls: int | None = None, body_bytes: int = 64 * 1024 * 1024, max_body: int = 32 * 1024 * 1024) -> None:
        self._calls = 0
        self._max_calls = calls
        self._small = self._large = 0
        self._max_small = max(body_bytes // 4, SMALL_BODY)
        # the byte more is the one by which a body of unknown length is found too large
        self._max_large = max(body_bytes - self._max_small, max_body + 1)
        self._lock = brief_lock()

    def take_call(self) -> None:
        """Counts a call; raises Overloaded when too many are under way."""
        with self._lock:
            if self._max_calls is not None and self._calls >= self._max_calls:
                raise Overloaded("Too many calls are under way. Try again in a moment.")
            self._calls += 1

    def return_call(self) -> None:
        """Gives back what ``take_call`` took."""
        with self._lock:
            self._calls -= 1


class Held:
    """The bytes of one call's bodies that are in memory, counted as they come: the request's, then the answer's."""

    __slots__ = ("_budget", "_large", "_small")

    def __init__(self, budget: Budget) -> None:
        self._budget, self._small, self._large = budget, 0, 0

    @property
    def any(self) -> bool:
        """Whether anything is held."""
        return self._small + self._large > 0

    @property
    def large(self) -> bool:
        """Whether the body is over SMALL_BODY."""
        return self._small + self._large > SMALL_BODY

    def add(self, count: int) -> None:
        """Counts *count* more bytes; raises Overloaded (``body_budget``) when the worker holds too many already."""
        if not self.takes(count):
            raise Overloaded(code="body_budget")

    def takes(self, count: int) -> bool:
        """Counts *count* more bytes if there is room for them; whether there was."""
        budget = self._budget
        with budget._lock:
            if self._small + self._large + count <= SMALL_BODY and budget._small + count <= budget._max_small:
                self._small += count
                budget._small += count
                return True
            wanted = count + self._small  # a body that turns out to be large leaves the reserve
            if budget._large + wanted <= budget._max_large:
                budget._small -= self._small
                budget._large += wanted
                self._small, self._large = 0, self._large + wanted
                return True
        return False

    def give_back(self, count: int) -> None:
        """Gives *count* of the bytes back."""
        budget = self._budget
        with budget._lock:
            if self._large:
                budget._large -= count
                self._large -= count
            else:
                budget._small -= count
                self._small -= count

    def release(self) -> None:
        """Gives all of it back."""
        budget = self._budget
        with budget._lock:
            budget._small -= self._small
            budget._large -= self._large
            self._small = self._large = 0
