"""Evidence on a mean when scores were drawn with unequal or changing probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from vedette.quality.estimate import FloatArray
from vedette.quality.sample import sample

# Shares of the wealth to risk on a score: small ones for small falls and long histories
_BETS = 2.0 ** -np.arange(1, 7)


def weighted_evidence_below(
    values: ArrayLike,
    weights: ArrayLike,
    limit: float,
    largest_weight: ArrayLike,
) -> FloatArray:
    """How strongly the scores so far speak for a mean below the limit, as the log of an e-value.

    Like `vedette.quality.beta_binomial.evidence_below`: alarm at log(1 / alpha), look as often as
    you like. For units drawn with known probabilities that differ by stratum or change over time:
    I. Waudby-Smith, L. Wu, A. Ramdas, N. Karampatziakis & P. Mineiro, "Anytime-valid off-policy
    inference for contextual bandits", ACM/IMS J. Data Science 1 (2024), doi:10.1145/3643693,
    arXiv:2210.10768: bets on importance-weighted pseudo-outcomes. Theirs are
    k + w (y - k) with a predictor k; here k is the limit itself. So a unit that wasn't drawn
    (w = 0) leaves the wealth as it was and need not be known; in return the largest weight has to
    be, and an epoch's rates tell it. The wealth is the mean of those of six fixed bets, each the
    product of 1 + bet * w (limit - y) / (W (1 - limit)), W the largest weight.

    One unit per session: sessions with several traces go in as one, with the sum of their weights
    and their weighted mean, in the order in which they became complete. For "above the limit", hand
    in 1 - values and 1 - limit.

    Args:
        values: (n,) scores in 0..1, in order of arrival.
        weights: (n,) 1 / inclusion probability.
        limit: the mean that must be held, between 0 and 1.
        largest_weight: the largest that a weight could have been, known before the unit: one
            number, or (n,) as the rates changed.

    Returns:
        (n,) natural logarithms of e-values, one after each score.

    Raises:
        ValueError: lengths differ, scores are outside 0..1, the limit is not between 0 and 1, or a
            weight is larger than the largest.
    """
    if not 0 < limit < 1:
        raise ValueError(f"a limit of {limit} is not between 0 and 1")
    gains = np.cumsum(log_gains(values, weights, np.asarray(limit), largest_weight), axis=1)
    return np.asarray(logsumexp(gains, axis=0) - np.log(len(_BETS)))


def log_gains(
    values: ArrayLike, weights: ArrayLike, limits: FloatArray, largest_weight: ArrayLike
) -> FloatArray:
    """What each score adds to the log of the wealth of each bet against "at least the limit".

    Args:
        values: (n,) scores in 0..1.
        weights: (n,) 1 / inclusion probability.
        limits: one for all or (n,), each known before its score; where it is 0 or less nothing is
            bet.
        largest_weight: one for all or (n,), likewise.

    Returns:
        (bets, n).

    Raises:
        ValueError: see `weighted_evidence_below`.
    """
    checked = sample(values, weights)
    if np.any((checked.values < 0) | (checked.values > 1)):
        raise ValueError("scores must be between 0 and 1: rescale them by their bounds")
    shares = checked.weights / np.asarray(largest_weight, np.float64)
    if (wrong := np.flatnonzero(shares > 1 + 1e-9)).size:
        raise ValueError(f"weight {wrong[0]} is larger than the largest that it could have been")
    stakes = np.where(limits > 0, shares * (limits - checked.values) / (1 - limits), 0.0)
    return np.asarray(np.log1p(_BETS[:, None] * stakes))
