"""Journal to lake and read model: exact, whatever stops half way, and with the lake away."""

from __future__ import annotations

import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from test_fold import spans_record
from vedette import pipeline
from vedette.intake.journal import JournalReader, JournalWriter
from vedette.intake.records import Record
from vedette.intake.segments import segment_files
from vedette.intake.spans import DecodedSpan
from vedette.lake.span_readers import SpanReaders
from vedette.lake.storage import LakeUnavailable
from vedette.lake.table import Lake
from vedette.pipeline import Tail
from vedette.traces.contents import SpanContents
from vedette.traces.fold import Decoded
from vedette.traces.index import TraceIndex


class Plant:
    """A data directory with its parts; `tail` follows the journal."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.writer = JournalWriter(data / "journal", segment_seconds=0.05)
        self.open()

    @staticmethod
    def follow(data: Path) -> Tail:
        """What the engine of another process has."""
        lake = Lake(str(data / "lake"), data / "lake.state")
        return Tail(JournalReader(data / "journal"), TraceIndex(data / "index.db"), lake)

    def open(self) -> None:
        """What an engine that starts does."""
        self.index = TraceIndex(self.data / "index.db")
        self.lake = Lake(str(self.data / "lake"), self.data / "lake.state")
        self.journal = JournalReader(self.data / "journal")
        self.tail = Tail(self.journal, self.index, self.lake)
        self.contents = SpanContents(self.index, [self.journal], SpanReaders(self.lake))

    def write(self, *traces: int) -> None:
        for number in traces:
            self.writer.append(spans_record(number, "root", "child")).result(10)

    def seal(self) -> None:
        """Wait until the writer has sealed what there is."""
        while True:
            try:
                files = segment_files(self.journal.directory)
                if all(sealed or path.stat().st_size == 0 for _, sealed, path in files):
                    return
            except FileNotFoundError:  # it is being renamed
                continue
            time.sleep(0.01)

    def fold(self) -> None:
        while self.tail.advance():
            pass

    def commit(self) -> None:
        self.seal()
        self.tail.commit_sealed(lambda: False)

    def take_turns(self) -> None:
        """Fold and commit until neither has anything to do, as the engine's threads do."""
        self.seal()
        while self.tail.advance() or self.tail.commit_sealed(lambda: False):
            pass

    def lake_rows(self) -> list[tuple[str, str]]:
        table = DeltaTable(str(self.data / "lake/main/default/mlflow_otel_spans"))
        found = table.to_pyarrow_table(columns=["trace_id", "span_id"]).to_pylist()
        return sorted((row["trace_id"], row["span_id"]) for row in found)

    def content_counts(self) -> list[int]:
        rows = [row for (row,) in self.index.connection().execute("SELECT id FROM traces")]
        found = self.contents.of(rows)
        return [len(found.get(row, ())) for row in rows]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def test_a_segment_goes_to_both_and_then_away(plant: Plant) -> None:
    plant.write(1, 2)
    plant.fold()
    plant.commit()
    assert len(plant.lake_rows()) == 4
    assert plant.journal.sealed_segments() == []
    assert plant.content_counts() == [2, 2]


def test_an_engine_that_died_after_the_commit_does_not_commit_again(plant: Plant) -> None:
    plant.write(1, 2)
    plant.fold()
    plant.seal()
    (number, *_) = plant.journal.sealed_segments()
    plant.tail._append(number, plant.tail._take(number))  # and is killed here
    plant.open()
    plant.fold()
    plant.commit()
    assert len(plant.lake_rows()) == len(set(plant.lake_rows())) == 4
    assert plant.journal.sealed_segments() == []


def test_what_another_process_has_folded_still_goes_to_the_lake(plant: Plant) -> None:
    plant.write(1, 2, 3)
    plant.index.catch_up([plant.journal])  # the server does, before a read
    plant.commit()
    assert len(plant.lake_rows()) == 6
    assert plant.content_counts() == [2, 2, 2]


def test_spans_are_read_while_the_lake_is_away_and_after(plant: Plant) -> None:
    plant.write(1)
    plant.fold()
    plant.commit()
    (plant.data / "lake").rename(plant.data / "gone")
    (plant.data / "lake").write_text("not a directory")
    plant.write(2)
    plant.fold()
    with pytest.raises(LakeUnavailable):
        plant.commit()
    row = plant.index.connection().execute("SELECT max(id) FROM traces").fetchone()[0]
    assert len(plant.contents.of([row])[row]) == 2
    (plant.data / "lake").unlink()
    (plant.data / "gone").rename(plant.data / "lake")
    plant.commit()
    assert len(plant.lake_rows()) == 4
    assert plant.content_counts() == [2, 2]


