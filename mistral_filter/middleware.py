"""The WSGI middleware: reads the JSON body of a request to one of Mistral's endpoints, filters it, and passes it on.

::

    from mistral_filter import MistralFilter

    application = MistralFilter(application)

Every other request passes untouched. The wrapped application finds the changes as ``environ["mistral_filter.changes"]``
(a tuple of Change), the endpoint's name as ``environ["mistral_filter.endpoint"]``, what the request asks for as
``environ["mistral_filter.facts"]`` (Facts) and strict mode as ``environ["mistral_filter.strict"]`` (bool). The client finds the
changes in the response header ``Mistral-Filter-Changes``.

Where ``facts.tool_names`` is not empty, names of tools were replaced, and the answer has the replaced names. An application that
forwards the request itself passes the JSON of the answer, or of each event, through ``restore_tool_names(answer,
facts.tool_names)``; ``mistral_filter.proxy`` does that already.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mistral_filter.changes import HEADER, as_header
from mistral_filter.errors import BadRequest, BodyTooLarge, MistralFilterError, NotFound, UnsupportedEncoding
from mistral_filter.fields import CHAT_FIELDS, ENDPOINTS
from mistral_filter.filtering import Learnt, filter_body
from mistral_filter.framing import framing_of
from mistral_filter.models import check_models
from mistral_filter.paths import locate

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["MAX_BODY", "STRICT_HEADER", "MistralFilter"]

MAX_BODY = 32 * 1024 * 1024
"""Bytes. Room for a few photographs in base64; every worker may hold several such bodies at once."""

STRICT_HEADER = "Mistral-Filter-Strict"
"""A request with this header set to ``on`` is refused if it would lose something."""

_PIECE = 131072
_MOST_READ_AWAY = 64 * 1024 * 1024

_log = logging.getLogger("mistral_filter")


class MistralFilter:
    """Filters the bodies of POST requests to Mistral's endpoints on their way to *app*.

    The keyword arguments *fields*, *allow*, *drop*, *translate*, *bridge*, *strict* and *models* are those of ``filter_body``.
    *max_body* is in bytes. *routes* names paths of the application's own, ``{"/my/chat": "chat"}``; each is matched with and
    without a slash at its end. *prefixes* are the paths below which Mistral's paths are found: ``("", "/ai")`` means the root
    and ``/ai``, ``()`` means *routes* only. *admit* is called with the environ of a request to an endpoint before a byte of the
    body is read, and may raise a MistralFilterError. *learnt* is called with the environ, the endpoint and the model's name, and
    returns the argument *learnt* of ``filter_body``.

    Raises ValueError for an unknown list or endpoint, for *models* that cannot be used, and for a prefix that is not ``""`` or
    ``/name``.
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
        models: Mapping[str, str] | None = None,
        max_body: int = MAX_BODY,
        routes: Mapping[str, str] | None = None,
        prefixes: Iterable[str] = ("",),
        admit: Callable[[WSGIEnvironment], None] | None = None,
        learnt: Callable[[WSGIEnvironment, str, str | None], Iterable[Learnt]] | None = None,
    ) -> None:
        self.app = app
        self._strict = strict
        self._max_body = max_body
        self._admit = admit
        self._learnt = learnt
        self._routes = {path.rstrip("/"): endpoint for path, endpoint in (routes or {}).items()}
        self._prefixes = tuple(prefixes)
        self._filter = partial(
            filter_body, fields=fields, allow=tuple(allow), drop=tuple(drop), translate=translate, bridge=bridge, models=models
        )
        # an unknown name stops the start, not a request
        if fields not in CHAT_FIELDS:
            raise ValueError(f"fields={fields!r}: there is no such list; the lists are {', '.join(CHAT_FIELDS)}")
        try:
            check_models(models or {})
        except ValueError as error:
            raise ValueError(f"models: {error}") from None
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
                _read_away(environ)
                return self.refuse(NotFound(f"Write the path as {target.prefix}{target.path}."), environ, start_response)
            endpoint = target.endpoint
        strict = self._strict or wants_strict(environ)
        refusal: MistralFilterError | None = None
        try:
            if self._admit is not None:
                self._admit(environ)
            learnt = () if self._learnt is None else partial(self._learnt, environ, endpoint)
            filtered = self._filter(read_body(environ, self._max_body), endpoint, strict=strict, learnt=learnt)
        except MistralFilterError as error:
            refusal = error.detached()  # its traceback would hold the body
        except Exception as error:  # a defect of ours: nothing unfiltered goes on, and the client gets an answer
            _log.error("filtering failed: %s", type(error).__name__)
            refusal = MistralFilterError("The request could not be filtered.")
        if refusal is not None:
            return self.refuse(refusal, environ, start_response)
        changes, facts = filtered.changes, filtered.facts
        replace_body(environ, filtered.body)
        del filtered  # the application may be done with the body long before the answer ends
        environ["mistral_filter.endpoint"] = endpoint
        environ["mistral_filter.strict"] = strict
        # another filter may stand in front
        if (before := environ.get("mistral_filter.facts")) is not None and before.tool_names:
            facts = facts._replace(tool_names={**before.tool_names, **facts.tool_names})
        environ["mistral_filter.facts"] = facts
        environ["mistral_filter.changes"] = (*environ.get("mistral_filter.changes", ()), *changes)

        def start_with_changes(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            # read again here: what the application changed in its turn is reported with the rest
            made = environ.get("mistral_filter.changes")
            if made and HEADER not in dict(headers):  # another filter inside may have said it
                headers = [*headers, (HEADER, as_header(made))]
            return start_response(status, headers, *exc_info)

        return self.app(environ, start_with_changes)

    def refuse(self, error: MistralFilterError, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answers a request that does not go on. A subclass may answer in its framework's way."""
        return error(environ, start_response)


def wants_strict(environ: WSGIEnvironment) -> bool:
    """Whether the request asks for strict mode."""
    return bool(environ.get("HTTP_" + STRICT_HEADER.upper().replace("-", "_"), "").lower() == "on")


def replace_body(environ: WSGIEnvironment, body: bytes) -> None:
    """Makes *body* the request's body."""
    environ["wsgi.input"] = io.BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))
    environ.pop("HTTP_TRANSFER_ENCODING", None)


