"""Traces, errors, latency, tokens and cost of a period, beside those of the one before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vedette.monitor.figures.period import Period
from vedette.monitor.figures.sums import WIDTH, Row, document, finite, moments_of, sums_of
from vedette.monitor.figures.verdicts import MILLISECONDS, POINTS, share_change, verdict
from vedette.named_sql import statements
from vedette.quality.difference import difference
from vedette.quality.estimate import Estimate
from vedette.quality.moments import Moments
from vedette.quality.proportion import effective_size, proportion
from vedette.quality.quantile import shares_around
from vedette.quality.wilson import wilson
from vedette.traces.columns import Ask

_SQL = statements("vedette.monitor.figures", "mirror")
PERCENTILES = (50, 95, 99)
_NOTHING: Row = (0, 0, None, 0, 0, 0.0)  # what a bucket without traces has
_INDICATORS = {"errors": ("n", "e")} | {f"p{one}": ("m", f"u{one}") for one in PERCENTILES}
_SUMS = ", ".join(sums_of(n, n, total, n) for n, total in _INDICATORS.values())


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is known of all traces of a period.

    Attributes:
        traces: how many; those that evaluation runs made are not among them.
        sessions: how many of them had traces.
        errors: how many traces ended in an error.
        error_rate: of the agent, as these traces show it.
        independent: how many traces as good as independent there are for each trace, of errors: 1
            if those of a session fail independently.
        latency: by percentile, in ms.
        tokens: ``input``, ``output`` and ``total``.
        cost_usd: of the traces that told theirs.
        priced: how many those are.
        timed: how many told how long they took.
    """

    traces: int
    sessions: int
    errors: int
    error_rate: Estimate
    independent: float
    latency: Mapping[int, Estimate]
    tokens: Mapping[str, int]
    cost_usd: float
    priced: int
    timed: int

    def document(self) -> dict[str, Any]:
        """As the API tells it."""
        return {
            "traces": self.traces,
            "sessions": self.sessions,
            "errors": self.errors,
            "error_rate": document(self.error_rate),
            "latency_ms": {f"p{one}": document(self.latency[one]) for one in PERCENTILES},
            "timed": self.timed,
            "tokens": dict(self.tokens),
            "cost_usd": self.cost_usd,
            "priced": self.priced,
        }


def traffic(ask: Ask, experiment_id: int, period: Period) -> tuple[Traffic, Traffic]:
    """Of the period, and of the one before it.

    Counts, sums and percentiles are of all traces, so exact. The intervals say how far the agent's
    own error rate and percentiles may be from those of these traces, which are a sample of what it
    does: Wilson's for the effective number of traces, as those of a session resemble each other,
    and Woodruff's, see `vedette.quality`.
    """
    given = bounds_of(experiment_id, period)
    counted = {bool(row[0]): row[1:] for row in ask(_SQL["traffic"], given, {})}
    limits = {
        f"{name}p{one}": counted[after][3][place]
        if after in counted and counted[after][3]
        else None
        for after, name in ((True, ""), (False, "previous_"))
        for place, one in enumerate(PERCENTILES)
    }
    summed = {
        bool(row[0]): row[1:]
        for row in ask(_SQL["traffic_sums"].replace("%s", _SUMS), {**given, **limits}, {})
    }
    sums = {after: _moments(summed.get(after)) for after in (True, False)}
    bounds = _percentile_bounds(ask, given, sums)
    after, before = (
        _traffic(counted.get(side), summed.get(side), sums[side], bounds[side])
        for side in (True, False)
    )
    return after, before


def changes(after: Traffic, before: Traffic) -> dict[str, Any]:
    """What moved between the two, in words and numbers."""
    rate = difference(after.error_rate, before.error_rate)
    told: dict[str, Any] = {
        "traces": share_change(after.traces, before.traces),
        "error_rate": verdict(rate, POINTS, after.traces, before.traces, "traces").document(),
        "latency_ms": {},
        "tokens": share_change(after.tokens["total"], before.tokens["total"]),
        "cost_usd": share_change(after.cost_usd, before.cost_usd),
    }
    for one in PERCENTILES:
        change = difference(after.latency[one], before.latency[one])
        words = verdict(change, MILLISECONDS, after.timed, before.timed, "traces")
        told["latency_ms"][f"p{one}"] = words.document()
    return told


