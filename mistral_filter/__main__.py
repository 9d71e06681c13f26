"""``python -m mistral_filter < body.json``: what the filter would change in a body, and why.

Exit status: 0 nothing to change, 1 changed, 2 refused.
"""

from __future__ import annotations

import argparse
import json
import sys

from mistral_filter.explain import Explanation, explain
from mistral_filter.fields import CHAT_FIELDS, ENDPOINTS
from mistral_filter.models import parse_models


def main(arguments: list[str] | None = None) -> int:
    """Reads a body on stdin, writes the explanation to stdout, returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mistral_filter", description="Explains what would be changed in a request body."
    )
    parser.add_argument(
        "endpoint", nargs="?", default="chat", choices=list(ENDPOINTS), metavar="ENDPOINT", help=", ".join(ENDPOINTS)
    )
    parser.add_argument("--fields", choices=list(CHAT_FIELDS), default="classic", help="the list for chat (default: classic)")
    parser.add_argument("--strict", action="store_true", help="refuse rather than lose something")
    parser.add_argument("--no-translate", action="store_true", help="only the lists")
    parser.add_argument("--json", action="store_true", help="write the explanation as JSON")
    parser.add_argument(
        "--models", default="", metavar="NAME=MODEL …", help="names that clients use for models, as in the setting"
    )
    options = parser.parse_args(arguments)
    try:
        models = parse_models(options.models)
    except ValueError as error:
        parser.error(f"argument --models: {error}")
    explanation = explain(
        sys.stdin.buffer.read(),
        options.endpoint,
        fields=options.fields,
        strict=options.strict,
        translate=not options.no_translate,
        models=models,
    )
    out = sys.stdout.buffer
    if options.json:
        out.write(explanation.as_json() + b"\n")
    else:
        out.write(_readable(explanation).encode())
    out.flush()
    return 2 if explanation.error is not None else 1 if explanation.changes else 0


def _readable(explanation: Explanation) -> str:
    if explanation.error is not None:
        return _printable(f"refused ({explanation.error.status}): {explanation.error.message}") + "\n"
    if not explanation.changes:
        return "Nothing to change: Mistral accepts every field.\n"
    rows = [
        (change.action, _printable(change.path + (f" -> {change.to}" if change.to else "")), change.loss, change.reason)
        for change in explanation.changes
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows]
    body = _printable((explanation.after or b"").decode())
    return "\n".join([*lines, "", body, ""])


def _printable(text: str) -> str:
    """*text* without what could steer a terminal, in JSON's escapes."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1].replace("\x7f", "\\u007f") for c in text)


if __name__ == "__main__":
    sys.exit(main())
