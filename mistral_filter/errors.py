"""Every error that mistral-filter answers by itself. Each knows its status, and each is a WSGI application.

MistralFilterError
├── BadRequest                  400
│   ├── InvalidJSON             the body does not parse
│   │   └── TooDeep             it nests deeper than MAX_DEPTH
│   ├── TooComplex              it has more parts than the filter opens
│   └── Refused                 no translation exists, or strict mode would lose something
├── Unauthorized                401
├── NotFound                    404
├── MethodNotAllowed            405
├── BodyTimeout                 408
├── BodyTooLarge                413
├── UnsupportedEncoding         415
├── ClientGone                  499, for the log: nobody reads it
├── Overloaded                  503
└── UpstreamError               502 or 504; ``code`` says what happened

The one shape: ``{"error": {"message": str, "type": str, "param": str | null, "code": str | null}}``. A message is written
here or made of names; it never holds a key, a prompt, a query string or the text of another exception.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = [
    "MAX_DEPTH",
    "BadRequest",
    "BodyTimeout",
    "BodyTooLarge",
    "ClientGone",
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
]

MAX_DEPTH = 200
"""Levels of nesting inside one value."""

_REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    499: "Client Closed Request",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


class MistralFilterError(Exception):
    """The root. *message* is for the caller's eyes, *param* is the path in the body, *code* a stable word."""

    status = 500
    type = "server_error"
    code: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code

    def body(self) -> bytes:
        """The JSON answer, in bytes."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answers the request with this error."""
        body = self.body()
        status = f"{self.status} {_REASONS[self.status]}"
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *self.headers])
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


class BadRequest(MistralFilterError):
    """The request itself cannot be served."""

    status = 400
    type = "invalid_request_error"
    code = "bad_request"


class InvalidJSON(BadRequest):
    """The body does not parse."""

    code = "invalid_json"


class TooDeep(InvalidJSON):
    """A value in the body nests deeper than MAX_DEPTH levels, the same number on every Python."""

    code = "json_too_deep"

    def __init__(self, message: str = f"Invalid JSON: a value nests deeper than {MAX_DEPTH} levels.") -> None:
        super().__init__(message)


class TooComplex(BadRequest):
    """The body has more parts than the filter opens in one request."""

    code = "too_complex"


class Refused(BadRequest):
    """What the request asks for has no counterpart at Mistral."""

    code = "not_supported_by_mistral"


class Unauthorized(MistralFilterError):
    """No usable key came with the request."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class NotFound(MistralFilterError):
    """Nothing is at this path."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class MethodNotAllowed(MistralFilterError):
    """The path takes other methods, named in the Allow header."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.headers = (("Allow", allow),)


class BodyTimeout(MistralFilterError):
    """The body did not come in time."""

    status = 408
    type = "invalid_request_error"
    code = "body_timeout"


class BodyTooLarge(MistralFilterError):
    """The body is larger than the limit."""

    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class UnsupportedEncoding(MistralFilterError):
    """The body is compressed."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_encoding"


class ClientGone(MistralFilterError):
    """The client closed the connection before it had its answer."""

    status = 499
    code = "client_gone"


class Overloaded(MistralFilterError):
    """More calls are under way than this worker takes."""

    status = 503
    code = "overloaded"
    headers = (("Retry-After", "1"),)


class UpstreamError(MistralFilterError):
    """The upstream could not be reached, or its answer could not be used."""

    type = "upstream_error"

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message, code=code)
        self.status = status
