"""How gunicorn serves the proxy; it is found by its name. PORT and WEB_CONCURRENCY are what the platforms set."""

import os

bind = f"0.0.0.0:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))

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
