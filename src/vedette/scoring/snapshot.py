"""How scoring is, for ``/health`` and pages: as of the end of a loop, whoever asks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vedette.scoring.active import ActiveScorer
from vedette.scoring.completion import oldest_after
from vedette.scoring.progress import Progress
from vedette.scoring.retries import Retries
from vedette.traces.index import TraceIndex


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One scorer that is started, or one of a backfill, see `Progress`."""

    scorer: ActiveScorer
    rate: float
    cursor: int
    in_flight: int
    retrying: int
    problem: str | None
    note: str | None
    units_per_second: float | None  # of a backfill; None: not known

    @classmethod
    def of(cls, progress: Progress, retries: Retries) -> Snapshot:
        """How it is now."""
        scorer, epoch = progress.scorer, progress.epochs.current
        return cls(
            scorer=scorer,
            rate=scorer.sample_rate if epoch is None else epoch.rate,
            cursor=progress.cursor,
            in_flight=progress.in_flight,
            retrying=retries.count(scorer.key),
            problem=progress.problem,
            note=progress.allowance.reason or progress.waits_for or progress.hint,
            units_per_second=progress.pace.per_second(time.monotonic()),
        )

    @classmethod
    def of_invalid(cls, scorer: ActiveScorer) -> Snapshot:
        """One that can't be run."""
        return cls(scorer, scorer.sample_rate, 0, 0, 0, scorer.invalid, None, None)


def states(index: TraceIndex, snapshots: Iterable[Snapshot]) -> dict[str, Mapping[str, Any]]:
    """``scorers`` and ``backfills`` by key, times in seconds."""
    now = time.time() * 1000
    scorers: dict[str, dict[str, Any]] = {}
    backfills: dict[str, dict[str, Any]] = {}
    oldest: dict[int, int | None] = {}
    for one in snapshots:
        told = {"in_flight": one.in_flight, "problem": one.problem, "note": one.note}
        if one.scorer.job is not None:
            backfills[one.scorer.key] = {**told, "units_per_second": one.units_per_second}
            continue
        lag = None
        if one.scorer.invalid is None:
            if one.cursor not in oldest:
                oldest[one.cursor] = oldest_after(index, one.cursor)
            since = oldest[one.cursor]
            lag = 0.0 if since is None else max(0.0, now - since) / 1000
        scorers[one.scorer.key] = {
            "rate": one.rate,
            **told,
            "retrying": one.retrying,
            "lag_seconds": lag,
        }
    return {"scorers": scorers, "backfills": backfills}
