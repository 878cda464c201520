"""A columnar mirror of the read model, in DuckDB: what trace metrics are computed from.

One process owns the file. It follows the read model's table ``changes`` when asked (`Columns.sync`)
and is never a source: a file that is unreadable, belongs to another read model, or has missed
changes that are gone by now is thrown away and filled anew. So is one that was deleted: that is how
the engine has the owner forget what was deleted for good.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from vedette.named_sql import statements
from vedette.traces.index import TraceIndex
from vedette.traces.mirroring import LAYOUT, fill, follow

logger = logging.getLogger(__name__)

# SQL over the tables of columns.sql, its parameters, further tables by their names
Ask = Callable[
    [str, Sequence[Any] | Mapping[str, Any], Mapping[str, pa.Table]], list[tuple[Any, ...]]
]

_SQL = statements("vedette.traces", "columns")
_BITE_PAUSE_SECONDS = 0.02  # writers that wait for SQLite's lock don't queue: they look again
_MOMENT = 2_000  # changes that are taken over in a fraction of a second

# What asking a damaged file raises
_DAMAGED = (
    duckdb.FatalException,
    duckdb.InternalException,
    duckdb.IOException,
    duckdb.SerializationException,
)


class ColumnsUnavailable(Exception):
    """The mirror can't be asked now: it is being closed, or another process has it open."""


