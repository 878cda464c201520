"""Has a score fallen against its rolling baseline? An e-detector, which may run for months."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from vedette.quality.estimate import FloatArray
from vedette.quality.mean import mean
from vedette.quality.moments import Moments
from vedette.quality.off_policy import log_gains
from vedette.quality.sample import Sample, require_same_length, sample

_BASELINE_LEVEL = 0.999


class Fall(NamedTuple):
    """Evidence that the mean fell; arrays (n,), one after each score.

    Attributes:
        log_e: log of the e-detector. Alarm at log(horizon / alpha), for a probability of a false
            alarm of alpha at most in ``horizon`` scores; the mean run to one is at least e**log_e.
        limit: what the mean was tested against; 0 while there was no baseline.
    """

    log_e: FloatArray
    limit: FloatArray


def fall(
    values: ArrayLike,
    weights: ArrayLike,
    times: ArrayLike,
    *,
    window: float,
    lag: float,
    least: float = 0.0,
    largest_weight: ArrayLike = 1.0,
) -> Fall:
    """Evidence, after each score, that the mean lies more than ``least`` below its baseline.

    The e-detector is a sum of e-processes, one begun at each score, so it doesn't tire in good
    times and answers a fall at whatever time: J. Shin, A. Ramdas & A. Rinaldo, "E-detectors: a
    nonparametric framework for sequential change detection", New England J. Statist. Data Science 2
    (2024) 229-260, doi:10.51387/23-NEJSDS51, arXiv:2203.03532: the Shiryaev-Roberts form
    M <- (M + 1) * gain, averaged over fixed bets; those of `vedette.quality.off_policy`. Its
    expectation after n scores is n at most, which gives the probability above.

    The baseline is the mean over the window that ended ``lag`` before the score; the limit is the
    lower bound of its 99.9 % interval, less ``least``. It is known before the score, so the
    e-detector stays one while the bound holds. A fall that lasts longer than lag and window becomes
    the baseline.

    One unit per session, as in `vedette.quality.off_policy`. For "risen", hand in 1 - values.

    Args:
        values: (n,) scores in 0..1, in order of arrival.
        weights: (n,) 1 / inclusion probability.
        times: (n,) when each arrived, ascending, in seconds of any clock.
        window: seconds; the length of the baseline.
        lag: seconds between the baseline's end and the score, 0 or more.
        least: the fall that doesn't matter yet, in the unit of the scores.
        largest_weight: the largest that a weight could have been, known before the unit: one
            number, or (n,) as the rates changed.

    Raises:
        ValueError: lengths differ, scores are outside 0..1, times descend, window, lag or least
            make no sense, or a weight is larger than the largest.
    """
    checked = sample(values, weights)
    at = np.asarray(times, np.float64)
    require_same_length("times", at, checked.values)
    if np.any(np.diff(at) < 0):
        raise ValueError("times must not descend: hand the scores in in order of arrival")
    if not (window > 0 and lag >= 0 and least >= 0):
        raise ValueError("window must be above 0, lag and least 0 or more")
    # Of scores that arrived at the same time none is the other's past
    ends = np.searchsorted(at, at - lag)
    starts = np.searchsorted(at, at - lag - window)
    baseline = _rolling(checked, starts, ends)
    lower = mean(baseline, _BASELINE_LEVEL, bounds=(0.0, 1.0)).low
    limit = np.maximum(lower - least, 0.0)
    gains = np.cumsum(log_gains(checked.values, checked.weights, limit, largest_weight), axis=1)
    begun = np.concatenate([np.zeros((len(gains), 1)), -gains[:, :-1]], axis=1)
    wealth = gains + np.logaddexp.accumulate(begun, axis=1)
    return Fall(np.asarray(logsumexp(wealth, axis=0) - np.log(len(gains))), limit)


def _rolling(checked: Sample, starts: NDArray[np.intp], ends: NDArray[np.intp]) -> Moments:
    """The sums over units starts[i] to ends[i], for each i; each unit is a session."""

    def over(per_unit: FloatArray) -> FloatArray:
        # Long doubles: the fifth power of a weight must not drown what comes after it
        sums = np.concatenate([[0], np.cumsum(per_unit.astype(np.longdouble))])
        return np.asarray(sums[ends] - sums[starts], np.float64)

    weights, totals = checked.weights, checked.weights * checked.values
    count = (ends - starts).astype(np.float64)
    powers = np.stack([over(weights**power) for power in range(1, 6)])
    return Moments(
        units=count,
        sessions=count,
        unit_squares=powers[1],
        weights=powers,
        weighted=over(totals),
        cross=over(totals * weights),
        squares=over(totals**2),
    )
