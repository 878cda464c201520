"""How many calls may be under way to one model, and from when on: learnt from its answers."""

from __future__ import annotations

_FIRST_PAUSE = 1.0  # seconds, when a provider asks to slow down and doesn't say for how long
_LONGEST_PAUSE = 60.0


class Endpoint:
    """The pace of calls to one model. Times are seconds of one clock, passed in.

    Every "slow down" halves the number of calls that may be under way and pauses all of them for as
    long as the provider asks, or for twice as long as last time; every good answer raises the
    number a little, by one for each round of calls. That is how TCP shares a line: several engines
    on one account come to equal shares. Calls that were under way when the pace was last lowered
    say nothing new, and change nothing.

    Args:
        most: calls that may be under way at best.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._lowered_at = float("-inf")
        self._in_a_row = 0
        self.opens_at = float("-inf")
        """Before this no call is made."""

    @property
    def limit(self) -> int:
        """Calls that may be under way."""
        return int(self._limit)

    def has_room(self, under_way: int, now: float) -> bool:
        """Whether one more call may be made."""
        return under_way < self.limit and now >= self.opens_at

    def answered(self, started: float) -> None:
        """A call that began then was answered."""
        if started >= self._lowered_at:
            self._in_a_row = 0
            self._limit = min(self._most, self._limit + 1 / self._limit)

    def throttled(self, started: float, now: float, after_seconds: float | None) -> None:
        """A call that began then was answered "slow down".

        Args:
            after_seconds: what the provider asked for, if it did.
        """
        if started >= self._lowered_at:
            self._limit = max(1.0, self._limit / 2)
            self._lowered_at = now
            self._in_a_row += 1
        if after_seconds is None:
            after_seconds = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._in_a_row - 1, 10))
        self.opens_at = max(self.opens_at, now + after_seconds)
