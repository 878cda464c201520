"""Sealed segments get into the lake exactly once, whatever happens to the one who commits them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable

from lake_support import (
    DAY,
    JOURNAL,
    NEXT_DAY,
    compactor,
    numbered_segment,
    open_lake,
    span,
    spans_segment,
    stored,
)
from power_cut import PowerCut
from vedette.lake import storage
from vedette.lake.maintenance import clean_log, vacuum_files
from vedette.lake.storage import LakeUnavailable, Storage
from vedette.lake.table import LakeTable


def test_a_segment_is_committed_once(tmp_path: Path) -> None:
    table = open_lake(tmp_path).spans
    assert table.append_segment(JOURNAL, 1, numbered_segment(1))
    assert not table.append_segment(JOURNAL, 1, numbered_segment(1))
    assert not open_lake(tmp_path).spans.append_segment(JOURNAL, 1, numbered_segment(1))
    assert table.append_segment(JOURNAL, 2, numbered_segment(2))
    assert not table.append_segment(JOURNAL, 1, numbered_segment(1))
    assert stored(table).num_rows == 40


def test_journals_do_not_hide_each_others_segments(tmp_path: Path) -> None:
    table = open_lake(tmp_path).spans
    assert table.append_segment(JOURNAL, 5, numbered_segment(5))
    assert table.append_segment("another", 1, numbered_segment(6))
    assert stored(table).num_rows == 40


def test_a_segment_without_rows_is_no_commit(tmp_path: Path) -> None:
    table = open_lake(tmp_path).spans
    assert not table.append_segment(JOURNAL, 1, numbered_segment(1, traces=0))
    assert not (tmp_path / "lake").exists()


def test_cursors_are_committed_with_the_rows_and_outlive_the_log(tmp_path: Path) -> None:
    """Versions of other applications: any number of them, neither consecutive nor rising."""
    lake = open_lake(tmp_path)
    table, nothing = lake.spans, numbered_segment(1, traces=0)
    both = {"scorer/1/a": 7, "scorer/1/b": DAY}
    assert table.append_segment(JOURNAL, 1, numbered_segment(1), both)
    assert table.append_segment(JOURNAL, 2, nothing, {"scorer/1/a": NEXT_DAY})
    assert not table.append_segment(JOURNAL, 2, nothing, {"scorer/1/a": 8})
    assert table.append_segment(JOURNAL, 3, nothing, {"scorer/1/b": 0})
    for segment in range(4, 34):
        table.append_segment(JOURNAL, segment, numbered_segment(segment, traces=1))
    log = Path(table.storage.uri) / "_delta_log"
    long_ago = time.time() - 3600
    for file in log.iterdir():
        os.utime(file, (long_ago, long_ago))
    clean_log(open_lake(tmp_path).spans)
    assert not (log / f"{3:020}.json").exists()

    handle = DeltaTable(table.storage.uri)
    assert handle.transaction_version("scorer/1/a") == NEXT_DAY
    assert handle.transaction_version("scorer/1/b") == 0
    assert handle.transaction_version("scorer/1/c") is None
    assert handle.transaction_version(JOURNAL) == 33
    assert stored(table).num_rows == 20 + 60


def test_a_segment_over_midnight_is_one_commit_with_a_file_for_each_day(tmp_path: Path) -> None:
    table = open_lake(tmp_path).spans
    before, after = (spans_segment(1, span(1), at=at) for at in (NEXT_DAY - 1, NEXT_DAY))
    assert table.append_segment(
        JOURNAL, 1, type(before).from_batches([*before.to_batches(), *after.to_batches()])
    )
    handle = DeltaTable(table.storage.uri)
    assert handle.version() == 1
    assert sorted(p["arrival_date"] for p in handle.partitions()) == ["2026-01-01", "2026-01-02"]


def test_many_commits_keep_the_log_short_and_the_rows_whole(tmp_path: Path) -> None:
    """More than one checkpoint and several handles."""
    table = open_lake(tmp_path).spans
    for segment in range(1, 61):
        assert table.append_segment(JOURNAL, segment, numbered_segment(segment, traces=1))
    log = Path(table.storage.uri) / "_delta_log"
    assert len(list(log.glob("*.checkpoint.parquet"))) == 2
    assert stored(table).num_rows == 120
    assert not open_lake(tmp_path).spans.append_segment(JOURNAL, 60, numbered_segment(60))


def test_two_appenders_of_one_journal_double_nothing(tmp_path: Path) -> None:
    open_lake(tmp_path).spans.append_segment(JOURNAL, 1, numbered_segment(1))
    done: list[bool] = []

    def append() -> None:
        table = open_lake(tmp_path).spans
        for segment in range(2, 12):
            done.append(table.append_segment(JOURNAL, segment, numbered_segment(segment)))

    rivals = [threading.Thread(target=append) for _ in range(2)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join()
    rows = stored(open_lake(tmp_path).spans)
    assert sum(done) == 10
    assert rows.num_rows == len(set(rows["record_id"].to_pylist())) == 11 * 20


def test_a_lake_out_of_reach_is_told_and_works_again_without_a_restart(tmp_path: Path) -> None:
    """A disk that is gone, then back; the same handle goes on."""
    table = open_lake(tmp_path).spans
    assert table.append_segment(JOURNAL, 1, numbered_segment(1))
    lake, away = tmp_path / "lake", tmp_path / "away"
    lake.rename(away)
    lake.write_text("in the way")
    for _ in range(2):
        with pytest.raises(LakeUnavailable, match="mlflow_otel_spans"):
            table.append_segment(JOURNAL, 2, numbered_segment(2))
    lake.unlink()
    away.rename(lake)
    assert table.append_segment(JOURNAL, 2, numbered_segment(2))
    assert table.append_segment(JOURNAL, 3, numbered_segment(3))
    assert stored(table).num_rows == 60


def test_a_full_disk_is_told_and_does_not_fill_up_with_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = open_lake(tmp_path).spans
    assert table.append_segment(JOURNAL, 1, numbered_segment(1))
    real = storage.sync_file

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "sync_file", full)
    for _ in range(3):
        with pytest.raises(LakeUnavailable, match="No space left on device"):
            table.append_segment(JOURNAL, 2, numbered_segment(2))
    monkeypatch.setattr(storage, "sync_file", real)
    assert table.append_segment(JOURNAL, 2, numbered_segment(2))
    assert len(list(Path(table.storage.uri).glob("*/*.parquet"))) == 2


def test_a_lake_that_cannot_be_made_is_told_and_made_later(tmp_path: Path) -> None:
    table = open_lake(tmp_path).spans
    (tmp_path / "lake").write_text("in the way")
    with pytest.raises(LakeUnavailable):
        table.append_segment(JOURNAL, 1, numbered_segment(1))
    (tmp_path / "lake").unlink()
    assert table.append_segment(JOURNAL, 1, numbered_segment(1))


def test_a_lake_that_is_not_mounted_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    open_lake(tmp_path).spans.append_segment(JOURNAL, 1, numbered_segment(1))
    (tmp_path / "lake").rename(tmp_path / "away")
    (tmp_path / "lake").mkdir()
    with pytest.raises(LakeUnavailable, match="Is its disk mounted"):
        open_lake(tmp_path).spans.append_segment(JOURNAL, 2, numbered_segment(2))
    assert not list((tmp_path / "lake").iterdir())


def test_another_table_in_the_lakes_place_is_refused(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    for directory in (ours, other):
        open_lake(directory).spans.append_segment(JOURNAL, 1, numbered_segment(1))
    (ours / "lake").rename(ours / "away")
    (other / "lake").rename(ours / "lake")
    with pytest.raises(LakeUnavailable, match="not the table that was there before"):
        open_lake(ours).spans.append_segment(JOURNAL, 2, numbered_segment(2))


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> PowerCut:
    return PowerCut(monkeypatch)


def test_a_power_cut_at_any_moment_loses_nothing_that_is_in_the_lake(
    tmp_path: Path, power_cut: PowerCut
) -> None:
    table = open_lake(tmp_path).spans
    for segment in range(1, 5):
        assert table.append_segment(JOURNAL, segment, numbered_segment(segment))
        power_cut.strike(tmp_path)
        table = open_lake(tmp_path).spans
        assert not table.append_segment(JOURNAL, segment, numbered_segment(segment))
        assert stored(table).num_rows == segment * 20


@pytest.mark.parametrize("failing", ["update_incremental", "sync_log"])
def test_a_segment_is_not_taken_for_done_before_its_commit_is_durable(
    tmp_path: Path, power_cut: PowerCut, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """The engine fails, or is killed, between the commit and its sync."""
    table = open_lake(tmp_path).spans
    assert table.append_segment(JOURNAL, 1, numbered_segment(1))

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable if failing == "update_incremental" else Storage, failing, fail)
        with pytest.raises(LakeUnavailable):
            table.append_segment(JOURNAL, 2, numbered_segment(2))
    assert not table.append_segment(JOURNAL, 2, numbered_segment(2))
    power_cut.strike(tmp_path)
    assert stored(open_lake(tmp_path).spans).num_rows == 40


def test_nothing_stays_unsynced_beneath_a_commit(tmp_path: Path, power_cut: PowerCut) -> None:
    """Of the table's making, of compaction, of vacuum; by this process and by one before."""
    for segment in range(1, 10):
        open_lake(tmp_path).spans.append_segment(JOURNAL, segment, numbered_segment(segment))
    table = open_lake(tmp_path).spans
    log = Path(table.storage.uri) / "_delta_log"
    orphan = log.parent / "arrival_date=2026-01-01" / "part-orphan.parquet"
    orphan.write_bytes(b"of a process that died")
    os.utime(orphan, (0, 0))
    assert vacuum_files(table) == 1
    assert compactor(table, tmp_path).merge_small() is not None
    assert power_cut.unsynced(log)
    assert open_lake(tmp_path).spans.append_segment(JOURNAL, 10, numbered_segment(10))
    assert power_cut.unsynced(log) == set()


