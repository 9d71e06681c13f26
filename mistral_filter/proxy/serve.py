"""gunicorn as a library: the proxy with the settings of ``gunicorn_conf``, from an installed package alone."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from gunicorn.app.base import BaseApplication

from mistral_filter.proxy import gunicorn_conf
from mistral_filter.proxy.settings import Settings

__all__ = ["serve"]


def serve(settings: Settings, *, bind: str, workers: int) -> None:
    """Serves the proxy on *bind* (``host:port``) until SIGTERM or SIGINT. Does not return: it raises SystemExit.

    Each worker builds the application after the fork. Where it was started on a terminal, it ends with the terminal.
    """
    options: dict[str, Any] = {"bind": bind, "workers": workers}
    if sys.stdin is not None and sys.stdin.isatty() and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        options["when_ready"] = _end_with_the_terminal
    _Application(settings, options).run()


def _end_with_the_terminal(_arbiter: object) -> None:
    """A closed terminal sends SIGHUP, which gunicorn takes for a reload: the server would keep its port, unseen."""
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


class _Application(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    def __init__(self, settings: Settings, options: dict[str, Any]) -> None:
        self._settings, self._options = settings, options
        super().__init__()

    def load_config(self) -> None:
        """What the shipped file sets, then the options."""
        for name, value in {**vars(gunicorn_conf), **self._options}.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        """Called in a worker; the import waits until gevent has put its own parts in place there."""
        from mistral_filter.proxy.app import create_app

        return create_app(self._settings)
