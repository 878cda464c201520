"""An archive's Delta table: found fit or made, opened, committed to.

Every commit is made on the handle that told which files the table has, and without retries: it is
the very next version, or none. So a rival, be it an engine that was asleep or somebody's OPTIMIZE,
can't get between the look and the commit, and no row is ever doubled.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError

from vedette.archive.names import TableName
from vedette.archive.schema import ARCHIVE_SCHEMA, archive_spec
from vedette.lake.files import DataFile, active_files, add_action, remove_action
from vedette.lake.rewrite import NewFile
from vedette.lake.schemas import PARTITION
from vedette.lake.storage import Storage, lake_errors, storage_options
from vedette.lake.table import NO_HOOKS, LakeTable, is_conflict
from vedette.settings import Settings

VACUUM = "delta.deletedFileRetentionDuration"
_CONFIGURATION: dict[str, str | None] = {
    "delta.logRetentionDuration": "interval 2 hours",
    VACUUM: "interval 6 hours",  # for the queries that still read what was replaced
}
# What any writer of Delta tables knows. Others would have us lose or revive rows (deletion
# vectors), or write what other readers don't find (column mapping, change data).
_KNOWN_FEATURES = {"appendOnly", "invariants"}
_REFUSED_SETTINGS = {
    "delta.appendOnly": "true",
    "delta.enableDeletionVectors": "true",
    "delta.enableChangeDataFeed": "true",
}


class ArchiveRefused(Exception):
    """The table can't be an archive; the message says why."""


class Overtaken(Exception):
    """Another commit came first: look again."""


@dataclass(frozen=True, slots=True)
class Opened:
    """One version of the table."""

    handle: DeltaTable
    files: list[DataFile]

    def cursor(self, app_id: str) -> int | None:
        """What the last commit that named ``app_id`` said of it."""
        version: int | None = self.handle.transaction_version(app_id)
        return version


class ArchiveTable:
    """The table ``name`` of the lake at ``lake``.

    Args:
        state: local directory in which it is noted which tables are ours.
        options: the object store's options; by default those in the environment.
    """

    def __init__(
        self, name: TableName, lake: str, state: Path, options: Mapping[str, str] | None = None
    ) -> None:
        options = storage_options() if options is None else options
        self.name = name
        self.spec = archive_spec(str(name))
        self.storage = Storage(name.uri(lake), options)
        self.lake_table = LakeTable(self.spec, self.storage, state, _CONFIGURATION)

    def prepare(self, vacuum_hours: int | None) -> None:
        """Have the table ready to be an archive: made, if there is none, or found fit.

        Args:
            vacuum_hours: how long replaced files stay; None leaves that as it is.

        Raises:
            ArchiveRefused: there is a table that can't be an archive, or something else.
            LakeUnavailable: try again later.
        """
        if self._is_taken():
            raise ArchiveRefused(f"at {self.storage.uri} is something that is no Delta table")
        handle = self.open().handle
        wanted = f"interval {vacuum_hours} hours"
        if vacuum_hours is not None and handle.metadata().configuration.get(VACUUM) != wanted:
            with lake_errors(f"setting {VACUUM} of {self.storage.uri}"):
                handle.alter.set_table_properties({VACUUM: wanted})

    def _is_taken(self) -> bool:
        """Whether something else than a table is there; an empty directory is nothing."""
        place = self.storage.local
        if place is None:
            if self.lake_table.open_existing() is not None:
                return False
            with lake_errors(f"looking into {self.storage.uri}"):
                return self.storage.objects.exist()
        if not place.is_dir():
            return place.exists()
        return not (place / "_delta_log").exists() and any(place.iterdir())

    def open(self) -> Opened:
        """The table's newest version; the table is made if there has never been one.

        Raises:
            ArchiveRefused: it can't be an archive, or no longer.
            LakeUnavailable: try again later.
        """
        handle = self.lake_table.open()
        if why := refusal(handle):
            raise ArchiveRefused(f"the table {self.name} can't be an archive: {why}")
        return self._opened(handle)

    def commit(
        self,
        opened: Opened,
        adds: Sequence[NewFile],
        removes: Sequence[DataFile],
        cursors: Mapping[str, int],
        *,
        data_change: bool = True,
    ) -> Opened:
        """Replace files of the version ``opened``, and move cursors, in one commit.

        Args:
            cursors: by application id.
            data_change: False if the table has the same rows after it as before.

        Returns:
            The table's newest version.

        Raises:
            Overtaken: the table has a newer version by now; nothing was changed.
            LakeUnavailable: whether it was done can be seen in the cursors.
        """
        now_ms = int(time.time() * 1000)
        added = [
            add_action(one.path, one.size, one.day, one.stats, now_ms, data_change=data_change)
            for one in adds
        ]
        removed = [remove_action(one, now_ms, data_change=data_change) for one in removes]
        properties = CommitProperties(
            max_commit_retries=0,
            app_transactions=[Transaction(app, number) for app, number in cursors.items()],
        )
        version = opened.handle.version()
        with lake_errors(f"the commit to {self.storage.uri}"):
            try:
                opened.handle.create_write_transaction(
                    [*added, *removed],
                    mode="append",
                    schema=self.spec.schema,
                    partition_by=[PARTITION],
                    commit_properties=properties,
                    post_commithook_properties=NO_HOOKS,
                )
            except (CommitFailedError, DeltaError) as error:
                if not is_conflict(error):
                    raise
                raise Overtaken(f"another commit to {self.storage.uri} came first") from error
            self.storage.sync_log(version, version + 1)
            opened.handle.update_incremental()  # the commit itself leaves it as it was
        return self._opened(opened.handle)

    def _opened(self, handle: DeltaTable) -> Opened:
        with lake_errors(f"reading the log of {self.storage.uri}"):
            return Opened(handle, active_files(handle, self.spec))


