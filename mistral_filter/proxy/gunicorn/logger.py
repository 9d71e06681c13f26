"""gunicorn's log: what it says of requests and defects, and where that goes."""

from __future__ import annotations

import sys
import traceback
from typing import Any

from gunicorn import glogging

from mistral_filter.proxy.logs import access_path, stderr_handler

__all__ = ["Logger"]


class Logger(glogging.Logger):  # type: ignore[misc]
    """Says what went wrong without quoting the request, in which a key or a prompt may be, and without waiting for a reader."""

    def setup(self, cfg: Any) -> None:
        """Sets gunicorn's logs up; what would go to standard error goes through a handler that never blocks."""
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            for handler in list(log.handlers):
                if getattr(handler, "stream", None) is sys.stderr:
                    log.removeHandler(handler)
                    unblocking = stderr_handler()
                    unblocking.setFormatter(handler.formatter)
                    log.addHandler(unblocking)

    def warning(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """A request that is not valid HTTP."""
        super().warning("Invalid request" if str(msg).startswith("Invalid request") else msg, *args, **kwargs)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """A defect, here or in gunicorn: what it was and where, without its text."""
        error = sys.exc_info()[1]
        trace = traceback.extract_tb(error.__traceback__)[-1:] if error is not None else []
        place = "".join(f" in {step.name}:{step.lineno}" for step in trace)
        msg = str(msg)
        what = "Error handling request" if msg.startswith("Error handling request") else msg
        super().error(f"{what} ({type(error).__name__}{place})", *(() if what is not msg else args))

    def atoms(self, resp: Any, req: Any, environ: Any, request_time: Any) -> dict[str, Any]:
        """What an access log may hold: ``%(U)s`` is the path as it came, without the query string."""
        atoms: dict[str, Any] = super().atoms(resp, req, environ, request_time)
        return {**atoms, "U": access_path(environ)}
