"""Journal to lake and read model: each record is read and decoded once, then goes to both."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vedette.intake.journal import JournalReader
from vedette.intake.records import Position
from vedette.lake.erase import rows_without, trace_ids
from vedette.lake.location import Location, in_order, location_of
from vedette.lake.rows import SegmentRows
from vedette.lake.schemas import mlflow_trace_id
from vedette.lake.table import Lake
from vedette.traces.erased import erased_among
from vedette.traces.fold import Decoded, decoded
from vedette.traces.index import TraceIndex

Work = list[tuple[Decoded, Position]]

_READ_BYTES = 4 * 1024 * 1024
# Of journal whose decoded form, three times as large, may wait for the lake
_CACHE_BYTES = 24 * 1024 * 1024
_PATIENCE_SECONDS = 5.0  # of fold and lake with one another, when the other stands still


@dataclass(slots=True)
class _Segment:
    work: Work = field(default_factory=list)
    whole: bool = True  # nothing of it was left out
    size: int = 0  # bytes of journal


class Tail:
    """Follows one journal: folds what is new, keeps it decoded until its segment is in the lake.

    `advance` and `commit_sealed` may run in two threads.
    """

    def __init__(self, journal: JournalReader, index: TraceIndex, lake: Lake) -> None:
        self.journal = journal
        self._index = index
        self._lake = lake
        self._taken = index.lake_segment(journal.journal_id)  # segments up to here need no keeping
        self._cursor = Position(self._taken + 1, 0)
        self._lock = threading.Lock()
        self._segments: dict[int, _Segment] = {}
        self._cached = 0
        self._committed_at = time.monotonic()
        self._folded_at = -math.inf
        self.last_commit: float | None = None  # Unix seconds
        self.lag_seconds: float | None = None  # from arrival to commit, of the last segment

    def advance(self) -> bool:
        """Fold the next records; False when there are none, or when it is the lake's turn."""
        if self._lake_is_behind():
            return False
        found = self.journal.read(self._cursor, _READ_BYTES)
        if not found:
            self._folded_at = time.monotonic()
            return False
        work: Work = [(decoded(record), position) for record, position in found]
        self._index.apply(self.journal.journal_id, work)
        with self._lock:
            for item in work:
                self._keep(item)
        self._cursor = found[-1][1]
        self._folded_at = time.monotonic()
        return True

    def _lake_is_behind(self) -> bool:
        """Whether what is folded now would have to be decoded again for the lake. One that takes
        nothing at all, as when it can't be reached, isn't waited for."""
        moves = time.monotonic() - self._committed_at < _PATIENCE_SECONDS
        return moves and self._cached > _CACHE_BYTES

    def _fold_is_behind(self, number: int) -> bool:
        """Whether this segment is about to be decoded by the fold, and would be twice if the lake
        took it now. A fold that stands still, or waits for the lake, isn't waited for."""
        moves = time.monotonic() - self._folded_at < _PATIENCE_SECONDS
        folded = self._cursor >= Position(number, self.journal.size(number))
        return moves and not folded and self._cached <= _CACHE_BYTES

    def _keep(self, item: tuple[Decoded, Position]) -> None:
        _, (number, end) = item
        if number <= self._taken:  # the lake's thread was faster
            return
        segment = self._segments.setdefault(number, _Segment())
        if self._cached > _CACHE_BYTES:  # the lake stands still: it will read the journal again
            self._cached -= segment.size
            self._segments[number] = _Segment(whole=False)
        elif segment.whole:
            segment.work.append(item)
            self._cached += end - segment.size
            segment.size = end

    def _take(self, number: int) -> Work:
        """A sealed segment's records: decoded already if this process has kept all of it."""
        with self._lock:
            segment = self._segments.pop(number, _Segment())
            self._cached -= segment.size
            self._taken = max(self._taken, number)
        if segment.whole and segment.size == self.journal.size(number):
            return segment.work
        return [(decoded(record), at) for record, at in self.journal.read_segment(number)]

    def commit_sealed(self, stopping: Callable[[], bool]) -> bool:
        """Move sealed segments to the lake, then remove them; False when it had none to move, or
        when it is the fold's turn."""
        journal_id = self.journal.journal_id
        done = self._index.lake_segment(journal_id)
        moved = False
        for number in self.journal.sealed_segments():
            if stopping() or (number > done and self._fold_is_behind(number)):
                break
            if number > done:
                self._commit(number)
            self.journal.remove(number)
            moved = True
        return moved

    def _commit(self, number: int) -> None:
        """A method of its own, so that one segment's records are gone before the next's come."""
        work = self._take(number)
        self._append(number, work)
        self._committed_at = time.monotonic()
        if work and self._index.position(self.journal.journal_id) < work[-1][1]:
            self._index.apply(self.journal.journal_id, work)
        self._index.confirm_lake(self.journal.journal_id, number)
        now = time.time()
        self.last_commit = now
        if work:
            (first, _), _ = work[0]
            self.lag_seconds = round(now - first.at / 1000, 3)

    def _append(self, number: int, work: Work) -> None:
        journal_id = self.journal.journal_id
        found: dict[Location, SegmentRows] = {}
        start = 0
        for (record, spans), (_, end) in work:
            location = location_of(record)
            if location not in found:
                found[location] = SegmentRows(journal_id, number)
            found[location].add(record, start, spans)
            start = end
        for location in sorted(found, key=in_order):
            rows, tables = found[location], self._lake.at(location)
            decisions = self._kept(rows.decisions())
            tables.spans.append_segment(journal_id, number, self._kept(rows.spans()))
            tables.annotations.append_segment(journal_id, number, self._kept(rows.annotations()))
            tables.decisions.append_segment(journal_id, number, decisions, rows.cursors())
            tables.logs.append_segment(journal_id, number, self._kept(rows.logs()))
            tables.metrics.append_segment(journal_id, number, rows.metrics())

    def _kept(self, rows: pa.Table) -> pa.Table:
        """The rows without those of traces that were deleted for good."""

        def ids() -> set[str]:
            found = set(pc.unique(trace_ids(rows).drop_null()).to_pylist())
            # A client may have chosen an id that looks like OpenTelemetry's
            return found | set(map(mlflow_trace_id, found))

        return rows_without(rows, erased_among(self._index.connection(), ids))

    def state(self) -> dict[str, Any]:
        """What ``/health`` tells of it."""
        return {"last_commit": self.last_commit, "lag_seconds": self.lag_seconds}
