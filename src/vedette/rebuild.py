"""The read model made anew from the lake and the journals, when its file is lost or of other code.

Every record there ever was is folded again in the order of arrival: those whose segments are gone
from the journals as the lake's rows tell them, the others as they stand in the journals. A segment
can be in both, or in one table and not yet in the other; then it counts as the journal has it. The
new file has another name until it is whole, so that a rebuild that is killed begins again.

How far scorers were is among the ledger's transactions and in the journals' records, as an arrival:
see `vedette.scoring.resume`.
"""

from __future__ import annotations

import heapq
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from vedette.intake.journal import JournalReader
from vedette.intake.records import Position, Stream
from vedette.intake.segments import segment_files
from vedette.lake.arrivals import Place, count_rows
from vedette.lake.decisions import CURSOR_APP
from vedette.lake.location import DEFAULT, Location
from vedette.lake.replay import Replayed, replay
from vedette.lake.replay_decisions import CountedOnce, without_places
from vedette.lake.storage import sync_file
from vedette.lake.table import Lake
from vedette.scoring.completion import Completion
from vedette.scoring.resume import Resumption
from vedette.traces.fold import Decoded, decoded
from vedette.traces.index import TraceIndex, fold_fitting, make_tables

logger = logging.getLogger(__name__)

_BATCH_ROWS = 4000  # folded in one transaction
_READ_BYTES = 4 * 1024 * 1024


class Stopped(Exception):
    """The rebuild was told to stop; it begins again the next time."""


@dataclass(slots=True)
class Progress:
    """How far a rebuild is. Times are seconds since the epoch."""

    why: str
    rows: int = 0  # of the lake, folded
    of_rows: int = 0
    started: float = field(default_factory=time.time)

    def state(self) -> dict[str, Any]:
        """What ``/health`` tells of it."""
        return {
            "why": self.why,
            "rows": self.rows,
            "of_rows": self.of_rows,
            "seconds": round(time.time() - self.started, 1),
        }


class Rebuild:
    """Makes the read model at ``path`` anew. No other process may commit to the lake meanwhile.

    Args:
        path: of the read model.
        journals: readers of all the journals; they may be written meanwhile.
        scratch: local directory for what doesn't fit into memory.
        completion: says of a read model what is complete.
        stopping: asked again and again whether to give up.
    """

    def __init__(
        self,
        path: Path,
        lake: Lake,
        journals: Sequence[JournalReader],
        scratch: Path,
        *,
        completion: Callable[[TraceIndex], Completion],
        stopping: Callable[[], bool],
    ) -> None:
        self._path = path
        self._lake = lake
        self._journals = journals
        self._scratch = scratch
        self._completion = completion
        self._stopping = stopping
        self.progress: Progress | None = None  # while it runs

    def run(self, why: str) -> None:
        """Rebuild; ``why`` is for the log and `progress`.

        Raises:
            Stopped: as asked.
            LakeUnavailable, JournalCorrupt, OSError, sqlite3.Error: try again later.
        """
        logger.warning(
            "rebuilding the read model %s: %s. Traces are accepted meanwhile; until it is done, "
            "whatever reads is answered 503",
            self._path,
            why,
        )
        self.progress = Progress(why)
        try:
            self._run(self.progress)
        finally:
            self.progress = None

    def _run(self, progress: Progress) -> None:
        for table in self._lake.all_tables():
            table.open_durable()  # what is found in it is taken off the journals
        progress.of_rows = sum(
            count_rows(table) for place in self._lake.places() for table in place.folded
        )
        present = {
            (journal.journal_id, number)
            for journal in self._journals
            for number, _, _ in segment_files(journal.directory)
        }
        draft = _Draft(self._path.with_name(f"{self._path.name}.rebuild"))
        resumption = Resumption(draft, self._completion(draft))
        last_at = 0
        batch: list[Decoded] = []
        size = 0

        def of_lake() -> Iterator[Replayed]:
            for one in replay(self._lake, self._scratch):
                progress.rows += one.rows
                if (one.place.journal, one.place.segment) not in present:
                    yield one

        counted = CountedOnce()
        journaled = [_Journaled(journal) for journal in self._journals]
        streams = [of_lake(), *(one.records() for one in journaled)]
        for place, record, spans, _ in heapq.merge(*streams, key=lambda one: one.place):
            last_at = place.at
            resumption.note(record)
            batch.append((counted.of(record), spans))
            size += max(1, len(spans))
            if size >= _BATCH_ROWS:
                draft.fold(batch)
                batch, size = [], 0
                if self._stopping():
                    raise Stopped
        draft.fold(batch)
        for one in journaled:
            draft.note_position(one, self._in_lake(one.journal_id))
        # What was quiet when the records end; the rest completes as ever
        last = min(last_at, int(time.time() * 1000))
        unknown = resumption.finish(last, _reached(self._lake))
        traces = draft.publish(self._path)
        logger.warning(
            "the read model is rebuilt: %s traces of %s rows in %.1f s. Scorers go on where they "
            "were",
            f"{traces:,}",
            f"{progress.of_rows:,}",
            time.time() - progress.started,
        )
        if unknown:
            logger.warning(
                "where these scorers were is not known, an older version of Vedette ran them last; "
                "what was waiting for their scores gets none: %s",
                ", ".join(unknown),
            )

    def _in_lake(self, journal_id: str) -> int:
        """Every segment of the journal up to this number is in all tables.

        Segments are committed one after the other, each to one table after the other, and to a
        table only if it has rows there. So those before the last one of any table are in all, but
        of that one the tables after it may miss their rows.
        """
        *before, last = (
            _transaction(table.open_existing(), journal_id) or 0
            for table in self._lake.all_tables()
        )
        return max(last, *(version - 1 for version in before))


