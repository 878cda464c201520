"""A table's rows in the order in which they arrived, however many there are.

Files that have been compacted are sorted by trace, so a day's rows are first dealt out to files of
some megabytes, each of a stretch of time. (DuckDB's sort takes a multiple of its memory limit.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vedette.lake.cache import FileCache
from vedette.lake.files import active_files
from vedette.lake.rewrite import SCRATCH_PREFIX
from vedette.lake.storage import lake_errors
from vedette.lake.table import LakeTable

_PART_BYTES = 24 << 20  # of values that are sorted at once
_MOST_PARTS = 512  # files open at once
_SAMPLES_PER_PART = 100
_BATCH_ROWS = 4096
_ROW_NUMBER = len("-00000")  # the end of a record id: the row's number within its record


class Place(NamedTuple):
    """Where a record was journaled; places compare in the order of arrival."""

    at: int  # milliseconds since the epoch
    journal: str
    segment: int
    offset: int

    @classmethod
    def of(cls, record_id: str) -> Place:
        """The place that a row's ``record_id`` tells."""
        head, segment, offset, _ = record_id.rsplit("-", 3)
        at, _, journal = head.partition("-")
        return cls(int(at, 16), journal, int(segment, 16), int(offset, 16))


class Arrived(NamedTuple):
    """The rows that one record made."""

    place: Place
    rows: list[tuple[Any, ...]]


def count_rows(table: LakeTable) -> int:
    """How many rows the table has.

    Raises:
        LakeUnavailable: the table can't be read now.
    """
    with lake_errors(f"reading the log of {table.storage.uri}"):
        handle = table.open_existing()
        return sum(file.rows for file in active_files(handle, table.spec)) if handle else 0


def arrivals(table: LakeTable, columns: Sequence[str], scratch: Path) -> Iterator[Arrived]:
    """All rows of the table, record by record in the order of arrival; memory is bounded.

    Args:
        table: nobody may compact it meanwhile.
        columns: what to give of each row: columns, or fields of structs ("status.code"). Times are
            microseconds since the epoch.
        scratch: local directory for what doesn't fit into memory.

    Raises:
        LakeUnavailable: the table can't be read now.
    """
    with lake_errors(f"reading {table.storage.uri}"):
        handle = table.open_existing()
        files = active_files(handle, table.spec) if handle is not None else []
    scratch.mkdir(parents=True, exist_ok=True)
    for _, of_day in groupby(files, key=lambda file: file.day):
        with (
            lake_errors(f"reading {table.storage.uri}"),
            TemporaryDirectory(dir=scratch, prefix=SCRATCH_PREFIX) as name,
        ):
            paths = FileCache(table.storage, Path(name) / "inputs").paths(list(of_day))
            day = _Day(paths, ["record_id", *columns], Path(name))
            for _, of_record in groupby(day.rows(), key=lambda row: row[0][:-_ROW_NUMBER]):
                rows = list(of_record)
                yield Arrived(Place.of(rows[0][0]), [row[1:] for row in rows])


class _Day:
    """Columns of the files of one day."""

    def __init__(self, paths: Sequence[str], columns: list[str], directory: Path) -> None:
        self._paths = paths
        self._columns = columns
        self._directory = directory

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """All rows, sorted by their first column."""
        for part in self._parts():
            for batch in part.sort_by(self._columns[0]).to_batches(_BATCH_ROWS):
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def _parts(self) -> Iterator[pa.Table]:
        """The rows in parts of limited size, each with those that come after the one before."""
        bounds = self._bounds()
        if not bounds:
            yield pa.concat_tables(self._read(self._columns))
            return
        parts = [self._directory / f"{number}.arrow" for number in range(len(bounds) + 1)]
        with ExitStack() as stack:
            writers: list[Any] = []
            for table in self._read(self._columns):
                if not writers:
                    writers = [
                        stack.enter_context(pa.ipc.new_stream(str(path), table.schema))
                        for path in parts
                    ]
                ordered = table.sort_by(self._columns[0])
                places = np.searchsorted(ordered[0].to_numpy(), bounds).tolist()
                ends = zip([0, *places], [*places, len(ordered)], writers, strict=True)
                for start, end, writer in ends:
                    if end > start:
                        writer.write_table(ordered.slice(start, end - start))
        for path in parts:
            with pa.ipc.open_stream(str(path)) as reader:
                yield reader.read_all()
            path.unlink()

    def _bounds(self) -> list[str]:
        """Places in the order that split the rows into parts of about equal size."""
        total = count = 0
        for path in self._paths:
            found = pq.read_metadata(path)
            count += found.num_rows
            groups = range(found.num_row_groups)
            total += sum(found.row_group(number).total_byte_size for number in groups)
        parts = min(1 + total // _PART_BYTES, _MOST_PARTS)
        if parts == 1:
            return []
        step = max(1, count // (parts * _SAMPLES_PER_PART))
        sample: list[str] = []
        for table in self._read(self._columns[:1]):
            sample.extend(table[0][::step].to_pylist())
        sample.sort()
        return sorted({sample[len(sample) * part // parts] for part in range(1, parts)})

    def _read(self, columns: list[str]) -> Iterator[pa.Table]:
        for path in self._paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
                    values = [_values(batch, column) for column in columns]
                    yield pa.table(values, names=columns)


def _values(batch: pa.RecordBatch, column: str) -> pa.Array:
    name, _, field = column.partition(".")
    values = batch.column(name)
    if field:
        values = pc.struct_field(values, field)
    return values.cast(pa.int64()) if pa.types.is_timestamp(values.type) else values
