"""Small files are merged and finished days sorted; no row is ever lost or doubled by it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from lake_support import (
    DAY,
    JOURNAL,
    compactor,
    file_names,
    numbered_segment,
    open_lake,
    span,
    spans_segment,
    stored,
)
from vedette.intake.records import Record
from vedette.lake import compaction, rewrite
from vedette.lake.compaction import plan_days, plan_merges, replace_files
from vedette.lake.files import DataFile, active_files
from vedette.lake.rows import SegmentRows
from vedette.lake.table import LakeTable

TODAY, TOMORROW = "2026-01-01", "2026-01-02"


def filled(directory: Path, segments: int) -> LakeTable:
    table = open_lake(directory).spans
    for segment in range(1, segments + 1):
        table.append_segment(JOURNAL, segment, numbered_segment(segment))
    return table


def record_ids(table: LakeTable) -> Counter[str]:
    return Counter(stored(table)["record_id"].to_pylist())


def data_file(path: str, size: int, *, day: str = TODAY, received: int = 0) -> DataFile:
    return DataFile(path, size, 1, day, None, None, received, received)


def test_small_files_become_one_with_the_same_rows(tmp_path: Path) -> None:
    table = filled(tmp_path, 9)
    before = stored(table).sort_by("record_id")
    done = compactor(table, tmp_path).merge_small()
    assert done is not None
    assert (done.files_before, done.files_after) == (9, 1)
    assert stored(table).sort_by("record_id").equals(before)
    assert compactor(table, tmp_path).merge_small() is None


def test_a_merged_file_is_sorted_and_has_statistics(tmp_path: Path) -> None:
    table = filled(tmp_path, 8)
    compactor(table, tmp_path).merge_small()
    ids = stored(table)["trace_id"].to_pylist()
    assert ids == sorted(ids)
    (file,) = active_files(table.open(), table.spec)
    assert (file.key_min, file.key_max, file.rows) == (ids[0], ids[-1], 160)
    assert (file.received_min, file.received_max) == (DAY + 1000, DAY + 8000)


def test_compaction_is_no_arrival(tmp_path: Path) -> None:
    """Who follows the table by its changes must not see merged rows as new ones."""
    table = filled(tmp_path, 8)
    compactor(table, tmp_path).merge_small()
    (newest,) = DeltaTable(table.storage.uri).history(1)
    log = Path(table.storage.uri) / "_delta_log" / f"{newest['version']:020}.json"
    assert log.read_text().count('"dataChange":false') == 9
    assert '"dataChange":true' not in log.read_text()


def test_what_was_planned_before_a_rival_committed_is_rejected(tmp_path: Path) -> None:
    """Two handles on one plan: the case in which delta-rs's own optimize doubles rows."""
    table = filled(tmp_path, 8)
    before = record_ids(table)
    rival = open_lake(tmp_path).spans
    inputs = plan_merges(active_files(table.open(), table.spec))[0]
    outputs = [
        rewrite.rewrite(
            table.spec,
            table.storage,
            inputs,
            tmp_path / "scratch",
            prefix="tier",
            newest_only=False,
            stop=threading.Event(),
        )
        for _ in range(2)
    ]
    stop = threading.Event()
    assert replace_files(rival, inputs, outputs[0], stop)
    assert not replace_files(table, inputs, outputs[1], stop)
    assert record_ids(table) == before


