"""Read spans' content back from the lake: by trace id, and by what they contain."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import duckdb
import numpy as np
from deltalake import DeltaTable

from vedette.lake.cache import FileCache
from vedette.lake.files import DataFile, active_files
from vedette.lake.row_groups import rows_of_keys
from vedette.lake.schemas import lake_trace_id, mlflow_trace_id
from vedette.lake.storage import LakeUnavailable, lake_errors
from vedette.lake.table import LakeTable

_THREADS = 2
_MEMORY = "256MB"
_ATTEMPTS = 4
# A handle gets slower with age, see `vedette.lake.table`.
_REFRESHES_PER_HANDLE = 25
# DuckDB keeps the metadata of the files it has read, about so much of it; beyond a limit we start
# again with a new database.
_CACHED_BYTES_PER_FILE = 64 << 10
_CACHED_SHARE_OF_FILE = 1 / 32
_CACHED_BYTES = 96 << 20
# Larger ones are not fetched from an object store for the few rows of some traces.
_FETCHED_BYTES = 8 << 20

_FILES = "read_parquet(getvariable('paths'), hive_partitioning = false)"
# What makes a span's content.
_COLUMNS = (
    "record_id",
    "trace_id",
    "span_id",
    "parent_span_id",
    "name",
    "kind",
    "start_time_unix_nano",
    "end_time_unix_nano",
    "attributes",
    "events",
    "links",
    "status",
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Traces with a span whose newest version matches.
_MATCHING = f"""
    WITH matched AS (
      SELECT trace_id, span_id, record_id FROM {_FILES}
      WHERE received_at >= make_timestamptz({{received_from}}) AND ({{predicate}})
    ), newest AS (
      SELECT trace_id, span_id, max(record_id) AS record_id FROM {_FILES}
      WHERE trace_id IN (SELECT trace_id FROM matched)
      GROUP BY trace_id, span_id
    )
    SELECT DISTINCT trace_id FROM matched JOIN newest USING (trace_id, span_id, record_id)