def test_a_table_that_a_power_cut_left_half_made_is_made_again(
    tmp_path: Path, power_cut: PowerCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LakeTable, "_sync", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            open_lake(tmp_path).spans.append_segment(JOURNAL, 1, numbered_segment(1))
    power_cut.strike(tmp_path)
    table = open_lake(tmp_path).spans
    assert table.append_segment(JOURNAL, 1, numbered_segment(1))
    assert stored(table).num_rows == 20


def test_several_commits_that_a_power_cut_left_incomplete_are_made_again(tmp_path: Path) -> None:
    table = open_lake(tmp_path).spans
    for segment in (1, 2, 3):
        table.append_segment(JOURNAL, segment, numbered_segment(segment))
    for version in (2, 3):
        commit = Path(table.storage.uri) / "_delta_log" / f"{version:020}.json"
        commit.write_bytes(commit.read_bytes()[:30])
    table = open_lake(tmp_path).spans
    assert table.append_segment(JOURNAL, 2, numbered_segment(2))
    assert table.append_segment(JOURNAL, 3, numbered_segment(3))
    assert stored(table).num_rows == 60


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_checkpoint_that_a_power_cut_left_incomplete_is_done_without(
    tmp_path: Path, part: float
) -> None:
    table = open_lake(tmp_path).spans
    for segment in range(1, 30):
        table.append_segment(JOURNAL, segment, numbered_segment(segment, traces=1))
    (made,) = (Path(table.storage.uri) / "_delta_log").glob("*.checkpoint.parquet")
    os.truncate(made, int(made.stat().st_size * part))
    table = open_lake(tmp_path).spans
    assert not table.append_segment(JOURNAL, 29, numbered_segment(29, traces=1))
    assert table.append_segment(JOURNAL, 30, numbered_segment(30, traces=1))
    assert stored(table).num_rows == 60


def test_a_damaged_note_of_the_table_is_written_again(tmp_path: Path) -> None:
    open_lake(tmp_path).spans.append_segment(JOURNAL, 1, numbered_segment(1))
    (note,) = (tmp_path / "state").glob("*.table")
    noted = note.read_text()
    for left in ("", noted.partition("\n")[0], "\0" * len(noted)):
        note.write_text(left)
        assert not open_lake(tmp_path).spans.append_segment(JOURNAL, 1, numbered_segment(1))
        assert note.read_text() == noted


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_commit_that_a_power_cut_left_incomplete_is_made_again(
    tmp_path: Path, part: float
) -> None:
    """delta-rs does not sync what it writes; we do, but a moment later."""
    table = open_lake(tmp_path).spans
    for segment in (1, 2, 3):
        table.append_segment(JOURNAL, segment, numbered_segment(segment))
    commit = Path(table.storage.uri) / "_delta_log" / f"{3:020}.json"
    commit.write_bytes(commit.read_bytes()[: int(commit.stat().st_size * part)])
    after = open_lake(tmp_path).spans
    assert not after.append_segment(JOURNAL, 2, numbered_segment(2))
    assert after.append_segment(JOURNAL, 3, numbered_segment(3))
    rows = stored(after)
    assert rows.num_rows == len(set(rows["record_id"].to_pylist())) == 60


def test_a_committer_killed_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    last, kills, chance = 60, 4, random.Random(7)
    command = [sys.executable, "-m", "lake_support", "commit", str(tmp_path), str(last)]
    noted = tmp_path / "noted"
    for _ in range(kills):
        begun = noted.read_text() if noted.exists() else ""
        committer = subprocess.Popen(command, cwd=Path(__file__).parent)
        while committer.poll() is None and (noted.read_text() if noted.exists() else "") == begun:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.3)
        committer.send_signal(signal.SIGKILL)
        committer.wait()
    subprocess.run(command, cwd=Path(__file__).parent, check=True)
    rows = stored(open_lake(tmp_path).spans)
    assert rows.num_rows == len(set(rows["record_id"].to_pylist())) == last * 20
    received = set(rows["received_at"].to_pylist())
    assert len(received) == last
    assert min(received).timestamp() * 1000 == DAY + 1000