def test_a_rival_between_the_last_look_and_the_commit_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The narrowest gap: another commits after the files were found active."""
    table = filled(tmp_path, 8)
    before = record_ids(table)
    real = compaction.active_files
    rivals = [compactor(open_lake(tmp_path).spans, tmp_path)]
    looks = 0

    def look(handle: DeltaTable, spec: object) -> list[DataFile]:
        nonlocal looks
        found = real(handle, table.spec)
        looks += 1
        if looks == 2 and rivals:  # 1: the plan, 2: the look before the commit
            assert rivals.pop().merge_small() is not None
        return found

    monkeypatch.setattr(compaction, "active_files", look)
    assert compactor(table, tmp_path).merge_small() is None
    assert not rivals
    assert record_ids(table) == before


def test_an_append_between_the_last_look_and_the_commit_only_means_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = filled(tmp_path, 8)
    real = compaction.active_files
    looks = 0

    def look(handle: DeltaTable, spec: object) -> list[DataFile]:
        nonlocal looks
        found = real(handle, table.spec)
        looks += 1
        if looks in (2, 3):
            table.append_segment(JOURNAL, 7 + looks, numbered_segment(7 + looks))
        return found

    monkeypatch.setattr(compaction, "active_files", look)
    assert compactor(table, tmp_path).merge_small() is not None
    assert looks == 4
    ids = record_ids(table)
    assert len(ids) == 200
    assert set(ids.values()) == {1}


def test_two_processes_compacting_while_a_third_appends(tmp_path: Path) -> None:
    table = filled(tmp_path, 8)
    command = [sys.executable, "-m", "lake_support", "compact", str(tmp_path), "4"]
    rivals = [
        subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    segment = 8
    while any(rival.poll() is None for rival in rivals):
        segment += 1
        table.append_segment(JOURNAL, segment, numbered_segment(segment))
    merged = [int(rival.communicate()[0]) for rival in rivals]
    assert [rival.returncode for rival in rivals] == [0, 0]
    assert sum(merged) > 0
    ids = record_ids(table)
    assert len(ids) == segment * 20
    assert set(ids.values()) == {1}


def test_a_finished_day_is_sorted_once(tmp_path: Path) -> None:
    table = filled(tmp_path, 12)
    ours = compactor(table, tmp_path)
    assert ours.sort_day(TODAY) is None
    assert ours.sort_day(TOMORROW) is not None
    assert [name.split("-")[0] for name in file_names(table)] == ["day"]
    assert ours.sort_day(TOMORROW) is None
    assert record_ids(table).total() == 240


def test_segments_that_come_after_their_day_was_sorted_are_sorted_too(tmp_path: Path) -> None:
    table = filled(tmp_path, 3)
    ours = compactor(table, tmp_path)
    ours.sort_day(TOMORROW)
    table.append_segment(JOURNAL, 4, numbered_segment(4))
    assert ours.sort_day(TOMORROW) is not None
    assert [name.split("-")[0] for name in file_names(table)] == ["day", "day"]
    assert record_ids(table).total() == 80


def test_a_finished_day_keeps_the_newest_version_of_each_span(tmp_path: Path) -> None:
    table = open_lake(tmp_path).spans
    for segment, at in ((1, DAY + 10), (2, DAY + 30), (3, DAY + 20)):
        sent = [span(1, attributes=f'{{"at":{at}}}'), span(segment + 10)]
        table.append_segment(JOURNAL, segment, spans_segment(segment, *sent, at=at))
    compactor(table, tmp_path).sort_day(TOMORROW)
    rows = stored(table).to_pylist()
    assert len(rows) == 4
    (kept,) = (row for row in rows if row["trace_id"] == span(1).trace_id.removeprefix("tr-"))
    assert kept["attributes"] == f'{{"at":{DAY + 30}}}'


def test_annotations_keep_all_versions(tmp_path: Path) -> None:
    table = open_lake(tmp_path).annotations
    for segment in range(1, 5):
        rows = SegmentRows(JOURNAL, segment)
        tag = {"trace_id": span(1).trace_id, "key": "k", "value": str(segment)}
        rows.add(Record("set_tag", DAY + segment, tag), 0)
        table.append_segment(JOURNAL, segment, rows.annotations())
    compactor(table, tmp_path).sort_day(TOMORROW)
    assert stored(table)["value"].to_pylist() == ['"1"', '"2"', '"3"', '"4"']


def test_a_large_day_is_sorted_in_little_memory_a_range_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several passes, several files, one trace larger than a pass; versions of spans among them."""
    monkeypatch.setattr(rewrite, "_PASS_BYTES", 40_000)
    monkeypatch.setattr(rewrite, "_OUTPUT_BYTES", 10_000)
    monkeypatch.setattr(rewrite, "_MARK_ROWS", 100)
    monkeypatch.setattr(rewrite, "_ROW_GROUP_ROWS", 100)
    monkeypatch.setattr(rewrite, "_FEWEST_ROW_GROUP_ROWS", 50)
    table = open_lake(tmp_path).spans
    large = [span(1, f"n{n:05}") for n in range(300)]
    for segment in range(1, 9):
        others = numbered_segment(segment, traces=20)
        table.append_segment(JOURNAL, segment, others)
    table.append_segment(JOURNAL, 9, spans_segment(9, *large, at=DAY + 9))
    table.append_segment(JOURNAL, 10, spans_segment(10, *large[:50], at=DAY + 10))
    compactor(table, tmp_path).sort_day(TOMORROW)
    files = active_files(table.open(), table.spec)
    assert len(files) > 2
    ranges = sorted((file.key_min or "", file.key_max or "") for file in files)
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))
    rows = stored(table)
    spans = Counter(zip(rows["trace_id"].to_pylist(), rows["span_id"].to_pylist(), strict=True))
    assert set(spans.values()) == {1}
    assert len(spans) == 8 * 40 + 300


