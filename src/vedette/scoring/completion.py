"""Traces and sessions become complete, in the order of arrival: the stream that scorers follow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow.tracing.constant import TraceMetadataKey

from vedette.intake.journal import JournalReader
from vedette.intake.records import Position
from vedette.named_sql import statements
from vedette.scoring.arrival_order import arrival, at_ms
from vedette.settings import Settings
from vedette.traces.index import TraceIndex

_SQL = statements("vedette.scoring", "completion")


class Clock:
    """The time of day that never goes back, and not below the arrivals there are: a clock that is
    put back would have everything wait until it has caught up.

    Args:
        at_least_ms: milliseconds since the epoch.
    """

    def __init__(self, at_least_ms: int) -> None:
        self._base_ms = max(at_least_ms, int(time.time() * 1000))
        self._began = time.monotonic()

    def milliseconds(self) -> int:
        """Now, in milliseconds since the epoch."""
        steady = self._base_ms + int((time.monotonic() - self._began) * 1000)
        wall = int(time.time() * 1000)
        if wall > steady:
            self._base_ms, self._began = wall, time.monotonic()
        return max(wall, steady)


class FoldedUntil:
    """Up to which moment the read model knows what arrived.

    Whether a trace has gone quiet can only be said of the time that has been folded: what the
    journals hold beyond it may belong to the trace.
    """

    def __init__(self, index: TraceIndex, journals: Sequence[JournalReader]) -> None:
        self._index = index
        self._journals = journals
        self._known: int | None = None
        self._clock: Clock | None = None  # None while the read model can't be asked
        self._sample: tuple[int, list[Position]] | None = None

    def milliseconds(self) -> int | None:
        """Milliseconds since the epoch; None while what was there at the start isn't folded."""
        if self._clock is None:
            self._clock = Clock(newest_arrival(self._index))
        at, ends = self._sample = self._sample or self._take(self._clock)
        if all(map(self._has_folded, self._journals, ends)):
            self._known = at
            self._sample = self._take(self._clock)
        return self._known

    def _take(self, clock: Clock) -> tuple[int, list[Position]]:
        return clock.milliseconds(), [journal.end() for journal in self._journals]

    def _has_folded(self, journal: JournalReader, end: Position) -> bool:
        position = self._index.position(journal.journal_id)
        # The end may lie past the last record: in a new segment that is still empty
        return position >= end or not journal.read(position, 1)


@dataclass(frozen=True, slots=True)
class CompletedUnit:
    """A place in the order of completion.

    Attributes:
        position: the place.
        reason: ``complete``; ``incomplete``: given up without a root; ``late_root``: the root came
            after that; ``annotated``: complete before, its annotations changed; ``session``.
        row: of ``traces``; of a session's first trace.
        of_run: whether an evaluation run made the trace.
        session_id, revision: of a session.
        completed_ms: milliseconds since the epoch: what had arrived until then was known.
        deleted: the trace, or every trace of the session, has been deleted; then it has no id.
    """

    position: int
    reason: str
    row: int
    trace_id: str
    experiment_id: str
    session_id: str | None
    revision: int
    completed_ms: int
    of_run: bool
    deleted: bool = False

    @property
    def unit_id(self) -> str:
        """What it is known by: the session's id or the trace's."""
        return self.trace_id if self.session_id is None else self.session_id