def _reached(lake: Lake) -> Callable[[str], int | None]:
    """Tells how far a scorer has come, as the ledgers have it: that of its experiment, or that by
    default, if the experiment was given its location later."""

    @cache
    def ledger(location: Location) -> DeltaTable | None:
        return lake.at(location).decisions.open_existing()

    def reached(scorer: str) -> int | None:
        places = lake.locations.of(Stream.of(scorer).experiment_id), DEFAULT
        found = (_transaction(ledger(place), CURSOR_APP + scorer) for place in places)
        return next((until for until in found if until is not None), None)

    return reached


def _transaction(table: DeltaTable | None, app_id: str) -> int | None:
    return None if table is None else table.transaction_version(app_id)


class _Journaled:
    """What a journal holds now, without what it says of the old order of completion."""

    def __init__(self, journal: JournalReader) -> None:
        self.journal_id = journal.journal_id
        self.position = Position(0, 0)  # after the last record given
        self._journal = journal
        self._end = journal.end()

    def records(self) -> Iterator[Replayed]:
        """The records, as they are journaled."""
        while self.position < self._end:
            if not (found := self._journal.read(self.position, _READ_BYTES)):
                return  # a write under way is left
            for record, after in found:
                start = self.position.offset if after.segment == self.position.segment else 0
                place = Place(record.at, self.journal_id, after.segment, start)
                self.position = after
                kept = without_places(record) if record.kind == "decisions" else record
                yield Replayed(place, *decoded(kept))


class _Draft(TraceIndex):
    """A read model that nobody knows yet: quick to fill, worthless until it is published."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        super().__init__(path)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.executescript(
            "PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;"
            "PRAGMA temp_store = FILE; PRAGMA cache_size = -65536;"  # KiB
        )
        make_tables(connection)
        return connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        yield  # nobody else writes

    @contextmanager
    def durable_transaction(self) -> Iterator[sqlite3.Connection]:
        with self.transaction() as connection:
            yield connection  # durable when it is published

    def fold(self, work: Sequence[Decoded]) -> None:
        """Fold records that come next."""
        if work:
            with self.transaction() as connection:
                fold_fitting(connection, work)
                connection.execute("DELETE FROM changes")  # no mirror has seen any of it

    def note_position(self, journal: _Journaled, in_lake: int) -> None:
        """Say how far the journal is folded, and up to which segment it is in the lake."""
        self.connection().execute(
            "INSERT INTO positions (journal, segment, offset, lake_segment) VALUES (?, ?, ?, ?)",
            (journal.journal_id, *journal.position, in_lake),
        )

    def publish(self, path: Path) -> int:
        """Put it in place as the read model at ``path``, durably; returns its number of traces."""
        connection = self.connection()
        (traces,) = connection.execute("SELECT count(*) FROM traces").fetchone()
        # Now, while nobody else has it open: each process that opens it wants it so
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        sync_file(self.path)
        # The old file first: what is left of its log must not be taken for the new one's
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        os.replace(self.path, path)
        sync_file(path)
        return int(traces)
