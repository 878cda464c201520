"""How far one scorer has come: its cursor, and the batches between it and what was read."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from vedette.intake.records import Decisions, Position
from vedette.scoring.active import ActiveScorer
from vedette.scoring.breaker import Breaker
from vedette.scoring.budget import Allowance
from vedette.scoring.epochs import Epoch, Epochs
from vedette.scoring.outcomes import Left, Outcome, Unit
from vedette.scoring.selection import SELECTED, Choice

logger = logging.getLogger(__name__)

_NOWHERE = Position(0, 0)
_UNLIMITED = Allowance(factor=1.0, calls_now=None, reason=None)
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 600.0  # seconds
_ROW_BYTES = 600  # of a decision, about, without scores


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to score a selected unit. Times in ms since the epoch.

    Attributes:
        trace_id: the trace, or the session's first.
        number: 1 for the first try.
        first_ms: when that was.
    """

    unit_id: str
    unit_type: str
    revision: int
    trace_id: str
    epoch: int
    stratum: int
    inclusion_probability: float
    draw: float
    completed_ms: int
    number: int = 1
    first_ms: int | None = None

    @classmethod
    def first(cls, choice: Choice) -> Attempt:
        """The first try of a unit."""
        unit = choice.unit
        return cls(
            unit_id=unit.unit_id,
            unit_type="trace" if unit.session_id is None else "session",
            revision=unit.revision,
            trace_id=unit.trace_id,
            epoch=choice.epoch.number,
            stratum=choice.stratum,
            inclusion_probability=choice.epoch.probability(choice.stratum),
            draw=choice.draw,
            completed_ms=unit.completed_ms,
        )


@dataclass(eq=False, slots=True)
class Batch:
    """Consecutive units of one scorer, in the order of completion, and their scores to be.

    Attributes:
        scorer: as it was when the batch was made; its version is that of the scores.
        end: when the batch is done, every unit completed up to this place is decided.
        counted: what was decided without a scorer.
        attempts, units: what is to be scored, one for one.
        future: their outcomes; None when there is nothing to score.
        refused: why the attempts aren't made: there is no budget for them.
    """

    scorer: ActiveScorer
    end: int
    counted: Sequence[Choice] = ()
    attempts: Sequence[Attempt] = ()
    units: Sequence[Unit] = ()
    future: Future[list[Outcome]] | None = None
    refused: str | None = None

    @property
    def done(self) -> bool:
        """Whether all its outcomes are there."""
        return self.future is None or (self.future.done() and self.trouble is None)

    @property
    def trouble(self) -> str | None:
        """Why it must be run again: no worker could be had, or the scorer can't run now."""
        if self.future is None or not self.future.done():
            return None
        if error := self.future.exception():
            return str(error)
        held = [outcome.hold for outcome in self.future.result() if outcome.hold is not None]
        return held[0].message if held else None

    def leave(self, left: Left) -> None:
        """Its units are not scored; what isn't running yet, never is."""
        if self.future is not None:
            self.future.cancel()
        self.future = Future()
        self.future.set_result(
            [Outcome(attempt.unit_id, [], 0.0, left=left) for attempt in self.attempts]
        )

    @property
    def outcomes(self) -> Iterator[tuple[Attempt, Outcome]]:
        """What came of each attempt that was made; call it when the batch is done."""
        if self.refused is not None:
            return iter(())
        results: Sequence[Outcome] = self.future.result() if self.future is not None else ()
        return zip(self.attempts, results, strict=True)


@dataclass(slots=True)
class Pause:
    """While a scorer can't run: when to try one batch, and that batch while it is tried.

    When it goes through, the others follow.
    """

    failures: int = 0
    until: float | None = None  # `time.monotonic()`
    probe: Batch | None = None

    @property
    def active(self) -> bool:
        """Whether nothing new is to be started."""
        return self.until is not None or self.probe is not None

    def begin(self, now: float) -> None:
        """It can't run: wait twice as long as the last time."""
        self.probe = None
        self.until = now + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self.failures, 20))
        self.failures += 1


@dataclass(eq=False, slots=True)
class Progress:
    """One active scorer.

    Attributes:
        scorer: its configuration now.
        epochs: the epochs of its life.
        cursor: every unit completed up to this place is decided, as far as this process knows.
        saved: the cursor that is in the journal; None if there is none yet.
        saved_at: when it was put there, `time.monotonic()`.
        problem: what keeps the scorer from going on, for people; None if nothing does.
        batches: what is on its way, in order.
        retried: units that are tried again, outside that order.
        opened: epochs that aren't journaled yet.
        pause: how what can't be run is tried again.
        breaker: stops it while its calls fail.
        allowance: what its budget leaves.
        hint: something its owner should know, though it goes on.
        journaled: where the last record of its decisions ends in the journal.
        unconfirmed: a record that may or may not be in the journal: it is written again as it is,
            so that it is applied once.
        stopped_at: the newest place when it was stopped; None while it is active.
        ended: nothing of it is left to be written.
    """

    scorer: ActiveScorer
    epochs: Epochs
    cursor: int
    saved: int | None
    saved_at: float = 0.0
    problem: str | None = None
    batches: deque[Batch] = field(default_factory=deque)
    retried: list[Batch] = field(default_factory=list)
    opened: list[Epoch] = field(default_factory=list)
    pause: Pause = field(default_factory=Pause)
    breaker: Breaker = field(default_factory=Breaker)
    allowance: Allowance = field(default=_UNLIMITED)
    hint: str | None = None
    journaled: Position = field(default=_NOWHERE)
    unconfirmed: Decisions | None = None
    stopped_at: int | None = None
    ended: bool = False

    @property
    def reached(self) -> int:
        """The place up to which completed units have been read."""
        return self.batches[-1].end if self.batches else self.cursor

    @property
    def in_flight(self) -> int:
        """Units that are being scored."""
        return sum(len(batch.units) for batch in self.batches)

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

    def hold(self, problem: str) -> None:
        """Note what keeps the scorer from going on."""
        if self.problem != problem:
            self.problem = problem
            logger.warning("scorer %s waits: %s", self.scorer.key, problem)

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
