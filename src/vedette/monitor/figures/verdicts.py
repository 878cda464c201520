"""What a change is in plain words, as far as the data can show one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from vedette.monitor.figures.sums import document
from vedette.quality.estimate import Estimate

FEWEST = 10  # scores on either side: with fewer, an interval says more of them than of the agent


@dataclass(frozen=True, slots=True)
class Unit:
    """In what a change is told.

    Attributes:
        factor: from the estimate's unit to it.
        words: behind the number, such as " points".
    """

    factor: float = 1.0
    words: str = ""


POINTS = Unit(100.0, " points")
NUMBER = Unit()
MILLISECONDS = Unit(1.0, " ms")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A change in words.

    Attributes:
        direction: ``up``, ``down``, ``same`` (the data can show none) or ``unknown``.
        text: for people, such as "down 6 points, between 3 and 9".
        change: the estimate behind it; None if there is none.
    """

    direction: str
    text: str
    change: Estimate | None = None

    def document(self) -> dict[str, Any]:
        """As the API tells it."""
        told = None if self.change is None else document(self.change)
        return {**asdict(self), "change": told}


def verdict(
    change: Estimate, unit: Unit, after: int, before: int, things: str = "scores"
) -> Verdict:
    """Say whether, which way and how far something moved.

    Args:
        change: after - before.
        after: how many scores (or ``things``) the newer estimate is of; ``before`` likewise.
    """
    if (lacking := _lacking(after, before, things)) is not None:
        return Verdict("unknown", lacking)
    value, low, high = (unit.factor * float(one) for one in change)
    if not (math.isfinite(low) and math.isfinite(high)):
        return Verdict("unknown", f"these {things} can't tell how sure a change is", change)
    digits = _digits(value, low, high)
    if low <= 0 <= high:
        bounds = f"between {_signed(low, digits)} and {_signed(high, digits)}{unit.words}"
        return Verdict("same", f"no change that the data can show: {bounds}", change)
    direction = "up" if low > 0 else "down"
    near, far = sorted((abs(low), abs(high)))
    text = (
        f"{direction} {abs(value):,.{digits}f}{unit.words}, "
        f"between {near:,.{digits}f} and {far:,.{digits}f}"
    )
    return Verdict(direction, text, change)


def share_change(after: float, before: float) -> str:
    """How two amounts that are exact compare: "12 % more than before", "none before"."""
    if before == 0:
        return "none before" if after else "none before either"
    share = 100 * (after - before) / before
    if abs(share) < 0.5:
        return "the same as before"
    if share > 900:
        return f"{after / before:,.0f} times as much as before"
    return f"{abs(share):.0f} % {'more' if share > 0 else 'less'} than before"


def _lacking(after: int, before: int, things: str) -> str | None:
    """What keeps two estimates from being compared."""
    if after < FEWEST:
        return f"too few {things} yet: {after}" if after else f"no {things} in this time"
    if before < FEWEST:
        known = f"too few {things} before to compare with: {before}"
        return known if before else f"no {things} before to compare with"
    return None


def _digits(value: float, low: float, high: float) -> int:
    """So many that the interval shows, and no bound that isn't 0 looks like it."""
    smallest = min((abs(one) for one in (value, low, high) if one), default=1.0)
    width = high - low
    digits = 0 if width >= 4 else 1 if width >= 0.4 else 2 if width >= 0.04 else 3
    while digits < 6 and round(smallest, digits) == 0 and not low <= 0 <= high:
        digits += 1
    return digits


def _signed(number: float, digits: int) -> str:
    text = f"{abs(number):,.{digits}f}"
    if not float(text.replace(",", "")):
        return text
    return f"-{text}" if number < 0 else f"+{text}"