def test_row_groups_stay_small_when_rows_are_large(tmp_path: Path) -> None:
    table = open_lake(tmp_path).spans
    text = "x" * 60_000
    for segment in range(1, 9):
        sent = [span(100 * segment + n, attributes=f'{{"t":"{n}{text}"}}') for n in range(60)]
        table.append_segment(JOURNAL, segment, spans_segment(segment, *sent))
    compactor(table, tmp_path).merge_small()
    (path,) = DeltaTable(table.storage.uri).file_uris()
    assert pq.ParquetFile(path).metadata.row_group(0).num_rows == 256


def test_a_rewrite_that_loses_rows_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = filled(tmp_path, 8)
    before = file_names(table)
    monkeypatch.setattr(rewrite._Source, "_bounds", lambda *_: [("5", "")])
    real = rewrite._ranges
    monkeypatch.setattr(rewrite, "_ranges", lambda *given: list(real(*given))[:1])
    with pytest.raises(rewrite.RowsLost, match="the files stay as they were"):
        compactor(table, tmp_path).merge_small()
    assert file_names(table) == before


def test_a_stop_ends_a_rewrite_without_a_trace(tmp_path: Path) -> None:
    table = filled(tmp_path, 8)
    before = file_names(table)
    stop = threading.Event()
    stop.set()
    ours = compaction.Compactor(table, tmp_path / "scratch", stop)
    with pytest.raises(rewrite.Stopped):
        ours.merge_small()
    assert file_names(table) == before
    assert not list((tmp_path / "scratch").iterdir())


def test_files_are_merged_with_their_like_when_there_are_enough() -> None:
    small = [data_file(f"s{n}", 1000, received=n) for n in range(8)]
    middle = [data_file(f"m{n}", 5 << 20, received=n) for n in range(7)]
    large = [data_file(f"l{n}", 40 << 20, received=n) for n in range(20)]
    other_day = [data_file(f"o{n}", 1000, day=TOMORROW) for n in range(7)]
    assert plan_merges([*small, *middle, *large, *other_day]) == [small]
    assert plan_merges(small[:7]) == []


def test_a_merge_takes_no_more_than_its_share() -> None:
    middle = [data_file(f"m{n}", 7 << 20, received=n) for n in range(20)]
    assert [len(run) for run in plan_merges(middle)] == [9, 9]


def test_a_day_of_many_gigabytes_is_sorted_in_slices_by_arrival() -> None:
    files = [data_file(f"f{n}", 1 << 30, received=n) for n in range(5)]
    sorted_already = data_file("arrival_date=2026-01-01/day-1.parquet", 1 << 30)
    assert plan_days([*files, sorted_already], TOMORROW) == [files[:2], files[2:4], files[4:]]
    assert plan_days(files, TODAY) == []
