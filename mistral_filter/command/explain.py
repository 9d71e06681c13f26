"""``mistral-filter explain``: what the filter would change in a body, and why."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator
from typing import BinaryIO

import click
import msgspec

from mistral_filter.explain import Explanation
from mistral_filter.explain import explain as explanation_of
from mistral_filter.fields import CHAT_FIELDS, ENDPOINTS
from mistral_filter.models import parse_models

__all__ = ["explain"]

_COLOURS = {"none": "green", "approximate": "yellow", "lost": "red"}
"""By what a change costs."""

_LONGEST_DIFF = 20_000
"""Lines of a body that are compared; the comparison of more could take minutes."""

_LONGEST_LINE = 500
"""Characters of a line that are shown; an image is a line of millions. ``--json`` has all."""


def _parsed(_context: click.Context, _parameter: click.Parameter, text: str) -> dict[str, str]:
    try:
        return parse_models(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(short_help="Show what would change in a request body.")
@click.argument("file", type=click.File("rb"), default="-")
@click.option(
    "--endpoint",
    type=click.Choice(list(ENDPOINTS)),
    default="chat",
    show_default=True,
    help="The endpoint that the body is sent to.",
)
@click.option(
    "--fields",
    type=click.Choice(list(CHAT_FIELDS)),
    default="classic",
    show_default=True,
    help="The chat fields to keep: the original worker's thirteen, or all that Mistral takes.",
)
@click.option("--strict", is_flag=True, help="Refuse rather than lose something.")
@click.option("--no-translate", is_flag=True, help="Apply the lists only.")
@click.option(
    "--models",
    metavar="NAME=MODEL ...",
    default="",
    callback=_parsed,
    help="Other names for models, as in MISTRAL_FILTER_MODELS.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the explanation as JSON.")
def explain(
    file: BinaryIO, endpoint: str, fields: str, strict: bool, no_translate: bool, models: dict[str, str], as_json: bool
) -> None:
    """Show what the filter would change in a request body, and why.

    The body is read from FILE, or from standard input. The settings are not read: give the options that your server runs with.

    Exit status: 0 nothing to change, 1 changed, 2 refused.
    """
    if file.isatty():
        click.echo("Paste a request body, then press Enter and Ctrl-D.", err=True)
    options = {"fields": fields, "strict": strict, "translate": not no_translate, "models": models}
    explanation = explanation_of(file.read(), endpoint, **options)
    if as_json:
        click.echo(explanation.as_json())
    else:
        click.echo("\n".join(_lines(explanation)))
    sys.exit(2 if explanation.error is not None else 1 if explanation.changes else 0)


def _lines(explanation: Explanation) -> Iterator[str]:
    if explanation.error is not None:
        place = explanation.position
        where = f" Line {place['line']}, column {place['column']}." if place else ""
        yield click.style(_printable(f"refused ({explanation.error.status}): {explanation.error.message}{where}"), fg="red")
        return
    if not explanation.changes:
        yield "Nothing to change: Mistral accepts every field."
        return
    rows = [
        (each.action, _printable(f"{each.path} -> {each.to}" if each.to else each.path), each.loss, _printable(each.reason))
        for each in explanation.changes
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "  ".join([cells[0], cells[1], click.style(cells[2], fg=_COLOURS[row[2]]), row[3]])
    yield ""
    yield from _diff(_indented(explanation.before), _indented(explanation.after or b""))


def _indented(body: bytes) -> list[str]:
    """The lines of a body with one value a line, numbers and escapes as they are."""
    return msgspec.json.format(body, indent=2).decode("utf-8", "replace").split("\n")


def _diff(before: list[str], after: list[str]) -> Iterator[str]:
    """Both bodies, line by line: ``-`` what goes, ``+`` what comes; only *after* where they are too long to compare."""
    if max(len(before), len(after)) > _LONGEST_DIFF:
        yield from map(_shown, after)
        return
    for line in difflib.unified_diff(before, after, "your body", "what Mistral gets", lineterm=""):
        colour = {"-": "red", "+": "green", "@": "cyan"}.get(line[0])
        yield click.style(_shown(line), fg=colour) if colour else _shown(line)


def _shown(line: str) -> str:
    more = len(line) - _LONGEST_LINE
    return _printable(line) if more <= 0 else f"{_printable(line[:_LONGEST_LINE])}… ({more} characters more)"


def _printable(text: str) -> str:
    """*text* without what could steer a terminal, in JSON's escapes."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1].replace("\x7f", "\\u007f") for c in text)
