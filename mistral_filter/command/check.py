"""``mistral-filter check``: whether the proxy would work here, step by step."""

from __future__ import annotations

import re
import socket
import ssl
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    from mistral_filter.proxy.settings import Settings

__all__ = ["check"]


_SECONDS = 15.0
"""How long the upstream may keep silent; a server would wait for MISTRAL_FILTER_READ_TIMEOUT."""


class Step(NamedTuple):
    """One thing that was looked at; *good* None: it was not reached, or there is nothing to look at."""

    name: str
    good: bool | None
    said: str


@click.command(short_help="Check the settings and the way to Mistral.")
@click.option("--upstream", "name", default="", help="Check this named upstream, not the one at /v1.")
@click.option("--key", envvar="MISTRAL_API_KEY", help="Your Mistral key. Prefer the variable MISTRAL_API_KEY or the prompt.")
def check(name: str, key: str | None) -> None:
    """Check the settings, name resolution, TLS and your key, step by step.

    One request is sent, to /v1/models; it costs nothing. Exit status: 0 all is well, 1 otherwise.
    """
    from mistral_filter.proxy.settings import SettingError, from_environment, misspelt_variables

    try:
        settings = from_environment()
    except SettingError as error:
        _print(Step("Settings", False, str(error)))
        sys.exit(1)
    if name and name not in settings.upstreams:
        raise click.UsageError(f"There is no upstream {name!r}; the named ones are {', '.join(settings.upstreams)}.")
    wrong = misspelt_variables()
    _print(Step("Settings", not wrong, " ".join(wrong) or f"read; the list for chat is {settings.fields}"))
    own = settings.api_keys.get(name) if name else settings.api_key
    if own is not None:
        key = settings.tokens[0]
    elif key is None and sys.stdin.isatty():
        key = click.prompt("Mistral key (Enter: none)", default="", hide_input=True, show_default=False, err=True)
    good = not wrong
    try:
        for step in _exchange(settings, name, (key or "").strip(), server_held=own is not None):
            _print(step)
            good = good and step.good is not False
    except SettingError as error:
        _print(Step("Settings", False, str(error)))
        good = False
    sys.exit(0 if good else 1)


_FAILS_AT = {
    "upstream_dns": 0,
    "upstream_unreachable": 1,
    "upstream_connect_timeout": 1,
    "upstream_tls": 2,
}
"""The step that an error of the proxy speaks of, by its code."""


def _exchange(settings: Settings, name: str, key: str, *, server_held: bool) -> Iterator[Step]:
    """One GET of the models through the proxy itself, and what it tells of each step on the way."""
    from mistral_filter.proxy.app import create_app

    base = urlsplit(settings.upstreams[name] if name else settings.upstream)
    quick = replace(
        settings,
        log_level="CRITICAL",
        patience=0.0,
        read_timeout=min(settings.read_timeout, _SECONDS),
        total_timeout=settings.connect_timeout + _SECONDS,
    )
    client = create_app(quick).test_client()
    legal = re.fullmatch(r"[\x21-\x7e]*", key) is not None
    headers = {"Authorization": f"Bearer {key}"} if key and legal else {}
    answer = client.get(f"/{name}/v1/models" if name else "/v1/models", headers=headers)
    shown = answer.get_json(silent=True)
    said_error = shown.get("error") if isinstance(shown, dict) else None
    error = said_error if isinstance(said_error, dict) else {}
    code, message = str(error.get("code")), str(error.get("message") or f"status {answer.status_code}")
    failed = _FAILS_AT.get(code, 3)
    port = base.port or (443 if base.scheme == "https" else 80)
    if settings.proxy:
        said = (
            "through MISTRAL_FILTER_PROXY",
            f"the proxy connects to {base.hostname}, port {port}",
            "the certificate is trusted",
        )
    else:
        said = (f"{base.hostname}", f"port {port} accepts connections", "the certificate is trusted")
    for index, (step, words) in enumerate(zip(("Name", "Connection", "TLS"), said, strict=True)):
        if index == failed:
            hint = "" if settings.proxy else " If only a proxy reaches the internet, set MISTRAL_FILTER_PROXY."
            why = hint if index < 2 else "" if settings.proxy else _tls_problem(f"{base.hostname}", port, settings.ca_bundle)
            yield Step(step, False, message + why)
        elif index > failed:
            yield Step(step, None, "not reached")
        elif step == "TLS" and base.scheme == "http":
            yield Step(step, None, "plain http, to this machine only")
        else:
            yield Step(step, True, words)
    if failed < 3:
        yield Step("Models", None, "not reached")
    elif not legal:
        yield Step("Models", False, "your key holds a space or a character that no key has: copy it again")
    elif answer.status_code == 200 and isinstance(shown, dict) and isinstance(shown.get("data"), list):
        yield Step("Models", True, f"{len(shown['data'])} models are offered to {'the held key' if server_held else 'your key'}")
    elif answer.status_code == 401 and not key:
        yield Step("Models", None, "the API asks for a key, as it should; set MISTRAL_API_KEY to check yours")
    elif code == "upstream_unauthorized":
        yield Step("Models", False, f"Mistral refuses the held key: check MISTRAL_FILTER_API_KEY{'S' if name else ''}")
    elif answer.status_code in (401, 403) and isinstance(shown, dict) and shown.keys() > {"error"}:
        yield Step("Models", False, f"Mistral refuses the key ({answer.status_code}): check your key")
    elif code.startswith("upstream_") or answer.status_code == 429:
        yield Step("Models", False, message)
    else:  # a page of a firewall, of a hotel's network, of another service
        setting = "MISTRAL_FILTER_UPSTREAMS" if name else "MISTRAL_FILTER_UPSTREAM"
        message = message if error else "The answer is not a list of models."
        yield Step("Models", False, f"{message} Does Mistral's API answer at {base.netloc}? Check {setting}.")


def _tls_problem(host: str, port: int, ca_bundle: str | None) -> str:
    """What is wrong with the certificate, in OpenSSL's words; "" where it is something else.

    The proxy does not tell its callers so much; here a handshake of our own asks, without a request.
    """
    import certifi

    context = ssl.create_default_context(cafile=ca_bundle or certifi.where())
    try:
        with (
            socket.create_connection((host, port), _SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return f" The certificate: {error.verify_message.rstrip('.')}."
    except OSError:
        return ""


def _print(step: Step) -> None:
    mark, colour = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", None)}[step.good]
    if not _unicode():
        mark = {"✓": "ok", "✗": "FAIL", "·": "-"}[mark]
    click.echo(f"{click.style(mark, fg=colour)} {step.name}: {step.said}")


def _unicode() -> bool:
    try:
        "✓✗·".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
