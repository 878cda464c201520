"""Score every unit as its scorers say: read, choose, run, write, move the cursor.

Decisions and the cursor that says so go into the journal as one record, so that a kill at any
moment loses neither and repeats, at worst, work whose results have the ids of those they replace.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from vedette.intake.journal import JournalReader, JournalWriter
from vedette.lake.locations import Locations
from vedette.scoring.active import (
    ActiveScorer,
    ActiveScorers,
    ControlMissing,
    ControlUnavailable,
    control_engine,
)
from vedette.scoring.budget import Cap
from vedette.scoring.commit import commit
from vedette.scoring.completion import (
    Completion,
    FoldedUntil,
    newest_position,
    stored_cursors,
)
from vedette.scoring.epochs import Epochs, stored_epochs
from vedette.scoring.judge_pool import JudgePool
from vedette.scoring.payloads import Payloads
from vedette.scoring.plan import Planner
from vedette.scoring.pool import WorkerPool
from vedette.scoring.pools import Pools
from vedette.scoring.price_table import PricesError, PriceTable
from vedette.scoring.progress import Progress
from vedette.scoring.retries import Retries
from vedette.scoring.running_backfills import Run, RunningBackfills, is_backfill
from vedette.scoring.sandbox import choose_sandbox
from vedette.scoring.selection import Selection, follows_annotations
from vedette.scoring.snapshot import Snapshot, states
from vedette.scoring.spending import Spending
from vedette.scoring.stopping import left_behind, stop
from vedette.scoring.verdicts import Verdicts
from vedette.settings import Settings, SettingsError
from vedette.traces.index import TraceIndex
from vedette.traces.matching import Contents

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 0.2  # for workers, when nothing else is to be done
_COMPLETE_SECONDS = 0.1  # between looks for complete units: a few at a time are cheaper than one


class Scoring:
    """Scoring on one data directory. Not thread-safe: one thread calls `tick`, then `close`.

    Args:
        index: the read model, which another thread keeps up to date.
        contents: whole spans.
        journal: the engine's; decisions and cursors are written to it.

    Raises:
        SettingsError: the sandbox that is set can't be had, or the prices can't be read.
    """

    def __init__(
        self, settings: Settings, index: TraceIndex, contents: Contents, journal: JournalWriter
    ) -> None:
        self._index = index
        self._journal = journal
        local_lake = () if "://" in settings.lake_uri else (Path(settings.lake_uri),)
        self._sandbox = choose_sandbox(settings.sandbox, (settings.data, *local_lake))
        if self._sandbox.missing:
            logger.warning("scorers run with limits only: %s", self._sandbox.missing)
        try:
            self._prices = PriceTable(settings.prices)
        except PricesError as error:
            raise SettingsError(str(error)) from error
        self._judges = JudgePool(
            settings.run_dir / "judges",
            concurrency=settings.judge_concurrency,
            timeout=settings.scorer_timeout,
            tracking_uri=settings.url,
            prices=self._prices,
        )
        self._pools = Pools(
            WorkerPool(
                settings.run_dir / "workers",
                self._sandbox,
                per_scorer=settings.workers,
                timeout=settings.scorer_timeout,
            ),
            self._judges,
        )
        self._retries = Retries()
        cap = Cap(settings.budget_calls_per_minute, settings.budget_dollars_per_day)
        self._spending = Spending(index, cap)
        self._verdicts = Verdicts(index, self._retries, self._spending)
        payloads = Payloads(index, contents)
        self._planner = Planner(
            Selection(index, contents),
            payloads,
            self._pools,
            self._retries,
            self._spending,
            lambda place: index.position(journal.journal_id) >= place,
        )
        self._locations = Locations(settings.lake_state)
        self._control = control_engine(settings.control_uri)
        # Not older than the buffer: a trace that arrived after start() finds its scorer known
        self._scorers = ActiveScorers(
            self._control, max_age=min(1.0, settings.trace_completion_buffer)
        )
        self._completion = Completion.of(settings, index)
        self._folded = FoldedUntil(
            index,
            [JournalReader(settings.server_journal), JournalReader(settings.engine_journal)],
        )
        self._progress: dict[str, Progress] | None = None  # None until the cursors are known
        self._left: dict[str, int | None] = {}  # what an earlier engine left: cursors, or retries
        self._epochs: dict[str, Epochs] = {}
        self._invalid: dict[str, ActiveScorer] = {}
        self._backfills = RunningBackfills(index, self._scorers, self._has_ended)
        self._complete_at = 0.0
        self._snapshots: list[Snapshot] = []

    def tick(self) -> bool:
        """Do what can be done now; True if there is more to do at once.

        Raises:
            ControlUnavailable, JournalFull, JournalUnavailable, OSError: nothing is lost; call
                again later.
        """
        folded_until = self._folded.milliseconds()
        if folded_until is None:
            return False
        if self._progress is None:
            self._retries.load(self._index)
            self._left = {**dict.fromkeys(self._retries.scorers), **stored_cursors(self._index)}
            self._epochs = stored_epochs(self._index)
            self._progress = {}
        newest = newest_position(self._index)
        known = self._progress
        self._forget_ended(known)
        try:
            active, backfills = self._scorers.read(), self._backfills.read()
        except ControlMissing:
            return False
        except ControlUnavailable:
            self._commit(known)  # that needs no scorers
            raise
        self._adopt(known, active, backfills, newest)
        # Before units complete: where a new scorer begins must be on disk by then
        committed = self._commit(known)
        if time.monotonic() >= self._complete_at:
            self._completion.advance(
                folded_until_ms=folded_until,
                annotations=any(
                    _follows_annotations(one.scorer) for one in known.values() if one.window is None
                ),
            )
            self._complete_at = time.monotonic() + _COMPLETE_SECONDS
        started = self._planner.start(known.values())
        self._pools.retire_idle()
        self._snapshots = [
            Snapshot.of(one, self._retries) for one in known.values() if one.stopped_at is None
        ]
        return committed or started or self._wait(known)

    def active(self) -> list[ActiveScorer]:
        """The scorers that are started."""
        return self._scorers.read()

    def flush(self) -> None:
        """Write what is decided, also counts and cursors that would wait for more.

        Raises:
            JournalFull, JournalUnavailable: nothing is lost; call again later.
        """
        self._commit(self._progress or {}, everything=True)

    def close(self) -> None:
        """Write what has been scored; end the workers. Nothing else is lost: it is done again."""
        self._planner.close()
        self._pools.close()
        try:
            self.flush()
        except Exception as error:
            logger.warning("the last scores could not be written, they are made again: %s", error)
        self._control.dispose()

    def state(self) -> dict[str, Any]:
        """How scoring is, for ``/health``: times in seconds, by scorer key. Call it from anywhere:
        it tells of the end of the last `tick`."""
        invalid = map(Snapshot.of_invalid, self._invalid.values())
        return {
            "processes": self._pools.processes,
            "sandbox": self._sandbox.state(),
            "models": self._judges.state(),
            "prices_problem": self._prices.problem,
            **states(self._index, [*self._snapshots, *invalid]),
        }

    def _commit(self, known: dict[str, Progress], **options: Any) -> bool:
        return commit(
            self._journal, self._index, known.values(), self._verdicts, self._locations, **options
        )

    def _has_ended(self, stream: str) -> bool:
        """Whether a backfill's stream has come to its end."""
        last = self._epochs[stream].current if stream in self._epochs else None
        return last is not None and last.stopped

    def _adopt(
        self,
        known: dict[str, Progress],
        active: list[ActiveScorer],
        backfills: dict[str, Run],
        newest: int,
    ) -> None:
        """Take over what started, stopped or changed."""
        valid: dict[str, ActiveScorer] = {}
        invalid: dict[str, ActiveScorer] = {}
        for one in [*active, *(run.scorer for run in backfills.values() if run.goes_on)]:
            (valid if one.invalid is None else invalid)[one.key] = one
        for key in invalid.keys() - self._invalid.keys():
            logger.warning("scorer %s waits: %s", key, invalid[key].invalid)
        self._invalid = invalid
        for key in [*valid, *(self._left.keys() - valid.keys() - invalid.keys())]:
            if key not in known:
                known[key] = self._begin(key, valid.get(key), newest)
        self._adopt_backfills(known, backfills)
        for key, progress in known.items():
            now = valid.get(key, invalid.get(key))
            live = progress.window is None
            if live and progress.stopped_at is None and not _is_the_same(progress.scorer, now):
                progress.stopped_at = newest
            if progress.stopped_at is not None:
                stop(progress, self._retries, self._index)
                continue
            if (scorer := valid.get(key)) is None:
                continue
            if progress.scorer != scorer:
                progress.take_over(scorer)
        going_on = {key: one for key, one in known.items() if one.stopped_at is None}
        self._spending.limit(going_on, newest)
        for key in valid.keys() & going_on.keys():
            self._open_epoch(going_on[key])

    def _forget_ended(self, known: dict[str, Progress]) -> None:
        for key in [key for key, progress in known.items() if progress.ended]:
            self._epochs[key] = known.pop(key).epochs

    def _adopt_backfills(self, known: dict[str, Progress], backfills: dict[str, Run]) -> None:
        """Stop those that are done, or that are not to go on."""
        for key, run in backfills.items():
            if key not in known:
                if run.goes_on:  # it is not valid now
                    continue
                known[key] = self._begin(key, run.scorer, 0)
            progress = known[key]
            progress.window, progress.rescore = run.window, run.rescore
            if progress.stopped_at is not None:
                continue
            last = run.window.last
            if not run.goes_on:
                if progress.epochs.current is None:
                    self._open_epoch(progress)
                progress.stopped_at = max(last, progress.reached)
            elif progress.saved is not None and progress.cursor >= last:
                waits = progress.batches or progress.retried or self._retries.count(key)
                progress.stopped_at = None if waits else progress.cursor

    def _open_epoch(self, progress: Progress) -> None:
        """Open one if the scorer, or what its budget allows, is not what the last one says."""
        scorer = progress.scorer
        opened = progress.epochs.follow(
            scorer,
            progress.allowance.factor or 1.0,
            progress.reached,
            int(time.time() * 1000),
            anew=progress.saved is None and not progress.opened,
        )
        if opened is not None:
            progress.opened.append(opened)
            logger.info("scorer %s: epoch %d, %s", scorer.key, opened.number, opened.reason)

    def _begin(self, key: str, scorer: ActiveScorer | None, newest: int) -> Progress:
        """A scorer that has become active, or that an earlier engine has left."""
        saved = self._left.pop(key, None)
        cursor = saved
        if cursor is None:
            cursor = 0 if is_backfill(key) else newest
        epochs = self._epochs.get(key, Epochs())
        last = epochs.current
        before = left_behind(key, epochs)
        if scorer is None or (last and not last.stopped and not _is_the_same(before, scorer)):
            return Progress(before, epochs, cursor, saved)
        logger.info("scorer %s: scores what completes after %d", key, cursor)
        pool, _ = self._pools.of(scorer)
        pool.prepare()
        return Progress(scorer, epochs, cursor, saved)

    def _wait(self, known: dict[str, Progress]) -> bool:
        """Wait a little for the scores that come next; False if none are under way."""
        awaited: list[Future[Any] | None] = [one.reading for one in known.values()]
        awaited += [one.batches[0].future for one in known.values() if one.batches]
        awaited += [batch.future for one in known.values() for batch in one.retried]
        pending = [future for future in awaited if future is not None and not future.done()]
        if pending:
            wait(pending, _WAIT_SECONDS, FIRST_COMPLETED)
        return bool(pending)


def _is_the_same(before: ActiveScorer, now: ActiveScorer | None) -> bool:
    """Whether a scorer goes on, in whatever version: it is started, its units are of one kind."""
    return now is not None and now.is_session_level == before.is_session_level


def _follows_annotations(scorer: ActiveScorer) -> bool:
    try:
        return follows_annotations(scorer)
    except MlflowException:  # its filter is not valid: the planner says so
        return False
