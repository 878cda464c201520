"""How far one scorer has come: its cursor, and the batches between it and what was read."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from vedette.intake.records import Decisions, Position
from vedette.scoring.active import ActiveScorer
from vedette.scoring.backfills import Window
from vedette.scoring.batches import Batch
from vedette.scoring.breaker import Breaker, Problem, State, problem_of
from vedette.scoring.budget import UNLIMITED, Allowance
from vedette.scoring.epochs import Epoch, Epochs
from vedette.scoring.outcomes import Outcome, Unit
from vedette.scoring.pace import Pace
from vedette.scoring.selection import SELECTED, Choice

logger = logging.getLogger(__name__)

_NOWHERE = Position(0, 0)
_ROW_BYTES = 600  # of a decision, about, without scores


class Read(NamedTuple):
    """What was read ahead for a backfill: its choices up to the place ``end``, and what is selected
    of them, by place."""

    choices: Sequence[Choice]
    found: Mapping[int, Unit]
    end: int


@dataclass(eq=False, slots=True)
class Progress:
    """One active scorer.

    Attributes:
        scorer: its configuration now.
        epochs: the epochs of its life.
        cursor: every unit completed up to this place is decided, as far as this process knows.
        saved: the cursor that is in the journal; None if there is none yet.
        saved_at: when it was put there, `time.monotonic()`.
        batches: what is on its way, in order.
        retried: units that are tried again, outside that order.
        opened: epochs that aren't journaled yet.
        breaker: stops it while it can't run, or its calls fail.
        probe: what is tried to see whether it works again.
        told: the problem that the log has.
        allowance: what its budget leaves.
        hint: something its owner should know, though it goes on.
        journaled: where the last record of its decisions ends in the journal.
        unconfirmed: a record that may or may not be in the journal: it is written again as it is,
            so that it is applied once.
        stopped_at: the newest place when it was stopped; None while it is active.
        ended: nothing of it is left to be written.
        window: of a backfill, the units it is to decide.
        rescore: of a backfill, whether what was scored already is scored again.
        reading: of a backfill, what comes next, while it is read.
        waits_for: what else a backfill waits for, for people.
        pace: of a backfill.
    """

    scorer: ActiveScorer
    epochs: Epochs
    cursor: int
    saved: int | None
    saved_at: float = 0.0
    batches: deque[Batch] = field(default_factory=deque)
    retried: list[Batch] = field(default_factory=list)
    opened: list[Epoch] = field(default_factory=list)
    breaker: Breaker = field(default_factory=Breaker)
    probe: Batch | None = None
    told: str | None = None
    allowance: Allowance = field(default=UNLIMITED)
    hint: str | None = None
    journaled: Position = field(default=_NOWHERE)
    unconfirmed: Decisions | None = None
    stopped_at: int | None = None
    ended: bool = False
    window: Window | None = None
    rescore: bool = False
    reading: Future[Read] | None = None
    waits_for: str | None = None
    pace: Pace = field(default_factory=Pace)

    @property
    def problem(self) -> str | None:
        """What keeps the scorer from going on, for people; None if nothing does."""
        return self.breaker.reason(time.monotonic())

    @property
    def reached(self) -> int:
        """The place up to which completed units have been read."""
        return self.batches[-1].end if self.batches else self.cursor

    @property
    def in_flight(self) -> int:
        """Units that are being scored."""
        return sum(len(batch.units) for batch in self.batches)

    @property
    def undecided(self) -> int:
        """Units that were selected, and of which no decision is on disk."""
        return sum(len(batch.attempts) for batch in self.batches)

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of their JSON."""
        return sum(len(unit.payload) for batch in self.batches for unit in batch.units)

    @property
    def under_way(self) -> dict[tuple[str, int], tuple[str, int]]:
        """What is not journaled yet of units that may be considered again: decision and stratum by
        id and revision."""
        found: dict[tuple[str, int], tuple[str, int]] = {}
        for batch in self.batches:
            for choice in batch.counted:
                if choice.open:
                    unit = choice.unit
                    found[unit.unit_id, unit.revision] = choice.decision, choice.stratum
            for one in batch.attempts:
                found[one.unit_id, one.revision] = SELECTED, one.stratum
        return found

    @property
    def tried_again(self) -> set[tuple[str, int]]:
        """The units that are being tried again: id and revision."""
        return {(one.unit_id, one.revision) for batch in self.retried for one in batch.attempts}

    def advance(self, end: int) -> None:
        """Everything up to the place ``end`` is decided."""
        while self.batches and self.batches[0].end <= end:
            self.batches.popleft()
        self.cursor = end

    def take_over(self, scorer: ActiveScorer) -> None:
        """The scorer is another now: what waits runs with that one, and nothing is held against
        it."""
        self.scorer = scorer
        self.probe = None
        self.breaker.reset()

    def take_in(self, now: float) -> None:
        """Take in what workers have answered since the last time.

        Args:
            now: `time.monotonic()`.
        """
        for batch in [*self.batches, *self.retried]:
            if batch.future is not None and batch.future.done():
                self._take_in(batch, batch.future, now)

    def take_back(self) -> None:
        """Take from workers what they haven't begun with; it waits."""
        for batch in (*self.batches, *self.retried):
            if batch is not self.probe and batch.future is not None and batch.future.cancel():
                batch.future = None

    def split(self, batch: Batch, units: int) -> None:
        """Leave only so many units, at least one, to a batch, and make another of the rest."""
        place = batch.attempts[units - 1].place
        rest = Batch(
            batch.scorer,
            batch.end,
            [one for one in batch.counted if one.unit.position > place],
            batch.attempts[units:],
            batch.units[units:],
        )
        self.batches.insert(self.batches.index(batch) + 1, rest)
        batch.end = place
        batch.counted = [one for one in batch.counted if one.unit.position <= place]
        batch.attempts, batch.units = batch.attempts[:units], batch.units[:units]

    def log_problem(self) -> None:
        """Have the log tell why nothing goes on, once."""
        problem = None if self.breaker.state is State.CLOSED else self.breaker.problem
        told = None if problem is None else problem.message
        if told is not None and told != self.told:
            logger.warning("scorer %s is paused: %s", self.scorer.key, told)
        self.told = told

    def ready(self, most_bytes: int) -> list[Batch]:
        """The finished batches that come next, with about ``most_bytes`` of scores at most."""
        found: list[Batch] = []
        size = 0
        for batch in self.batches:
            if not batch.done or size > most_bytes:
                break
            found.append(batch)
            size += _ROW_BYTES * len(batch.attempts)
            size += _ROW_BYTES * sum(choice.open for choice in batch.counted)
            size += sum(
                len(text)
                for _, outcome in batch.outcomes
                for row in outcome.rows
                for text in (row["value"], row["rationale"], row["error"])
                if text is not None
            )
        return found

    def _take_in(self, batch: Batch, future: Future[list[Outcome]], now: float) -> None:
        """What was answered counts; what wasn't, behind it, waits."""
        batch.future = None
        answers: list[Outcome] = []
        problems: list[Problem | None]
        if error := future.exception():
            problems = [Problem("NO_WORKER", str(error), certain=True)]
        else:
            outcomes = future.result()
            answers = list(takewhile(lambda one: one.hold is None, outcomes))
            problems = [problem_of(one) for one in outcomes[: len(answers) + 1]]
        if batch is self.probe:
            self.probe = None
            self.breaker.probed(problems[0], now)
        elif batch.scorer.serialized == self.scorer.serialized:  # else it says nothing of this one
            for problem in problems:
                self.breaker.record(problem, now)
        if answers and len(answers) < len(batch.attempts):
            self.split(batch, len(answers))
        batch.answers = answers
