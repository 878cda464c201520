"""Where each row of an archive is: which file a trace's row has to be replaced in."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson
import pyarrow as pa

from vedette.archive.table import ArchiveRefused
from vedette.lake.files import DataFile
from vedette.named_sql import statements

logger = logging.getLogger(__name__)

_SQL = statements("vedette.archive", "places")
_VERSION = 1  # of the tables

# The rows of a file: trace_id and experiment_id, in batches
ReadIds = Callable[[DataFile], Iterable[pa.RecordBatch]]


class Place(NamedTuple):
    """A trace's row: the file it is in, and the experiment it says."""

    path: str
    experiment_id: str


class Places:
    """The places of one table's rows, in the SQLite file ``path``. For one thread.

    Args:
        path: made if missing, and anew if it is unusable.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = self._open()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def remove(self) -> None:
        """Close the file and delete it."""
        self.close()
        self._unlink()

    def renew(self) -> None:
        """Begin anew with an empty file."""
        self.remove()
        self._connection = self._open()

    def follow(self, files: Sequence[DataFile], read: ReadIds) -> None:
        """Bring the places up to date with a version of the table.

        Args:
            files: all of that version.
            read: reads one of them.

        Raises:
            ArchiveRefused: the table has two rows of one trace.
        """
        connection = self._connection
        known = {path for (path,) in connection.execute(_SQL["files"])}
        gone = known - {file.path for file in files}
        new = [file for file in files if file.path not in known]
        if gone:
            connection.execute("BEGIN")
            connection.executemany(_SQL["forget_file"], [(path,) for path in gone])
            connection.execute("COMMIT")
        for file in new:
            connection.execute("BEGIN")
            try:
                self._add(file, read(file))
            except BaseException:
                if connection.in_transaction:  # SQLite ends it by itself when the disk is full
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def find(self, trace_ids: Collection[str]) -> dict[str, Place]:
        """The places of these traces (ids as the tables have them), as far as they have one."""
        ids = orjson.dumps(list(trace_ids)).decode()
        return {
            trace_id: Place(path, experiment_id)
            for trace_id, path, experiment_id in self._connection.execute(
                _SQL["find"], {"ids": ids}
            )
        }

    def of_experiment(self, experiment_id: str, after: str, count: int) -> list[str]:
        """The next traces of an experiment that have a row, in the order of their ids."""
        values = {"experiment": experiment_id, "after": after, "count": count}
        return [trace_id for (trace_id,) in self._connection.execute(_SQL["after"], values)]

    def tidy(self) -> None:
        """Forget what is remembered of rows that are gone."""
        self._connection.execute(_SQL["tidy"])

    def _add(self, file: DataFile, batches: Iterable[pa.RecordBatch]) -> None:
        number = self._connection.execute(_SQL["add_file"], (file.path,)).lastrowid
        for batch in batches:
            ids = batch["trace_id"].to_pylist()
            experiments = batch["experiment_id"].to_pylist()
            if None in ids or None in experiments:
                raise ArchiveRefused(f"{file.path} has a row of no trace, or of no experiment")
            times = Counter([*ids, *self.find(ids)])
            if len(times) < times.total():
                ((trace_id, _),) = times.most_common(1)
                raise ArchiveRefused(
                    f"the table has two rows of trace {trace_id}, one in {file.path}: delete one"
                )
            rows = [(one, number, other) for one, other in zip(ids, experiments, strict=True)]
            self._connection.executemany(_SQL["put"], rows)

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._connect()
        except sqlite3.OperationalError:  # locked, or a full disk
            raise
        except sqlite3.DatabaseError as error:
            logger.warning("%s is unusable and made anew: %s", self._path, error)
            self._unlink()
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=30, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # What a power cut takes is read from the table's files again
            connection.execute("PRAGMA synchronous = NORMAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"it is of version {version}")
            connection.executescript(_SQL["tables"])
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _unlink(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
