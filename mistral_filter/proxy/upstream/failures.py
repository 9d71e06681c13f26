"""What an exception on the way to an upstream and back means to the caller.

Never the text of an exception: it holds host, path and query string.
"""

from __future__ import annotations

import errno
import http.client
from collections.abc import Iterator

import requests
import urllib3

from mistral_filter.errors import BodyTimeout, ClientGone, UpstreamError
from mistral_filter.watch import Watch

__all__ = ["broken_body", "broken_pipe", "failed", "protocol", "raise_reason"]


def protocol() -> UpstreamError:
    """The answer is no HTTP that can be passed on."""
    return UpstreamError("upstream_protocol")


def raise_reason(watch: Watch) -> None:
    """Raises the error for which the connection was given up on purpose, if it was."""
    if watch.reason == "total_timeout":
        raise UpstreamError("upstream_deadline")
    if watch.reason == "body_timeout":
        raise BodyTimeout("The body did not come in time.")
    if watch.reason is not None:
        raise ClientGone("The client closed the connection.", code=watch.reason)


def failed(error: BaseException) -> UpstreamError:
    """What an exception before the answer's head means. The order matters: some are subclasses of others."""
    chain = list(_chain(error))
    if isinstance(error, requests.ConnectTimeout):
        return UpstreamError("upstream_connect_timeout")
    if isinstance(error, (requests.exceptions.ProxyError, requests.exceptions.SSLError)):
        return UpstreamError("upstream_tls")
    if any(isinstance(e, urllib3.exceptions.NameResolutionError) for e in chain):
        return UpstreamError("upstream_dns")
    if any(isinstance(e, urllib3.exceptions.NewConnectionError) for e in chain):
        return UpstreamError("upstream_unreachable")
    if any(isinstance(e, (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)) for e in chain):
        return UpstreamError("upstream_timeout")
    if any(isinstance(e, (http.client.RemoteDisconnected, ConnectionError)) for e in chain):
        return UpstreamError("upstream_disconnected")
    return protocol()


def broken_body(error: BaseException) -> UpstreamError:
    """What an exception within the answer's body means."""
    if any(isinstance(e, (urllib3.exceptions.ReadTimeoutError, TimeoutError)) for e in _chain(error)):
        return UpstreamError("upstream_timeout", "The upstream fell silent in the middle of its answer.")
    return UpstreamError("upstream_cut")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """*error*, what it wraps and what led to it."""
    seen: list[BaseException] = []
    todo = [error]
    while todo:
        e = todo.pop()
        if e is None or any(e is other for other in seen):
            continue
        seen.append(e)
        yield e
        todo += [e.__cause__, e.__context__, getattr(e, "reason", None)]
        todo += [arg for arg in e.args if isinstance(arg, BaseException)]
        todo = [item for item in todo if isinstance(item, BaseException)]


def broken_pipe() -> OSError:
    """To be raised into the server after the first byte: it closes the connection at once, unterminated, without a traceback."""
    return ConnectionResetError(errno.ECONNRESET, "the answer from upstream was cut short")
