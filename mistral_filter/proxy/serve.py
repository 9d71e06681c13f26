"""gunicorn as a library: the proxy with the settings of ``gunicorn_conf``, from an installed package alone."""

from __future__ import annotations

from typing import Any

from gunicorn.app.base import BaseApplication

from mistral_filter.proxy import gunicorn_conf
from mistral_filter.proxy.settings import Settings

__all__ = ["serve"]


def serve(settings: Settings, *, bind: str, workers: int) -> None:
    """Serves the proxy on *bind* (``host:port``) until SIGTERM or SIGINT. Does not return: it raises SystemExit.

    Each worker builds the application after the fork.
    """
    _Application(settings, {"bind": bind, "workers": workers}).run()


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
