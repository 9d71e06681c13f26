"""``mistral-filter check``: whether the proxy would work here, step by step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    from mistral_filter.proxy.settings import Settings

__all__ = ["check"]


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
        key = click.prompt("Mistral key (Enter: none)", default="", hide_input=True, show_default=False, err=True) or None
    good = not wrong
    for step in _exchange(settings, name, key, server_held=own is not None):
        _print(step)
        good = good and step.good is not False
    sys.exit(0 if good else 1)


_FAILS_AT = {
    "upstream_dns": 0,
    "upstream_unreachable": 1,
    "upstream_connect_timeout": 1,
    "upstream_tls": 2,
}
"""The step that an error of the proxy speaks of, by its code."""


def _exchange(settings: Settings, name: str, key: str | None, *, server_held: bool) -> Iterator[Step]:
    """One GET of the models through the proxy itself, and what it tells of each step on the way."""
    from mistral_filter.proxy.app import create_app

    base = urlsplit(settings.upstreams[name] if name else settings.upstream)
    client = create_app(replace(settings, log_level="CRITICAL")).test_client()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = client.get(f"/{name}/v1/models" if name else "/v1/models", headers=headers)
    shown = answer.get_json(silent=True)
    said_error = shown.get("error") if isinstance(shown, dict) else None
    error = said_error if isinstance(said_error, dict) else {}
    code, message = str(error.get("code")), str(error.get("message") or f"status {answer.status_code}")
    failed = _FAILS_AT.get(code, 3)
    way = "through MISTRAL_FILTER_PROXY" if settings.proxy else f"{base.hostname}"
    said = (way, f"port {base.port or (443 if base.scheme == 'https' else 80)} accepts connections", "the certificate is trusted")
    for index, (step, words) in enumerate(zip(("Name", "Connection", "TLS"), said, strict=True)):
        if index == failed:
            hint = "" if settings.proxy else " If only a proxy reaches the internet, set MISTRAL_FILTER_PROXY."
            yield Step(step, False, message + (hint if index < 2 else ""))
        elif index > failed:
            yield Step(step, None, "not reached")
        elif step == "TLS" and base.scheme == "http":
            yield Step(step, None, "plain http, to this machine only")
        else:
            yield Step(step, True, words)
    if failed < 3:
        yield Step("Models", None, "not reached")
    elif answer.status_code == 200 and isinstance(shown, dict) and isinstance(shown.get("data"), list):
        yield Step("Models", True, f"{len(shown['data'])} models are offered to {'the held key' if server_held else 'your key'}")
    elif answer.status_code == 401 and not key:
        yield Step("Models", None, "the API asks for a key, as it should; set MISTRAL_API_KEY to check yours")
    elif answer.status_code in (401, 403):
        which = "MISTRAL_FILTER_API_KEY or MISTRAL_FILTER_API_KEYS" if server_held else "your key"
        yield Step("Models", False, f"Mistral refuses the key ({answer.status_code}): check {which}")
    else:
        yield Step("Models", False, message)


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
