"""``mistral-filter serve``: the proxy under gunicorn, as it is deployed."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import click

from mistral_filter.fields import CHAT_FIELDS

__all__ = ["serve"]

_SANDBOX = "sandbox"
"""The name of the stand-in's upstream."""


class _Command(click.Command):
    """Lists the settings below the options, since an installed package has no documents."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from mistral_filter.proxy.settings import SETTINGS

        with formatter.section("Settings, environment variables"):
            formatter.write_dl([(each.variable, each.sentence.replace("`", "")) for each in SETTINGS])


@click.command(cls=_Command, short_help="Serve the proxy.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 is every IPv4 address.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(1, 65535),
    envvar="PORT",
    help="The port to listen on, or the variable PORT.",
)
@click.option(
    "--workers",
    default=2,
    show_default=True,
    type=click.IntRange(1),
    envvar="WEB_CONCURRENCY",
    help="Worker processes, or the variable WEB_CONCURRENCY.",
)
@click.option(
    "--fields",
    type=click.Choice(list(CHAT_FIELDS)),
    help="The chat fields to keep, instead of MISTRAL_FILTER_FIELDS: the original worker's thirteen, or all that Mistral takes.",
)
@click.option("--sandbox", is_flag=True, help="Also serve a stand-in for Mistral's API at /sandbox/v1, which needs no account.")
def serve(host: str, port: int, workers: int, fields: str | None, sandbox: bool) -> None:
    """Serve the proxy, under gunicorn, until Ctrl-C or SIGTERM."""
    from mistral_filter.proxy.serve import serve as run
    from mistral_filter.proxy.settings import SettingError, from_environment

    try:
        settings = from_environment()
    except SettingError as error:
        raise click.ClickException(str(error)) from None
    if fields is not None:
        settings = replace(settings, fields=fields)
    _check_free(host, port)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with _stand_in() if sandbox else _nothing() as upstreams:
        settings = replace(settings, upstreams={**settings.upstreams, **upstreams})
        shown = address.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")  # noqa: S104  # not to bind: to open
        click.echo(f"The page: http://{shown}/\nBase URL: http://{shown}/v1 -> {settings.upstream}")
        if upstreams:
            if settings.tokens:  # callers send these, never a key: the stand-in takes every key that is held for it
                settings = replace(settings, api_keys={**settings.api_keys, _SANDBOX: "none-is-needed"})
            click.echo(f"Stand-in: http://{shown}/{_SANDBOX}/v1 ({'your tokens' if settings.tokens else 'any key'})")
        run(settings, bind=address, workers=workers)


def _check_free(host: str, port: int) -> None:
    """Raises ClickException where nothing can listen there, before gunicorn tries five times."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            other = port + 1 if port < 65535 else 8000
            hint = f"choose another, such as --port {other} (make run PORT={other})"
            raise click.ClickException(f"Port {port} is in use: {hint}.") from None
        if error.errno == errno.EACCES:
            raise click.ClickException(f"Port {port} needs more rights: choose one above 1023 with --port.") from None
        raise click.ClickException(f"{host} is not an address of this machine: check --host.") from None


@contextmanager
def _nothing() -> Iterator[dict[str, str]]:
    yield {}


@contextmanager
def _stand_in() -> Iterator[dict[str, str]]:
    """The stand-in as a process of its own, on a free port: its name and URL. Raises ClickException if it does not start."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until gunicorn sets its own: the process below ends in any case
    command = [sys.executable, "-m", "mistral_filter.sandbox", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)  # noqa: S603
    owner = os.getpid()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if " on http://" not in line:
            raise click.ClickException("The stand-in did not start: see above.")
        yield {_SANDBOX: line.split()[-1]}
    finally:
        if os.getpid() == owner:  # gunicorn's workers leave through here too
            process.terminate()
            process.wait()
