"""Percentiles of latency or cost over all traffic, from a sample with unequal probabilities."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from vedette.quality.estimate import Estimate, FloatArray, normal_quantile
from vedette.quality.moments import Moments, moments
from vedette.quality.proportion import effective_size
from vedette.quality.sample import sample


def quantile(
    values: ArrayLike,
    probability: float,
    weights: ArrayLike | None = None,
    sessions: ArrayLike | None = None,
    level: float = 0.95,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """The least value that at least ``probability`` of the traffic doesn't exceed.

    *Interval*: those values x for which the share of traffic up to x isn't significantly different
    from ``probability``: R. S. Woodruff, J. Amer. Statist. Assoc. 47 (1952) 635-646,
    doi:10.1080/01621459.1952.10483443, in the form of C. A. Francisco & W. A. Fuller, Annals of
    Statistics 19 (1991) 454-469, doi:10.1214/aos/1176347993, with the score test that Wilson's
    interval inverts: its variance is p (1 - p) / n for p = ``probability`` and n the effective
    number of units (`vedette.quality.proportion.effective_size`).

    Few units bound a high percentile from below only: the upper bound of the 99th percentile of 100
    latencies is ``bounds[1]``. That is no defect: the largest of so few may well be below it.

    Args:
        values: (n,) in any unit.
        probability: 0.5 for the median, 0.95 for the 95th percentile; between 0 and 1.
        weights: (n,) 1 / inclusion probability; None if all are equal.
        sessions: (n,) what names each unit's session; None if units are independent.
        level: of the interval, two-sided.
        bounds: the least and largest value possible, such as (0, inf).

    Returns:
        In the unit of the values: one of them, and two of them or the bounds. Without values, nan
        and the bounds.

    Raises:
        ValueError: lengths differ, a value or weight can't be one, or probability or level is not
            between 0 and 1.
    """
    if not 0 < probability < 1:
        raise ValueError(f"a percentile of {probability} is not between 0 and 1, such as 0.95")
    checked = sample(values, weights, sessions)
    lowest, highest = (np.float64(bound) for bound in bounds)
    if not checked.values.size:
        return Estimate(np.asarray(np.nan), np.asarray(lowest), np.asarray(highest))
    order = np.argsort(checked.values, kind="stable")
    ordered = checked.values[order]
    upto = np.cumsum(checked.weights[order])
    upto /= upto[-1]

    def at(share: float) -> FloatArray:
        # Not the next one because of rounding in the sum
        return np.asarray(ordered[np.searchsorted(upto, share - 1e-12)])

    value = at(probability)
    indicator = moments(checked.values <= value, checked.weights, checked.sessions)
    low, high = shares_around(indicator, probability, level)
    return Estimate(
        value,
        at(low) if low > 0 else np.asarray(lowest),
        at(high) if high < 1 else np.asarray(highest),
    )


def shares_around(
    indicator: Moments, probability: float, level: float = 0.95
) -> tuple[float, float]:
    """At which shares of the traffic the bounds of the interval are, for who has the values
    elsewhere; not above 0, or not below 1, where there is no bound.

    Args:
        indicator: of whether a value is up to the percentile found, the sums.
    """
    size = float(effective_size(indicator, level))
    reach = math.inf
    if size > 0:
        reach = normal_quantile(level) * math.sqrt(probability * (1 - probability) / size)
    return probability - reach, probability + reach
