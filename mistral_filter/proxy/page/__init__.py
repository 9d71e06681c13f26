"""The page at ``/`` for a person in a browser: Start, Inspector and Try it. Programs get a summary as JSON.

It is made anew for each request, since it holds the address under which it was asked for and the language that the browser
prefers. What a request says of that address is only believed where it has the form of one. Style and script are in the page
itself, allowed by their hashes; they never change after the start. Clients, samples and texts are data in the files beside this.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flask import Blueprint, Response, redirect, render_template, request
from markupsafe import Markup, escape
from msgspec import json
from werkzeug.exceptions import MethodNotAllowed
from werkzeug.wrappers import Response as AnyResponse

from mistral_filter import __version__
from mistral_filter.fields import CHAT_FIELDS, ENDPOINTS
from mistral_filter.paths import PATHS
from mistral_filter.proxy.view import MAX_EXPLAIN

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["LANGUAGES", "create_page", "own_address"]

LANGUAGES = ("en", "zh")
"""Each has a file of texts; the first is for browsers that prefer none of them."""

_TEMPLATE = "page.html"

_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?!.{{262}})({_LABEL}(\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]{{2,45}}\])(:[0-9]{{1,5}})?")
"""A name, an IPv4 address or an IPv6 address in brackets, and perhaps a port."""

_PREFIX = re.compile(r"(?!.{201})(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._~-]+)*/?")
"""A path prefix as proxies strip it: plain segments."""

_PLAIN = re.compile(r"http://(?!(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?(/|$))")
"""An address to which keys travel unencrypted over a network."""

_OFTEN_SENT = (
    "presence_penalty frequency_penalty n parallel_tool_calls reasoning_effort "
    "logit_bias user stream_options store verbosity web_search_options min_p"
).split()
"""Fields that clients send; those that are not kept show what is dropped."""


def create_page(
    *,
    fields: str,
    upstreams: Mapping[str, str],
    allow: Collection[str] = (),
    drop: Collection[str] = (),
    translate: bool = True,
    strict: bool = False,
    own_key: bool = True,
) -> Blueprint:
    """A blueprint with the page at ``/``, to which ``GET /explain/<endpoint>`` in a browser leads.

    *upstreams* are the base URLs by name, ``""`` for the one below ``/v1``: the page says where a key goes. The other
    arguments are what the proxy runs with; *own_key* is false where the server holds the key and callers show a token.
    """
    blueprint = Blueprint("mistral_filter_page", __name__, template_folder=".")
    blueprint.add_app_template_filter(_marked, "marked")
    files = {name: _read(name) for name in ("page.css", "page.js")}
    texts: dict[str, Any] = {language: json.decode(_read(f"{language}.json")) for language in LANGUAGES}
    clients = json.decode(_read("clients.json"))
    table = CHAT_FIELDS[fields].fields
    kept = [name for name in dict.fromkeys([*table, *allow]) if name not in drop]
    named = {name: url for name, url in upstreams.items() if name}
    facts = {
        "version": __version__,
        "fields": fields,
        "kept": kept,
        "dropped": [name for name in dict.fromkeys([*drop, *_OFTEN_SENT]) if name not in kept],
        "upstream": upstreams.get("", ""),
        "named": named,
        "translate": translate,
        "strict": strict,
        "own_key": own_key,
        "endpoints": list(ENDPOINTS),
        "lists": list(CHAT_FIELDS),
        "samples": json.decode(_read("samples.json")),
        "style": Markup(files["page.css"]),  # noqa: S704 a file of this package
        "script": Markup(files["page.js"]),  # noqa: S704 the same
        **{name: clients[name] for name in ("groups", "model", "listed")},
    }

    def filled(code: str, root: str) -> str:
        """A client's setting for the server at *root*."""
        if not own_key:
            code = code.replace("MISTRAL_API_KEY", "FILTER_TOKEN").replace("YOUR_KEY", "YOUR_TOKEN")
        return code.replace("{base}", f"{root}/v1").replace("{root}", root).replace("{model}", clients["model"])

    blueprint.add_app_template_filter(filled, "filled")
    policy = {
        "default-src": "'none'",
        "style-src": _hash(files["page.css"]),
        "script-src": _hash(files["page.js"]),
        "connect-src": "'self'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "Vary": "Accept, Accept-Language, X-Forwarded-Host, X-Forwarded-Prefix, X-Forwarded-Proto",
    }

    @blueprint.route("/", strict_slashes=False)  # not strict: no redirect from a mount point to the same with a slash
    def page() -> Response:
        root = own_address(request.environ)
        if _wants_page():
            language = _language()
            known = {
                "root": root,
                "largest": MAX_EXPLAIN,
                "samples": facts["samples"],
                "texts": texts[language]["js"],
                "reasons": texts[language]["reasons"],
            }
            html = render_template(
                _TEMPLATE,
                root=root,
                plain=_PLAIN.match(root),
                language=language,
                other=next(other for other in LANGUAGES if other != language),
                t=texts[language],
                data=Markup(json.encode(known).decode().replace("<", "\\u003c")),  # noqa: S704 it cannot end the element
                **facts,
            )
            return Response(html, headers=headers, mimetype="text/html")
        summary = {
            "name": "mistral-filter",
            "version": __version__,
            "base_url": f"{root}/v1",
            "upstreams": {name: f"{root}/{name}/v1" for name in named},
            "endpoints": {name: f"{root}/v1/{path}" for name, path in PATHS.items()},
            "list": fields,
            "fields": kept,
            "health": f"{root}/health",
            "explain": f"{root}/explain/chat",
        }
        return Response(json.encode(summary), headers=headers, mimetype="application/json")

    @blueprint.route("/explain/<path:endpoint>")
    @blueprint.route("/explain")
    def inspector(endpoint: str = "chat") -> AnyResponse:
        """A person who opens the address of ``/explain`` is led to the inspector; a program reads that it takes POST."""
        if not _wants_page():
            raise MethodNotAllowed(["POST", "OPTIONS"])
        chosen = f"?endpoint={quote(endpoint)}" if endpoint in ENDPOINTS else ""
        response = redirect(f"{own_address(request.environ)}/{chosen}#inspector", 303)
        response.headers["Cache-Control"] = "no-store"
        return response

    return blueprint


