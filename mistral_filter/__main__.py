"""The command ``mistral-filter``; ``python -m mistral_filter`` is the same."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command. It needs click, which the extra ``proxy`` brings."""
    try:
        from mistral_filter.command import mistral_filter
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("The command needs the extra proxy: pip install '.[proxy]' in a clone of mistral-filter")
    mistral_filter(prog_name="mistral-filter")


if __name__ == "__main__":
    main()
