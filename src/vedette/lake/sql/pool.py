"""Processes that run queries: started when they are needed, killed when a query takes too long."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import orjson

from vedette.lake.sql.errors import QueryRefused, SqlBusy
from vedette.lake.sql.sandbox import MEMORY_BYTES
from vedette.lake.sql.worker import Files, Question, Result

FilesOf = Callable[[Collection[str]], Files]

_START_SECONDS = 30.0
_TRANSFER_SECONDS = 30.0
_END_SECONDS = 5.0
# Of our environment, all that queries' processes see
_PASSED_ON = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH")


class Pool:
    """For any number of threads.

    Args:
        size: how many queries may run at the same time.
    """

    def __init__(self, size: int) -> None:
        self._free = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._closed = False

    def run(
        self, question: Question, readable: Sequence[Path], files_of: FilesOf, seconds: float
    ) -> Result | None:
        """Run one query; None: a file of the snapshot is gone.

        Args:
            readable: the directories that tables' files are in.
            files_of: takes a snapshot of the tables that the query reads.
            seconds: how long it may take, waiting for its turn included.

        Raises:
            QueryRefused: it is wrong, or took too much time or memory.
            SqlBusy: its turn didn't come.
        """
        deadline = time.monotonic() + seconds
        if not self._free.acquire(timeout=seconds):
            raise SqlBusy(f"other queries are running, for {seconds:g} s now; try again later")
        try:
            return self._run(question, list(readable), files_of, deadline, seconds)
        finally:
            self._free.release()

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            process.kill()

    def _run(
        self,
        question: Question,
        readable: list[Path],
        files_of: FilesOf,
        deadline: float,
        seconds: float,
    ) -> Result | None:
        process = self._take(readable)
        done = False
        try:
            answer = process.ask(question, files_of, deadline)
            if answer is None and time.monotonic() < deadline and process.was_idle():
                process.kill()
                process = _Process(readable)
                answer = process.ask(question, files_of, deadline)
            done = answer is not None and not answer[0]["last"]
        finally:
            if done:
                self._give_back(process)
            else:
                process.kill()
        if answer is None and time.monotonic() >= deadline:
            raise QueryRefused(
                f"the query was stopped: it took more than {seconds:g} s. Bound it in time "
                "(WHERE time >= ...), or read fewer columns"
            )
        if answer is None or answer[0].get("memory"):
            sure = "its process ended, and probably" if answer is None else "the query was stopped:"
            raise QueryRefused(
                f"{sure} it took more than {MEMORY_BYTES >> 20} MiB of memory. "
                "Bound it in time (WHERE time >= ...), or read fewer columns"
            )
        outcome, content = answer
        if "refused" in outcome:
            raise QueryRefused(outcome["refused"])
        if content is None:
            return None
        return Result(content, outcome["truncated"], outcome["milliseconds"])

    def _take(self, readable: list[Path]) -> _Process:
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None:
                return _Process(readable)
            if process.readable == readable and process.is_alive():
                return process
            process.kill()

    def _give_back(self, process: _Process) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(process)
                return
        process.kill()


class _Process:
    def __init__(self, readable: list[Path]) -> None:
        self.readable = readable
        self._connection, theirs = Pipe()
        with theirs:
            self._popen = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-W", "ignore", "-m", "vedette.lake.sql.worker"),
                    *(str(theirs.fileno()), str(os.getpid()), *map(str, readable)),
                ],
                env={
                    **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                    "HOME": "/nonexistent",
                    "MALLOC_ARENA_MAX": "2",  # keeps the address space close to what is used
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C is for us, and we end it
            )
        if self._receive(time.monotonic() + _START_SECONDS) is None:
            self.kill()
            raise RuntimeError(f"the process for queries ended with {self._popen.returncode}")

    def is_alive(self) -> bool:
        """Whether it waits for a query."""
        return self._popen.poll() is None and not self._connection.poll()

    def ask(
        self, question: Question, files_of: FilesOf, deadline: float
    ) -> tuple[dict[str, Any], bytes | None] | None:
        """What it answers; None: it is gone, or hasn't answered by the deadline."""
        outcome = self._exchange(question, deadline)
        if outcome is not None and "reads" in outcome:
            outcome = self._exchange(files_of(outcome["reads"]), deadline)
        if outcome is None or "truncated" not in outcome:
            return None if outcome is None else (outcome, None)
        content = self._receive(time.monotonic() + _TRANSFER_SECONDS)
        return None if content is None else (outcome, content)

    def _exchange(self, told: Question | Files, deadline: float) -> dict[str, Any] | None:
        try:
            self._connection.send_bytes(orjson.dumps(told._asdict()))
        except OSError:
            return None
        text = self._receive(deadline)
        outcome: dict[str, Any] | None = None if text is None else orjson.loads(text)
        return outcome

    def was_idle(self) -> bool:
        """Whether it has ended because it was idle for long, just as it was asked."""
        with suppress(subprocess.TimeoutExpired):
            return self._popen.wait(_END_SECONDS) == 0
        return False

    def kill(self) -> None:
        """End it now."""
        self._connection.close()
        self._popen.kill()
        self._popen.wait()

    def _receive(self, deadline: float) -> bytes | None:
        connection: Connection = self._connection
        try:
            if not connection.poll(max(0.0, deadline - time.monotonic())):
                return None
            return connection.recv_bytes()
        except (EOFError, OSError):
            return None
