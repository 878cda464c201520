"""Which files a query reads: those of one version of each table, as Delta's log has them.

Never what lies in the directories: compaction leaves files there that others have replaced, and
commits that failed leave files that nothing refers to.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from deltalake import DeltaTable

from vedette.lake.cache import LIMIT_BYTES, FileCache
from vedette.lake.files import DataFile, active_files
from vedette.lake.sql.errors import QueryRefused
from vedette.lake.sql.worker import Files
from vedette.lake.storage import lake_errors
from vedette.lake.table import Lake, LakeTable

_REFRESHES_PER_HANDLE = 25  # a handle gets slower with age, see `vedette.lake.table`


class Snapshots:
    """Follows the tables; for any number of threads."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._lock = threading.Lock()
        self._followed: dict[str, _Followed] = {}

    @property
    def directories(self) -> list[Path]:
        """What the files of all tables are in."""
        return sorted({one.directory for one in self._tables() if one.directory.exists()})

    def take(self, keys: Collection[str]) -> Files:
        """The files of the newest version of the tables with these keys.

        Raises:
            LakeUnavailable: a table can't be read now.
            QueryRefused: there is more in the object store than is fetched for a query.
            FileNotFoundError: a file has been removed from the object store meanwhile: try again.
        """
        tables = [one for one in self._tables() if one.key in keys]
        with self._lock:
            versions = {one.key: one.refresh() for one in tables}
        is_local = self._lake.spans.storage.local is not None
        if not is_local:
            _require_room(versions)
        return Files(
            {one.key: one.cache.paths(versions[one.key]) for one in tables},
            is_local,
        )

    def _tables(self) -> list[_Followed]:
        """A journal segment goes to the spans first, then to the annotations, then to the ledger.
        Looked at the other way around, what an annotation or a decision speaks of is there.
        """
        return [
            self._followed.setdefault(table.spec.name, _Followed(table))
            for table in reversed(self._lake.all_tables())
        ]


def _require_room(files: Mapping[str, Sequence[DataFile]]) -> None:
    """Queries' processes have no network: they read copies, for which there is so much room."""
    size = sum(file.size for of_table in files.values() for file in of_table)
    if size > LIMIT_BYTES:
        largest = max(files, key=lambda name: sum(file.size for file in files[name]))
        raise QueryRefused(
            f"the query reads {size / 1e9:.1f} GB from the object store (most of it {largest}), "
            f"and at most {LIMIT_BYTES / 1e9:.1f} GB are fetched for one. Ask another engine that "
            "reads Delta tables where they are: docs/object-storage.md says how"
        )


class _Followed:
    def __init__(self, table: LakeTable) -> None:
        self.key = table.spec.name
        self.cache = FileCache(table.storage, table.cache)
        self.directory = table.storage.local or table.cache
        self._table = table
        self._handle: DeltaTable | None = None
        self._refreshes = 0
        self._version = -1
        self._files: list[DataFile] = []

    def refresh(self) -> list[DataFile]:
        """The files of the newest version."""
        with lake_errors(f"reading the log of {self._table.storage.uri}"):
            if self._handle is None or self._refreshes >= _REFRESHES_PER_HANDLE:
                self._handle, self._refreshes = self._table.open_existing(), 0
            else:
                self._refreshes += 1
                self._handle.update_incremental()
            if self._handle is None:
                return []
            if self._handle.version() != self._version:
                self._files = active_files(self._handle, self._table.spec)
                self._version = self._handle.version()
            return self._files
