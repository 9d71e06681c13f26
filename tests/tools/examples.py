"""How many random cases the tests of properties try: enough for each run, and more on demand."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("MISTRAL_FILTER_EXAMPLES", "1"))
"""``MISTRAL_FILTER_EXAMPLES=10`` tries ten times as many."""


def examples(count: int, **more: Any) -> settings:
    """*count* cases, the same in each run, however long each of them takes."""
    return settings(
        deadline=None,
        derandomize=True,
        max_examples=count * TIMES,
        suppress_health_check=list(HealthCheck),
        database=None,
        **more,
    )
