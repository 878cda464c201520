"""How much of a scorer's rate its budget allows: all, a half, a quarter, ..., or nothing.

The rule, for each cap (a scorer's own, and the one on all scorers together):

1. **What fits.** Dollars: what is left of the day's, over what the rest of the day and what waits
   would cost at the full rate. Calls: the cap over the calls per minute at the full rate, with what
   waits caught up in a quarter of an hour. The smallest of these, rounded down to 1, 1/2, 1/4, ...,
   is the factor: a lower sampling rate all day is worth more than a full one until noon. Each
   factor is an epoch with a known inclusion probability, so numbers stay unbiased; powers of two
   keep the epochs few and the samples nested.
2. **Down at once, up with care.** A factor is lowered when it no longer fits. It is raised, one
   step at a time, when the next step would fit with a quarter to spare and a quarter of an hour has
   passed. With the new day, or another cap, it is whatever fits.
3. **Stop.** When what is left of the day's dollars pays for no further unit, the decision on each
   further one is `budget` until the day is over; with a cap of 0, until there is another cap.
4. **Not now.** Caps are also kept from second to second: no more units begin than there is `Room`
   for. What has to wait is not lost, and because of 1 it does not wait long.

A cap in dollars can only be passed where what was under way turned out dearer than the scorer's
units are on average; one in calls, where it took more calls than they do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOWEST = 2.0**-20
SPARE = 1.25  # of the next step up must fit
RAISE_AFTER_SECONDS = 900.0
_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Cap:
    """A limit; None is no limit."""

    calls_per_minute: float | None = None
    dollars_per_day: float | None = None

    def window(self, calls_of_unit: float) -> tuple[float, float]:
        """So many calls in any so many seconds.

        Whole calls, and enough for a unit: 2.5 a minute are 3 in 72 s, 0.1 a minute one in 600 s.

        Args:
            calls_of_unit: the most that one unit takes, on average.
        """
        cap = self.calls_per_minute
        if not cap:
            return (math.inf if cap is None else 0.0), _MINUTE
        calls = math.ceil(max(cap, calls_of_unit))
        return calls, calls / cap * _MINUTE


@dataclass(frozen=True, slots=True)
class UnitCost:
    """What one unit of a scorer takes, on average of late."""

    calls: float = 1.0
    dollars: float | None = None
    """None: no prices are known."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What falls under a cap, of one scorer or of all."""

    dollars_today: float = 0.0
    dollars_under_way: float = 0.0
    """Expected of the units that are being scored."""
    dollars_to_come: float = 0.0
    """Expected of what waits and of the rest of the day, were the factor 1."""
    calls: float = 0.0
    """Those that ended within the cap's window, and those expected of what is under way."""
    calls_per_minute: float = 0.0
    """Expected, of the traffic now and to catch up with what waits, were the factor 1."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.dollars_today + other.dollars_today,
            self.dollars_under_way + other.dollars_under_way,
            self.dollars_to_come + other.dollars_to_come,
            self.calls + other.calls,
            self.calls_per_minute + other.calls_per_minute,
        )


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is selected from now on."""

    factor: float
    """Of the scorer's sampling rate: 1, 1/2, 1/4, ...; 0 when stopped."""
    reason: str | None
    """Why it is not all, or not now, for people."""

    @property
    def stopped(self) -> bool:
        """Whether units get the decision `budget`."""
        return self.factor == 0.0


UNLIMITED = Allowance(factor=1.0, reason=None)


