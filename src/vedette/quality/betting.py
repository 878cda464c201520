"""An interval for the mean of bounded scores that holds at all times at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vedette.quality.estimate import Estimate, FloatArray, normal_quantile
from vedette.quality.sample import sample

_CANDIDATES = np.linspace(0, 1, 1001)  # means to test; bounds are up to a step too wide
_CHUNK = 500  # scores at a time: some 30 MB
_MOST = 0.5  # of the wealth that is risked on a score


def mean_sequence(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    largest_weight: ArrayLike = 1.0,
    level: float = 0.95,
) -> Estimate:
    """The Hajek mean after each score, with a betting confidence sequence.

    A candidate m is in the interval if neither of two gamblers, who bet on "higher" and "lower"
    than m, has ever made 2 / (1 - level) of 1: the hedged capital process of I. Waudby-Smith & A.
    Ramdas, "Estimating means of bounded random variables by betting", J. Royal Statist. Soc. B 86
    (2024) 1-27, doi:10.1093/jrsssb/qkad009, arXiv:2010.09686, theorem 3, with the predictable
    plug-in bets given there. Wealth is multiplied by 1 +- bet * u (y - m), u = weight / largest
    weight: see `vedette.quality.off_policy` for why that holds for units drawn with unequal
    probabilities (arXiv:2210.10768). Without weights it is the original.

    The mean must be constant: after a change the interval soon is empty. To watch
    for changes take `vedette.quality.change`. Sessions are handed in as in
    `vedette.quality.off_policy`.

    Args:
        values: (n,) scores in 0..1, in order of arrival.
        weights: (n,) 1 / inclusion probability; None if all are equal.
        largest_weight: the largest that a weight could have been, known before the unit: one
            number, or (n,) as the rates changed.
        level: probability that the interval contains the mean at all times.

    Returns:
        (n,) each, within 0..1. nan as bounds where no constant mean explains the scores any more.

    Raises:
        ValueError: lengths differ, scores are outside 0..1, a weight is larger than the largest, or
            the level is not between 0 and 1.
    """
    normal_quantile(level)
    checked = sample(values, weights)
    if np.any((checked.values < 0) | (checked.values > 1)):
        raise ValueError("scores must be between 0 and 1: rescale them by their bounds")
    shares = checked.weights / np.asarray(largest_weight, np.float64)
    if (wrong := np.flatnonzero(shares > 1 + 1e-9)).size:
        raise ValueError(f"weight {wrong[0]} is larger than the largest that it could have been")
    means = np.cumsum(checked.weights * checked.values) / np.cumsum(checked.weights)
    bets = _bets(checked.values, shares, level)
    low, high = np.empty_like(means), np.empty_like(means)
    wealth = np.zeros((2, 1, _CANDIDATES.size))  # log, of those for "higher" and for "lower"
    peak = np.zeros((1, _CANDIDATES.size))
    with np.errstate(divide="ignore"):
        most = np.stack([_MOST / _CANDIDATES, _MOST / (1 - _CANDIDATES)])[:, None, :]
    for start in range(0, means.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        stakes = shares[part, None] * (checked.values[part, None] - _CANDIDATES)
        bet = np.minimum(bets[part, None], most)
        gains = np.log1p(bet * np.stack([stakes, -stakes]))
        history = wealth + np.cumsum(gains, axis=1)
        wealth = history[:, -1:]
        peaks = np.maximum.accumulate(np.vstack([peak, history.max(axis=0)]))
        peak = peaks[-1:]
        low[part], high[part] = _kept(peaks[1:] < np.log(2 / (1 - level)))
    return Estimate(means, low, high)


def _bets(values: FloatArray, shares: FloatArray, level: float) -> FloatArray:
    """(n,): how much to bet on each score, from the scores before it."""
    n = values.size
    count = np.arange(1, n + 1)
    guess = (0.5 + np.cumsum(shares * values)) / (1 + np.cumsum(shares))
    spread = (0.25 + np.cumsum((shares * (values - guess)) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], spread[:-1]]) if n else spread
    bets = np.sqrt(2 * np.log(2 / (1 - level)) / (before * count * np.log1p(count)))
    return np.asarray(bets, np.float64)


def _kept(kept: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> tuple[FloatArray, FloatArray]:
    """The least and largest candidate kept, a step wider; nan where none is."""
    step = _CANDIDATES[1]
    low = _CANDIDATES[kept.argmax(axis=1)] - step
    high = _CANDIDATES[kept.shape[1] - 1 - kept[:, ::-1].argmax(axis=1)] + step
    none = ~kept.any(axis=1)
    return (
        np.where(none, np.nan, np.maximum(low, 0.0)),
        np.where(none, np.nan, np.minimum(high, 1.0)),
    )
