"""One line for each request, as text or JSON.

``method=POST path=/v1/chat/completions status=200 bytes=31 ms=840.2 ended=ok request_id=7f3a changes=drop;path="user";loss=none``

Every value is a number, a word of a closed set or checked against a pattern: no key, prompt, query string, request header or
unknown path gets into a line, and no value but the last can hold a space. *ended* says what became of the response: ``ok``, it
went out whole; ``client_gone`` and ``client_slow`` (their status is logged as 499); ``error``, an exception; or the error code
with which the call ended.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote

from mistral_filter.changes import MOST_CHANGES, Change, as_header, remembered
from mistral_filter.errors import CODES
from mistral_filter.fields import CHAT_FIELDS, ENDPOINTS, Array, Node, Object, Tagged
from mistral_filter.paths import locate
from mistral_filter.proxy.calls import Ended
from mistral_filter.proxy.stderr import MAX_LINE, one_line, stderr_handler

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["Record", "RequestLog", "access_path", "changes_text", "configure", "request_id_of", "stderr_handler"]

_METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS".split())
_OWN = frozenset("/ /health /healthz /metrics /robots.txt /favicon.ico".split())
_WORDS = frozenset(
    "agents aliases archive audio batch cancel chat completions content conversations dashboard documents files fim fine_tuning "
    "history images jobs libraries messages models ocr reprocess responses restart sample sessions share speech start status "
    "text_content transcriptions url version versions voices".split()
)
"""What Mistral's and OpenAI's paths are made of. Any other segment may be a name or an id of the caller's."""
_FIELD = re.compile(r"(?=.{1,32}(?:\[|$))\$?[a-z]{1,14}(?:_[a-z]{1,14}){0,2}_?\d{0,2}(?:\[\d{1,7}\])*")
"""A name that may be shown although no table has it: up to three short words in lower case, and up to two digits at the end.

Nearly all names in OpenAI's schemas are written so. Keys, base64, sentences and names of people are not: a random string has
capitals, more digits or no underscore within 14 letters.
"""
_INDICES = re.compile(r"(?:\[\d{1,7}\])*$")
_LONGEST_PATH = 300
"""Characters of a change's path that are looked at."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,39}")
_NOT_READ = frozenset(code for code, meaning in CODES.items() if meaning.status == 499)
"""Ends of requests whose response was not read to its end: the status that was sent says nothing then."""
_CHANGES_BYTES = 512

_CREDENTIALS = re.compile(r"HTTP_\w*(?:AUTH|KEY|TOKEN|SECRET|COOKIE|CREDENTIAL|PASSWORD|SIGNATURE)\w*", re.ASCII)
"""Where WSGI has the headers that carry credentials: Authorization, api-key, x-api-key, x-goog-api-key, Cookie …"""
_PIECE = 8
"""Characters. An id that shares so many in a row with a credential is not logged."""
_HALF = _PIECE // 2

_log = logging.getLogger("mistral_filter.access")


class Record(NamedTuple):
    """What is known of a request when it is over. ``str()`` of it is its line.

    *path* is canonical, with ``*`` for every id. *endpoint* is of a closed set: an endpoint, the first word of another API path,
    or an own path. Both are ``other`` for everything else. *sent* are the bytes of the body that the server was given.
    """

    method: str
    path: str
    endpoint: str
    status: int
    sent: int
    seconds: float
    ended: str
    request_id: str
    changes: tuple[Change, ...] = ()
    waited: float = 0.0
    """Seconds that it waited after a 429; only then they are in the line."""

    def facts(self) -> dict[str, object]:
        """Keys and values of the line. Only the last may hold spaces."""
        facts: dict[str, object] = {"method": self.method, "path": self.path, "status": self.status, "bytes": self.sent}
        facts["ms"] = round(self.seconds * 1000, 1)
        if self.waited:
            facts["wait_ms"] = round(self.waited * 1000, 1)
        facts |= {"ended": self.ended, "request_id": self.request_id}
        return facts | {"changes": changes_text(self.changes) or "-"}

    def __str__(self) -> str:
        wait = f"wait_ms={round(self.waited * 1000, 1)} " if self.waited else ""
        return (
            f"method={self.method} path={self.path} status={self.status} bytes={self.sent} ms={round(self.seconds * 1000, 1)} "
            f"{wait}ended={self.ended} request_id={self.request_id} changes={changes_text(self.changes) or '-'}"
        )


class RequestLog:
    """Logs how each request ended; the ``report`` of Calls.

    *prefixes* are those of MistralFilter. *observe* is given the record of every request, whatever the log's level is.
    """

    def __init__(self, *, prefixes: Iterable[str] = ("",), observe: Callable[[Record], None] | None = None) -> None:
        self._prefixes, self._observe = tuple(prefixes), observe

    def __call__(self, ended: Ended) -> None:
        """Writes the line of one request. It raises nothing: a defect here is no reason to spoil an answer."""
        try:
            path, endpoint = _place(ended.path, self._prefixes)
            level = logging.DEBUG if path in ("/health", "/healthz") else logging.INFO
            if self._observe is not None or _log.isEnabledFor(level):
                record = _record(ended, path, endpoint)
                if _log.isEnabledFor(level):
                    _log.handle(_log_record(level, record))
                if self._observe is not None:
                    self._observe(record)
        except Exception as error:
            logging.getLogger("mistral_filter").error("a request could not be logged: %s", type(error).__name__)


def _log_record(level: int, message: Record) -> logging.LogRecord:
    """What logging makes of *message*. All but the message and the time is the same for each line, and is asked for once."""
    template, made, now = _template(level, os.getpid()), logging.LogRecord.__new__(logging.LogRecord), time.time()
    since_start = template.relativeCreated + (now - template.created) * 1000
    own = {"msg": message, "created": now, "msecs": now % 1 * 1000, "relativeCreated": since_start}
    made.__dict__ = vars(template) | own
    return made


@lru_cache(maxsize=4)
def _template(level: int, _process: int) -> logging.LogRecord:
    return logging.LogRecord(_log.name, level, __file__, 0, "", (), None)


def _record(ended: Ended, path: str, endpoint: str) -> Record:
    method = ended.method if ended.method in _METHODS else "other"
    code = ended.ended if _CODE.fullmatch(ended.ended) else "error"
    status = CODES[code].status if code in _CLIENT_ENDED else ended.status
    changes = ended.environ.get("mistral_filter.changes", ())
    request_id = request_id_of(ended.headers, ended.environ)
    return Record(method, path, endpoint, status, ended.sent, ended.seconds, code, request_id, changes, ended.waited)


_CLIENT_ENDED = ("client_gone", "client_slow")


def _place(path: str, prefixes: tuple[str, ...]) -> tuple[str, str]:
    """The path and the endpoint of a record."""
    path = "/explain" if path.startswith("/explain/") else path
    if path in _OWN or path == "/explain":
        return path, path
    target = locate(path, prefixes)
    if target is None or target.refused:
        return "other", "other"
    if target.endpoint is not None:
        return target.prefix + target.path, target.endpoint
    words = [word if word in _WORDS else "*" for word in target.path.split("/", 8)[2:8]]
    if words[:1] == ["*"]:
        return "other", "other"
    return "/".join([target.prefix + "/v1", *words]), words[0] if words else "/v1"


def changes_text(changes: Sequence[Change]) -> str:
    """*changes* for a line: as in the header, at most 512 bytes, with ``?`` where a part of a name may not be shown."""
    return _text(tuple(changes)) if changes else ""


@remembered
def _text(changes: tuple[Change, ...]) -> str:
    made = [Change(action, _shown(path), "", loss, to and _shown(to)) for action, path, _, loss, to in changes[:MOST_CHANGES]]
    return as_header(made, _CHANGES_BYTES, more=len(changes) - len(made))


def _shown(path: str) -> str:
    return _remembered(path) if len(path) <= _SHORT else _field_name(path)


def _field_name(path: str) -> str:
    """*path* as far as it is made of Mistral's names; one unknown name at its end is shown if it is written like a field's."""
    parts = path[: _LONGEST_PATH + 1].split(".")
    known = list(takewhile(lambda part: _INDICES.sub("", part) in _NAMES, parts))
    if len(parts) == len(known) + 1 and len(path) <= _LONGEST_PATH and _FIELD.fullmatch(parts[-1]):
        return path
    return path if known == parts else ".".join([*known, "?"])


def _names_in(node: Node) -> Iterator[str]:
    if isinstance(node, Object):
        yield from node.fields
        below: Iterable[Node] = node.fields.values()
    else:
        below = [node.items] if isinstance(node, Array) else node.variants.values() if isinstance(node, Tagged) else ()
    for each in below:
        yield from _names_in(each)


_NAMES = frozenset(name for table in (*ENDPOINTS.values(), *CHAT_FIELDS.values()) for name in _names_in(table))
"""All names in the tables."""


_SHORT = 200
"""Characters. Of a longer name nothing is remembered."""
_remembered = lru_cache(maxsize=1024)(_field_name)


@lru_cache(maxsize=256)
def _holds_credentials(name: str) -> bool:
    return _CREDENTIALS.fullmatch(name) is not None


def request_id_of(headers: Iterable[tuple[str, str]], environ: WSGIEnvironment) -> str:
    """The request id in a response's *headers*; ``-`` where there is none, it is no plain word, or it quotes a credential.

    *environ* is that of the request: its headers with credentials, whole or in part, and its query string are looked for.
    """
    ids = {name.lower(): value for name, value in headers if name[-2:] in ("id", "Id", "iD", "ID")}
    given = ids.get("x-request-id") or ids.get("mistral-correlation-id") or ""
    if not _REQUEST_ID.fullmatch(given):
        return "-"
    secrets = [
        value
        for name, value in environ.items()
        if name.startswith("HTTP_") and _holds_credentials(name[:_SHORT]) and isinstance(value, str)
    ]
    if query := environ.get("QUERY_STRING"):
        secrets += [query, unquote(query, "latin-1")]
    return "-" if _quotes(given.lower(), "\n".join(secrets).lower()) else given


def _quotes(written: str, secret: str) -> bool:
    """Whether *written*, or _PIECE characters of it in a row, are in *secret*."""
    # the row holds _HALF characters that begin at a multiple of _HALF: to look for those nearly always settles it
    if not any(written[at : at + _HALF] in secret for at in range(0, max(1, len(written) - _HALF + 1), _HALF)):
        return False
    return any(written[at : at + _PIECE] in secret for at in range(max(1, len(written) - _PIECE + 1)))


def access_path(environ: WSGIEnvironment) -> str:
    """The path of a request as the client sent it, for an access log: without host and query, never decoded, one word.

    What is not printable ASCII, a quote or a backslash is percent-encoded. At most 1,024 characters.
    """
    raw = environ.get("RAW_URI")  # gunicorn's
    if raw is None:
        raw = quote(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""), encoding="latin-1", errors="replace")
    path = re.split("[?#]", raw[:_LONGEST_TARGET], maxsplit=1)[0]
    path = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/]*", "", path)  # a whole URL, in which a password may be
    return quote(path, safe="/%!$&'()*+,:;=@-._~[]", encoding="latin-1", errors="replace")[:_LONGEST_TARGET] or "/"


_LONGEST_TARGET = 1024


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{_time(record)} {record.levelname} {_message(record)}"


class _JSON(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record), "level": record.levelname, "logger": record.name}
        # cut before it is quoted: a line that is cut afterwards is no JSON
        facts = (
            record.msg.facts() if isinstance(record.msg, Record) else {"message": one_line(_message(record), MAX_LINE // 2 - 200)}
        )
        return json.dumps(line | facts)


def _time(record: logging.LogRecord) -> str:
    second = int(record.created)
    return f"{_to_the_second(second)}.{int((record.created - second) * 1000):03}+00:00"


@lru_cache(maxsize=2)
def _to_the_second(second: int) -> str:
    return datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


def _message(record: logging.LogRecord) -> str:
    if record.exc_info is None or record.exc_info[0] is None:
        return record.getMessage()
    # only where it was: the text of an exception, and Flask's message about it, may quote what a caller sent
    place = traceback.extract_tb(record.exc_info[2])[-1]
    return f"unexpected {record.exc_info[0].__name__} in {place.name}:{place.lineno}"


def configure(level: str, format: str) -> None:
    """Writes what ``mistral_filter`` and ``mistral_filter.access`` log to stderr; *format* is ``text`` or ``json``.

    A second call replaces what the first set up. Raises KeyError for another format.
    """
    handler = stderr_handler()
    handler.set_name("mistral_filter")
    handler.setFormatter({"text": _Text, "json": _JSON}[format]())
    logger = logging.getLogger("mistral_filter")  # the one of the requests hands its records up
    logger.handlers = [*(other for other in logger.handlers if other.name != handler.name), handler]
    logger.setLevel(level)
    logger.propagate = False
