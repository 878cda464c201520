"""Cohen's kappa: the agreement of two raters beyond chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vedette.quality.agreement import UNDEFINED, chance_corrected, pairs
from vedette.quality.estimate import Estimate


def kappa(
    judge: ArrayLike,
    human: ArrayLike,
    weights: ArrayLike | None = None,
    sessions: ArrayLike | None = None,
    level: float = 0.95,
) -> Estimate:
    """1 - observed disagreement / that of raters who give their categories at random.

    J. Cohen, Educ. Psychol. Measurement 20 (1960) 37-46, doi:10.1177/001316446002000104. Variance
    by the delta method, which for equal weights is that of J. L. Fleiss, J. Cohen & B. S. Everitt,
    Psychological Bulletin 72 (1969) 323-327, doi:10.1037/h0028106; interval as in
    `vedette.quality.agreement`.

    When nearly all units are of one category, kappa is near 0 however often the raters agree: then
    look at `vedette.quality.gwet` as well.

    Args:
        judge: (n,) categories: text, booleans or integers.
        human: (n,) likewise.
        weights: (n,) 1 / probability that the unit was scored and labelled; None if all are equal.
        sessions: (n,) what names each unit's session; None if units are independent.
        level: of the interval, two-sided.

    Returns:
        1 for perfect agreement, 0 for that of chance. nan in -1..1 if there are no units, or all
        are of one category for both.

    Raises:
        ValueError: lengths differ, a category is missing, or a weight can't be one.
    """
    rated = pairs(judge, human, weights)
    if rated.categories < 2:
        return UNDEFINED
    differ = (rated.first != rated.second).astype(np.float64)
    by_chance = 1 - float(rated.first_shares @ rated.second_shares)
    observed = float(np.average(differ, weights=rated.weights))
    # How a unit moves the disagreement by chance
    meets = rated.second_shares[rated.first] + rated.first_shares[rated.second]
    moves = 2 * (1 - by_chance) - meets
    influence = (observed * moves / by_chance - (differ - observed)) / by_chance
    return chance_corrected(differ, by_chance, influence, rated.weights, sessions, level)