@dataclass(slots=True)
class Room:
    """What may begin under a cap until it is looked at again."""

    calls: float = math.inf
    dollars: float = math.inf

    @classmethod
    def under(cls, cap: Cap, spent: Spent, calls_of_unit: float, known_seconds: float) -> Room:
        """What there is room for.

        Args:
            known_seconds: of the past. What was called before that is not known, so the window's
                calls are given out evenly until it has passed once.
        """
        calls, seconds = cap.window(calls_of_unit)
        if calls < math.inf:
            calls = calls * min(1.0, known_seconds / seconds) - spent.calls
        dollars = math.inf
        if cap.dollars_per_day is not None:
            dollars = cap.dollars_per_day - spent.dollars_today - spent.dollars_under_way
        return cls(calls, dollars)

    def units(self, each: UnitCost) -> float:
        """How many units there is room for: not whole, maybe below 0 or without end."""
        return min(
            self.calls / each.calls, self.dollars / each.dollars if each.dollars else math.inf
        )

    def take(self, units: int, each: UnitCost) -> None:
        """So many units begin."""
        self.calls -= units * each.calls
        self.dollars -= units * (each.dollars or 0.0)

    def why_full(self, cap: Cap, spent: Spent, each: UnitCost) -> str | None:
        """Why no unit may begin, for people; None if one may."""
        if self.calls < each.calls:
            return f"No call may begin just now: the budget is {cap.calls_per_minute:g} a minute."
        if self.units(each) < 1:
            return f"{_spends(cap, spent)}, and what is under way may take the rest."
        return None


def allow(
    caps: Sequence[tuple[Cap, Spent]],
    each: UnitCost,
    factor_now: float,
    *,
    changed_at: float,
    day_began_at: float,
    now: float,
) -> Allowance:
    """What the caps allow.

    Args:
        caps: a scorer's own cap and the one on all, each with what falls under it.
        each: what a unit of the scorer takes.
        factor_now: the factor there is; 0 when stopped.
        changed_at: when it came to be so, in seconds of any clock; minus infinity if a cap has been
            changed since.
        day_began_at: of the same clock.
        now: of the same clock.
    """
    fits, reason = min(
        (_fits(cap, spent, each) for cap, spent in caps), default=(math.inf, None), key=_first
    )
    factor = _step(fits)
    if 0 < factor_now < factor and changed_at >= day_began_at:
        next_up = factor_now * 2
        waited = now - changed_at >= RAISE_AFTER_SECONDS
        factor = next_up if waited and fits >= next_up * SPARE else factor_now
        reason = reason or "It was more than the budget; the rate is raised again step by step."
    elif factor_now == 0 and changed_at >= day_began_at:
        factor = 0.0  # until the day is over: not on and off with every estimate
        reason = reason or "The budget of today is used up."
    return Allowance(factor, reason if factor < 1 else None)


UNPRICED = (
    "The budget in dollars has no effect: the price of this model is not known. Add it to the "
    "file of prices (setting prices)."
)


def _fits(cap: Cap, spent: Spent, each: UnitCost) -> tuple[float, str | None]:
    """How often the full rate fits under a cap, 0 if nothing does; and what the cap says of it."""
    found: list[tuple[float, str | None]] = [(math.inf, None)]
    if cap.dollars_per_day is not None:
        left, rest = cap.dollars_per_day - spent.dollars_today, spent.dollars_to_come
        spends = _spends(cap, spent)
        if left <= 0:
            found.append((0.0, f"{spends}."))
        elif left < (each.dollars or 0.0):
            found.append((0.0, f"{spends}; the next would cost {each.dollars:.2g} dollars."))
        elif rest > 0:
            found.append((left / rest, f"{spends}, and all of today's rest would cost {rest:.2f}."))
    if cap.calls_per_minute == 0:
        found.append((0.0, "The budget is 0 calls a minute."))
    elif cap.calls_per_minute is not None and spent.calls_per_minute > 0:
        full = spent.calls_per_minute
        reason = f"{full:.3g} calls a minute would be made; the budget is {cap.calls_per_minute:g}."
        found.append((cap.calls_per_minute / full, reason))
    return min(found, key=_first)


def _spends(cap: Cap, spent: Spent) -> str:
    return f"{spent.dollars_today:.2f} of {cap.dollars_per_day:.2f} dollars are spent today"


def _first(pair: tuple[float, str | None]) -> float:
    return pair[0]


def _step(fits: float) -> float:
    """Rounded down to a power of two; 0 only if nothing fits."""
    if fits <= 0:
        return 0.0
    return 1.0 if fits >= 1 else max(LOWEST, 2.0 ** math.floor(math.log2(fits)))
