"""Score every complete trace once per active scorer: read, run, write, move the cursor.

Scores and the cursor that says so go into the journal as one record, so that a kill at any moment
loses neither and repeats, at worst, work whose results have the ids of those they replace.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any

from vedette.intake.journal import JournalReader, JournalWriter
from vedette.scoring.active import (
    ActiveScorer,
    ActiveScorers,
    ControlMissing,
    ControlUnavailable,
    control_engine,
)
from vedette.scoring.commit import commit
from vedette.scoring.completion import (
    FoldedUntil,
    complete_quiet,
    newest_position,
    oldest_after,
    stored_cursors,
)
from vedette.scoring.plan import Planner
from vedette.scoring.pool import WorkerPool
from vedette.scoring.progress import Progress
from vedette.scoring.sandbox import choose_sandbox
from vedette.settings import Settings
from vedette.traces.index import TraceIndex
from vedette.traces.matching import Contents

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 0.2  # for workers, when nothing else is to be done
_RETRY_SECONDS = 1.0
_COMPLETE_SECONDS = 0.1  # between looks for complete traces: a few at a time are cheaper than one
_NOT_RUN = "only @scorer functions on single traces are run"


class Scoring:
    """Scoring on one data directory. Not thread-safe: one thread calls `tick`, then `close`.

    Args:
        index: the read model, which another thread keeps up to date.
        contents: whole spans.
        journal: the engine's; scores and cursors are written to it.

    Raises:
        SettingsError: the sandbox that is set can't be had.
    """

    def __init__(
        self, settings: Settings, index: TraceIndex, contents: Contents, journal: JournalWriter
    ) -> None:
        self._buffer_ms = int(settings.trace_completion_buffer * 1000)
        self._index = index
        self._journal = journal
        local_lake = () if "://" in settings.lake_uri else (Path(settings.lake_uri),)
        self._sandbox = choose_sandbox(settings.sandbox, (settings.data, *local_lake))
        if self._sandbox.missing:
            logger.warning("scorers run with limits only: %s", self._sandbox.missing)
        self._pool = WorkerPool(
            settings.run_dir / "workers",
            self._sandbox,
            per_scorer=settings.workers,
            timeout=settings.scorer_timeout,
        )
        self._planner = Planner(index, contents, self._pool)
        self._control = control_engine(settings.control_uri)
        # Not older than the buffer: a trace that arrived after start() finds its scorer known
        self._scorers = ActiveScorers(
            self._control, max_age=min(1.0, settings.trace_completion_buffer)
        )
        self._folded = FoldedUntil(
            index,
            [JournalReader(settings.server_journal), JournalReader(settings.engine_journal)],
        )
        self._progress: dict[str, Progress] | None = None  # None until the cursors are known
        self._left: dict[str, int] = {}  # stored cursors of scorers that aren't active
        self._not_run: dict[str, ActiveScorer] = {}
        self._retry_at = 0.0
        self._complete_at = 0.0
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
        if self._progress is None:
            self._progress, self._left = {}, stored_cursors(self._index)
        newest = newest_position(self._index)
        try:
            active = self._scorers.read()
        except ControlMissing:
            return False
        except ControlUnavailable:
            commit(self._journal, self._progress.values())  # what was scored needs no scorers
            raise
        self._adopt(self._progress, active, newest)
        # Before traces complete: where a new scorer begins must be on disk by then
        committed = commit(self._journal, self._progress.values(), dropped=self._left)
        self._left.clear()
        if time.monotonic() >= self._complete_at:
            complete_quiet(
                self._index,
                quiet_since_ms=folded_until - self._buffer_ms,
                now_ms=int(time.time() * 1000),
            )
            self._complete_at = time.monotonic() + _COMPLETE_SECONDS
        self._run_again(self._progress)
        started = self._planner.start(self._progress.values())
        self._pool.retire_idle()
        self._snapshot = [
            (key, one.scorer.sample_rate, one.cursor, one.in_flight, one.problem)
            for key, one in self._progress.items()
        ]
        return committed or started or self._wait(self._progress)

    def close(self) -> None:
        """Write what has been scored; end the workers. Nothing else is lost: it is done again."""
        self._pool.close()
        try:
            commit(self._journal, (self._progress or {}).values(), all_cursors=True)
        except Exception as error:
            logger.warning("the last scores could not be written, they are made again: %s", error)
        self._control.dispose()

    def state(self) -> dict[str, Any]:
        """How scoring is, for ``/health``: times in seconds, by scorer key. Call it from anywhere:
        it tells of the end of the last `tick`."""
        now = time.time() * 1000
        scorers: dict[str, dict[str, Any]] = {}
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
        for key, scorer in self._not_run.items():
            scorers[key] = {
                "rate": scorer.sample_rate,
                "in_flight": 0,
                "lag_seconds": None,
                "problem": _NOT_RUN,
            }
        return {
            "processes": self._pool.processes,
            "sandbox": self._sandbox.state(),
            "scorers": scorers,
        }

    def _adopt(self, known: dict[str, Progress], active: list[ActiveScorer], newest: int) -> None:
        """Take over what started, stopped or changed."""
        supported: dict[str, ActiveScorer] = {}
        not_run: dict[str, ActiveScorer] = {}
        for scorer in active:
            runs = scorer.is_code and not scorer.is_session_level
            (supported if runs else not_run)[scorer.key] = scorer
        for key in not_run.keys() - self._not_run.keys():
            logger.warning("scorer %s is active, but %s", key, _NOT_RUN)
        self._not_run = not_run
        for key in known.keys() - supported.keys():
            progress = known.pop(key)
            if progress.saved is not None:
                self._left[key] = progress.saved
        for key, scorer in supported.items():
            if key not in known:
                saved = self._left.pop(key, None)
                known[key] = Progress(scorer, newest if saved is None else saved, saved)
                logger.info("scorer %s: scores traces from %d on", key, known[key].cursor)
                self._pool.prepare()
            elif known[key].scorer != scorer:
                known[key].scorer = scorer
                known[key].problem = None

    def _run_again(self, known: dict[str, Progress]) -> None:
        """Submit anew what found no worker, a while later."""
        if time.monotonic() < self._retry_at:
            return
        for progress in known.values():
            for batch in progress.batches:
                if batch.future is not None and batch.failed:
                    progress.hold(str(batch.future.exception()))
                    batch.future = self._pool.submit(batch.scorer, batch.units)
                    self._retry_at = time.monotonic() + _RETRY_SECONDS

    def _wait(self, known: dict[str, Progress]) -> bool:
        """Wait a little for the scores that come next; False if none are under way."""
        awaited = [one.batches[0].future for one in known.values() if one.batches]
        pending = [future for future in awaited if future is not None and not future.done()]
        if pending:
            wait(pending, _WAIT_SECONDS, FIRST_COMPLETED)
        return bool(pending)
