"""The processes that run scorers: ``python -m vedette.scoring.worker``, started by the engine.

Importing MLflow takes seconds, and a scorer may end its process at any call. So the process that
the engine starts imports everything once and runs no scorer; it forks a worker whenever the engine
asks, which takes milliseconds, and tells the engine how each one ended. A worker serves one scorer,
so that what one scorer does to its process (patching json, filling memory) meets no other.

The engine and the forking process talk in `vedette.scoring.orders` over a socket, the engine and a
worker in `vedette.scoring.frames` over another:

=================  ============================================  ===================================
direction          header                                        blobs
=================  ============================================  ===================================
engine -> worker   scorer: {serialized, name, version}           none; once, first
engine -> worker   seconds: time limit of one call               `payloads`, one for each trace
worker -> engine   rows: list[AssessmentRow], milliseconds       none; one message for each trace
=================  ============================================  ===================================
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
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
from vedette.scoring.orders import ENGINE_GONE, EVENT, ORDER
from vedette.traces.assessments import assessment_row

_BATCH_LIMIT = 2**31  # the engine is trusted; this only catches a broken stream


def main() -> None:
    """Fork workers on the orders that come through the socket given as the first argument.

    The second argument is the memory limit of a worker in bytes.
    """
    orders = socket.socket(fileno=int(sys.argv[1]))
    memory_bytes = int(sys.argv[2])
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
    status = 0
    try:
        orders.sendall(EVENT.pack(b"R", os.getpid(), 0))
        ended = False
        while not ended:
            for key, _ in waiting.select():
                if key.fileobj is wake_read:
                    wake_read.recv(4096)
                    _report_ended(orders, children)
                elif not _obey(orders, children, memory_bytes, [orders, wake_read, wake_write]):
                    ended = True
    except ConnectionError:  # killed, perhaps; that is no news to whoever reads our stderr
        status = ENGINE_GONE
    for pid in children:
        _kill(pid)
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


def _obey(
    orders: socket.socket, children: set[int], memory_bytes: int, own: list[socket.socket]
) -> bool:
    """Carry out one order; False if it is to end.

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
    if verb == b"E":
        return False
    if verb == b"K":
        if pid in children:
            _kill(pid)
        return True
    connection = socket.socket(fileno=descriptors[0])
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _become_worker(connection, parent, memory_bytes, own)
    with contextlib.suppress(OSError):  # it has ended already
        os.setpgid(child, child)  # here too: it must be done before the first order to kill
    connection.close()
    children.add(child)
    orders.sendall(EVENT.pack(b"S", child, 0))
    return True


def _report_ended(orders: socket.socket, children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if pid in children:
            children.remove(pid)
            _kill(pid)  # what it started and left behind in its process group
            orders.sendall(EVENT.pack(b"X", pid, status))


def _kill(group: int) -> None:
    # PermissionError is what macOS says of a group of zombies
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _become_worker(
    connection: socket.socket, parent: int, memory_bytes: int, inherited: list[socket.socket]
) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        die_with_parent(parent)
        for other in inherited:
            other.close()
        _discard_output()
        confine(memory_bytes)
        serve(connection)
        status = 0
    except ConnectionError:
        status = ENGINE_GONE
    finally:
        os._exit(status)  # not through the parent's exit handlers


def _discard_output() -> None:
    """Scorers may print as much as they like; nobody listens."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def serve(connection: socket.socket) -> None:
    """A worker's life: load the scorer it is given, then answer batches until the engine hangs up.

    Answers go out one by one, so that the engine knows which trace a worker died of.

    Raises:
        ConnectionError: the engine hung up before it had its answers.
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
        for trace in traces:
            limit_processor_time(header["seconds"])
            start = time.perf_counter()
            try:
                call = call or ScorerCall(scorer["serialized"], scorer["name"], scorer["version"])
                rows = call(trace)
            except BaseException as error:
                rows = [_load_failure(scorer["name"], error)]
            milliseconds = (time.perf_counter() - start) * 1000
            send_frame(connection, {"rows": rows, "milliseconds": milliseconds})


def _load_failure(name: str, error: BaseException) -> AssessmentRow:
    problem = AssessmentError(error_code="SCORER_NOT_LOADED", error_message=str(error)[:4000])
    return assessment_row(
        Feedback(name=name, source=make_code_type_assessment_source(name), error=problem), ""
    )


if __name__ == "__main__":
    main()
