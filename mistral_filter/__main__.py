"""The command ``mistral-filter``; ``python -m mistral_filter`` is the same."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command. It needs click; ``serve`` and ``check`` need all that the extra ``proxy`` brings."""
    try:
        from mistral_filter.command import mistral_filter

        mistral_filter(prog_name="mistral-filter")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        sys.exit(f"{package} is missing: install mistral-filter with the extra proxy (in a clone: pip install '.[proxy]')")


if __name__ == "__main__":
    main()
