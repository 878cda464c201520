"""A scorer that is stopped, or deleted: nothing more is called, and the ledger says what is left.

What was under way gets the decision ``stopped``, and so does what waited to be tried again; what
was complete and had not had its turn is counted with it. Then the cursor goes. The next scorer of
that name begins with nothing of this one's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from vedette.intake.records import CountRow, Stream
from vedette.named_sql import statements
from vedette.scoring.active import ActiveScorer
from vedette.scoring.arrival_order import arrived_until
from vedette.scoring.batches import Batch
from vedette.scoring.commit import empty_record
from vedette.scoring.epochs import BASE_STRATUM, Epoch, Epochs
from vedette.scoring.outcomes import Left
from vedette.scoring.progress import Progress
from vedette.scoring.retries import Retries
from vedette.traces.index import TraceIndex

_SQL = statements("vedette.scoring", "decided")
_EVER = 2**62  # ms since the epoch
_AT_ONCE = 4096  # retries in one record
_STOPPED = Left("stopped", "The scorer was stopped before it was scored.")


def stop(progress: Progress, retries: Retries, index: TraceIndex) -> None:
    """Go on with stopping a scorer: call it before each commit, until it has ended."""
    for batch in (*progress.batches, *progress.retried):
        if not batch.done:
            batch.leave(_STOPPED)
    key, room = progress.scorer.key, _AT_ONCE - len(progress.retried)
    for attempt in retries.due(key, _EVER, progress.tried_again, room):
        batch = Batch(progress.scorer, 0, attempts=[attempt])
        batch.leave(_STOPPED)
        progress.retried.append(batch)
    if progress.unconfirmed is None and not (progress.batches or progress.retried):
        _draft_last(progress, index)


def left_behind(key: str, epochs: Epochs) -> ActiveScorer:
    """A scorer that isn't started any more, as far as its epochs tell of it."""
    stream = Stream.of(key)
    last = epochs.current
    return ActiveScorer(
        experiment_id=stream.experiment_id,
        name=stream.scorer,
        job=stream.job,
        version=0 if last is None else last.version,
        serialized='{"is_session_level_scorer": true}' if last and last.of_sessions else "{}",
        sample_rate=0.0,
    )


def _draft_last(progress: Progress, index: TraceIndex) -> None:
    """The record with which its cursor goes."""
    assert progress.stopped_at is not None
    record = empty_record(progress.scorer.key, (progress.saved, None))
    begin = progress.epochs.begin
    opened = progress.epochs.stop(progress.cursor, progress.stopped_at, int(time.time() * 1000))
    record["epochs"] = [
        epoch.row(arrived_until(index, epoch.after_position, of_sessions=epoch.of_sessions))
        for epoch in (*progress.opened, *opened)
    ]
    for epoch in opened:
        if epoch.left:
            record["counts"] = _counts(progress, epoch, begin, index)
    progress.unconfirmed = record


def _counts(progress: Progress, epoch: Epoch, begin: int, index: TraceIndex) -> list[CountRow]:
    """What was complete at the stop and had not had its turn."""
    if progress.window is not None:
        assert progress.stopped_at is not None
        return _rows(epoch, progress.window.by_hour(index, progress.cursor, progress.stopped_at))
    values = {
        "after": progress.cursor,
        "until": progress.stopped_at,
        "begin": begin,
        "experiment_id": int(progress.scorer.experiment_id),
        "of_sessions": epoch.of_sessions,
    }
    return _rows(epoch, index.connection().execute(_SQL["left"], values))


def _rows(epoch: Epoch, by_hour: Iterable[tuple[int, int]]) -> list[CountRow]:
    return [
        CountRow(
            epoch=epoch.number,
            stratum=BASE_STRATUM,
            hour_ms=hour,
            decision=_STOPPED.decision,
            units=units,
        )
        for hour, units in by_hour
    ]
