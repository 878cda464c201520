"""Run scorers in worker processes: batches, time limits, and a fresh worker after every accident.

Each scorer has its own workers, at most ``per_scorer``, so one that hangs takes nothing from the
others. An accident is charged to the trace at hand and to no other: what a worker answered before
it counts, what came after it is for the caller to submit again, so that neither of them is kept
busy by a scorer that hangs on every trace.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from vedette.scoring.accidents import Accident, crashed, disturbed, too_slow
from vedette.scoring.active import ActiveScorer
from vedette.scoring.answers import BadAnswer, checked_rows, failed_row
from vedette.scoring.fork_server import Child, ForkServer, WorkersUnavailable
from vedette.scoring.frames import FrameError, PeerGone, receive_frame, send_frame
from vedette.scoring.outcomes import Outcome, Unit
from vedette.scoring.sandbox import Sandbox

__all__ = ["WorkerPool", "WorkersUnavailable"]

logger = logging.getLogger(__name__)

_ANSWER_BYTES = 4 * 1024 * 1024
_SEND_SECONDS = 60.0
_START_SECONDS = 30.0
_START_TRIES = 3  # somebody else may have killed it
_IDLE_SECONDS = 60.0


@dataclass(eq=False)
class _Lane:
    """One version of one scorer: the batches that wait for it and its idle workers."""

    scorer: ActiveScorer
    waiting: deque[tuple[Sequence[Unit], Future[list[Outcome]]]] = field(default_factory=deque)
    idle: list[tuple[Child, float]] = field(default_factory=list)
    running: int = 0


class WorkerPool:
    """Worker processes for all scorers.

    Args:
        scratch: directory for the workers, emptied first and removed in the end.
        sandbox: what keeps workers from the machine, besides limits.
        per_scorer: workers that one scorer may keep busy.
        processes: workers in all; idle ones make room for others.
        timeout: seconds for one call of a scorer that sets no limit itself.
        memory_bytes: address space that a worker may use beyond what it starts with.
    """

    def __init__(
        self,
        scratch: Path,
        sandbox: Sandbox,
        *,
        per_scorer: int = 2,
        processes: int = 32,
        timeout: float = 300.0,
        memory_bytes: int = 1024 * 1024 * 1024,
    ) -> None:
        self._per_scorer = per_scorer
        self._most = processes
        self._timeout = timeout
        self._forks = ForkServer(scratch, memory_bytes, sandbox)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="scorer")
        self._lock = threading.Lock()
        self._lanes: dict[tuple[str, int, str], _Lane] = {}
        self._count = 0  # workers alive, idle or not
        self._closed = False

    def prepare(self) -> None:
        """Start, without waiting for it, what takes seconds before the first worker runs."""
        with self._lock:
            if not self._closed:
                self._threads.submit(self._forks.prepare)

    def submit(self, scorer: ActiveScorer, units: Sequence[Unit]) -> Future[list[Outcome]]:
        """Score the units, in order, in one worker after other work of this scorer.

        The future has one outcome for each unit, up to the first that cost a worker; or
        `WorkersUnavailable`: then nothing is known of any of them. It is for the caller to submit
        the others again, or to cancel the future, which it can until a worker has begun.
        """
        future: Future[list[Outcome]] = Future()
        with self._lock:
            if self._closed:
                future.set_exception(WorkersUnavailable("scoring is stopping"))
                return future
            identity = (scorer.key, scorer.version, scorer.serialized)
            lane = self._lanes.setdefault(identity, _Lane(scorer))
            lane.waiting.append((units, future))
            busy = sum(one.running for one in self._lanes.values())
            # A first worker for each scorer goes before a second for any
            if lane.running == 0 or (lane.running < self._per_scorer and busy < self._most // 2):
                lane.running += 1
                self._threads.submit(self._work, lane)
        return future

    @property
    def processes(self) -> int:
        """Workers that are alive."""
        return self._count

    def retire_idle(self) -> None:
        """End workers that have had nothing to do for a minute. Call it now and then."""
        limit = time.monotonic() - _IDLE_SECONDS
        with self._lock:
            retired = []
            for identity, lane in list(self._lanes.items()):
                retired += [child for child, since in lane.idle if since <= limit]
                lane.idle = [(child, since) for child, since in lane.idle if since > limit]
                if not (lane.idle or lane.waiting or lane.running):
                    del self._lanes[identity]
            self._count -= len(retired)
        for child in retired:
            self._forks.kill(child)

    def close(self) -> None:
        """End all workers. Batches that are not done fail with `WorkersUnavailable`."""
        with self._lock:
            self._closed = True
            waiting = [item for lane in self._lanes.values() for item in lane.waiting]
            for lane in self._lanes.values():
                lane.waiting.clear()
        for _, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(WorkersUnavailable("scoring is stopping"))
        self._forks.close()
        self._threads.shutdown()

    def _work(self, lane: _Lane) -> None:
        """One batch of a lane, then to the back of the queue: lanes take turns."""
        with self._lock:
            if not lane.waiting:
                lane.running -= 1
                return
            units, future = lane.waiting.popleft()
        if future.set_running_or_notify_cancel():  # else nobody wants it any more
            self._run(lane, units, future)
        with self._lock:
            if lane.waiting and not self._closed:
                self._threads.submit(self._work, lane)
            else:
                lane.running -= 1

    def _run(self, lane: _Lane, units: Sequence[Unit], future: Future[list[Outcome]]) -> None:
        try:
            future.set_result(self._score(lane, units))
        except WorkersUnavailable as error:
            future.set_exception(error)
        except Exception as error:
            logger.exception("a batch of scorer %s could not be run", lane.scorer.key)
            future.set_exception(WorkersUnavailable(str(error)))

    def _score(self, lane: _Lane, units: Sequence[Unit]) -> list[Outcome]:
        """Outcomes of the units up to the first that cost a worker."""
        outcomes: list[Outcome] = []
        tries = Counter[int]()  # accidents of each unit, by place
        while len(outcomes) < len(units):
            child = self._take(lane)
            try:
                spent = self._converse(child, lane.scorer, units[len(outcomes) :], outcomes)
            except Accident as accident:
                self._discard(child)
                at = len(outcomes)
                if self._closed:
                    raise WorkersUnavailable("scoring is stopping") from accident
                tries[at] += 1
                if tries[at] < accident.tries:
                    continue
                logger.warning("scorer %s, %s: %s", lane.scorer.key, units[at].unit_id, accident)
                row = failed_row(lane.scorer.name, accident.code, str(accident))
                outcomes.append(Outcome(units[at].unit_id, [row], 0.0, f"pid {child.pid}"))
                return outcomes
            except BaseException:
                self._discard(child)
                raise
            else:
                if spent:
                    self._discard(child)
                else:
                    with self._lock:
                        lane.idle.append((child, time.monotonic()))
        return outcomes

    def _converse(
        self, child: Child, scorer: ActiveScorer, units: Sequence[Unit], outcomes: list[Outcome]
    ) -> bool:
        """Have a worker score the units; outcomes are added as they come. True if the worker should
        not go on after that."""
        limit = scorer.timeout_seconds or self._timeout
        spent = False
        try:
            child.connection.settimeout(_SEND_SECONDS)
            send_frame(child.connection, {"seconds": limit}, [unit.payload for unit in units])
            for unit in units:
                start = time.monotonic()
                header, _ = receive_frame(
                    child.connection, limit=_ANSWER_BYTES, deadline=start + limit
                )
                rows = checked_rows(header)
                spent = header.get("spent") is True
                elapsed = (time.monotonic() - start) * 1000
                outcomes.append(Outcome(unit.unit_id, rows, elapsed, f"pid {child.pid}"))
        except TimeoutError as error:
            raise too_slow(scorer.name, limit) from error
        except (PeerGone, OSError) as error:
            raise crashed(scorer.name, child) from error
        except (FrameError, BadAnswer) as error:
            raise disturbed(scorer.name, error) from error
        return spent

    def _take(self, lane: _Lane) -> Child:
        """An idle worker of the lane or a new one, which must take the place of another if there
        are enough. There is an idle one then: a thread holds at most one, and there are no more
        threads than workers."""
        superfluous = None
        with self._lock:
            while lane.idle:
                child, _ = lane.idle.pop()
                if not child.ended.done():
                    return child
                child.connection.close()
                self._count -= 1
            self._count += 1
            if self._count > self._most:
                superfluous = self._longest_idle()
                self._count -= 1
        if superfluous is not None:
            self._forks.kill(superfluous)
        try:
            return self._start(lane.scorer)
        except BaseException:
            with self._lock:
                self._count -= 1
            raise

    def _start(self, scorer: ActiveScorer) -> Child:
        """A new worker that is ready for batches of the scorer."""
        known = {"serialized": scorer.serialized, "name": scorer.name, "version": scorer.version}
        problem: Exception | None = None
        for _ in range(_START_TRIES):
            child = self._forks.fork()
            try:
                child.connection.settimeout(_SEND_SECONDS)
                send_frame(child.connection, {"scorer": known, "backfill": scorer.job is not None})
                deadline = time.monotonic() + _START_SECONDS
                greeting, _ = receive_frame(
                    child.connection, limit=_ANSWER_BYTES, deadline=deadline
                )
                if said := greeting.get("problem"):
                    raise OSError(said)
            except (FrameError, OSError) as error:
                self._forks.kill(child)
                problem = error
            else:
                return child
        raise WorkersUnavailable(f"a new worker can't work: {problem}") from problem

    def _longest_idle(self) -> Child | None:
        since, oldest = math.inf, None
        for lane in self._lanes.values():
            if lane.idle and lane.idle[0][1] < since:
                since, oldest = lane.idle[0][1], lane
        return None if oldest is None else oldest.idle.pop(0)[0]

    def _discard(self, child: Child) -> None:
        with self._lock:
            self._count -= 1
        self._forks.kill(child)