class Completion:
    """Takes units as complete when nothing came for a while.

    Args:
        trace_buffer: seconds without an arrival after which a trace with an ended root is complete.
        session_buffer: seconds after which a session is, but not before its traces are.
        max_trace_age: seconds after its first arrival at which a trace without a root is given up.
    """

    def __init__(
        self,
        index: TraceIndex,
        *,
        trace_buffer: float,
        session_buffer: float,
        max_trace_age: float,
    ) -> None:
        self._index = index
        self._trace_ms = int(trace_buffer * 1000)
        self._session_ms = int(max(session_buffer, trace_buffer) * 1000)
        self._age_ms = int(max_trace_age * 1000)

    @classmethod
    def of(cls, settings: Settings, index: TraceIndex) -> Completion:
        """With the buffers that are set."""
        return cls(
            index,
            trace_buffer=settings.trace_completion_buffer,
            session_buffer=settings.session_completion_buffer,
            max_trace_age=settings.max_trace_age,
        )

    def advance(self, *, folded_until_ms: int, annotations: bool) -> bool:
        """Give places to what has become complete, in the order of `arrival`.

        Args:
            folded_until_ms: what arrived until then is in the read model.
            annotations: whether traces with changed annotations are to be considered again.

        Returns:
            Whether there was anything.
        """
        connection = self._index.connection()
        values: dict[str, Any] = {
            "quiet_since": folded_until_ms - self._trace_ms,
            "session_quiet_since": folded_until_ms - self._session_ms,
            "too_old": folded_until_ms - self._age_ms,
            "age": self._age_ms,
            "buffer": self._trace_ms,
            "folded_until": folded_until_ms,
            "annotations": annotations,
        }
        if not annotations and connection.execute(_SQL["any_annotated"]).fetchone()[0]:
            with self._index.transaction():  # nobody asks for them: the scores themselves, mostly
                connection.execute(_SQL["forget_annotated"])
        if not connection.execute(_SQL["any_quiet"], values).fetchone()[0]:
            return False
        connection.create_function("arrival", 2, arrival, deterministic=True)
        # On disk before a cursor that counts these places gets into the journal: else a power cut
        # could undo them, give the same places to other units, and those would be skipped.
        with self._index.durable_transaction():
            values["after"] = newest_position(self._index)
            for name in ("note_rootless", "forget_in_time", "complete", "mark_complete"):
                connection.execute(_SQL[name], values)
            for name in ("forget_rootless", "forget_quiet"):
                connection.execute(_SQL[name], values)
            self._complete_sessions(values)
            if annotations:
                connection.execute(_SQL["reconsider"], values)
            connection.execute(_SQL["forget_annotated"])
        return True

    def folded_until(self, arrived_until: int, *, of_sessions: bool) -> int:
        """What must have been folded when units up to this `arrival` were complete, in milliseconds
        since the epoch."""
        buffer = self._session_ms if of_sessions else self._trace_ms
        return at_ms(arrived_until) + buffer

    def recall(self) -> None:
        """In a read model that has been made anew, note what was between arrivals that are now all
        there: traces given up before their roots came, revisions of sessions."""
        with self._index.transaction() as connection:
            connection.execute(_SQL["recall_late_roots"], {"age": self._age_ms})
            connection.execute(_SQL["recall_revisions"])

    def _complete_sessions(self, values: dict[str, Any]) -> None:
        connection = self._index.connection()
        for experiment_id, session_id, at in connection.execute(
            _SQL["quiet_sessions"], values
        ).fetchall():
            session = {"experiment_id": experiment_id, "session_id": session_id}
            traces = session_traces(self._index, str(experiment_id), session_id)
            if not traces:
                continue  # its traces have no roots yet; one that gets its root brings it back
            (revision,) = connection.execute(_SQL["next_revision"], session).fetchone()
            first = next(iter(traces))
            place = {**values, **session, "trace": first, "revision": revision, "arrival": at}
            connection.execute(_SQL["complete_session"], place)
        connection.execute(_SQL["forget_quiet_sessions"], values)


def newest_arrival(index: TraceIndex) -> int:
    """When the last arrival of a trace that is not complete was, in ms since the epoch; or 0."""
    row = index.connection().execute(_SQL["newest_arrival"]).fetchone()
    return int(row[0] or 0)


def newest_position(index: TraceIndex) -> int:
    """The place that was given last; 0 before the first."""
    row = index.connection().execute(_SQL["newest"]).fetchone()
    return int(row[0]) if row else 0


def completed_after(index: TraceIndex, position: int, count: int) -> list[CompletedUnit]:
    """The next units in the order of completion, at most ``count``."""
    values = {"after": position, "count": count, "source_run": TraceMetadataKey.SOURCE_RUN}
    units = [
        CompletedUnit(
            place,
            reason,
            row,
            trace_id,
            str(experiment_id),
            session,
            revision,
            at,
            bool(of_run),
            bool(deleted),
        )
        for place, reason, row, trace_id, experiment_id, session, revision, at, of_run, deleted in (
            index.connection().execute(_SQL["after"], values)
        )
    ]
    return [_as_it_remains(index, unit) if unit.deleted else unit for unit in units]


def _as_it_remains(index: TraceIndex, unit: CompletedUnit) -> CompletedUnit:
    """A unit whose trace has been deleted: a session goes on with the first that is left."""
    if unit.session_id is None:
        return unit
    left = session_traces(index, unit.experiment_id, unit.session_id)
    if not left:
        return unit
    row, trace_id = next(iter(left.items()))
    return replace(unit, row=row, trace_id=trace_id, deleted=False)


def session_traces(index: TraceIndex, experiment_id: str, session_id: str) -> dict[int, str]:
    """The traces that a session consists of: trace id by row of ``traces``, in the order in which
    they began."""
    values = {
        "experiment_id": int(experiment_id),
        "session_id": session_id,
        "source_run": TraceMetadataKey.SOURCE_RUN,
    }
    return dict(index.connection().execute(_SQL["session_traces"], values).fetchall())


def newest_revision(index: TraceIndex, experiment_id: str, session_id: str) -> int:
    """The newest revision of a session that has become complete; -1 before the first."""
    values = {"experiment_id": int(experiment_id), "session_id": session_id}
    row = index.connection().execute(_SQL["newest_revision"], values).fetchone()
    return int(row[0]) if row else -1


def oldest_after(index: TraceIndex, position: int) -> int | None:
    """When the first unit after this place became complete, in milliseconds since the epoch."""
    row = index.connection().execute(_SQL["oldest_after"], {"after": position}).fetchone()
    return None if row is None else int(row[0])


def stored_cursors(index: TraceIndex) -> dict[str, int]:
    """Scorer key -> the place up to which its decisions are committed."""
    return dict(index.connection().execute(_SQL["cursors"]).fetchall())
