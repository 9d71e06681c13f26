"""What the requests add up to, for Prometheus: an extra, ``pip install '.[metrics]'`` in a clone.

Every worker counts for itself. With several of them, prometheus_client keeps the counts in files of one directory, which it
looks for in PROMETHEUS_MULTIPROC_DIR when it is imported; whichever worker is asked adds all of them up. gunicorn.conf.py makes
that directory and sets the variable before a worker imports this, and removes the counts of an earlier run at start. Without
the variable the counts are those of this process. There are only counters and histograms, which go on counting for workers
that have ended, so no hook has to clean up after one.

The mean number of requests under way is ``sum(rate(mistral_filter_request_seconds_sum[5m]))``.
"""

from __future__ import annotations

import collections
from collections.abc import Callable

from mistral_filter.errors import CODES
from mistral_filter.proxy.logs import Record
from mistral_filter.proxy.stderr import dropped_lines

__all__ = ["create_metrics"]

OUTCOMES = frozenset(CODES) | {"ok", "error"}
"""The values of the label *outcome*; any other code counts as ``other``."""

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Seconds: from an answer of our own to a long stream."""


def create_metrics() -> tuple[Callable[[Record], None], Callable[[], tuple[bytes, str]]]:
    """``observe``, for RequestLog, and ``render``: the body of ``/metrics`` and its content type.

    Call it once in a process. The values of all labels are from closed sets, whatever callers send. Raises ImportError without
    prometheus_client.
    """
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    def all_workers() -> CollectorRegistry:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry

    own: CollectorRegistry | None = None
    try:
        all_workers()
    except ValueError:  # no directory: this process is all there is
        own = CollectorRegistry()

    requests = Counter("mistral_filter_requests", "Requests.", ["method", "endpoint", "status", "outcome"], registry=own)
    seconds = Histogram(
        "mistral_filter_request_seconds", "From request to the end of the answer.", ["endpoint"], registry=own, buckets=_BUCKETS
    )
    sent = Counter("mistral_filter_response_bytes", "Bytes of the bodies of answers.", ["endpoint"], registry=own)
    changes = Counter("mistral_filter_changes", "Changes to request bodies.", ["action", "loss"], registry=own)
    dropped = Counter("mistral_filter_log_lines_dropped", "Log lines that standard error did not take.", registry=own)
    told = dropped_lines()

    def count_dropped() -> None:
        nonlocal told
        now = dropped_lines()
        if now > told:
            dropped.inc(now - told)
            told = now

    def observe(record: Record) -> None:
        outcome = record.ended if record.ended in OUTCOMES else "other"
        requests.labels(record.method, record.endpoint, f"{record.status // 100}xx", outcome).inc()
        seconds.labels(record.endpoint).observe(record.seconds)
        sent.labels(record.endpoint).inc(record.sent)
        for (action, loss), count in collections.Counter((change.action, change.loss) for change in record.changes).items():
            changes.labels(action, loss).inc(count)
        count_dropped()

    def render() -> tuple[bytes, str]:
        count_dropped()
        return generate_latest(all_workers() if own is None else own), CONTENT_TYPE_LATEST

    return observe, render
