"""Up to where a journal is durable, and when its records arrived, in an order that never goes back.

    durable   segment and offset up to which the open segment has been synced, with a CRC-32
    clock     microseconds since the epoch of the last record of a sealed segment

Readers go no further than `durable`: what lies beyond may yet be refused and cut off again.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from vedette.intake.records import Position, Record

_PLACE = struct.Struct("<QQ")
_MARK = struct.Struct("<QQI")
_FILE = "durable"


class DurableMark:
    """The writer's end of the mark in a journal's directory."""

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / _FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)

    def set(self, segment: int, offset: int) -> None:
        """Everything up to this place is durable. A power cut may lose the mark, but then the
        writer's recovery seals the segment, and sealed ones are read whole."""
        place = _PLACE.pack(segment, offset)
        os.pwrite(self._file, place + struct.pack("<I", zlib.crc32(place)), 0)

    def close(self) -> None:
        """Close the file. Harmless if it is closed."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def durable_position(directory: Path) -> Position | None:
    """What the writer has marked; None if there is no mark: then all there is counts."""
    with suppress(FileNotFoundError):
        for _ in range(100):  # it may be read while it is being written
            data = (directory / _FILE).read_bytes()
            if len(data) == _MARK.size:
                segment, offset, crc = _MARK.unpack(data)
                if zlib.crc32(data[: _PLACE.size]) == crc:
                    return Position(segment, offset)
            time.sleep(0.0001)
    return None


class Stamps:
    """Gives records times of arrival that rise strictly, be the clock put back.

    Args:
        path: where the last one is kept between lives of the writer.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_us = 0
        with suppress(FileNotFoundError, ValueError):
            self._last_us = int(path.read_text())

    def follow(self, record: Record) -> None:
        """What comes next comes after this record."""
        self._last_us = max(self._last_us, record.at * 1000 + record.sub)

    def stamped(self, record: Record) -> Record:
        """The record with the time at which it says it arrived, or later."""
        self._last_us = max(record.at * 1000, self._last_us + 1)
        at, sub = divmod(self._last_us, 1000)
        return record if (at, sub) == (record.at, record.sub) else replace(record, at=at, sub=sub)

    def save(self) -> None:
        """Keep the last one."""
        draft = self._path.with_suffix(".draft")
        draft.write_text(str(self._last_us))
        draft.replace(self._path)
