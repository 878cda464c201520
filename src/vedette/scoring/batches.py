"""Units on their way through workers, some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from vedette.scoring.active import ActiveScorer
from vedette.scoring.outcomes import Left, Outcome, Unit
from vedette.scoring.selection import SELECTED, Choice

_BATCH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to score a selected unit. Times in ms since the epoch.

    Attributes:
        trace_id: the trace, or the session's first.
        number: 1 for the first try.
        first_ms: when that was.
        place: the unit's in the order of completion; 0 when it is tried again.
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
    place: int = 0

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
            place=unit.position,
        )


@dataclass(eq=False, slots=True)
class Batch:
    """Consecutive units of one scorer, in the order of completion, and their scores to be.

    Attributes:
        scorer: as it was when a worker was given the batch; its version is that of the scores.
        end: when the batch is done, every unit completed up to this place is decided.
        counted: what was decided without a scorer.
        attempts, units: what is to be scored, one for one.
        future: their outcomes to be, while a worker has them.
        answers: their outcomes, one for each attempt, when they are there.
        refused: why the attempts aren't made: there is no budget for them.
    """

    scorer: ActiveScorer
    end: int
    counted: Sequence[Choice] = ()
    attempts: Sequence[Attempt] = ()
    units: Sequence[Unit] = ()
    future: Future[list[Outcome]] | None = None
    answers: Sequence[Outcome] = ()
    refused: str | None = None

    @property
    def done(self) -> bool:
        """Whether all its outcomes are there."""
        return self.refused is not None or len(self.answers) == len(self.attempts)

    @property
    def waits(self) -> bool:
        """Whether it is for a worker, and none has it."""
        return self.future is None and not self.done

    def refuse(self, reason: str) -> None:
        """It isn't run: there is no budget for it."""
        self.units, self.future, self.refused = (), None, reason

    def leave(self, left: Left) -> None:
        """Its units are not scored; what isn't running yet, never is."""
        if self.future is not None:
            self.future.cancel()
        self.units, self.future = (), None
        self.answers = [Outcome(one.unit_id, [], 0.0, left=left) for one in self.attempts]

    @property
    def outcomes(self) -> Iterator[tuple[Attempt, Outcome]]:
        """What came of each attempt that was made; call it when the batch is done."""
        if self.refused is not None:
            return iter(())
        return zip(self.attempts, self.answers, strict=True)


def batches_of(
    scorer: ActiveScorer,
    choices: Sequence[Choice],
    found: Mapping[int, Unit],
    end: int,
    most_units: int,
) -> Iterator[Batch]:
    """What was chosen up to the place ``end``, in its order, in batches of so many units.

    Args:
        found: those of the selected units that are still there, by place.
    """
    counted: list[Choice] = []
    attempts: list[Attempt] = []
    units: list[Unit] = []
    size = 0
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
        full = len(units) >= most_units or size > _BATCH_BYTES
        if full and following is not None and following > choice.unit.position:
            # All that is decided of one place goes into one batch
            yield Batch(scorer, choice.unit.position, counted, attempts, units)
            counted, attempts, units, size = [], [], [], 0
    yield Batch(scorer, end, counted, attempts, units)
