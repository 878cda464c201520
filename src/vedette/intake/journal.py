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
from contextlib import suppress
from pathlib import Path

from vedette.intake.durable import DurableMark, Stamps
from vedette.intake.journal_reader import JournalReader
from vedette.intake.records import Position, Record
from vedette.intake.segments import (
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

_PROBE_SECONDS = 2.0  # between looks at a disk that refused a write
_PROBE = b"\xff" * 64 * 1024  # what a crash leaves of it is no frame: none is that long
_LONGEST_SEAL_WAIT = 5.0  # seconds between tries
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
        self._sealing_fails = 0
        self._seal_after = 0.0  # `time.monotonic()`
        self._disk_error: str | None = None  # of the last write
        self._too_many = 0  # bytes of the last record, if there was no room for it
        self._stamps = Stamps(directory / "clock")
        self._number, self._file = self._recover()
        self._offset = 0
        self._durable = DurableMark(directory)
        self._durable.set(self._number, 0)
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
        future: Future[Position] = Future()
        with self._condition:
            if self._closing:
                raise JournalUnavailable("the server is stopping")
            data = frame(self._stamps.stamped(record).encode())
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
        self._durable.close()
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
                self._stamps.follow(Record.decode(frames[-1][0]))
                path.rename(path.with_suffix(".sealed"))
            else:
                path.unlink()
        sync_directory(self.directory)
        return number, descriptor

    def _create(self, number: int) -> int:
        path = self.directory / f"{number:020d}.open"
        descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
        try:
            sync_directory(self.directory)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._pending and not self._closing:
                    self._condition.wait(self._leisure())
                batch, self._pending = self._pending, deque()
                closing = self._closing
            if batch:
                self._commit(batch)
            elif self._disk_error is not None and not closing:
                self._try_the_disk()
            if self._offset and (closing or self._seal_due() == 0.0):
                self._try_to_seal()
            if closing and not self._pending:
                os.close(self._file)
                return

    def _leisure(self) -> float | None:
        """Seconds for which there is nothing to do unless something is appended."""
        due = self._seal_due()
        if self._disk_error is None:
            return due
        return _PROBE_SECONDS if due is None else min(due, _PROBE_SECONDS)

    def _try_the_disk(self) -> None:
        """See whether it takes writes again, so that nobody has to be refused to find out."""
        try:
            self._write(_PROBE)
            self._durable.set(self._number, self._offset)
        except Exception as error:
            self._fails(error)
        else:
            self._works_again()
        self._undo()

    def _works_again(self) -> None:
        if self._disk_error is not None:
            self._disk_error = None
            logger.warning("the journal %s can be written again", self.directory)

    def _seal_due(self) -> float | None:
        """Seconds until the open segment is to be sealed; None while it is empty."""
        if self._offset == 0:
            return None
        now = time.monotonic()
        due = self._opened_at + self._segment_seconds
        if self._offset >= self._segment_bytes:
            due = now
        return max(0.0, due - now, self._seal_after - now)

    def _commit(self, batch: deque[tuple[bytes, Future[Position]]]) -> None:
        start, size = self._offset, sum(len(framed) for framed, _ in batch)
        if start == 0:
            self._opened_at = time.monotonic()
        try:
            self._write(b"".join(framed for framed, _ in batch))
            self._durable.set(self._number, start + size)
        except Exception as error:  # whatever it is: nobody may wait for ever
            self._undo()
            self._fails(error)
            failure = JournalUnavailable(f"the journal's disk refused a write: {self._disk_error}")
            for _, future in batch:
                future.set_exception(failure)
            with self._condition:
                self._pending_bytes -= size
            time.sleep(0.05)  # don't spin on a full disk
            return
        self._works_again()
        with self._condition:
            self._offset = start + size
            self._stored += size
            self._pending_bytes -= size
        offset = start
        for framed, future in batch:
            offset += len(framed)
            future.set_result(Position(self._number, offset))

    def _write(self, data: bytes) -> None:
        """Write at the end, in whole and durably, over whatever a failed write has left there."""
        at, view = self._offset, memoryview(data)
        while view:
            written = os.pwrite(self._file, view, at)
            at, view = at + written, view[written:]
        os.fdatasync(self._file)

    def _undo(self) -> None:
        """Cut a write off. Nobody has read it: it lies beyond what is marked as durable."""
        with suppress(OSError):  # then what comes next is written over it
            os.ftruncate(self._file, self._offset)

    def _fails(self, error: Exception) -> None:
        known = self._disk_error is not None
        self._disk_error = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if not known:
            logger.error(
                "the journal %s can't be written: %s",
                self.directory,
                error,
                exc_info=None if isinstance(error, OSError) else error,
            )

    def _try_to_seal(self) -> None:
        try:
            self._seal()
        except Exception as error:  # whatever it is: the next writes must not wait for ever
            if not self._sealing_fails:
                logger.error(
                    "a segment of the journal %s can't be sealed, what is in it waits for the "
                    "lake: %s; will try again",
                    self.directory,
                    error,
                    exc_info=None if isinstance(error, OSError) else error,
                )
            wait = min(_LONGEST_SEAL_WAIT, 0.1 * 2.0 ** min(self._sealing_fails, 16))
            self._seal_after = time.monotonic() + wait
            self._sealing_fails += 1
        else:
            if self._sealing_fails:
                logger.warning("segments of the journal %s are sealed again", self.directory)
            self._sealing_fails = 0

    def _seal(self) -> None:
        """Open the next segment, then rename this one: an open segment exists at every moment."""
        self._stamps.save()
        if os.fstat(self._file).st_size > self._offset:  # what a failed write has left
            os.ftruncate(self._file, self._offset)
        following = self._create(self._number + 1)
        path = self.directory / f"{self._number:020d}.open"
        try:
            path.rename(path.with_suffix(".sealed"))
        except BaseException:
            os.close(following)
            raise
        # It is the engine's from now on, whatever happens next: nothing may be written to it
        sealed = self._file
        with self._condition:
            self._number, self._file, self._offset = self._number + 1, following, 0
        os.close(sealed)
        self._durable.set(self._number, 0)
        with self._condition:
            self._stored = self._measure()
        sync_directory(self.directory)
