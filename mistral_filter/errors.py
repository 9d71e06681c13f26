"""Every error that mistral-filter answers by itself: one table of codes, and the classes over it.

MistralFilterError              500
├── BadRequest                  400
│   ├── InvalidJSON             the body does not parse
│   │   └── TooDeep             it nests deeper than MAX_DEPTH
│   ├── TooComplex              it needs more work than the budget allows
│   └── Refused                 no translation exists, or strict mode would lose something
├── Unauthorized                401
├── NotFound                    404
├── MethodNotAllowed            405
├── BodyTimeout                 408
├── BodyTooLarge                413
├── UnsupportedEncoding         415
├── ClientGone                  499, for the log only: the client has closed the connection
├── Overloaded                  503, with Retry-After
└── UpstreamError               502 or 504; ``code`` says what happened

Each error is a WSGI application. The shape of its body: ``{"error": {"message": str, "type": str, "param": str | null,
"code": str}}``. A message is the table's sentence, or written where the error is raised, of names alone; it never holds a
key, a prompt, a query string or the text of another exception.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from typing_extensions import Self

__all__ = [
    "CODES",
    "MAX_DEPTH",
    "NO_RETRY",
    "BadRequest",
    "BodyTimeout",
    "BodyTooLarge",
    "ClientGone",
    "Code",
    "InvalidJSON",
    "MethodNotAllowed",
    "MistralFilterError",
    "NotFound",
    "Overloaded",
    "Refused",
    "TooComplex",
    "TooDeep",
    "Unauthorized",
    "UnsupportedEncoding",
    "UpstreamError",
    "from_status",
]

MAX_DEPTH = 200
"""Levels of nesting inside one value."""

NO_RETRY = ("X-Should-Retry", "false")
"""A header for errors that a second try cannot cure. OpenAI's SDKs obey it; without it they retry every 5xx."""


class Code(NamedTuple):
    """What one error code means."""

    status: int
    type: str
    """OpenAI's word for the kind of error."""
    sentence: str
    """The message where the place that raises the error has nothing more to say."""


_REQUEST, _CREDENTIALS, _UPSTREAM, _SERVER = "invalid_request_error", "authentication_error", "upstream_error", "server_error"

CODES: dict[str, Code] = {
    "bad_authorization": Code(400, _REQUEST, "Send exactly one Authorization header, of printable ASCII characters."),
    "bad_content_length": Code(400, _REQUEST, "Content-Length is not a number of bytes."),
    "bad_path": Code(400, _REQUEST, "The path cannot be forwarded."),
    "bad_request": Code(400, _REQUEST, "Bad Request."),
    "bad_transfer_encoding": Code(400, _REQUEST, "Of transfer codings only chunked is understood."),
    "body_cut_short": Code(400, _REQUEST, "The body could not be read: its framing is broken."),
    "embedding_dimension": Code(400, _REQUEST, "The model gives embeddings of one size only."),
    "foreign_file_id": Code(400, _REQUEST, "Mistral cannot read a file that was uploaded elsewhere."),
    "invalid_json": Code(400, _REQUEST, "Invalid JSON."),
    "json_too_deep": Code(400, _REQUEST, f"Invalid JSON: a value nests deeper than {MAX_DEPTH} levels."),
    "not_an_object": Code(400, _REQUEST, 'The body must be a JSON object, such as {"model": …, "messages": […]}.'),
    "not_supported_by_mistral": Code(400, _REQUEST, "Mistral has no counterpart for what the request asks for."),
    "stateful_conversation": Code(400, _REQUEST, "Mistral keeps no conversations: each request holds all of one."),
    "strict": Code(400, _REQUEST, "Strict mode: Mistral has no counterpart for a part of the request."),
    "token_ids": Code(400, _REQUEST, "Mistral embeds text, not token ids."),
    "too_complex": Code(
        400, _REQUEST, "The body has too many parts to filter. Send fewer messages, tools, content parts or tool calls."
    ),
    "invalid_api_key": Code(401, _CREDENTIALS, "No usable key came with the request. Send it as: Authorization: Bearer KEY."),
    "no_key": Code(401, _CREDENTIALS, "This server has no key for this upstream."),
    "forbidden": Code(403, _REQUEST, "Forbidden."),
    "not_found": Code(404, _REQUEST, "Not Found."),
    "method_not_allowed": Code(405, _REQUEST, "Method Not Allowed."),
    "body_timeout": Code(408, _REQUEST, "The body did not come in time."),
    "body_too_large": Code(413, _REQUEST, "The body is too large."),
    "uri_too_long": Code(414, _REQUEST, "URI Too Long."),
    "unsupported_content_encoding": Code(415, _REQUEST, "Send the body as plain JSON, without Content-Encoding."),
    "expectation_failed": Code(417, _REQUEST, "Expectation Failed."),
    "request_header_fields_too_large": Code(431, _REQUEST, "Request Header Fields Too Large."),
    "client_gone": Code(499, _REQUEST, "The client closed the connection."),
    "client_slow": Code(499, _REQUEST, "The client did not read its response in time."),
    "internal": Code(500, _SERVER, "Something went wrong in mistral-filter."),
    "not_mounted": Code(500, _SERVER, "The forwarding view is mounted without MistralFilter in front: nothing was sent on."),
    "not_implemented": Code(501, _SERVER, "Not Implemented."),
    "upstream_cut": Code(502, _UPSTREAM, "The answer from upstream was cut short."),
    "upstream_disconnected": Code(502, _UPSTREAM, "The upstream closed the connection without an answer."),
    "upstream_dns": Code(502, _UPSTREAM, "The upstream's host name could not be resolved."),
    "upstream_error_too_large": Code(502, _UPSTREAM, "The upstream answered an error with a very long page."),
    "upstream_finish_error": Code(502, _UPSTREAM, 'The model stopped with an error (finish_reason "error").'),
    "upstream_protocol": Code(502, _UPSTREAM, "The upstream's answer is not valid HTTP."),
    "upstream_redirect": Code(502, _UPSTREAM, "The upstream answered with a redirect, which is not followed."),
    "upstream_tls": Code(502, _UPSTREAM, "No secure connection to the upstream could be made."),
    "upstream_unauthorized": Code(502, _UPSTREAM, "The upstream does not accept this server's own key."),
    "upstream_unreachable": Code(502, _UPSTREAM, "The upstream could not be reached."),
    "body_budget": Code(503, _SERVER, "Too many bodies are in memory. Try again in a moment."),
    "no_descriptors": Code(503, _SERVER, "No file descriptor is left for a connection to the upstream. Try again in a moment."),
    "overloaded": Code(503, _SERVER, "Too many calls are under way. Try again in a moment."),
    "upstream_connect_timeout": Code(504, _UPSTREAM, "The upstream did not accept a connection in time."),
    "upstream_deadline": Code(504, _UPSTREAM, "The upstream did not finish its answer in time."),
    "upstream_timeout": Code(504, _UPSTREAM, "The upstream did not answer in time."),
}
"""code: its meaning. docs/errors.md explains each one; metrics count them by name. In the order of statuses."""

