"""The read model's file, and bringing it up to date with the journals.

SQLite in WAL mode: any process reads and any process may fold. What is folded and how far
(`positions`) are committed together, so it doesn't matter who folds, how often, or who is killed.

A file that is missing though the lake has been used, or that other code has made, is not made anew
here: `vedette.rebuild` does that, and puts the whole one in place. Whoever has the old file open
takes the new one then.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from vedette.intake.journal import JournalReader
from vedette.intake.records import Position, Record
from vedette.intake.spans import DecodedSpan
from vedette.named_sql import script, statements
from vedette.traces.fold import Decoded, decoded, fold

logger = logging.getLogger(__name__)

# Of the tables in index.sql and of what the fold puts into them: raise it when either changes, and
# the read model is rebuilt when the new code starts
VERSION = 6

_SQL = statements("vedette.traces", "positions")
_BATCH_BYTES = 4 * 1024 * 1024  # of journal folded in one transaction
# What a record can raise in a fold if its values fit no column, though it was accepted
_UNFIT = (OverflowError, UnicodeError, sqlite3.DataError, sqlite3.IntegrityError)


class IndexUnavailable(Exception):
    """The read model has to be rebuilt before it can be used; the message says why."""


def why_unusable(path: Path, lake_is_used: Callable[[], bool]) -> str | None:
    """Why the read model at ``path`` must be rebuilt; None if it can be used, or made.

    Args:
        path: of its file, which need not exist.
        lake_is_used: whether there is anything in the lake; asked if there is no read model.

    Raises:
        LakeUnavailable: there is no read model, and the lake can't be asked.
    """
    version = None
    if path.exists():
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as found:
                (tables,) = found.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if tables:  # else it is only just being made
                    (version,) = found.execute("PRAGMA user_version").fetchone()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            return f"it is damaged ({error})"
    if version is None:
        return "it is missing" if lake_is_used() else None
    return None if version == VERSION else f"it is of version {version}, not {VERSION}"


class TraceIndex:
    """The read model at ``path``. Use from any thread: each has a connection.

    Args:
        path: of its file, which is made if it is missing and the lake has not been used.
        lake_is_used: says whether it has.

    Raises (every method):
        IndexUnavailable: it has to be rebuilt first.
    """

    def __init__(self, path: Path, lake_is_used: Callable[[], bool] = lambda: False) -> None:
        self.path = path
        self._lake_is_used = lake_is_used
        self._known = False  # it has been there
        self._local = threading.local()
        self._catching_up = threading.Lock()

    def connection(self) -> sqlite3.Connection:
        """This thread's connection, in autocommit mode: begin transactions explicitly."""
        while (file := self._file()) is None or file != getattr(self._local, "file", None):
            self._local.connection, self._local.file = self._open(), file
        connection: sqlite3.Connection = self._local.connection
        return connection

    def _file(self) -> int | None:
        """Which file is at the path; None: there is none."""
        try:
            return os.stat(self.path).st_ino
        except FileNotFoundError:
            return None

    def _open(self) -> sqlite3.Connection:
        why = why_unusable(self.path, self._lake_is_used)
        if self._known and not self.path.exists():  # who follows it would leave out what it held
            why = "it is missing"
        if why is not None:
            raise IndexUnavailable(f"the read model {self.path} has to be rebuilt: {why}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        # NORMAL: the file can't be corrupted by a power cut, but its last commits may be lost.
        # They are still in the journal: `confirm_lake` syncs before segments are removed.
        connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            "PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384;"  # KiB, per thread
            # Pages, 256 MiB: a bound, for when no engine runs; else see `checkpoint`
            "PRAGMA wal_autocheckpoint = 65536; PRAGMA journal_size_limit = 134217728;"
        )
        make_tables(connection)
        self._known = True
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction; rolled back if the block raises."""
        connection = self.connection()
        with self._turn():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:  # SQLite ends it by itself when the disk is full
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def durable_transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction that is on disk, with all before it, when the block is left."""
        connection = self.connection()
        connection.execute("PRAGMA synchronous = FULL")
        try:
            with self.transaction():
                yield connection
        finally:
            connection.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for those who came before. SQLite alone looks every 100 ms whether it may write, and
        never finds the moment between two transactions of one who writes without a pause."""
        queue: IO[str] | None = getattr(self._local, "queue", None)
        if queue is None:
            queue = self.path.with_name(f"{self.path.name}.queue").open("a")
            self._local.queue = queue
        fcntl.flock(queue, fcntl.LOCK_EX)  # the kernel frees it however the process ends
        try:
            yield
        finally:
            fcntl.flock(queue, fcntl.LOCK_UN)

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
                fold_fitting(connection, new)
                segment, offset = work[-1][1]
                connection.execute(
                    _SQL["advance"],
                    {"journal": journal_id, "segment": segment, "offset": offset},
                )

    def confirm_lake(self, journal_id: str, segment: int) -> None:
        """Note that the lake holds the journal up to ``segment``, and make everything folded so far
        durable: after this the segments up to the lower of lake and fold may be removed."""
        with self.durable_transaction() as connection:
            connection.execute(_SQL["advance_lake"], {"journal": journal_id, "segment": segment})

    def make_durable(self) -> None:
        """Make everything folded so far durable: no power cut gives other numbers to it then."""
        with self.durable_transaction() as connection:
            connection.execute(_SQL["make_durable"])

    def compact(self) -> None:
        """Write the file anew, so that nothing that was deleted can be read out of it.

        Whoever writes waits meanwhile; the directory for temporary files needs room for it.

        Raises:
            sqlite3.OperationalError: somebody reads all the time; try again later.
        """
        self.connection()  # it is there, and of this code
        with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as connection:
            connection.execute("PRAGMA temp_store = FILE")
            with self._turn():
                connection.execute("VACUUM")
                (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise sqlite3.OperationalError(f"the log of {self.path} is being read all the time")

    def checkpoint(self) -> None:
        """Move what was committed from the write-ahead log to the file, so that the next writer
        begins the log anew. Call it every few seconds.

        Else the commit that fills the log does so, and all writers wait for it, for seconds. This
        moves most of it beside them, and only what they add meanwhile in a turn of its own.
        """
        connection = self.connection()
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        with self._turn():
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


def make_tables(connection: sqlite3.Connection) -> None:
    """Make what is missing of the tables, all at once."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != VERSION:
        tables = script("vedette.traces", "index")
        connection.executescript(
            f"BEGIN IMMEDIATE; {tables} PRAGMA user_version = {VERSION}; COMMIT;"
        )


def fold_fitting(connection: sqlite3.Connection, work: Sequence[Decoded]) -> None:
    """`fold`, leaving out what fits no column, with a line in the log: of many spans that came in
    one record no more than those that don't fit."""
    connection.execute("SAVEPOINT fold")
    try:
        fold(connection, work)
    except _UNFIT:
        connection.execute("ROLLBACK TO fold")
        parts = [[item] for item in work] if len(work) > 1 else _parts(*work[0])
        if len(parts) > 1:
            for part in parts:
                fold_fitting(connection, part)
        else:
            record, _ = work[0]
            logger.exception("left out a %s record of %d: it doesn't fit", record.kind, record.at)
    connection.execute("RELEASE fold")


def _parts(record: Record, spans: Sequence[DecodedSpan]) -> list[list[Decoded]]:
    """The record cut into one for each trace; that of a single trace into one for each span."""
    traces: dict[str, list[DecodedSpan]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    groups = list(traces.values()) if len(traces) > 1 else [[span] for span in spans]
    return [[(record, group)] for group in groups]
