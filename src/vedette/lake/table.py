"""A Delta table that sealed journal segments are appended to, each exactly once.

One thread of one process appends to a table (`LakeTable` is not thread-safe). That is for speed:
two appenders would be rejected or skipped, never doubled.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, PostCommitHookProperties, RemoveAction

from vedette.lake.files import StatsCollector, add_action
from vedette.lake.location import DEFAULT, Location
from vedette.lake.locations import Locations
from vedette.lake.schemas import ANNOTATIONS, DECISIONS, PARTITION, SPANS, TableSpec
from vedette.lake.storage import (
    LakeUnavailable,
    Storage,
    lake_errors,
    storage_options,
    sync_file,
)
from vedette.lake.telemetry_schemas import LOGS, METRICS

logger = logging.getLogger(__name__)

# What a commit costs grows with the commits since the last checkpoint and with the handle's age:
# 13 ms of CPU at 25, 60 at 200. A checkpoint costs about two commits.
_COMMITS_PER_CHECKPOINT = 25
_COMMIT_ATTEMPTS = 8
_FIRST_RETRY_SECONDS = 0.02

# Checkpoints and log clean-up happen when we say, not in the middle of a commit.
NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)

# An append lists the log (LAKE.md, trap 4), so that is kept short. Files that compaction has
# replaced stay for the queries that still read them.
_CONFIGURATION: dict[str, str | None] = {
    "delta.logRetentionDuration": "interval 15 minutes",
    "delta.deletedFileRetentionDuration": "interval 2 hours",
}


class LocationTables:
    """The tables of one location.

    Args:
        location: where they are in the lake.
        root, state, options: the lake's, see `Lake`.
    """

    def __init__(
        self, location: Location, root: str, state: Path, options: Mapping[str, str]
    ) -> None:
        self.spans, self.annotations, self.decisions, self.logs, self.metrics = (
            LakeTable(spec.at(location), table_storage(root, location, spec, options), state)
            for spec in (SPANS, ANNOTATIONS, DECISIONS, LOGS, METRICS)
        )
        # Those that the read model is made of; then all, in the order in which they are written
        self.folded = (self.spans, self.annotations, self.decisions)
        self.tables = (*self.folded, self.logs, self.metrics)


class Lake(LocationTables):
    """The tables of the location by default, and those of all others: see `at`.

    Args:
        root: local path or URI (``s3://``, ``gs://``, ``az://``) of the lake.
        state: local directory in which it is noted which tables are ours, so that a lake that is
            not mounted is not taken for a new one, and which locations there are; also for copies
            of an object store's files.
        options: the object store's options; by default those in the environment.
    """

    def __init__(self, root: str, state: Path, options: Mapping[str, str] | None = None) -> None:
        self._root = root
        self._state = state
        self._options = storage_options() if options is None else options
        super().__init__(DEFAULT, root, state, self._options)
        self.locations = Locations(state)
        self._others: dict[Location, LocationTables] = {}

    def at(self, location: Location) -> LocationTables:
        """The tables of a location: the same objects each time."""
        if location == DEFAULT:
            return self
        if (found := self._others.get(location)) is None:
            made = LocationTables(location, self._root, self._state, self._options)
            found = self._others.setdefault(location, made)
        return found

    def places(self) -> list[LocationTables]:
        """The tables of all locations that there are now, in the order in which they are written:
        itself last."""
        return [self.at(location) for location in self.locations.places()]

    def all_tables(self) -> list[LakeTable]:
        """Those of all locations that there are now, in the order in which they are written."""
        return [table for place in self.places() for table in place.tables]

    @property
    def is_known(self) -> bool:
        """Whether it has been written from here before; that can always be told."""
        return any(self._state.glob("*.table"))

    def require_safe_commits(self) -> None:
        """Make sure that of two commits of one version of a table one fails.

        Raises:
            LakeRefused: it is not so, or the lake can't be where it is set to be.
            LakeUnavailable: it can't be told now.
        """
        storage = self.spans.storage
        with lake_errors(f"a first write to {storage.uri}"):
            storage.require_safe_commits()

    def is_used(self) -> bool:
        """Whether there are tables, or have been.

        Raises:
            LakeUnavailable: that can't be told now.
        """
        return self.is_known or any(
            table.open_existing() is not None for table in self.all_tables()
        )


def table_storage(
    root: str, location: Location, spec: TableSpec, options: Mapping[str, str]
) -> Storage:
    """Where the table that is ``spec`` in `DEFAULT` is in the lake at ``root``."""
    return Storage("/".join((root.rstrip("/"), *location.table(spec.name))), options)


class LakeTable:
    """A handle on one table, opened (and created, the first time) when first used."""

    def __init__(
        self,
        spec: TableSpec,
        storage: Storage,
        state: Path,
        configuration: Mapping[str, str | None] = _CONFIGURATION,
    ) -> None:
        self.spec = spec
        self.storage = storage
        self.cache = state / "files"
        self._identity = state / f"{spec.name}.table"
        self._configuration = configuration  # of a table that is made
        self._table: DeltaTable | None = None
        self._commits = 0
        self._synced = -1  # the log's commits up to this version are durable

    def append_segment(
        self, app_id: str, segment: int, rows: pa.Table, cursors: Mapping[str, int] | None = None
    ) -> bool:
        """Commit the rows of one sealed segment; durable when this returns.

        Args:
            app_id: the journal's id.
            segment: the segment's number; higher than those of this journal before.
            rows: all the segment's rows of this table, with the columns of the table's schema.
            cursors: versions of further applications, committed with the rows.

        Returns:
            False if there was nothing to do: no rows and no cursors, or this segment is in the
            table already.

        Raises:
            LakeUnavailable: try again later, with the same rows.
        """
        cursors = cursors or {}
        if not rows.num_rows and not cursors:
            return False
        with lake_errors(f"the commit of journal segment {segment} to {self.storage.uri}"):
            try:
                return self._append(app_id, segment, rows, cursors)
            except BaseException:
                self._table = None  # whatever happened, look at the log before the next attempt
                raise

    def open(self) -> DeltaTable:
        """`open_durable`, to write; creates the table the first time.

        Raises:
            LakeUnavailable: the table can't be read, or is not the one that was there before.
            LakeRefused: where it is, it can't be written safely.
        """
        with lake_errors(f"opening {self.storage.uri}"):
            self.storage.require_safe_commits()
            table = self.open_durable()
            if table is None:
                table = self._create()
                self._sync(table)
            self._remember(table)
            return table

    def open_durable(self) -> DeltaTable | None:
        """`open_existing`, for the process that commits: no power cut takes back what it shows.

        One before may have left the newest commits incomplete, or a checkpoint. They were not
        durable, so what is in them is still in the journal or the log, and they are put aside.
        """
        with lake_errors(f"opening {self.storage.uri}"):
            table = self._open(mend=True)
            if table is not None:
                self._sync(table)
            return table

    def open_existing(self) -> DeltaTable | None:
        """A new handle at the table's newest version, or None if there has never been a table.

        Raises:
            LakeUnavailable: the table can't be read, or is not the one that was there before.
        """
        with lake_errors(f"opening {self.storage.uri}"):
            return self._open(mend=False)

    def _open(self, *, mend: bool) -> DeltaTable | None:
        known = self._known_id()
        try:
            table = self._load(mend=mend)
        except TableNotFoundError:
            if known is None:
                return None
            place = "Is its disk mounted" if self.storage.local else "Is it the right store"
            raise LakeUnavailable(
                f"the table {self.storage.uri} was there before and is gone. {place}? To start an "
                f"empty one, remove {self._identity}."
            ) from None
        found = str(table.metadata().id)
        if known is not None and known != found:
            raise LakeUnavailable(
                f"{self.storage.uri} is not the table that was there before (id {found} "
                f"instead of {known}). If that is meant, remove {self._identity}."
            )
        return table

    def forget(self) -> None:
        """Take whatever is there from now on, or nothing, for the table."""
        self._identity.unlink(missing_ok=True)

    def _append(
        self, app_id: str, segment: int, rows: pa.Table, cursors: Mapping[str, int]
    ) -> bool:
        transactions = [Transaction(app, at) for app, at in {**cursors, app_id: segment}.items()]
        adds: list[AddAction | RemoveAction] = []
        for attempt in range(_COMMIT_ATTEMPTS):
            table = self._handle()
            # On the handle that commits: a rival's commit after this look is a conflict.
            done = table.transaction_version(app_id)
            if done is not None and done >= segment:
                return False
            adds = adds or self._write(rows)
            try:
                table.create_write_transaction(
                    adds,
                    mode="append",
                    schema=self.spec.schema,
                    partition_by=[PARTITION],
                    commit_properties=CommitProperties(app_transactions=transactions),
                    post_commithook_properties=NO_HOOKS,
                )
            except (CommitFailedError, DeltaError) as error:
                if not is_conflict(error):
                    raise
                logger.info("commit of segment %d met another: %s", segment, error)
                self._table = None
                time.sleep(_FIRST_RETRY_SECONDS * 2**attempt)
                continue
            table.update_incremental()  # the commit itself leaves the handle as it was
            self._sync(table)
            self._commits += 1
            return True
        raise LakeUnavailable(
            f"{_COMMIT_ATTEMPTS} commits to {self.storage.uri} in a row met other writers'"
        )

    def _handle(self) -> DeltaTable:
        if self._table is not None and self._commits >= _COMMITS_PER_CHECKPOINT:
            checkpoint(self._table, self.storage)
            self._table = None
        if self._table is None:
            self._table, self._commits = self.open(), 0
        return self._table

    def _write(self, rows: pa.Table) -> list[AddAction | RemoveAction]:
        """One file for each day of arrival: one, but for the segment at midnight."""
        adds: list[AddAction | RemoveAction] = []
        for day in pc.unique(rows[PARTITION]).to_pylist():
            part = rows.filter(pc.equal(rows[PARTITION], day)).drop_columns([PARTITION])
            path = f"{PARTITION}={day.isoformat()}/part-{uuid.uuid4()}.parquet"
            size = self.storage.write(path, part)
            stats = StatsCollector(self.spec)
            stats.add(part)
            now_ms = int(time.time() * 1000)
            adds.append(
                add_action(path, size, day.isoformat(), stats.stats(), now_ms, data_change=True)
            )
        return adds

    def _load(self, *, mend: bool) -> DeltaTable:
        while True:
            try:
                return DeltaTable(self.storage.uri, storage_options=self.storage.options)
            except (DeltaError, OSError):
                if not (mend and self.storage.set_aside_torn()):
                    raise

    def _sync(self, table: DeltaTable) -> None:
        """Make the commits that the handle knows durable, whoever made them."""
        self.storage.sync_log(self._synced, table.version())
        self._synced = table.version()

    def _create(self) -> DeltaTable:
        table = DeltaTable.create(
            self.storage.uri,
            schema=self.spec.schema,
            mode="ignore",
            partition_by=[PARTITION],
            configuration={
                **self._configuration,
                "delta.dataSkippingStatsColumns": ",".join(self.spec.configured_stats),
            },
            storage_options=self.storage.options,
        )
        logger.info("the table %s is new", self.storage.uri)  # said once, however often it's tried
        return table

    def _known_id(self) -> str | None:
        """The table's id as noted; None: nothing was, or a power cut has left nothing of it."""
        try:
            text = self._identity.read_text(errors="replace")
        except FileNotFoundError:
            return None
        uri, _, table_id = text.partition("\n")
        return table_id.strip() or None if uri == self.storage.uri else None

    def _remember(self, table: DeltaTable) -> None:
        if self._known_id() is None:
            self._identity.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._identity.with_suffix(f".{uuid.uuid4()}")
            temporary.write_text(f"{self.storage.uri}\n{table.metadata().id}\n")
            sync_file(temporary)
            temporary.replace(self._identity)
            sync_file(self._identity)


def checkpoint(table: DeltaTable, storage: Storage) -> None:
    """Write a checkpoint of the handle's version, durable before the log it stands for can go."""
    table.create_checkpoint()
    storage.sync_checkpoint(table.version())


def is_conflict(error: DeltaError) -> bool:
    """Whether a commit failed because of another one: reload and look again.

    "Invalid table version": the log has been cleaned beyond the version that the handle knows.
    """
    return isinstance(error, CommitFailedError) or "Invalid table version" in str(error)
