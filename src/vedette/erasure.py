"""Deleted traces taken out of everything that is on disk, by the engine.

A deletion is a record in the journal, and from then on no read shows the trace. Its rows leave the
files later, in a pass over all that waits:

1. Journals: until what had arrived by then is in the lake, and its segments are gone.
2. The lake's tables: files with such rows are written anew (`vedette.lake.erase`).

For traces that were deleted for good, see `vedette.traces.erased`, it begins at once and goes on:

3. The archives, until they have followed.
4. The read model is written anew; its mirror is deleted, its owner fills another; attachments go.
5. What was replaced in tables and archives is deleted, but not before queries that may still read
   it are over.

A pass that is killed begins again: what is done twice finds nothing to do the second time.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vedette.archive.archival import Archival
from vedette.intake.journal import JournalReader
from vedette.intake.segments import segment_files
from vedette.lake.erase import Leaving, delete_files, erase_rows, replaced_files
from vedette.lake.maintenance import vacuum_files
from vedette.lake.table import Lake, LakeTable
from vedette.named_sql import statements
from vedette.settings import Settings
from vedette.traces.index import TraceIndex

logger = logging.getLogger(__name__)

_SQL = statements("vedette.traces", "erased")
_MOST = 200_000  # traces in a pass
_LINGER_SECONDS = 3600.0  # of those that were not deleted for good: one pass does for many
_UNKNOWN_SECONDS = 600.0  # what arrived since may not be in the read model yet
_EVER = 2**62
_PATH_COMPONENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(slots=True)
class Pass:
    """How far a pass is. Times are seconds since the epoch."""

    traces: int
    for_good: int
    since: float
    doing: str = ""


class Erasure:
    """The passes, a step at a time. For one thread at a time, the one that compacts the tables.

    Args:
        journals: readers of all the journals.
        stop: set it to have a step end within about a second.

    Attributes:
        under_way: the pass; None if there is none.
    """

    def __init__(
        self,
        settings: Settings,
        index: TraceIndex,
        journals: Sequence[JournalReader],
        archival: Archival,
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._index = index
        self._journals = journals
        self._archival = archival
        self._stop = stop
        self._lake = Lake(settings.lake_uri, settings.lake_state)
        self._steps: Iterator[None] | None = None
        self.under_way: Pass | None = None

    def step(self, time_of_day: float) -> bool:
        """Go on with the pass, or begin one that is due; returns whether to call again at once.

        Args:
            time_of_day: seconds since the epoch.

        Raises:
            LakeUnavailable, OSError, sqlite3.OperationalError: the pass begins again.
            IndexUnavailable: there is no read model.
            Stopped: the stop event was set.
        """
        if self._steps is None:
            if not self._is_due(time_of_day):
                return False
            self._steps = self._pass(time_of_day)
        try:
            next(self._steps)
        except BaseException as error:
            self._steps, self.under_way = None, None
            if not isinstance(error, StopIteration):
                raise
        return False

    def state(self) -> dict[str, Any] | None:
        """The pass under way, for ``engine.json``."""
        return asdict(self.under_way) if self.under_way is not None else None

    def _is_due(self, time_of_day: float) -> bool:
        found = self._index.connection().execute(_SQL["most_urgent"]).fetchone()
        for_good, oldest_us = found
        is_old = oldest_us is not None and oldest_us / 1e6 < time_of_day - _LINGER_SECONDS
        return bool(for_good) or is_old

    def _pass(self, time_of_day: float) -> Iterator[None]:
        """Ends when done; stops at each yield to be called again later."""
        connection = self._index.connection()
        (batch,) = connection.execute(_SQL["batch"]).fetchone()
        lingered = {"most": _MOST, "before": int((time_of_day - _LINGER_SECONDS) * 1e6)}
        found = connection.execute(_SQL["leaving"], lingered).fetchall()
        for_good = [trace_id for trace_id, is_for_good, _, _ in found if is_for_good]
        now = self.under_way = Pass(len(found), len(for_good), time_of_day)
        known_us = int((time.time() - _UNKNOWN_SECONDS) * 1e6)
        leaving = [
            Leaving(trace_id, _until_us(bool(is_for_good), deleted_us, bool(is_back), known_us))
            for trace_id, is_for_good, deleted_us, is_back in found
        ]
        yield from self._until(now, "waiting until the journal is in the lake", self._settled())
        for table in self._lake.all_tables():
            now.doing = f"taking rows out of {table.spec.name}"
            erase_rows(table, leaving, self._settings.scratch, self._stop)
            yield
        if for_good:
            yield from self._for_good(now, for_good, batch)
        with self._index.transaction() as connection:
            connection.executemany(_SQL["left"], [(row[0], row[2]) for row in found])
        seconds = time.time() - time_of_day
        logger.info("%d deleted traces are gone from the tables after %.0f s", len(found), seconds)

    def _for_good(self, now: Pass, trace_ids: list[str], batch: int) -> Iterator[None]:
        yield from self._until(
            now, "waiting for the archives", lambda: self._archival.has_followed(batch)
        )
        tables: list[LakeTable] = [*self._lake.all_tables(), *self._archival.tables()]
        tables = [table for table in tables if table.open_existing() is not None]
        replaced = [(table, replaced_files(table)) for table in tables]
        unread_at = time.time() + self._settings.erasure_grace
        now.doing = "writing the read model anew"
        self._index.compact()
        metrics = self._settings.metrics_path
        for leftover in (
            self._index.path.with_name(f"{self._index.path.name}.rebuild"),
            metrics,
            metrics.with_name(f"{metrics.name}.wal"),
        ):
            leftover.unlink(missing_ok=True)
        self._delete_attachments(trace_ids)
        yield
        yield from self._until(
            now,
            "waiting until nobody reads the replaced files any more",
            lambda: time.time() >= unread_at,
        )
        for table, paths in replaced:
            delete_files(table, paths)
            vacuum_files(table)  # the log has forgotten what was replaced hours ago

    def _until(self, now: Pass, doing: str, is_so: Callable[[], bool]) -> Iterator[None]:
        now.doing = doing
        while not is_so():
            yield

    def _settled(self) -> Callable[[], bool]:
        """Whether all that had arrived when this was called is in the lake, and only there."""
        ends = [(journal.directory, journal.end()) for journal in self._journals]

        def is_so() -> bool:
            return all(
                number > end.segment or (number == end.segment and end.offset == 0)
                for directory, end in ends
                for number, _, _ in segment_files(directory)
            )

        return is_so

    def _delete_attachments(self, trace_ids: list[str]) -> None:
        """Those that MLflow's artifact proxy keeps in the data directory."""
        places = [place / "traces" for place in self._settings.artifacts.glob("*")]
        places = [place for place in places if place.is_dir()]
        for trace_id in trace_ids:
            if _PATH_COMPONENT.fullmatch(trace_id):  # a client may have chosen it
                for place in places:
                    shutil.rmtree(place / trace_id, ignore_errors=True)


def _until_us(is_for_good: bool, deleted_us: int, is_back: bool, known_us: int) -> int:
    """Until when rows of a deleted trace arrived that go, in microseconds since the epoch.

    Args:
        is_back: whether it is there again; what arrived since the deletion stays then. Else that
            says nothing, as a score that was on its way.
        known_us: what had arrived by then is in the read model.
    """
    if is_for_good:
        return _EVER
    return deleted_us if is_back else max(deleted_us, known_us)
