"""The page that a person sees who opens the server's address in a browser; programs get the same as JSON.

It is made anew for each request, since it holds the address under which it was asked for. What a request says of that
address is only believed where it has the form of one.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from flask import Blueprint, Response, render_template, request
from msgspec import json

from mistral_filter import __version__
from mistral_filter.fields import CHAT_FIELDS
from mistral_filter.paths import PATHS

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["create_page", "own_address"]

_TEMPLATE = "page.html"

_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?!.{{262}})({_LABEL}(\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]{{2,45}}\])(:[0-9]{{1,5}})?")
"""A name, an IPv4 address or an IPv6 address in brackets, and perhaps a port."""

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
    """A blueprint with one route, ``/``.

    *upstreams* are the base URLs by name, ``""`` for the one below ``/v1``: the page says where a key goes. The other
    arguments are what the proxy runs with; *own_key* is false where the server holds the key and callers show a token.
    """
    blueprint = Blueprint("mistral_filter_page", __name__, template_folder=".")
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
    }
    headers = {
        "Content-Security-Policy": f"default-src 'none'; style-src '{_style_hash()}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "Vary": "Accept, X-Forwarded-Host, X-Forwarded-Proto",
    }

    @blueprint.route("/", strict_slashes=False)  # not strict: no redirect from a mount point to the same with a slash
    def page() -> Response:
        root = own_address(request.environ)
        # Whoever does not ask for a page (curl, a script, a health check) is a program.
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
            text = render_template(_TEMPLATE, root=root, plain=_PLAIN.match(root), **facts)
            return Response(text, headers=headers, mimetype="text/html")
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

    return blueprint


def own_address(environ: WSGIEnvironment) -> str:
    """Scheme, host and mount point of the server as its caller sees it: ``https://chat.example.com/prefix``.

    Taken from X-Forwarded-Proto and X-Forwarded-Host (of several values the first: the outermost proxy's) or Host. What does
    not look like a scheme or a host is passed over, in the end for the server's own name.
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
    return f"{scheme}://{host}" + quote(environ.get("SCRIPT_NAME", "").rstrip("/"), encoding="latin-1", errors="replace")


def _first(environ: WSGIEnvironment, name: str) -> str:
    value: str = environ.get(name, "")
    return value.split(",")[0].strip(" \t")


def _style_hash() -> str:
    """What the Content-Security-Policy allows: the style sheet in the template, as it is."""
    style = (Path(__file__).parent / _TEMPLATE).read_text("utf-8").partition("<style>")[2].partition("</style>")[0]
    return "sha256-" + b64encode(sha256(style.encode()).digest()).decode()
