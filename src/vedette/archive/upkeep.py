"""Keeps an archive's table small and quick: small files merged, log and replaced files deleted."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import chain

import pyarrow.compute as pc

from vedette.archive.files import ArchiveFiles
from vedette.archive.setting import ArchiveSetting
from vedette.archive.table import ArchiveTable
from vedette.lake.files import DataFile
from vedette.lake.maintenance import clean_log, vacuum_files
from vedette.lake.rewrite import RowsLost, Stopped

# Rows change most soon after they came: files are merged when that is over, so that a change
# makes a small file anew, not a large one.
_SETTLED_SECONDS = 900.0
# Small files of one day and one tier are merged when there are so many; of a finished day, any.
_TIER_BYTES = (256 << 10, 2 << 20)
_FAN_IN = 8
_MERGE_BYTES = 16 << 20
_RETIRE_BYTES = 64 << 20  # of files that are made anew in a commit


class Upkeep:
    """The upkeep of one table.

    Raises (every method):
        ArchiveRefused: the table can't be an archive, or no longer.
        LakeUnavailable, OSError: try again later.
        Overtaken: another commit came first; try again.
        Stopped: the stop event was set.
    """

    def __init__(self, table: ArchiveTable, files: ArchiveFiles, stop: threading.Event) -> None:
        self._table = table
        self._files = files
        self._stop = stop

    def merge(self) -> bool:
        """Merge one run of small files; returns whether there was one."""
        opened = self._table.open()
        runs = plan_merges(opened.files, time.time())
        if not runs:
            return False
        run = runs[0]
        if self._stop.is_set():
            raise Stopped
        merged = self._files.write(run[0].day, chain.from_iterable(map(self._files.rows, run)))
        before, after = sum(file.rows for file in run), merged.stats["numRecords"] if merged else 0
        if merged is None or before != after:
            raise RowsLost(
                f"merging {len(run)} files of {self._table.storage.uri} gave {after} rows instead "
                f"of {before}; the files stay as they were"
            )
        self._table.commit(opened, [merged], run, {}, data_change=False)
        return True

    def retire(self, experiment_id: str, setting: ArchiveSetting) -> bool:
        """Delete some of an experiment's rows that are too old; returns whether there are more."""
        oldest = setting.oldest_day()
        if not oldest:
            return False
        opened = self._table.open()
        removed, added, size = [], [], 0
        for file in opened.files:  # by day
            if file.day >= oldest or size > _RETIRE_BYTES:
                break
            others = sum(
                pc.sum(pc.not_equal(batch["experiment_id"], experiment_id)).as_py() or 0
                for batch in self._files.ids(file)
            )
            if others == file.rows:
                continue
            removed.append(file)
            if others:
                size += file.size
                rows = (
                    some.filter(pc.not_equal(some["experiment_id"], experiment_id))
                    for some in self._files.rows(file)
                )
                if (written := self._files.write(file.day, rows)) is not None:
                    added.append(written)
        if removed:
            self._table.commit(opened, added, removed, {})
        return size > _RETIRE_BYTES

    def clean(self) -> None:
        """Write a checkpoint; delete what of the log is older than the table keeps it."""
        self._table.open()  # not if it can't be an archive any more
        clean_log(self._table.lake_table)

    def vacuum(self) -> int:
        """Delete files that have not been part of the table for as long as it keeps them; returns
        how many."""
        self._table.open()
        return vacuum_files(self._table.lake_table)


def plan_merges(files: Sequence[DataFile], now: float) -> list[list[DataFile]]:
    """Which files to merge: neighbours in arrival, of one day and one tier.

    Args:
        files: by day, then by arrival.
        now: seconds since the epoch.
    """
    settled_ms = int((now - _SETTLED_SECONDS) * 1000)
    today = time.strftime("%Y-%m-%d", time.gmtime(now - _SETTLED_SECONDS))
    tiers: dict[tuple[str, int], list[DataFile]] = {}
    for file in files:
        if file.size < _TIER_BYTES[-1] and (file.received_max or 0) < settled_ms:
            is_over = file.day < today
            tier = next(i for i, limit in enumerate(_TIER_BYTES) if file.size < limit)
            tiers.setdefault((file.day, -1 if is_over else tier), []).append(file)
    runs = []
    for (_, tier), members in tiers.items():
        fewest = 2 if tier < 0 else _FAN_IN
        runs += [run for run in _runs(members) if len(run) >= fewest]
    return runs


def _runs(files: Sequence[DataFile]) -> list[list[DataFile]]:
    """Cut ``files``, in their order, into runs of at most `_MERGE_BYTES`."""
    runs: list[list[DataFile]] = [[]]
    size = 0
    for file in files:
        if runs[-1] and size + file.size > _MERGE_BYTES:
            runs.append([])
            size = 0
        runs[-1].append(file)
        size += file.size
    return runs
