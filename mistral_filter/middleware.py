"""The WSGI middleware: reads the JSON body of a request to one of Mistral's endpoints, filters it, hands it on.

::

    from mistral_filter import MistralFilter

    application = MistralFilter(application)

Every other request passes untouched. The wrapped application finds the changes as ``environ["mistral_filter.changes"]``
(a tuple of Change), the endpoint's name as ``environ["mistral_filter.endpoint"]``, what the request asks for as
``environ["mistral_filter.facts"]`` (Facts) and whether nothing may be lost as ``environ["mistral_filter.strict"]``; the
client finds the changes in the response header ``Mistral-Filter-Changes``.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mistral_filter.changes import HEADER, as_header
from mistral_filter.errors import BadRequest, BodyTimeout, BodyTooLarge, MistralFilterError, NotFound, UnsupportedEncoding
from mistral_filter.fields import CHAT_FIELDS, ENDPOINTS
from mistral_filter.filtering import filter_body
from mistral_filter.paths import locate
from mistral_filter.watch import Watch, watching

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["MAX_BODY", "STRICT_HEADER", "MistralFilter"]

MAX_BODY = 32 * 1024 * 1024
"""Bytes. Room for a few photographs in base64; every worker may hold several such bodies at once."""

STRICT_HEADER = "Mistral-Filter-Strict"
"""A request with this header set to ``on`` is refused rather than losing something."""

_PIECE = 1024 * 1024
_LONGEST_LENGTH = 18  # digits
_DRAIN_BYTES = 64 * 1024 * 1024
_DRAIN_SECONDS = 10.0
_DRAIN_SILENCE_SECONDS = 1.0

_log = logging.getLogger("mistral_filter")


class MistralFilter:
    """Filters the bodies of POST requests to Mistral's endpoints on their way to *app*.

    The keyword arguments *fields*, *allow*, *drop*, *translate*, *bridge* and *strict* are those of ``filter_body``.
    *max_body* is in bytes, *body_timeout* in seconds (it needs gunicorn's socket). *routes* names paths of the application's
    own, ``{"/my/chat": "chat"}``; each is matched with and without a slash at its end. *prefixes* are the places below which
    Mistral's paths are looked for: ``("", "/ai")`` is the root and ``/ai``, ``()`` is *routes* only.

    Raises ValueError for an unknown list or endpoint, and for a prefix that is not ``""`` or ``/name``.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        fields: str = "classic",
        allow: Iterable[str] = (),
        drop: Iterable[str] = (),
        translate: bool = True,
        bridge: bool = False,
        strict: bool = False,
        max_body: int = MAX_BODY,
        body_timeout: float | None = None,  # the server in front may have one of its own
        routes: Mapping[str, str] | None = None,
        prefixes: Iterable[str] = ("",),
    ) -> None:
        self.app = app
        self._strict = strict
        self._max_body = max_body
        self._body_timeout = body_timeout
        self._routes = {path.rstrip("/"): endpoint for path, endpoint in (routes or {}).items()}
        self._prefixes = tuple(prefixes)
        self._filter = partial(
            filter_body, fields=fields, allow=tuple(allow), drop=tuple(drop), translate=translate, bridge=bridge
        )
        # an unknown name stops the start, not a request
        if fields not in CHAT_FIELDS:
            raise ValueError(f"fields={fields!r}: there is no such list; the lists are {', '.join(CHAT_FIELDS)}")
        for path, endpoint in (routes or {}).items():
            if endpoint not in ENDPOINTS:
                raise ValueError(f"routes: {path!r} means {endpoint!r}; the endpoints are {', '.join(ENDPOINTS)}")
        for prefix in self._prefixes:
            if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
                raise ValueError(f'prefix {prefix!r}: write "" for the root, or "/name" without a slash at the end')

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Filters one request, refuses it, or lets it pass."""
        if environ["REQUEST_METHOD"] != "POST":
            return self.app(environ, start_response)
        path = environ.get("PATH_INFO", "")
        endpoint = self._routes.get(path.rstrip("/"))
        if endpoint is None:
            target = locate(path, self._prefixes)
            if target is None or target.endpoint is None:
                return self.app(environ, start_response)
            if target.refused:
                _drain(environ, self._body_timeout)
                return self.refuse(NotFound(f"Write the path as {target.prefix}{target.path}."), environ, start_response)
            endpoint = target.endpoint
        strict = self._strict or wants_strict(environ)
        try:
            filtered = self._filter(read_body(environ, self._max_body, self._body_timeout), endpoint, strict=strict)
        except MistralFilterError as error:
            return self.refuse(error, environ, start_response)
        except Exception as error:  # a defect of ours: nothing unfiltered goes on, and the client gets an answer
            _log.error("filtering failed: %s", type(error).__name__)
            return self.refuse(MistralFilterError("The request could not be filtered."), environ, start_response)
        replace_body(environ, filtered.body)
        environ["mistral_filter.endpoint"] = endpoint
        environ["mistral_filter.strict"] = strict
        environ["mistral_filter.facts"] = filtered.facts
        # another filter may stand in front
        environ["mistral_filter.changes"] = (*environ.get("mistral_filter.changes", ()), *filtered.changes)

        def start_with_changes(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            # read again here: what the application changed in its turn is reported with the rest
            made = environ.get("mistral_filter.changes")
            if made and not any(name.lower() == HEADER.lower() for name, _ in headers):
                header = as_header(made)
                headers = [*headers, (HEADER, header)]
                _log.debug("%s: %s", endpoint, header)
            return start_response(status, headers, *exc_info)

        return self.app(environ, start_with_changes)

    def refuse(self, error: MistralFilterError, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answers a request that does not go on. A subclass may answer in its framework's way."""
        return error(environ, start_response)


