"""How many units a backfill decides in a second, of late: an hour ago tells nothing of when it will
be done."""

from __future__ import annotations

from collections import deque

_SECONDS = 60.0  # that are looked at


class Pace:
    """Times are `time.monotonic()`."""

    def __init__(self) -> None:
        self._decided = deque[tuple[float, int]]()  # units, by when they were

    def note(self, at: float, units: int) -> None:
        """So many more are decided."""
        self._decided.append((at, units))
        self._forget(at)

    def per_second(self, now: float) -> float | None:
        """None: nothing was decided of late, or it has just begun."""
        self._forget(now)
        if len(self._decided) < 2:
            return None
        (began, _), *rest = self._decided
        return sum(units for _, units in rest) / max(0.001, now - began)

    def _forget(self, now: float) -> None:
        while self._decided and self._decided[0][0] < now - _SECONDS:
            self._decided.popleft()
