"""Gwet's AC1: the agreement of two raters beyond chance, also where one category prevails."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vedette.quality.agreement import UNDEFINED, chance_corrected, pairs
from vedette.quality.estimate import Estimate


def ac1(
    judge: ArrayLike,
    human: ArrayLike,
    weights: ArrayLike | None = None,
    sessions: ArrayLike | None = None,
    level: float = 0.95,
) -> Estimate:
    """1 - observed disagreement / that of raters who guess where they don't know.

    K. L. Gwet, Brit. J. Math. Statist. Psychol. 61 (2008) 29-48, doi:10.1348/000711006X126600:
    agreement by chance is the sum of p (1 - p) / (categories - 1), with p a category's
    share among both raters. Variance by the delta method; interval as in
    `vedette.quality.agreement`. Unlike kappa it doesn't fall to 0 where nearly everything passes.

    Args:
        judge: (n,) categories: text, booleans or integers. Those that occur count; one for both
            raters counts as one of two.
        human: (n,) likewise.
        weights: (n,) 1 / probability that the unit was scored and labelled; None if all are equal.
        sessions: (n,) what names each unit's session; None if units are independent.
        level: of the interval, two-sided.

    Returns:
        1 for perfect agreement, 0 for that of chance. nan in -1..1 if there are no units.

    Raises:
        ValueError: lengths differ, a category is missing, or a weight can't be one.
    """
    rated = pairs(judge, human, weights)
    if not rated.categories:
        return UNDEFINED
    differ = (rated.first != rated.second).astype(np.float64)
    shares = (rated.first_shares + rated.second_shares) / 2
    others = max(rated.categories - 1, 1)
    by_chance = 1 - float((shares * (1 - shares)).sum()) / others
    observed = float(np.average(differ, weights=rated.weights))
    # How a unit moves the disagreement by chance
    slopes = 1 - 2 * shares
    moves = (float(slopes @ shares) - (slopes[rated.first] + slopes[rated.second]) / 2) / others
    influence = (observed * moves / by_chance - (differ - observed)) / by_chance
    return chance_corrected(differ, by_chance, influence, rated.weights, sessions, level)
