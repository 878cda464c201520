"""Has a mean been below its limit since a moment that nobody told? Evidence that goes on and on."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from vedette.quality.beta_binomial import evidence_below
from vedette.quality.estimate import FloatArray
from vedette.quality.off_policy import log_gains

FROM_THE_START = 0.9  # of the wealth; the rest is for what begins later
_BETS = 6  # of `vedette.quality.off_policy`


class Wealth(NamedTuple):
    """What a gambler has who bets against "the mean is at least the limit".

    Attributes:
        passed, counted: scores since the start while all were drawn alike against one limit; then
            those are bet on by the beta-binomial mixture.
        alike: whether they still are.
        bets: (6,) wealth in each of the fixed bets of `vedette.quality.off_policy`.
        spent: share of the period that is over, for which stakes have been given out.
    """

    passed: float
    counted: float
    alike: bool
    bets: tuple[float, ...]
    spent: float

    def log_e(self, limit: float) -> float:
        """The log of the e-value: alarm at log(1 / alpha), for alpha at most in the period."""
        later = (1 - FROM_THE_START) * (1 - self.spent)
        return math.log(self._first(limit) + sum(self.bets) / _BETS + later)

    def _first(self, limit: float) -> float:
        if not self.alike:
            return 0.0
        return FROM_THE_START * _exp(float(evidence_below(self.passed, self.counted, limit)))


def begin(*, alike: bool = True) -> Wealth:
    """Before the first score.

    Args:
        alike: False if the limit will change, as one that is estimated does.
    """
    return Wealth(0.0, 0.0, alike, (0.0 if alike else FROM_THE_START,) * _BETS, 0.0)


def advance(
    wealth: Wealth,
    values: ArrayLike,
    weights: ArrayLike,
    elapsed: ArrayLike,
    limit: float,
    largest_weight: ArrayLike,
) -> Wealth:
    """The wealth after more scores.

    It is a mixture of e-processes: one from the start with 0.9 of the wealth, and one from each
    score on with what falls to the time before it of the rest, so that it neither tires in good
    times nor raises more false alarms the longer it runs: P(ever 1 / alpha in the period) <= alpha
    for every course of means at or above the limit (Ville, see `vedette.quality.beta_binomial`). A
    mixture over moments of change is the Shiryaev-Roberts e-detector of J. Shin, A. Ramdas & A.
    Rinaldo (arXiv:2203.03532) with a prior that sums to 1, in return for which it promises a
    probability, not a mean time, between false alarms.

    What that costs is known: no test with this promise finds a fall after n healthy scores in fewer
    than about log(n / alpha) / divergence of them (G. Lorden, Ann. Math. Statist. 42 (1971)
    1897-1908, doi:10.1214/aoms/1177693055; T. L. Lai, IEEE Trans. Inform. Theory 44 (1998)
    2917-2929): from 0.8 to 0.7 that is 340 scores for n = 1,000, where a fall that began with the
    watch takes 117.

    Args:
        wealth: before them.
        values, weights: (n,) one for each session, in the order in which they became complete; see
            `vedette.quality.off_policy`.
        elapsed: (n,) share of the period that is over at each, ascending, 0..1.
        limit: the mean that must be held, known before the first of them; 0 or less bets nothing.
        largest_weight: one for all or (n,): the largest that a weight could have been.

    Raises:
        ValueError: see `vedette.quality.off_policy.log_gains`.
    """
    values, weights = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    if not values.size:
        return wealth
    largest = np.broadcast_to(np.asarray(largest_weight, np.float64), values.shape)
    unequal = np.flatnonzero(weights < largest * (1 - 1e-9))
    alike = values.size if not unequal.size else int(unequal[0])
    if not wealth.alike:
        alike = 0
    over = np.clip(np.asarray(elapsed, np.float64), wealth.spent, 1.0)
    stakes = (1 - FROM_THE_START) * np.diff(over, prepend=wealth.spent)
    gains = log_gains(values, weights, np.asarray(limit), largest)
    passed, counted = wealth.passed + values[:alike].sum(), wealth.counted + alike
    bets = np.asarray(wealth.bets)
    still = wealth.alike and alike == values.size
    if wealth.alike and not still:  # with the next, they go on with fixed bets
        first = FROM_THE_START * _exp(float(evidence_below(passed, counted, limit)))
        bets = _grow(bets, gains[:, :alike], stakes[:alike]) + first
        gains, stakes = gains[:, alike:], stakes[alike:]
    bets = _grow(bets, gains, stakes)
    return Wealth(float(passed), float(counted), still, tuple(map(float, bets)), float(over[-1]))


def _grow(bets: FloatArray, gains: FloatArray, stakes: FloatArray) -> FloatArray:
    """M <- (M + stake) gain, for each bet."""
    for gain, stake in zip(np.exp(gains).T, stakes, strict=True):
        bets = np.minimum((bets + stake) * gain, 1e300)
    return bets


def _exp(log: float) -> float:
    return math.exp(min(log, 690.0))
