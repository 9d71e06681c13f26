"""Addresses on threads, with a scripted resolver: what happens at the very moment at which its answer comes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mistral_filter.proxy.upstream.addresses import Address, Addresses

FIRST, SECOND, THIRD = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{last}", 443)) for last in (1, 2, 3)]


class Scripted(tuple[Any, ...]):
    """An address that stops the look-up, at :meth:`stop`, where it is put in order: once the answer is known, and not in use."""

    def stop(self) -> None:
        """Called in the look-up's thread."""

    def __hash__(self) -> int:
        self.stop()
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        self.stop()
        return super().__eq__(other)


def resolve(monkeypatch: pytest.MonkeyPatch, stop: Callable[[], object], *addresses: Address) -> None:
    """Has the resolver answer with *addresses*, at which the look-up calls *stop*."""

    class Stopping(Scripted):
        __hash__ = Scripted.__hash__

        def stop(self) -> None:
            stop()

    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: [Stopping(address) for address in addresses])


def test_a_time_that_ends_while_the_answer_comes_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver has answered, and the addresses are not in use yet: 504 and not an empty list, which would be a 502."""
    reached, go_on = threading.Event(), threading.Event()

    def stop() -> None:
        reached.set()
        assert go_on.wait(30)

    resolve(monkeypatch, stop, FIRST)
    addresses = Addresses("host.example", 443)
    try:
        with pytest.raises(TimeoutError):
            addresses.get(0.3)
        assert reached.wait(30), "the look-up was not where it has its answer"
    finally:
        go_on.set()
    assert [*map(tuple, addresses.get(30))] == [FIRST]


def test_an_address_may_fail_while_the_answer_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that says so from another thread neither stops the look-up nor brings the old addresses back."""
    resolve(monkeypatch, lambda: None, FIRST, SECOND)
    addresses = Addresses("host.example", 443)
    old = addresses.get(30)
    addresses.failed(old[0])
    others: list[threading.Thread] = []

    def fail() -> None:
        if not others:
            others.append(threading.Thread(target=addresses.failed, args=(old[1],)))
            others[0].start()
            others[0].join(0.3)  # it may have to wait for the look-up

    resolve(monkeypatch, fail, THIRD)
    addresses.forget()
    assert [*map(tuple, addresses.get(3))] == [THIRD]
    others[0].join(30)
    assert [*map(tuple, addresses.get(3))] == [THIRD]
