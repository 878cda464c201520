"""A circuit breaker for each scorer: it stops asking what doesn't answer, and tries by itself.

         failures in a row, or too many of the last
CLOSED ---------------------------------------------> OPEN
  ^                                                  |    ^
  | a probe succeeds          the wait is over       v    | a probe fails:
  +------------------------------------------- HALF_OPEN -+ the wait doubles
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import orjson

from vedette.scoring.outcomes import Outcome

IN_A_ROW = 5  # failures that open it
WINDOW = 40  # of the last outcomes ...
SHARE = 0.75  # ... this share of failures opens it
FIRST_WAIT = 30.0  # seconds until a probe
LONGEST_WAIT = 600.0
PROBE_LOST_AFTER = 900.0  # seconds; who was to make the probe has forgotten it

# Errors that say something of the provider or the scorer, not of the unit
_PROVIDER_CODES = {"BAD_ANSWER", "PROVIDER_REFUSED", "NOT_LOADED", "SCORER_NOT_LOADED"}


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


def problem_of(outcome: Outcome) -> Problem | None:
    """What an outcome says against its scorer; None if nothing."""
    if outcome.hold is not None:
        return Problem(outcome.hold.code, outcome.hold.message, certain=True)
    if outcome.retry is not None:
        return Problem(outcome.retry.code, outcome.retry.message)
    for row in outcome.rows:
        error = orjson.loads(row["error"] or "{}")
        if error.get("error_code") in _PROVIDER_CODES:
            return Problem(error["error_code"], error.get("error_message") or "")
    return None


class Breaker:
    """One scorer's. Not thread-safe; times are seconds of one clock, passed in.

    It opens after 5 problems in a row, when 30 of the last 40 outcomes were problems, or at once on
    a problem that is certain. "Slow down" counts for the share alone: the pace of calls follows it
    anyway. Open, nothing is to be submitted until `allows` says so: after 30 s, then 60 s, up to
    10 min. Then one unit is let through, the probe; its success closes the breaker. What was under
    way before it opened changes nothing.
    """

    def __init__(self) -> None:
        self.state = State.CLOSED
        self.since = 0.0
        """When it came to be in this state."""
        self.probe_at = 0.0
        """When the next probe is due, while it is open."""
        self.problem: Problem | None = None
        """The last one."""
        self._recent: deque[bool] = deque(maxlen=WINDOW)  # whether each was a problem
        self._row = 0
        self._wait = FIRST_WAIT

    def allows(self, now: float) -> bool:
        """Whether one more unit may be submitted now. In the open state a yes is the permission for
        one probe: submit it, or call `probe_not_made`."""
        if self.state is State.OPEN and now >= self.probe_at:
            self._enter(State.HALF_OPEN, now)
            return True
        if self.state is State.HALF_OPEN and now - self.since > PROBE_LOST_AFTER:
            self._enter(State.HALF_OPEN, now)
            return True
        return self.state is State.CLOSED

    def probe_not_made(self, now: float) -> None:
        """There was nothing to probe with; the next `allows` is a yes again."""
        if self.state is State.HALF_OPEN:
            self._enter(State.OPEN, now)

    def record(self, problem: Problem | None, now: float) -> bool:
        """Take in the outcome of a unit; True if the state has changed."""
        before = self.state
        if problem is None:
            self._row = 0
            self._recent.append(False)
            if self.state is State.HALF_OPEN:
                self._close(now)
        else:
            self.problem = problem
            self._row += problem.code != "RATE_LIMITED"
            self._recent.append(True)
            if self.state is State.HALF_OPEN:
                self._wait = min(LONGEST_WAIT, self._wait * 2)
                self._open(now)
            elif self.state is State.CLOSED and (problem.certain or self._too_many()):
                self._open(now)
        return self.state is not before

    def reset(self, now: float) -> None:
        """Begin anew: the scorer is another version, or somebody says that it is mended."""
        self.problem = None
        self._close(now)

    def reason(self, now: float) -> str | None:
        """Why nothing is submitted, for people; None when it is."""
        if self.state is State.CLOSED or self.problem is None:
            return None
        said = f"{self.problem.message} ({self.problem.code})"
        if self.state is State.HALF_OPEN:
            return f"Paused, trying one now. The last problem: {said}"
        wait = max(0.0, self.probe_at - now)
        return f"Paused; one is tried in {wait:.0f} s. The last problem: {said}"

    def _too_many(self) -> bool:
        full = len(self._recent) == WINDOW
        return self._row >= IN_A_ROW or (full and sum(self._recent) >= SHARE * WINDOW)

    def _open(self, now: float) -> None:
        self._enter(State.OPEN, now)
        self.probe_at = now + self._wait

    def _close(self, now: float) -> None:
        self._recent.clear()
        self._row = 0
        self._wait = FIRST_WAIT
        self._enter(State.CLOSED, now)

    def _enter(self, state: State, now: float) -> None:
        self.state, self.since = state, now