def own_address(environ: WSGIEnvironment) -> str:
    """Scheme, host and mount point of the server as its caller sees it: ``https://chat.example.com/prefix``.

    Taken from X-Forwarded-Proto and X-Forwarded-Host (of several values the first: the outermost proxy's) or Host, and from
    X-Forwarded-Prefix before the mount point, unless a middleware has made it part of that already. What does not look like a
    scheme, a host or a prefix is passed over, in the end for the server's own name.
    """
    scheme = _first(environ, "HTTP_X_FORWARDED_PROTO").lower()
    if scheme not in ("http", "https"):
        scheme = environ["wsgi.url_scheme"]
    names = (
        _first(environ, "HTTP_X_FORWARDED_HOST"),
        environ.get("HTTP_HOST", ""),
        f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}",  # behind a Unix socket, gunicorn takes this from Host, too
        "localhost",
    )
    host = next(name for name in names if _HOST.fullmatch(name))
    mount = quote(environ.get("SCRIPT_NAME", "").rstrip("/"), encoding="latin-1", errors="replace")
    prefix = _first(environ, "HTTP_X_FORWARDED_PREFIX").rstrip("/")
    if not _PREFIX.fullmatch(prefix) or f"{mount}/".startswith(f"{prefix}/"):
        prefix = ""
    return f"{scheme}://{host}{prefix}{mount}"


def _first(environ: WSGIEnvironment, name: str) -> str:
    value: str = environ.get(name, "")
    return value.split(",")[0].strip(" \t")


def _wants_page() -> bool:
    """Whether HTML is preferred. Clients that do not ask for a page (curl, a script, a health check) are programs."""
    return request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"


def _language() -> str:
    """The language that the address asks for, or the browser."""
    asked = request.args.get("lang", "")
    return asked if asked in LANGUAGES else request.accept_languages.best_match(LANGUAGES, LANGUAGES[0])


def _marked(text: str) -> Markup:
    """*text* with what stands in backquotes as code."""
    parts = [Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(text.split("`"))]
    return Markup().join(parts)


def _read(name: str) -> str:
    return (Path(__file__).parent / name).read_text("utf-8")


def _hash(text: str) -> str:
    """*text*, an inline style sheet or script, as a Content-Security-Policy allows it."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
