"""Reading a journal, from any process, while it is being written."""

from __future__ import annotations

from pathlib import Path

from vedette.intake.durable import durable_position
from vedette.intake.records import Position, Record
from vedette.intake.segments import (
    FRAME,
    JournalCorrupt,
    journal_identity,
    parse_frames,
    segment_files,
)


class JournalReader:
    """Reads a journal from any process, while it is being written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journal_id = journal_identity(directory)

    def sealed_segments(self, after: int = 0) -> list[int]:
        """Numbers of the sealed segments above ``after``, ascending."""
        return [n for n, sealed, _ in segment_files(self.directory) if sealed and n > after]

    def end(self) -> Position:
        """Where the journal ends now: what was acknowledged is before it."""
        if (durable := durable_position(self.directory)) is not None:
            return durable
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
        """Bytes from ``offset``, of an open segment those that are durable; is it sealed?"""
        sealed = self.directory / f"{number:020d}.sealed"
        durable = durable_position(self.directory)
        for path in (sealed, sealed.with_suffix(".open"), sealed):  # it may be sealed meanwhile
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    data = file.read(length)
            except FileNotFoundError:
                continue
            if path is not sealed and durable is not None:
                end = durable.offset if durable.segment == number else 0
                data = data[: max(0, end - offset)]
            return data, path is sealed
        return b"", True  # removed: it is in the lake

    def _corrupt(self, number: int, offset: int) -> JournalCorrupt:
        path = self.directory / f"{number:020d}.sealed"
        return JournalCorrupt(
            f"{path} is damaged at byte {offset}: restore it from a backup, or move it away to "
            "go on without its records"
        )
