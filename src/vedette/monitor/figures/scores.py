"""Each score's pass rate or mean over all traffic of a period, and how it moved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vedette.monitor.figures.period import Period
from vedette.monitor.figures.sums import (
    SHARED,
    WIDTH,
    Row,
    correlation,
    document,
    finite,
    moments_of,
    sums_of,
)
from vedette.monitor.figures.traffic import bounds_of
from vedette.monitor.figures.verdicts import NUMBER, POINTS, Verdict, verdict
from vedette.named_sql import statements
from vedette.quality.difference import difference
from vedette.quality.estimate import Estimate
from vedette.quality.mean import mean
from vedette.quality.moments import Moments
from vedette.quality.proportion import proportion
from vedette.traces.columns import Ask

_SQL = statements("vedette.monitor.figures", "mirror")
_BOTH = ", ".join((sums_of("na", "wa", "ta", "qa"), sums_of("nb", "wb", "tb", "qb"), SHARED))
_ONE = sums_of("na", "wa", "ta", "qa")
_ERROR = 0.05  # of all verdicts of an experiment together


@dataclass(frozen=True, slots=True)
class Score:
    """What a scorer says of the traffic of a period.

    Attributes:
        name: of the score: the scorer's own, unless it gives several.
        kind: ``boolean``: it passes or doesn't; ``number``; ``label``: a share of one label.
        label: the most frequent of the labels, whose share is told; None for other kinds.
        units: how many scores of this kind there are.
        lowest: of the scores of both periods, nan if they are no numbers; ``highest`` likewise.
        others: how many there are besides that are neither, such as "unknown" among yes and no.
        estimate: a share in 0..1, or a mean in the scores' unit.
        before: the same of the period before, of ``units_before``.
        versions: of the scorer, that gave them; ``versions_before`` likewise.
    """

    scorer: str
    name: str
    kind: str
    label: str | None
    units: int
    lowest: float
    highest: float
    others: int
    estimate: Estimate
    units_before: int
    before: Estimate
    verdict: Verdict
    level: float
    versions: Sequence[int]
    versions_before: Sequence[int]

    def document(self) -> dict[str, Any]:
        """As the API tells it."""
        return {
            "scorer": self.scorer,
            "name": self.name,
            "kind": self.kind,
            "label": self.label,
            "scores": self.units,
            "lowest": finite(self.lowest),
            "highest": finite(self.highest),
            "other_scores": self.others,
            "estimate": document(self.estimate),
            "previous_scores": self.units_before,
            "previous": document(self.before),
            "verdict": {**self.verdict.document(), "level": self.level},
            "versions": list(self.versions),
            "previous_versions": list(self.versions_before),
        }


@dataclass(frozen=True, slots=True)
class _Kind:
    kind: str
    label: str | None
    lowest: float
    highest: float
    others: int
    versions: Sequence[int]
    versions_before: Sequence[int]


def scores(ask: Ask, experiment_id: int, period: Period) -> list[Score]:
    """Every score of the period or of the one before it, by scorer and name.

    Hajek means with weights 1 / inclusion probability, so that they are of all traffic whatever the
    rates were; intervals mind that units of a session resemble each other. The verdicts of an
    experiment's scores hold together at 95 % (Bonferroni), or with twenty scorers one of them would
    seem to have moved at any time; ``level`` is that of each.
    """
    given = bounds_of(experiment_id, period)
    kinds = _kinds(ask(_SQL["score_kinds"], given, {}))
    labels = _labels(kinds)
    rows = ask(_SQL["score_sums"].replace("%s", _BOTH), given, {"labels": labels})
    level = 1 - _ERROR / max(len(kinds), 1)
    found = []
    for scorer, name, *sums in sorted(rows):
        after, before = moments_of(sums), moments_of(sums[WIDTH:])
        rho = correlation(after, before, sums[2 * WIDTH :])
        found.append(_score(scorer, name, kinds[scorer, name], after, before, rho, level))
    return found


def score_series(
    ask: Ask, experiment_id: int, period: Period, score: Score
) -> list[dict[str, Any]]:
    """One entry for each bucket of the period and version of the scorer that has scores."""
    given = {
        "experiment": experiment_id,
        "since": period.since_ms,
        "until": period.until_ms,
        "bucket": period.choice.score_ms,
        "scorer": score.scorer,
        "name": score.name,
        "label": score.label,
    }
    found = []
    for at, version, *sums in ask(_SQL["score_series"].replace("%s", _ONE), given, {}):
        estimate = estimated(score.kind, moments_of(sums))
        found.append(
            {"at_ms": at, "version": version, "scores": int(sums[0]), **document(estimate)}
        )
    return found


def estimated(kind: str, sums: Moments, level: float = 0.95) -> Estimate:
    """A share of the traffic, or a mean over it."""
    return mean(sums, level) if kind == "number" else proportion(sums, level)


def _kinds(rows: Sequence[Row]) -> dict[tuple[str, str], _Kind]:
    """What kind of score each is: with numbers that aren't all passes it is one of numbers."""
    sides: dict[tuple[str, str], dict[bool, Row]] = {}
    for scorer, name, after, *row in rows:
        sides.setdefault((scorer, name), {})[after] = tuple(row)
    found = {}
    for key, of in sides.items():
        numbers = sum(row[1] for row in of.values())
        passes = all(row[2] is not False for row in of.values())
        newest = of.get(True) or of[False]
        label = None if numbers else newest[5]
        kind = "label" if not numbers else "boolean" if passes else "number"
        counted, valued = of[True][:2] if True in of else (0, 0)
        versions = {side: row[6] for side, row in of.items()}
        found[key] = _Kind(
            kind,
            label,
            min((row[3] for row in of.values() if row[3] is not None), default=math.nan),
            max((row[4] for row in of.values() if row[4] is not None), default=math.nan),
            counted - valued if numbers else 0,
            versions.get(True, []),
            versions.get(False, []),
        )
    return found


def _labels(kinds: Mapping[tuple[str, str], _Kind]) -> pa.Table:
    wanted = [(*key, one.label) for key, one in kinds.items() if one.label is not None]
    names = ("scorer", "name", "label")
    columns = [[row[place] for row in wanted] for place in range(len(names))]
    return pa.table([pa.array(column, pa.string()) for column in columns], names=list(names))


def _score(
    scorer: str,
    name: str,
    kind: _Kind,
    after: Moments,
    before: Moments,
    rho: float,
    level: float,
) -> Score:
    change = difference(
        estimated(kind.kind, after, level), estimated(kind.kind, before, level), rho
    )
    units, units_before = int(after.units), int(before.units)
    unit = NUMBER if kind.kind == "number" else POINTS
    return Score(
        scorer=scorer,
        name=name,
        kind=kind.kind,
        label=kind.label,
        units=units,
        lowest=kind.lowest,
        highest=kind.highest,
        others=kind.others,
        estimate=estimated(kind.kind, after),
        units_before=units_before,
        before=estimated(kind.kind, before),
        verdict=verdict(change, unit, units, units_before),
        level=level,
        versions=kind.versions,
        versions_before=kind.versions_before,
    )
