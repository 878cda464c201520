"""All archives of a Vedette, kept by the engine: what is due, done one thing at a time.

One archive that can't be kept is tried again, ever more seldom, and holds up none of the others.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from vedette.archive.files import ArchiveFiles
from vedette.archive.names import TableName
from vedette.archive.places import Places
from vedette.archive.setting import ArchiveSetting, ArchiveSettings
from vedette.archive.sync import ArchiveSync
from vedette.archive.table import ArchiveRefused, ArchiveTable, Overtaken, archive_table
from vedette.archive.upkeep import Upkeep
from vedette.lake.rewrite import Stopped
from vedette.lake.storage import LakeUnavailable
from vedette.lake.table import LakeTable
from vedette.scoring.active import ControlMissing, ControlUnavailable, control_engine
from vedette.settings import Settings
from vedette.traces.contents import SpanContents
from vedette.traces.index import IndexUnavailable, TraceIndex

logger = logging.getLogger(__name__)

SYNC_SECONDS = 20.0
_SETTINGS_SECONDS = 2.0
_SLACK_SECONDS = 20.0  # what was there before, and upkeep, can wait, but not for ever
_FILL_PAUSE_SECONDS = 1.0
_FILL_SHARE = 0.5  # of the time: what was there before can wait
_MERGE_SECONDS = 60.0
_CLEAN_SECONDS = 300.0
_VACUUM_SECONDS = 3600.0
_RETIRE_SECONDS = 3600.0
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 60.0
_FORESEEN = (ArchiveRefused, LakeUnavailable, Overtaken, OSError, sqlite3.OperationalError)


@dataclass(slots=True)
class _Task:
    """A thing to do again and again. Times are seconds of the monotonic clock."""

    name: str
    run: Callable[[], float]  # returns in how many seconds it is due again
    slack: float = 0.0  # seconds for which it can wait while others are due
    due: float = field(default_factory=time.monotonic)
    failures: int = 0
    error: str | None = None


@dataclass(slots=True)
class _Table:
    """A table that is an archive, of one experiment or several."""

    table: ArchiveTable
    files: ArchiveFiles
    places: Places
    upkeep: Upkeep
    optimize: bool
    tasks: list[_Task]


@dataclass(slots=True)
class _Archive:
    """One experiment's part of a table."""

    setting: ArchiveSetting
    sync: ArchiveSync
    tasks: list[_Task]


