"""How gunicorn serves the proxy: its worker, its logger and its hooks. ``gunicorn_conf`` names them.

The hooks hold for every worker class; the worker is gunicorn's for gevent.
"""

from mistral_filter.proxy.gunicorn.worker import Worker

__all__ = ["Worker"]
