"""A power cut as a file system may take it: a file that was not synced is there, but empty."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


class PowerCut:
    """Watches, from now on, what this process syncs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._synced: dict[int, int] = {}  # by inode: when what was synced had been written
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._noting(getattr(os, name)))

    def unsynced(self, directory: Path) -> set[str]:
        """Names of the files beneath ``directory`` that a power cut may empty now."""
        return {path.name for path in self._unsynced(directory)}

    def strike(self, directory: Path) -> None:
        """Take from the files beneath ``directory`` what was not synced."""
        for path in self._unsynced(directory):
            os.truncate(path, 0)

    def _unsynced(self, directory: Path) -> list[Path]:
        files = [(path, path.stat()) for path in directory.rglob("*") if path.is_file()]
        return [path for path, at in files if self._synced.get(at.st_ino) != at.st_mtime_ns]

    def _noting(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def sync_and_note(descriptor: int) -> None:
            sync(descriptor)
            status = os.fstat(descriptor)
            self._synced[status.st_ino] = status.st_mtime_ns

        return sync_and_note
