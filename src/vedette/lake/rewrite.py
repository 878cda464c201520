"""Rewrite data files as fewer, sorted ones (DuckDB; bounded memory); commits nothing."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from vedette.lake.annotations import DELETED_FOR_GOOD
from vedette.lake.cache import FileCache
from vedette.lake.files import DataFile, StatsCollector
from vedette.lake.schemas import PARTITION, TableSpec
from vedette.lake.storage import Storage, parquet_options

SCRATCH_PREFIX = "rewrite-"

# Row groups are small, so that a look-up decompresses little: a trace is in one or two of them.
_ROW_GROUP_ROWS = 4096
_ROW_GROUP_BYTES = 8 << 20
_FEWEST_ROW_GROUP_ROWS = 256
_OUTPUT_BYTES = 64 << 20
# Rows are sorted a range of keys at a time, each of about this size before compression.
_PASS_BYTES = 96 << 20
_ROW_OVERHEAD_BYTES = 256  # what values cost that the files hold once for many rows
_MARK_ROWS = 500_000
_MEMORY = "320MB"
_SAMPLE_ROWS = 50_000

_Bound = tuple[str, str]  # a key and a record id


class Stopped(Exception):
    """The rewrite was told to stop; nothing has changed."""


class RowsLost(Exception):
    """A rewrite did not give the rows that went in. Nothing has been committed; a defect."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that `rewrite` has put in place but that is not part of the table yet."""

    path: str
    size: int
    day: str
    stats: dict[str, Any]