_PHRASES = {413: "Content Too Large", 499: "Client Closed Request"}
"""Reason phrases that ``http`` does not know, or, before Python 3.13, knows by an older name."""


class MistralFilterError(Exception):
    """The root. *message* is for the caller's eyes, *code* is a key of CODES, *param* the path in the body.

    *message* defaults to the sentence of the code, *code* to that of the class. *headers* go out with the response, behind
    those of the class. Raises KeyError for a code that CODES does not have.
    """

    code = "internal"
    headers: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        if code is not None:
            self.code = code
        sentence = CODES[self.code].sentence  # looked up with a message too: an unknown code is a defect
        self.message = sentence if message is None else message
        self.param = param
        self.headers = (*self.headers, *headers)
        super().__init__(self.message)

    @property
    def status(self) -> int:
        """The status of the response."""
        return CODES[self.code].status

    @property
    def type(self) -> str:
        """OpenAI's word for the kind of error."""
        return CODES[self.code].type

    def detached(self) -> Self:
        """This error without its traceback, context and cause; what is kept of it then keeps no frame, so no request, alive."""
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self

    def body(self) -> bytes:
        """The JSON of the response, in bytes."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answers the request with this error."""
        body = self.body()
        status = f"{self.status} {_PHRASES.get(self.status) or HTTPStatus(self.status).phrase}"
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *self.headers])
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


class BadRequest(MistralFilterError):
    """The request itself cannot be served."""

    code = "bad_request"


class InvalidJSON(BadRequest):
    """The body does not parse."""

    code = "invalid_json"


class TooDeep(InvalidJSON):
    """A value in the body nests deeper than MAX_DEPTH levels, the same number on every Python."""

    code = "json_too_deep"


class TooComplex(BadRequest):
    """Filtering the body takes more work than one request may cost."""

    code = "too_complex"


class Refused(BadRequest):
    """What the request asks for has no counterpart at Mistral."""

    code = "not_supported_by_mistral"


class Unauthorized(MistralFilterError):
    """No usable key came with the request."""

    code = "invalid_api_key"


class NotFound(MistralFilterError):
    """Nothing is at this path."""

    code = "not_found"


class MethodNotAllowed(MistralFilterError):
    """The path takes other methods, which *allow* names for the Allow header."""

    code = "method_not_allowed"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message, headers=[("Allow", allow)])


class BodyTimeout(MistralFilterError):
    """The body did not come in time."""

    code = "body_timeout"


class BodyTooLarge(MistralFilterError):
    """The body is larger than the limit."""

    code = "body_too_large"


class UnsupportedEncoding(MistralFilterError):
    """The body is compressed."""

    code = "unsupported_content_encoding"


class ClientGone(MistralFilterError):
    """The client closed the connection before it had its answer, or did not read it (``client_slow``)."""

    code = "client_gone"


class Overloaded(MistralFilterError):
    """A limit of this worker is reached: calls under way, bytes of bodies (``body_budget``), or ``no_descriptors``."""

    code = "overloaded"
    headers = (("Retry-After", "1"),)


class UpstreamError(MistralFilterError):
    """The upstream could not be reached, or its answer could not be used; *code* says what happened."""

    def __init__(self, code: str, message: str | None = None, *, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(message, code=code, headers=headers)


_BY_STATUS = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_timeout",
    413: "body_too_large",
    414: "uri_too_long",
    417: "expectation_failed",
    431: "request_header_fields_too_large",
    501: "not_implemented",
}
"""What Flask and gunicorn answer by themselves."""


def from_status(status: int, headers: Iterable[tuple[str, str]] = ()) -> MistralFilterError:
    """The error for a *status* that the framework or the server decided on.

    A status without a code of its own becomes ``bad_request`` (400) below 500, and ``internal`` (500) from there on.
    """
    code = _BY_STATUS.get(status) or ("bad_request" if status < 500 else "internal")
    return MistralFilterError(code=code, headers=headers)
