"""The journal: acknowledged means on disk, whatever is killed; read in order, by anyone."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from power_cut import PowerCut
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
from vedette.processes import DataUnusable

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


@pytest.mark.parametrize("left", [bytes(8), bytes(70_000), b"\xff" * 70_000])
@pytest.mark.parametrize("records", [0, 2])
def test_what_was_never_synced_is_no_record(tmp_path: Path, left: bytes, records: int) -> None:
    """File systems may fill with zeros what was not synced when the power was cut."""
    writer = JournalWriter(tmp_path, segment_seconds=60)
    for number in range(records):
        writer.append(tag(number)).result(5)
    path = tmp_path / f"{writer.end.segment:020d}.open"
    whole = path.read_bytes()
    writer.close()
    path.with_suffix(".sealed").unlink(missing_ok=True)
    path.write_bytes(whole + left)
    (tmp_path / "durable").unlink()
    expected = [str(number) for number in range(records)]
    assert keys(JournalReader(tmp_path)) == expected
    JournalWriter(tmp_path).close()
    assert keys(JournalReader(tmp_path)) == expected


def test_a_writer_that_dies_while_it_tries_the_disk_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_PROBE_SECONDS", 0.01)
    writer = JournalWriter(tmp_path / "journal", segment_seconds=60)
    writer.append(tag(1)).result(5)
    tried = threading.Event()

    def refuse(_descriptor: int) -> None:
        if writer.refusing and not tried.is_set():
            shutil.copytree(tmp_path / "journal", tmp_path / "left")
            tried.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", refuse)
        with pytest.raises(JournalUnavailable):
            writer.append(tag(2)).result(5)
        assert tried.wait(10)
    writer.close()
    (segment,) = (tmp_path / "left").glob("*.open")
    assert segment.stat().st_size > 10_000
    JournalWriter(tmp_path / "left").close()
    assert keys(JournalReader(tmp_path / "left")) == ["1"]


def test_the_id_survives_a_power_cut_after_its_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    power_cut = PowerCut(monkeypatch)
    name = JournalReader(tmp_path).journal_id
    power_cut.strike(tmp_path)
    assert JournalReader(tmp_path).journal_id == name


@pytest.mark.parametrize("content", ["", "\n", "\0" * 41, "vedette-12"])
def test_a_journal_that_has_lost_its_id_is_refused(tmp_path: Path, content: str) -> None:
    """Two journals with the same id would take each other's segments for their own."""
    (tmp_path / "id").write_text(content)
    with pytest.raises(DataUnusable, match="Restore it from a backup"):
        JournalReader(tmp_path)
    with pytest.raises(DataUnusable, match="remove it: the journal gets a new id"):
        JournalWriter(tmp_path)
    assert (tmp_path / "id").read_text() == content


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


def test_a_disk_that_takes_but_a_part_of_a_write_does_not_work_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "_PROBE_SECONDS", 0.01)
    writer = JournalWriter(tmp_path, segment_seconds=60)
    real, room, tries = os.pwrite, 1000, []

    def write(descriptor: int, data: bytes, at: int) -> int:
        if descriptor != writer._file:
            return real(descriptor, data, at)
        tries.append(at)
        if at >= room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, bytes(data)[: room - at], at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", write)
        with pytest.raises(JournalUnavailable):
            writer.append(tag(1, 5000)).result(5)
        deadline = time.monotonic() + 10
        while len(tries) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "No space left" in (writer.refusing or "")
    assert len(caplog.messages) == 1, caplog.text
    writer.append(tag(2, 5000)).result(5)
    assert writer.refusing is None
    writer.close()
    assert keys(JournalReader(tmp_path)) == ["2"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_whatever_fails_in_a_write_is_told_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Here it is the mark of what is durable, which comes after the write itself."""
    writer = JournalWriter(tmp_path, segment_seconds=60)
    writer.append(tag(1)).result(5)

    def refuse(_segment: int, _offset: int) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(writer._durable, "set", refuse)
        with pytest.raises(JournalUnavailable):
            writer.append(tag(2)).result(5)
        assert (error.args[-1] if error.args else "MemoryError") in (writer.refusing or "")
    writer.append(tag(3)).result(5)
    assert writer.refusing is None
    assert keys(JournalReader(tmp_path)) == ["1", "3"]
    writer.close()
    assert keys(JournalReader(tmp_path)) == ["1", "3"]


def test_a_segment_that_is_sealed_is_never_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark that follows on sealing fails; another file has taken the descriptor by then."""
    writer = JournalWriter(tmp_path / "journal", segment_seconds=0.02)
    failed, mark = threading.Event(), writer._durable.set

    def unreliable(segment: int, offset: int) -> None:
        if offset == 0:
            failed.set()
            raise OSError(errno.EIO, "Input/output error")
        mark(segment, offset)

    with monkeypatch.context() as patch:
        patch.setattr(writer._durable, "set", unreliable)
        first = writer.append(tag(1)).result(5)
        assert failed.wait(10)
        with (tmp_path / "bystander").open("wb"):
            second = writer.append(tag(2)).result(5)
    writer.append(tag(3)).result(5)
    writer.close()
    assert (tmp_path / "bystander").read_bytes() == b""
    assert second.segment > first.segment
    assert keys(JournalReader(tmp_path / "journal")) == ["1", "2", "3"]