def series(
    ask: Ask, experiment_id: int, period: Period, independent: float = 1.0
) -> list[dict[str, Any]]:
    """One entry for each bucket of the period, those without traces too.

    Args:
        independent: of the period, for the intervals of the buckets' error rates.
    """
    length = period.choice.traffic_ms
    given = {
        "experiment": experiment_id,
        "since": period.since_ms,
        "until": period.until_ms,
        "bucket": length,
    }
    found = {row[0]: row[1:] for row in ask(_SQL["traffic_series"], given, {})}
    rows = [(at, *found.get(at, _NOTHING)) for at in period.buckets(length)]
    traces, errors = (np.array([row[place] for row in rows], np.float64) for place in (1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = wilson(errors / traces, traces * independent)
    return [
        _bucket(row, Estimate(*(one[place] for one in rates))) for place, row in enumerate(rows)
    ]


def bounds_of(experiment_id: int, period: Period) -> dict[str, int]:
    """The parameters that say which traces are meant."""
    return {
        "experiment": experiment_id,
        "since": period.since_ms,
        "until": period.until_ms,
        "previous_since": period.previous_since_ms,
        "previous_until": period.previous_until_ms,
    }


def _bucket(row: Row, rate: Estimate) -> dict[str, Any]:
    at, traces, errors, latency, input_tokens, output_tokens, cost = row
    percentiles = latency or [None] * len(PERCENTILES)
    return {
        "at_ms": at,
        "traces": traces,
        "errors": errors,
        "error_rate": finite(rate.value),
        "error_rate_low": finite(rate.low),
        "error_rate_high": finite(rate.high),
        **{f"p{one}_ms": percentiles[place] for place, one in enumerate(PERCENTILES)},
        "input_tokens": int(input_tokens),
        "output_tokens": int(output_tokens),
        "cost_usd": cost,
    }


def _moments(row: Row | None) -> dict[str, Moments]:
    values = row[1:] if row is not None else (None,) * (WIDTH * len(_INDICATORS))
    return {name: moments_of(values[place * WIDTH :]) for place, name in enumerate(_INDICATORS)}


def _percentile_bounds(
    ask: Ask, given: Mapping[str, Any], sums: Mapping[bool, Mapping[str, Moments]]
) -> dict[bool, dict[int, tuple[float, float]]]:
    """By side and percentile: the bounds of its interval."""
    shares = {
        side: [shares_around(of[f"p{one}"], one / 100) for one in PERCENTILES]
        for side, of in sums.items()
    }
    lists = [
        repr([float(np.clip(share, 0.0, 1.0)) for both in shares[side] for share in both])
        for side in (True, False)
    ]
    first, _, rest = _SQL["percentile_bounds"].partition("%s")
    text = first + lists[0] + rest.replace("%s", lists[1])
    ((ours, theirs),) = ask(text, given, {})
    found: dict[bool, dict[int, tuple[float, float]]] = {}
    for side, values in ((True, ours), (False, theirs)):
        found[side] = {}
        for place, one in enumerate(PERCENTILES):
            low, high = shares[side][place]
            bounded = values is not None
            found[side][one] = (
                float(values[2 * place]) if bounded and low > 0 else 0.0,
                float(values[2 * place + 1]) if bounded and high < 1 else np.inf,
            )
    return found


def _traffic(
    row: Row | None,
    summed: Row | None,
    sums: Mapping[str, Moments],
    bounds: Mapping[int, tuple[float, float]],
) -> Traffic:
    counts = row or (0, 0, 0, None, 0, 0, 0, 0, 0.0, 0)
    traces, errors, timed, percentiles, input_, output, total, _, cost, priced = counts
    values = percentiles or [np.nan] * len(PERCENTILES)
    return Traffic(
        traces=traces,
        sessions=0 if summed is None else summed[0],
        errors=errors,
        error_rate=proportion(sums["errors"]),
        independent=float(effective_size(sums["errors"])) / traces if traces else 1.0,
        latency={
            one: Estimate(
                *(np.asarray(value, np.float64) for value in (values[place], *bounds[one]))
            )
            for place, one in enumerate(PERCENTILES)
        },
        tokens={"input": int(input_), "output": int(output), "total": int(total)},
        cost_usd=finite(cost) or 0.0,
        priced=priced,
        timed=timed,
    )