def rewrite(
    spec: TableSpec,
    storage: Storage,
    inputs: Sequence[DataFile],
    scratch: Path,
    *,
    prefix: str,
    newest_only: bool,
    leaving: pa.Table | None = None,
    stop: threading.Event,
) -> list[NewFile]:
    """Write the rows of ``inputs``, all of one day, as files that are sorted by the table's key.

    The outputs' ranges of keys don't overlap. Memory is bounded whatever the size of the inputs:
    rows are sorted a range of keys at a time, which reads those row groups that hold the range.

    Args:
        spec: the table.
        storage: its files.
        inputs: the files to rewrite.
        scratch: local directory for temporary files.
        prefix: what the new files' names begin with.
        newest_only: leave out superseded versions of rows that have an identity.
        leaving: leave out the rows of these traces, see `vedette.lake.erase`.
        stop: set it to have the rewrite end within about a second.

    Raises:
        Stopped: ``stop`` was set.
        RowsLost: the outputs do not have the inputs' rows; don't commit them.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch, prefix=SCRATCH_PREFIX) as name:
        directory = Path(name)
        outputs = _Outputs(spec, storage, directory, f"{PARTITION}={inputs[0].day}/{prefix}-")
        with small_database(directory) as database:
            paths = FileCache(storage, directory / "inputs").paths(inputs)
            source = _Source(database, spec, paths)
            if newest_only and spec.identity:
                source.mark_superseded()
            if leaving is not None:
                source.mark_leaving(leaving)
            dropped = source.left_out()
            for batch in source.sorted_rows(without_left_out=dropped > 0):
                if stop.is_set():
                    raise Stopped
                outputs.write(batch, source.row_group_rows)
        written = outputs.finish()
    before, after = sum(file.rows for file in inputs), sum(f.stats["numRecords"] for f in written)
    if before != after + dropped:
        raise RowsLost(
            f"rewriting {len(inputs)} files of {storage.uri} gave {after} rows and left out "
            f"{dropped}, of {before}; the files stay as they were"
        )
    return written


class _Outputs:
    """Writes sorted rows to files of limited size."""

    def __init__(self, spec: TableSpec, storage: Storage, directory: Path, prefix: str) -> None:
        self._spec = spec
        self._storage = storage
        self._path = directory / "sorted.parquet"
        self._prefix = prefix
        self._writer: pq.ParquetWriter | None = None
        self._stats = StatsCollector(spec)
        self._written: list[NewFile] = []

    def write(self, batch: pa.RecordBatch, row_group_rows: int) -> None:
        rows = pa.Table.from_batches([batch]).cast(self._spec.file_schema)
        if self._writer is None:
            schema = self._spec.file_schema
            self._writer = pq.ParquetWriter(self._path, schema, **parquet_options(schema))
            self._stats = StatsCollector(self._spec)
        self._writer.write_table(rows, row_group_rows)
        self._stats.add(rows)
        if self._path.stat().st_size >= _OUTPUT_BYTES:
            self._close()

    def finish(self) -> list[NewFile]:
        self._close()
        return self._written

    def _close(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        path = f"{self._prefix}{uuid.uuid4()}.parquet"
        day = path.split("/", 1)[0].split("=", 1)[1]
        size = self._storage.adopt(self._path, path)
        self._written.append(NewFile(path, size, day, self._stats.stats()))


class _Source:
    """The rows of the input files, in a DuckDB database of their own."""

    def __init__(
        self, database: duckdb.DuckDBPyConnection, spec: TableSpec, paths: list[str]
    ) -> None:
        self._database = database
        self._spec = spec
        self._key = spec.sort_key
        database.execute("SET VARIABLE paths = $paths", {"paths": paths})
        self._files = "read_parquet(getvariable('paths'), hive_partitioning = false)"
        database.execute("CREATE TEMP TABLE left_out (record_id VARCHAR)")
        ((size, rows),) = database.execute(
            """
            SELECT sum(total_uncompressed_size), sum(num_values) FILTER (column_id = 0)
            FROM parquet_metadata(getvariable('paths'))
            """
        ).fetchall()
        self._rows = int(rows or 0)
        self._bytes = int(size or 0) + _ROW_OVERHEAD_BYTES * self._rows
        fitting = _ROW_GROUP_BYTES * self._rows // max(self._bytes, 1)
        self.row_group_rows = max(_FEWEST_ROW_GROUP_ROWS, min(fitting, _ROW_GROUP_ROWS))

    def mark_superseded(self) -> None:
        """Leave out rows that have a newer version."""
        keys = sorted({key for key, _ in self._bounds(1 + self._rows // _MARK_ROWS)})
        for where, bounds in _ranges([(key, "") for key in keys], self._key):
            self._database.execute(
                f"""
                INSERT INTO left_out
                SELECT record_id FROM (
                  SELECT record_id, row_number() OVER (
                    PARTITION BY {", ".join(self._spec.identity)} ORDER BY record_id DESC
                  ) AS version
                  FROM {self._files} WHERE {where}
                ) WHERE version > 1
                """,
                bounds,
            )

    def mark_leaving(self, leaving: pa.Table) -> None:
        """Leave out the rows of traces that were deleted."""
        self._database.register("leaving", leaving)
        self._database.execute(
            f"INSERT INTO left_out SELECT record_id FROM {self._files} "
            f"JOIN leaving ON {leaving_sql(self._spec)}"
        )

    def left_out(self) -> int:
        """How many rows are left out."""
        return int(self._database.execute("SELECT count(*) FROM left_out").fetchall()[0][0])

    def sorted_rows(self, *, without_left_out: bool) -> Iterator[pa.RecordBatch]:
        """All rows, sorted by key, then by age, in batches of a row group's size."""
        columns = ", ".join(self._spec.file_schema.names)
        wanted = "record_id NOT IN (SELECT record_id FROM left_out)" if without_left_out else "true"
        for where, bounds in _ranges(self._bounds(1 + self._bytes // _PASS_BYTES), self._key):
            yield from self._database.sql(
                f"""
                SELECT {columns} FROM {self._files}
                WHERE {where} AND {wanted}
                ORDER BY {self._key}, record_id
                """,
                params=bounds,
            ).to_arrow_reader(self.row_group_rows)

    def _bounds(self, parts: int) -> list[_Bound]:
        """Places in the order that split the rows into about ``parts`` ranges of equal size."""
        if parts < 2:
            return []
        sample = self._database.execute(
            f"SELECT {self._key}, record_id FROM {self._files} "
            f"USING SAMPLE reservoir({_SAMPLE_ROWS} ROWS) REPEATABLE (1)"
        ).fetchall()
        places = sorted(sample)
        return sorted({places[len(places) * part // parts] for part in range(1, parts)})


def _ranges(bounds: list[_Bound], key: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The conditions, with their parameters, that cut the order at ``bounds``.

    Each also bounds the key by itself: that is what row groups are left out by.
    """
    for low, high in zip([None, *bounds], [*bounds, None], strict=True):
        conditions = ["true"]
        parameters: dict[str, str] = {}
        if low is not None:
            conditions.append(f"{key} >= $low AND ({key} > $low OR record_id >= $low_id)")
            parameters.update(low=low[0], low_id=low[1])
        if high is not None:
            conditions.append(f"{key} <= $high AND ({key} < $high OR record_id < $high_id)")
            parameters.update(high=high[0], high_id=high[1])
        yield " AND ".join(conditions), parameters


def leaving_sql(spec: TableSpec) -> str:
    """The condition under which a row tells of a trace of the table ``leaving``, and is to leave.

    Its columns: ``leaving_trace``, an id, and ``until``, microseconds since the epoch: what arrived
    later stays. A deletion for good itself stays, too.
    """
    condition = f"{spec.trace_id_sql} = leaving_trace AND epoch_us(received_at) <= until"
    if "deleted_by" not in spec.schema.names:
        return condition
    return f"{condition} AND deleted_by IS DISTINCT FROM '{DELETED_FOR_GOOD}'"


@contextmanager
def small_database(directory: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of one thread and little memory that spills into ``directory``.

    It lives for one rewrite: closing it gives its memory back.
    """
    database = duckdb.connect(
        config={
            "threads": 1,
            "memory_limit": _MEMORY,
            "temp_directory": str(directory / "spill"),
            "enable_external_file_cache": False,
        }
    )
    try:
        database.execute("SET TimeZone = 'UTC'")
        database.execute("SET parquet_metadata_cache = true")
        yield database
    finally:
        database.close()
