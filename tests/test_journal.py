"""The journal: acknowledged means on disk, whatever is killed; read in order, by anyone."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vedette.intake import journal
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


def tag(number: int, size: int = 0, at: int = 1) -> Record:
    return Record("set_tag", at, {"trace_id": "t", "key": str(number), "value": "x" * size})


def keys(reader: JournalReader, start: Position = START) -> list[str]:
    return [record.fields["key"] for record, _ in reader.read(start)]


@given(st.text(), st.integers(0, 2**52), st.binary(), st.dictionaries(st.text(), st.text()))
def test_a_record_reads_back_as_it_was_written(kind, at, body, fields):
    fields = {k: v for k, v in fields.items() if k not in ("kind", "at", "sub")}
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
    (tmp_path / "durable").unlink()  # as a power cut may leave it
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
    real, state = os.pwrite, {"broken": True}

    def write(descriptor: int, data: bytes, at: int) -> int:
        if state["broken"] and descriptor == writer._file:
            real(descriptor, bytes(data)[:7], at)  # half a frame reaches the disk, then it is full
            raise OSError(28, "No space left on device")
        return real(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", write)
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
        JournalWriter(tmp_path).close()  # recovers: what is whole is kept, acknowledged or not
        numbers = [int(key) for key in keys(JournalReader(tmp_path))]
        assert numbers == list(range(len(numbers)))
        assert numbers[-1] >= acknowledged
        following = len(numbers)


def test_what_is_not_durable_is_not_read_and_what_was_refused_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, segment_seconds=60)
    reader = JournalReader(tmp_path)
    writer.append(tag(1)).result(5)
    syncing, go_on = threading.Event(), threading.Event()

    def refuse(_descriptor: int) -> None:
        syncing.set()
        go_on.wait(10)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", refuse)
        refused = writer.append(tag(2))
        assert syncing.wait(10)
        end, found = reader.end(), keys(reader)
        go_on.set()
        with pytest.raises(JournalUnavailable):
            refused.result(5)
    position = writer.append(tag(3)).result(5)

    assert found == ["1"]
    assert end < position
    assert keys(reader) == ["1", "3"]
    writer.close()
    assert keys(reader) == ["1", "3"]


def test_a_segment_that_cannot_be_sealed_is_written_on_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = JournalWriter(tmp_path, segment_seconds=0.01)
    failing = threading.Event()
    sync = journal.sync_directory
    failures = []

    def unreliable(directory: Path) -> None:
        if failing.is_set():
            failures.append(directory)
            raise OSError(errno.EIO, "Input/output error")
        sync(directory)

    monkeypatch.setattr(journal, "sync_directory", unreliable)
    for fail_first in (False, True):
        failing.set() if fail_first else failing.clear()
        for number in range(3):
            writer.append(tag(number)).result(5)
            time.sleep(0.05)
    open_before = len(os.listdir("/proc/self/fd"))
    time.sleep(0.5)
    assert len(os.listdir("/proc/self/fd")) <= open_before + 1
    assert len(failures) < 20  # it waits between tries
    failing.clear()
    writer.append(tag(9)).result(5)
    writer.close()

    assert keys(JournalReader(tmp_path)) == ["0", "1", "2", "0", "1", "2", "9"]
    assert sum("can't be sealed" in message for message in caplog.messages) == 1


def test_times_of_arrival_rise_though_the_clock_is_put_back(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, segment_seconds=60)
    writer.append(tag(1, at=5_000)).result(5)
    writer.append(tag(2, at=1_000)).result(5)
    writer.close()
    writer = JournalWriter(tmp_path, segment_seconds=60)
    writer.append(tag(3, at=2_000)).result(5)
    writer.append(tag(4, at=9_000)).result(5)
    writer.close()

    found = [record for record, _ in JournalReader(tmp_path).read(Position(0, 0))]
    times = [(record.at, record.sub) for record in found]
    assert times == [(5_000, 0), (5_000, 1), (5_000, 2), (9_000, 0)]


def test_a_disk_that_works_again_is_noticed_without_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, segment_seconds=60)

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", refuse)
        with pytest.raises(JournalUnavailable):
            writer.append(tag(1)).result(5)
        assert "No space left" in (writer.refusing or "")
    deadline = time.monotonic() + 10
    while writer.refusing:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    writer.append(tag(2)).result(5)
    writer.close()
    assert keys(JournalReader(tmp_path)) == ["2"]
