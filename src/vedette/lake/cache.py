"""Local copies of an object store's data files, which never change once written."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from vedette.lake.files import DataFile
from vedette.lake.storage import Storage

_LIMIT_BYTES = 2 << 30
_DOWNLOADS = 8


class FileCache:
    """Gives data files as local ones; processes may share a directory.

    A lake on a local disk is read where it is.
    """

    def __init__(self, storage: Storage, directory: Path) -> None:
        self._storage = storage
        self._directory = directory
        self._lock = threading.Lock()

    def paths(self, files: Sequence[DataFile]) -> list[str]:
        """Local paths of ``files``, of which those not here yet are fetched.

        Another reader may have removed one again before it is opened: then ask again.

        Raises:
            FileNotFoundError: a file is not in the store any more.
            OSError: the store is out of reach, or the disk is full.
        """
        if self._storage.local is not None:
            return [str(self._storage.local / file.path) for file in files]
        with self._lock:
            self._directory.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(_DOWNLOADS) as downloads:
                paths = list(downloads.map(self._fetch, files))
            self._evict(keep=set(paths))
        return [str(path) for path in paths]

    def _fetch(self, file: DataFile) -> Path:
        path = self._directory / file.path.rsplit("/", 1)[-1]
        with suppress(FileNotFoundError):
            os.utime(path)
            if path.stat().st_size == file.size:  # a power cut may have cut it short
                return path
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        self._storage.fetch(file.path, temporary)
        temporary.replace(path)
        return path

    def _evict(self, keep: set[Path]) -> None:
        """Remove the files used longest ago until the rest fits."""
        found = []
        for path in self._directory.iterdir():
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= _LIMIT_BYTES:
                break
            if path not in keep:
                path.unlink(missing_ok=True)
                total -= size
