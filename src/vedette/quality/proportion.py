"""The share of traffic that passes, from a sample with unequal probabilities."""

from __future__ import annotations

import numpy as np

from vedette.quality.estimate import Estimate, FloatArray, student_quantile
from vedette.quality.moments import Moments
from vedette.quality.wilson import wilson

_ROUNDING = 1e-12


def proportion(sums: Moments, level: float = 0.95) -> Estimate:
    """The Hajek mean of scores in 0..1, with a Wilson interval for an effective number of units.

    Unweighted and unclustered it is the Wilson interval. See `effective_size` for the rest.

    Args:
        sums: of scores that are booleans, or numbers in 0..1.
        level: of the interval, two-sided.

    Returns:
        Within 0..1, of the shape of the sums. One session, or nothing: the interval is 0..1.

    Raises:
        ValueError: scores are outside 0..1, or the level is not between 0 and 1.
    """
    return wilson(rate(sums), effective_size(sums, level), level)


def rate(sums: Moments) -> FloatArray:
    """The mean of scores in 0..1, without what rounding adds.

    Raises:
        ValueError: it isn't in 0..1.
    """
    value = sums.mean
    if np.any((value < -1e-9) | (value > 1 + 1e-9)):
        raise ValueError("a proportion needs scores between 0 and 1")
    value = np.where(value < _ROUNDING, 0.0, value)
    return np.where(value > 1 - _ROUNDING, 1.0, value)


def effective_size(
    sums: Moments, level: float = 0.95, variance: FloatArray | None = None
) -> FloatArray:
    """How many independent units, drawn with equal probabilities, would tell as much.

    p (1 - p) / variance, adjusted for the degrees of freedom of the variance by (t of units - 1 /
    t of these)**2: E. L. Korn & B. I. Graubard, "Confidence intervals for proportions with small
    expected number of positive counts estimated from survey data", Survey Methodology 24 (1998)
    193-201. With Wilson's interval: C. Franco, R. J. A. Little, T. A. Louis & E. V. Slud,
    J. Surv. Statist. Methodol. 7 (2019) 334-364, doi:10.1093/jssam/smy019, who find it the best of
    eight, but too narrow for clusters if the variance is taken as it shows.

    Near 0 and 1 the variance says little: a few failing units can't tell whether failures come by
    whole sessions or among the heavy units, and none tell nothing. So (this is ours, see the
    simulations in bench/RESULTS.md):

    - Sampling the rarer outcome at a higher rate makes the variance less than weights alone leave
      (Kish: p (1 - p) sum of w**2 / (sum of w)**2). Then it is taken, up to Kish's, as if half a
      heavy unit of that outcome had been seen as well (w as of traffic: sum of w**2 / sum of w).
    - It is no less than its average with that of the effective number of sessions, which holds at
      worst, as if one more failing session had been seen: f failing sessions weigh f, the worst
      case weighs 1. Hence the interval at "none failed" is that of so many sessions, and failures
      narrow it by and by as they turn out to be unrelated.

    Args:
        sums: of the indicator, scores in 0..1.
        level: for which the degrees of freedom are adjusted.
        variance: of the estimate, if it is not the indicator's mean.

    Returns:
        Units, of the shape of the sums; 0 for less than two sessions.
    """
    p = rate(sums)
    found = sums.linearised_variance if variance is None else variance
    with np.errstate(invalid="ignore", divide="ignore"):
        with_more = (found + sums.unit_share**2 / 2) / (p * (1 - p))
        share = np.maximum(found / (p * (1 - p)), np.minimum(with_more, sums.unit_share))
        adjustment = student_quantile(level, sums.degrees_of_freedom) / student_quantile(
            level, sums.units - 1
        )
    return cautious_size(sums, share, adjustment)


def cautious_size(sums: Moments, share: FloatArray, adjustment: FloatArray) -> FloatArray:
    """The end of `effective_size`: adjusted, and no more than few sessions can vouch for.

    Args:
        sums: of scores in 0..1.
        share: 1 / the size that the variance stands for.
        adjustment: for its degrees of freedom, a ratio of t quantiles.
    """
    p = rate(sums)
    rarer = _sessions_of_the_rarer(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        blended = (rarer * share + np.maximum(share, sums.session_share)) / (rarer + 1)
        least = np.maximum(share * adjustment**2, blended)
        size = 1 / np.where((p > 0) & (p < 1), least, sums.session_share)
    return np.where(sums.sessions >= 2, size, 0.0)


def _sessions_of_the_rarer(sums: Moments) -> FloatArray:
    """The effective number of sessions that have passes, or failures, whichever is less."""
    rest = sums.weights[0] - sums.weighted
    with np.errstate(invalid="ignore", divide="ignore"):
        passing = sums.weighted**2 / sums.squares
        failing = rest**2 / (sums.weights[1] - 2 * sums.cross + sums.squares)
    # What rounding leaves of the last difference may be anything
    fewest = np.nan_to_num(np.minimum(passing, failing), nan=1.0)
    return np.asarray(np.clip(fewest, 1.0, np.maximum(sums.sessions, 1.0)))
