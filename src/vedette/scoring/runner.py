"""Score every complete trace once per active scorer: read, run, write, move the cursor.

Scores and the cursor that says so go into the journal as one record, so that a kill at any moment
loses neither and repeats, at worst, work whose results have the ids of those they replace.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol

from mlflow.entities import Trace
from mlflow.exceptions import MlflowException

from vedette.intake.journal import JournalReader, JournalWriter
from vedette.intake.records import AssessmentRow, Position, Record
from vedette.scoring.active import (
    ActiveScorer,
    ActiveScorers,
    ControlUnavailable,
    control_engine,
)
from vedette.scoring.completion import (
    CompletedTrace,
    FoldedUntil,
    complete_quiet,
    completed_after,
    newest_position,
    oldest_after,
    stored_cursors,
)
from vedette.scoring.ids import assessment_id
from vedette.scoring.pool import Outcome, Unit, WorkerPool
from vedette.scoring.progress import Batch, Progress
from vedette.scoring.selection import to_score
from vedette.settings import Settings
from vedette.traces.filters import TraceFilter
from vedette.traces.index import TraceIndex

logger = logging.getLogger(__name__)

_WINDOW = 256  # completed traces looked at in one go
_IN_FLIGHT = 1024  # traces of one scorer on their way through workers
_IN_FLIGHT_BYTES = 64 * 1024 * 1024
_BATCH_UNITS = 32  # traces in one message to a worker
_BATCH_BYTES = 4 * 1024 * 1024
_LOAD_TRACES = 64  # traces read at a time
_LOAD_BYTES = 32 * 1024 * 1024  # of traces read in one go; what is beyond comes next time
_RECORD_BYTES = 4 * 1024 * 1024  # of scores in one journal record
_SAVE_SECONDS = 5.0  # between records that move cursors only
_WAIT_SECONDS = 0.2  # for workers, when nothing else is to be done
_RETRY_SECONDS = 1.0
_JOURNAL_SECONDS = 30.0


class TraceReads(Protocol):
    """What scoring reads of traces."""

    def batch(self, trace_ids: Sequence[str]) -> list[Trace]:
        """These traces with all their spans; those that don't exist are left out."""

    def matching_spans(self, compiled: TraceFilter, rows: Sequence[int]) -> Iterable[int]:
        """Of these rows, those with a span that the filter's span part matches."""


