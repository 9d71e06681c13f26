"""``create_app``: the proxy as a WSGI application, put together from its parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, Response, request
from flask_cors import CORS
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter

from mistral_filter.errors import MistralFilterError, from_status
from mistral_filter.filtering import Learnt
from mistral_filter.flask import FilterRefusal, init_app
from mistral_filter.paths import locate
from mistral_filter.proxy.budget import Budget
from mistral_filter.proxy.call import Timeouts, call_of
from mistral_filter.proxy.calls import Calls
from mistral_filter.proxy.cors import EXPOSED_HEADERS, origin_patterns
from mistral_filter.proxy.forward import Forwarder, credentials_of
from mistral_filter.proxy.learning import Learned
from mistral_filter.proxy.logs import Record, RequestLog, configure
from mistral_filter.proxy.metrics import create_metrics
from mistral_filter.proxy.page import create_page
from mistral_filter.proxy.secret import ServerKey
from mistral_filter.proxy.settings import SettingError, Settings, from_environment, new_warnings
from mistral_filter.proxy.upstream import Upstream
from mistral_filter.proxy.view import METHODS, create_blueprint, error_response

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["create_app"]

PREFLIGHT_MAX_AGE = 86400  # seconds; browsers shorten it as they see fit


def create_app(settings: Settings | None = None) -> Flask:
    """The whole proxy as a WSGI application. *settings* default to those of the environment.

    Raises SettingError, which names the variable, for a setting that cannot be used.
    """
    warnings: list[str] = []
    if settings is None:
        settings, warnings = from_environment(), new_warnings()
    settings.check()
    configure(settings.log_level, settings.log_format)
    for sentence in warnings:
        logging.getLogger("mistral_filter").warning("%s", sentence)
    bases = {"": settings.upstream, **settings.upstreams}
    own_keys = {"": settings.api_key, **settings.api_keys}
    upstreams = {name: _upstream(name, base, settings) for name, base in bases.items()}
    keys = {name: ServerKey(own_keys.get(name), settings.tokens) for name in bases}
    prefixes = tuple("/" + name if name else "" for name in bases)
    filter_options = {
        "fields": settings.fields,
        "allow": settings.allow,
        "drop": settings.drop,
        "translate": settings.translate,
        "bridge": settings.bridge,
        "strict": settings.strict,
        "models": settings.models,
    }
    app = _Synchronous("mistral_filter", static_folder=None)
    app.url_map.merge_slashes = False  # a redirected POST loses its body or its key
    learned = Learned() if settings.learn else None
    forwarder = Forwarder(learned=learned, reasoning=settings.reasoning, heartbeat=settings.heartbeat, patience=settings.patience)
    app.register_blueprint(
        create_blueprint(upstreams, keys=keys, forwarder=forwarder, max_body=settings.max_body, filter_options=filter_options)
    )
    app.register_blueprint(
        create_page(
            fields=settings.fields,
            upstreams={name: base for name, base in bases.items() if not name or not settings.tokens or own_keys.get(name)},
            allow=settings.allow,
            drop=settings.drop,
            translate=settings.translate,
            strict=settings.strict,
            own_key=not settings.tokens,
        )
    )
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _defect)
    app.before_request(_preflight)
    any_origin = settings.cors_origins == ("*",)
    CORS(
        app,
        origins=origin_patterns(settings.cors_origins),
        send_wildcard=any_origin,
        methods=[*METHODS, "OPTIONS"],
        max_age=PREFLIGHT_MAX_AGE,
        expose_headers=list(EXPOSED_HEADERS),
        automatic_options=False,
    )
    if any_origin:
        app.after_request(_allow_any_origin)  # added last, so called first
    init_app(
        app,
        max_body=settings.max_body,
        prefixes=prefixes,
        admit=_admission(keys),
        learnt=None if learned is None else _memory(learned, prefixes),
        **filter_options,
    )
    observe = _serve_metrics(app) if settings.metrics else None
    app.wsgi_app = Calls(  # type: ignore[method-assign]
        app.wsgi_app,
        report=RequestLog(prefixes=prefixes, observe=observe),
        budget=Budget(calls=settings.concurrency, body_bytes=settings.body_budget, max_body=settings.max_body),
        timeouts=Timeouts(total=settings.total_timeout, send=settings.send_timeout, body=settings.body_timeout),
    )
    return app


class _Synchronous(Flask):
    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Every function here is one: Flask need not look at each of them at every request."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """No route here has a host, and none is built from one: that of the request need not be parsed."""
        if request is None:
            return super().create_url_adapter(request)
        return MapAdapter(self.url_map, "localhost", request.root_path, "", "http", request.path, request.method)


def _upstream(name: str, base: str, settings: Settings) -> Upstream:
    return Upstream(
        base,
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        proxy=settings.proxy,
        ca_bundle=settings.ca_bundle,
        setting="MISTRAL_FILTER_UPSTREAMS" if name else "MISTRAL_FILTER_UPSTREAM",
    )


def _admission(keys: Mapping[str, ServerKey]) -> Callable[[WSGIEnvironment], None]:
    """Judges a request to an endpoint from its head: whether its caller may ask, and whether there is a place for it."""
    prefixes = tuple("/" + name if name else "" for name in keys)

    def admit(environ: WSGIEnvironment) -> None:
        target, call = locate(environ.get("PATH_INFO", ""), prefixes), call_of(environ)
        if target is not None:
            call.credentials = credentials_of(environ)
            keys[target.prefix[1:]].authorize(call.credentials)
        call.take_place()

    return admit


def _memory(learned: Learned, prefixes: tuple[str, ...]) -> Callable[[WSGIEnvironment, str, str | None], tuple[Learnt, ...]]:
    """What the caller's earlier refusals taught of the same upstream, endpoint and model."""

    def known(environ: WSGIEnvironment, endpoint: str, model: str | None) -> tuple[Learnt, ...]:
        target = locate(environ.get("PATH_INFO", ""), prefixes)
        return () if target is None else learned.known(target.prefix, call_of(environ).credentials, model, endpoint)

    return known