def read_body(environ: WSGIEnvironment, limit: int) -> bytes:
    """The whole request body, at most *limit* bytes.

    Raises BodyTooLarge, UnsupportedEncoding, BadRequest for a body that ended before its declared length or whose framing is
    broken, or a MistralFilterError of the input's own. A body that is too large or compressed is read away first, within bounds:
    a client that still writes would not see the answer.
    """
    source = environ["wsgi.input"]
    length, chunked = framing_of(environ)
    if environ.get("HTTP_CONTENT_ENCODING", "").strip().lower() not in ("", "identity"):
        _read_away(environ)
        raise UnsupportedEncoding
    if length is not None:
        if length > limit:
            _read_away(environ)
            raise _too_large(limit)
        wanted = length
    elif environ.get("wsgi.input_terminated") or chunked:
        wanted = limit + 1
    else:
        return b""
    pieces, missing = [], wanted
    try:
        while missing and (piece := source.read(min(missing, _PIECE))):
            pieces.append(piece)
            missing -= len(piece)
    except MistralFilterError:
        raise
    except Exception:  # every server has exceptions of its own for a broken chunked body
        raise BadRequest(code="body_cut_short") from None
    if length is not None and missing:
        raise BadRequest(f"The body was cut short: {wanted - missing} of {length} bytes came.", code="body_cut_short")
    if length is None and not missing:
        _read_away(environ)
        raise _too_large(limit)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _read_away(environ: WSGIEnvironment) -> None:
    """Reads what is left of a body that is refused, unless something outside does that after the answer."""
    if environ.get("mistral_filter.lingers"):
        return
    left = _MOST_READ_AWAY
    with contextlib.suppress(Exception):  # whatever ends the reading ends it well enough
        while left > 0 and (piece := environ["wsgi.input"].read(_PIECE)):
            left -= len(piece)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit} bytes. Send smaller images, or raise the limit (max_body).")
