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
@click.option("--no-color", envvar="NO_COLOR", default="", hidden=True)  # only the variable is meant: no-color.org
@click.pass_context
def mistral_filter(context: click.Context, no_color: str) -> None:
    """Let OpenAI-style chat clients talk to Mistral's API.

    Settings are environment variables that begin with MISTRAL_FILTER_; "mistral-filter serve --help" lists them.
    """
    if no_color:
        context.color = False


for each in (serve, explain, check):
    mistral_filter.add_command(each)