"""


class Wanted(NamedTuple):
    """A trace to read, and when its spans arrived: what its files are found by."""

    trace_id: str  # as MLflow has it: "tr-" + 32 hex
    first_received_ms: int
    last_received_ms: int


class SpanReader:
    """Reads the spans table; for any number of threads."""

    def __init__(self, table: LakeTable) -> None:
        self._lake_table = table
        self._lock = threading.Lock()
        self._table: DeltaTable | None = None
        self._refreshes = 0
        self._snapshot = _Snapshot(-1, [])
        self._cache = FileCache(table.storage, table.cache)
        self._databases = _Databases()

    def refresh(self) -> None:
        """Take the table's newest version as the snapshot that is read.

        Raises:
            LakeUnavailable: the table can't be read now.
        """
        with self._lock:
            self._refresh()

    def read_spans(
        self, wanted: Sequence[Wanted], columns: Sequence[str] = ()
    ) -> dict[str, list[dict[str, Any]]]:
        """The spans of traces as the last `refresh` found them.

        Args:
            columns: of the spans table, to be given besides those that make a span's content; no
                times.

        Returns:
            By MLflow's trace id, without traces of which there is nothing: each span once (its
            newest version), in no order, as the columns of the spans table that make its content,
            ``received_at`` and ``record_id``; lists and structs as Python lists and dicts.

        Raises:
            LakeUnavailable: the table can't be read now.
        """
        ids = {lake_trace_id(one.trace_id): one.trace_id for one in wanted}
        names = (*_COLUMNS, *columns)
        rows = self._query(
            lambda snapshot: snapshot.files_of(wanted),
            lambda files: self._rows_of(files, list(ids), names),
        )
        newest: dict[tuple[str, str], tuple[Any, ...]] = {}
        for row in rows:
            key = row[1], row[2]
            if key not in newest or newest[key][0] < row[0]:
                newest[key] = row
        found: dict[str, list[dict[str, Any]]] = {}
        for (trace_id, _), row in newest.items():
            span = dict(zip(names, row[:-1], strict=True))
            span["received_at"] = _EPOCH + timedelta(microseconds=row[-1])
            found.setdefault(ids[trace_id], []).append(span)
        return found

    def matching_traces(
        self, predicate_sql: str, parameters: Sequence[Any], received_from_ms: int | None = None
    ) -> set[str]:
        """Ids of the traces that have a span for which a condition holds.

        Args:
            predicate_sql: a DuckDB condition on the columns of the spans table, with ``?`` for
                parameters. It is part of the statement: never put a user's text in it.
            parameters: values of the ``?``.
            received_from_ms: leave out spans that arrived earlier (milliseconds since the epoch).

        Raises:
            LakeUnavailable: the table can't be read now.
        """
        received_from = received_from_ms or 0
        statement = _MATCHING.format(predicate=predicate_sql, received_from=received_from * 1000)
        rows = self._query(
            lambda snapshot: snapshot.files_since(received_from),
            lambda files: self._select(files, statement, list(parameters)),
        )
        return {mlflow_trace_id(trace_id) for (trace_id,) in rows}

    def _refresh(self) -> None:
        with lake_errors(f"reading the log of {self._lake_table.storage.uri}"):
            if self._table is None or self._refreshes >= _REFRESHES_PER_HANDLE:
                self._table, self._refreshes = self._lake_table.open_existing(), 0
            else:
                self._refreshes += 1
                self._table.update_incremental()
            version = -1 if self._table is None else self._table.version()
            if self._table is not None and version != self._snapshot.version:
                files = active_files(self._table, self._lake_table.spec)
                self._snapshot = _Snapshot(version, files)

    def _rows_of(
        self, files: Sequence[DataFile], ids: list[str], names: Sequence[str]
    ) -> list[tuple[Any, ...]]:
        """The rows of traces: the columns, then when they arrived, in microseconds."""
        whole = [f for f in files if f.size <= _FETCHED_BYTES or self._cache.has(f)]
        condition = "= $ids[1]" if len(ids) == 1 else "IN (SELECT unnest($ids))"
        # The time comes as a number: DuckDB needs pytz for the other.
        select = f"SELECT {', '.join(names)}, epoch_us(received_at)"
        rows = self._select(
            whole, f"{select} FROM {_FILES} WHERE trace_id {condition}", {"ids": ids}
        )
        for file in set(files).difference(whole):
            found = rows_of_keys(
                self._lake_table.storage, file, "trace_id", ids, (*names, "received_at")
            )
            rows += zip(*(column.to_pylist() for column in found.columns), strict=True)
        return rows

    def _select(
        self, files: Sequence[DataFile], statement: str, parameters: Any
    ) -> list[tuple[Any, ...]]:
        if not files:
            return []
        paths = self._cache.paths(files)
        with self._databases.cursor(files) as cursor:
            cursor.execute("SET VARIABLE paths = $paths", {"paths": paths})
            return cursor.execute(statement, parameters).fetchall()

    def _query(
        self,
        choose: Callable[[_Snapshot], list[DataFile]],
        run: Callable[[list[DataFile]], list[tuple[Any, ...]]],
    ) -> list[tuple[Any, ...]]:
        """Run a query over the chosen files; again on a newer snapshot if one has vanished."""
        with lake_errors(f"reading {self._lake_table.storage.uri}"):
            for _ in range(_ATTEMPTS):
                files = choose(self._snapshot)
                if not files:
                    return []
                try:
                    return run(files)
                except (duckdb.IOException, FileNotFoundError) as error:
                    vanished = error
                    with self._lock:
                        self._table = None
                        self._refresh()
            raise LakeUnavailable(
                f"files of {self._lake_table.storage.uri} are not where its log says: {vanished}"
            )


class _Snapshot:
    """The active files of one version, with what they are chosen by."""

    def __init__(self, version: int, files: list[DataFile]) -> None:
        self.version = version
        self._files = files
        self._first = np.array([file.received_min or 0 for file in files], np.int64)
        self._last = np.array(
            [2**62 if file.received_max is None else file.received_max for file in files], np.int64
        )

    def files_of(self, wanted: Sequence[Wanted]) -> list[DataFile]:
        chosen: dict[int, None] = {}
        for trace_id, received_from, received_to in wanted:
            key = lake_trace_id(trace_id)
            in_time = (self._first <= received_to) & (self._last >= received_from)
            for index in np.flatnonzero(in_time).tolist():
                file = self._files[index]
                low, high = file.key_min, file.key_max
                if low is None or high is None or low <= key <= high:
                    chosen[index] = None
        return [self._files[index] for index in chosen]

    def files_since(self, received_from: int) -> list[DataFile]:
        return [self._files[i] for i in np.flatnonzero(self._last >= received_from).tolist()]


class _Databases:
    """The DuckDB database that queries run in, replaced when it has cached too much."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._database: duckdb.DuckDBPyConnection | None = None
        self._seen: set[str] = set()
        self._cached = 0.0

    @contextmanager
    def cursor(self, files: Sequence[DataFile]) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor to read ``files`` with."""
        with self._lock:
            if self._database is None or self._cached > _CACHED_BYTES:
                self._database, self._seen, self._cached = _database(), set(), 0.0
            for file in files:
                if file.path not in self._seen:
                    self._seen.add(file.path)
                    self._cached += _CACHED_BYTES_PER_FILE + file.size * _CACHED_SHARE_OF_FILE
            cursor = self._database.cursor()
        try:
            cursor.execute("SET TimeZone = 'UTC'")
            yield cursor
        finally:
            cursor.close()


def _database() -> duckdb.DuckDBPyConnection:
    database = duckdb.connect(config={"threads": _THREADS, "memory_limit": _MEMORY})
    database.execute("SET parquet_metadata_cache = true")
    database.execute("SET enable_external_file_cache = false")
    return database
