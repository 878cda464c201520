"""What ``/health`` and ``/metrics`` tell of scorers, from what the engine publishes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

_LAG_SECONDS = 300.0  # above which it is told


def scorer_warnings(scorers: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What people should know: which scorers wait, and why; which are behind."""
    for key, scorer in scorers.items():
        lag = scorer["lag_seconds"]
        if scorer["problem"]:
            yield f"scorer {key} waits: {scorer['problem']}"
        elif scorer["note"]:
            yield f"scorer {key}: {scorer['note']}"
        elif lag is not None and lag > _LAG_SECONDS:
            yield f"scorer {key} is {lag:.0f} s behind: it is slower than the traffic"


def scorer_gauges(scorers: dict[str, dict[str, Any]]) -> Iterable[Metric]:
    """The scorers as Prometheus metrics."""
    labels = ["experiment_id", "scorer"]
    gauges = {
        "rate": GaugeMetricFamily("vedette_scorer_rate", "Sampling rate.", labels=labels),
        "in_flight": GaugeMetricFamily(
            "vedette_scorer_in_flight", "Units being scored.", labels=labels
        ),
        "retrying": GaugeMetricFamily(
            "vedette_scorer_retrying", "Units waiting to be tried again.", labels=labels
        ),
        "lag_seconds": GaugeMetricFamily(
            "vedette_scorer_lag_seconds", "Age of the oldest undecided unit.", labels=labels
        ),
        "problem": GaugeMetricFamily(
            "vedette_scorer_paused", "1 while something keeps it from going on.", labels=labels
        ),
    }
    for key, scorer in scorers.items():
        experiment_id, _, name = key.partition("/")
        for field, gauge in gauges.items():
            value = scorer[field]
            number = float(value is not None) if field == "problem" else value
            if number is not None:
                gauge.add_metric([experiment_id, name], number)
    return gauges.values()
