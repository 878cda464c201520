"""Evidence on a pass rate that may be looked at after every score: the beta-binomial e-process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, betaln, xlog1py, xlogy

from vedette.quality.estimate import Estimate, FloatArray, normal_quantile

_PRIOR_SCORES = 10.0
_HALVINGS = 60  # of 0..1: down to rounding


def evidence_below(passed: ArrayLike, counted: ArrayLike, limit: float) -> FloatArray:
    """How strongly the scores so far speak for a rate below the limit, as the log of an e-value.

    The e-value is the wealth of somebody who bets against "the rate is at least the limit", having
    begun with 1. If that is true, the wealth ever reaches 1 / alpha with probability alpha at most
    (J. Ville, "Etude critique de la notion de collectif", 1939), however often it is looked at: so
    alarm at log(1 / alpha), 3.0 for 5 %. A fixed-n interval has no such property.

    It is the likelihood ratio against the limit, averaged over rates below it with a beta
    distribution that is worth 10 scores at the limit: H. Robbins, Ann. Math. Statist. 41 (1970)
    1397-1409, doi:10.1214/aoms/1177696786; S. R. Howard, A. Ramdas, J. McAuliffe & J. Sekhon,
    Annals of Statistics 49 (2021) 1055-1080, doi:10.1214/20-AOS1991, arXiv:1810.08240 (the
    beta-binomial mixtures of its appendix). For every rate below the limit the factor of a score is
    linear in its mean and at most 1 in expectation at or above the limit, so the null is composite;
    and by convexity the scores need not be booleans, but anything in 0..1 with conditional mean at
    least the limit.

    Scores must have been drawn with equal probabilities and be independent: see
    `vedette.quality.off_policy` if they weren't. For "the rate is above the limit", hand in what
    didn't pass and 1 - limit.

    Args:
        passed: sum of the scores so far, each in 0..1; any shape, such as (n,) for a running sum.
        counted: number of scores so far; broadcast against ``passed``.
        limit: the rate that must be held, between 0 and 1.

    Returns:
        Natural logarithms of e-values; 0 before the first score.

    Raises:
        ValueError: the limit is not between 0 and 1, or a count is impossible.
    """
    if not 0 < limit < 1:
        raise ValueError(f"a limit of {limit} is not between 0 and 1")
    s, f = _counts(passed, counted)
    a, b = limit * _PRIOR_SCORES, (1 - limit) * _PRIOR_SCORES
    scale = -betaln(a, b) - np.log(betainc(a, b, limit))
    with np.errstate(divide="ignore"):  # healthy for long: betainc is below what a float can hold
        below = np.log(betainc(a + s, b + f, limit))
    averaged = betaln(a + s, b + f) + below - xlogy(s, limit) - xlog1py(f, -limit)
    # From its power series, whose terms fall by this factor at most
    factor = np.minimum(limit, limit * (a + b + s + f) / (a + s + 1))
    least = xlogy(a, limit) + xlog1py(b, -limit) - np.log(a + s) - np.log1p(-factor)
    return np.asarray(scale + np.maximum(averaged, least))


def rate_sequence(passed: ArrayLike, counted: ArrayLike, level: float = 0.95) -> Estimate:
    """An interval for a pass rate that holds at all times at once: a confidence sequence.

    The rates that a two-sided e-process, the mixture over a uniform distribution, doesn't reject at
    1 - level: (n + 1) b(n, p, s) > 1 - level, with b the binomial probability (Robbins 1970, see
    `evidence_below`). About 1.6 times as wide as a fixed-n interval; may be looked at always.

    Args:
        passed: sum of the scores so far, each in 0..1; any shape.
        counted: number of scores so far; broadcast against ``passed``.
        level: probability that the interval contains the rate at all times.

    Returns:
        Within 0..1; nan in 0..1 before the first score.

    Raises:
        ValueError: a count is impossible, or the level is not between 0 and 1.
    """
    normal_quantile(level)
    s, f = _counts(passed, counted)
    least = betaln(1 + s, 1 + f) + np.log1p(-level)

    def rejected(p: FloatArray) -> FloatArray:
        return np.asarray(xlogy(s, p) + xlog1py(f, -p) <= least)

    with np.errstate(invalid="ignore", divide="ignore"):
        rate = s / (s + f)
    inside = np.where(np.isnan(rate), 0.5, rate)
    return Estimate(
        np.asarray(rate),
        _edge(rejected, np.zeros_like(inside), inside),
        _edge(rejected, np.ones_like(inside), inside),
    )


def _edge(
    rejected: Callable[[FloatArray], FloatArray], outside: FloatArray, inside: FloatArray
) -> FloatArray:
    """Where rejection ends between ``outside`` and ``inside``; ``outside`` if it isn't rejected."""
    far, near = outside, inside
    for _ in range(_HALVINGS):
        middle = (far + near) / 2
        out = rejected(middle)
        far, near = np.where(out, middle, far), np.where(out, near, middle)
    return np.where(rejected(outside), far, outside)


def _counts(passed: ArrayLike, counted: ArrayLike) -> tuple[FloatArray, FloatArray]:
    s, n = np.broadcast_arrays(np.asarray(passed, np.float64), np.asarray(counted, np.float64))
    if not np.all((s >= 0) & (s <= n) & np.isfinite(n)):
        raise ValueError("as many as were counted can pass, and no less than none")
    return s, n - s
