"""Keep the tables small and quick: compaction, log clean-up and vacuum, on a schedule."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vedette.lake.compaction import Compactor
from vedette.lake.rewrite import SCRATCH_PREFIX, Stopped
from vedette.lake.storage import LakeUnavailable, lake_errors
from vedette.lake.table import LakeTable, checkpoint

logger = logging.getLogger(__name__)

_MERGE_SECONDS = 60.0
_SORT_SECONDS = 600.0
_CLEAN_SECONDS = 300.0
_VACUUM_SECONDS = 3600.0
_FIRST_RETRY_SECONDS = 10.0
_LONGEST_RETRY_SECONDS = 900.0
# The day before is sorted this long after midnight (UTC), when its last segments are committed.
_DAY_GRACE_SECONDS = 600.0
_CLOSE_SECONDS = 5.0


@dataclass(slots=True)
class Job:
    """A thing to do again and again. Times are those of a clock that nobody puts back."""

    name: str
    interval: float
    run: Callable[[float], bool]  # of the time of day; returns whether there is more to do at once
    due: float = 0.0
    failures: int = 0
    cause: str | None = None  # of its failures; what several jobs fail of is told once
    last_success: float | None = None
    last_error: str | None = None


class Maintenance:
    """Runs the jobs of some tables, one at a time, on a thread of its own.

    Run it in one process (the engine's), with a ``scratch`` directory of its own: what a process
    that was killed has left there is removed. ``others`` are jobs that take turns with these.
    """

    def __init__(
        self, tables: Sequence[LakeTable], scratch: Path, others: Sequence[Job] = ()
    ) -> None:
        for leftover in scratch.glob(f"{SCRATCH_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._scratch = scratch
        self._tables: set[LakeTable] = set()
        self.jobs: list[Job] = list(others)
        self.include(tables)

    def include(self, tables: Sequence[LakeTable]) -> None:
        """Keep these tables, too."""
        for table in tables:
            if table not in self._tables:
                self._tables.add(table)
                self.jobs += _jobs(table, self._scratch, self._stop)

    @property
    def error(self) -> str | None:
        """What is wrong with the first job that doesn't succeed at present."""
        failing = (f"{job.name}: {job.last_error}" for job in self.jobs if job.failures)
        return next(failing, None)

    def tick(self, now: float, time_of_day: float) -> None:
        """Start the job that has been due longest, if none is running; returns at once.

        Args:
            now: seconds of `time.monotonic`; call this every second or so.
            time_of_day: seconds since the epoch.
        """
        if self._stop.is_set() or (self._thread is not None and self._thread.is_alive()):
            return
        job = min(self.jobs, key=lambda job: job.due)
        if job.due <= now:
            self._thread = threading.Thread(
                target=self._run,
                args=(job, now, time_of_day),
                name="lake-maintenance",
                daemon=True,
            )
            self._thread.start()

    def close(self) -> None:
        """Stop, and wait up to 5 seconds for the running job. Whatever it leaves is harmless."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)

    def _run(self, job: Job, now: float, time_of_day: float) -> None:
        try:
            more = job.run(time_of_day)
        except Stopped:
            return
        except Exception as error:
            # A defect, too, must not end maintenance: the other jobs go on.
            wait = min(_FIRST_RETRY_SECONDS * 2.0 ** min(job.failures, 16), _LONGEST_RETRY_SECONDS)
            job.failures += 1
            job.due = now + wait
            job.last_error = str(error) or type(error).__name__
            foreseen = isinstance(error, LakeUnavailable)
            self._fails_of(job, "maintenance of the lake" if foreseen else job.name)
            return
        self._fails_of(job, None)
        job.failures, job.last_error, job.last_success = 0, None, now
        job.due = now if more else now + job.interval

    def _fails_of(self, job: Job, cause: str | None) -> None:
        """Note what a job fails of, None if it works, and say what is news in that."""
        before, job.cause = job.cause, cause
        known = {other.cause for other in self.jobs if other is not job}
        if cause not in (None, before, *known):
            logger.warning("%s: %s; will try again", job.name, job.last_error)
        if before not in (None, cause, *known):
            logger.warning("%s works again", before)


def _jobs(table: LakeTable, scratch: Path, stop: threading.Event) -> list[Job]:
    compactor = Compactor(table, scratch, stop)

    def merge(_: float) -> bool:
        return compactor.merge_small() is not None

    def sort(time_of_day: float) -> bool:
        return compactor.sort_day(first_unfinished_day(time_of_day)) is not None

    def clean(_: float) -> bool:
        clean_log(table)
        return False

    def vacuum(_: float) -> bool:
        vacuum_files(table)
        return False

    return [
        Job(f"merging small files of {table.spec.name}", _MERGE_SECONDS, merge),
        Job(f"sorting finished days of {table.spec.name}", _SORT_SECONDS, sort),
        Job(f"cleaning the log of {table.spec.name}", _CLEAN_SECONDS, clean),
        Job(f"vacuuming {table.spec.name}", _VACUUM_SECONDS, vacuum),
    ]


def first_unfinished_day(time_of_day: float) -> str:
    """The days of arrival before this one ("2026-01-31") are over."""
    return datetime.fromtimestamp(time_of_day - _DAY_GRACE_SECONDS, UTC).date().isoformat()


def clean_log(table: LakeTable) -> None:
    """Delete the log's files that are older than its retention and stand in a checkpoint.

    Raises:
        LakeUnavailable: try again later.
    """
    with lake_errors(f"cleaning the log of {table.storage.uri}"):
        handle = table.open()
        checkpoint(handle, table.storage)
        handle.cleanup_metadata()


def vacuum_files(table: LakeTable) -> int:
    """Delete data files that have not been part of the table for its retention; returns how many.

    Those that were never part of it (of a process that died between writing and committing) go by
    their age. Only "full" finds them, and those whose removal the log has forgotten.

    Raises:
        LakeUnavailable: try again later.
    """
    with lake_errors(f"vacuuming {table.storage.uri}"):
        return len(table.open().vacuum(dry_run=False, full=True))
