"""An estimate with its interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

FloatArray = NDArray[np.float64]


class Estimate(NamedTuple):
    """An estimate and its confidence interval; arrays of one shape, that of a number for one.

    Attributes:
        value: nan if there was nothing to estimate it from.
        low: lower bound. Where the data say nothing it is the least value possible, or -inf.
        high: upper bound, likewise.
    """

    value: FloatArray
    low: FloatArray
    high: FloatArray


def normal_quantile(level: float) -> float:
    """How many standard errors a two-sided interval of this level reaches.

    Raises:
        ValueError: the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"a level of {level} is not between 0 and 1, such as 0.95")
    return float(ndtri((1 + level) / 2))


def student_quantile(level: float, degrees_of_freedom: FloatArray) -> FloatArray:
    """The same for an estimated variance with so many degrees of freedom; nan below 1.

    Raises:
        ValueError: the level is not between 0 and 1.
    """
    normal_quantile(level)
    quantile = stdtrit(np.maximum(degrees_of_freedom, 1.0), (1 + level) / 2)
    return np.where(degrees_of_freedom >= 1, quantile, np.nan)
