"""A stand-in for Mistral's API on this machine: ``python -m mistral_filter.sandbox [--host 127.0.0.1] [--port 8001]``.

A program of its own. It refuses what Mistral refuses, in Mistral's words and shapes, and answers the rest without a model: each
text that it gives says so, and ``content`` tells when it calls a tool. It keeps nothing, logs no request and listens on
loopback only. Three keys show what a client makes of trouble: ``wrong`` is refused (401), ``limit`` is over its rate (429), and
under ``broken`` an answer breaks off. Every other key is taken.

What is refused comes from ``fields`` (see there for its sources), for Responses from ``responses_schema``, and per model from
``models``; how a refusal reads comes from recorded traffic in public issues of 2024 to 2026 and from pydantic 2.14, in which
mistral-common 1.13.1 states the same models. It is close, not exact: no live call was compared, and outside Responses optional
values are judged by range but not by type.
"""

from __future__ import annotations

import argparse
import errno
import re
import signal
import sys
from http.server import ThreadingHTTPServer

from mistral_filter.sandbox.content import NO_MODEL, RESULT_CAME
from mistral_filter.sandbox.responses_schema import responses_violations
from mistral_filter.sandbox.rules import broken_item_rule, broken_rule, refused_by_model
from mistral_filter.sandbox.schema import violations
from mistral_filter.sandbox.server import Handler, Server

__all__ = [
    "NO_MODEL",
    "RESULT_CAME",
    "broken_item_rule",
    "broken_rule",
    "main",
    "make_server",
    "refused_by_model",
    "responses_violations",
    "violations",
]


def make_server(host: str = "127.0.0.1", port: int = 0, *, delay: float = 0.02) -> ThreadingHTTPServer:
    """The sandbox, bound and listening but not yet serving; *delay* is the pause in seconds after each event of a stream.

    Port 0 takes a free one. Raises ValueError for a host that is not loopback, OSError where the port is taken.
    """
    if not re.fullmatch(r"localhost|127(\.[0-9]{1,3}){3}", host):
        raise ValueError(f"the sandbox binds 127.0.0.1 and its like only, not {host!r}")
    server = Server(("127.0.0.1" if host == "localhost" else host, port), Handler)
    server.delay = delay
    return server


def main(argv: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; print one line with the address when ready.

    Where it cannot listen it prints one sentence on standard error and ends with status 1, for a wrong argument with 2. It is
    not in ``__main__``, which Python warns of running once the package has imported it.
    """
    parser = argparse.ArgumentParser(prog="python -m mistral_filter.sandbox", description="A stand-in for Mistral's API.")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8001, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--delay", type=float, default=0.02, help="seconds between the events of a stream (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.delay < 0:
        parser.error("--delay cannot be negative")
    try:
        server = make_server(options.host, options.port, delay=options.delay)
    except (ValueError, OverflowError) as exc:
        parser.error(str(exc))
    except OSError as exc:
        why = "is in use" if exc.errno == errno.EADDRINUSE else f"cannot be used: {exc.strerror}"
        sys.exit(f"mistral-filter sandbox: port {options.port} on {options.host} {why}; choose another with --port.")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with server:
        sys.stdout.write("mistral-filter sandbox on http://{}:{}\n".format(*server.server_address))
        sys.stdout.flush()
        server.serve_forever()