def wants_strict(environ: WSGIEnvironment) -> bool:
    """Whether the caller would rather be refused than lose something."""
    return bool(environ.get("HTTP_" + STRICT_HEADER.upper().replace("-", "_"), "").lower() == "on")


def replace_body(environ: WSGIEnvironment, body: bytes) -> None:
    """Makes *body* the request's body."""
    environ["wsgi.input"] = io.BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))
    environ.pop("HTTP_TRANSFER_ENCODING", None)


def read_body(environ: WSGIEnvironment, limit: int, timeout: float | None = None) -> bytes:
    """The whole request body, at most *limit* bytes, within *timeout* seconds where the server lets its socket be seen.

    Raises BodyTooLarge, BodyTimeout, UnsupportedEncoding, or BadRequest for a body that ended before its declared length. A
    body that is refused unread is read away first, within bounds: a client that still writes would never see the answer.
    """
    source = environ["wsgi.input"]
    length = environ.get("CONTENT_LENGTH") or ""
    coding = environ.get("HTTP_TRANSFER_ENCODING", "").strip().lower()
    if coding not in ("", "chunked"):
        raise BadRequest("Of transfer codings only chunked is understood.", code="bad_transfer_encoding")
    if environ.get("HTTP_CONTENT_ENCODING", "").strip().lower() not in ("", "identity"):
        _drain(environ, timeout)
        raise UnsupportedEncoding("Send the body as plain JSON, without Content-Encoding.")
    if length:
        if not (length.isascii() and length.isdigit()):
            raise BadRequest("Content-Length is not a number of bytes.", code="bad_content_length")
        if len(length) > _LONGEST_LENGTH or int(length) > limit:
            _drain(environ, timeout)
            raise _too_large(limit)
        wanted = int(length)
    elif environ.get("wsgi.input_terminated") or coding:
        wanted = limit + 1
    else:
        return b""
    pieces, missing, broken = [], wanted, False
    watch = Watch(None if timeout is None else environ.get("gunicorn.socket"))
    watch.receiving_until = time.monotonic() + (timeout or 0)
    with watching(watch):
        try:
            while missing and (piece := source.read(min(missing, _PIECE))):
                pieces.append(piece)
                missing -= len(piece)
        except Exception:  # every server has exceptions of its own for a broken chunked body
            broken = True
    if watch.reason == "body_timeout":
        raise BodyTimeout(f"The body did not come within {timeout:g} seconds.")
    if broken:
        raise BadRequest("The body could not be read: its framing is broken.", code="body_cut_short")
    if length and missing:
        raise BadRequest(f"The body was cut short: {wanted - missing} of {length} bytes came.", code="body_cut_short")
    if not length and not missing:
        _drain(environ, timeout)
        raise _too_large(limit)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit} bytes. Send smaller images, or raise the limit (max_body).")


def _drain(environ: WSGIEnvironment, patience: float | None) -> None:
    """Reads the body away until it ends, falls silent, or is too long to wait for; *patience* are the seconds for any body."""
    socket = environ.get("gunicorn.socket")
    timeout = socket.gettimeout() if socket is not None else None
    try:
        left = min(int((environ.get("CONTENT_LENGTH") or str(_DRAIN_BYTES))[:_LONGEST_LENGTH]), _DRAIN_BYTES)
        end = time.monotonic() + min(_DRAIN_SECONDS, patience or _DRAIN_SECONDS)
        if socket is not None:
            socket.settimeout(_DRAIN_SILENCE_SECONDS)
        watch = Watch(socket)
        watch.receiving_until = end  # a body that drips does not fill a piece in time
        with watching(watch):
            while left > 0 and time.monotonic() < end and (piece := environ["wsgi.input"].read(min(left, 65536))):
                left -= len(piece)
    except Exception:  # noqa: S110  whatever ends the reading ends the draining
        pass
    finally:
        if socket is not None:
            socket.settimeout(timeout)
