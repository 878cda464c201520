"""Merge small files, and sort each finished day, without ever losing or doubling a row.

delta-rs's own ``optimize`` must not be used: run twice from stale handles it doubles rows, and it
ignores transactions. Its conflict check does not save us either: two commits that remove the same
files with ``dataChange`` false both succeed. So a replacement is committed like this:

1. New files are written, with the rows of the files that they are to replace. That can take
   minutes; data files never change, so nothing that happens meanwhile makes them wrong.
2. On a new handle it is verified that every file to be replaced is still part of the table. If one
   is not, a rival has replaced it: ours are forgotten (vacuum deletes them).
3. On that same handle, adds and removes are committed as one version, with
   ``Transaction("maintenance", n)`` and no retries: it is written as the very next version after
   the one that was verified, or not at all. If anything else was committed meanwhile, start at 2.

A rival, even one that was asleep for hours, can't get between 2 and 3. Files whose commit has been
tried are never deleted here: an error from a commit does not prove that it failed. Nor is it synced
here: whoever opens the table next does that, vacuum too, and until then nothing was deleted.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deltalake import CommitProperties, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError

from vedette.lake.files import DataFile, active_files, add_action, remove_action
from vedette.lake.rewrite import NewFile, Stopped, rewrite
from vedette.lake.schemas import PARTITION
from vedette.lake.storage import LakeUnavailable, lake_errors
from vedette.lake.table import NO_HOOKS, LakeTable, is_conflict

logger = logging.getLogger(__name__)

MAINTENANCE_APP = "maintenance"

# Files of one tier are merged when there are _FAN_IN of them, into one of a higher tier: a row is
# rewritten at most once a tier, and once more when its day is over.
_TIER_BYTES = (64 << 10, 512 << 10, 4 << 20, 32 << 20)
_FAN_IN = 8
MERGE_BYTES = 64 << 20
MERGE_PREFIX = "tier"

# A finished day is sorted in slices of this size, by arrival. One slice, for most.
_SLICE_BYTES = 2 << 30
DAY_PREFIX = "day"

# An appender that commits without a pause wins most races; the work of minutes is not given up
# for that.
_COMMIT_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Compaction:
    """What one replacement did."""

    files_before: int
    files_after: int
    bytes_before: int


class Compactor:
    """Compacts one table, a piece at a time.

    Run it in one process (the engine's). A rival would do no harm, but its work would be wasted.
    """

    def __init__(self, table: LakeTable, scratch: Path, stop: threading.Event) -> None:
        self._table = table
        self._scratch = scratch
        self._stop = stop

    def merge_small(self) -> Compaction | None:
        """Merge one run of small files, if enough have gathered; None: nothing to do.

        Raises:
            LakeUnavailable: try again later.
            Stopped: the stop event was set.
        """
        found = plan_merges(self._files())
        return self._replace(found[0], MERGE_PREFIX, newest_only=False) if found else None

    def sort_day(self, today: str) -> Compaction | None:
        """Sort (a slice of) one day before ``today`` ("2026-01-31"), if one is not sorted yet.

        Superseded versions of a span go, where both are in the same slice. None: nothing to do.

        Raises:
            LakeUnavailable: try again later.
            Stopped: the stop event was set.
        """
        found = plan_days(self._files(), today)
        return self._replace(found[0], DAY_PREFIX, newest_only=True) if found else None

    def _files(self) -> list[DataFile]:
        with lake_errors(f"reading the log of {self._table.storage.uri}"):
            return active_files(self._table.open(), self._table.spec)

    def _replace(
        self, inputs: Sequence[DataFile], prefix: str, *, newest_only: bool
    ) -> Compaction | None:
        table = self._table
        with lake_errors(f"compacting {table.storage.uri}"):
            outputs = rewrite(
                table.spec,
                table.storage,
                inputs,
                self._scratch,
                prefix=prefix,
                newest_only=newest_only,
                stop=self._stop,
            )
            if not replace_files(table, inputs, outputs, self._stop):
                return None
        return Compaction(len(inputs), len(outputs), sum(file.size for file in inputs))


def replace_files(
    table: LakeTable,
    inputs: Sequence[DataFile],
    outputs: Sequence[NewFile],
    stop: threading.Event,
) -> bool:
    """Put ``outputs`` in the place of ``inputs``, in one commit that is no arrival of their rows.

    Args:
        stop: set it to have this end within about a second.

    Returns:
        False if some of ``inputs`` are no longer part of the table; nothing has changed then.

    Raises:
        LakeUnavailable: try again later.
        Stopped: the stop event was set.
    """
    storage, spec = table.storage, table.spec
    give_up = time.monotonic() + _COMMIT_SECONDS
    while time.monotonic() < give_up:
        handle = table.open()
        active = {file.path for file in active_files(handle, spec)}
        if outputs and active.issuperset(file.path for file in outputs):
            return True  # our own commit, of which the answer was lost
        if not active.issuperset(file.path for file in inputs):
            logger.warning("%s: another process has replaced the same files", storage.uri)
            return False
        now_ms = int(time.time() * 1000)
        version = (handle.transaction_version(MAINTENANCE_APP) or 0) + 1
        adds = [
            add_action(file.path, file.size, file.day, file.stats, now_ms, data_change=False)
            for file in outputs
        ]
        try:
            handle.create_write_transaction(
                [*adds, *(remove_action(file, now_ms) for file in inputs)],
                mode="append",
                schema=spec.schema,
                partition_by=[PARTITION],
                commit_properties=CommitProperties(
                    max_commit_retries=0,
                    app_transactions=[Transaction(MAINTENANCE_APP, version)],
                ),
                post_commithook_properties=NO_HOOKS,
            )
        except (CommitFailedError, DeltaError) as error:
            if not is_conflict(error):
                raise
            if stop.wait(_LONGEST_PAUSE_SECONDS * random.random()):
                raise Stopped from None
            continue
        return True
    raise LakeUnavailable(
        f"for {_COMMIT_SECONDS:.0f} s, every replacement of files in {storage.uri} met another"
        " commit"
    )


def plan_merges(files: Sequence[DataFile]) -> list[list[DataFile]]:
    """Which files to merge: neighbours in arrival, of one day and one tier."""
    tiers: dict[tuple[str, int], list[DataFile]] = {}
    for file in files:
        if not is_sorted(file) and file.size < _TIER_BYTES[-1]:
            tier = next(i for i, limit in enumerate(_TIER_BYTES) if file.size < limit)
            tiers.setdefault((file.day, tier), []).append(file)
    return [
        run
        for members in tiers.values()
        for run in runs(members, MERGE_BYTES)
        if len(run) >= _FAN_IN
    ]


def plan_days(files: Sequence[DataFile], today: str) -> list[list[DataFile]]:
    """Which files to sort: what is not sorted yet of the days before ``today``."""
    days: dict[str, list[DataFile]] = {}
    for file in files:
        if file.day < today and not is_sorted(file):
            days.setdefault(file.day, []).append(file)
    return [run for members in days.values() for run in runs(members, _SLICE_BYTES)]


def runs(files: Sequence[DataFile], limit: int) -> list[list[DataFile]]:
    """Cut ``files``, in their order, into runs of at most ``limit`` bytes."""
    found: list[list[DataFile]] = [[]]
    size = 0
    for file in files:
        if found[-1] and size + file.size > limit:
            found.append([])
            size = 0
        found[-1].append(file)
        size += file.size
    return [run for run in found if run]


def is_sorted(file: DataFile) -> bool:
    return file.path.rsplit("/", 1)[-1].startswith(f"{DAY_PREFIX}-")
