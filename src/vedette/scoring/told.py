"""What ``/health`` and ``/metrics`` tell of scorers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from vedette.intake.records import Stream

_LAG_SECONDS = 300.0  # above which it is told


def scorer_warnings(scorers: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What people should know: which scorers wait, and why; which are behind.

    Args:
        scorers: by key, as the engine publishes them.
    """
    for key, scorer in scorers.items():
        lag = scorer["lag_seconds"]
        if scorer["problem"]:
            yield f"scorer {key} waits: {scorer['problem']}"
        if scorer["note"]:
            yield f"scorer {key}: {scorer['note']}"
        if lag is not None and lag > _LAG_SECONDS:
            yield (
                f"scorer {key} is {lag:.0f} s behind: what became complete then is not decided; "
                f"{scorer['in_flight']} units are being scored, {scorer['retrying']} wait to be "
                "tried again"
            )


def backfill_warnings(streams: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What keeps backfills from going on.

    Args:
        streams: by key, as the engine publishes them.
    """
    for key, told in streams.items():
        stream = Stream.of(key)
        if told["problem"]:
            yield f"backfill {stream.job} of scorer {stream.live} waits: {told['problem']}"


# What counts up: name, key in a row of `scorers_summary`, help
_COUNTERS = (
    ("units", "units", "Units decided."),
    ("selected", "selected", "Units selected, of those decided."),
    ("scored", "scored", "Units scored."),
    ("failed", "failed", "Units that ended in an error."),
    ("over_budget", "over_budget", "Units selected for which there was no budget."),
)
_GAUGES = (
    ("rate", "rate", "Sampling rate that holds now, lowered by a budget if need be."),
    ("in_flight", "in_flight", "Units being scored."),
    ("retrying", "retrying", "Units waiting to be tried again."),
    ("waiting", "waiting", "Units complete and not decided, of any experiment."),
    ("lag_seconds", "lag_seconds", "Age of the oldest undecided unit."),
    ("calls_today", "calls_today", "Calls of models today (UTC)."),
    ("input_tokens_today", "input_tokens_today", "Tokens sent to models today (UTC)."),
    ("output_tokens_today", "output_tokens_today", "Tokens that models answered today (UTC)."),
    ("cost_today_usd", "cost_today_usd", "US dollars that calls cost today (UTC)."),
    ("paused", "problem", "1 while something keeps it from going on."),
)


def scorer_metrics(rows: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    """The scorers as Prometheus metrics.

    Args:
        rows: of `scorers_summary`, which ``vedette scorers`` shows.
    """
    labels, rows = ["experiment_id", "scorer"], list(rows)
    for family, described in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
        for name, key, text in described:
            metric = family(f"vedette_scorer_{name}", text, labels=labels)
            for row in rows:
                value = row[key] is not None if key == "problem" else row[key]
                metric.add_metric([row["experiment_id"], row["scorer"]], float(value))
            yield metric
