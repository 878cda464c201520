"""From completed units to batches on their way through workers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future

from mlflow.exceptions import MlflowException

from vedette.intake.records import Position
from vedette.lake.storage import LakeUnavailable
from vedette.scoring.backfills import Window, settled
from vedette.scoring.batches import Attempt, Batch, batches_of
from vedette.scoring.breaker import Problem, State
from vedette.scoring.completion import CompletedUnit, completed_after
from vedette.scoring.outcomes import Left, Unit
from vedette.scoring.payloads import Payloads
from vedette.scoring.pools import Pools
from vedette.scoring.progress import Progress, Read
from vedette.scoring.reading import Reader, first_selected
from vedette.scoring.retries import Retries
from vedette.scoring.selection import SELECTED, Choice, Selection
from vedette.scoring.spending import Spending

_WINDOW = 1024  # completed units looked at in one go
_IN_FLIGHT = 1024  # units of one scorer on their way through workers
_BESIDE = 8192  # of one backfill; what is read ahead for it is kept in memory
_JUDGED_BESIDE = 256
_BACKLOG = 64  # of a live scorer: backfills wait then
_IN_FLIGHT_BYTES = 64 * 1024 * 1024
_RETRIED = 64  # units of one scorer that are tried again at a time
_FILTER = "FILTER"  # the code of a problem with a filter
_LAKE = "LAKE"  # of one with reading from the lake


class Planner:
    """Gives workers what comes next.

    Args:
        is_folded: whether the read model has the engine's journal up to a place.
    """

    def __init__(
        self,
        selection: Selection,
        payloads: Payloads,
        pools: Pools,
        retries: Retries,
        spending: Spending,
        is_folded: Callable[[Position], bool],
    ) -> None:
        self._selection = selection
        self._payloads = payloads
        self._reader = Reader(selection, payloads)
        self._pools = pools
        self._retries = retries
        self._spending = spending
        self._is_folded = is_folded

    def close(self) -> None:
        """Read nothing ahead any more."""
        self._reader.close()

    def start(self, scorers: Iterable[Progress]) -> bool:
        """Read on for every scorer that has room; True if there was something to read.

        Raises:
            LakeUnavailable: whole traces can't be read now.
        """
        going_on: list[Progress] = []
        groups: dict[int, list[Progress]] = defaultdict(list)
        active = [one for one in scorers if one.stopped_at is None]
        live = [one for one in active if one.window is None]
        for progress in live:
            stopped = progress.allowance.stopped
            if stopped:
                self._refuse(progress)
            if not self._goes_on(progress):
                continue
            if not stopped:
                if not self._spending.has_room(progress):
                    continue
                going_on.append(progress)
            if progress.undecided < _IN_FLIGHT and progress.in_flight_bytes < _IN_FLIGHT_BYTES:
                groups[progress.reached].append(progress)
        started = False
        for position, group in sorted(groups.items()):  # those that are level share what is read
            window = completed_after(self._payloads.index, position, _WINDOW)
            if window and self._plan(group, window, position):
                started = True
        for progress in going_on:  # after them: a unit that fails for ever is no good probe
            self._retry(progress)
        for progress in active:
            if progress.window is not None:
                started |= self._fill(progress, progress.window, live)
        return started

    def _fill(self, progress: Progress, window: Window, live: Sequence[Progress]) -> bool:
        """Go on with a backfill. Judges of live scoring go before it in their queue; code shares
        processors, and goes first."""
        progress.waits_for = None
        if not progress.scorer.is_judge and any(map(_has_backlog, live)):
            progress.take_back()
            progress.waits_for = "Live scoring has a backlog: it goes first."
            return False
        if not self._goes_on(progress) or not self._spending.has_room(progress):
            return False
        started = False
        if progress.reading is None:
            self._read_on(progress, window, live)
        elif progress.reading.done():
            started = self._take_read(progress, progress.reading)
        if progress.reading is None:  # as above
            self._retry(progress)
        return started

    def _read_on(self, progress: Progress, window: Window, live: Sequence[Progress]) -> None:
        """Read ahead for a backfill; not beyond where its scorer is, if that is live, so that it is
        known what has been scored."""
        until, stream = window.last, progress.scorer.stream.live
        if any(one.scorer.key == stream for one in live):
            until = min(until, settled(self._payloads.index, stream) or 0)
            if progress.reached >= until < window.last:
                progress.waits_for = "Live scoring of this scorer has not come so far."
        most = _JUDGED_BESIDE if progress.scorer.is_judge else _BESIDE
        # By the half: what is read of the lake for a few units would do for many
        few = progress.undecided <= most // 2 and progress.in_flight_bytes <= _IN_FLIGHT_BYTES // 2
        if progress.breaker.state is not State.CLOSED:
            most = 1
        if few and progress.reached < until:
            room = int(min(most, self._spending.room(progress)))
            self._reader.begin(progress, window, until, room)

    def _take_read(self, progress: Progress, reading: Future[Read]) -> bool:
        """Start with what was read ahead for a backfill."""
        progress.reading = None
        try:
            read = reading.result()
        except MlflowException as error:
            problem = Problem(_FILTER, f"its filter can't be used: {error.message}")
            progress.breaker.probed(problem, time.monotonic())
            return False
        except LakeUnavailable as error:
            progress.breaker.probed(Problem(_LAKE, str(error)), time.monotonic())
            return False
        if _could_not_read(progress):
            progress.breaker.reset()  # this was the probe
        choices, end = list(read.choices), read.end
        if progress.breaker.state is not State.CLOSED:
            choices, end = first_selected(choices, end, 1)
        choices, end = self._affordable(progress, choices, end)
        if end <= progress.reached:
            return False
        self._submit(progress, choices, read.found, end)
        return True

    def _refuse(self, progress: Progress) -> None:
        """There is no budget: also not for what is due to be tried again, or couldn't be run."""
        reason = progress.allowance.reason or "There is no budget left."
        for batch in (*progress.batches, *progress.retried):
            if batch.waits:
                batch.refuse(reason)
        for attempt in self._due(progress, _RETRIED):
            progress.retried.append(Batch(progress.scorer, 0, attempts=[attempt], refused=reason))

    def _goes_on(self, progress: Progress) -> bool:
        """Whether more may be started: anything, or one unit, the probe, if the breaker wants to
        know whether the scorer works again. What waits in batches comes first, in its order."""
        breaker, now = progress.breaker, time.monotonic()
        progress.log_problem()
        waiting = any(batch.waits for batch in (*progress.batches, *progress.retried))
        if waiting or breaker.state is not State.CLOSED:
            progress.take_back()
        for batch in (*progress.batches, *progress.retried):
            if batch.waits and (breaker.state is State.CLOSED or breaker.wants_probe(now)):
                self._run(progress, batch)
        if progress.allowance.stopped and not _has_bad_filter(progress):
            return True  # nothing is run: units are decided as `budget`
        return breaker.state is State.CLOSED or breaker.wants_probe(now)

    def _run(self, progress: Progress, batch: Batch) -> None:
        """Give a batch to a worker; one unit of it, the probe, while the breaker isn't closed."""
        if progress.breaker.state is not State.CLOSED:
            if len(batch.units) > 1:
                progress.split(batch, 1)
            progress.probe = batch
            progress.breaker.probing()
        batch.scorer = progress.scorer
        pool, _ = self._pools.of(batch.scorer)
        batch.future = pool.submit(batch.scorer, batch.units)

    def _retry(self, progress: Progress) -> None:
        """Units whose time has come to be tried again, each in a batch of its own."""
        most = _RETRIED
        if progress.breaker.state is not State.CLOSED:
            most = len(progress.retried) + progress.breaker.wants_probe(time.monotonic())
        self._try_again(progress, self._due(progress, most))

    def _due(self, progress: Progress, most: int) -> Sequence[Attempt]:
        """What is to be tried again now, so that as many are under way at most."""
        room = most - len(progress.retried)
        if room <= 0:
            return ()
        key, now_ms = progress.scorer.key, int(time.time() * 1000)
        return self._retries.due(key, now_ms, progress.tried_again, room)

    def _try_again(self, progress: Progress, attempts: Sequence[Attempt]) -> None:
        attempts = attempts[: self._spending.take(progress, len(attempts))]
        if not attempts:
            return
        scorer = progress.scorer
        places = dict(enumerate(attempts))
        locations = {scorer.experiment_id: scorer.artifact_location}
        units = self._payloads.again(scorer.experiment_id, places, locations)
        for place, attempt in places.items():
            batch = Batch(scorer, 0, attempts=[attempt])
            progress.retried.append(batch)
            if place in units:
                batch.units = [units[place]]
                self._run(progress, batch)
            else:
                batch.leave(Left("deleted", "The trace was deleted before it was scored."))

    def _plan(self, group: list[Progress], window: list[CompletedUnit], position: int) -> bool:
        chosen: list[tuple[Progress, list[Choice], int]] = []
        annotated = any(unit.reason == "annotated" for unit in window)
        for progress in group:
            if annotated and not self._is_folded(progress.journaled):
                continue  # what is decided already must be known
            epoch, until = progress.epochs.at(position)
            end = window[-1].position if until is None else min(until, window[-1].position)
            units = [unit for unit in window if unit.position <= end]
            try:
                choices = self._selection.choose(
                    progress.scorer,
                    progress.epochs,
                    epoch,
                    units,
                    progress.under_way if annotated else None,
                )
            except MlflowException as error:
                problem = Problem(_FILTER, f"its filter can't be used: {error.message}")
                progress.breaker.probed(problem, time.monotonic())
                continue
            selected = sum(choice.decision == SELECTED for choice in choices)
            self._spending.note_read(progress, end - position, selected)
            if _has_bad_filter(progress):
                progress.breaker.reset()  # this was the probe
            if not progress.allowance.stopped:
                if progress.breaker.state is not State.CLOSED:
                    choices, end = first_selected(choices, end, 1)
                choices, end = self._affordable(progress, choices, end)
            if end > position:
                chosen.append((progress, choices, end))
        wanted = {
            choice.unit.position: choice.unit
            for progress, choices, _ in chosen
            if not progress.allowance.stopped
            for choice in choices
            if choice.decision == SELECTED
        }
        locations = {p.scorer.experiment_id: p.scorer.artifact_location for p, _, _ in chosen}
        found, reached = self._payloads.load([wanted[place] for place in sorted(wanted)], locations)
        for progress, choices, end in chosen:
            within = end if reached is None else min(end, reached)
            self._submit(progress, [c for c in choices if c.unit.position <= within], found, within)
        return bool(chosen)

    def _affordable(
        self, progress: Progress, choices: list[Choice], end: int
    ) -> tuple[list[Choice], int]:
        """As many of the choices as there is budget for now, and up to which place that is."""
        selected = sum(one.decision == SELECTED for one in choices)
        return first_selected(choices, end, self._spending.take(progress, selected))

    def _submit(
        self, progress: Progress, choices: Sequence[Choice], found: Mapping[int, Unit], end: int
    ) -> None:
        """Make batches of what was chosen up to the place ``end``, and hand them to workers."""
        scorer = progress.scorer
        chosen = [choice for choice in choices if choice.decision == SELECTED]
        if progress.allowance.stopped and chosen:
            attempts = [Attempt.first(choice) for choice in chosen]
            counted = [choice for choice in choices if choice.decision != SELECTED]
            reason = progress.allowance.reason or "There is no budget left."
            progress.batches.append(Batch(scorer, end, counted, attempts, refused=reason))
            return
        _, batch_units = self._pools.of(scorer)
        for batch in batches_of(scorer, choices, found, end, batch_units):
            progress.batches.append(batch)
            if batch.units:
                self._run(progress, batch)


def _has_bad_filter(progress: Progress) -> bool:
    """Whether it is paused because its filter couldn't be used."""
    problem = progress.breaker.problem
    closed = progress.breaker.state is State.CLOSED
    return not closed and problem is not None and problem.code == _FILTER


def _could_not_read(progress: Progress) -> bool:
    """Whether it is paused because of what kept it from reading on."""
    problem = progress.breaker.problem
    closed = progress.breaker.state is State.CLOSED
    return not closed and problem is not None and problem.code in (_FILTER, _LAKE)


def _has_backlog(live: Progress) -> bool:
    """Whether more of a live scorer waits for processors than is on its way through them."""
    running = live.breaker.state is State.CLOSED and not live.scorer.is_judge
    return running and live.undecided > _BACKLOG
