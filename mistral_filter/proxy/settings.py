"""The settings of the proxy, from one table. The only file that reads the environment.

Every setting is checked at start; a wrong value stops the start with a sentence that names the variable. README.md explains
each one.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mistral_filter.middleware import MAX_BODY
from mistral_filter.paths import PATHS, ROOTS

__all__ = ["SETTINGS", "SettingError", "Settings", "from_environment", "unknown_variables"]

_PREFIX = "MISTRAL_FILTER_"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PATHS = {path.split("/")[0] for path in PATHS.values()}
_RESERVED = sorted(ROOTS | _PATHS | {"v1", "health", "healthz", "explain", "metrics", "static"})


class SettingError(ValueError):
    """A setting has a value that cannot be used; the message names it."""


@dataclass(frozen=True)
class Settings:
    """What ``create_app`` takes. The fields are the settings of the table below, in lower case."""

    upstream: str = "https://api.mistral.ai"
    upstreams: Mapping[str, str] = field(default_factory=lambda: {"codestral": "https://codestral.mistral.ai"})
    fields: str = "classic"
    allow: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    translate: bool = True
    bridge: bool = False
    strict: bool = False
    learn: bool = True
    max_body: int = MAX_BODY
    cors_origins: tuple[str, ...] = ("*",)
    reasoning: str = "openai"
    api_key: str | None = field(default=None, repr=False)
    api_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    tokens: tuple[str, ...] = field(default=(), repr=False)
    connect_timeout: float = 10.0
    read_timeout: float = 600.0
    total_timeout: float | None = None
    send_timeout: float | None = 60.0
    body_timeout: float | None = 120.0
    heartbeat: float | None = None
    concurrency: int | None = 1000
    proxy: str | None = None
    ca_bundle: str | None = None
    log_level: str = "INFO"
    log_format: str = "text"
    metrics: bool = False

    def check(self) -> None:
        """Raises SettingError for settings that do not go together."""
        if (self.api_key or self.api_keys) and not self.tokens:
            raise SettingError(
                "MISTRAL_FILTER_TOKENS: with MISTRAL_FILTER_API_KEY or MISTRAL_FILTER_API_KEYS alone anybody could spend "
                "the key; set the tokens that callers show"
            )
        if self.tokens and not (self.api_key or self.api_keys):
            raise SettingError("MISTRAL_FILTER_API_KEY: tokens are for a key that the server holds, and there is none")
        if self.tokens and "*" in self.cors_origins:
            raise SettingError("MISTRAL_FILTER_CORS_ORIGINS: with a key that the server holds, name the origins that may use it")
        if {self.api_key, *self.api_keys.values()} & set(self.tokens):
            raise SettingError("MISTRAL_FILTER_TOKENS: a token that is the key itself would hand out the key")
        unknown = sorted(set(self.api_keys) - set(self.upstreams))
        if unknown:
            raise SettingError(f"MISTRAL_FILTER_API_KEYS: there is no upstream named {unknown[0]}")


class Setting(NamedTuple):
    name: str
    parse: Callable[[str], Any]
    """Takes the text of the variable; raises ValueError with what is wrong."""

    @property
    def variable(self) -> str:
        return _PREFIX + self.name.upper()


_URL = re.compile(r"(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?/?")


def _url(text: str) -> str:
    match = _URL.fullmatch(text)
    if match is None:
        raise ValueError("write only scheme, host and port, such as https://api.mistral.ai; /v1 is added")
    _port(match[3])
    if match[1] == "http" and match[2].strip("[]").lower() not in _LOOPBACK:
        raise ValueError("plain http is for this machine only (localhost, 127.0.0.1): elsewhere keys would travel unencrypted")
    return text.rstrip("/")


def _port(text: str | None) -> None:
    if text is not None and not 0 < int(text[1:]) < 65536:
        raise ValueError(f"{text[1:]} is not a port")


def _named_urls(text: str) -> dict[str, str]:
    upstreams = dict(Settings().upstreams)
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
            raise ValueError(f"{name!r} is not the name of a top-level field")
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


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(text.replace(",", " ").split())
    if origins == ("*",):
        return origins
    for origin in origins:
        # Patterns are not taken: one that is not anchored lets strangers in.
        if not re.fullmatch(r"https?://([a-z0-9-]+\.)*[a-z0-9-]+(:\d{1,5})?", origin):
            raise ValueError(f"{origin!r} is not an origin: write * or exact ones such as https://chat.example.com")
    if not origins:
        raise ValueError("write * or exact origins such as https://chat.example.com")
    return origins


def _proxy(text: str) -> str:
    match = re.fullmatch(r"http://([^\s/@?#]+@)?([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?/?", text)
    if match is None:
        raise ValueError("write a URL such as http://proxy.example.com:3128; TLS to the upstream goes through it end to end")
    _port(match[3])
    return text


def _file(text: str) -> str:
    if not Path(text).is_file():
        raise ValueError("there is no such file")
    try:
        ssl.create_default_context(cafile=text)
    except OSError:
        raise ValueError("no certificates can be read from this file") from None
    return text


def _level(text: str) -> str:
    return _one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")(text.upper())


SETTINGS = (
    Setting("upstream", _url),
    Setting("upstreams", _named_urls),
    Setting("fields", _one_of("classic", "current")),
    Setting("allow", _names),
    Setting("drop", _names),
    Setting("translate", _switch),
    Setting("bridge", _switch),
    Setting("strict", _switch),
    Setting("learn", _switch),
    Setting("max_body", _bytes),
    Setting("cors_origins", _origins),
    Setting("reasoning", _one_of("openai", "mistral")),
    Setting("api_key", _secret),
    Setting("api_keys", _named_secrets),
    Setting("tokens", _secrets),
    Setting("connect_timeout", _seconds),
    Setting("read_timeout", _seconds),
    Setting("total_timeout", _seconds_or_off),
    Setting("send_timeout", _seconds_or_off),
    Setting("body_timeout", _seconds_or_off),
    Setting("heartbeat", _seconds_or_off),
    Setting("concurrency", _count_or_off),
    Setting("proxy", _proxy),
    Setting("ca_bundle", _file),
    Setting("log_level", _level),
    Setting("log_format", _one_of("text", "json")),
    Setting("metrics", _switch),
)


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings from *environ* (the process's own by default); an empty variable counts as not set.

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


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """The variables in *environ* that look like settings and are none: misspelt, or of another version."""
    known = {setting.variable for setting in SETTINGS}
    return sorted(name for name in (os.environ if environ is None else environ) if name.startswith(_PREFIX) and name not in known)
