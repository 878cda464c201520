"""Write decisions together with the cursors that say how far they reach."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future

from vedette.intake.journal import JournalWriter
from vedette.intake.records import (
    AssessmentRow,
    CountRow,
    Decisions,
    Position,
    Record,
    Stream,
)
from vedette.lake.location import stamp
from vedette.lake.locations import Locations
from vedette.scoring.arrival_order import arrived_until
from vedette.scoring.batches import Batch
from vedette.scoring.breaker import Problem
from vedette.scoring.progress import Progress
from vedette.scoring.verdicts import Verdicts
from vedette.traces.index import TraceIndex

_RECORD_BYTES = 4 * 1024 * 1024  # of scores in one journal record
_BESIDE_BYTES = 512 * 1024  # of a backfill's: live scores wait behind it until it is folded
_SAVE_SECONDS = 5.0  # between records that only count and move cursors
_JOURNAL_SECONDS = 30.0
_HOUR_MS = 3_600_000


def commit(
    journal: JournalWriter,
    index: TraceIndex,
    scorers: Iterable[Progress],
    verdicts: Verdicts,
    locations: Locations,
    *,
    everything: bool = False,
) -> bool:
    """Journal what is finished, one record for each scorer, and wait until it is on disk.

    A scorer has at most one record on its way: a cursor must never overtake decisions before it. A
    backfill writes the next when the read model has the last.

    Args:
        index: tells what places mean.
        verdicts: makes rows of outcomes.
        locations: where the experiments' ledgers are.
        everything: also write counts and cursors alone, which else wait a few seconds for more.

    Returns:
        Whether anything was finished.

    Raises:
        JournalFull, JournalUnavailable, TimeoutError: call again later. A record that may have been
            written is then written again, the same.
    """
    finished = False
    writes: list[tuple[Progress, Future[Position]]] = []
    for progress in scorers:
        try:
            if progress.unconfirmed is None and (everything or _has_turn(progress, journal, index)):
                progress.unconfirmed = _draft(progress, index, verdicts, everything=everything)
            if progress.unconfirmed is None:
                continue
            writes.append((progress, _append(journal, progress.unconfirmed, locations)))
        except (TypeError, ValueError) as error:  # a defect, but none of the other scorers'
            problem = Problem(
                "NOT_WRITTEN", f"its decisions can't be written: {error}", certain=True
            )
            progress.breaker.record(problem, time.monotonic())
            continue
        finished |= bool(progress.unconfirmed["decisions"] or progress.unconfirmed["counts"])
    for progress, written in writes:
        progress.journaled = written.result(_JOURNAL_SECONDS)
        _confirm(progress, verdicts)
    return finished


def _has_turn(progress: Progress, journal: JournalWriter, index: TraceIndex) -> bool:
    return progress.window is None or index.position(journal.journal_id) >= progress.journaled


def _draft(
    progress: Progress, index: TraceIndex, verdicts: Verdicts, *, everything: bool
) -> Decisions | None:
    """The next record of a scorer, if there is something to say."""
    progress.take_in(time.monotonic())
    ready = progress.ready(_RECORD_BYTES if progress.window is None else _BESIDE_BYTES)
    retried = [batch for batch in progress.retried if batch.done]
    end = ready[-1].end if ready else progress.cursor
    pressing = (
        any(batch.attempts for batch in ready)
        or bool(retried)
        or bool(progress.opened)
        or progress.saved is None
    )
    # So that a backfill ends when it is done
    everything |= progress.stopped_at is not None or progress.window is not None
    due = end != progress.saved and (
        everything or time.monotonic() - progress.saved_at > _SAVE_SECONDS
    )
    if not (pressing or due):
        return None

    def arrivals(place: int) -> int:
        return arrived_until(index, place, of_sessions=progress.scorer.is_session_level)

    record = empty_record(progress.scorer.key, (progress.saved, end), arrivals(end))
    for epoch in progress.opened:
        record["epochs"].append(epoch.row(arrivals(epoch.after_position)))
    record["counts"] = _counts(ready)
    for batch in (*ready, *retried):
        record["decisions"] += [
            verdicts.undrawn(batch.scorer, choice) for choice in batch.counted if choice.open
        ]
        if batch.refused is not None:
            record["decisions"] += [
                verdicts.over_budget(batch.scorer, attempt, batch.refused)
                for attempt in batch.attempts
            ]
        for attempt, outcome in batch.outcomes:
            decision, rows = verdicts.of(batch.scorer, attempt, outcome)
            record["decisions"].append(decision)
            record["put"] += rows
    return record


def _confirm(progress: Progress, verdicts: Verdicts) -> None:
    """The record is on disk."""
    record = progress.unconfirmed
    assert record is not None
    assert record["cursor"] is not None
    end = record["cursor"][1]
    progress.unconfirmed = None
    if end is None:
        progress.ended = True
        return
    told = {(one["unit_id"], one["revision"]) for one in record["decisions"]}
    progress.retried = [
        batch
        for batch in progress.retried
        if not all((one.unit_id, one.revision) in told for one in batch.attempts)
    ]
    progress.advance(end)
    progress.opened = progress.opened[len(record["epochs"]) :]
    progress.saved, progress.saved_at = end, time.monotonic()
    if progress.window is not None:
        units = len(record["decisions"]) + sum(one["units"] for one in record["counts"])
        progress.pace.note(progress.saved_at, units)
    verdicts.journaled(progress.scorer.key, record["decisions"])


def _counts(batches: Iterable[Batch]) -> list[CountRow]:
    sums = Counter[tuple[int, int, int, str]]()
    for batch in batches:
        for choice in batch.counted:
            if choice.open:
                continue
            at = choice.unit.completed_ms
            key = choice.epoch.number, choice.stratum, at - at % _HOUR_MS, choice.decision
            sums[key] += choice.count
    return [
        CountRow(epoch=epoch, stratum=stratum, hour_ms=hour, decision=decision, units=units)
        for (epoch, stratum, hour, decision), units in sums.items()
        if units
    ]


def empty_record(
    scorer: str, cursor: tuple[int | None, int | None], arrived_until: int | None = None
) -> Decisions:
    """A record that moves a cursor, and says nothing else yet; see `Decisions`."""
    put: list[AssessmentRow] = []
    return Decisions(
        scorer=scorer,
        cursor=cursor,
        arrived_until=arrived_until,
        epochs=[],
        decisions=[],
        counts=[],
        put=put,
    )


def _append(journal: JournalWriter, fields: Decisions, locations: Locations) -> Future[Position]:
    location = locations.of(Stream.of(fields["scorer"]).experiment_id)
    return journal.append(
        Record("decisions", int(time.time() * 1000), {**fields, **stamp(location)})
    )