class Scoring:
    """Scoring on one data directory. Not thread-safe: one thread calls `tick`, then `close`.

    Args:
        index: the read model, which another thread keeps up to date.
        reads: whole traces.
        journal: the engine's; scores and cursors are written to it.
        pool: worker processes; made from the settings if not given, and closed with this.
    """

    def __init__(
        self,
        settings: Settings,
        index: TraceIndex,
        reads: TraceReads,
        journal: JournalWriter,
        pool: WorkerPool | None = None,
    ) -> None:
        self._buffer_ms = int(settings.trace_completion_buffer * 1000)
        self._index = index
        self._reads = reads
        self._journal = journal
        self._pool = pool or WorkerPool(
            per_scorer=settings.workers, timeout=settings.scorer_timeout
        )
        self._control = control_engine(settings.control_uri)
        # Not older than the buffer: a trace that arrived after start() finds its scorer known
        self._scorers = ActiveScorers(
            self._control, max_age=min(1.0, settings.trace_completion_buffer)
        )
        self._folded = FoldedUntil(
            index,
            [JournalReader(settings.server_journal), JournalReader(settings.engine_journal)],
        )
        self._progress: dict[str, Progress] = {}
        self._cursors: dict[str, int] | None = None  # as stored; None until they are known
        self._dropped: set[str] = set()  # cursors to be removed from the journal's account
        self._unsupported: set[str] = set()
        self._retry_at = 0.0
        self._snapshot: list[tuple[str, float, int, int, str | None]] = []

    def tick(self) -> bool:
        """Do what can be done now; True if there is more to do at once.

        Raises:
            ControlUnavailable, JournalFull, JournalUnavailable, OSError: nothing is lost; call
                again later.
        """
        folded_until = self._folded.milliseconds()
        if folded_until is None:
            return False
        if self._cursors is None:
            self._cursors = stored_cursors(self._index)
        newest = newest_position(self._index)
        try:
            self._adopt(self._scorers.read(), newest)
        finally:
            # Before traces complete: where a new scorer begins must be on disk by then. And what
            # was scored is written whether or not the control database can be read.
            committed = self._commit()
        complete_quiet(
            self._index,
            quiet_since_ms=folded_until - self._buffer_ms,
            now_ms=int(time.time() * 1000),
        )
        self._run_again()
        started = self._start()
        self._pool.retire_idle()
        self._snapshot = [
            (key, one.scorer.sample_rate, one.cursor, one.in_flight, one.problem)
            for key, one in self._progress.items()
        ]
        return committed or started or self._wait()

    def close(self) -> None:
        """Write what has been scored; end the workers. Nothing else is lost: it is done again."""
        self._pool.close()
        try:
            self._commit(all_cursors=True)
        except Exception as error:
            logger.warning("the last scores could not be written, they are made again: %s", error)
        self._control.dispose()

    def state(self) -> dict[str, Any]:
        """How scoring is, for ``/health``: times in seconds, by scorer key. Call it from anywhere:
        it tells of the end of the last `tick`."""
        now = time.time() * 1000
        scorers = {}
        oldest: dict[int, int | None] = {}
        for key, rate, cursor, in_flight, problem in self._snapshot:
            if cursor not in oldest:
                oldest[cursor] = oldest_after(self._index, cursor)
            since = oldest[cursor]
            scorers[key] = {
                "rate": rate,
                "in_flight": in_flight,
                "lag_seconds": 0.0 if since is None else max(0.0, now - since) / 1000,
                "problem": problem,
            }
        return {"processes": self._pool.processes, "scorers": scorers}

    def _adopt(self, active: list[ActiveScorer], newest: int) -> None:
        """Take over what started, stopped or changed."""
        supported = {scorer.key: scorer for scorer in active if self._supports(scorer)}
        for key, scorer in supported.items():
            progress = self._progress.get(key)
            if progress is None:
                saved = None if key in self._dropped else (self._cursors or {}).get(key)
                cursor = newest if saved is None else saved
                self._progress[key] = Progress(scorer, cursor, saved)
                self._dropped.discard(key)
                logger.info("scorer %s version %d: from %d on", key, scorer.version, cursor)
            elif progress.scorer != scorer:
                progress.scorer = scorer
                progress.problem = None
        stored = set(self._cursors or {})
        for key in (self._progress.keys() | stored) - supported.keys():
            self._progress.pop(key, None)
            if key in stored:
                self._dropped.add(key)

    def _supports(self, scorer: ActiveScorer) -> bool:
        if scorer.is_code and not scorer.is_session_level:
            return True
        if scorer.key not in self._unsupported:
            self._unsupported.add(scorer.key)
            logger.warning(
                "scorer %s is active but not run: only @scorer functions on single traces are",
                scorer.key,
            )
        return False

    def _run_again(self) -> None:
        """Submit anew what found no worker, a while later."""
        if time.monotonic() < self._retry_at:
            return
        for progress in self._progress.values():
            for batch in progress.batches:
                if batch.future is not None and batch.failed:
                    self._hold(progress, str(batch.future.exception()))
                    batch.future = self._pool.submit(batch.scorer, batch.units)
                    self._retry_at = time.monotonic() + _RETRY_SECONDS

    def _commit(self, *, all_cursors: bool = False) -> bool:
        """Write finished scores with the cursors they move; True if there were any."""
        now = time.monotonic()
        writes: list[tuple[Future[Position], dict[Progress, int]]] = []
        cursors: dict[Progress, int] = {}
        finished = False
        for progress in self._progress.values():
            ready = progress.ready(_RECORD_BYTES)
            rows = [row for batch in ready for row in _rows(batch)]
            end = ready[-1].end if ready else progress.cursor
            finished = finished or bool(ready)
            if rows:
                written = self._append(rows, {progress.scorer.key: end})
                writes.append((written, {progress: end}))
            elif progress.saved is None or (
                end != progress.saved and (all_cursors or now - progress.saved_at > _SAVE_SECONDS)
            ):
                cursors[progress] = end
            else:  # it isn't worth a record: it would be found again
                _advance(progress, end)
        dropped = set(self._dropped)
        if cursors or dropped:
            moved: dict[str, int | None] = {p.scorer.key: end for p, end in cursors.items()}
            moved.update(dict.fromkeys(dropped))
            writes.append((self._append([], moved), cursors))
        for written, ends in writes:
            written.result(_JOURNAL_SECONDS)
            for progress, end in ends.items():
                _advance(progress, end)
                progress.saved, progress.saved_at = end, now
                self._store(progress.scorer.key, end)
        for key in dropped:
            self._store(key, None)
            self._dropped.discard(key)
        return finished

    def _store(self, key: str, position: int | None) -> None:
        if self._cursors is None:
            return
        if position is None:
            self._cursors.pop(key, None)
        else:
            self._cursors[key] = position

    def _append(
        self, rows: list[AssessmentRow], cursors: Mapping[str, int | None]
    ) -> Future[Position]:
        moved = [{"scorer": key, "position": position} for key, position in cursors.items()]
        fields = {"put": rows, "delete": [], "cursors": moved}
        return self._journal.append(Record("assessments", int(time.time() * 1000), fields))

    def _start(self) -> bool:
        """Give workers what comes next for every scorer that has room; True if there was any."""
        groups: dict[int, list[Progress]] = defaultdict(list)
        for progress in self._progress.values():
            if progress.in_flight < _IN_FLIGHT and progress.in_flight_bytes < _IN_FLIGHT_BYTES:
                groups[progress.reached].append(progress)
        started = False
        for position, group in sorted(groups.items()):  # those that are level share what they read
            window = completed_after(self._index, position, _WINDOW)
            if window and self._plan(group, window):
                started = True
        return started

    def _plan(self, group: list[Progress], window: list[CompletedTrace]) -> bool:
        chosen: list[tuple[Progress, list[CompletedTrace]]] = []
        for progress in group:
            try:
                traces = to_score(
                    self._index.connection(),
                    progress.scorer,
                    window,
                    self._reads.matching_spans,
                )
            except MlflowException as error:
                self._hold(progress, f"its filter can't be used: {error.message}")
                continue
            chosen.append((progress, traces))
        wanted = {
            trace.trace_id: trace.position
            for _, traces in chosen
            for trace in traces
            if trace.trace_id is not None
        }
        units, end = self._load(dict(sorted(wanted.items(), key=lambda item: item[1])), window)
        for progress, traces in chosen:
            found = [
                (trace.position, units[trace.trace_id])
                for trace in traces
                if trace.trace_id in units and trace.position <= end  # else: deleted, or too much
            ]
            self._submit(progress, found, end)
        return bool(chosen)

    def _load(
        self, wanted: Mapping[str, int], window: list[CompletedTrace]
    ) -> tuple[dict[str, Unit], int]:
        """The traces by id, as far as they fit, and the place up to which they are there."""
        units: dict[str, Unit] = {}
        size = 0
        ids = list(wanted)
        for at in range(0, len(ids), _LOAD_TRACES):
            if size > _LOAD_BYTES:
                return units, wanted[ids[at]] - 1
            for trace in self._reads.batch(ids[at : at + _LOAD_TRACES]):
                unit = Unit(trace.info.trace_id, _payload(trace))
                units[trace.info.trace_id] = unit
                size += len(unit.payload)
        return units, window[-1].position

    def _submit(self, progress: Progress, found: list[tuple[int, Unit]], end: int) -> None:
        """Make batches of what was found up to the place ``end``, and hand them to workers."""
        units: list[Unit] = []
        size = 0
        for at, (position, unit) in enumerate(found):
            units.append(unit)
            size += len(unit.payload)
            last = at == len(found) - 1
            if last or len(units) == _BATCH_UNITS or size > _BATCH_BYTES:
                future = self._pool.submit(progress.scorer, units)
                progress.batches.append(
                    Batch(progress.scorer, end if last else position, units, future)
                )
                units, size = [], 0
        if not found:
            progress.batches.append(Batch(progress.scorer, end))

    def _hold(self, progress: Progress, problem: str) -> None:
        if progress.problem != problem:
            progress.problem = problem
            logger.warning("scorer %s waits: %s", progress.scorer.key, problem)

    def _wait(self) -> bool:
        """Wait a little for the scores that come next; False if none are under way."""
        awaited = [
            progress.batches[0].future
            for progress in self._progress.values()
            if progress.batches and progress.batches[0].future is not None
        ]
        pending = [future for future in awaited if not future.done()]
        if pending:
            wait(pending, _WAIT_SECONDS, FIRST_COMPLETED)
        return bool(pending)


def _advance(progress: Progress, end: int) -> None:
    while progress.batches and progress.batches[0].end <= end:
        progress.batches.popleft()
    progress.cursor = end


def _payload(trace: Trace) -> bytes:
    try:
        payload: str = trace.to_json()
    except Exception:  # the worker then says that it can't read it: the others must go on
        logger.exception("trace %s can't be written as JSON", trace.info.trace_id)
        return b""
    return payload.encode("utf-8", "surrogatepass")


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
