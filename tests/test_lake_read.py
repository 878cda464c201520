"""Spans come back from the lake: by trace, by content, whatever compaction does meanwhile."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from lake_support import (
    DAY,
    JOURNAL,
    NEXT_DAY,
    compactor,
    numbered_segment,
    open_lake,
    span,
    spans_segment,
    trace_id,
)
from vedette.intake.content import content_of_row, content_of_span
from vedette.lake import cache, read
from vedette.lake.cache import FileCache
from vedette.lake.maintenance import vacuum_files
from vedette.lake.read import SpanReader, Wanted
from vedette.lake.storage import LakeUnavailable
from vedette.lake.table import Lake, LakeTable


def reader(directory: Path) -> SpanReader:
    made = SpanReader(open_lake(directory).spans)
    made.refresh()
    return made


def wanted(number: int, at: int) -> Wanted:
    return Wanted(trace_id(number), at, at)


def filled(directory: Path, segments: int) -> LakeTable:
    table = open_lake(directory).spans
    for segment in range(1, segments + 1):
        table.append_segment(JOURNAL, segment, numbered_segment(segment))
    return table


def numbers(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[int]]:
    return {
        trace: [json.loads(row["attributes"])["number"] for row in rows]
        for trace, rows in found.items()
    }


def every_trace(segments: int) -> tuple[list[Wanted], dict[str, list[int]]]:
    """What to ask for to get all of `filled`, and what must come."""
    every = [
        wanted(number, DAY + segment * 1000)
        for segment in range(1, segments + 1)
        for number in range(segment * 10, segment * 10 + 10)
    ]
    expected = {trace_id(number): [number] * 2 for number in range(10, segments * 10 + 10)}
    return every, expected


def test_a_trace_has_all_its_spans(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    found = reader(tmp_path).read_spans([wanted(25, DAY + 2000)])
    assert list(found) == [trace_id(25)]
    assert {row["name"] for row in found[trace_id(25)]} == {"root", "tool"}


def test_what_comes_back_is_what_was_sent(tmp_path: Path) -> None:
    event = {
        "time_unix_nano": 5,
        "name": "e",
        "attributes": '{"a":1}',
        "dropped_attributes_count": 0,
    }
    link = {
        "trace_id": "ab" * 16,
        "span_id": "cd" * 8,
        "trace_state": "",
        "attributes": "{}",
        "dropped_attributes_count": 0,
        "flags": 0,
    }
    sent = span(
        1, events=[event, event], links=[link], status_code="ERROR", status_message="m", end_ns=None
    )
    open_lake(tmp_path).spans.append_segment(JOURNAL, 1, spans_segment(1, sent))
    ((row,),) = reader(tmp_path).read_spans([wanted(1, DAY)]).values()
    assert content_of_row(row) == content_of_span(sent)
    assert row["received_at"].timestamp() * 1000 == DAY


def test_a_span_sent_again_counts_in_its_newest_version(tmp_path: Path) -> None:
    table = open_lake(tmp_path).spans
    for segment, at in ((1, DAY), (2, NEXT_DAY), (3, DAY + 5)):
        sent = span(1, attributes=f'{{"number":{at}}}')
        table.append_segment(JOURNAL, segment, spans_segment(segment, sent, at=at))
    found = reader(tmp_path).read_spans([Wanted(trace_id(1), DAY, NEXT_DAY)])
    assert numbers(found) == {trace_id(1): [NEXT_DAY]}


def test_traces_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    ours = reader(tmp_path)
    assert ours.read_spans([wanted(99, DAY + 1000), Wanted("tr-'; DROP", DAY, NEXT_DAY)]) == {}
    assert list(ours.read_spans([wanted(99, DAY + 1000), wanted(12, DAY + 1000)])) == [trace_id(12)]
    assert ours.read_spans([]) == {}


def test_a_lake_without_tables_has_nothing(tmp_path: Path) -> None:
    ours = reader(tmp_path)
    assert ours.read_spans([wanted(1, DAY)]) == {}
    assert ours.matching_traces("true", []) == set()
    filled(tmp_path, 1)
    ours.refresh()
    assert ours.read_spans([wanted(10, DAY + 1000)])


def test_only_the_files_of_the_time_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, 5)
    ours = reader(tmp_path)
    read_files: list[int] = []
    real = FileCache.paths
    monkeypatch.setattr(
        FileCache, "paths", lambda self, files: read_files.append(len(files)) or real(self, files)
    )
    ours.read_spans([wanted(25, DAY + 2000)])
    ours.read_spans([Wanted(trace_id(25), DAY, DAY + 500)])
    ours.read_spans([wanted(n, DAY + n // 10 * 1000) for n in (25, 26, 41)])
    assert read_files == [1, 2]


def test_a_refresh_shows_what_was_committed_since(tmp_path: Path) -> None:
    table = filled(tmp_path, 1)
    ours = reader(tmp_path)
    for segment in range(2, 60):  # longer than a handle of the reader lives
        table.append_segment(JOURNAL, segment, numbered_segment(segment))
        ours.refresh()
    every, expected = every_trace(59)
    assert numbers(ours.read_spans(every)) == expected


def test_after_the_day_was_sorted_and_vacuumed_traces_are_still_there(tmp_path: Path) -> None:
    table = filled(tmp_path, 12)
    table.open().alter.set_table_properties(
        {"delta.deletedFileRetentionDuration": "interval 0 seconds"}
    )
    stale, unaware = reader(tmp_path), reader(tmp_path)
    every, expected = every_trace(12)
    assert compactor(table, tmp_path).sort_day("2026-01-02") is not None
    assert vacuum_files(table) == 12
    assert numbers(stale.read_spans(every)) == expected
    assert unaware.matching_traces("name = ?", ["tool"]) == set(expected)


def test_many_threads_read_while_files_are_merged_and_vacuumed(tmp_path: Path) -> None:
    table = filled(tmp_path, 8)
    table.open().alter.set_table_properties(
        {"delta.deletedFileRetentionDuration": "interval 0 seconds"}
    )
    ours = reader(tmp_path)
    every, expected = every_trace(8)
    over = threading.Event()
    wrong: list[object] = []

    def read_all() -> None:
        while not over.is_set():
            try:
                if numbers(ours.read_spans(every)) != expected:
                    wrong.append("rows missing or doubled")
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=read_all) for _ in range(3)]
    for thread in threads:
        thread.start()
    for segment in range(9, 33):
        table.append_segment(JOURNAL, segment, numbered_segment(segment))
        if segment % 8 == 0:
            assert compactor(table, tmp_path).merge_small() is not None
            vacuum_files(table)
    over.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_lake_out_of_reach_is_told(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    ours = reader(tmp_path)
    (tmp_path / "lake").rename(tmp_path / "away")
    with pytest.raises(LakeUnavailable):
        ours.read_spans([wanted(10, DAY + 1000)])
    (tmp_path / "away").rename(tmp_path / "lake")
    assert ours.read_spans([wanted(10, DAY + 1000)])


def test_a_reader_leaves_an_incomplete_commit_to_the_engine(tmp_path: Path) -> None:
    table = filled(tmp_path, 2)
    log = Path(table.storage.uri) / "_delta_log"
    (log / f"{2:020}.json").write_text('{"commitInfo":')
    before = sorted(log.iterdir())
    with pytest.raises(LakeUnavailable):
        reader(tmp_path)
    assert sorted(log.iterdir()) == before
    open_lake(tmp_path).spans.open()
    assert reader(tmp_path).read_spans([wanted(10, DAY + 1000)])


def test_traces_are_found_by_what_their_spans_contain(tmp_path: Path) -> None:
    filled(tmp_path, 4)
    ours = reader(tmp_path)
    assert ours.matching_traces("attributes LIKE ?", ['%"number":25}']) == {trace_id(25)}
    assert ours.matching_traces("attributes LIKE ? AND name = ?", ["%", "none"]) == set()
    late = ours.matching_traces("name = ?", ["root"], DAY + 4000)
    assert late == {trace_id(number) for number in range(40, 50)}


def test_a_superseded_version_is_not_found_by_its_content(tmp_path: Path) -> None:
    table = open_lake(tmp_path).spans
    for segment, text in ((1, "draft"), (2, "final")):
        sent = span(1, attributes=f'{{"text":"{text}"}}')
        table.append_segment(JOURNAL, segment, spans_segment(segment, sent, at=DAY + segment))
    ours = reader(tmp_path)
    assert ours.matching_traces("attributes LIKE ?", ["%draft%"]) == set()
    assert ours.matching_traces("attributes LIKE ?", ["%final%"]) == {trace_id(1)}


@pytest.fixture
def remote(tmp_path: Path) -> LakeTable:
    """A lake that is only reached as object stores are, over a network: no local path."""
    table = Lake((tmp_path / "lake").as_uri(), tmp_path / "state", {}).spans
    table.storage.local = None
    (tmp_path / "lake" / "main/default/mlflow_otel_spans").mkdir(parents=True)
    return table


def test_a_lake_in_an_object_store_is_read_through_local_copies(
    remote: LakeTable, tmp_path: Path
) -> None:
    for segment in range(1, 10):
        assert remote.append_segment(JOURNAL, segment, numbered_segment(segment))
    assert not remote.append_segment(JOURNAL, 9, numbered_segment(9))
    every, expected = every_trace(9)
    ours = SpanReader(remote)
    ours.refresh()
    assert numbers(ours.read_spans(every)) == expected
    assert compactor(remote, tmp_path).merge_small() is not None
    assert compactor(remote, tmp_path).sort_day("2026-01-02") is not None
    ours.refresh()
    assert numbers(ours.read_spans(every)) == expected
    assert len(list((tmp_path / "state" / "files").iterdir())) == 10


def test_a_local_copy_that_a_power_cut_has_damaged_is_fetched_again(
    remote: LakeTable, tmp_path: Path
) -> None:
    remote.append_segment(JOURNAL, 1, numbered_segment(1))
    every, expected = every_trace(1)
    for left in (None, b"", b"PAR1"):
        if left is not None:
            (copy,) = (tmp_path / "state" / "files").iterdir()
            copy.write_bytes(left)
        ours = SpanReader(remote)
        ours.refresh()
        assert numbers(ours.read_spans(every)) == expected


def test_local_copies_are_given_up_when_they_are_too_many(
    remote: LakeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "LIMIT_BYTES", 60_000)
    for segment in range(1, 6):
        remote.append_segment(JOURNAL, segment, numbered_segment(segment))
    ours = SpanReader(remote)
    ours.refresh()
    for segment in (1, 2, 3, 4, 5, 1):
        assert ours.read_spans([wanted(segment * 10, DAY + segment * 1000)])
    every, expected = every_trace(5)
    assert numbers(ours.read_spans(every)) == expected  # more than fit, at once
    ours.read_spans(every[:1])
    kept = list((tmp_path / "state" / "files").iterdir())
    assert 0 < sum(path.stat().st_size for path in kept) <= 60_000


def test_the_database_is_replaced_when_it_remembers_too_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "_CACHED_BYTES", 2 * 64 * 1024)
    filled(tmp_path, 6)
    ours = reader(tmp_path)
    for segment in range(1, 7):
        assert ours.read_spans([wanted(segment * 10, DAY + segment * 1000)])
    assert len(ours._databases._seen) < 6
