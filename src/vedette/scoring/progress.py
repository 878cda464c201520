"""How far one scorer has come: its cursor, and the batches between it and what was read."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from vedette.scoring.active import ActiveScorer
from vedette.scoring.pool import Outcome, Unit

logger = logging.getLogger(__name__)

_LONGEST_PAUSE = 600.0  # seconds


@dataclass(eq=False, slots=True)
class Batch:
    """Consecutive traces of one scorer, in the order of completion, and their scores to be.

    Attributes:
        scorer: as it was when the batch was made; its version is that of the scores.
        end: when the batch is done, every completed trace up to this place is decided.
        units: the traces to be scored; those between that were not chosen are not here.
        future: their outcomes; None when there is nothing to score.
    """

    scorer: ActiveScorer
    end: int
    units: Sequence[Unit] = ()
    future: Future[list[Outcome]] | None = None

    @property
    def done(self) -> bool:
        """Whether all its outcomes are there."""
        return self.future is None or (self.future.done() and self.future.exception() is None)

    @property
    def failed(self) -> bool:
        """Whether it must be run again, because no worker could be had."""
        return self.future is not None and self.future.done() and not self.done


@dataclass(eq=False, slots=True)
class Progress:
    """One active scorer.

    Attributes:
        scorer: its configuration now.
        cursor: every completed trace up to this place is decided, as far as this process knows.
        saved: the cursor that is in the journal; None if there is none yet.
        saved_at: when it was put there, `time.monotonic()`.
        problem: what keeps the scorer from going on, for people; None if nothing does.
        pauses: how often in a row its filter could not be used.
        paused_until: when that is tried again, `time.monotonic()`.
    """

    scorer: ActiveScorer
    cursor: int
    saved: int | None
    saved_at: float = 0.0
    problem: str | None = None
    pauses: int = 0
    paused_until: float = 0.0
    batches: deque[Batch] = field(default_factory=deque)

    @property
    def reached(self) -> int:
        """The place up to which completed traces have been read."""
        return self.batches[-1].end if self.batches else self.cursor

    @property
    def in_flight(self) -> int:
        """Traces that are being scored."""
        return sum(len(batch.units) for batch in self.batches)

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of their JSON."""
        return sum(len(unit.payload) for batch in self.batches for unit in batch.units)

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

    def pause(self, now: float) -> None:
        """Its filter can't be used, and trying took its time: the next try is later and later."""
        self.paused_until = now + min(_LONGEST_PAUSE, 2.0**self.pauses)
        self.pauses += 1

    def go_on(self) -> None:
        """Its filter can be used, or it has another."""
        self.pauses, self.paused_until = 0, 0.0

    def ready(self, most_bytes: int) -> list[Batch]:
        """The finished batches that come next, with about ``most_bytes`` of scores at most."""
        found: list[Batch] = []
        size = 0
        for batch in self.batches:
            if not batch.done or size > most_bytes:
                break
            found.append(batch)
            outcomes = batch.future.result() if batch.future is not None else ()
            size += sum(
                len(text)
                for outcome in outcomes
                for row in outcome.rows
                for text in (row["value"], row["rationale"], row["error"])
                if text is not None
            )
        return found
