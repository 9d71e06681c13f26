"""The settings of the proxy: each is declared once, as a field of Settings. The only file that reads the environment.

Every setting is checked at start; a wrong value stops the start with a sentence that names the variable and quotes no
value that may hold a secret. docs/settings.md has the same names, defaults and sentences.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mistral_filter.middleware import MAX_BODY
from mistral_filter.models import parse_models
from mistral_filter.paths import PATHS, ROOTS
from mistral_filter.proxy.cors import parse_origins

__all__ = ["SETTINGS", "SettingError", "Settings", "from_environment", "misspelt_variables", "new_warnings"]

_PREFIX = "MISTRAL_FILTER_"
_UPSTREAMS = {"codestral": "https://codestral.mistral.ai"}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PATHS = {path.split("/")[0] for path in PATHS.values()}
_RESERVED = sorted(ROOTS | _PATHS | {"v1", "health", "healthz", "explain", "metrics", "static"})


class SettingError(ValueError):
    """A setting has a value that cannot be used; the message names it."""


_HOST_AND_PORT = r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?"
_URL = re.compile(rf"(https?)://{_HOST_AND_PORT}")
_PROXY_URL = re.compile(rf"http://(?:[^\s/@?#]+@)?{_HOST_AND_PORT}")


def _url(text: str) -> str:
    match = _URL.fullmatch(text)
    if match is None:
        raise ValueError("write only scheme, host and port, such as https://api.mistral.ai; /v1 is added")
    _check_host_and_port(match[2], match[3])
    if match[1] == "http" and match[2].strip("[]").lower() not in _LOOPBACK:
        raise ValueError("plain http is for this machine only (localhost, 127.0.0.1): elsewhere keys would travel unencrypted")
    return text.rstrip("/")


def _check_host_and_port(host: str, port: str | None) -> None:
    if host.startswith("["):
        ipaddress.IPv6Address(host[1:-1])
    if port is not None and not 0 < int(port[1:]) < 65536:
        raise ValueError(f"{port[1:]} is not a port")


def _named_urls(text: str) -> dict[str, str]:
    upstreams = dict(_UPSTREAMS)
    for item in text.split():
        name, _, url = item.partition("=")
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name) or name in _RESERVED:
            raise ValueError(
                "write NAME=URL, where a name is of lower-case letters, digits and dashes, and none of " + ", ".join(_RESERVED)
            )
        upstreams[name] = _url(url)
    return upstreams


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"write one of: {', '.join(words)}")
        return text

    return parse


def _switch(text: str) -> bool:
    return _one_of("on", "off")(text.lower()) == "on"


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.replace(",", " ").split())
    for name in names:
        if not re.fullmatch(r"\w+", name, re.ASCII):
            raise ValueError("write names of top-level fields, of ASCII letters, digits and underscores")
    return names


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*(|k|m|g)(i?b)?", text.lower())
    if match is None or int(match[1]) == 0:
        raise ValueError("write a number of bytes such as 33554432 or 32m")
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2]]


def _seconds(text: str, instead: str = "") -> float:
    seconds = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0
    if not 0 < seconds <= 86400:
        raise ValueError(f"write a number of seconds above 0, at most 86400{instead}")
    return seconds


def _seconds_or_off(text: str) -> float | None:
    return None if text.lower() in ("off", "0") else _seconds(text, ", or off")


def _seconds_or_none(text: str) -> float:
    return 0.0 if text.lower() in ("off", "0") else _seconds(text, ", or 0")


def _count_or_off(text: str) -> int | None:
    if text.lower() == "off":
        return None
    if not re.fullmatch(r"[1-9]\d{0,6}", text):
        raise ValueError("write a whole number above 0, or off")
    return int(text)


def _secret(text: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]{8,}", text) or set(text) & set(',"\\'):
        raise ValueError("write 8 or more printable ASCII characters: one key, without spaces, commas, quotes and backslashes")
    return text


def _named_secrets(text: str) -> dict[str, str]:
    pairs = [item.partition("=") for item in text.split()]
    if len({name for name, _, _ in pairs}) != len(pairs):
        raise ValueError("write one key for each upstream")
    return {name: _secret(value) for name, _, value in pairs}


def _secrets(text: str) -> tuple[str, ...]:
    return tuple(_secret(token) for token in text.replace(",", " ").split())


def _proxy(text: str) -> str:
    match = _PROXY_URL.fullmatch(text)
    if match is None:
        raise ValueError("write a URL such as http://proxy.example.com:3128; TLS to the upstream goes through it end to end")
    _check_host_and_port(match[1], match[2])
    return text


def _file(text: str) -> str:
    try:
        if not Path(text).is_file():
            raise ValueError("there is no such file")
        ssl.create_default_context(cafile=text)
    except OSError:
        raise ValueError("no certificates can be read from this file") from None
    return text


def _level(text: str) -> str:
    return _one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")(text.upper())


def _setting(default: Any, parse: Callable[[str], Any], sentence: str, *, secret: bool = False) -> Any:
    """A field of Settings.

    *parse* takes the text of the variable and raises ValueError with what is wrong. *sentence* is the meaning in
    docs/settings.md, in Markdown. A *secret* is not in the ``repr``.
    """
    metadata = {"parse": parse, "sentence": sentence, "secret": secret}
    if isinstance(default, dict):
        return field(default_factory=default.copy, repr=not secret, metadata=metadata)
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """What ``create_app`` takes. Each field is read from its variable: ``max_body`` from ``MISTRAL_FILTER_MAX_BODY``."""

    upstream: str = _setting("https://api.mistral.ai", _url, "where `/v1` goes; plain `http` only to this machine")
    upstreams: Mapping[str, str] = _setting(
        _UPSTREAMS, _named_urls, "`NAME=URL …`: further upstreams, each below `/NAME/v1`; they are added to the default"
    )
    fields: str = _setting("classic", _one_of("classic", "current"), "the list for chat: `classic` or `current`")
    allow: tuple[str, ...] = _setting((), _names, "top-level names to keep beside the list: `n presence_penalty`")
    drop: tuple[str, ...] = _setting((), _names, "top-level names to leave out")
    translate: bool = _setting(True, _switch, "`off` applies the lists only, as the original worker did")
    bridge: bool = _setting(False, _switch, "`on` inserts an assistant message between a tool message and a user message")
    strict: bool = _setting(False, _switch, "`on` refuses a request that would lose something")
    models: Mapping[str, str] = _setting(
        {}, parse_models, "`NAME=MODEL …`: other names for models, `gpt-4o=mistral-large-latest gpt-*=mistral-small-latest`"
    )
    learn: bool = _setting(True, _switch, "`off` passes refusals of fields and options (422, 400 code 3051) on at once")
    reasoning: str = _setting("openai", _one_of("openai", "mistral"), "`mistral` leaves content lists as Mistral sends them")
    api_key: str | None = _setting(None, _secret, "a Mistral key that the server holds", secret=True)
    api_keys: Mapping[str, str] = _setting({}, _named_secrets, "`NAME=KEY …`: the same for named upstreams", secret=True)
    tokens: tuple[str, ...] = _setting((), _secrets, "tokens that callers send instead of their own Mistral key", secret=True)
    max_body: int = _setting(
        MAX_BODY, _bytes, "largest JSON body, in bytes (`k`, `m`, `g` are understood); uploads are not limited"
    )
    body_budget: int = _setting(
        64 << 20, _bytes, "bytes of bodies in memory per worker, all callers together; beyond it 503 with `Retry-After`"
    )
    cors_origins: tuple[str, ...] = _setting(
        ("*",), parse_origins, "`*`, `none`, or exact origins: `https://chat.example.com http://[::1]:3000 app://obsidian.md`"
    )
    connect_timeout: float = _setting(10.0, _seconds, "seconds to connect to the upstream")
    read_timeout: float = _setting(600.0, _seconds, "seconds of silence from the upstream, before and within a response")
    total_timeout: float | None = _setting(None, _seconds_or_off, "seconds from the request to the end of the response")
    send_timeout: float | None = _setting(
        60.0, _seconds_or_off, "seconds for a client to take the next piece of a response; `off` waits forever"
    )
    body_timeout: float | None = _setting(
        120.0,
        _seconds_or_off,
        "seconds for a JSON body to arrive, or for the next 64 KB of an upload; then 408; `off` waits forever",
    )
    heartbeat: float | None = _setting(
        None,
        _seconds_or_off,
        "seconds of silence after which an event stream gets a comment, `: keep-alive`, between two events; some hand-written "
        "clients do not understand comments",
    )
    patience: float = _setting(
        0.0,
        _seconds_or_none,
        "seconds in all that a request may wait to be sent again after a 429; each wait is what the answer says, else 1 s, 2 s, "
        "4 s …, and the client gets no byte before it is over; `0` passes each 429 on",
    )
    concurrency: int | None = _setting(
        1000, _count_or_off, "calls under way per worker; beyond it 503 with `Retry-After`; `off` sets no limit"
    )
    proxy: str | None = _setting(
        None,
        _proxy,
        "a proxy to the upstream, `http://HOST:PORT` or `http://USER:PASSWORD@HOST:PORT`; TLS goes through it end to end; "
        "`HTTPS_PROXY` and the like are ignored",
        secret=True,
    )
    ca_bundle: str | None = _setting(None, _file, "a file of trusted certificates, instead of the usual ones")
    log_level: str = _setting("INFO", _level, "`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`")
    log_format: str = _setting("text", _one_of("text", "json"), "`json` writes one object a line")
    metrics: bool = _setting(
        False,
        _switch,
        "`on` serves `/metrics` for Prometheus, counted over all workers; add `prometheus-client` to your `requirements.txt`. "
        "Everyone who reaches the server can read it: `deploy/nginx.conf` restricts it to its own machine",
    )

    def check(self) -> None:
        """Raises SettingError for settings that do not go together."""
        if self.body_budget < self.max_body:
            raise SettingError(
                f"MISTRAL_FILTER_BODY_BUDGET: {self.body_budget} bytes are less than one body of MISTRAL_FILTER_MAX_BODY "
                f"({self.max_body} bytes), which could never be received"
            )
        if (self.api_key or self.api_keys) and not self.tokens:
            raise SettingError(
                "MISTRAL_FILTER_TOKENS: with MISTRAL_FILTER_API_KEY or MISTRAL_FILTER_API_KEYS alone any caller could spend "
                "the key; set the tokens that callers send"
            )
        if self.tokens and not (self.api_key or self.api_keys):
            raise SettingError("MISTRAL_FILTER_API_KEY: tokens are for a key that the server holds, and there is none")
        if self.tokens and "*" in self.cors_origins:
            raise SettingError(
                "MISTRAL_FILTER_CORS_ORIGINS: with a key that the server holds, name the origins that may use it, or write none "
                "where no browser does"
            )
        if {self.api_key, *self.api_keys.values()} & set(self.tokens):
            raise SettingError("MISTRAL_FILTER_TOKENS: a token that is the key itself would hand out the key")
        if set(self.api_keys) - set(self.upstreams):
            # the name is not quoted: it may be a key that was written without one
            known = ", ".join(self.upstreams) or "none is configured"
            raise SettingError(f"MISTRAL_FILTER_API_KEYS: write NAME=KEY with the name of an upstream ({known})")


class Setting(NamedTuple):
    """One setting, as its field declares it."""

    name: str
    default: Any
    parse: Callable[[str], Any]
    sentence: str
    secret: bool

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        return _PREFIX + self.name.upper()


SETTINGS = tuple(Setting(each.name, getattr(Settings(), each.name), **each.metadata) for each in fields(Settings))
"""All settings, in the order of docs/settings.md."""


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings from *environ* (the process's own by default); empty values are ignored.

    Raises SettingError, which names the variable, for a value that cannot be used.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        text = environ.get(setting.variable, "").strip()
        if text:
            try:
                values[setting.name] = setting.parse(text)
            except ValueError as error:
                raise SettingError(f"{setting.variable}: {error}") from None
    settings = Settings(**values)
    settings.check()
    return settings


def misspelt_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for each variable in *environ* that looks like a setting but is none: misspelt, or of another version."""
    known = [setting.variable for setting in SETTINGS]
    names = sorted(os.environ if environ is None else environ)
    return [_suggestion(name[:100], known) for name in names if name.startswith(_PREFIX) and name not in known]


