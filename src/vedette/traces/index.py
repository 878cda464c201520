"""The read model's file, and bringing it up to date with the journals.

SQLite in WAL mode: any process reads and any process may fold. What is folded and how far
(`positions`) are committed together, so it doesn't matter who folds, how often, or who is killed.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vedette.intake.journal import JournalReader
from vedette.intake.records import Position
from vedette.sql import script, statements
from vedette.traces.fold import Decoded, decoded, fold

logger = logging.getLogger(__name__)

_SQL = statements("vedette.traces", "positions")
_BATCH_BYTES = 4 * 1024 * 1024  # of journal folded in one transaction
# What a record can raise in a fold if its values fit no column, though it was accepted
_UNFIT = (OverflowError, UnicodeError, sqlite3.DataError, sqlite3.IntegrityError)


class TraceIndex:
    """The read model at ``path``; made if missing. Use from any thread: each has a connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._catching_up = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.connection().executescript(script("vedette.traces", "index"))

    def connection(self) -> sqlite3.Connection:
        """This thread's connection, in autocommit mode: begin transactions explicitly."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            # NORMAL: the file can't be corrupted by a power cut, but its last commits may be lost.
            # They are still in the journal: `confirm_lake` syncs before segments are removed.
            connection.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
                "PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384;"  # KiB, per thread
                "PRAGMA wal_autocheckpoint = 16384; PRAGMA journal_size_limit = 134217728;"
            )
            self._local.connection = connection
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction; rolled back if the block raises."""
        connection = self.connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def position(self, journal_id: str) -> Position:
        """How far the journal has been folded."""
        row = self.connection().execute(_SQL["position"], {"journal": journal_id}).fetchone()
        return Position(*row) if row else Position(0, 0)

    def lake_segment(self, journal_id: str) -> int:
        """Every segment of the journal up to this number is in the lake."""
        row = self.connection().execute(_SQL["lake_segment"], {"journal": journal_id}).fetchone()
        return int(row[0]) if row else 0

    def catch_up(self, journals: Sequence[JournalReader]) -> None:
        """Fold what the journals hold at the time of the call."""
        for journal in journals:
            target = journal.end()
            while self.position(journal.journal_id) < target:
                with self._catching_up:  # else every waiting thread decodes the same records
                    found = journal.read(self.position(journal.journal_id), _BATCH_BYTES)
                    if not found:
                        break  # only a write under way is left
                    self.apply(journal.journal_id, [(decoded(record), at) for record, at in found])

    def apply(self, journal_id: str, work: Sequence[tuple[Decoded, Position]]) -> None:
        """Fold records of a journal, each with the position after it, that aren't folded yet."""
        with self.transaction() as connection:
            position = self.position(journal_id)
            new = [item for item, at in work if at > position]
            if new:
                self._fold(connection, new)
                segment, offset = work[-1][1]
                connection.execute(
                    _SQL["advance"],
                    {"journal": journal_id, "segment": segment, "offset": offset},
                )

    def _fold(self, connection: sqlite3.Connection, work: Sequence[Decoded]) -> None:
        connection.execute("SAVEPOINT fold")
        try:
            fold(connection, work)
        except _UNFIT:
            connection.execute("ROLLBACK TO fold")
            if len(work) > 1:
                for item in work:
                    self._fold(connection, [item])
            else:
                record, _ = work[0]
                logger.exception(
                    "left out a %s record of %d: it doesn't fit", record.kind, record.at
                )
        connection.execute("RELEASE fold")

    def confirm_lake(self, journal_id: str, segment: int) -> None:
        """Note that the lake holds the journal up to ``segment``, and make everything folded so far
        durable: after this the segments up to the lower of lake and fold may be removed."""
        connection = self.connection()
        connection.execute("PRAGMA synchronous = FULL")
        try:
            with self.transaction():
                connection.execute(
                    _SQL["advance_lake"], {"journal": journal_id, "segment": segment}
                )
        finally:
            connection.execute("PRAGMA synchronous = NORMAL")
