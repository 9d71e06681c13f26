"""gunicorn's settings, for ``gunicorn app:app`` and for ``mistral-filter serve``. Platforms set PORT and WEB_CONCURRENCY."""

import os

from mistral_filter.proxy.gunicorn.hooks import (  # noqa: F401
    on_exit,
    on_starting,
    post_request,
    post_worker_init,
    pre_fork,
    ssl_context,
)
from mistral_filter.proxy.gunicorn.logger import Logger
from mistral_filter.proxy.gunicorn.refusing import pre_request  # noqa: F401

bind = f"0.0.0.0:{os.environ.get('PORT') or '8000'}"
workers = int(os.environ.get("WEB_CONCURRENCY") or "2")

# Thousands of waiting streams cost a worker little, and a slow one holds up no other.
worker_class = "mistral_filter.proxy.gunicorn.Worker"
worker_connections = 2000
backlog = 2048

# Longer than the routers in front keep an idle connection (Heroku 90 s, nginx 60 s), so that they close first.
keepalive = 100

# Platforms kill after 30 s; streams that end within 20 s end well.
graceful_timeout = 20

# Clients could set SCRIPT_NAME by a header, and so move a path past the filter.
forwarder_headers = ""

# No header changes how a request is served, whoever sends it, so that no sender's address has to be looked at.
forwarded_allow_ips = "*"
secure_scheme_headers: dict[str, str] = {}

control_socket_disable = True

# Keys as long as some gateways make them.
limit_request_field_size = 16380

# For an access log that is switched on: no query string in it.
access_log_format = '%(h)s "%(m)s %(U)s %(H)s" %(s)s %(B)s %(D)s'

logger_class = Logger
