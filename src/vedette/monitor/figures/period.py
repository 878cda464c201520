"""The time that figures are of, and the time they are compared with."""

from __future__ import annotations

import time
from dataclasses import dataclass

_MINUTE = 60_000
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_LATEST_MS = 253_402_300_800_000  # the year 10000


@dataclass(frozen=True, slots=True)
class Range:
    """How far back to look.

    Attributes:
        label: in words, behind "last".
        length_ms: of the period.
        traffic_ms: of the buckets in which traces are counted.
        score_ms: of those in which scores are averaged: longer, as there are fewer.
    """

    label: str
    length_ms: int
    traffic_ms: int
    score_ms: int


RANGES = {
    "1h": Range("hour", _HOUR, _MINUTE, 5 * _MINUTE),
    "24h": Range("24 hours", _DAY, 15 * _MINUTE, _HOUR),
    "7d": Range("7 days", 7 * _DAY, _HOUR, 6 * _HOUR),
    "30d": Range("30 days", 30 * _DAY, 6 * _HOUR, _DAY),
}
DEFAULT_RANGE = "24h"


class PeriodError(ValueError):
    """It is no period; the message says what would be one."""


@dataclass(frozen=True, slots=True)
class Period:
    """A time and the one before it. Times are ms since the epoch; ends don't belong to it.

    The period begins at a full bucket and ends now, so its last bucket may be cut. What it is
    compared with is exactly as long, one length earlier: a morning with a morning.
    """

    name: str
    since_ms: int
    until_ms: int

    @property
    def choice(self) -> Range:
        """What it is one of."""
        return RANGES[self.name]

    @property
    def previous_since_ms(self) -> int:
        """When the time it is compared with begins."""
        return self.since_ms - self.choice.length_ms

    @property
    def previous_until_ms(self) -> int:
        """When that ends."""
        return self.until_ms - self.choice.length_ms

    def buckets(self, length_ms: int) -> range:
        """When each of its buckets of this length begins."""
        return range(self.since_ms, self.until_ms, length_ms)

    def document(self) -> dict[str, int | str]:
        """As the API tells it."""
        return {
            "range": self.name,
            "since_ms": self.since_ms,
            "until_ms": self.until_ms,
            "previous_since_ms": self.previous_since_ms,
            "previous_until_ms": self.previous_until_ms,
        }


def period(name: str = DEFAULT_RANGE, until: str | None = None, now: float | None = None) -> Period:
    """The period of this name.

    Args:
        name: of `RANGES`.
        until: when it ends, in ms since the epoch, as text; None: now.
        now: seconds since the epoch.

    Raises:
        PeriodError: there is no such range, or that is no time.
    """
    if name not in RANGES:
        raise PeriodError(f"there is no range {name[:20]!r}: it is one of {', '.join(RANGES)}")
    if until is None:
        end = int((time.time() if now is None else now) * 1000)
    elif until.isascii() and until.isdigit() and _DAY * 60 < int(until[:20]) < _LATEST_MS:
        end = int(until)
    else:
        raise PeriodError(
            f"until={until[:40]!r}: give milliseconds since the epoch, such as 1790000000000"
        )
    chosen = RANGES[name]
    full = -(-end // chosen.score_ms) * chosen.score_ms
    return Period(name, full - chosen.length_ms, end)
