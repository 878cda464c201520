"""What the coefficients of agreement have in common: 1 - disagreement / disagreement by chance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vedette.quality.estimate import Estimate, FloatArray
from vedette.quality.moments import moments
from vedette.quality.proportion import effective_size
from vedette.quality.sample import categories, require_same_length, sample
from vedette.quality.wilson import wilson

UNDEFINED = Estimate(np.asarray(np.nan), np.asarray(-1.0), np.asarray(1.0))


class Pairs(NamedTuple):
    """What two raters said of n units.

    Attributes:
        categories: how many there are.
        first: (n,) number of the category that the first gave.
        second: (n,) likewise.
        weights: (n,) of the units.
        first_shares: (categories,) weighted shares of the first's.
        second_shares: likewise.
    """

    categories: int
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    weights: FloatArray
    first_shares: FloatArray
    second_shares: FloatArray


def pairs(first: ArrayLike, second: ArrayLike, weights: ArrayLike | None) -> Pairs:
    """Number the categories and count them.

    Raises:
        ValueError: lengths differ, a category is missing, or a weight can't be one.
    """
    ours, theirs = categories("the first rater", first), categories("the second rater", second)
    require_same_length("the second rater", theirs, ours)
    found, codes = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
    one, two = codes[: ours.size], codes[ours.size :]
    checked = sample(np.zeros(ours.shape), weights)
    shares = [
        np.bincount(each, checked.weights, found.size) / max(checked.weights.sum(), 1e-300)
        for each in (one, two)
    ]
    return Pairs(found.size, one, two, checked.weights, shares[0], shares[1])


def chance_corrected(
    disagreement: FloatArray,
    by_chance: float,
    influence: FloatArray,
    weights: FloatArray,
    sessions: ArrayLike | None,
    level: float,
) -> Estimate:
    """A coefficient and its interval, which doesn't shrink to a point at perfect agreement.

    The disagreement gets a Wilson interval for as many units as make its variance, divided by the
    chance's, that of the coefficient; so it is the usual interval where agreement is middling, and
    at perfect agreement says how much disagreement may have gone unseen.

    Args:
        disagreement: (n,) of each unit, 0 to 1.
        by_chance: the disagreement expected by chance, the coefficient's denominator; above 0.
        influence: (n,) the derivative of the coefficient with respect to each unit's weight, times
            the sum of weights (delta method).
        weights: (n,).
        sessions: (n,) what names each unit's session; None if units are independent.
        level: of the interval, two-sided.

    Returns:
        Within -1..1.
    """
    sums = moments(disagreement, weights, sessions)
    variance = moments(influence, weights, sessions).linearised_variance * by_chance**2
    observed = wilson(np.clip(sums.mean, 0, 1), effective_size(sums, level, variance), level)
    high, value, low = (
        np.maximum(1 - bound / by_chance, -1.0)
        for bound in (observed.low, observed.value, observed.high)
    )
    # What agreement by chance is, isn't known of one session, nor how rare agreement is if there is
    # none
    low = np.where((sums.sessions < 2) | (observed.value == 1), -1.0, low)
    return Estimate(value, low, np.where(sums.sessions < 2, 1.0, high))
