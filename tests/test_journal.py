"""The journal: acknowledged means on disk, whatever is killed; read in order, by anyone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vedette.intake.journal import (
    JournalCorrupt,
    JournalFull,
    JournalLocked,
    JournalReader,
    JournalUnavailable,
    JournalWriter,
)
from vedette.intake.records import Position, Record

START = Position(0, 0)


def tag(number: int, size: int = 0) -> Record:
    return Record("set_tag", 1, {"trace_id": "t", "key": str(number), "value": "x" * size})


def keys(reader: JournalReader, start: Position = START) -> list[str]:
    return [record.fields["key"] for record, _ in reader.read(start)]


@given(st.text(), st.integers(0, 2**52), st.binary(), st.dictionaries(st.text(), st.text()))
def test_a_record_reads_back_as_it_was_written(kind, at, body, fields):
    fields = {k: v for k, v in fields.items() if k not in ("kind", "at")}
    assert Record.decode(Record(kind, at, fields, body).encode()) == Record(kind, at, fields, body)


def test_an_acknowledged_record_can_be_read_at_once_by_another_process(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    for number in range(5):
        writer.append(tag(number)).result(5)
    assert keys(JournalReader(tmp_path)) == ["0", "1", "2", "3", "4"]
    writer.close()


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=40), limit=st.integers(1, 5000))
def test_reading_in_pieces_gives_every_record_once_and_in_order(tmp_path_factory, sizes, limit):
    directory = tmp_path_factory.mktemp("journal")
    writer = JournalWriter(directory, segment_bytes=4000)
    for number, size in enumerate(sizes):
        writer.append(tag(number, size)).result(5)
    reader, position, seen = JournalReader(directory), START, []
    while found := reader.read(position, limit):
        seen += [record.fields["key"] for record, _ in found]
        position = found[-1][1]
    assert seen == [str(n) for n in range(len(sizes))]
    writer.close()
    assert keys(reader) == seen


def test_segments_are_sealed_by_age_and_never_reuse_a_number(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, segment_seconds=0.05)
    reader = JournalReader(tmp_path)
    first = writer.append(tag(1)).result(5).segment
    while not reader.sealed_segments():
        time.sleep(0.01)
    for number in reader.sealed_segments():
        reader.remove(number)
    writer.close()
    again = JournalWriter(tmp_path)
    assert again.append(tag(2)).result(5).segment > first
    assert again.journal_id == reader.journal_id
    again.close()


def test_a_torn_tail_is_cut_and_what_precedes_it_is_kept(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, segment_seconds=60)
    writer.append(tag(1)).result(5)
    position = writer.append(tag(2)).result(5)
    path = tmp_path / f"{position.segment:020d}.open"
    torn = path.read_bytes()[:-3]
    writer.close()
    path.with_suffix(".sealed").unlink()
    path.write_bytes(torn)
    assert keys(JournalReader(tmp_path)) == ["1"]
    again = JournalWriter(tmp_path)
    again.append(tag(3)).result(5)
    assert keys(JournalReader(tmp_path)) == ["1", "3"]
    again.close()


def test_a_damaged_sealed_segment_is_reported_not_skipped(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    position = writer.append(tag(1)).result(5)
    writer.close()
    path = tmp_path / f"{position.segment:020d}.sealed"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(JournalCorrupt, match="restore it from a backup"):
        JournalReader(tmp_path).read(START)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    with pytest.raises(JournalLocked):
        JournalWriter(tmp_path)
    writer.close()


def test_a_full_journal_refuses_and_accepts_again_without_a_restart(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, max_bytes=5000, segment_seconds=0.02)
    for number in range(8):
        writer.append(tag(number, 500)).result(5)
    assert writer.refusing is None
    with pytest.raises(JournalFull):
        writer.append(tag(8, 1000))
    assert "--journal-max-bytes" in (writer.refusing or "")
    reader = JournalReader(tmp_path)
    while not (sealed := reader.sealed_segments()):
        time.sleep(0.01)
    for number in sealed:
        reader.remove(number)
    deadline = time.monotonic() + 5
    while True:
        try:
            writer.append(tag(999)).result(5)
            break
        except JournalFull:
            assert time.monotonic() < deadline
            for number in reader.sealed_segments():
                reader.remove(number)
            time.sleep(0.02)
    assert writer.refusing is None
    writer.close()


def test_a_full_journal_accepts_as_soon_as_there_is_room_though_nobody_writes(
    tmp_path: Path,
) -> None:
    writer = JournalWriter(tmp_path, max_bytes=1000, segment_seconds=0.02)
    writer.append(tag(1, 500)).result(5)
    with pytest.raises(JournalFull):
        writer.append(tag(2, 500))
    assert writer.refusing is not None
    reader = JournalReader(tmp_path)
    while not (sealed := reader.sealed_segments()):
        time.sleep(0.01)
    reader.remove(sealed[0])
    assert writer.refusing is None
    writer.close()


def test_a_disk_that_refuses_a_write_loses_nothing_and_recovers(tmp_path, monkeypatch) -> None:
    writer = JournalWriter(tmp_path, segment_seconds=60)
    writer.append(tag(1)).result(5)
    real, state = os.write, {"broken": True}

    def write(descriptor: int, data: bytes) -> int:
        if state["broken"] and descriptor == writer._file:
            real(descriptor, bytes(data)[:7])  # half a frame reaches the disk, then it is full
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(JournalUnavailable, match="No space left"):
        writer.append(tag(2)).result(5)
    assert "No space left on device" in (writer.refusing or "")
    assert str(tmp_path) in (writer.refusing or "")
    state["broken"] = False
    writer.append(tag(3)).result(5)
    assert writer.refusing is None
    assert keys(JournalReader(tmp_path)) == ["1", "3"]
    writer.close()


WRITER = """
import sys
from pathlib import Path
from vedette.intake.journal import JournalWriter
from vedette.intake.records import Record
writer = JournalWriter(Path(sys.argv[1]), segment_seconds=0.05)
for number in range(int(sys.argv[2]), 10**9):
    fields = {"trace_id": "t", "key": str(number), "value": "x" * 300}
    writer.append(Record("set_tag", 1, fields)).result()
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    acknowledged, following = -1, 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(following)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(60):
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        for line in process.stdout.read().split():
            acknowledged = int(line)
        process.wait()
        numbers = [int(key) for key in keys(JournalReader(tmp_path))]
        assert numbers == list(range(len(numbers)))
        assert numbers[-1] >= acknowledged
        following = len(numbers)
