"""The middleware for an existing Flask app.

::

    from mistral_filter.flask import init_app

    init_app(app, fields="current")

A request that the filter refuses is answered inside Flask, so the app's CORS headers, error handlers and after_request functions
apply to it. Without a handler in the app, the answer is the error's JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from flask import Flask, request
from werkzeug.exceptions import HTTPException, default_exceptions
from werkzeug.wrappers import Response

from mistral_filter.errors import MistralFilterError
from mistral_filter.middleware import MistralFilter, replace_body

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["FilterRefusal", "init_app"]

_ERROR = "mistral_filter.error"


class FilterRefusal(HTTPException):
    """An error of the filter as an HTTPException: the app's handlers for its status and for HTTPException apply."""

    def __init__(self, error: MistralFilterError) -> None:
        super().__init__(error.message)
        self.error = error

    def get_response(self, environ: Any = None, scope: Any = None) -> Any:
        """The error's JSON."""
        return Response(self.error.body(), self.error.status, self.error.headers, content_type="application/json")


@lru_cache
def _refusal_of(status: int) -> type[FilterRefusal]:
    """Flask looks for an app's handler of a status by werkzeug's class for it."""
    return type(f"FilterRefusal{status}", (FilterRefusal, default_exceptions[status]), {})


class _FlaskFilter(MistralFilter):
    def refuse(self, error: MistralFilterError, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # An app without the hook sees an empty body, never an unfiltered one.
        environ[_ERROR] = error.detached()
        replace_body(environ, b"")
        return self.app(environ, start_response)


def init_app(app: Flask, **options: Any) -> Flask:
    """Puts the filter in front of *app* and returns it; *options* are those of MistralFilter. It keeps nothing itself."""
    app.wsgi_app = _FlaskFilter(app.wsgi_app, **options)  # type: ignore[method-assign]
    app.before_request_funcs.setdefault(None, []).insert(0, _raise_refusal)
    return app


def _raise_refusal() -> None:
    error = request.environ.get(_ERROR)
    if error is not None:
        raise _refusal_of(error.status)(error)
