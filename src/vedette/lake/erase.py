"""Take the rows of deleted traces out of a table's files, and delete what these replace.

A file that holds such a row is written anew without it, and put in its place as a compaction would:
fenced, and no arrival of the other rows. Run it where the compaction runs, in one process; a rival
would only make work.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from vedette.lake.annotations import DELETED_FOR_GOOD
from vedette.lake.cache import FileCache
from vedette.lake.compaction import (
    DAY_PREFIX,
    MERGE_BYTES,
    MERGE_PREFIX,
    is_sorted,
    replace_files,
    runs,
)
from vedette.lake.files import DataFile, active_files
from vedette.lake.rewrite import (
    SCRATCH_PREFIX,
    Stopped,
    leaving_sql,
    rewrite,
    small_database,
)
from vedette.lake.schemas import lake_trace_id
from vedette.lake.storage import lake_errors
from vedette.lake.table import LakeTable

_WITH_NAMES = "read_parquet(getvariable('paths'), hive_partitioning = false, filename = true)"
_FILES_AT_ONCE = 500  # looked through for rows that are to leave


class Leaving(NamedTuple):
    """A deleted trace, and until when (microseconds since the epoch) its rows arrived that go."""

    trace_id: str
    until: int


def erase_rows(
    table: LakeTable, leaving: Iterable[Leaving], scratch: Path, stop: threading.Event
) -> int:
    """Take rows out of the table; returns how many. The files that had them stay for a while.

    Args:
        leaving: whose rows: no more of them may be committed from now on.
        scratch: local directory for temporary files.
        stop: set it to have this end within about a second.

    Raises:
        LakeUnavailable: try again later; what was done is done.
        Stopped: the stop event was set.
    """
    if table.spec.trace_id_sql is None or table.open_existing() is None:
        return 0
    look = _Look(table, leaving, scratch)
    rows = 0
    while found := look.holding(stop):
        for (_, has_order), members in groupby(found, key=lambda file: (file.day, is_sorted(file))):
            for run in runs(list(members), MERGE_BYTES):
                with lake_errors(f"deleting rows of {table.storage.uri}"):
                    outputs = rewrite(
                        table.spec,
                        table.storage,
                        run,
                        scratch,
                        prefix=DAY_PREFIX if has_order else MERGE_PREFIX,
                        newest_only=False,
                        leaving=look.leaving,
                        stop=stop,
                    )
                    if replace_files(table, run, outputs, stop):
                        rows += sum(file.rows for file in run)
                        rows -= sum(file.stats["numRecords"] for file in outputs)
    return rows


class _Look:
    """Finds the files that hold rows of some traces, looking into each file once."""

    def __init__(self, table: LakeTable, leaving: Iterable[Leaving], scratch: Path) -> None:
        self._table = table
        self._scratch = scratch
        self._clean: set[str] = set()
        found = sorted((lake_trace_id(one.trace_id), one.until) for one in leaving)
        self._ids = [trace_id for trace_id, _ in found]
        self._until_ms = max((until for _, until in found), default=0) // 1000
        self.leaving = pa.table(
            {
                "leaving_trace": pa.array(self._ids, pa.string()),
                "until": pa.array([until for _, until in found], pa.int64()),
            }
        )

    def holding(self, stop: threading.Event) -> list[DataFile]:
        """Files of the table's newest version that hold such rows, by day."""
        table = self._table
        with lake_errors(f"reading {table.storage.uri}"):
            files = [
                file
                for file in active_files(table.open(), table.spec)
                if file.path not in self._clean and self._may_hold(file)
            ]
            found: list[DataFile] = []
            for start in range(0, len(files), _FILES_AT_ONCE):
                if stop.is_set():
                    raise Stopped
                found += self._of(files[start : start + _FILES_AT_ONCE])
        self._clean.update(file.path for file in files)
        self._clean.difference_update(file.path for file in found)
        return sorted(found, key=lambda file: (file.day, is_sorted(file)))

    def _may_hold(self, file: DataFile) -> bool:
        """What its statistics say: files are sorted by the trace, in some tables."""
        if (file.received_min or 0) > self._until_ms:
            return False
        low, high = file.key_min, file.key_max
        if self._table.spec.sort_key not in ("trace_id", "target_id") or low is None or not high:
            return True
        place = bisect_left(self._ids, low)
        of_span = place > 0 and low.startswith(f"{self._ids[place - 1]}:")
        return of_span or (place < len(self._ids) and self._ids[place] <= high)

    def _of(self, files: Sequence[DataFile]) -> list[DataFile]:
        table = self._table
        paths = FileCache(table.storage, table.cache).paths(files)
        self._scratch.mkdir(parents=True, exist_ok=True)
        with (
            TemporaryDirectory(dir=self._scratch, prefix=SCRATCH_PREFIX) as directory,
            small_database(Path(directory)) as database,
        ):
            database.execute("SET VARIABLE paths = $paths", {"paths": paths})
            database.register("leaving", self.leaving)
            rows = database.execute(
                f"SELECT DISTINCT filename FROM {_WITH_NAMES} JOIN leaving ON "
                f"{leaving_sql(table.spec)}"
            ).fetchall()
        names = {name for (name,) in rows}
        return [file for file, path in zip(files, paths, strict=True) if path in names]


def rows_without(rows: pa.Table, erased: Collection[str]) -> pa.Table:
    """Rows that are about to be committed, without those of these traces (ids as MLflow has them).

    What deletes the traces stays.
    """
    if not erased:
        return rows
    leaves = pc.is_in(
        trace_ids(rows), value_set=pa.array([lake_trace_id(one) for one in erased], pa.string())
    )
    if "deleted_by" in rows.column_names:
        deletes = pc.fill_null(pc.equal(rows["deleted_by"], DELETED_FOR_GOOD), False)
        leaves = pc.and_not(leaves, deletes)
    return rows.filter(pc.invert(leaves))


def trace_ids(rows: pa.Table) -> pa.ChunkedArray:
    """Of each row, the id of the trace that it tells of; the same as `TableSpec.trace_id_sql`."""
    names = rows.column_names
    if "trace_id" in names:
        return rows["trace_id"]
    if "target_id" not in names:
        return pa.chunked_array([pa.nulls(len(rows), pa.string())])
    of_span = pc.replace_substring_regex(rows["target_id"], ":[^:]*$", "")
    return pc.if_else(pc.equal(rows["target_type"], "SPAN"), of_span, rows["target_id"])


def replaced_files(table: LakeTable) -> list[str]:
    """The files that were part of the table and no longer are, of which its log still knows.

    Raises:
        LakeUnavailable: try again later.
    """
    with lake_errors(f"reading the log of {table.storage.uri}"):
        found = table.open().vacuum(
            retention_hours=0, dry_run=True, enforce_retention_duration=False, full=False
        )
    return list(found)


def delete_files(table: LakeTable, paths: Iterable[str]) -> None:
    """Delete files that are not part of the table, and copies of them.

    Raises:
        LakeUnavailable: try again later.
    """
    with lake_errors(f"deleting files of {table.storage.uri}"):
        active = {file.path for file in active_files(table.open(), table.spec)}
        for path in paths:
            if path not in active:
                table.storage.remove(path)
                (table.cache / path.rsplit("/", 1)[-1]).unlink(missing_ok=True)
