"""The journal: what is acknowledged is in it, on disk.

Records are appended to the one open segment; a writer thread gathers what is waiting, writes it,
calls ``fdatasync`` once and only then resolves the futures: group commit. A segment is sealed
(renamed) after about a second and never changes again, which makes replaying it exact: one sealed
segment is one lake transaction.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path

from vedette.intake.records import Position, Record
from vedette.intake.segments import (
    FRAME,
    JournalCorrupt,
    JournalFull,
    JournalLocked,
    JournalUnavailable,
    frame,
    journal_identity,
    parse_frames,
    segment_files,
    sync_directory,
)

__all__ = [
    "JournalCorrupt",
    "JournalFull",
    "JournalLocked",
    "JournalReader",
    "JournalUnavailable",
    "JournalWriter",
]

logger = logging.getLogger(__name__)

_PENDING_LIMIT = 256 * 1024 * 1024  # bytes waiting for the disk before appends are refused


class JournalWriter:
    """Appends records durably. One per directory; safe to use from many threads.

    Args:
        directory: where the segments are; made if missing.
        segment_seconds: a non-empty segment is sealed when it is this old.
        segment_bytes: and when it has grown this large.
        max_bytes: appends are refused while the directory holds more than this.

    Raises:
        JournalLocked: another process has this journal open for writing.
    """

    def __init__(
        self,
        directory: Path,
        *,
        segment_seconds: float = 1.0,
        segment_bytes: int = 8 * 1024 * 1024,
        max_bytes: int = 4 * 1024 * 1024 * 1024,
    ) -> None:
        self.directory = directory
        self.journal_id = journal_identity(directory)
        self._segment_seconds = segment_seconds
        self._segment_bytes = segment_bytes
        self._max_bytes = max_bytes
        self._lock_file = (directory / "lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock_file.close()
            raise JournalLocked(
                f"{directory} is being written by another process; stop it first"
            ) from None
        self._condition = threading.Condition()
        self._pending: deque[tuple[bytes, Future[Position]]] = deque()
        self._pending_bytes = 0
        self._closing = False
        self._failing = False
        self._disk_error: str | None = None  # of the last write
        self._too_many = 0  # bytes of the last record, if there was no room for it
        self._number, self._file = self._recover()
        self._offset = 0
        self._opened_at = time.monotonic()
        self._stored = self._measure()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    @property
    def end(self) -> Position:
        """Where the next record will go; everything before it is durable."""
        with self._condition:
            return Position(self._number, self._offset)

    def backlog_bytes(self) -> int:
        """Bytes in the directory, waiting to be moved to the lake."""
        return self._stored

    @property
    def refusing(self) -> str | None:
        """Why writes are refused at present, and what to do; None if they are accepted."""
        with self._condition:
            if self._disk_error is not None:
                return (
                    f"the disk refused the last one: {self._disk_error}. Make room, or put right "
                    f"what is wrong, where {self.directory} is; no restart is needed"
                )
            if self._too_many:
                self._stored = self._measure()
                if not self._has_room(self._too_many):
                    return (
                        f"it is full, with {self._stored:,} of {self._max_bytes:,} bytes that are "
                        "not in the lake yet. See to it that the engine runs and the lake can be "
                        "written; a larger --journal-max-bytes gives time"
                    )
        return None

    def append(self, record: Record) -> Future[Position]:
        """Queue a record; the future resolves to the position after it once it is on disk.

        Raises (from this call or the future):
            JournalFull: more than ``max_bytes`` wait for the lake, or the disk lags far behind.
            JournalUnavailable: the disk refused the write, or the journal is closing.
        """
        data = frame(record.encode())
        future: Future[Position] = Future()
        with self._condition:
            if self._closing:
                raise JournalUnavailable("the server is stopping")
            if not self._has_room(len(data)):
                self._stored = self._measure()
                if not self._has_room(len(data)):
                    self._report_full(len(data))
                    raise JournalFull(
                        f"the journal holds {self._stored:,} of {self._max_bytes:,} bytes: the "
                        "lake is behind or unreachable; retry later"
                    )
            if self._too_many:
                self._too_many = 0
                logger.warning("the journal accepts writes again")
            if self._pending_bytes + len(data) > _PENDING_LIMIT:
                raise JournalFull("the disk can't keep up with the writes; retry later")
            self._pending.append((data, future))
            self._pending_bytes += len(data)
            self._condition.notify()
        return future

    def close(self) -> None:
        """Write what is queued, seal the segment, release the directory."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()
        self._lock_file.close()

    def _has_room(self, size: int) -> bool:
        return self._stored + self._pending_bytes + size <= self._max_bytes

    def _report_full(self, size: int) -> None:
        told, self._too_many = self._too_many, size
        if not told:
            logger.error(
                "the journal %s is full (%s bytes): refusing writes until the lake catches up",
                self.directory,
                f"{self._stored:,}",
            )

    def _measure(self) -> int:
        total = 0
        for _, _, path in segment_files(self.directory):
            try:
                total += path.stat().st_size
            except FileNotFoundError:  # the engine has just removed it
                continue
        return total

    def _recover(self) -> tuple[int, int]:
        """Open the next segment, then seal what an earlier process left open at its last frame."""
        files = segment_files(self.directory)
        number = files[-1][0] + 1 if files else 1
        descriptor = self._create(number)
        for _, sealed, path in files:
            if sealed:
                continue
            data = path.read_bytes()
            frames, end = parse_frames(data)
            if end < len(data):
                logger.warning("cut %d bytes of an unfinished write off %s", len(data) - end, path)
                with path.open("r+b") as file:
                    file.truncate(end)
                    os.fsync(file.fileno())
            if frames:
                path.rename(path.with_suffix(".sealed"))
            else:
                path.unlink()
        sync_directory(self.directory)
        return number, descriptor

    def _create(self, number: int) -> int:
        path = self.directory / f"{number:020d}.open"
        descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND, 0o644)
        sync_directory(self.directory)
        return descriptor

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._pending and not self._closing:
                    self._condition.wait(self._seal_due())
                batch, self._pending = self._pending, deque()
                closing = self._closing
            if batch:
                self._commit(batch)
            try:
                if self._offset and (closing or self._seal_due() == 0.0):
                    self._seal()
            except OSError as error:
                self._report_failure(error)
            if closing and not self._pending:
                os.close(self._file)
                return

    def _seal_due(self) -> float | None:
        """Seconds until the open segment is to be sealed; None while it is empty."""
        if self._offset == 0:
            return None
        if self._offset >= self._segment_bytes:
            return 0.0
        return max(0.0, self._opened_at + self._segment_seconds - time.monotonic())

    def _commit(self, batch: deque[tuple[bytes, Future[Position]]]) -> None:
        data = b"".join(written for written, _ in batch)
        start = self._offset
        if start == 0:
            self._opened_at = time.monotonic()
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError as error:
            self._undo(start)
            self._report_failure(error)
            self._disk_error = error.strerror
            failure = JournalUnavailable(f"the journal's disk refused a write: {error.strerror}")
            for _, future in batch:
                future.set_exception(failure)
            with self._condition:
                self._pending_bytes -= len(data)
            time.sleep(0.05)  # don't spin on a full disk
            return
        if self._failing:
            self._failing = False
            logger.warning("the journal %s can be written again", self.directory)
        self._disk_error = None
        with self._condition:
            self._offset = start + len(data)
            self._stored += len(data)
            self._pending_bytes -= len(data)
        offset = start
        for written, future in batch:
            offset += len(written)
            future.set_result(Position(self._number, offset))

    def _undo(self, offset: int) -> None:
        """Cut a failed write off, so that nothing refused is ever read as accepted."""
        try:
            os.ftruncate(self._file, offset)
        except OSError:
            logger.exception("could not cut a failed write off segment %d", self._number)

    def _report_failure(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            logger.error("the journal %s can't be written: %s", self.directory, error)

    def _seal(self) -> None:
        """Open the next segment, then rename this one: an open segment exists at every moment."""
        following = self._create(self._number + 1)
        path = self.directory / f"{self._number:020d}.open"
        path.rename(path.with_suffix(".sealed"))
        sync_directory(self.directory)
        os.close(self._file)
        with self._condition:
            self._number, self._file, self._offset = self._number + 1, following, 0
            self._stored = self._measure()


class JournalReader:
    """Reads a journal from any process, while it is being written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journal_id = journal_identity(directory)

    def sealed_segments(self, after: int = 0) -> list[int]:
        """Numbers of the sealed segments above ``after``, ascending."""
        return [n for n, sealed, _ in segment_files(self.directory) if sealed and n > after]

    def end(self) -> Position:
        """Where the journal ends now, whole frames or not."""
        while True:
            files = segment_files(self.directory)
            if not files:
                return Position(0, 0)
            number, _, path = files[-1]
            try:
                return Position(number, path.stat().st_size)
            except FileNotFoundError:  # sealed since; look again
                continue

    def read(
        self, start: Position, limit_bytes: int = 8 * 1024 * 1024
    ) -> list[tuple[Record, Position]]:
        """Records after ``start`` in order, each with the position just after it.

        Stops after about ``limit_bytes`` (at least one record is returned if there is one).

        Raises:
            JournalCorrupt: a sealed segment is damaged.
        """
        result: list[tuple[Record, Position]] = []
        budget = limit_bytes
        for number, _, _ in segment_files(self.directory):
            if number < start.segment:
                continue
            offset = start.offset if number == start.segment else 0
            while budget > 0:
                frames, complete = self._frames_at(number, offset, budget)
                for payload, end in frames:
                    result.append((Record.decode(payload), Position(number, offset + end)))
                if not frames:
                    if not complete:
                        return result  # the open segment ends here, or a write is under way
                    break
                budget -= frames[-1][1]
                offset += frames[-1][1]
            if budget <= 0:
                break
        return result

    def read_segment(self, number: int) -> list[tuple[Record, Position]]:
        """All records of one sealed segment."""
        data, sealed = self._load(number, 0, -1)
        frames, end = parse_frames(data)
        if not sealed or end < len(data):
            raise self._corrupt(number, end)
        return [(Record.decode(payload), Position(number, at)) for payload, at in frames]

    def size(self, number: int) -> int:
        """Bytes of a sealed segment."""
        return (self.directory / f"{number:020d}.sealed").stat().st_size

    def remove(self, number: int) -> None:
        """Delete a sealed segment; its content must be in the lake and the read model by now."""
        (self.directory / f"{number:020d}.sealed").unlink(missing_ok=True)

    def _frames_at(
        self, number: int, offset: int, budget: int
    ) -> tuple[list[tuple[bytes, int]], bool]:
        """Whole frames from ``offset`` (at least one if there is one); is the segment sealed?"""
        data, sealed = self._load(number, offset, max(budget, FRAME.size))
        frames, _ = parse_frames(data)
        if not frames and len(data) >= FRAME.size:
            length, _ = FRAME.unpack_from(data)
            if FRAME.size + length > len(data):  # one record larger than the budget
                data, sealed = self._load(number, offset, FRAME.size + length)
                frames, _ = parse_frames(data)
        if data and not frames and sealed:
            raise self._corrupt(number, offset)
        return frames, sealed

    def _load(self, number: int, offset: int, length: int) -> tuple[bytes, bool]:
        sealed = self.directory / f"{number:020d}.sealed"
        for path in (sealed, sealed.with_suffix(".open"), sealed):  # it may be sealed meanwhile
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    return file.read(length), path is sealed
            except FileNotFoundError:
                continue
        return b"", True  # removed: it is in the lake

    def _corrupt(self, number: int, offset: int) -> JournalCorrupt:
        path = self.directory / f"{number:020d}.sealed"
        return JournalCorrupt(
            f"{path} is damaged at byte {offset}: restore it from a backup, or move it away to "
            "go on without its records"
        )
