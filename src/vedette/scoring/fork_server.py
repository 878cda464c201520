"""The engine's end of the process that forks workers: start it, order workers, hear they ended."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vedette.scoring.confinement import worker_environment
from vedette.scoring.orders import EVENT, ORDER
from vedette.scoring.sandbox import Sandbox

logger = logging.getLogger(__name__)

_START_SECONDS = 120.0  # importing MLflow on a machine that is busy
_FORK_SECONDS = 30.0
_EXIT_SECONDS = 5.0
_LONGEST_BACKOFF = 60.0


class WorkersUnavailable(Exception):
    """No worker can be had now. Not the fault of a scorer; try again later."""


@dataclass(eq=False, slots=True)
class Child:
    """A forked worker: its process id (also its process group) and our end of its socket."""

    pid: int
    connection: socket.socket
    ended: Future[int]  # wait status


class ForkServer:
    """Starts the forking process when the first worker is wanted, and again if it dies.

    Args:
        scratch: the workers' home and working directory; emptied first, removed in the end.
        memory_bytes: address space that a worker may use beyond what it starts with.
        sandbox: of the workers.
    """

    def __init__(self, scratch: Path, memory_bytes: int, sandbox: Sandbox) -> None:
        self._memory_bytes = memory_bytes
        self._sandbox = sandbox
        self._scratch = scratch
        shutil.rmtree(scratch, ignore_errors=True)  # what an engine that was killed has left
        scratch.mkdir(parents=True)
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._failures = 0
        self._not_before = 0.0
        self._closed = False

    def prepare(self) -> None:
        """Have the forking process started and ready.

        Raises:
            WorkersUnavailable: it can't be started, or died, or is closing.
        """
        self._running().wait_ready()

    def fork(self) -> Child:
        """A new worker.

        Raises:
            WorkersUnavailable: the forking process can't be started, or died, or is closing.
        """
        process = self._running()
        process.wait_ready()
        return process.fork()

    def kill(self, child: Child) -> None:
        """End a worker and what it started. Harmless if it has ended."""
        child.connection.close()
        with self._lock:
            if self._process is not None:
                self._process.kill(child)

    def close(self) -> None:
        """End the forking process and with it every worker."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.stop()
                self._process = None
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _running(self) -> _Process:
        with self._lock:
            if self._closed:
                raise WorkersUnavailable("scoring is stopping")
            if self._process is not None and not self._process.alive:
                self._process.stop()
                self._failures = 1 if self._process.was_ready else self._failures + 1
                wait = min(_LONGEST_BACKOFF, 0.25 * 2**self._failures)
                logger.warning(
                    "the process that forks scorer workers died; another starts in %.1f s", wait
                )
                self._not_before = time.monotonic() + wait
                self._process = None
            if self._process is None:
                if time.monotonic() < self._not_before:
                    raise WorkersUnavailable("the process that forks scorer workers has died")
                self._process = _Process(self._scratch, self._memory_bytes, self._sandbox)
            return self._process


class _Process:
    """One forking process and a thread that listens to it."""

    def __init__(self, scratch: Path, memory_bytes: int, sandbox: Sandbox) -> None:
        self._orders, theirs = socket.socketpair()
        with theirs:
            self._popen = subprocess.Popen(
                [
                    # -P: what scorers write into their directory can't be imported
                    *(sys.executable, "-P", "-W", "ignore", "-m", "vedette.scoring.start"),
                    *(str(theirs.fileno()), str(memory_bytes), sandbox.name),
                    *map(str, sandbox.hidden),
                ],
                cwd=scratch,
                env=worker_environment(os.environ, scratch),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C is for the engine, which closes us
            )
        self._ready: Future[int] = Future()
        self._starting: deque[Future[tuple[int, Future[int]]]] = deque()
        self._children: dict[int, Future[int]] = {}
        self._lock = threading.Lock()
        self.alive = True
        self._thread = threading.Thread(target=self._listen, name="scorer-forks", daemon=True)
        self._thread.start()

    @property
    def was_ready(self) -> bool:
        """Whether it ever got as far as to fork."""
        return self._ready.done() and self._ready.exception() is None

    def wait_ready(self) -> None:
        """Wait until it has imported what workers need."""
        try:
            self._ready.result(_START_SECONDS)
        except TimeoutError:
            self.stop()
            raise WorkersUnavailable(
                f"the process that forks scorer workers was not ready in {_START_SECONDS:.0f} s"
            ) from None

    def fork(self) -> Child:
        ours, theirs = socket.socketpair()
        started: Future[tuple[int, Future[int]]] = Future()
        with theirs:
            try:
                with self._lock:
                    if not self.alive:
                        raise OSError("it has ended")
                    socket.send_fds(self._orders, [ORDER.pack(b"S", 0)], [theirs.fileno()])
                    self._starting.append(started)  # under the lock: answers come in turn
                pid, ended = started.result(_FORK_SECONDS)
            except (OSError, TimeoutError, WorkersUnavailable) as error:
                ours.close()
                raise WorkersUnavailable(f"no worker could be forked: {error}") from error
        return Child(pid, ours, ended)

    def kill(self, child: Child) -> None:
        with self._lock:
            if self._children.get(child.pid) is not child.ended:
                return  # it has ended; its number may be another process's by now
        with suppress(OSError):  # the forking process has ended, and with it all workers
            self._orders.sendall(ORDER.pack(b"K", child.pid))

    def stop(self) -> None:
        """End it and its workers. Harmless if it has ended."""
        if self.was_ready:
            with suppress(OSError):
                self._orders.sendall(ORDER.pack(b"E", 0))  # it kills its workers and exits
        else:
            self._popen.kill()  # it is importing, and has no workers
        try:
            self._popen.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._thread.join()
        self._orders.close()

    def _listen(self) -> None:
        try:
            while True:
                message = self._orders.recv(EVENT.size, socket.MSG_WAITALL)
                if len(message) < EVENT.size:
                    break
                verb, pid, status = EVENT.unpack(message)
                with self._lock:
                    if verb == b"R":
                        self._ready.set_result(pid)
                    elif verb == b"S":
                        self._children[pid] = Future()
                        self._starting.popleft().set_result((pid, self._children[pid]))
                    elif ended := self._children.pop(pid, None):
                        ended.set_result(status)
        except OSError:
            pass
        with self._lock:
            self.alive = False
            gone = WorkersUnavailable("the process that forks scorer workers died")
            if not self._ready.done():
                self._ready.set_exception(gone)
            for waiting in self._starting:
                waiting.set_exception(gone)
            for ended in self._children.values():
                ended.set_result(signal.SIGKILL)
            self._children.clear()
