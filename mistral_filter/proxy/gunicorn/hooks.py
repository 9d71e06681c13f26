"""The life of the server and its workers, from the first to the last: hooks that gunicorn calls in each."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from mistral_filter.proxy import settings, sockets

__all__ = ["on_exit", "on_starting", "post_request", "post_worker_init", "pre_fork", "ssl_context"]


def on_starting(server: Any) -> None:
    """Before the first worker: all descriptors that the system allows, and a clean directory for the counts of all workers.

    Misspelt variables are named here, so that each worker need not.
    """
    gc.set_threshold(*_GC_THRESHOLDS)  # here: the workers inherit it, and start the sooner
    for sentence in settings.new_warnings():
        server.log.warning("%s", sentence)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    directory = settings.metrics_directory()
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        if not server.master_pid:  # else the workers of an older binary still count here
            _remove_counts(directory)


def ssl_context(config: Any, default_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """For gunicorn's own TLS (``--certfile``): a client's socket that is shut down for reading can still be written to.

    OpenSSL would take that end for a fault and send an alert in place of the answer. A cut body is told by its framing.
    A handshake may take as long as a connection may be idle.
    """
    context = default_factory()
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    usual = context.sslsocket_class

    def do_handshake(client: ssl.SSLSocket, *arguments: Any) -> None:
        client.settimeout(max(config.keepalive, 1))
        usual.do_handshake(client, *arguments)
        client.settimeout(None)

    context.sslsocket_class = type("Client", (usual,), {"do_handshake": do_handshake})
    return context


def on_exit(server: Any) -> None:
    """Leaves nothing behind, except to another master."""
    directory = settings.metrics_directory()
    if directory is not None and not (server.master_pid or server.reexec_pid):
        _remove_counts(directory)
        with contextlib.suppress(OSError):  # not empty: there is something of others in it
            directory.rmdir()


def _remove_counts(directory: Any) -> None:
    for kind in ("counter", "histogram"):
        for file in directory.glob(f"{kind}_*.db"):
            file.unlink(missing_ok=True)


def pre_fork(server: Any, _worker: Any) -> None:
    """A signal that comes before the new worker has its handlers waits for them: with the master's it would be forgotten."""
    if server.cfg.post_worker_init is post_worker_init:  # which lets it through
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)


_STOPPING = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT
os.register_at_fork(after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, _STOPPING))


def post_worker_init(worker: Any) -> None:
    """What was loaded at start stays for good: the garbage collector need not look at it again and again.

    One heap for all threads, where the C library has the choice: each of several keeps what it was once given. No line of the
    log names a thread, so that none is looked up. A setting, which gunicorn asks for two dozen times a request and finds through
    two functions, becomes an attribute. Signals that came since the fork have their handlers now.
    """
    vars(worker.cfg).update({name: setting.get() for name, setting in worker.cfg.settings.items()})
    logging.logThreads = logging.logMultiprocessing = False
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_FREE)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_FREE)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)


_GC_THRESHOLDS = 20_000, 20, 20
"""Requests leave no cycles behind, so that the collector has little to find."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt (glibc, malloc.h)."""
_KEPT_FREE = 32 << 20
"""Bytes. glibc itself goes up to 64 MiB, twice the largest block that was ever freed."""


def post_request(_worker: Any, _req: Any, _environ: Any, _resp: Any) -> None:
    """Gives way to the other connections: requests that lie ready on one would be served in a row."""
    sockets.take_turns()
