"""Rows of a Parquet file in an object store: only the row groups that may hold them are read."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vedette.lake.files import DataFile
from vedette.lake.storage import Storage

if TYPE_CHECKING:
    from vedette.lake.objects import ObjectFiles


def rows_of_keys(
    storage: Storage, file: DataFile, key: str, keys: Collection[str], columns: Sequence[str]
) -> pa.Table:
    """The rows whose ``key`` is one of ``keys``: ``columns``, with times as microseconds.

    Args:
        file: best sorted by ``key``; then that is one or two row groups.
        key: a column of text that has statistics.

    Raises:
        FileNotFoundError: the file is not in the store any more.
        OSError: the store is out of reach.
    """
    source = _Ranges(storage.objects, file)
    with pq.ParquetFile(source, pre_buffer=True) as parquet:
        metadata = parquet.metadata
        paths = [metadata.schema.column(n).path for n in range(metadata.num_columns)]
        place = paths.index(key)
        groups = [
            number
            for number in range(metadata.num_row_groups)
            if _may_hold(metadata.row_group(number).column(place).statistics, keys)
        ]
        found = parquet.read_row_groups(groups, [key, *columns])
    found = found.filter(pc.is_in(found[key], pa.array(list(keys), found[key].type)))
    return pa.table(
        [_plain(found[name]) for name in columns],
        names=[str(number) for number in range(len(columns))],  # may be the same twice
    )


def _may_hold(statistics: pq.Statistics | None, keys: Collection[str]) -> bool:
    if statistics is None or not statistics.has_min_max:
        return True
    return any(statistics.min <= key <= statistics.max for key in keys)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column


class _Ranges(io.RawIOBase):
    """A file that is read where it is, a range with each request."""

    def __init__(self, objects: ObjectFiles, file: DataFile) -> None:
        self._objects = objects
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = self._file.size - self._at
        length = left if size < 0 else min(size, left)
        if length <= 0:
            return b""
        content = self._objects.read(self._file.path, self._at, length)
        self._at += len(content)
        return content
