"""The upkeep of all tables, done now and by hand: what the engine does by itself, in its time.

Safe beside a running engine, and beside another of these: a replacement of files that another one
has overtaken is given up, see `vedette.lake.compaction` and `vedette.archive.table`.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vedette.archive.files import ArchiveFiles
from vedette.archive.names import TableName
from vedette.archive.setting import ArchiveSetting, ArchiveSettings
from vedette.archive.table import ArchiveRefused, Overtaken, archive_table
from vedette.archive.upkeep import Upkeep
from vedette.lake.compaction import Compactor
from vedette.lake.files import active_files
from vedette.lake.maintenance import clean_log, first_unfinished_day, vacuum_files
from vedette.lake.storage import LakeUnavailable
from vedette.lake.table import Lake, LakeTable
from vedette.scoring.active import ControlMissing, control_engine
from vedette.settings import Settings

_GOES_ON = threading.Event()  # never set: Ctrl-C ends it at any moment without harm


@dataclass(slots=True)
class Maintained:
    """What was done to a table. Sizes are in bytes, of the files that are part of it.

    Attributes:
        deleted: files that were replaced so long ago that nobody reads them any more.
        error: what kept it from being done, or from being done wholly.
    """

    table: str
    files_before: int = 0
    files_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    deleted: int = 0
    error: str | None = None


def maintain(settings: Settings) -> Iterator[Maintained]:
    """Do the upkeep of Vedette's own tables and of the archives, one after the other.

    Raises:
        ControlUnavailable: which archives there are can't be told.
    """
    scratch = settings.scratch / "maintain"
    shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
    try:
        for table in Lake(settings.lake_uri, settings.lake_state).all_tables():
            yield _attempt(table.spec.name, table, partial(_own, table, scratch))
        for name, users in _archives(settings).items():
            archive = archive_table(settings, name)
            upkeep = Upkeep(archive, ArchiveFiles(archive, scratch), _GOES_ON)
            yield _attempt(str(name), archive.lake_table, partial(_archive, upkeep, users))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _attempt(name: str, table: LakeTable, work: Callable[[], int]) -> Maintained:
    done = Maintained(name)
    try:
        handle = table.open_existing()
        if handle is None:  # nothing has ever been written to it
            return done
        files = active_files(handle, table.spec)
        done.files_before = done.files_after = len(files)
        done.bytes_before = done.bytes_after = sum(file.size for file in files)
        done.deleted = work()
        files = active_files(table.open(), table.spec)
        done.files_after, done.bytes_after = len(files), sum(file.size for file in files)
    except (ArchiveRefused, LakeUnavailable, OSError, Overtaken) as error:
        done.error = str(error)
    return done


def _own(table: LakeTable, scratch: Path) -> int:
    compactor = Compactor(table, scratch, _GOES_ON)
    while compactor.merge_small() is not None:
        pass
    while compactor.sort_day(first_unfinished_day(time.time())) is not None:
        pass
    clean_log(table)
    return vacuum_files(table)


def _archive(upkeep: Upkeep, users: Mapping[str, ArchiveSetting]) -> int:
    for experiment_id, setting in users.items():
        while upkeep.retire(experiment_id, setting):
            pass
    while all(setting.optimize for setting in users.values()) and upkeep.merge():
        pass
    upkeep.clean()
    return upkeep.vacuum()


def _archives(settings: Settings) -> dict[TableName, dict[str, ArchiveSetting]]:
    """The archives' tables, and who has rows there: settings by experiment id."""
    control = control_engine(settings.control_uri)
    try:
        found = ArchiveSettings(control).read()
    except ControlMissing:
        return {}
    finally:
        control.dispose()
    tables: dict[TableName, dict[str, ArchiveSetting]] = {}
    for experiment_id, setting in found.items():
        if isinstance(setting, ArchiveSetting):
            tables.setdefault(setting.table, {})[experiment_id] = setting
    return tables