def _suggestion(name: str, known: list[str]) -> str:
    short = {variable[len(_PREFIX) :]: variable for variable in known}  # the prefix would make all of them alike
    close = difflib.get_close_matches(name[len(_PREFIX) :].upper(), short, 1)
    return f"{name} is not a setting of this version and is ignored" + (f"; did you mean {short[close[0]]}?" if close else ".")


_warned: set[str] = set()


def new_warnings() -> list[str]:
    """What ``misspelt_variables`` says, each sentence once for a process and those forked from it."""
    fresh = [sentence for sentence in misspelt_variables() if sentence not in _warned]
    _warned.update(fresh)
    return fresh


# --------------------------------------------------------------------------------- what the server and the platform set


@cache
def script_name() -> str:
    """The path below which the application is mounted, gunicorn's own variable."""
    return os.environ.get("SCRIPT_NAME", "")


def any_origin() -> bool:
    """Whether pages of all origins may use the proxy, for responses that are made outside of the application."""
    return os.environ.get("MISTRAL_FILTER_CORS_ORIGINS", "").strip() in ("", "*")


_COUNTS = "PROMETHEUS_MULTIPROC_DIR"


def metrics_directory() -> Path | None:
    """Where the workers keep the counts that ``/metrics`` adds up; None without metrics.

    Made anew unless the variable that prometheus_client reads names one. A reload (HUP) and a new binary (USR2) find the variable
    set and go on counting in the same files.
    """
    if os.environ.get("MISTRAL_FILTER_METRICS", "").strip().lower() != "on":
        return None
    if _COUNTS not in os.environ:
        os.environ[_COUNTS] = tempfile.mkdtemp(prefix="mistral-filter-metrics-")
    return Path(os.environ[_COUNTS])
