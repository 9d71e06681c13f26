"""How gunicorn serves the proxy; it is found by its name. PORT and WEB_CONCURRENCY are what the platforms set."""

import json
import os
import re
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from gunicorn import glogging, util
from gunicorn.http.errors import InvalidHeader, InvalidRequestLine

bind = f"0.0.0.0:{os.environ.get('PORT') or '8000'}"
workers = int(os.environ.get("WEB_CONCURRENCY") or "2")

# Thousands of waiting streams cost a worker little, and a slow one holds up nobody.
worker_class = "gevent"
worker_connections = 2000
backlog = 2048

# Longer than the routers in front keep an idle connection (Heroku 90 s, nginx 60 s): they close first, never we.
keepalive = 100

# Platforms kill after 30 s; streams that end within 20 s end well.
graceful_timeout = 20

# Clients could set SCRIPT_NAME by a header, and so move a path past the filter.
forwarder_headers = ""

control_socket_disable = True

# Keys as long as some gateways make them.
limit_request_field_size = 16380

# Where somebody switches the access log on: no query string in it.
access_log_format = '%(h)s "%(m)s %(U)s %(H)s" %(s)s %(B)s %(D)s'


HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Za-z:.%]+\])?(?::\d{0,5})?")
MOUNT = os.environ.get("SCRIPT_NAME", "")  # gunicorn's own variable; a path outside of it would be a 500
TARGET = re.compile(r"(?:/|\*$|https?://)[^#]*$", re.IGNORECASE)


def pre_request(worker, req):
    """Refuses, and closes the connection, where RFC 9112 (3.2) says so and gunicorn does not."""
    hosts = [value for name, value in req.headers if name == "HOST"]
    if (not hosts and req.version >= (1, 1)) or not all(HOST.fullmatch(host) for host in hosts):
        raise InvalidHeader("HOST", req=req)
    if not TARGET.match(req.uri) or not req.path.startswith(MOUNT):
        raise InvalidRequestLine("target")


def post_request(_worker, _req, _environ, _resp):
    """Lets the others have their turn: requests that lie ready on one connection would be served in a row, and nobody else."""
    time.sleep(0)


class Logger(glogging.Logger):
    """Says what went wrong without quoting the request, in which a key or a prompt may be."""

    def warning(self, msg, *args, **kwargs):
        """A request that is not valid HTTP."""
        super().warning("Invalid request" if msg.startswith("Invalid request") else msg, *args, **kwargs)

    def exception(self, msg, *args, **kwargs):
        """A defect of ours, or of gunicorn's: what it was and where, without its text."""
        error = sys.exc_info()[1]
        trace = traceback.extract_tb(error.__traceback__)[-1:] if error is not None else []
        place = "".join(f" in {step.name}:{step.lineno}" for step in trace)
        msg = str(msg)
        what = "Error handling request" if msg.startswith("Error handling request") else msg
        super().error(f"{what} ({type(error).__name__}{place})", *(() if what is not msg else args))


logger_class = Logger


# Which origin asks is not known of a request that was not understood.
ANY_ORIGIN = "Access-Control-Allow-Origin: *\r\n" * (os.environ.get("MISTRAL_FILTER_CORS_ORIGINS", "").strip() in ("", "*"))


def _write_error(sock, status, reason, _quoted):
    """In place of gunicorn's page, which quotes what it did not understand: the error in the one shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": f"{reason}.", "type": kind, "param": None, "code": reason.lower().replace(" ", "_")}
    body = json.dumps({"error": error})
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n{ANY_ORIGIN}\r\n"
    util.write_nonblock(sock, (head + body).encode("latin-1"))


util.write_error = _write_error

if os.environ.get("MISTRAL_FILTER_METRICS", "").strip().lower() == "on":
    # The workers count in files of one directory (see proxy/metrics.py), which is private to this master unless it is given.
    # A reload (HUP) and a new binary (USR2) find the variable set and go on counting in the same files.
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="mistral-filter-metrics-")

    def on_starting(server):
        """The counts of an earlier run are not ours."""
        directory = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        directory.mkdir(parents=True, exist_ok=True)
        if not server.master_pid:  # else the workers of an older binary still count here
            _remove_counts(directory)

    def on_exit(server):
        """Leaves nothing behind, except to another master."""
        directory = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        if not (server.master_pid or server.reexec_pid):
            _remove_counts(directory)
            with suppress(OSError):  # others have put something into it
                directory.rmdir()

    def _remove_counts(directory):
        for kind in ("counter", "histogram"):
            for file in directory.glob(f"{kind}_*.db"):
                file.unlink(missing_ok=True)
