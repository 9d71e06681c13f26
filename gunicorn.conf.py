"""gunicorn's settings; gunicorn finds this file by its name. They are those of ``mistral-filter serve``."""

from mistral_filter.proxy.gunicorn_conf import *  # noqa: F403
