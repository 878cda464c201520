"""Read spans by trace from the lake: the files that can hold them, found by their statistics."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from vedette.lake.files import DataFile, active_files
from vedette.lake.schemas import SPANS, lake_trace_id, mlflow_trace_id
from vedette.lake.storage import lake_errors
from vedette.lake.table import LakeTable

_COLUMNS = [
    "record_id",
    "trace_id",
    "span_id",
    "parent_span_id",
    "name",
    "start_time_unix_nano",
    "end_time_unix_nano",
    "status",
    "attributes",
    "events",
    "links",
    "received_at",
]
_ATTEMPTS = 3

SpanRow = dict[str, Any]


class Wanted(NamedTuple):
    """A trace and when its first and last spans arrived, in milliseconds since the epoch."""

    trace_id: str
    received_min_ms: int
    received_max_ms: int


class SpanReader:
    """Reads the spans table from any thread. Holds a version of it until `refresh`."""

    def __init__(self, table: LakeTable) -> None:
        self._table = table
        self._lock = threading.Lock()
        self._handle: DeltaTable | None = None
        self._files: list[DataFile] = []
        self._database = duckdb.connect(config={"threads": 2, "memory_limit": "512MB"})
        self._local = threading.local()

    def refresh(self) -> None:
        """Go to the table's newest version.

        Raises:
            LakeUnavailable: the table can't be read now.
        """
        with self._lock, lake_errors(f"reading {self._table.storage.uri}"):
            if self._handle is None:
                self._handle = self._table.open()
            else:
                before = self._handle.version()
                self._handle.update_incremental()
                if self._handle.version() == before:
                    return
            self._files = active_files(self._handle, SPANS)

    def read_spans(self, wanted: Sequence[Wanted]) -> dict[str, list[SpanRow]]:
        """The spans of these traces, as far as this version has them, by trace id.

        Of a span that was sent again the newest version is given. A row has the columns
        ``trace_id`` (bare OTel hex), ``span_id``, ``parent_span_id``, ``name``,
        ``start_time_unix_nano``, ``end_time_unix_nano``, ``status``, ``attributes``, ``events``,
        ``links`` and ``record_id``.

        Raises:
            LakeUnavailable: the table can't be read now.
        """
        if self._handle is None:
            self.refresh()
        with lake_errors(f"reading {self._table.storage.uri}"):
            for attempt in range(_ATTEMPTS):
                try:
                    rows = self._read(wanted)
                    break
                except (FileNotFoundError, duckdb.IOException):
                    # Compaction has replaced the file and vacuum removed it since
                    if attempt == _ATTEMPTS - 1:
                        raise
                    self.refresh()
        newest: dict[tuple[str, str], SpanRow] = {}
        for row in rows:
            key = (row["trace_id"], row["span_id"])
            if key not in newest or newest[key]["record_id"] < row["record_id"]:
                newest[key] = row
        found: dict[str, list[SpanRow]] = defaultdict(list)
        for row in newest.values():
            found[mlflow_trace_id(row["trace_id"])].append(row)
        return found

    def _read(self, wanted: Sequence[Wanted]) -> list[SpanRow]:
        ids = {lake_trace_id(one.trace_id): one for one in wanted}
        paths = [file.path for file in self._files if _may_hold(file, ids.items())]
        if not paths:
            return []
        local = self._table.storage.local
        if local is None:
            filesystem = self._table.storage.filesystem()
            condition = [("trace_id", "in", list(ids))]
            tables = [
                pq.read_table(path, columns=_COLUMNS, filters=condition, filesystem=filesystem)
                for path in paths
            ]
            return list(pa.concat_tables(tables).to_pylist())
        found = self._cursor().sql(
            f"SELECT {', '.join(_COLUMNS)} FROM read_parquet($paths, hive_partitioning = false) "
            "WHERE trace_id IN (SELECT unnest($ids))",
            params={"paths": [str(local / path) for path in paths], "ids": list(ids)},
        )
        rows: list[SpanRow] = found.to_arrow_table().to_pylist()
        return rows

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        cursor: duckdb.DuckDBPyConnection | None = getattr(self._local, "cursor", None)
        if cursor is None:
            cursor = self._local.cursor = self._database.cursor()
        return cursor


def _may_hold(file: DataFile, wanted: Iterable[tuple[str, Wanted]]) -> bool:
    return any(
        (file.key_min is None or file.key_min <= lake_id)
        and (file.key_max is None or lake_id <= file.key_max)
        and (file.received_min is None or file.received_min <= one.received_max_ms)
        and (file.received_max is None or one.received_min_ms <= file.received_max)
        for lake_id, one in wanted
    )
