"""The routes of the proxy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request
from msgspec import json

from mistral_filter import __version__
from mistral_filter.errors import MethodNotAllowed, MistralFilterError, NotFound
from mistral_filter.explain import explain
from mistral_filter.fields import CHAT_FIELDS, ENDPOINTS
from mistral_filter.middleware import MAX_BODY, read_body, wants_strict
from mistral_filter.models import check_models
from mistral_filter.paths import PATHS, Target, locate
from mistral_filter.proxy.call import call_of, note_outcome
from mistral_filter.proxy.forward import Forwarder
from mistral_filter.proxy.hints import hint_for, hint_for_unknown
from mistral_filter.proxy.secret import ServerKey
from mistral_filter.proxy.upstream import Upstream

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["METHODS", "create_blueprint", "error_response"]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
"""What Mistral's API uses (OpenAPI 2026-08-21), and HEAD."""

_NO_KEY = ServerKey(None)

MAX_EXPLAIN = 256 * 1024
"""Bytes. Enough to see what happens to a request; an explanation is several times as long as the body."""


def create_blueprint(
    upstreams: Mapping[str, Upstream],
    *,
    keys: Mapping[str, ServerKey] | None = None,
    forwarder: Forwarder | None = None,
    max_body: int = MAX_BODY,
    filter_options: Mapping[str, Any] | None = None,
) -> Blueprint:
    """A blueprint that forwards ``/v1/…`` to ``upstreams[""]`` and ``/NAME/v1/…`` to ``upstreams[NAME]``.

    *keys* are the server's own, by the same names; without one, callers send theirs. *forwarder* holds how requests are sent,
    *max_body* (bytes) and *filter_options* (those of ``filter_body``) are for ``/explain/<endpoint>``.

    Put ``MistralFilter`` (or ``init_app``) with ``prefixes=("", "/NAME", …)`` in front of it: without the filter, requests to its
    endpoints are refused. Put ``Calls`` outermost for timeouts and bounds, and set ``app.url_map.merge_slashes = False``: a
    redirected POST loses its body.
    """
    check_models((filter_options or {}).get("models") or {})  # names that cannot be used stop the start, not a request
    blueprint = Blueprint("mistral_filter", __name__)
    prefixes = tuple("/" + name if name else "" for name in upstreams)
    send, own_keys = forwarder or Forwarder(), keys or {}

    @blueprint.route("/<path:path>", methods=METHODS)
    def forward(path: str) -> Response:
        environ = request.environ
        target = _target(environ, prefixes)
        if target.path == "/v1":
            models = f"{target.prefix}/v1/models"
            return _json({"object": "proxy", "name": "mistral-filter", "version": __version__, "models": models})
        name = target.prefix[1:]
        return send(upstreams[name], own_keys.get(name, _NO_KEY), target, environ)

    @blueprint.route("/explain/<path:endpoint>", methods=["POST"])
    def explain_body(endpoint: str) -> Response:
        """What the filter would do to the body; no key is needed and nothing is sent on. ``?fields=`` chooses another list."""
        by_path = {path: name for name, path in PATHS.items()}
        name = endpoint if endpoint in ENDPOINTS else by_path.get(endpoint.removeprefix("v1/"))
        if name is None:
            raise NotFound(f"There is no such endpoint to explain. There are: {', '.join(ENDPOINTS)}.")
        call_of(request.environ).take_place()
        options = {**(filter_options or {})}
        options["strict"] = options.get("strict") or wants_strict(request.environ)
        if request.args.get("fields") in CHAT_FIELDS:  # for the inspector, which compares the lists
            options["fields"] = request.args["fields"]
        explanation = explain(read_body(request.environ, min(max_body, MAX_EXPLAIN)), name, **options)
        response = Response(explanation.as_json(), content_type="application/json")
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @blueprint.route("/health")
    @blueprint.route("/healthz")
    def health() -> Response:
        return _json({"status": "ok"})

    @blueprint.route("/robots.txt")
    def robots() -> Response:
        return Response("User-agent: *\nDisallow: /\n", mimetype="text/plain")

    @blueprint.route("/favicon.ico")
    def favicon() -> Response:
        return Response(status=204)

    @blueprint.errorhandler(MistralFilterError)
    def answer_error(error: MistralFilterError) -> Response:
        return error_response(error)

    return blueprint


def error_response(error: MistralFilterError) -> Response:
    """*error* as Flask answers it."""
    note_outcome(request.environ, error)  # for the log
    return Response(error.body(), error.status, error.headers, content_type="application/json")


def _json(value: Any) -> Response:
    return Response(json.encode(value), content_type="application/json")


def _target(environ: WSGIEnvironment, prefixes: tuple[str, ...]) -> Target:
    """What the request asks for; raises NotFound or MethodNotAllowed."""
    method = environ["REQUEST_METHOD"]
    target = locate(environ.get("PATH_INFO", ""), prefixes)
    if target is None or target.refused:
        raise NotFound(hint_for_unknown(environ.get("PATH_INFO", ""), prefixes))
    if target.endpoint is not None and method != "POST":
        raise MethodNotAllowed(f"{target.path} takes POST with a JSON body, not {method}.", "POST, OPTIONS")
    if target.path == "/v1" and method not in ("GET", "HEAD"):
        raise NotFound("There is nothing to send to at /v1. Add the endpoint: /v1/chat/completions.")
    if (hint := hint_for(target, method)) is not None:
        raise NotFound(hint)
    return target