def archive_table(settings: Settings, name: TableName) -> ArchiveTable:
    """The table ``name`` of the lake that is set."""
    return ArchiveTable(name, settings.lake_uri, settings.lake_state / "archives")


def refusal(handle: DeltaTable) -> str | None:
    """Why the table can't be an archive; None if it can."""
    protocol, metadata = handle.protocol(), handle.metadata()
    features = {*(protocol.reader_features or ()), *(protocol.writer_features or ())}
    unknown = sorted(features - _KNOWN_FEATURES)
    if unknown or protocol.min_reader_version == 2 or protocol.min_writer_version in range(3, 7):
        told = ", ".join(unknown) or f"writer version {protocol.min_writer_version}"
        return f"it uses features of Delta that Vedette can't keep up ({told})"
    for key, value in _REFUSED_SETTINGS.items():
        if metadata.configuration.get(key) == value:
            return f"its property {key} is {value}"
    if list(metadata.partition_columns) != [PARTITION]:
        told = ", ".join(metadata.partition_columns) or "nothing"
        return f"it is partitioned by {told}, not by {PARTITION}"
    theirs, ours = _columns(handle.schema()), _columns(Schema.from_arrow(ARCHIVE_SCHEMA))
    differences = [f"{name} is missing" for name in ours if name not in theirs]
    differences += [f"{name} is no column of an archive" for name in theirs if name not in ours]
    differences += [
        f"{name} is {_told(theirs[name])}, not {_told(ours[name])}"
        for name in ours
        if name in theirs and theirs[name] != ours[name]
    ]
    return "; ".join(differences) or None


def _columns(schema: Schema) -> dict[str, Any]:
    """The type of each column, and whether it may be null."""
    fields = _without_metadata(orjson.loads(schema.to_json()))["fields"]
    return {field.pop("name"): field for field in fields}


def _without_metadata(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_metadata(v) for k, v in value.items() if k != "metadata"}
    if isinstance(value, list):
        return [_without_metadata(item) for item in value]
    return value


def _told(column: dict[str, Any]) -> str:
    kind = column["type"]
    name = kind if isinstance(kind, str) else f"{kind['type']} {orjson.dumps(kind).decode():.150}"
    return name if column["nullable"] else f"{name} NOT NULL"
