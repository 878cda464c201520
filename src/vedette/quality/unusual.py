"""Is a count unlike those before it?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vedette.quality.estimate import Estimate, student_quantile


def prediction(counts: ArrayLike, level: float) -> Estimate:
    """Between which the next count lies, if it is like those before it.

    The text-book's prediction interval, mean +- t s sqrt(1 + 1 / n), of logarithms of counts + 1
    (G. J. Hahn & W. Q. Meeker, "Statistical Intervals" (1991), section 4.8). The variance is at
    least that of a Poisson count, which few counts may not show.

    Args:
        counts: (n,) 0 or more, at least 2.
        level: probability that the next lies within.

    Returns:
        In counts, 0 at least; the value is the geometric mean.

    Raises:
        ValueError: fewer than two counts, one below 0, or the level is not between 0 and 1.
    """
    known = np.asarray(counts, np.float64)
    if known.ndim != 1 or known.size < 2 or np.any(known < 0):
        raise ValueError("a prediction needs at least two counts of 0 or more")
    logs = np.log1p(known)
    n, middle = known.size, logs.mean()
    spread = np.sqrt(np.maximum(logs.var(ddof=1), 1 / (np.expm1(middle) + 1)) * (1 + 1 / n))
    reach = student_quantile(level, np.asarray(n - 1.0)) * spread
    ends = (
        np.maximum(np.expm1(np.minimum(middle + by, 700.0)), 0.0) for by in (0.0, -reach, reach)
    )
    return Estimate(*map(np.asarray, ends))
