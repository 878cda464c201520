"""Keeps one experiment's rows of an archive equal to the read model.

How far it has come stands in the table, as Delta's application transactions, which are committed
with the rows:

``<archive>``            every change of the read model up to this batch is in the table
``<archive>/filled``     so is every trace that was there before, up to this row of ``traces``,
``<archive>/fill-until`` which is to go up to this one

``<archive>`` names the experiment and the read model: numbers of another one mean nothing, so an
archive that was kept from another read model, or whose changes are forgotten by now, begins anew.
It then deletes the rows of what was deleted meanwhile, and replaces the others as it fills. What is
done twice, because its commit wasn't seen, gives the same rows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson
import pyarrow as pa

from vedette.archive.files import ArchiveFiles
from vedette.archive.places import Places
from vedette.archive.revision import Changes, Wanted, plan
from vedette.archive.rows import archive_rows, arrival_day
from vedette.archive.setting import ArchiveSetting
from vedette.archive.table import ArchiveTable, Opened, Overtaken
from vedette.lake.files import DataFile
from vedette.lake.rewrite import NewFile, Stopped
from vedette.lake.schemas import lake_trace_id, mlflow_trace_id
from vedette.lake.storage import LakeUnavailable
from vedette.named_sql import statements
from vedette.traces.contents import SpanContents
from vedette.traces.index import TraceIndex

logger = logging.getLogger(__name__)

_SQL = statements("vedette.archive", "changes")

_CHANGES = 5_000  # taken over at a time, about
# Traces that were there before are taken a block at a time, in the order of their ids within a day:
# finished days of spans are sorted by that, so that each part of them is read once for a block.
_BLOCK = 100_000
_FILL = 2_000  # of them in a commit
# Traces whose spans are in memory; the lake's files are read once for all of them
_SLICE = 1_000
_SLICE_CHARACTERS = 16 << 20
_SWEEP = 5_000
_ATTEMPTS = 5
_RETRY_SECONDS = 0.1
_CURSOR_SECONDS = 900.0  # after which a cursor is committed though nothing else is to be


class _Apps(NamedTuple):
    changes: str
    filled: str
    fill_until: str

    @classmethod
    def of(cls, experiment_id: str, identity: int) -> _Apps:
        name = f"vedette-archive/{experiment_id}/{identity % 2**64:016x}"
        return cls(name, f"{name}/filled", f"{name}/fill-until")


class _Head(NamedTuple):
    """The read model: which it is, its last batch of changes, the last that it has forgotten."""

    identity: int
    batch: int
    trimmed: int


@dataclass(slots=True)
class _Work:
    changes: Changes
    cursors: dict[str, int]  # as they are when all of it is done


@dataclass(slots=True)
class _Beginning:
    head: _Head
    last_trace: int
    after: str = ""  # the rows up to this id have been compared


@dataclass(slots=True)
class Progress:
    """How an archive is. Times are seconds since the epoch; None: not known yet."""

    current_at: float | None = None  # when it last had all there was to have
    behind: bool = True
    filled: int = 0
    fill_until: int | None = None
    last_commit: float | None = None
    rows: int | None = None  # of the table, other experiments' included
    files: int | None = None


class ArchiveSync:
    """One experiment's part of an archive. For one thread.

    Args:
        places: of the table's rows.
        stop: set it to have the work end within about a second, by `Stopped`.

    Attributes:
        setting: how the experiment is archived; set it anew when that changes.

    Raises (every method):
        ArchiveRefused: the table can't be an archive, or no longer.
        LakeUnavailable, OSError: try again later.
        IndexUnavailable: there is no read model.
        Stopped: as asked.
    """

    def __init__(
        self,
        experiment_id: str,
        setting: ArchiveSetting,
        table: ArchiveTable,
        files: ArchiveFiles,
        places: Places,
        index: TraceIndex,
        contents: SpanContents,
        stop: threading.Event,
    ) -> None:
        self.setting = setting
        self.progress = Progress()
        self._experiment_id = experiment_id
        self._table = table
        self._files = files
        self._places = places
        self._index = index
        self._contents = contents
        self._stop = stop
        self._beginning: _Beginning | None = None
        self._identity: int | None = None  # of the read model that what follows is about
        self._committed = -1  # the cursor in the table
        self._seen = -1  # what changed up to here is in the table or doesn't concern it
        self._work: _Work | None = None
        self._filling: _Work | None = None
        self._block: list[tuple[str, str, int]] = []  # day, trace id, row; the next one last
        self._block_end = 0

    def forget(self) -> None:
        """Go by what stands in the table from now on: after an error it may be more, or less."""
        self._identity, self._beginning = None, None
        self._work, self._filling, self._block = None, None, []

    def has_followed(self, batch: int) -> bool:
        """Whether every change of the read model up to this batch is in the table."""
        return self._identity is not None and self._seen >= batch

    def sync(self) -> bool:
        """Take over some of what has changed; returns whether there is more."""
        return self._uninterrupted(self._sync)

    def fill(self) -> bool:
        """Take over some of what was there before; returns whether there is more."""
        return self._uninterrupted(self._fill)

    def _uninterrupted(self, step: Callable[[], bool]) -> bool:
        for attempt in range(_ATTEMPTS):
            try:
                return step()
            except Overtaken as error:
                logger.info("%s; trying again", error)
                time.sleep(_RETRY_SECONDS * attempt)
        raise LakeUnavailable(
            f"{_ATTEMPTS} commits to {self._table.storage.uri} in a row met others"
        )

    def _sync(self) -> bool:
        head, now = self._head(), time.time()
        apps = _Apps.of(self._experiment_id, head.identity)
        known = self._identity == head.identity and self._seen >= head.trimmed
        if known and self._work is None:
            self._work = self._changes(head, apps)
        is_old = now - (self.progress.last_commit or 0.0) > _CURSOR_SECONDS
        commit_cursor = is_old and self._committed < self._seen
        if not known or commit_cursor or (self._work and self._work.changes):
            self.progress.behind = True
            opened = self._open()
            cursor = opened.cursor(apps.changes)
            same = self._identity == head.identity and cursor == self._committed
            if cursor is None or (self._seen if same else cursor) < head.trimmed:
                self._begin(opened, head, apps)
                return True
            if not same:
                self.forget()
                self._identity, self._committed, self._seen = head.identity, cursor, cursor
                self._note_fill(opened, apps)
            work = self._work = self._work or self._changes(head, apps)
            committed = self._apply(opened, work, even_if_empty=commit_cursor)
            if work.changes:
                return True
            if committed:
                self._committed = work.cursors[apps.changes]
        assert self._work is not None
        self._seen = self._work.cursors[apps.changes]
        self._work = None
        self.progress.behind = self._seen < head.batch
        if not self.progress.behind:
            self.progress.current_at = now
        return self.progress.behind

    def _begin(self, opened: Opened, head: _Head, apps: _Apps) -> None:
        """Delete what was deleted meanwhile, a part at a time, then set the cursors."""
        begun = self._beginning
        if begun is None or begun.head.identity != head.identity:
            (last,) = self._index.connection().execute(_SQL["last_trace"]).fetchone()
            begun = self._beginning = _Beginning(head, last)
        ids = self._places.of_experiment(self._experiment_id, begun.after, _SWEEP)
        if ids:
            work = _Work(dict.fromkeys(self._gone(ids)), {})
            self._apply(opened, work)
            if not work.changes:  # else they are found again
                begun.after = ids[-1]
            return
        cursors = {apps.changes: begun.head.batch, apps.filled: 0}
        self._commit(opened, [], [], {**cursors, apps.fill_until: begun.last_trace})
        self._beginning = None

    def _gone(self, trace_ids: Sequence[str]) -> list[str]:
        # A client may have chosen an id that looks like OpenTelemetry's
        ids = {*trace_ids, *map(mlflow_trace_id, trace_ids)}
        values = {"ids": orjson.dumps(list(ids)).decode(), "experiment": int(self._experiment_id)}
        found = self._index.connection().execute(_SQL["gone"], values)
        return [lake_trace_id(trace_id) for (trace_id,) in found]

    def _changes(self, head: _Head, apps: _Apps) -> _Work:
        """The next of what has changed that concerns the archive."""
        connection = self._index.connection()
        window = {"after": self._seen, "head": head.batch, "count": _CHANGES}
        (until,) = connection.execute(_SQL["until"], window).fetchone()
        window["until"] = head.batch if until is None else until
        changes = Changes()
        for (trace_id,) in connection.execute(_SQL["deleted"], window):
            changes[lake_trace_id(trace_id)] = None
        oldest = self.setting.oldest_day()
        for row, trace_id, experiment_id, received_ms in connection.execute(
            _SQL["changed"], window
        ):
            day = arrival_day(received_ms)
            is_ours = str(experiment_id) == self._experiment_id and day >= oldest
            # A trace that is not may have been
            changes[lake_trace_id(trace_id)] = Wanted(row, day) if is_ours else None
        places = self._places.find([one for one, wanted in changes.items() if wanted is None])
        ours = {one for one, at in places.items() if at.experiment_id == self._experiment_id}
        concerning = {
            one: wanted for one, wanted in changes.items() if wanted is not None or one in ours
        }
        return _Work(concerning, {apps.changes: window["until"]})

    def _fill(self) -> bool:
        progress, identity = self.progress, self._identity
        if identity is None or progress.filled >= (progress.fill_until or 0):
            return False
        apps = _Apps.of(self._experiment_id, identity)
        opened = self._open()
        if opened.cursor(apps.changes) is None:
            return False  # somebody has put an older version in place: `sync` begins anew
        self._note_fill(opened, apps)
        until = progress.fill_until or 0
        if progress.filled >= until:
            return False
        work = self._filling = self._filling or self._before(progress.filled, until, apps)
        done = dict(work.cursors)
        self._apply(opened, work, even_if_empty=bool(done))
        if not work.changes:
            self._filling = None
            progress.filled = done.get(apps.filled, progress.filled)
        return progress.filled < until

    def _before(self, filled: int, until: int, apps: _Apps) -> _Work:
        """The next of what was there before."""
        if not self._block:
            values = {"after": filled, "until": until, "count": _BLOCK}
            values["experiment"] = int(self._experiment_id)
            found = self._index.connection().execute(_SQL["block"], values).fetchall()
            self._block_end = found[-1][0] if len(found) == _BLOCK else until
            self._block = [
                (arrival_day(received_ms), lake_trace_id(trace_id), row)
                for row, trace_id, received_ms in found
            ]
            self._block.sort(reverse=True)
        oldest = self.setting.oldest_day()
        part = self._block[-_FILL:]
        del self._block[-_FILL:]
        changes: Changes = {
            trace_id: Wanted(row, day) if day >= oldest else None
            for day, trace_id, row in reversed(part)
        }
        return _Work(changes, {} if self._block else {apps.filled: self._block_end})

    def _apply(self, opened: Opened, work: _Work, *, even_if_empty: bool = False) -> bool:
        """Commit the next part of the work, and leave the rest in it; returns whether there was
        anything to commit."""
        places = self._places.find(work.changes)
        files = {file.path: file for file in opened.files}
        revision, later = plan(work.changes, places, files, self._experiment_id)
        if revision or even_if_empty:
            added, removed = revision.carry_out(files, self._files, self._rows)
            self._commit(opened, added, removed, {} if later else work.cursors)
        work.changes = later
        return bool(revision) or even_if_empty

    def _rows(self, rows: list[int]) -> Iterator[pa.Table]:
        """The archive's rows of these traces, as many at a time as memory bears."""
        sizes = self._contents.sizes(rows)
        part: list[int] = []
        characters = 0
        for row in rows:
            characters += sizes.get(row, 0)
            if part and (characters > _SLICE_CHARACTERS or len(part) == _SLICE):
                yield self._made(part)
                part, characters = [], sizes.get(row, 0)
            part.append(row)
        if part:
            yield self._made(part)

    def _made(self, rows: list[int]) -> pa.Table:
        if self._stop.is_set():
            raise Stopped
        return archive_rows(self._index, self._contents, rows, self._experiment_id)

    def _commit(
        self,
        opened: Opened,
        added: Sequence[NewFile],
        removed: Sequence[DataFile],
        cursors: Mapping[str, int],
    ) -> None:
        # A power cut mustn't take back from the read model what the cursors are about
        self._index.make_durable()
        now = self._table.commit(opened, added, removed, cursors)
        self.progress.last_commit = time.time()
        # At once: `_changes` asks the places which traces have a row
        self._follow(now)

    def _open(self) -> Opened:
        opened = self._table.open()
        self._follow(opened)
        return opened

    def _follow(self, opened: Opened) -> None:
        self._places.follow(opened.files, self._files.ids)
        self.progress.rows = sum(file.rows for file in opened.files)
        self.progress.files = len(opened.files)

    def _head(self) -> _Head:
        return _Head(*self._index.connection().execute(_SQL["head"]).fetchone())

    def _note_fill(self, opened: Opened, apps: _Apps) -> None:
        self.progress.filled = opened.cursor(apps.filled) or 0
        self.progress.fill_until = opened.cursor(apps.fill_until) or 0
