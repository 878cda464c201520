"""Maintenance runs by itself, does not run into a wall, and leaves the tables readable."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable

from lake_support import DAY, JOURNAL, NEXT_DAY, file_names, numbered_segment, open_lake, stored
from vedette.lake.maintenance import Job, Maintenance, clean_log, vacuum_files
from vedette.lake.storage import LakeUnavailable
from vedette.lake.table import LakeTable

NOW = NEXT_DAY / 1000 + 3600


def filled(directory: Path, first: int, last: int) -> LakeTable:
    table = open_lake(directory).spans
    for segment in range(first, last + 1):
        table.append_segment(JOURNAL, segment, numbered_segment(segment, traces=2))
    return table


def drive(maintenance: Maintenance, now: float, time_of_day: float | None = None) -> float:
    """Tick as the engine does until nothing is due any more; the clocks stand still."""
    end = time.monotonic() + 30
    while any(job.due <= now for job in maintenance.jobs):
        assert time.monotonic() < end
        maintenance.tick(now, now if time_of_day is None else time_of_day)
        time.sleep(0.005)
    return now


def grown_old(directory: Path, seconds: float) -> None:
    """Have the files of a directory been written that long ago."""
    for path in directory.rglob("*"):
        age = path.stat().st_mtime - seconds
        os.utime(path, (age, age))


def test_a_tick_starts_what_is_due_and_returns_at_once(tmp_path: Path) -> None:
    table = filled(tmp_path, 1, 8)
    maintenance = Maintenance([table], tmp_path / "scratch")
    begun = time.perf_counter()
    maintenance.tick(DAY / 1000, DAY / 1000)
    assert time.perf_counter() - begun < 0.1
    drive(maintenance, DAY / 1000 + 9)
    assert [name.split("-")[0] for name in file_names(table)] == ["tier"]
    assert all(job.last_success for job in maintenance.jobs)
    maintenance.close()


def test_what_a_killed_process_left_in_the_scratch_directory_is_removed(tmp_path: Path) -> None:
    (tmp_path / "scratch" / "rewrite-abc" / "spill").mkdir(parents=True)
    Maintenance([], tmp_path / "scratch")
    assert not list((tmp_path / "scratch").iterdir())


def test_yesterday_is_sorted_a_while_after_midnight(tmp_path: Path) -> None:
    table = filled(tmp_path, 1, 3)
    maintenance = Maintenance([table], tmp_path / "scratch")
    now = drive(maintenance, NEXT_DAY / 1000 + 60)
    assert {name.split("-")[0] for name in file_names(table)} == {"part"}
    drive(maintenance, now + 1200)
    assert {name.split("-")[0] for name in file_names(table)} == {"day"}
    maintenance.close()


def test_jobs_come_again_after_their_interval_and_at_once_while_there_is_more() -> None:
    left = [True, True, False]
    maintenance = Maintenance([], Path("scratch"))
    job = Job("work", 60.0, lambda _: left.pop(0))
    maintenance.jobs.append(job)
    drive(maintenance, NOW)
    assert left == []
    assert job.due == NOW + 60


def test_jobs_come_again_though_the_clock_is_put_back() -> None:
    seen: list[float] = []
    maintenance = Maintenance([], Path("scratch"))
    maintenance.jobs.append(Job("work", 60.0, lambda now: bool(seen.append(now))))
    drive(maintenance, 1000.0, NOW)
    drive(maintenance, 1060.0, NOW - 86_400)
    assert seen == [NOW, NOW - 86_400]


def test_a_failing_job_waits_longer_each_time_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    working = False

    def run(_: float) -> bool:
        if not working:
            raise LakeUnavailable("out of reach")
        return False

    maintenance = Maintenance([], Path("scratch"))
    job = Job("work", 60.0, run)
    maintenance.jobs.append(job)
    now, waits = NOW, []
    for _ in range(9):
        drive(maintenance, now)
        waits.append(job.due - now)
        now = job.due
    assert waits == [10, 20, 40, 80, 160, 320, 640, 900, 900]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert maintenance.error == "work: out of reach"
    working = True
    drive(maintenance, now)
    assert (maintenance.error, job.due) == (None, now + 60)


def test_a_lake_that_cannot_be_written_is_told_once_and_once_that_it_can_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lake = open_lake(tmp_path)
    lake.spans.append_segment(JOURNAL, 1, numbered_segment(1, traces=2))
    (tmp_path / "lake").rename(tmp_path / "away")
    (tmp_path / "lake").write_text("a file where the lake was")
    maintenance = Maintenance([lake.spans, lake.annotations], tmp_path / "scratch")
    now = NOW
    for _ in range(3):
        now = drive(maintenance, now) + 1000
    assert maintenance.error is not None
    assert len(caplog.records) == 1, caplog.text
    (tmp_path / "lake").unlink()
    (tmp_path / "away").rename(tmp_path / "lake")
    for _ in range(2):
        now = drive(maintenance, now) + 1000
    assert maintenance.error is None
    assert [record.message for record in caplog.records[1:]] == [
        "maintenance of the lake works again"
    ]
    maintenance.close()


def test_a_lake_that_cannot_be_made_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lake = open_lake(tmp_path)
    (tmp_path / "lake").write_text("in the way")
    maintenance = Maintenance([lake.spans, lake.annotations], tmp_path / "scratch")
    for round_ in range(3):
        drive(maintenance, NOW + 1000 * round_)
    assert len(caplog.records) == 1, caplog.text
    maintenance.close()


def test_one_failing_job_does_not_hold_up_the_others(tmp_path: Path) -> None:
    def fail(_: float) -> bool:
        raise ZeroDivisionError

    table = filled(tmp_path, 1, 8)
    maintenance = Maintenance([table], tmp_path / "scratch")
    maintenance.jobs.insert(0, Job("broken", 60.0, fail))
    drive(maintenance, DAY / 1000)
    assert [name.split("-")[0] for name in file_names(table)] == ["tier"]
    maintenance.close()


def test_closing_ends_a_running_job(tmp_path: Path) -> None:
    maintenance = Maintenance([], tmp_path / "scratch")
    begun = threading.Event()

    def work(_: float) -> bool:
        begun.set()
        maintenance._stop.wait(30)
        return False

    maintenance.jobs.append(Job("long", 60.0, work))
    maintenance.tick(NOW, NOW)
    assert begun.wait(5)
    started = time.monotonic()
    maintenance.close()
    assert time.monotonic() - started < 3
    maintenance.tick(NOW + 100, NOW + 100)
    assert begun.is_set()


def test_the_log_is_cleaned_of_what_is_old_and_stands_in_a_checkpoint(tmp_path: Path) -> None:
    table = filled(tmp_path, 1, 40)
    log = Path(table.storage.uri) / "_delta_log"
    grown_old(log, 3600)
    later = filled(tmp_path, 41, 60)
    clean_log(table)
    left = sorted(path.stem for path in log.glob("*.json"))
    # From the newest old checkpoint on: with it, every version that is not old can be read.
    assert (int(left[0]), int(left[-1])) == (25, 60)
    assert DeltaTable(table.storage.uri).transaction_version(JOURNAL) == 60
    assert stored(table).num_rows == 60 * 4
    for handle in (table, later):  # one of them knows versions that are gone from the log
        assert not handle.append_segment(JOURNAL, 60, numbered_segment(60))
    assert table.append_segment(JOURNAL, 61, numbered_segment(61, traces=2))
    assert stored(table).num_rows == 61 * 4


def test_an_idle_table_can_be_cleaned_again_and_again(tmp_path: Path) -> None:
    table = filled(tmp_path, 1, 3)
    grown_old(Path(table.storage.uri) / "_delta_log", 3600)
    for _ in range(3):
        clean_log(table)
    assert stored(table).num_rows == 12
    assert table.append_segment(JOURNAL, 4, numbered_segment(4, traces=2))
    assert stored(table).num_rows == 16


def test_a_young_log_is_kept(tmp_path: Path) -> None:
    table = filled(tmp_path, 1, 30)
    clean_log(table)
    assert len(list((Path(table.storage.uri) / "_delta_log").glob("*.json"))) == 31


def test_vacuum_deletes_what_is_long_replaced_and_what_never_belonged(tmp_path: Path) -> None:
    table = filled(tmp_path, 1, 8)
    directory = Path(table.storage.uri) / "arrival_date=2026-01-01"
    (directory / "part-orphan.parquet").write_bytes(b"of a process that died")
    grown_old(directory, 4 * 3600)
    (directory / "part-young.parquet").write_bytes(b"being written right now")
    drive(Maintenance([table], tmp_path / "scratch"), DAY / 1000)
    names = {path.name.split("-")[0] for path in directory.iterdir()}
    assert not (directory / "part-orphan.parquet").exists()
    assert (directory / "part-young.parquet").exists()
    assert names == {"part", "tier"}  # replaced a moment ago: still there for who reads them
    table.open().alter.set_table_properties(
        {"delta.deletedFileRetentionDuration": "interval 0 seconds"}
    )
    assert vacuum_files(table) == 9
    assert {path.name.split("-")[0] for path in directory.iterdir()} == {"tier"}
    assert stored(table).num_rows == 8 * 4
