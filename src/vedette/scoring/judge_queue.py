"""The units that wait for judges, by the model they ask, and those that are under way.

Nothing here runs by itself or takes locks: `vedette.scoring.judge_pool` does.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace

from vedette.scoring.active import ActiveScorer
from vedette.scoring.backoff import duration
from vedette.scoring.endpoints import Endpoint
from vedette.scoring.fork_server import WorkersUnavailable
from vedette.scoring.outcomes import Hold, Outcome, Retry, Unit

_MODELS_AT_ONCE = 4  # calls under way in all: as if so many models were asked as fast as allowed
_PATIENCE_SECONDS = 60.0  # a longer pause is for the caller to wait for, with all its units


@dataclass(eq=False, slots=True)
class Batch:
    """Units of one scorer that were submitted together."""

    scorer: ActiveScorer
    models: list[str]
    future: Future[list[Outcome]]
    outcomes: list[Outcome | None]
    left: int


@dataclass(eq=False, slots=True)
class Job:
    """One unit on its way."""

    batch: Batch
    at: int
    """Place in the batch."""
    unit: Unit
    lane: Lane
    tries: int = 0
    """Hosts that died meanwhile."""
    started: float = 0.0

    def sent_back(self, retry: Retry) -> Outcome:
        """The outcome of not having been judged."""
        return Outcome(self.unit.unit_id, [], 0.0, retry=retry)


@dataclass(eq=False, slots=True)
class Lane:
    """What asks one model. Its scorers take turns, live ones before backfills."""

    endpoint: Endpoint
    waiting: OrderedDict[str, deque[Job]] = field(default_factory=OrderedDict)
    under_way: int = 0

    def put(self, job: Job, *, first: bool = False) -> None:
        """Have a job wait, behind the others of its scorer or before them."""
        queue = self.waiting.setdefault(job.batch.scorer.key, deque())
        (queue.appendleft if first else queue.append)(job)

    def take(self) -> Job:
        """The job whose turn it is."""
        live = (key for key, jobs in self.waiting.items() if jobs[0].batch.scorer.job is None)
        key = next(live, None) or next(iter(self.waiting))
        queue = self.waiting[key]
        job = queue.popleft()
        self.waiting.move_to_end(key)
        if not queue:
            del self.waiting[key]
        return job


class JudgeQueue:
    """All lanes. Times are `time.monotonic()`.

    Args:
        concurrency: calls that may be under way to one model.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._lanes: dict[str, Lane] = {}

    @property
    def busy(self) -> bool:
        """Whether anything waits or is under way."""
        return any(lane.waiting or lane.under_way for lane in self._lanes.values())

    def state(self, now: float) -> dict[str, dict[str, float]]:
        """Of each model: units that wait, calls under way and how many may be, seconds of pause."""
        return {
            model: {
                "waiting": sum(map(len, lane.waiting.values())),
                "under_way": lane.under_way,
                "limit": lane.endpoint.limit,
                "paused_seconds": max(0.0, lane.endpoint.opens_at - now),
            }
            for model, lane in self._lanes.items()
        }

    def put(self, scorer: ActiveScorer, models: list[str], units: Sequence[Unit]) -> Batch:
        """Have units wait; the first of the models is the one whose pace they keep to."""
        batch = Batch(scorer, models, Future(), [None] * len(units), len(units))
        lane = self._lanes.get(models[0])
        if lane is None:
            lane = self._lanes[models[0]] = Lane(Endpoint(self._concurrency))
        for at, unit in enumerate(units):
            lane.put(Job(batch, at, unit, lane))
        return batch

    def due(self, now: float) -> list[Job]:
        """The jobs that may start now; from now on they are under way.

        The model with the fewest calls under way is first. When models that hang have taken all the
        room there is, each other one still has its equal share beside them: there are at most twice
        as many calls then.
        """
        busy = [lane for lane in self._lanes.values() if lane.waiting or lane.under_way]
        most = self._concurrency * _MODELS_AT_ONCE
        share = max(1, most // max(1, len(busy)))
        room = most - sum(lane.under_way for lane in busy)
        found: list[Job] = []
        while ready := [
            lane
            for lane in busy
            if lane.waiting
            and (room > 0 or lane.under_way < share)
            and lane.endpoint.has_room(lane.under_way, now)
        ]:
            lane = min(ready, key=lambda one: one.under_way)
            job = lane.take()
            if _begins(job.batch):
                job.started = now
                lane.under_way += 1
                room -= 1
                found.append(job)
        return found

    def again(self, job: Job) -> None:
        """A job under way waits again, through no fault of its own."""
        job.lane.under_way -= 1
        job.lane.put(job, first=True)

    def finish(self, job: Job, outcome: Outcome, now: float) -> None:
        """A job under way has an outcome; its model's pace follows from it."""
        job.lane.under_way -= 1
        endpoint, retry = job.lane.endpoint, outcome.retry
        if retry is not None and (retry.code == "RATE_LIMITED" or retry.after_seconds is not None):
            endpoint.throttled(job.started, now, retry.after_seconds)
        elif retry is None and outcome.hold is None:
            endpoint.answered(job.started)
        if retry is not None and (retry.after_seconds or 0.0) > _PATIENCE_SECONDS:
            # It will meet every unit of the scorer: they wait, rather than use up their tries
            hold = Hold(retry.code, retry.message, retry.after_seconds)
            outcome = replace(outcome, retry=None, hold=hold)
        _complete(job, outcome)

    def send_back_patient(self, now: float) -> None:
        """Give back what would have to wait for long."""
        for model, lane in self._lanes.items():
            seconds = lane.endpoint.opens_at - now
            if seconds > _PATIENCE_SECONDS:
                hold = Hold("RATE_LIMITED", f"{model} asked to wait {duration(seconds)}.", seconds)
                while lane.waiting:
                    job = lane.take()
                    _complete(job, Outcome(job.unit.unit_id, [], 0.0, hold=hold))

    def forget_waiting(self) -> list[Batch]:
        """Let nothing wait any longer; what waited."""
        batches = [job.batch for lane in self._lanes.values() for job in _jobs(lane)]
        for lane in self._lanes.values():
            lane.waiting.clear()
        return batches


def fail(batches: Sequence[Batch], reason: str) -> None:
    """Say of batches that there is nobody to run them."""
    for batch in set(batches):
        with suppress(InvalidStateError):
            batch.future.set_exception(WorkersUnavailable(reason))


def _begins(batch: Batch) -> bool:
    """Whether a job of the batch is still wanted; from then on the batch can't be cancelled."""
    if batch.future.done():  # cancelled, or failed
        return False
    return batch.future.running() or batch.future.set_running_or_notify_cancel()


def _jobs(lane: Lane) -> Iterator[Job]:
    for queue in lane.waiting.values():
        yield from queue


def _complete(job: Job, outcome: Outcome) -> None:
    batch = job.batch
    batch.outcomes[job.at] = outcome
    batch.left -= 1
    if batch.left == 0:
        with suppress(InvalidStateError):  # it has failed
            batch.future.set_result([one for one in batch.outcomes if one is not None])
