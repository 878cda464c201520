"""What a worker may use: its environment, and limits on memory, processor time and files."""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from vedette.scoring import syscalls

# Of the engine's environment, all that workers see. No credentials, no MLflow settings.
_PASSED_ON = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TZ")
_FILE_BYTES = 64 * 1024 * 1024
OPEN_FILES = 256
_NICENESS = 5  # scoring waits when the server or the engine need the processor
_BEHIND = 10  # more, of backfills: they wait when live scoring does
_AUTOGROUP_SECONDS = 0.15  # for so long the kernel takes no second change from an ordinary user
PROCESSES = 64  # of an isolated worker, threads among them


def worker_environment(environment: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The whole environment of workers, given the engine's.

    Args:
        scratch: the directory that is home, working and temporary directory to workers.
    """
    return {
        **{name: environment[name] for name in _PASSED_ON if name in environment},
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        # MLflow reconstructs @scorer functions (executes them) only where this is set
        "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # One thread each: workers are many, and a process with threads is not safe to fork
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",  # keeps the address space close to what is used
    }


def confine(memory_bytes: int | None, *, alone: bool) -> None:
    """Put this process, a new worker, behind the others, and under its limits. Children inherit
    both.

    Args:
        memory_bytes: address space that it may use beyond what it has now; None: no limits.
        alone: processes are counted for this worker; else the kernel counts all of the user's, and
            no limit would do.

    Raises:
        OSError: the kernel refuses something.
    """
    if sys.platform == "linux":
        syscalls.gain_no_privileges()
        with suppress(OSError):  # if memory is short, the kernel is to take it from scorers first
            Path("/proc/self/oom_score_adj").write_text("1000")
        _wait_for_others(_NICENESS)
    os.nice(_NICENESS)
    if memory_bytes is None:
        return
    space = _address_space() + memory_bytes
    _limit(resource.RLIMIT_AS, space)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, _FILE_BYTES)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    if alone:
        _limit(resource.RLIMIT_NPROC, PROCESSES)


def go_behind_live() -> None:
    """Put this worker, which serves a backfill, behind those of live scoring."""
    if sys.platform == "linux":
        time.sleep(_AUTOGROUP_SECONDS)
        _wait_for_others(_NICENESS + _BEHIND)
    os.nice(_BEHIND)


def limit_processor_time(seconds: float) -> None:
    """Let this process use ``seconds`` more of processor time, over all threads, then end it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    allowed = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, hard))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, process ``parent``, dies (Linux only)."""
    if sys.platform != "linux":
        return
    syscalls.kill_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it died meanwhile
        os._exit(1)


def _wait_for_others(niceness: int) -> None:
    with suppress(OSError):  # sessions share the processor evenly, unless told otherwise
        Path("/proc/self/autogroup").write_text(str(niceness))


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _address_space() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux
        return 1024 * 1024 * 1024
    return pages * resource.getpagesize()
