"""What a tree of processes uses, and whether the machine is quiet enough to measure."""

from __future__ import annotations

import contextlib
import time
from typing import NamedTuple

import psutil

_GONE = (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied)


def tree(pid: int) -> list[psutil.Process]:
    """The process and everything it started that is still alive; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pid: int) -> float:
    """User and system time of the whole tree so far, with that of its reaped children."""
    total = 0.0
    for process in tree(pid):
        with contextlib.suppress(*_GONE):
            total += sum(process.cpu_times()[:4])
    return total


def pss_bytes(pid: int) -> int:
    """Proportional set size of the whole tree: shared pages are counted once."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(*_GONE):
            total += process.memory_full_info().pss
    return total


def pss_by_part(pid: int) -> dict[str, int]:
    """`pss_bytes` of a ``vedette up`` itself and of each child with all that it started."""
    parts = {"supervisor": pss_bytes(pid)}
    for child in psutil.Process(pid).children():
        with contextlib.suppress(*_GONE):
            words = child.cmdline()
            name = "server" if "server" in words else "engine and workers"
            parts[name] = pss_bytes(child.pid)
            parts["supervisor"] -= parts[name]
    return parts


def still_running(processes: list[psutil.Process], *, after_seconds: float) -> list[psutil.Process]:
    """Those that have not ended by then; a zombie has ended, whoever forgot to reap it."""
    deadline = time.monotonic() + after_seconds
    while True:
        running = [process for process in processes if _is_running(process)]
        if not running or time.monotonic() > deadline:
            return running
        time.sleep(0.05)


def _is_running(process: psutil.Process) -> bool:
    with contextlib.suppress(*_GONE):
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def end(processes: list[psutil.Process], *, grace_seconds: float = 30.0) -> None:
    """SIGTERM to the first, then SIGKILL to whichever of them is left after the grace period."""
    with contextlib.suppress(psutil.NoSuchProcess):
        processes[0].terminate()
    for process in still_running(processes, after_seconds=grace_seconds):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


class Quiet(NamedTuple):
    """How busy the machine was just before a measurement."""

    busy_cores: float
    waited_seconds: float


def wait_until_quiet(
    *, limit_cores: float = 0.25, window_seconds: float = 2.0, at_most_seconds: float = 60.0
) -> Quiet:
    """Wait until all processes together use less than ``limit_cores``, or give up and say so."""
    began = time.monotonic()
    cores = psutil.cpu_count() or 1
    while True:
        busy = psutil.cpu_percent(interval=window_seconds) / 100 * cores
        waited = time.monotonic() - began
        if busy < limit_cores or waited > at_most_seconds:
            return Quiet(busy, waited)
