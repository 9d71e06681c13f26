"""The command ``mistral-filter``: ``serve``, ``explain`` and ``check``."""

from __future__ import annotations

import click

from mistral_filter import __version__
from mistral_filter.command.check import check
from mistral_filter.command.explain import explain
from mistral_filter.command.serve import serve

__all__ = ["mistral_filter"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, package_name="mistral-filter")
def mistral_filter() -> None:
    """Let OpenAI-style chat clients talk to Mistral's API.

    Settings are environment variables that begin with MISTRAL_FILTER_; docs/settings.md lists them.
    """


for each in (serve, explain, check):
    mistral_filter.add_command(each)