def test_spans_are_found_at_every_moment_of_their_way(plant: Plant) -> None:
    stop, missed = threading.Event(), []

    def move() -> None:
        while not stop.is_set():
            plant.fold()
            plant.tail.commit_sealed(stop.is_set)
            time.sleep(0.01)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for number in range(1, 40):
            plant.write(number)
            plant.index.catch_up([plant.journal])
            counts = plant.content_counts()
            if counts != [2] * number:
                missed.append((number, counts))
    finally:
        stop.set()
        mover.join()
    assert missed == []


def test_the_newest_version_of_a_span_counts_wherever_it_is(plant: Plant) -> None:
    plant.writer.append(spans_record(1, "root", "child", at=1000)).result(10)
    plant.fold()
    plant.commit()
    plant.writer.append(spans_record(1, "child", at=2000, tokens=77)).result(10)
    plant.index.catch_up([plant.journal])
    (row,) = plant.index.connection().execute("SELECT id FROM traces").fetchone()
    assert sum("77" in text for text in plant.contents.of([row])[row]) == 1
    plant.fold()
    plant.commit()
    assert sum("77" in text for text in plant.contents.of([row])[row]) == 1
    assert len(plant.contents.of([row])[row]) == 2


def test_records_of_a_segment_that_the_lake_has_taken_are_not_kept(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.write(1, 2)
    plant.seal()
    folded, committed = threading.Event(), threading.Event()
    apply = plant.index.apply

    def apply_and_wait(*args: Any) -> None:
        apply(*args)
        if threading.current_thread().name == "fold":  # between folding and keeping
            folded.set()
            assert committed.wait(10)

    monkeypatch.setattr(plant.index, "apply", apply_and_wait)
    fold = threading.Thread(target=plant.tail.advance, name="fold")
    fold.start()
    assert folded.wait(10)
    plant.commit()
    committed.set()
    fold.join()
    assert plant.tail._segments == {}
    assert plant.tail._cached == 0
    plant.write(3)  # what comes later is kept, then taken
    plant.fold()
    assert plant.tail._cached > 0
    plant.commit()
    assert (plant.tail._segments, plant.tail._cached) == ({}, 0)
    assert len(plant.lake_rows()) == 6


def test_the_fold_waits_for_a_lake_that_moves(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_CACHE_BYTES", 1)
    monkeypatch.setattr(pipeline, "_READ_BYTES", 1)
    monkeypatch.setattr(pipeline, "_PATIENCE_SECONDS", 1_000.0)
    plant.write(1, 2, 3)
    plant.seal()
    assert plant.tail.advance()
    assert not plant.tail.advance()  # what it folds now would be decoded again for the lake
    plant.write(4)
    plant.take_turns()
    assert plant.content_counts() == [2, 2, 2, 2]
    monkeypatch.setattr(pipeline, "_PATIENCE_SECONDS", 0.0)
    plant.write(5, 6)
    plant.fold()  # the lake stands still: readers need not wait for it
    assert plant.content_counts() == [2] * 6


def test_the_lake_waits_for_a_fold_that_moves(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of the two comes first, each record is decoded once."""
    count = 0
    decode = pipeline.decoded

    def counted(record: Record) -> Decoded:
        nonlocal count
        count += 1
        return decode(record)

    monkeypatch.setattr(pipeline, "decoded", counted)
    plant.fold()
    plant.write(1, 2, 3)
    plant.seal()
    assert not plant.tail.commit_sealed(lambda: False)
    plant.fold()
    assert plant.tail.commit_sealed(lambda: False)
    assert (count, len(plant.lake_rows())) == (3, 6)
    monkeypatch.setattr(pipeline, "_PATIENCE_SECONDS", 0.0)
    plant.write(4)
    plant.commit()  # the fold stands still: the tables need not wait for it
    assert (count, len(plant.lake_rows())) == (4, 8)


class _Spans(list[DecodedSpan]):
    """A list that can be watched for being freed."""


def test_a_lake_that_is_far_behind_costs_the_memory_of_one_segment(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 5):
        plant.write(number)
        plant.seal()
    alive: list[weakref.ref[_Spans]] = []
    most = 0
    decode = pipeline.decoded

    def counted(record: Record) -> Decoded:
        nonlocal most
        _, spans = decode(record)
        held = _Spans(spans)
        alive.append(weakref.ref(held))
        most = max(most, sum(one() is not None for one in alive))
        return record, held

    monkeypatch.setattr(pipeline, "decoded", counted)
    plant.commit()  # nothing was folded: each segment is decoded for the lake
    assert len(alive) == 4
    assert most == 1
