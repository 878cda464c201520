"""How often a judge is right, by what humans said: sensitivity and specificity."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vedette.quality.estimate import Estimate
from vedette.quality.moments import moments
from vedette.quality.proportion import proportion
from vedette.quality.sample import booleans, require_same_length


class Accuracy(NamedTuple):
    """Shares within 0..1.

    Attributes:
        sensitivity: of what humans found to be so, the share that the judge found, too.
        specificity: of what humans found not to be so, the share that the judge found not to be so.
    """

    sensitivity: Estimate
    specificity: Estimate


def accuracy(
    judge: ArrayLike,
    human: ArrayLike,
    weights: ArrayLike | None = None,
    sessions: ArrayLike | None = None,
    level: float = 0.95,
) -> Accuracy:
    """Sensitivity and specificity (J. Yerushalmy, Public Health Reports 62 (1947) 1432-1449,
    doi:10.2307/4586294), as proportions of the traffic: `vedette.quality.proportion`.

    What is "so" is for the caller to say: mostly a failure, as that is what a judge is there to
    find. For categories, one against the rest.

    Args:
        judge: (n,) booleans: whether the judge found it so.
        human: (n,) booleans: whether the human did.
        weights: (n,) 1 / probability that the unit was scored and labelled; None if all are equal.
        sessions: (n,) what names each unit's session; None if units are independent.
        level: of each interval, two-sided.

    Returns:
        nan in 0..1 where humans found nothing (not) to be so.

    Raises:
        ValueError: lengths differ, a verdict is missing, or a weight can't be one.
    """
    found, truth = booleans("judge", judge), booleans("human", human)
    require_same_length("human", truth, found)

    def right(among: NDArray[np.bool_]) -> Estimate:
        weight = None if weights is None else np.asarray(weights)[among]
        session = None if sessions is None else np.asarray(sessions)[among]
        return proportion(moments((found == truth)[among], weight, session), level)

    return Accuracy(right(truth), right(~truth))
