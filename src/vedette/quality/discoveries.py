"""Which of many scorers and slices have changed: control of false discoveries (e-BH)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def discoveries(log_e: ArrayLike, rate: float = 0.05) -> NDArray[np.bool_]:
    """Those of many e-values that may be reported together.

    Of K e-values the k largest, for the largest k at which the k-th is at least K / (rate k): R.
    Wang & A. Ramdas, "False discovery rate control with e-values", J. Royal Statist. Soc. B 84
    (2022) 822-852, doi:10.1111/rssb.12489, arXiv:2009.02824, section 4. Of those reported, a
    share of ``rate`` at most is false, in expectation, however the e-values depend on each other:
    scorers judge the same traces, and slices overlap.

    Args:
        log_e: natural logarithms of e-values, any shape (scorers x slices); -inf is none at all.
        rate: share of false ones to put up with, between 0 and 1.

    Returns:
        True for those to report, in the same shape.

    Raises:
        ValueError: an e-value is not a number, or the rate is not between 0 and 1.
    """
    if not 0 < rate < 1:
        raise ValueError(f"a rate of {rate} is not between 0 and 1, such as 0.05")
    logs = np.asarray(log_e, np.float64)
    if np.isnan(logs).any():
        raise ValueError("an e-value is not a number: leave out what has no evidence yet")
    largest_first = np.sort(logs, axis=None)[::-1]
    needed = np.log(logs.size / rate / np.arange(1, logs.size + 1))
    enough = np.flatnonzero(largest_first >= needed)
    if not enough.size:
        return np.zeros(logs.shape, np.bool_)
    return np.asarray(logs >= largest_first[enough[-1]])
