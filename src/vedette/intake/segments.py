"""How a journal lies on disk: segment files, frames, the journal's id.

    id                         the journal's name in Delta transactions, made once
    00000000000000000041.sealed
    00000000000000000042.open  there is always an open segment, so numbers never repeat

A frame is a payload's length and CRC-32 (little-endian 32-bit), then the payload, which is never
empty: eight zero bytes, as a file system may leave them where nothing was synced, are no frame.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import uuid
import zlib
from pathlib import Path

from vedette.processes import DataUnusable

FRAME = struct.Struct("<II")  # payload length, CRC-32 of the payload
_IDENTITY = re.compile("vedette-[0-9a-f]{32}")


class JournalFull(Exception):
    """The journal holds all it may; try again when the engine has moved some of it to the lake."""


class JournalUnavailable(Exception):
    """The disk refused a write; nothing of the append was kept."""


class JournalCorrupt(Exception):
    """A sealed segment does not read back as it was written."""


class JournalLocked(Exception):
    """Another process writes this journal."""


def segment_files(directory: Path) -> list[tuple[int, bool, Path]]:
    """The segments in ``directory``, ascending: (number, sealed, path)."""
    found = []
    for entry in os.scandir(directory):
        stem, _, suffix = entry.name.partition(".")
        if suffix in ("open", "sealed") and stem.isdigit():
            found.append((int(stem), suffix == "sealed", Path(entry.path)))
    return sorted(found)


def parse_frames(data: bytes) -> tuple[list[tuple[bytes, int]], int]:
    """Split ``data`` into whole frames.

    Returns:
        [(payload, offset just after its frame)] and the offset where whole, intact frames end.
    """
    frames: list[tuple[bytes, int]] = []
    offset = 0
    while offset + FRAME.size <= len(data):
        length, crc = FRAME.unpack_from(data, offset)
        end = offset + FRAME.size + length
        if length == 0 or end > len(data):
            break
        payload = data[offset + FRAME.size : end]
        if zlib.crc32(payload) != crc:
            break
        frames.append((payload, end))
        offset = end
    return frames, offset


def journal_identity(directory: Path) -> str:
    """The journal's id, made when the directory is first used.

    Raises:
        DataUnusable: the file that holds it holds something else.
    """
    path = directory / "id"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        draft = directory / f"id.{os.getpid()}.{threading.get_ident()}"
        try:
            with draft.open("w") as file:
                file.write(f"vedette-{uuid.uuid4().hex}\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # whichever process comes first decides
            sync_directory(directory)
        except FileExistsError:
            pass
        finally:
            draft.unlink(missing_ok=True)
    identity = path.read_text(errors="replace").strip()
    if not _IDENTITY.fullmatch(identity):
        raise DataUnusable(
            f"{path} doesn't hold the journal's id, by which the lake knows what it has of it. "
            "Restore it from a backup. Without one remove it: the journal gets a new id, and what "
            "is still in it goes to the lake, where some of it may then be twice"
        )
    return identity


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def frame(payload: bytes) -> bytes:
    """``payload`` as it is written."""
    return FRAME.pack(len(payload), zlib.crc32(payload)) + payload
