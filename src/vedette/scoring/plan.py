"""From completed units to batches on their way through workers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from mlflow.exceptions import MlflowException

from vedette.intake.records import Position
from vedette.scoring.breaker import State
from vedette.scoring.completion import CompletedUnit, completed_after
from vedette.scoring.outcomes import Left, Unit
from vedette.scoring.payloads import Payloads
from vedette.scoring.pools import Pools
from vedette.scoring.progress import Attempt, Batch, Pause, Progress
from vedette.scoring.retries import Retries
from vedette.scoring.selection import SELECTED, Choice, Selection
from vedette.scoring.spending import Spending

_WINDOW = 1024  # completed units looked at in one go
_IN_FLIGHT = 1024  # units of one scorer on their way through workers
_IN_FLIGHT_BYTES = 64 * 1024 * 1024
_BATCH_BYTES = 4 * 1024 * 1024
_RETRIED = 64  # units of one scorer that are tried again at a time
_LOAD_SIZE = 24 * 1024 * 1024  # characters of units read in one go; the rest comes next time


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
        self._pools = pools
        self._retries = retries
        self._spending = spending
        self._is_folded = is_folded

    def start(self, scorers: Iterable[Progress]) -> bool:
        """Read on for every scorer that has room; True if there was something to read.

        Raises:
            LakeUnavailable: whole traces can't be read now.
        """
        groups: dict[int, list[Progress]] = defaultdict(list)
        for progress in scorers:
            if progress.stopped_at is not None:
                continue
            self._probe(progress)
            if progress.pause.active or not self._may_go_on(progress):
                continue
            room = progress.allowance.calls_now
            if room is not None and room <= 0 and not progress.allowance.stopped:
                continue
            self._retry(progress)
            if progress.in_flight < _IN_FLIGHT and progress.in_flight_bytes < _IN_FLIGHT_BYTES:
                groups[progress.reached].append(progress)
        started = False
        for position, group in sorted(groups.items()):  # those that are level share what is read
            window = completed_after(self._payloads.index, position, _WINDOW)
            if window and self._plan(group, window, position):
                started = True
        return started

    def _probe(self, progress: Progress) -> None:
        """What could not be run is tried again: one batch after a while, then the others."""
        pause, now = progress.pause, time.monotonic()
        if pause.probe is not None:
            future = pause.probe.future
            if future is not None and not future.done():
                return
            if pause.probe.trouble is None:
                progress.pause = Pause()
                progress.problem = None
            else:
                pause.begin(now)
        troubled = [one for one in (*progress.batches, *progress.retried) if one.trouble]
        if not troubled:
            if pause.until is not None and now >= pause.until:
                pause.until = None
            return
        progress.hold(troubled[0].trouble or "")
        if pause is not progress.pause:  # the probe went through
            again = troubled
        elif pause.until is None:
            pause.begin(now)
            return
        elif now < pause.until:
            return
        else:
            again = troubled[:1]
            pause.until, pause.probe = None, troubled[0]
        for batch in again:
            pool, _ = self._pools.of(batch.scorer)
            batch.future = pool.submit(batch.scorer, batch.units)

    def _may_go_on(self, progress: Progress) -> bool:
        """Whether the breaker lets the scorer run. If it wants to know whether it works again, one
        unit is tried: one that is to be tried again in any case, or else the next ones."""
        now, breaker = time.monotonic(), progress.breaker
        if breaker.state is State.CLOSED:
            return True
        if breaker.allows(now):
            probe = self._retries.first(progress.scorer.key, progress.tried_again)
            if probe is None:
                breaker.reset(now)
                return True
            self._try_again(progress, [probe])
        progress.problem = breaker.reason(now)
        return False

    def _retry(self, progress: Progress) -> None:
        """Units whose time has come to be tried again, each in a batch of its own."""
        room = _RETRIED - len(progress.retried)
        if room > 0:
            key, now_ms = progress.scorer.key, int(time.time() * 1000)
            self._try_again(progress, self._retries.due(key, now_ms, progress.tried_again, room))

    def _try_again(self, progress: Progress, attempts: Sequence[Attempt]) -> None:
        if not attempts:
            return
        scorer = progress.scorer
        places = dict(enumerate(attempts))
        locations = {scorer.experiment_id: scorer.artifact_location}
        units = self._payloads.again(scorer.experiment_id, places, locations)
        pool, _ = self._pools.of(scorer)
        for place, attempt in places.items():
            batch = Batch(scorer, 0, attempts=[attempt])
            if place in units:
                batch.units = [units[place]]
                batch.future = pool.submit(scorer, batch.units)
            else:
                batch.leave(Left("deleted", "The trace was deleted before it was scored."))
            progress.retried.append(batch)

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
                progress.hold(f"its filter can't be used: {error.message}")
                progress.pause.begin(time.monotonic())
                continue
            progress.pause.failures = 0
            chosen.append((progress, choices, end))
        wanted = {
            choice.unit.position: choice.unit
            for _, choices, _ in chosen
            for choice in choices
            if choice.decision == SELECTED
        }
        locations = {p.scorer.experiment_id: p.scorer.artifact_location for p, _, _ in chosen}
        found, reached = self._load([wanted[place] for place in sorted(wanted)], locations)
        for progress, choices, end in chosen:
            within = end if reached is None else min(end, reached)
            self._submit(progress, [c for c in choices if c.unit.position <= within], found, within)
        return bool(chosen)

    def _load(
        self, wanted: Sequence[CompletedUnit], locations: Mapping[str, str]
    ) -> tuple[dict[int, Unit], int | None]:
        """The units by place, as far as they fit; and up to which place they are there, if some had
        to be left for next time."""
        if not wanted:
            return {}, None
        fitting = self._payloads.fitting(wanted, _LOAD_SIZE)
        found = self._payloads.of(wanted[:fitting], locations)
        return found, wanted[fitting].position - 1 if fitting < len(wanted) else None

    def _submit(
        self, progress: Progress, choices: Sequence[Choice], found: Mapping[int, Unit], end: int
    ) -> None:
        """Make batches of what was chosen up to the place ``end``, and hand them to workers."""
        scorer = progress.scorer
        pool, batch_units = self._pools.of(scorer)
        counted: list[Choice] = []
        attempts: list[Attempt] = []
        units: list[Unit] = []
        size = 0
        selected = sum(choice.decision == SELECTED for choice in choices)
        self._spending.note_chosen(progress, selected)
        if progress.allowance.stopped and selected:
            attempts = [Attempt.first(c) for c in choices if c.decision == SELECTED]
            counted = [choice for choice in choices if choice.decision != SELECTED]
            reason = progress.allowance.reason or "There is no budget left."
            progress.batches.append(Batch(scorer, end, counted, attempts, refused=reason))
            return
        for at, choice in enumerate(choices):
            unit = found.get(choice.unit.position)
            if choice.decision != SELECTED:
                counted.append(choice)
            elif unit is not None:
                attempts.append(Attempt.first(choice))
                units.append(unit)
                size += len(unit.payload)
            elif choice.unit.reason != "annotated":  # else it has been counted
                counted.append(replace(choice, decision="deleted"))
            following = choices[at + 1].unit.position if at + 1 < len(choices) else None
            full = len(units) >= batch_units or size > _BATCH_BYTES
            if full and following is not None and following > choice.unit.position:
                # All that is decided of one place goes into one batch
                batch = Batch(scorer, choice.unit.position, counted, attempts, units)
                batch.future = pool.submit(scorer, units)
                progress.batches.append(batch)
                counted, attempts, units, size = [], [], [], 0
        batch = Batch(scorer, end, counted, attempts, units)
        if units:
            batch.future = pool.submit(scorer, units)
        progress.batches.append(batch)
