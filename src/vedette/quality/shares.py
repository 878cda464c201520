"""The shares of traffic that a categorical score's categories have."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vedette.quality.estimate import Estimate
from vedette.quality.moments import moments
from vedette.quality.proportion import proportion
from vedette.quality.sample import categories


def shares(
    labels: ArrayLike,
    weights: ArrayLike | None = None,
    sessions: ArrayLike | None = None,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """Each category's share, as `vedette.quality.proportion` has it: this category or another.

    The level holds for each category by itself. For all at once, ask for level
    1 - (1 - level) / number of categories (Bonferroni; L. A. Goodman, Technometrics 7 (1965)
    247-254, doi:10.1080/00401706.1965.10490252).

    Args:
        labels: (n,) the categories, as text.
        weights: (n,) 1 / inclusion probability; None if all are equal.
        sessions: (n,) what names each unit's session; None if units are independent.
        level: of each interval, two-sided.

    Returns:
        Category -> share, in alphabetical order; the values add up to 1. Empty if n is 0.

    Raises:
        ValueError: lengths differ, a label is missing, or a weight can't be one.
    """
    names = categories("labels", labels).astype(np.str_)
    return {
        str(name): proportion(moments(names == name, weights, sessions), level)
        for name in np.unique(names)
    }
