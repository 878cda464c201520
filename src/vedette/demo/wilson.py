"""The Wilson score interval: how sure a pass rate is, given how many were counted."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal: two-sided 95 %


class Interval(NamedTuple):
    """A lower and an upper bound, both in 0..1."""

    low: float
    high: float


def wilson_interval(passed: int, counted: int) -> Interval:
    """The 95 % interval for the rate behind ``passed`` of ``counted`` independent outcomes.

    Unlike "rate plus or minus two standard errors" it stays within 0..1 and holds its level when
    few were counted or (almost) all passed. Source: E. B. Wilson, "Probable inference, the law of
    succession, and statistical inference", J. Amer. Statist. Assoc. 22 (1927) 209-212; recommended
    for small counts by Brown, Cai & DasGupta, Statistical Science 16 (2001) 101-133.

    Raises:
        ValueError: nothing was counted, or more passed than were counted.
    """
    if not 0 <= passed <= counted or counted == 0:
        raise ValueError(f"no rate can be had from {passed} of {counted}")
    rate, z2 = passed / counted, _Z95**2
    centre = rate + z2 / (2 * counted)
    reach = _Z95 * sqrt(rate * (1 - rate) / counted + z2 / (4 * counted**2))
    scale = 1 + z2 / counted
    return Interval(max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale))
