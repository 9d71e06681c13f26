"""A stand-in for Mistral's API on this machine: ``python -m mistral_filter.sandbox [--host 127.0.0.1] [--port 8001]``.

A program of its own. It refuses what Mistral refuses, in Mistral's words and shapes, and answers the rest without a model:
every text it gives says so. It keeps nothing, logs no request and listens on loopback only.

What is refused comes from ``fields`` (see there for its sources); how a refusal reads comes from recorded traffic in public
issues of 2024 to 2026 and from pydantic 2.14, in which mistral-common 1.13.1 states the same models. It is close, not exact: no
live call was compared, optional values are judged by range but not by type, and every model name is taken.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
from http.server import ThreadingHTTPServer

from mistral_filter.sandbox.answers import NO_MODEL
from mistral_filter.sandbox.rules import broken_rule
from mistral_filter.sandbox.schema import violations
from mistral_filter.sandbox.server import Handler, Server

__all__ = ["NO_MODEL", "broken_rule", "main", "make_server", "violations"]


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

    It is not in ``__main__``, which Python warns of running once the package has imported it.
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
    except (ValueError, OSError, OverflowError) as exc:
        parser.error(str(exc))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with server:
        sys.stdout.write("mistral-filter sandbox on http://{}:{}\n".format(*server.server_address))
        sys.stdout.flush()
        server.serve_forever()
