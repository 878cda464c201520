"""What traffic that no sample speaks for does to an estimate."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from vedette.quality.estimate import Estimate, FloatArray


def with_unseen(
    seen: Estimate, share: ArrayLike, bounds: tuple[float, float] = (0.0, 1.0)
) -> Estimate:
    """The mean of all traffic, when a known share of it had no chance to be scored.

    A stratum of which no trace was drawn, a judge that failed on some traces, a budget that was
    used up: weights can't make up for units of which there is none. Their mean may be anything, so
    the interval goes from where all of them are at the lower bound to where all are at the upper:
    C. F. Manski, "Nonparametric Bounds on Treatment Effects", American Economic Review 80 (1990)
    319-323 (worst-case bounds, no assumption about what is missing).

    Args:
        seen: of the traffic that had a chance; any shape.
        share: of the traffic that had none, 0 to 1, from the counts of decisions; broadcast against
            ``seen``.
        bounds: between which every score lies.

    Returns:
        In the unit of ``seen``. The value is that of what was seen, but nan if nothing was or could
        be; the interval contains the mean of all whatever the unseen is like.

    Raises:
        ValueError: a share is not within 0..1.
    """
    missing = np.asarray(share, np.float64)
    if not np.all((missing >= 0) & (missing <= 1)):
        raise ValueError("a share of traffic must be between 0 and 1")
    lowest, highest = bounds

    def bound(reached: FloatArray, end: float) -> FloatArray:
        if math.isinf(end):
            return np.where(missing > 0, end, reached)
        return np.where(missing < 1, (1 - missing) * reached + missing * end, end)

    return Estimate(
        np.where(missing < 1, seen.value, np.nan),
        bound(seen.low, lowest),
        bound(seen.high, highest),
    )