class Columns:
    """The mirror in the file ``path``, or in memory. Use from any thread.

    Args:
        path: made if missing; None keeps the mirror in memory.
        memory_limit: of DuckDB, in its notation.
        threads: of DuckDB.
    """

    def __init__(self, path: Path | None, *, memory_limit: str = "256MB", threads: int = 2) -> None:
        self._path = path
        self._config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit,
            "threads": threads,
            "preserve_insertion_order": False,
        }
        self._lock = threading.Lock()
        self._database: duckdb.DuckDBPyConnection | None = None
        self._state: tuple[int, int] | None = None  # the row of `mirror`, when known
        self._closing = threading.Event()

    def close(self) -> None:
        """Close the file, giving up what is being copied; it is opened again when needed."""
        self._closing.set()
        with self._lock:
            self._closing.clear()
            self._state = None
            if self._database is not None:
                self._database.close()
                self._database = None

    def query(
        self,
        index: sqlite3.Connection,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] = (),
        tables: Mapping[str, pa.Table] | None = None,
    ) -> list[tuple[Any, ...]]:
        """Bring the mirror up to date with the read model and ask it.

        Args:
            index: a connection to the read model.
            sql: DuckDB SQL over the tables of ``columns.sql`` and over ``tables`` by their names.

        Raises:
            ColumnsUnavailable: it can't be asked now.
        """
        self.sync(index)
        try:
            return self._ask(sql, params, tables or {})
        except _DAMAGED as error:
            self._start_over(error)
            self.sync(index)
            return self._ask(sql, params, tables or {})

    @contextmanager
    def reading(self, index: sqlite3.Connection) -> Iterator[Ask]:
        """Bring the mirror up to date with the read model, and ask several things of that one
        state of it while the block runs.

        Raises:
            ColumnsUnavailable: it can't be asked now.
        """
        self.sync(index)
        with self._lock:
            cursor = self._open().cursor()

        def ask(
            sql: str, params: Sequence[Any] | Mapping[str, Any], tables: Mapping[str, pa.Table]
        ) -> list[tuple[Any, ...]]:
            for name, table in tables.items():
                cursor.register(name, table)
            return cursor.execute(sql, params).fetchall()

        try:
            cursor.execute("BEGIN TRANSACTION")
            yield ask
        except _DAMAGED as error:
            self._start_over(error)
            raise ColumnsUnavailable(f"{self._path} was damaged and is made anew") from error
        finally:
            cursor.close()

    def traces_with_span(
        self, index: sqlite3.Connection, values: Mapping[str, Sequence[str]], limit: int
    ) -> list[int] | None:
        """Row ids of the traces that have a span with these values, if there are at most ``limit``
        and the mirror needn't take over more than a moment's changes to know; else None.

        Args:
            values: for columns of ``spans``: what they must be one of.
        """
        if not values or self._behind(index) > _MOMENT:
            return None
        where = " AND ".join(f"{column} IN (SELECT unnest(?))" for column in values)
        rows = self.query(
            index,
            f"SELECT DISTINCT trace FROM spans WHERE {where} LIMIT ?",
            [*(list(allowed) for allowed in values.values()), limit + 1],
        )
        return [row[0] for row in rows] if len(rows) <= limit else None

    def _behind(self, index: sqlite3.Connection) -> int:
        """About how many changes there are to take over, counted up to `_MOMENT` + 1."""
        state = self._state
        if state is None:
            return _MOMENT + 1
        values = {"after": state[1], "bound": _MOMENT + 1}
        return int(index.execute(_SQL["behind"], values).fetchone()[0])

    def sync(self, index: sqlite3.Connection) -> int:
        """Take over what has changed in the read model; returns how many traces that were.

        Raises:
            ColumnsUnavailable: it can't be asked now.
        """
        try:
            return self._sync(index)
        except duckdb.Error as error:
            # Damaged, or of another version of this code with other tables
            self._start_over(error)
            return self._sync(index)

    def _ask(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any], tables: Mapping[str, pa.Table]
    ) -> list[tuple[Any, ...]]:
        with self._lock:
            cursor = self._open().cursor()
        try:
            for name, table in tables.items():
                cursor.register(name, table)
            return cursor.execute(sql, params).fetchall()
        finally:
            cursor.close()

    def _sync(self, index: sqlite3.Connection) -> int:
        with self._lock:
            self._leave_deleted_file()
            identity, head, trimmed = index.execute(_SQL["head"]).fetchone()
            if self._state == (identity, head):
                return 0
            cursor = self._open().cursor()
            try:
                state = cursor.execute("SELECT identity, batch, layout FROM mirror").fetchone()
                if state is not None and state[2] != LAYOUT:
                    raise duckdb.BinderException(f"its tables are of layout {state[2]}")
                if state is None or state[0] != identity or not (trimmed or 0) <= state[1] <= head:
                    logger.info("filling the metrics mirror from the read model")
                    count = fill(cursor, index, identity, head, self._go_on)
                else:
                    count = follow(cursor, index, state[1], head, self._go_on)
                self._state = (identity, head)
                return count
            finally:
                cursor.close()

    def _leave_deleted_file(self) -> None:
        if self._database is not None and self._path is not None and not self._path.exists():
            self._database.close()
            self._database, self._state = None, None
            self._path.with_name(self._path.name + ".wal").unlink(missing_ok=True)

    def _go_on(self) -> None:
        if self._closing.is_set():
            raise ColumnsUnavailable("the metrics mirror is being closed")

    def _open(self) -> duckdb.DuckDBPyConnection:
        """The database; call with the lock held."""
        if self._database is None:
            try:
                self._database = self._connect()
            except duckdb.IOException as error:
                if "lock" in str(error):
                    raise ColumnsUnavailable(
                        f"{self._path} is open in another process; only one server can run on a "
                        "data directory"
                    ) from error
                self._discard(error)
                self._database = self._connect()
            except duckdb.Error as error:
                self._discard(error)
                self._database = self._connect()
        return self._database

    def _connect(self) -> duckdb.DuckDBPyConnection:
        database = duckdb.connect(str(self._path or ":memory:"), config=self._config)
        try:
            database.execute(_SQL["tables"])
        except BaseException:
            database.close()
            raise
        return database

    def _start_over(self, error: Exception) -> None:
        self.close()
        with self._lock:
            self._discard(error)

    def _discard(self, error: Exception) -> None:
        logger.warning("the metrics mirror %s is unusable and made anew: %s", self._path, error)
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path.with_name(self._path.name + ".wal").unlink(missing_ok=True)


def trim_changes(index: TraceIndex, keep: int = 5_000_000, bite: int = 10_000) -> None:
    """Forget all but about the newest ``keep`` changes, some ``bite`` in each transaction.

    The engine calls this now and then. A mirror that hasn't taken over what is forgotten here will
    be filled anew.
    """
    connection = index.connection()
    oldest = connection.execute(_SQL["oldest_to_keep"], {"keep": keep}).fetchone()
    while oldest is not None:
        with index.transaction():
            values = {"until": oldest[0], "bite": bite}
            (until,) = connection.execute(_SQL["bite"], values).fetchone()
            if until is None:
                return
            connection.execute(_SQL["note_trimmed"], {"until": until})
            connection.execute(_SQL["trim"], {"until": until})
        time.sleep(_BITE_PAUSE_SECONDS)


def trim_deletions(index: TraceIndex, keep: int = 5_000_000) -> None:
    """Forget all but about the newest ``keep`` deletions: some 100 bytes each.

    The engine calls this now and then. An archive that hasn't taken over what is forgotten here
    keeps those rows.
    """
    connection = index.connection()
    if connection.execute(_SQL["any_deletion_to_trim"], {"keep": keep}).fetchone() is not None:
        with index.transaction():
            connection.execute(_SQL["trim_deletions"], {"keep": keep})
