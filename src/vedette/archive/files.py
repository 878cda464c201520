"""Data files of an archive: read in batches, written anew without some rows and with others."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from vedette.archive.rows import FILE_SCHEMA
from vedette.archive.table import ArchiveTable
from vedette.lake.cache import FileCache
from vedette.lake.files import DataFile, StatsCollector
from vedette.lake.rewrite import SCRATCH_PREFIX, NewFile
from vedette.lake.schemas import PARTITION

_READ_ROWS = 512
# Row groups: small, so that a rewrite needs little memory and a look-up decompresses little
_ROW_GROUP_ROWS = 4096
_ROW_GROUP_BYTES = 8 << 20
# Only where values repeat: a dictionary of prompts is built for nothing.
_DICTIONARY_COLUMNS = [
    "state",
    "experiment_id",
    "trace_metadata.key_value.key",
    "tags.key_value.key",
    "tags.key_value.value",
    "spans.list.element.trace_id",
    "spans.list.element.name",
    "spans.list.element.kind",
    "spans.list.element.status.code",
    "spans.list.element.resource.attributes",
    "spans.list.element.instrumentation_scope.name",
    "assessments.list.element.assessment_name",
    "assessments.list.element.source.source_id",
    "assessments.list.element.source.source_type",
    "assessments.list.element.feedback.value",
    "assessments.list.element.metadata.key_value.key",
]


class ArchiveFiles:
    """The files of one archive.

    Args:
        scratch: local directory for what is not finished.
    """

    def __init__(self, table: ArchiveTable, scratch: Path) -> None:
        self._table = table
        self._cache = FileCache(table.storage, table.lake_table.cache)
        self._scratch = scratch

    def ids(self, file: DataFile) -> Iterator[pa.RecordBatch]:
        """The columns trace_id and experiment_id."""
        with self._open(file) as parquet:
            columns = ["trace_id", "experiment_id"]
            yield from parquet.iter_batches(_ROW_GROUP_ROWS, columns=columns)

    def rows(self, file: DataFile) -> Iterator[pa.Table]:
        """All rows, some at a time."""
        with self._open(file) as parquet:
            # One at a time: a batch over several would hold as much of each
            for group in range(parquet.num_row_groups):
                for batch in parquet.iter_batches(_READ_ROWS, row_groups=[group]):
                    rows = pa.Table.from_batches([batch])
                    yield rows if rows.schema.equals(FILE_SCHEMA) else rows.cast(FILE_SCHEMA)

    def write(self, day: str, rows: Iterable[pa.Table]) -> NewFile | None:
        """Write a file; it isn't part of the table until it is committed.

        Args:
            day: the partition: "2026-01-31".

        Returns:
            None if there are no rows.
        """
        self._scratch.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self._scratch, prefix=SCRATCH_PREFIX) as directory:
            draft = Path(directory) / "archive.parquet"
            stats = StatsCollector(self._table.spec)
            with pq.ParquetWriter(
                draft,
                FILE_SCHEMA,
                compression="zstd",
                compression_level=1,
                use_dictionary=_DICTIONARY_COLUMNS,
            ) as writer:
                for group in _row_groups(rows):
                    writer.write_table(group, len(group))
                    stats.add(group)
            found = stats.stats()
            if not found["numRecords"]:
                return None
            path = f"{PARTITION}={day}/archive-{uuid.uuid4()}.parquet"
            return NewFile(path, self._table.storage.adopt(draft, path), day, found)

    @contextmanager
    def _open(self, file: DataFile) -> Iterator[pq.ParquetFile]:
        (path,) = self._cache.paths([file])
        with pq.ParquetFile(path, pre_buffer=False) as parquet:
            yield parquet


def _row_groups(rows: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    count = size = 0
    for some in rows:
        waiting.append(some)
        count, size = count + len(some), size + some.nbytes
        if count >= _ROW_GROUP_ROWS or size >= _ROW_GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting, count, size = [], 0, 0
    if count:
        yield pa.concat_tables(waiting)
