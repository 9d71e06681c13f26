"""The proxy as it is deployed: ``gunicorn app:app``."""

from mistral_filter.proxy.app import create_app

app = create_app()
