"""What the page of one scorer shows: its scores over time, how they spread, and the lowest."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vedette.monitor.figures.period import Period
from vedette.monitor.figures.scores import Score, score_series, scores
from vedette.monitor.figures.sums import Row, document
from vedette.named_sql import statements
from vedette.quality.estimate import Estimate
from vedette.quality.quantile import quantile
from vedette.quality.shares import shares
from vedette.quality.wilson import wilson
from vedette.traces.columns import Ask

_MIRROR = statements("vedette.monitor.figures", "mirror")
_READ_MODEL = statements("vedette.monitor.figures", "read_model")
_MOST_SCORES = 20_000  # of which the spread is estimated: its intervals are narrow then
_MOST_VALUES = 12  # told one by one; more are put together
_MOST_LOWEST = 20
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class LowScore:
    """A trace with one of the lowest scores, and why it has it."""

    trace_id: str
    time_ms: int
    request: str
    value: float
    rationale: str


@dataclass(frozen=True, slots=True)
class Change:
    """A moment from which on the scorer was another: `words` says how."""

    at_ms: int
    words: str
    reason: str


@dataclass(frozen=True, slots=True)
class Judging:
    """How scoring went.

    Attributes:
        decisions: how many units met which decision, by the full hours that the period touches.
        failure_rate: of those that were tried to the end.
        latency: by percentile, in ms, of the newest scores.
    """

    decisions: Mapping[str, int]
    failure_rate: Estimate
    latency: Mapping[int, Estimate]


@dataclass(frozen=True, slots=True)
class ScorerDetail:
    """A scorer in a period.

    Attributes:
        series: by the name of the score, see `vedette.monitor.figures.scores.score_series`.
        spread: by the name of the score: the share of the traffic that has a value, by the value.
        lowest: by the name of the score.
        changes: of version, rate and filter, oldest first.
    """

    experiment_id: str
    period: Period
    scorer: str
    scores: Sequence[Score]
    series: Mapping[str, Sequence[Mapping[str, Any]]]
    spread: Mapping[str, Mapping[str, Estimate]]
    lowest: Mapping[str, Sequence[LowScore]]
    changes: Sequence[Change]
    judging: Judging

    def document(self) -> dict[str, Any]:
        """As the API tells it."""
        return {
            "experiment_id": self.experiment_id,
            "period": self.period.document(),
            "scorer": self.scorer,
            "scores": [one.document() for one in self.scores],
            "series": {name: list(points) for name, points in self.series.items()},
            "spread": {
                name: {value: document(share) for value, share in of.items()}
                for name, of in self.spread.items()
            },
            "lowest": {name: [asdict(one) for one in of] for name, of in self.lowest.items()},
            "changes": [asdict(one) for one in self.changes],
            "judging": {
                "decisions": dict(self.judging.decisions),
                "failure_rate": document(self.judging.failure_rate),
                "latency_ms": {f"p{one}": document(of) for one, of in self.judging.latency.items()},
            },
        }


def scorer_detail(
    ask: Ask, index: sqlite3.Connection, experiment_id: str, period: Period, scorer: str
) -> ScorerDetail:
    """Compute it.

    Args:
        index: the read model.
    """
    number = int(experiment_id)
    given = {
        "experiment": number,
        "scorer": scorer,
        "since": period.since_ms,
        "until": period.until_ms,
    }
    found = [one for one in scores(ask, number, period) if one.scorer == scorer]
    newest = ask(_MIRROR["newest_scores"], {**given, "most": _MOST_SCORES}, {})
    key = f"{experiment_id}/{scorer}"
    return ScorerDetail(
        experiment_id=experiment_id,
        period=period,
        scorer=scorer,
        scores=found,
        series={one.name: score_series(ask, number, period, one) for one in found},
        spread={
            one.name: _spread(one, [row for row in newest if row[0] == one.name]) for one in found
        },
        lowest={one.name: _lowest(ask, index, given, one) for one in found},
        changes=_changes(index, key, period),
        judging=_judging(index, key, period, newest),
    )


def _spread(score: Score, rows: Sequence[Row]) -> dict[str, Estimate]:
    """The share of the traffic by value: of labels each, of many numbers ten ranges."""
    if score.kind == "label":
        rows = [row for row in rows if row[2] is not None]
        words = [row[2] for row in rows]
    else:
        rows = sorted((row for row in rows if row[1] is not None), key=lambda row: row[1])
        words = _named(score, np.array([row[1] for row in rows], np.float64))
    weights = [row[3] for row in rows]
    sessions = np.array([row[4] for row in rows], np.object_)
    found = shares(words, weights, sessions) if rows else {}
    if score.kind == "number":
        return {word: found[word] for word in dict.fromkeys(words) if word in found}
    largest = sorted(found, key=lambda word: -float(found[word].value))
    return {word: found[word] for word in largest[:_MOST_VALUES]}


def _named(score: Score, values: np.ndarray[Any, np.dtype[np.float64]]) -> list[str]:
    """What each value is called, in the values' order."""
    if score.kind == "boolean":
        return ["pass" if value else "fail" for value in values]
    distinct = np.unique(values)
    if distinct.size <= _MOST_VALUES:
        return [f"{value:g}" for value in values]
    edges = np.linspace(distinct[0], distinct[-1], 11)
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, 9)
    return [f"{edges[place]:.3g} to {edges[place + 1]:.3g}" for place in places]


def _lowest(
    ask: Ask, index: sqlite3.Connection, given: Mapping[str, Any], score: Score
) -> list[LowScore]:
    asked = {**given, "name": score.name, "most": _MOST_LOWEST}
    values: dict[int, float] = dict(ask(_MIRROR["lowest_scores"], asked, {}))
    told = index.execute(_READ_MODEL["told"], {"ids": json.dumps(list(values)), "name": score.name})
    return [
        LowScore(trace_id, at, request or "", values[row], rationale or "")
        for row, trace_id, at, request, rationale in told
    ]


def _changes(index: sqlite3.Connection, key: str, period: Period) -> list[Change]:
    asked = {"scorer": key, "since": period.since_ms, "until": period.until_ms}
    found = []
    for _, opened, version, rate, reason in index.execute(_READ_MODEL["epochs"], asked):
        parts = [f"version {version}"] if "version" in reason else []
        parts += [f"rate {rate:g}"] if "rate" in reason or reason.startswith("started") else []
        parts += ["filter"] if "filter" in reason else []
        parts += ["strata"] if "strata" in reason else []
        found.append(Change(opened, ", ".join(parts) or reason.split(":")[0], reason))
    return found


def _judging(index: sqlite3.Connection, key: str, period: Period, newest: Sequence[Row]) -> Judging:
    asked = {
        "scorer": key,
        "since": period.since_ms - period.since_ms % _HOUR_MS,
        "until": period.until_ms,
    }
    decisions = {
        decision: units for decision, units in index.execute(_READ_MODEL["decided"], asked) if units
    }
    failed = decisions.get("failed", 0)
    tried = failed + decisions.get("scored", 0)
    times = [row[5] for row in newest if row[5] is not None]
    return Judging(
        decisions=decisions,
        failure_rate=wilson(failed / tried if tried else np.nan, tried),
        latency={one: quantile(times, one / 100, bounds=(0.0, np.inf)) for one in (50, 95)},
    )
