"""The processes that run scorers, and the one that forks them (`vedette.scoring.start`).

Importing MLflow takes seconds, and a scorer may end its process at any call. So the process that
the engine starts imports everything once and runs no scorer; it forks a worker whenever the engine
asks, which takes milliseconds, and tells the engine how each one ended. A worker serves one scorer,
so that what one scorer does to its process (patching json, filling memory) meets no other.

The engine and the forking process talk in `vedette.scoring.orders` over a socket, the engine and a
worker in `vedette.scoring.frames` over another:

=================  ============================================  ===================================
direction          header                                        blobs
=================  ============================================  ===================================
worker -> engine   problem: None, or what keeps it from working  none; once, first
engine -> worker   scorer: {serialized, name, version}           none; once
engine -> worker   seconds: time limit of one call               `payloads`, one for each trace
worker -> engine   rows: list[AssessmentRow],                    none; one message for each trace
                   spent: the last of this worker
=================  ============================================  ===================================
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import mlflow
from mlflow.entities import AssessmentError, Feedback
from mlflow.genai import scorer as scorer_decorator
from mlflow.genai.evaluation.utils import make_code_type_assessment_source

from vedette.intake.records import AssessmentRow
from vedette.scoring.call import ScorerCall
from vedette.scoring.confinement import confine, die_with_parent, limit_processor_time
from vedette.scoring.frames import FrameError, receive_frame, send_frame
from vedette.scoring.isolation import Isolation, kill_all_others
from vedette.scoring.orders import EVENT, ORDER
from vedette.traces.assessments import assessment_row

_LOOK_SECONDS = 0.02
_BATCH_LIMIT = 2**31  # the engine is trusted; this only catches a broken stream


def fork_workers(orders: socket.socket, memory_bytes: int, isolation: Isolation | None) -> NoReturn:
    """Fork workers on the orders that come through a socket, until the engine closes it.

    Args:
        memory_bytes: address space that a worker may use beyond what it starts with.
        isolation: that of the sandbox ``process``.
    """
    warnings.simplefilter("ignore")  # nobody would read them
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
    orders.sendall(EVENT.pack(b"R", os.getpid(), 0))
    while True:
        for key, _ in waiting.select():
            if key.fileobj is wake_read:
                wake_read.recv(4096)
                _report_ended(orders, children)
            elif order := _receive_order(orders):
                verb, pid, connection = order
                if connection is None:
                    if verb == b"K" and pid in children:
                        _kill(pid)
                    continue
                child = isolation.fork() if isolation else os.fork()
                if child == 0:
                    waiting.close()
                    for own in (orders, wake_read, wake_write):
                        own.close()
                    _become_worker(connection, parent, memory_bytes, isolation)
                with contextlib.suppress(OSError):  # it has ended already
                    os.setpgid(child, child)  # here too: before the first order to kill
                connection.close()
                children.add(child)
                orders.sendall(EVENT.pack(b"S", child, 0))
            else:
                for pid in children:
                    _kill(pid)
                os._exit(0)


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


def _receive_order(orders: socket.socket) -> tuple[bytes, int, socket.socket | None] | None:
    """The next order and the socket that came with it; None if the engine has gone."""
    message, descriptors, _, _ = socket.recv_fds(orders, ORDER.size, 1)
    while message and len(message) < ORDER.size:
        message += orders.recv(ORDER.size - len(message))
    if not message:
        return None
    verb, pid = ORDER.unpack(message)
    return verb, pid, socket.socket(fileno=descriptors[0]) if descriptors else None


def _report_ended(orders: socket.socket, children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if pid in children:
            children.remove(pid)
            _kill_group(pid)  # what it started and left behind in its process group
            orders.sendall(EVENT.pack(b"X", pid, status))


def _kill(worker: int) -> None:
    """End a worker, which may have left its process group, and the group."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    _kill_group(worker)


def _kill_group(group: int) -> None:
    # PermissionError is what macOS says of a group of zombies
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _become_worker(
    connection: socket.socket, parent: int, memory_bytes: int, isolation: Isolation | None
) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        _discard_output()
        try:
            if isolation:
                isolation.enter_worker()
            else:
                die_with_parent(parent)
            confine(memory_bytes, alone=isolation is not None)
        except OSError as error:
            send_frame(connection, {"problem": str(error)})
        else:
            send_frame(connection, {"problem": None})
            serve(connection, kill_all_others if isolation else None)
        status = 0
    finally:
        os._exit(status)  # not through the parent's exit handlers


def _discard_output() -> None:
    """Scorers may print as much as they like; nobody listens."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def serve(connection: socket.socket, tidy: Callable[[], None] | None) -> None:
    """A worker's life: load the scorer it is given, then answer batches until the engine hangs up.

    Answers go out one by one, so that the engine knows which trace a worker died of.

    Args:
        tidy: ends the processes that a call has left behind.
    """
    try:
        header, _ = receive_frame(connection, limit=_BATCH_LIMIT)
    except FrameError:  # it was not needed after all
        return
    scorer = header["scorer"]
    call: ScorerCall | None = None
    while True:
        try:
            header, traces = receive_frame(connection, limit=_BATCH_LIMIT)
        except FrameError:
            return
        for left, trace in zip(reversed(range(len(traces))), traces, strict=True):
            limit_processor_time(header["seconds"])
            try:
                call = call or ScorerCall(**scorer, isolated=tidy is not None)
                rows = call(trace)
            except BaseException as error:
                rows = [_load_failure(scorer["name"], error)]
            if tidy:
                tidy()
            send_frame(connection, {"rows": rows, "spent": left == 0 and _has_busy_threads()})


def _has_busy_threads() -> bool:
    """Whether threads that the scorer has left behind use the processor. Idle ones harm nobody."""
    try:
        if len(os.listdir("/proc/self/task")) == 1:
            return False
    except OSError:  # not Linux
        return False
    start = time.process_time()
    time.sleep(_LOOK_SECONDS)
    return time.process_time() - start > _LOOK_SECONDS / 2


def _load_failure(name: str, error: BaseException) -> AssessmentRow:
    problem = AssessmentError(error_code="SCORER_NOT_LOADED", error_message=str(error)[:4000])
    return assessment_row(
        Feedback(name=name, source=make_code_type_assessment_source(name), error=problem), ""
    )
