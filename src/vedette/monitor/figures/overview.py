"""What the Overview shows of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vedette.monitor.figures.period import Period
from vedette.monitor.figures.scores import Score, scores
from vedette.monitor.figures.traffic import Traffic, changes, series, traffic
from vedette.traces.columns import Ask


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the traffic a scorer has scored.

    Attributes:
        unit: ``trace`` or ``session``.
        scored: units of the period that have a score.
        seen: units of the period that there are.
        waiting: complete units that it has yet to look at, of any time.
    """

    unit: str
    scored: int
    seen: int
    waiting: int

    @property
    def text(self) -> str:
        """For people: "scored 10 % of 41,233 traces, 12 waiting"."""
        if not self.seen:
            told = f"no {self.unit}s"
        else:
            share = 100 * self.scored / self.seen
            exact = f"{share:.0f}" if share >= 10 or not self.scored else f"{share:.2g}"
            told = f"scored {exact} % of {self.seen:,} {self.unit}{'s' * (self.seen != 1)}"
        return f"{told}, {self.waiting:,} waiting" if self.waiting else told

    def document(self) -> dict[str, Any]:
        """As the API tells it."""
        return {
            "unit": self.unit,
            "scored": self.scored,
            "seen": self.seen,
            "waiting": self.waiting,
            "text": self.text,
        }


@dataclass(frozen=True, slots=True)
class ScorerFigures:
    """A scorer, its state as `ScorersView` has it, its scores and how much of the traffic they are
    of."""

    row: Mapping[str, Any]
    scores: Sequence[Score]
    coverage: Coverage

    def document(self) -> dict[str, Any]:
        """As the API tells it."""
        return {
            "scorer": self.row["scorer"],
            "active": self.row["active"],
            "rate": self.row["rate"],
            "lag_seconds": self.row["lag_seconds"],
            "problem": self.row["problem"],
            "coverage": self.coverage.document(),
            "scores": [one.document() for one in self.scores],
        }


@dataclass(frozen=True, slots=True)
class Overview:
    """The figures of an experiment in a period, and of the one before it.

    Attributes:
        series: of the traffic, see `vedette.monitor.figures.traffic.series`.
        scorers: by name.
    """

    experiment_id: str
    period: Period
    traffic: Traffic
    before: Traffic
    series: Sequence[Mapping[str, Any]]
    scorers: Sequence[ScorerFigures]

    @property
    def lag_seconds(self) -> float:
        """How long the unit that waits longest for a scorer has been complete."""
        waiting = [one.row["lag_seconds"] or 0.0 for one in self.scorers if one.row["active"]]
        return max(waiting, default=0.0)

    def document(self) -> dict[str, Any]:
        """As the API tells it."""
        return {
            "experiment_id": self.experiment_id,
            "period": self.period.document(),
            "traffic": self.traffic.document(),
            "previous_traffic": self.before.document(),
            "traffic_change": changes(self.traffic, self.before),
            "exact": ["traces", "sessions", "errors", "tokens", "cost_usd"],
            "series": list(self.series),
            "scorers": [one.document() for one in self.scorers],
            "lag_seconds": self.lag_seconds,
        }


def overview(
    ask: Ask, experiment_id: str, period: Period, rows: Sequence[Mapping[str, Any]]
) -> Overview:
    """Compute it.

    Args:
        rows: the experiment's scorers as `vedette.monitor.data.ScorersView` has them.
    """
    number = int(experiment_id)
    after, before = traffic(ask, number, period)
    by_scorer: dict[str, list[Score]] = {}
    for one in scores(ask, number, period):
        by_scorer.setdefault(one.scorer, []).append(one)
    return Overview(
        experiment_id=experiment_id,
        period=period,
        traffic=after,
        before=before,
        series=series(ask, number, period, after.independent),
        scorers=[_figures(row, by_scorer.get(row["scorer"], []), after) for row in rows],
    )


def _figures(row: Mapping[str, Any], of: Sequence[Score], seen: Traffic) -> ScorerFigures:
    unit = row["unit"]
    coverage = Coverage(
        unit=unit,
        scored=max((one.units + one.others for one in of), default=0),
        seen=seen.sessions if unit == "session" else seen.traces,
        waiting=row["waiting"] if row["active"] else 0,
    )
    return ScorerFigures(row, of, coverage)
