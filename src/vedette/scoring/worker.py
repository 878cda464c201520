"""The processes that run scorers.

A worker serves one scorer, so that what one scorer does to its process (patching json, filling
memory) meets no other. The engine and a worker talk in `vedette.scoring.frames` over a socket:

=================  ============================================  ===================================
direction          header                                        blobs
=================  ============================================  ===================================
worker -> engine   problem: None, or what keeps it from working  none; once, first
engine -> worker   scorer: {serialized, name, version},          none; once
                   backfill: whether that is what it is for
engine -> worker   seconds: time limit of one call               `payloads`, one for each trace
worker -> engine   rows: list[AssessmentRow],                    none; one message for each trace
                   spent: the last of this worker
=================  ============================================  ===================================
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from typing import NoReturn

from mlflow.entities import AssessmentError, Feedback
from mlflow.genai.evaluation.utils import make_code_type_assessment_source

from vedette.intake.records import AssessmentRow
from vedette.scoring.call import ScorerCall
from vedette.scoring.confinement import (
    confine,
    die_with_parent,
    go_behind_live,
    limit_processor_time,
)
from vedette.scoring.frames import FrameError, receive_frame, send_frame
from vedette.scoring.isolation import Isolation, kill_all_others
from vedette.scoring.orders import ENGINE_GONE
from vedette.traces.assessments import assessment_row

_LOOK_SECONDS = 0.02
_BATCH_LIMIT = 2**31  # the engine is trusted; this only catches a broken stream


def become_worker(
    connection: socket.socket, parent: int, memory_bytes: int | None, isolation: Isolation | None
) -> NoReturn:
    """Turn this process, just forked, into a worker, until the engine hangs up.

    Args:
        connection: to the engine.
        parent: process id of the process that forked it.
        memory_bytes: address space that it may use beyond what it starts with; None: it has no
            limits.
        isolation: that of the sandbox ``container``.
    """
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()  # a group to be killed, and to share the processor evenly with (autogroup)
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


def serve(connection: socket.socket, tidy: Callable[[], None] | None) -> None:
    """A worker's life: load the scorer it is given, then answer batches until the engine hangs up.

    Answers go out one by one, so that the engine knows which trace a worker died of.

    Args:
        tidy: ends the processes that a call has left behind.

    Raises:
        ConnectionError: the engine hung up before it had its answers.
    """
    try:
        header, _ = receive_frame(connection, limit=_BATCH_LIMIT)
    except FrameError:  # it was not needed after all
        return
    scorer = header["scorer"]
    if header["backfill"]:
        go_behind_live()
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
