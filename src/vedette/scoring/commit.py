"""Write scores together with the cursors that say how far they reach."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future

from vedette.intake.journal import JournalWriter
from vedette.intake.records import AssessmentRow, Position, Record
from vedette.scoring.ids import assessment_id
from vedette.scoring.pool import Outcome
from vedette.scoring.progress import Batch, Progress

_RECORD_BYTES = 4 * 1024 * 1024  # of scores in one journal record
_SAVE_SECONDS = 5.0  # between records that move cursors only
_JOURNAL_SECONDS = 30.0


def commit(
    journal: JournalWriter,
    scorers: Iterable[Progress],
    *,
    dropped: Collection[str] = (),
    all_cursors: bool = False,
) -> bool:
    """Journal what is finished, one record for each scorer, and wait until it is on disk.

    A scorer has at most one record on its way: a cursor must never overtake scores before it.

    Args:
        dropped: keys of scorers whose cursors are to be forgotten.
        all_cursors: also write cursors that moved past nothing to be scored, which else wait a few
            seconds: they would only be moved again.

    Returns:
        Whether anything was finished.

    Raises:
        JournalFull, JournalUnavailable, TimeoutError: call again later. What was written already
            is then written again, with the same ids.
    """
    now = time.monotonic()
    finished = False
    writes: list[tuple[Future[Position], dict[Progress, int]]] = []
    bare: dict[Progress, int] = {}
    for progress in scorers:
        ready = progress.ready(_RECORD_BYTES)
        rows = [row for batch in ready for row in _rows(batch)]
        end = ready[-1].end if ready else progress.cursor
        if ready:
            finished, progress.problem = True, None
        if rows:
            written = _append(journal, rows, {progress.scorer.key: end})
            writes.append((written, {progress: end}))
        elif progress.saved is None or (
            end != progress.saved and (all_cursors or now - progress.saved_at > _SAVE_SECONDS)
        ):
            bare[progress] = end
        else:
            progress.advance(end)
    if bare or dropped:
        cursors: dict[str, int | None] = {one.scorer.key: end for one, end in bare.items()}
        cursors.update(dict.fromkeys(dropped))
        writes.append((_append(journal, [], cursors), bare))
    for written, ends in writes:
        written.result(_JOURNAL_SECONDS)
        for progress, end in ends.items():
            progress.advance(end)
            progress.saved, progress.saved_at = end, now
    return finished


def _append(
    journal: JournalWriter, rows: list[AssessmentRow], cursors: Mapping[str, int | None]
) -> Future[Position]:
    moved = [{"scorer": key, "position": position} for key, position in cursors.items()]
    fields = {"put": rows, "delete": [], "cursors": moved}
    return journal.append(Record("assessments", int(time.time() * 1000), fields))


def _rows(batch: Batch) -> list[AssessmentRow]:
    outcomes: Sequence[Outcome] = batch.future.result() if batch.future is not None else ()
    return [
        AssessmentRow(
            {
                **row,
                "assessment_id": assessment_id(
                    experiment_id=batch.scorer.experiment_id,
                    scorer=batch.scorer.name,
                    version=batch.scorer.version,
                    unit=outcome.trace_id,
                    revision=0,
                    index=index,
                ),
                "trace_id": outcome.trace_id,
            }
        )
        for outcome in outcomes
        for index, row in enumerate(outcome.rows)
    ]
