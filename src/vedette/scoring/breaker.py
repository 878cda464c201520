"""A circuit breaker for each scorer: it stops asking what doesn't answer, and tries by itself.

     failures in a row, too many of the last, or one that is certain
CLOSED ----------------------------------------------------------> OPEN
  ^                                                                 |    ^
  | the probe succeeds             the wait is over: a probe        v    | the probe fails:
  +----------------------------------------------------- HALF_OPEN ------+ the wait doubles
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import orjson

from vedette.scoring.backoff import duration
from vedette.scoring.outcomes import Outcome

IN_A_ROW = 5  # failures that open it
WINDOW = 40  # of the last outcomes ...
SHARE = 0.75  # ... this share of failures opens it
FIRST_WAIT = 30.0  # seconds until a probe
CERTAIN_WAIT = 1.0  # the same after what is certain, of which no more than one unit knows
LONGEST_WAIT = 600.0

# Errors that say something of the provider or the scorer, not of the unit. Not SCORER_ERROR: that
# is what `evaluate` says of the trace too, costs no more than a score, and the next trace may do.
_CODES = {
    *("BAD_ANSWER", "PROVIDER_REFUSED"),
    *("SCORER_NOT_LOADED", "SCORER_TIMEOUT", "SCORER_CRASHED"),
}


class State(StrEnum):
    """Of a breaker."""

    CLOSED = "running"
    OPEN = "paused"
    HALF_OPEN = "probing"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an outcome counts against its scorer."""

    code: str
    message: str
    certain: bool = False
    """One is enough: nothing will come of the next unit either (a missing API key)."""
    after_seconds: float | None = None
    """What the provider asked for."""


def problem_of(outcome: Outcome) -> Problem | None:
    """What an outcome says against its scorer; None if nothing."""
    if (hold := outcome.hold) is not None:
        return Problem(hold.code, hold.message, True, hold.after_seconds)
    if outcome.retry is not None:
        return Problem(outcome.retry.code, outcome.retry.message)
    for row in outcome.rows:
        error = orjson.loads(row["error"] or "{}")
        if error.get("error_code") in _CODES:
            return Problem(error["error_code"], error.get("error_message") or "")
    return None


class Breaker:
    """One scorer's. Not thread-safe; times are seconds of one clock, passed in.

    It opens after 5 problems in a row, when 30 of the last 40 outcomes were problems, or at once on
    a problem that is certain. "Slow down" counts for the share alone: the pace of calls follows it
    anyway. Open, nothing is to be submitted but one unit, the probe, when the wait is over: after
    30 s (1 s if it was certain), then twice as long, up to 10 min, and not before the provider
    wants it. The probe's success closes the breaker. What was under way before it opened changes
    nothing.
    """

    def __init__(self) -> None:
        self.state = State.CLOSED
        self.problem: Problem | None = None
        """The last one."""
        self._probe_at = 0.0
        self._wait = 0.0
        self._recent: deque[bool] = deque(maxlen=WINDOW)  # whether each was a problem
        self._row = 0

    def record(self, problem: Problem | None, now: float) -> None:
        """Take in the outcome of a unit that was no probe."""
        if self.state is not State.CLOSED:
            return
        self._recent.append(problem is not None)
        if problem is None:
            self._row = 0
            return
        self.problem = problem
        self._row += problem.code != "RATE_LIMITED"
        if problem.certain:
            self._open(CERTAIN_WAIT, now)
        elif self._too_many():
            self._open(FIRST_WAIT, now)

    def wants_probe(self, now: float) -> bool:
        """Whether a unit is to be tried now. It may take a while until there is one."""
        return self.state is State.OPEN and now >= self._probe_at

    def probing(self) -> None:
        """The probe is under way."""
        self.state = State.HALF_OPEN

    def probed(self, problem: Problem | None, now: float) -> None:
        """Take in the outcome of the probe, or why there can be none."""
        if problem is None:
            self.reset()
        else:
            self.problem = problem
            self._open(max(CERTAIN_WAIT, self._wait * 2), now)

    def reset(self) -> None:
        """Begin anew: the scorer is another version, or somebody says that it is mended."""
        self.state = State.CLOSED
        self.problem = None
        self._recent.clear()
        self._row = 0
        self._wait = 0.0

    def reason(self, now: float) -> str | None:
        """Why nothing is submitted, for people; None when it is."""
        if self.state is State.CLOSED or self.problem is None:
            return None
        said = f"The last problem: {self.problem.message} ({self.problem.code})"
        if self.state is State.HALF_OPEN:
            return f"Paused, trying one now. {said}"
        if self.wants_probe(now):
            return f"Paused; the next one is tried. {said}"
        return f"Paused; one is tried in {duration(self._probe_at - now)}. {said}"

    def _too_many(self) -> bool:
        full = len(self._recent) == WINDOW
        return self._row >= IN_A_ROW or (full and sum(self._recent) >= SHARE * WINDOW)

    def _open(self, wait: float, now: float) -> None:
        asked = (self.problem and self.problem.after_seconds) or 0.0
        self.state = State.OPEN
        self._wait = min(LONGEST_WAIT, wait)
        self._probe_at = now + max(self._wait, asked)
