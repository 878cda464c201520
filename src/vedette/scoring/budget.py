"""How much of a scorer's rate its budget allows: all, a half, a quarter, ..., or nothing.

The rule, for each cap (a scorer's own, and the one on all scorers together):

1. **What fits.** Dollars: what is left of the day's, less what is under way, over what the rest of
   the day would cost at the full rate. Calls: the cap over the calls per minute at the full rate.
   The smallest of these, rounded down to 1, 1/2, 1/4, ... 1/1024, is the factor: a lower sampling
   rate all day is worth more than a full one until noon. Each factor is an epoch with a known
   inclusion probability, so numbers stay unbiased; powers of two keep the epochs few and the
   samples nested.
2. **Down at once, up with care.** A factor is lowered when it no longer fits. It is raised, one
   step at a time, when the next step would fit with a quarter to spare and a quarter of an hour has
   passed. With the new day, or another cap, it is whatever fits.
3. **Stop.** When the day's dollars are spent, what is under way included, the decision on each
   further unit is `budget` until the day is over.
4. **Not now.** Caps are also kept from second to second: `calls_now` more may begin. What has to
   wait is not lost, and because of 1 it does not wait long.

A cap can only be passed by what was under way when it was reached, where that turned out dearer
than calls were on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOWEST = 1 / 1024
SPARE = 1.25  # of the next step up must fit
RAISE_AFTER_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Cap:
    """A limit; None is no limit."""

    calls_per_minute: float | None = None
    dollars_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What falls under a cap."""

    dollars_today: float
    calls_last_minute: int
    """Those that have ended."""
    calls_under_way: int
    """One for each unit, or how many a unit takes on average."""
    dollars_per_call: float | None
    """Of late, on average. None: no prices are known."""
    calls_per_minute_at_full_rate: float
    """Expected, of the traffic now, were the factor 1."""
    calls_left_today_at_full_rate: float
    """Expected until the day is over, were the factor 1."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be spent from now on."""

    factor: float
    """Of the scorer's sampling rate: 1, 1/2, 1/4, ...; 0 when stopped."""
    calls_now: int | None
    """How many more calls may begin in this second; None is no limit."""
    reason: str | None
    """Why it is not all, for people."""

    @property
    def stopped(self) -> bool:
        """Whether units get the decision `budget`."""
        return self.factor == 0.0


def allow(
    caps: Sequence[tuple[Cap, Spent]],
    factor_now: float,
    *,
    changed_at: float,
    day_began_at: float,
    now: float,
) -> Allowance:
    """What the caps allow.

    Args:
        caps: a scorer's own cap and the one on all, each with what falls under it.
        factor_now: the factor there is; 0 when stopped.
        changed_at: when it came to be so, in seconds of any clock; minus infinity if a cap has been
            changed since.
        day_began_at: of the same clock.
        now: of the same clock.
    """
    fits, reason = min((_fits(cap, spent) for cap, spent in caps), default=(1.0, None), key=_first)
    factor = _step(fits)
    if 0 < factor_now < factor and changed_at >= day_began_at:
        next_up = factor_now * 2
        waited = now - changed_at >= RAISE_AFTER_SECONDS
        factor = next_up if waited and fits >= next_up * SPARE else factor_now
    elif factor_now == 0 and changed_at >= day_began_at:
        factor = 0.0  # until the day is over: not on and off with every estimate
        reason = reason or "The budget of today is used up."
    calls = [_calls_now(cap, spent) for cap, spent in caps]
    limits = [one for one in calls if one is not None]
    return Allowance(factor, min(limits) if limits else None, reason if factor < 1 else None)


def unpriced(cap: Cap, spent: Spent) -> str | None:
    """What to tell people when a cap in dollars can't be kept, because prices are not known."""
    if cap.dollars_per_day is None or spent.dollars_per_call is not None:
        return None
    return (
        "The budget in dollars has no effect: the price of this model is not known. Add it to the "
        "file of prices (setting prices)."
    )


def _fits(cap: Cap, spent: Spent) -> tuple[float, str | None]:
    """The largest factor that a cap has room for, and what it says of it."""
    found: list[tuple[float, str | None]] = [(1.0, None)]
    if cap.dollars_per_day is not None and spent.dollars_per_call is not None:
        each = spent.dollars_per_call
        left = cap.dollars_per_day - spent.dollars_today - spent.calls_under_way * each
        rest = spent.calls_left_today_at_full_rate * each
        spends = f"{spent.dollars_today:.2f} of {cap.dollars_per_day:.2f} dollars are spent today"
        if left <= 0:
            found.append((0.0, f"{spends}."))
        elif rest > 0:
            found.append((left / rest, f"{spends}, and all of today's rest would cost {rest:.2f}."))
    if cap.calls_per_minute is not None and spent.calls_per_minute_at_full_rate > 0:
        full = spent.calls_per_minute_at_full_rate
        reason = f"{full:.0f} calls a minute would be made; the budget is {cap.calls_per_minute:g}."
        found.append((cap.calls_per_minute / full, reason))
    return min(found, key=_first)


def _first(pair: tuple[float, str | None]) -> float:
    return pair[0]


def _step(fits: float) -> float:
    """Rounded down to a power of two; 0 only if nothing fits."""
    if fits <= 0:
        return 0.0
    return min(1.0, max(LOWEST, 2.0 ** math.floor(math.log2(fits))))


def _calls_now(cap: Cap, spent: Spent) -> int | None:
    limits = []
    if cap.calls_per_minute is not None:
        limits.append(cap.calls_per_minute - spent.calls_last_minute - spent.calls_under_way)
    if cap.dollars_per_day is not None and spent.dollars_per_call:
        left = cap.dollars_per_day - spent.dollars_today
        limits.append(left / spent.dollars_per_call - spent.calls_under_way)
    return max(0, math.floor(min(limits))) if limits else None
