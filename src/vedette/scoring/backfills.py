"""Backfills: history that is scored as if the scorer had been there.

Each scorer of a job is a `Stream` of its own in the ledger, with a cursor over the same order of
completion that live scoring follows, but over a part of it that doesn't grow: what was complete
when the job was asked for, and lies in its window of trace time. So a kill at any moment, and a
read model that is made anew, cost it what they cost live scoring: nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mlflow.tracing.constant import TraceMetadataKey

from vedette.intake.records import BackfilledScorer, BackfillRow, Stream
from vedette.named_sql import statements
from vedette.scoring.active import ActiveScorer
from vedette.scoring.arrival_order import position_of
from vedette.scoring.completion import CompletedUnit
from vedette.traces.index import TraceIndex

_SQL = statements("vedette.scoring", "backfills")
_SCAN = 20_000  # places in the order of completion that are looked through in one go
REUSED = "reused"  # the decision on a unit that the version had scored before


@dataclass(frozen=True, slots=True)
class Window:
    """The units of one scorer of a job. Times are ms since the epoch.

    Attributes:
        start_ms, end_ms: its traces began at ``start_ms`` or later, and before ``end_ms``; a
            session counts by its first trace.
        last: the last place in the order of completion that may be one of them.
    """

    experiment_id: str
    of_sessions: bool
    start_ms: int
    end_ms: int
    last: int

    def after(
        self, index: TraceIndex, position: int, until: int, count: int
    ) -> tuple[list[CompletedUnit], int]:
        """The next units after ``position``, at most ``count``, and the place up to which there are
        no others: ``until``, or before it, when more are to be looked for from there on."""
        connection = index.connection()
        values = {**self._values(), "after": position, "until": until, "count": _SCAN}
        if (row := connection.execute(_SQL["scan_end"], values).fetchone()) is not None:
            until = values["until"] = row[0]
        values["count"] = count
        units = [
            CompletedUnit(
                place,
                "complete" if session is None else "session",
                row,
                trace_id,
                self.experiment_id,
                session,
                revision,
                at,
                bool(of_run),
            )
            for place, row, trace_id, session, revision, at, of_run in connection.execute(
                _SQL["units"], values
            )
        ]
        return units, units[-1].position if len(units) == count else until

    def all(self, index: TraceIndex) -> Iterator[list[CompletedUnit]]:
        """All its units, some thousand at a time."""
        position = 0
        while position < self.last:
            units, position = self.after(index, position, self.last, _SCAN)
            yield units

    def by_hour(self, index: TraceIndex, after: int, until: int) -> list[tuple[int, int]]:
        """How many units between two places became complete in which hour (ms since the epoch)."""
        values = {**self._values(), "after": after, "until": until, "count": -1}
        counted = (
            "SELECT completed_ms - completed_ms % 3600000, count(*)"
            f" FROM ({_SQL['units']}) GROUP BY 1"
        )
        return index.connection().execute(counted, values).fetchall()

    def _values(self) -> dict[str, Any]:
        return {
            "last": self.last,
            "experiment_id": int(self.experiment_id),
            "of_sessions": self.of_sessions,
            "start_ms": self.start_ms,
            "end_ms": self.end_ms,
            "source_run": TraceMetadataKey.SOURCE_RUN,
        }


@dataclass(frozen=True, slots=True)
class Backfill:
    """A job; see `BackfillRow`."""

    job: str
    experiment_id: str
    scorers: tuple[BackfilledScorer, ...]
    start_ms: int
    end_ms: int
    trace_arrival: int
    session_arrival: int
    rescore: bool
    created_ms: int
    cancelled_ms: int | None = None

    def stream(self, scorer: BackfilledScorer) -> Stream:
        """What a scorer of it is in the ledger."""
        return Stream(self.experiment_id, scorer["name"], self.job)

    def window(self, index: TraceIndex, scorer: BackfilledScorer) -> Window:
        """A scorer's units. Keep it: the older the job, the longer it takes to find their end."""
        of_sessions = scorer["of_sessions"]
        until = self.session_arrival if of_sessions else self.trace_arrival
        last = position_of(index, until, of_sessions=of_sessions) or 0
        return Window(self.experiment_id, of_sessions, self.start_ms, self.end_ms, last)

    def row(self) -> BackfillRow:
        """As it is journaled."""
        return BackfillRow(
            job=self.job,
            experiment_id=self.experiment_id,
            scorers=list(self.scorers),
            start_ms=self.start_ms,
            end_ms=self.end_ms,
            trace_arrival=self.trace_arrival,
            session_arrival=self.session_arrival,
            rescore=self.rescore,
            created_ms=self.created_ms,
            cancelled_ms=self.cancelled_ms,
        )

    def as_active(self, scorer: BackfilledScorer, registered: ActiveScorer) -> ActiveScorer:
        """A scorer of it as it runs: rates, filter and strata are the job's."""
        return replace(
            registered,
            job=self.job,
            asked_ms=self.created_ms,
            sample_rate=scorer["rate"],
            filter_string=scorer["filter"],
            strata=tuple((text, rate) for text, rate in scorer["strata"]),
        )


def stored_backfills(index: TraceIndex) -> list[Backfill]:
    """All jobs, oldest first."""
    return [
        Backfill(
            job=job,
            experiment_id=str(experiment_id),
            scorers=tuple(json.loads(scorers)),
            start_ms=start,
            end_ms=end,
            trace_arrival=traces,
            session_arrival=sessions,
            rescore=bool(rescore),
            created_ms=created,
            cancelled_ms=cancelled,
        )
        for (
            job,
            experiment_id,
            scorers,
            start,
            end,
            traces,
            sessions,
            rescore,
            created,
            cancelled,
        ) in index.connection().execute(_SQL["all"])
    ]


def asked_for(index: TraceIndex) -> tuple[int, int]:
    """How many jobs were asked for, and how many of them cancelled."""
    jobs, cancelled = index.connection().execute(_SQL["asked_for"]).fetchone()
    return jobs, cancelled


def settled(index: TraceIndex, stream: str) -> int | None:
    """The place up to which the read model has a stream's decisions; None: it has no cursor."""
    row = index.connection().execute(_SQL["cursor"], {"scorer": stream}).fetchone()
    return None if row is None else int(row[0])


def streams_of(index: TraceIndex, scorer: ActiveScorer) -> list[str]:
    """Keys of all that has decided anything for a scorer: its live stream, and its backfills."""
    live = scorer.stream.live
    found = index.connection().execute(_SQL["streams"])
    return [key for (key,) in found if Stream.of(key).live == live]


def scored_before(
    index: TraceIndex, scorer: ActiveScorer, units: Iterable[CompletedUnit]
) -> dict[tuple[str, int], str]:
    """Those of the units that this version has scored already, whoever asked for it: by id and
    revision, their ``scores`` as decisions have them."""
    values = {
        "ids": json.dumps([unit.unit_id for unit in units]),
        "version": scorer.version,
        "streams": json.dumps([key for key in streams_of(index, scorer) if key != scorer.key]),
    }
    found = index.connection().execute(_SQL["scored_before"], values)
    return {(unit_id, revision): scores for unit_id, revision, scores in found}
