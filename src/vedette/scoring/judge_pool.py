"""Run judges in the judge host: as many calls at once as the models bear, none for ever.

A unit waits here until the model it asks has room (`vedette.scoring.endpoints`), so that a slow
model keeps nobody waiting but those who ask it. What comes back is final feedback, or why there is
none yet: trying again later is for the caller.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vedette.scoring.active import ActiveScorer
from vedette.scoring.answers import BadAnswer, checked_rows, failed_row
from vedette.scoring.judge_environment import judge_environment
from vedette.scoring.judge_process import JudgeProcess
from vedette.scoring.judge_queue import Job, JudgeQueue, fail
from vedette.scoring.judges import models
from vedette.scoring.outcomes import Hold, Outcome, Retry, Unit
from vedette.scoring.price_table import PriceTable
from vedette.scoring.usage import own_cost, usage_of

logger = logging.getLogger(__name__)

_GRACE_SECONDS = 2.0  # after the time limit, for the host to say so itself
_MOST_LOST = 16  # threads that hang in one host before another takes its place
_START_SECONDS = 120.0  # importing MLflow on a machine that is busy
_SILENT_SECONDS = 60.0  # a host that doesn't stir for so long is stuck
_TRIES = 2  # hosts that may die of, or with, a unit before it is sent back
_IDLE_SECONDS = 600.0
_LONGEST_BACKOFF = 60.0
_TICK_SECONDS = 0.1  # between looks while there is something to do,
_LOOK_SECONDS = 5.0  # and at a host that has nothing to do


@dataclass(eq=False, slots=True)
class _Host:
    process: JudgeProcess
    jobs: dict[int, Job] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)  # jobs whose threads may hang for ever


class JudgePool:
    """The judges of all scorers. Its face is that of `vedette.scoring.pool.WorkerPool`.

    Args:
        scratch: working directory of hosts, emptied first and removed in the end.
        concurrency: calls that may be under way to one model.
        timeout: seconds for one unit of a scorer that sets no limit itself.
        tracking_uri: of MLflow's server, for `gateway:/` models and judges that look at traces.
        prices: what calls cost where the provider doesn't tell.
    """

    def __init__(
        self,
        scratch: Path,
        *,
        concurrency: int = 32,
        timeout: float = 300.0,
        tracking_uri: str | None = None,
        prices: PriceTable | None = None,
    ) -> None:
        shutil.rmtree(scratch, ignore_errors=True)  # what an engine that was killed has left
        scratch.mkdir(parents=True)
        self._scratch = scratch
        self._timeout = timeout
        self._tracking_uri = tracking_uri
        self._prices = prices or PriceTable()
        self._changed = threading.Condition()  # holds for all that follows
        self._queue = JudgeQueue(concurrency)
        self._hosts: list[_Host] = []  # the last one takes new units
        self._ids = itertools.count(1)
        self._wanted = False
        self._failures = 0
        self._start_after = 0.0
        self._used_at = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._manage, name="judge-pool", daemon=True)
        self._thread.start()

    def prepare(self) -> None:
        """Start, without waiting for it, what takes seconds before the first judge runs."""
        with self._changed:
            self._wanted, self._used_at = True, time.monotonic()
            self._changed.notify()

    def submit(self, scorer: ActiveScorer, units: Sequence[Unit]) -> Future[list[Outcome]]:
        """Judge the units, in any order.

        The future has one outcome for each unit, in their order; or `WorkersUnavailable`, then it
        is for the caller to submit them again. What waits when it is cancelled is not asked.
        """
        asked = models(scorer.definition, os.environ) or ["no model"]
        with self._changed:
            batch = self._queue.put(scorer, asked, units)
            if self._closed:
                fail([batch], "scoring is stopping")
            if not units:
                batch.future.set_result([])
        self.prepare()
        return batch.future

    @property
    def processes(self) -> int:
        """Judge hosts that are alive."""
        return len(self._hosts)

    def state(self) -> dict[str, dict[str, float]]:
        """How it is with each model, for ``/health``: see `JudgeQueue.state`."""
        with self._changed:
            return self._queue.state(time.monotonic())

    def retire_idle(self) -> None:
        """End the host if it has had nothing to do for ten minutes. Call it now and then."""
        with self._changed:
            if self._queue.busy or time.monotonic() - self._used_at < _IDLE_SECONDS:
                return
            self._wanted = False
            idle, self._hosts = self._hosts, []
        for host in idle:
            host.process.close()

    def close(self) -> None:
        """End all judges. Batches that are not done fail with `WorkersUnavailable`."""
        with self._changed:
            self._closed = True
            unfinished = self._queue.forget_waiting()
            hosts, self._hosts = self._hosts, []
            unfinished += [job.batch for host in hosts for job in host.jobs.values()]
            self._changed.notify()
        fail(unfinished, "scoring is stopping")
        for host in hosts:
            host.process.close()
        self._thread.join()
        shutil.rmtree(self._scratch, ignore_errors=True)

    # The thread that starts hosts and sends to them

    def _manage(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                self._expire(now)
                self._watch_hosts(now)
                self._queue.send_back_patient(now)
                host = self._hosts[-1] if self._hosts else None
                jobs = self._queue.due(now) if host and host.process.ready else []
                if not jobs:
                    self._changed.wait(self._leisure())
            if host is not None:
                for job in jobs:
                    self._send(host, job)

    def _leisure(self) -> float | None:
        """How long nothing has to be done unless we are told."""
        if self._queue.busy or (self._wanted and not self._hosts):
            return _TICK_SECONDS
        return _LOOK_SECONDS if self._hosts else None

    def _expire(self, now: float) -> None:
        for host in self._hosts:
            for number, job in list(host.jobs.items()):
                limit = self._limit(job.batch.scorer)
                if now > job.started + limit + _GRACE_SECONDS:
                    del host.jobs[number]
                    host.lost.add(number)
                    message = f"{job.batch.models[0]} gave no answer within {limit:g} seconds."
                    self._queue.finish(job, job.sent_back(Retry("TIMEOUT", message, None)), now)

    def _watch_hosts(self, now: float) -> None:
        for host in self._hosts:
            patience = _SILENT_SECONDS if host.process.ready else _START_SECONDS
            done = host is not self._hosts[-1] and not host.jobs
            if done or now - host.process.heard_at > patience:
                host.process.kill()  # we hear of its end
        usable = bool(self._hosts) and len(self._hosts[-1].lost) < _MOST_LOST
        if not usable and self._wanted and now >= self._start_after:
            self._start_host(now)

    def _start_host(self, now: float) -> None:
        try:
            process = JudgeProcess(
                self._scratch,
                judge_environment(os.environ, self._tracking_uri, self._timeout),
                self._tracking_uri,
                heard=self._heard,
                ended=self._ended,
            )
        except OSError as error:
            self._not_started(now, f"the process that runs judges can't be started: {error}")
        else:
            self._hosts.append(_Host(process))

    def _not_started(self, now: float, reason: str) -> None:
        self._failures += 1
        wait = min(_LONGEST_BACKOFF, 0.25 * 2.0 ** min(self._failures, 10))
        self._start_after = now + wait
        logger.warning("%s; another try in %.1f s", reason, wait)
        if self._failures > 1:  # once may be an accident
            fail(self._queue.forget_waiting(), reason)

    def _send(self, host: _Host, job: Job) -> None:
        scorer = job.batch.scorer
        number = next(self._ids)
        header = {
            "id": number,
            "serialized": scorer.serialized,
            "name": scorer.name,
            "version": scorer.version,
            "seconds": self._limit(scorer),
            "model": ", ".join(job.batch.models),
        }
        with self._changed:
            if host not in self._hosts:  # it has ended meanwhile
                self._queue.again(job)
                if self._closed:
                    fail([job.batch], "scoring is stopping")
                return
            host.jobs[number] = job
        try:
            host.process.send(header, [job.unit.payload])
        except OSError:
            host.process.kill()  # we hear of its end, and take back what it had

    def _limit(self, scorer: ActiveScorer) -> float:
        return scorer.timeout_seconds or self._timeout

    # What comes back, in the threads that listen to hosts

    def _heard(self, process: JudgeProcess, message: dict[str, Any]) -> None:
        with self._changed:
            if "ready" in message:
                self._failures = 0
                self._changed.notify()
            host = self._host_of(process)
            if host is None or "id" not in message:
                return
            host.lost.discard(message["id"])
            job = host.jobs.pop(message["id"], None)
        if job is not None:  # else it came too late
            outcome = self._outcome(process, job, message)
            with self._changed:
                self._used_at = time.monotonic()
                self._queue.finish(job, outcome, self._used_at)
                self._changed.notify()

    def _ended(self, process: JudgeProcess) -> None:
        with self._changed:
            host = self._host_of(process)
            if host is None:
                return  # as we wanted it to
            now = time.monotonic()
            replaced = host is not self._hosts[-1]
            self._hosts.remove(host)
            if not process.ready:
                self._not_started(now, "the process that runs judges ended before it was ready")
            elif not replaced:
                logger.warning("the process that runs judges died; another starts")
                self._start_after = now + 0.5
            for job in host.jobs.values():
                job.tries += 1
                if job.tries < _TRIES:
                    self._queue.again(job)
                else:
                    message = "The process that runs judges died meanwhile, more than once."
                    outcome = job.sent_back(Retry("UNAVAILABLE", message, None))
                    self._queue.finish(job, outcome, now)
            self._changed.notify()

    def _host_of(self, process: JudgeProcess) -> _Host | None:
        return next((host for host in self._hosts if host.process is process), None)

    def _outcome(self, process: JudgeProcess, job: Job, answer: dict[str, Any]) -> Outcome:
        name = job.batch.scorer.name
        retry = hold = usage = None
        try:
            rows = [own_cost(row, self._prices) for row in checked_rows(answer)]
            usage = usage_of(answer["calls"], rows, job.batch.models, self._prices)
            retry = Retry(**answer["retry"]) if answer.get("retry") else None
            hold = Hold(**answer["hold"]) if answer.get("hold") else None
        except (BadAnswer, KeyError, TypeError, ValueError) as error:
            logger.warning("judge %s, %s: a bad answer: %s", name, job.unit.unit_id, error)
            rows = [failed_row(name, "BAD_ANSWER", f"Judge {name!r} gave a bad answer: {error}")]
        return Outcome(
            job.unit.unit_id,
            rows,
            float(answer.get("milliseconds", 0.0)),
            f"pid {process.pid}",
            usage,
            retry,
            hold,
        )
