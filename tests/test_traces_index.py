"""The read model's file: its write-ahead log begins anew while writers go on."""

from __future__ import annotations

import threading
from pathlib import Path

from test_fold import spans_record
from vedette.intake.records import Position
from vedette.traces.fold import decoded
from vedette.traces.index import TraceIndex

_JOURNAL = "0123456789abcdef0123456789abcdef"


def fold(index: TraceIndex, *traces: int) -> None:
    for number in traces:
        work = [(decoded(spans_record(number, "root", "child")), Position(1, number))]
        index.apply(_JOURNAL, work)


def beginnings(path: Path) -> int:
    """How often the write-ahead log has been begun anew: its header counts."""
    header = path.with_name(f"{path.name}-wal").read_bytes()[:16]
    return int.from_bytes(header[12:], "big")


def test_a_checkpoint_has_the_next_writer_begin_the_log_anew(tmp_path: Path) -> None:
    index = TraceIndex(tmp_path / "index.db")
    fold(index, 1, 2, 3)
    before = beginnings(index.path)
    fold(index, 4)
    assert beginnings(index.path) == before
    index.checkpoint()
    fold(index, 5)
    assert beginnings(index.path) == before + 1


def test_a_checkpoint_comes_to_an_end_beside_a_writer_without_a_pause(tmp_path: Path) -> None:
    index = TraceIndex(tmp_path / "index.db")
    fold(index, 1)
    stop = threading.Event()
    folded = 1

    def write() -> None:
        nonlocal folded
        while not stop.is_set():
            folded += 1
            fold(index, folded)

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(20):
        index.checkpoint()
    stop.set()
    writer.join(30)
    (traces,) = index.connection().execute("SELECT count(*) FROM traces").fetchone()
    assert traces == folded
