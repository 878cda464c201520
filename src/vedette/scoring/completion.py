"""Traces become complete, in the order of arrival: the stream that scorers follow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow.tracing.constant import TraceMetadataKey

from vedette.intake.journal import JournalReader
from vedette.intake.records import Position
from vedette.sql import statements
from vedette.traces.index import TraceIndex

_SQL = statements("vedette.scoring", "completed")


class FoldedUntil:
    """Up to which moment the read model knows what arrived.

    Whether a trace has gone quiet can only be said of the time that has been folded: what the
    journals hold beyond it may belong to the trace.
    """

    def __init__(self, index: TraceIndex, journals: Sequence[JournalReader]) -> None:
        self._index = index
        self._journals = journals
        self._known: int | None = None
        self._sample = self._take()

    def milliseconds(self) -> int | None:
        """Milliseconds since the epoch; None while what was there at the start isn't folded."""
        at, ends = self._sample
        if all(map(self._has_folded, self._journals, ends)):
            self._known = at
            self._sample = self._take()
        return self._known

    def _take(self) -> tuple[int, list[Position]]:
        return int(time.time() * 1000), [journal.end() for journal in self._journals]

    def _has_folded(self, journal: JournalReader, end: Position) -> bool:
        position = self._index.position(journal.journal_id)
        # The end may lie past the last record: in a new segment that is still empty
        return position >= end or not journal.read(position, 1)


@dataclass(frozen=True, slots=True)
class CompletedTrace:
    """A place in the order of completion.

    ``row`` is its row of ``traces``, 0 when the trace has been deleted; ``of_run`` says that an
    evaluation run made it.
    """

    position: int
    row: int
    trace_id: str
    experiment_id: str
    of_run: bool


def complete_quiet(index: TraceIndex, *, quiet_since_ms: int, now_ms: int) -> bool:
    """Take as complete every trace whose root has ended and of which nothing came lately.

    A quiet trace without an ended root is put aside; whatever of it arrives puts it back.

    Args:
        quiet_since_ms: a trace is quiet if its last arrival is not after this.
        now_ms: when they are noted to have become complete.

    Returns:
        Whether any trace was taken or put aside.
    """
    connection = index.connection()
    values = {"quiet_since": quiet_since_ms, "now": now_ms}
    if not connection.execute(_SQL["any_quiet"], values).fetchone()[0]:
        return False
    # On disk before a cursor that counts these places gets into the journal: else a power cut could
    # undo them, give the same places to other traces, and those would be skipped.
    connection.execute("PRAGMA synchronous = FULL")
    try:
        with index.transaction():
            values["after"] = newest_position(index)
            connection.execute(_SQL["complete"], values)
            connection.execute(_SQL["mark_complete"], values)
            connection.execute(_SQL["forget_quiet"], values)
    finally:
        connection.execute("PRAGMA synchronous = NORMAL")
    return True


def newest_position(index: TraceIndex) -> int:
    """The place that was given last; 0 before the first."""
    row = index.connection().execute(_SQL["newest"]).fetchone()
    return int(row[0]) if row else 0


def completed_after(index: TraceIndex, position: int, count: int) -> list[CompletedTrace]:
    """The next traces in the order of completion, at most ``count``."""
    values = {"after": position, "count": count, "source_run": TraceMetadataKey.SOURCE_RUN}
    return [
        CompletedTrace(place, row or 0, trace_id or "", str(experiment_id), bool(of_run))
        for place, row, trace_id, experiment_id, of_run in index.connection().execute(
            _SQL["after"], values
        )
    ]


def oldest_after(index: TraceIndex, position: int) -> int | None:
    """When the first trace after this place became complete, in milliseconds since the epoch."""
    row = index.connection().execute(_SQL["oldest_after"], {"after": position}).fetchone()
    return None if row is None else int(row[0])


def stored_cursors(index: TraceIndex) -> dict[str, int]:
    """Scorer key -> the place up to which its scores are committed."""
    return dict(index.connection().execute(_SQL["cursors"]).fetchall())
