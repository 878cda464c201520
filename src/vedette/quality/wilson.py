"""The Wilson score interval of a proportion."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vedette.quality.estimate import Estimate, normal_quantile


def wilson(rate: ArrayLike, size: ArrayLike, level: float = 0.95) -> Estimate:
    """The interval for the proportion behind an observed one.

    Unlike "rate plus or minus two standard errors" it stays within 0..1, is never empty, and holds
    its level when few were counted or (almost) all passed. E. B. Wilson, J. Amer. Statist. Assoc.
    22 (1927) 209-212, doi:10.1080/01621459.1927.10502953; recommended for small counts by L. D.
    Brown, T. T. Cai & A. DasGupta, Statistical Science 16 (2001) 101-133,
    doi:10.1214/ss/1009213286, section 3.1.1. Without continuity correction.

    Args:
        rate: observed proportion(s), 0 to 1; any shape.
        size: how many independent outcomes it is of, 0 or more; may be fractional: an effective
            number. Broadcast against ``rate``. 0 gives the interval 0..1.
        level: of the interval, two-sided.

    Raises:
        ValueError: a rate is outside 0..1, a size is negative or not a number, or the level is not
            between 0 and 1.
    """
    p, n = np.asarray(rate, np.float64), np.asarray(size, np.float64)
    if np.any((p < 0) | (p > 1)):
        raise ValueError("a rate must be between 0 and 1")
    if not np.all(n >= 0):
        raise ValueError("a size must be 0 or more")
    p, n = np.broadcast_arrays(p, n)
    z = normal_quantile(level)
    reach = z * np.sqrt(p * (1 - p) * n + z * z / 4)
    centre = p * n + z * z / 2
    # Rounding must not leave 0..1, nor the rate outside
    low = np.where(p == 0, 0.0, np.clip((centre - reach) / (n + z * z), 0.0, p))
    high = np.where(p == 1, 1.0, np.clip((centre + reach) / (n + z * z), p, 1.0))
    unknown = np.isnan(p) | (n == 0)
    return Estimate(p, np.where(unknown, 0.0, low), np.where(unknown, 1.0, high))
