"""What ``/health``, ``/metrics`` and the API tell of archives, from what the engine publishes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

_LAG_SECONDS = 60.0  # above which it is told


def archive_warnings(archives: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What people should know: which archives can't be kept, and why; which are behind."""
    for experiment_id, archive in archives.items():
        lag = archive.get("lag_seconds")
        if archive["error"]:
            yield f"the archive of experiment {experiment_id}: {archive['error']}"
        elif lag is not None and lag > _LAG_SECONDS:
            yield f"the archive of experiment {experiment_id} is {lag:.0f} s behind"


def archive_state(archive: Mapping[str, Any] | None) -> str:
    """In a word how an archive is: starting, failing, behind, filling or current."""
    if archive is None:
        return "starting"
    lag, fill_until = archive.get("lag_seconds"), archive.get("fill_until")
    if archive["error"]:
        return "failing"
    if lag is None or fill_until is None:
        return "starting"
    if lag > _LAG_SECONDS:
        return "behind"
    return "filling" if archive["filled"] < fill_until else "current"


def archive_gauges(archives: Mapping[str, Mapping[str, Any]]) -> Iterable[Metric]:
    """The archives as Prometheus metrics."""
    labels = ["experiment_id", "table"]
    lag = GaugeMetricFamily(
        "vedette_archive_lag_seconds", "Age of the oldest change not archived.", labels=labels
    )
    failing = GaugeMetricFamily(
        "vedette_archive_failing", "1 while it can't be kept.", labels=labels
    )
    for experiment_id, archive in archives.items():
        values = [experiment_id, archive.get("delta_table_fullname", "")]
        if archive.get("lag_seconds") is not None:
            lag.add_metric(values, archive["lag_seconds"])
        failing.add_metric(values, float(archive["error"] is not None))
    return lag, failing
