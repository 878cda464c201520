"""The difference of two estimates: after and before, version 2 and version 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vedette.quality.estimate import Estimate, FloatArray
from vedette.quality.sample import Sample, require_same_length, sample, session_sums


def difference(after: Estimate, before: Estimate, correlation: ArrayLike = 0.0) -> Estimate:
    """``after - before``, with an interval made of theirs ("MOVER").

    For proportions with Wilson intervals it is method 10 of R. G. Newcombe, Statistics in Medicine
    17 (1998) 873-890, which holds near 0 and 1, too; in general G. Y. Zou & A. Donner, Statistics
    in Medicine 27 (2008) 1693-1702, doi:10.1002/sim.3095; with a correlation G. Y.
    Zou, Psychological Methods 12 (2007) 399-413, doi:10.1037/1082-989X.12.4.399. Means,
    proportions, quantiles and corrected means alike, as long as both have the same level.

    Args:
        after: any shape.
        before: broadcast against it.
        correlation: of the two, see `shared_sessions`.

    Returns:
        In their unit. Unlimited on a side where one of the intervals is.
    """
    value = after.value - before.value
    rho = np.asarray(correlation, np.float64)
    low = value - _root(after.value - after.low, before.high - before.value, rho)
    high = value + _root(after.high - after.value, before.value - before.low, rho)
    unknown = np.isnan(value)
    return Estimate(value, np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high))


def shared_sessions(
    values: ArrayLike,
    sessions: ArrayLike,
    is_after: ArrayLike,
    weights: ArrayLike | None = None,
) -> float:
    """The correlation of two means that comes of sessions with units on both sides.

    From the sessions' linearised totals w (y - mean), as in `vedette.quality.mean`.

    Args:
        values: (n,) the scores of both sides.
        sessions: (n,) what names each unit's session.
        is_after: (n,) booleans: the side of each unit.
        weights: (n,) 1 / inclusion probability; None if all are equal.

    Returns:
        -1 to 1; 0 if nothing is shared, or nothing varies.

    Raises:
        ValueError: lengths differ, or a value or weight can't be one.
    """
    both = sample(values, weights, sessions)
    after = np.asarray(is_after, np.bool_)
    require_same_length("is_after", after, both.values)
    if after.all() or not after.any():
        return 0.0
    ours, theirs = (_totals(both, side) for side in (after, ~after))
    scale = np.sqrt((ours**2).sum() * (theirs**2).sum())
    return float(np.clip((ours * theirs).sum() / scale, -1, 1)) if scale > 0 else 0.0


def _totals(both: Sample, side: NDArray[np.bool_]) -> FloatArray:
    mean = np.average(both.values, weights=both.weights * side)
    return session_sums(both, side * both.weights * (both.values - mean))


def _root(ours: FloatArray, theirs: FloatArray, rho: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore"):
        square = ours**2 + theirs**2 - 2 * rho * ours * theirs
    unlimited = np.isinf(ours) | np.isinf(theirs)
    return np.where(unlimited, np.inf, np.sqrt(np.maximum(square, 0.0)))