def _preflight() -> Response | None:
    """OPTIONS is answered on every path and without a key; flask-cors adds what a browser asks for."""
    if request.method != "OPTIONS":
        return None
    response = Response(status=204)
    if "Access-Control-Request-Method" not in request.headers:  # not a browser: show what a preflight would say
        response.headers["Access-Control-Allow-Methods"] = ", ".join([*METHODS, "OPTIONS"])
        response.headers["Access-Control-Allow-Headers"] = "Content-Type, Authorization"
        response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_MAX_AGE)
    return response


def _allow_any_origin(response: Response) -> Response:
    """Adds what is the same for every response but a preflight; flask-cors leaves a response alone that has it."""
    if request.method != "OPTIONS" and "Access-Control-Allow-Origin" not in response.headers:
        response.headers.add("Access-Control-Allow-Origin", "*")
        response.headers.add("Access-Control-Expose-Headers", _EXPOSED)
    return response


_EXPOSED = ", ".join(sorted(EXPOSED_HEADERS))


def _http_error(error: HTTPException) -> Response:
    """Flask's own errors in the one shape."""
    if isinstance(error, FilterRefusal):
        return error_response(error.error)
    allow = error.get_response().headers.get("Allow") if error.code == 405 else None
    return error_response(from_status(error.code or 500, [("Allow", allow)] if allow else ()))


def _defect(error: Exception) -> Response:
    """A defect of this project: JSON for the client, the exception's type and place for the log, never its text."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place, trace = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}", trace.tb_next
    logging.getLogger("mistral_filter").error("unexpected %s in %s", type(error).__name__, place)
    return error_response(MistralFilterError())


def _serve_metrics(app: Flask) -> Callable[[Record], None]:
    """Adds ``/metrics`` to *app*; returns what is to be told of every request."""
    try:
        observe, render = create_metrics()
    except ImportError:
        raise SettingError("MISTRAL_FILTER_METRICS: install prometheus-client first") from None

    @app.route("/metrics")
    def metrics() -> Response:
        text, kind = render()
        return Response(text, content_type=kind, headers={"Cache-Control": "no-store"})

    return observe
