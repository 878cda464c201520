"""The mean of a numeric score over all traffic, from a sample with unequal probabilities."""

from __future__ import annotations

import math

import numpy as np

from vedette.quality.estimate import Estimate, FloatArray, normal_quantile, student_quantile
from vedette.quality.moments import Moments
from vedette.quality.proportion import cautious_size, rate
from vedette.quality.wilson import wilson


def mean(
    sums: Moments, level: float = 0.95, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """The Hajek mean, with an interval that minds sessions and few of them.

    *Estimate*: sum of w y / sum of w. J. Hajek, comment in V. P. Godambe & D. A. Sprott (eds.),
    "Foundations of Statistical Inference" (1971) 236; C.-E. Sarndal, B. Swensson & J. Wretman,
    "Model Assisted Survey Sampling" (1992), section 5.7.

    *Variance*: linearised, of the sessions' totals T - mean W (D. A. Binder, Int. Statist. Rev. 51
    (1983) 279-292, doi:10.2307/1402588). Sessions are drawn from an unlimited supply, so there is
    no finite population correction, also at rate 1. As it stands it is too small for few sessions;
    it is divided by its expectation under a working model, and the t quantile has Satterthwaite's
    degrees of freedom under that model: R. M. Bell & D. F. McCaffrey, Survey Methodology 28 (2002)
    169-181; J. E. Pustejovsky & E. Tipton, J. Bus. Econ. Statist. 36 (2018) 672-683,
    doi:10.1080/07350015.2016.1247004, arXiv:1601.01981. The working model:
    units of a session are alike, sessions differ equally. For a mean, the matrices of these papers
    reduce to sums of powers of the sessions' shares p of the weight: bias 1 + s2 - 2 s3 / s2 and
    degrees of freedom (s2 (1 + s2) - 2 s3)**2 / (s4 (1 + 4 s2) - 4 s5 + s2**4 + 2 s3**2
    - 4 s2**2 s3), with sk = sum of p**k. With equal sessions these are the text-book's 1 - 1/g and
    g - 1.

    *Two bounds*: near one, as with ratings that are mostly 5 of 5, a t interval knows nothing of
    the rare low ones that weren't seen. So with both it is Wilson's interval of the mean's place
    between them, for as many units as have that variance (see `vedette.quality.proportion`): the
    same where the mean is in the middle and sessions are many, and never beyond the bounds.

    *All alike*: the sample shows no variance, which doesn't mean that there is none. With bounds,
    the share of traffic that is otherwise may be as high as Wilson's upper bound for none seen, and
    may lie at the bounds; without, the interval is unlimited.

    Args:
        sums: of the scores, any unit.
        level: of the interval, two-sided.
        bounds: between which every score lies, such as (1, 5) or (0, inf); intervals don't
            leave them.

    Returns:
        In the scores' unit, of the shape of the sums. One session, or nothing: the interval is
        ``bounds``.

    Raises:
        ValueError: the level is not between 0 and 1; the bounds are none, or the mean is outside.
    """
    lowest, highest = bounds
    if not lowest < highest:
        raise ValueError(f"bounds of {lowest} and {highest}: the first must be lower")
    value = sums.mean
    if np.any((value < lowest - _rounding(value)) | (value > highest + _rounding(value))):
        raise ValueError(f"the mean is outside the bounds {lowest} to {highest}")
    if math.isinf(highest - lowest):
        return Estimate(*(np.clip(each, lowest, highest) for each in _unbounded(sums, level)))
    places = sums.rescaled(lowest, highest)
    place, low, high = _bounded(places, level)
    unseen = wilson(0.0, np.where(sums.sessions >= 2, 1 / sums.session_share, 0.0), level).high
    alike = (sums.linearised_variance == 0) & (sums.sessions >= 2)
    low = np.where(alike, place * (1 - unseen), low)
    high = np.where(alike, place + unseen * (1 - place), high)
    extent = highest - lowest
    return Estimate(*(lowest + extent * each for each in (place, low, high)))


def _unbounded(sums: Moments, level: float) -> Estimate:
    reach = student_quantile(level, sums.degrees_of_freedom) * np.sqrt(sums.variance)
    told = (sums.sessions >= 2) & (sums.linearised_variance > 0)
    reach = np.where(told, reach, math.inf)
    value = sums.mean
    unknown = np.isnan(value)
    return Estimate(
        value,
        np.where(unknown, -math.inf, value - reach),
        np.where(unknown, math.inf, value + reach),
    )


def _bounded(places: Moments, level: float) -> Estimate:
    """Of scores in 0..1, unlike `vedette.quality.proportion` also where they vary less than
    booleans would."""
    place = rate(places)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = places.variance / (place * (1 - place))
    adjustment = student_quantile(level, places.degrees_of_freedom) / normal_quantile(level)
    return wilson(place, cautious_size(places, share, adjustment), level)


def _rounding(value: FloatArray) -> FloatArray:
    return np.asarray(1e-9 * (1 + np.abs(value)))
