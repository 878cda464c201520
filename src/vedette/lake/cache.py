"""Local copies of an object store's data files, which never change once written."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from vedette.lake.files import DataFile
from vedette.lake.storage import Storage

LIMIT_BYTES = 2 << 30
_DOWNLOADS = 8


class FileCache:
    """Gives data files as local ones; processes may share a directory.

    A lake on a local disk is read where it is.
    """

    def __init__(self, storage: Storage, directory: Path) -> None:
        self._storage = storage
        self._directory = directory
        self._evicting = threading.Lock()

    def has(self, file: DataFile) -> bool:
        """Whether `paths` gives the file without fetching it."""
        return self._storage.local is not None or self._is_whole(self._place(file), file)

    def paths(self, files: Sequence[DataFile]) -> list[str]:
        """Local paths of ``files``, of which those not here yet are fetched.

        Another reader may have removed one again before it is opened: then ask again.

        Raises:
            FileNotFoundError: a file is not in the store any more.
            OSError: the store is out of reach, or the disk is full.
        """
        if self._storage.local is not None:
            return [str(self._storage.local / file.path) for file in files]
        self._directory.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_DOWNLOADS) as downloads:
            paths = list(downloads.map(self._fetch, files))
        with self._evicting:
            self._evict(keep=set(paths))
        return [str(path) for path in paths]

    def _place(self, file: DataFile) -> Path:
        return self._directory / file.path.rsplit("/", 1)[-1]

    def _is_whole(self, path: Path, file: DataFile) -> bool:
        with suppress(FileNotFoundError):
            os.utime(path)
            return path.stat().st_size == file.size  # a power cut may have cut it short
        return False

    def _fetch(self, file: DataFile) -> Path:
        path = self._place(file)
        if self._is_whole(path, file):
            return path
        temporary = path.with_name(f".{path.name}.{uuid.uuid4()}")
        try:
            self._storage.objects.download(file.path, temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
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
            if total <= LIMIT_BYTES:
                break
            if path not in keep:
                path.unlink(missing_ok=True)
                total -= size
