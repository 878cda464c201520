"""How the processes on one data directory know of each other: locks, state files, the parent."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

_PR_SET_PDEATHSIG = 1
_PARENT_POLL_SECONDS = 1.0
_ORPHAN_GRACE_SECONDS = 8.0


class AlreadyRunning(Exception):
    """Another process holds the lock; ``pid`` is its process id, or None when it can't be told."""

    def __init__(self, what: str, path: Path, pid: int | None) -> None:
        self.pid = pid
        holder = f"process {pid}" if pid else "another process"
        super().__init__(
            f"{holder} already runs {what} on {path.parent.parent}. "
            f"Stop it first{f' (kill {pid})' if pid else ''}, or choose another --data directory."
        )


class DataUnusable(Exception):
    """The data directory can't be made, written or understood; the message says why."""


@contextmanager
def exclusive_lock(path: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file while the block runs; the kernel frees it however the process ends.

    Args:
        path: ``<data>/run/<name>.lock``.
        what: names the lock's purpose to whoever is refused.
        patience: seconds to wait for a holder that may be about to end.

    Raises:
        AlreadyRunning: another process holds it.
        DataUnusable: there can be no such file.
    """
    deadline = time.monotonic() + patience
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DataUnusable(
            f"can't use {path.parent.parent} as data directory: {error.strerror} "
            f"({error.filename}); choose another with --data"
        ) from error
    try:
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                holder = os.read(descriptor, 20).strip()
                raise AlreadyRunning(what, path, int(holder) if holder.isdigit() else None)
            time.sleep(0.1)
        os.truncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Publish ``state`` as JSON: readers see the old file or the new one, never a part of it.

    Adds ``pid`` and ``at`` (seconds since the epoch), by which `read_state` callers judge its age.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(orjson.dumps({**state, "pid": os.getpid(), "at": time.time()}))
    temporary.replace(path)


def read_state(path: Path) -> dict[str, Any] | None:
    """What `write_state` wrote last, or None when there is nothing readable."""
    try:
        state = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def is_alive(pid: int) -> bool:
    """Whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def die_with_parent(parent: int) -> None:
    """Have this process stopped (SIGTERM) when the process ``parent`` is gone, however it went.

    Linux's kernel does it at once; a watching thread does it elsewhere, and ends a process that
    does not stop within 8 seconds. Call it first thing in the child.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_ORPHAN_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
