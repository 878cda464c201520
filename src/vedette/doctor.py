"""Is this machine and this data directory fit to run Vedette? One function per question.

A check looks; it changes nothing but a file of its own that it removes again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import sqlalchemy
from packaging.requirements import Requirement

from vedette.checklist import check_setup
from vedette.findings import Finding
from vedette.lake.storage import LakeRefused, LakeUnavailable
from vedette.lake.table import Lake
from vedette.scoring.sandbox import missing_for_isolation
from vedette.settings import Settings
from vedette.supervisor import read_health

_SLOW_SYNC_SECONDS = 0.1  # a write is acknowledged after one
_SYNCS = 5
_LITTLE_DISK_BYTES = 1024**3


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check's finding, in the order in which one would look oneself.

    Args:
        settings: of the Vedette that runs, or will run, here.
    """
    for check in _CHECKS:
        yield from check(settings)
    yield from check_setup(settings)


def _versions(_: Settings) -> Iterator[Finding]:
    wrong = []
    for text in requires("vedette") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = "none"
        if found == "none" or not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found}, not {requirement.specifier}")
    if wrong:
        yield Finding("versions", "failed", "; ".join(wrong), "pip install --upgrade vedette")
    else:
        yield Finding("versions", "ok", f"vedette {version('vedette')}, mlflow {version('mlflow')}")


def _data_directory(settings: Settings) -> Iterator[Finding]:
    place = _existing(settings.data)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            took = min(_sync_seconds(file.fileno()) for _ in range(_SYNCS))
    except OSError as error:
        fix = "give it to the user that runs Vedette, or choose another with --data"
        yield Finding("data directory", "failed", f"{place} can't be written: {error}", fix)
        return
    told = f"{place}: a write is on disk after {took * 1000:.1f} ms"
    if took > _SLOW_SYNC_SECONDS:
        fix = "every acknowledgement waits for that: use a local disk"
        yield Finding("data directory", "warning", told, fix)
    else:
        yield Finding("data directory", "ok", told)


def _disk(settings: Settings) -> Iterator[Finding]:
    free = shutil.disk_usage(_existing(settings.data)).free
    needed = int(settings.journal_max_bytes) + _LITTLE_DISK_BYTES
    told = f"{free / 1e9:.1f} GB free"
    if free < needed:
        fix = (
            f"the journal alone may grow to {settings.journal_max_bytes / 1e9:.1f} GB: free some, "
            "or set --journal-max-bytes"
        )
        yield Finding("disk", "warning", told, fix)
    else:
        yield Finding("disk", "ok", told)


def _clock(settings: Settings) -> Iterator[Finding]:
    now, ahead = time.time(), 0.0
    for journal in (settings.server_journal, settings.engine_journal):
        try:
            ahead = max(ahead, int((journal / "clock").read_text()) / 1e6 - now)
        except (OSError, ValueError):
            continue  # nothing has been written there yet
    if ahead > 1.0:
        told = f"the clock is {ahead:.0f} s behind the last arrival: it was put back"
        fix = "arrivals are stamped later than they come until it has caught up; run an NTP client"
        yield Finding("clock", "warning", told, fix)
    else:
        yield Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def _sandbox(settings: Settings) -> Iterator[Finding]:
    missing = missing_for_isolation()
    if missing is None and settings.sandbox in (None, "container"):
        yield Finding("sandbox", "ok", "container: scorers have no network and no files of others")
        return
    told = "process: scorers have limits on time and memory, but reach the network and files"
    if settings.sandbox == "none":
        told = "none: scorers have a limit on time only, and reach the network and files"
    if missing is None:
        yield Finding("sandbox", "warning", told, "it is set so; leave --sandbox out")
    else:
        fix = f"a container is not possible here: {missing}"
        yield Finding(
            "sandbox", "failed" if settings.sandbox == "container" else "warning", told, fix
        )


def _control_database(settings: Settings) -> Iterator[Finding]:
    uri = sqlalchemy.make_url(settings.control_uri)
    told = uri.render_as_string(hide_password=True)
    if uri.get_backend_name() == "sqlite" and not Path(uri.database or "").exists():
        yield Finding("control database", "ok", f"{told}: will be made")
        return
    try:
        engine = sqlalchemy.create_engine(uri)
        with engine.connect() as connection:
            sqlalchemy.inspect(connection).get_table_names()  # SQLite reads nothing before that
        engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        yield Finding("control database", "failed", f"{told}: {reason}", "see --backend-store-uri")
    else:
        yield Finding("control database", "ok", told)


def _lake(settings: Settings) -> Iterator[Finding]:
    lake = Lake(settings.lake_uri, settings.lake_state)
    try:
        lake.require_safe_commits()
        tables = [
            table.spec.name for table in lake.all_tables() if table.open_existing() is not None
        ]
    except LakeRefused as error:
        yield Finding("lake", "failed", str(error), "see docs/object-storage.md")
    except (LakeUnavailable, OSError) as error:
        fix = "see --lake; what a power cut has left of a commit the engine puts aside by itself"
        yield Finding("lake", "failed", f"{settings.lake_uri}: {error}", fix)
    else:
        found = ", ".join(tables) or "no tables yet"
        yield Finding("lake", "ok", f"{settings.lake_uri}: {found}")


def _server(settings: Settings) -> Iterator[Finding]:
    health = read_health(settings.url, timeout=10.0)
    if health is None:
        yield Finding("server", "ok", f"none answers on {settings.url}")
        return
    yield Finding("server", "ok", f"{settings.url}: {health['status']}")
    for warning in health["warnings"]:
        yield Finding("server", "warning", warning, "see docs/operate.md")


_CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _versions,
    _data_directory,
    _disk,
    _clock,
    _sandbox,
    _control_database,
    _lake,
    _server,
)


def _existing(path: Path) -> Path:
    """The directory, or the nearest above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def _sync_seconds(file: int) -> float:
    began = time.perf_counter()
    os.write(file, b"x")
    os.fsync(file)
    return time.perf_counter() - began