class Archival:
    """Keeps the archives of one data directory. `tick` is for one thread.

    Args:
        stop: set it to have `tick` end within about a second.

    Attributes:
        error: why it can't be told which experiments are archived; those that were go on.
    """

    def __init__(
        self,
        settings: Settings,
        index: TraceIndex,
        contents: SpanContents,
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._index = index
        self._contents = contents
        self._stop = stop
        self._control = control_engine(settings.control_uri)
        self._wanted = ArchiveSettings(self._control)
        self._wanted_at = float("-inf")
        self._is_told = False  # which experiments are archived
        self.error: str | None = None
        self._invalid: dict[str, str] = {}
        self._tables: dict[TableName, _Table] = {}
        self._archives: dict[str, _Archive] = {}

    def close(self) -> None:
        """Close what is open."""
        self._control.dispose()
        for table in self._tables.values():
            table.places.close()

    def tick(self) -> bool:
        """Do the next thing that is due; returns whether there was one.

        Raises:
            IndexUnavailable: there is no read model.
        """
        now = time.monotonic()
        if now - self._wanted_at >= _SETTINGS_SECONDS:
            self._wanted_at = now
            try:
                self._adopt(self._wanted.read())
                self.error, self._is_told = None, True
            except ControlMissing:
                self._is_told = True
                return False
            except ControlUnavailable as error:
                self.error = str(error)
        tasks = [task for one in self._archives.values() for task in one.tasks]
        tasks += [task for name, one in self._tables.items() for task in self._tasks(name, one)]
        due = [task for task in tasks if task.due <= now]
        if not due:
            return False
        self._run(min(due, key=lambda task: task.due + task.slack))
        return True

    def _tasks(self, name: TableName, table: _Table) -> list[_Task]:
        """Upkeep, unless the table can't be used: that is told once, and nothing is touched."""
        users = [one for one in self._archives.values() if one.setting.table == name]
        return [] if any(one.tasks[0].error for one in users) else table.tasks

    def has_followed(self, batch: int) -> bool:
        """Whether the archives have all changes of the read model up to this batch. Call it from
        anywhere."""
        archives = list(self._archives.values())
        return self._is_told and all(one.sync.has_followed(batch) for one in archives)

    def tables(self) -> list[LakeTable]:
        """The tables that are archives. Call it from anywhere."""
        return [one.table.lake_table for one in list(self._tables.values())]

    def state(self) -> dict[str, dict[str, Any]]:
        """How the archives are, by experiment id; times in seconds. Call it from anywhere."""
        now = time.time()
        states: dict[str, dict[str, Any]] = {}
        for experiment_id, archive in list(self._archives.items()):
            progress = archive.sync.progress
            table = self._tables.get(archive.setting.table)
            tasks = [*archive.tasks, *(table.tasks if table else ())]
            errors = [task.error for task in tasks if task.error]
            current_at = progress.current_at
            lag = now - current_at if current_at is not None else None
            states[experiment_id] = {
                **asdict(progress),
                "delta_table_fullname": str(archive.setting.table),
                "lag_seconds": lag if progress.behind else 0.0,
                "error": errors[0] if errors else None,
            }
        for experiment_id, why in list(self._invalid.items()):
            states[experiment_id] = {"error": why}
        return states

    def _run(self, task: _Task) -> None:
        try:
            delay = task.run()
        except IndexUnavailable:
            raise
        except Stopped:
            return
        except Exception as error:
            # A defect, too, must not end the others
            delay = min(
                _FIRST_RETRY_SECONDS * 2.0 ** min(task.failures, 16), _LONGEST_RETRY_SECONDS
            )
            task.failures += 1
            if task.error is None:
                foreseen = isinstance(error, _FORESEEN)
                logger.error(
                    "%s: %s; will try again",
                    task.name,
                    error,
                    exc_info=None if foreseen else error,
                )
            task.error = str(error) or type(error).__name__
        else:
            if task.error is not None:
                logger.warning("%s: works again", task.name)
            task.failures, task.error = 0, None
        task.due = time.monotonic() + delay

    def _adopt(self, wanted: dict[str, ArchiveSetting | str]) -> None:
        """Take over what was enabled, disabled or changed."""
        self._invalid = {one: why for one, why in wanted.items() if isinstance(why, str)}
        settings = {one: how for one, how in wanted.items() if isinstance(how, ArchiveSetting)}
        for experiment_id, archive in list(self._archives.items()):
            setting = settings.get(experiment_id)
            if setting is None or setting.table != archive.setting.table:
                del self._archives[experiment_id]
        used = {setting.table for setting in settings.values()}
        for name in self._tables.keys() - used:
            self._tables.pop(name).places.remove()
        for experiment_id, setting in settings.items():
            table = self._tables.get(setting.table) or self._take_up(setting.table)
            if experiment_id not in self._archives:
                self._archives[experiment_id] = self._begin(experiment_id, setting, table)
            archive = self._archives[experiment_id]
            archive.setting = setting
            archive.sync.setting = setting
        for name, table in self._tables.items():
            table.optimize = all(one.optimize for one in settings.values() if one.table == name)

    def _take_up(self, name: TableName) -> _Table:
        table = archive_table(self._settings, name)
        files = ArchiveFiles(table, self._settings.scratch)
        places = Places(self._settings.archive_state / f"{name}.db")
        upkeep = Upkeep(table, files, self._stop)
        kept = _Table(table, files, places, upkeep, True, [])
        kept.tasks = [
            _Task(
                f"merging small files of the archive {name}",
                lambda: 0.0 if kept.optimize and upkeep.merge() else _MERGE_SECONDS,
                _SLACK_SECONDS,
            ),
            _Task(
                f"cleaning the log of the archive {name}",
                partial(_every, _CLEAN_SECONDS, upkeep.clean),
                _SLACK_SECONDS,
            ),
            _Task(
                f"vacuuming the archive {name}",
                partial(_every, _VACUUM_SECONDS, upkeep.vacuum, places.tidy),
                _SLACK_SECONDS,
            ),
        ]
        self._tables[name] = kept
        return kept

    def _begin(self, experiment_id: str, setting: ArchiveSetting, table: _Table) -> _Archive:
        sync = ArchiveSync(
            experiment_id,
            setting,
            table.table,
            table.files,
            table.places,
            self._index,
            self._contents,
            self._stop,
        )

        def in_turn(step: Callable[[], bool], pause: float, share: float) -> float:
            began = time.monotonic()
            try:
                more = step()
            except Exception as error:
                sync.forget()
                if _is_damage(error):
                    table.places.renew()
                    for one in self._archives.values():  # who shares them looks anew, too
                        one.sync.forget()
                raise
            took = time.monotonic() - began
            return took / share - took if more else pause

        def retire() -> bool:
            return table.upkeep.retire(experiment_id, sync.setting)

        what = f"the archive {setting.table} of experiment {experiment_id}"
        tasks = [
            _Task(what, partial(in_turn, sync.sync, SYNC_SECONDS, 1.0)),
            _Task(
                f"filling {what}",
                partial(in_turn, sync.fill, _FILL_PAUSE_SECONDS, _FILL_SHARE),
                _SLACK_SECONDS,
            ),
            _Task(
                f"deleting old rows of {what}",
                partial(in_turn, retire, _RETIRE_SECONDS, _FILL_SHARE),
                _SLACK_SECONDS,
            ),
        ]
        logger.info("keeping %s", what)
        return _Archive(setting, sync, tasks)


def _is_damage(error: Exception) -> bool:
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, sqlite3.OperationalError
    )


def _every(seconds: float, *actions: Callable[[], object]) -> float:
    for action in actions:
        action()
    return seconds
