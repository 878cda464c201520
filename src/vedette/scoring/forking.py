"""The process that forks workers.

Importing MLflow takes seconds, and a scorer may end its process at any call. So the process that
the engine starts (`vedette.scoring.start`) imports everything once and runs no scorer; it forks a
worker whenever the engine asks, which takes milliseconds, and tells the engine how each one ended.
The two talk in `vedette.scoring.orders` over a socket.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import mlflow
from mlflow.entities import Feedback
from mlflow.genai import scorer as scorer_decorator

from vedette.scoring import syscalls
from vedette.scoring.isolation import Isolation
from vedette.scoring.orders import ENGINE_GONE, EVENT, ORDER
from vedette.scoring.worker import become_worker
from vedette.traces.assessments import assessment_row


def fork_workers(
    orders: socket.socket, memory_bytes: int | None, isolation: Isolation | None
) -> NoReturn:
    """Fork workers on the orders that come through a socket, until it says so, or is gone.

    Args:
        memory_bytes: address space that a worker may use beyond what it starts with; None: workers
            have no limits.
        isolation: that of the sandbox ``container``.
    """
    warnings.simplefilter("ignore")  # nobody would read them
    if sys.platform == "linux":
        syscalls.adopt_orphans()
    _warm_up()
    wake_read, wake_write = socket.socketpair()
    wake_read.setblocking(False)
    wake_write.setblocking(False)
    signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    waiting = selectors.DefaultSelector()
    waiting.register(orders, selectors.EVENT_READ)
    waiting.register(wake_read, selectors.EVENT_READ)
    children: set[int] = set()
    parent = os.getpid()
    status = 0
    try:
        orders.sendall(EVENT.pack(b"R", parent, 0))
        ended = False
        while not ended:
            for key, _ in waiting.select():
                if key.fileobj is wake_read:
                    wake_read.recv(4096)
                    _report_ended(orders, children)
                    continue
                verb, pid, connection = _receive_order(orders)
                ended = ended or verb == b"E"
                if verb == b"K" and pid in children:
                    _kill(pid)
                if connection is None:
                    continue
                child = isolation.fork() if isolation else os.fork()
                if child == 0:
                    waiting.close()
                    for own in (orders, wake_read, wake_write):
                        own.close()
                    become_worker(connection, parent, memory_bytes, isolation)
                connection.close()
                children.add(child)
                orders.sendall(EVENT.pack(b"S", child, 0))
    except ConnectionError:  # killed, perhaps; that is no news to whoever reads our stderr
        status = ENGINE_GONE
    _end_all(children)
    os._exit(status)


def _warm_up() -> None:
    """Do once what the first call of a scorer does, then keep the collector off what is loaded:
    it would write to every page, and a page written to is no longer shared by the workers."""
    mlflow.tracing.disable()  # a scorer that uses @mlflow.trace is not an agent to be watched

    @scorer_decorator(name="warm_up", timeout=0)
    def warm_up(outputs: Any) -> bool:
        return outputs is None

    run: Callable[..., Any] = warm_up.run
    assessment_row(Feedback(name="warm_up", value=run(outputs=None)), "")
    gc.collect()
    gc.freeze()


def _receive_order(orders: socket.socket) -> tuple[bytes, int, socket.socket | None]:
    """The next order and the socket that came with it.

    Raises:
        ConnectionError: the engine has gone.
    """
    message, descriptors, _, _ = socket.recv_fds(orders, ORDER.size, 1)
    while len(message) < ORDER.size:
        more = orders.recv(ORDER.size - len(message)) if message else b""
        if not more:
            raise ConnectionResetError("the engine has gone")
        message += more
    verb, pid = ORDER.unpack(message)
    return verb, pid, socket.socket(fileno=descriptors[0]) if descriptors else None


def _report_ended(orders: socket.socket, children: set[int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            if pid in children:
                children.remove(pid)
                _kill_group(pid)  # what it started and left behind in its process group
                orders.sendall(EVENT.pack(b"X", pid, status))
    _kill_strays(children)


def _kill_strays(children: set[int]) -> None:
    """End what workers, or processes that they started, have left to this process."""
    try:
        mine = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    except OSError:  # not Linux, or a kernel that does not tell
        return
    for pid in {int(pid) for pid in mine} - children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _end_all(children: set[int]) -> None:
    for pid in children:
        _kill(pid)
    with contextlib.suppress(ChildProcessError):
        while True:  # what one that ended leaves behind comes to this process
            _kill_strays(set())
            os.wait()


def _kill(worker: int) -> None:
    """End a worker, which may have left its process group, and the group."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    _kill_group(worker)


def _kill_group(group: int) -> None:
    # PermissionError is what macOS says of a group of zombies
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
