"""Krippendorff's alpha: the agreement of any number of raters, who need not rate every unit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vedette.quality.agreement import UNDEFINED, chance_corrected
from vedette.quality.estimate import Estimate, FloatArray
from vedette.quality.mean import mean as averaged
from vedette.quality.moments import moments
from vedette.quality.sample import missing, require_same_length, sample


def alpha(
    ratings: ArrayLike,
    weights: ArrayLike | None = None,
    sessions: ArrayLike | None = None,
    level: float = 0.95,
) -> Estimate:
    """Alpha for numbers: disagreement is the squared difference ("interval" scale).

    Sources as for `nominal_alpha`. The interval is t times the standard error, of the cube root of
    1 - alpha, as this is nearly a ratio of chi-square variables, whose cube root is nearly normal
    (E. B. Wilson & M. M. Hilferty, Proc. Natl Acad. Sci. 17 (1931) 684-688,
    doi:10.1073/pnas.17.12.684); at perfect agreement that of `vedette.quality.agreement`.

    Args:
        ratings: (units, raters) numbers; nan where a rater gave none. Units with less than two
            ratings don't count.
        weights: (units,) 1 / probability that the unit was rated; None if all are equal.
        sessions: (units,) what names each unit's session; None if units are independent.
        level: of the interval, two-sided.

    Returns:
        1 for perfect agreement, 0 for that of chance. nan in -1..1 if there are no ratings, or
        all are equal.

    Raises:
        ValueError: shapes differ, or a rating or weight can't be one.
    """
    given = np.asarray(ratings, np.float64)
    if given.ndim != 2:
        raise ValueError(f"ratings must be (units, raters), not of shape {given.shape}")
    if np.isinf(given).any():
        raise ValueError("a rating is infinite: leave it out, as nan")
    there = ~np.isnan(given)
    counts = there.sum(axis=1)
    rated = counts >= 2
    if not rated.any():
        return UNDEFINED
    values = np.where(there, given, 0.0)[rated]
    if np.ptp(given[rated][there[rated]]) == 0:
        return UNDEFINED
    # On 0..1, so that a squared difference is a disagreement between 0 and 1
    least = np.where(there[rated], values, np.inf).min()
    most = np.where(there[rated], values, -np.inf).max()
    values = np.where(there[rated], (values - least) / (most - least), 0.0)
    number = counts[rated].astype(np.float64)
    means = values.sum(axis=1) / number
    squares = (values**2).sum(axis=1) / number
    within = 2 * (squares - means**2) * number / (number - 1)
    shares = _shares(weights, rated, number)
    mean = float(shares @ means)
    spread = float(shares @ squares) - mean**2
    # What a unit's ratings differ from all ratings on average
    apart = squares - 2 * mean * means + mean**2 + spread
    parts = _parts(within, apart, number, shares)
    chosen = _chosen(sessions, rated)
    if parts.observed <= 1e-12:
        return chance_corrected(within, parts.by_chance, parts.influence, shares, chosen, level)
    value = 1 - parts.observed / parts.by_chance
    error = averaged(moments(parts.influence, shares, chosen), level)
    root = (1 - value) ** (1 / 3)
    reach = (error.high - error.value) / (3 * root**2)
    return Estimate(
        np.asarray(value),
        np.maximum(1 - (root + reach) ** 3, -1.0),
        1 - np.maximum(root - reach, 0.0) ** 3,
    )


def nominal_alpha(
    ratings: ArrayLike,
    weights: ArrayLike | None = None,
    sessions: ArrayLike | None = None,
    level: float = 0.95,
) -> Estimate:
    """Alpha for categories: 1 - observed disagreement / that of ratings dealt out at random.

    K. Krippendorff, "Content Analysis" (4th ed. 2018) chapter 12; A. F. Hayes & K. Krippendorff,
    Communication Methods and Measures 1 (2007) 77-89, doi:10.1080/19312450709336664. Their
    bootstrap knows neither weights nor sessions; here the variance is that of the delta method, the
    interval as in `vedette.quality.agreement`.

    Args:
        ratings: (units, raters) categories; None or nan where a rater gave none. Units with less
            than two ratings don't count.
        weights: (units,) 1 / probability that the unit was rated; None if all are equal.
        sessions: (units,) what names each unit's session; None if units are independent.
        level: of the interval, two-sided.

    Returns:
        1 for perfect agreement, 0 for that of chance. nan in -1..1 if there are no ratings, or
        all are of one category.

    Raises:
        ValueError: shapes differ, or a weight can't be one.
    """
    given = np.asarray(ratings, dtype=object)
    if given.ndim != 2:
        raise ValueError(f"ratings must be (units, raters), not of shape {given.shape}")
    there = ~missing(given)
    counts = there.sum(axis=1)
    rated = counts >= 2
    found, codes = np.unique(
        np.array([str(x) for x in given[rated][there[rated]]]), return_inverse=True
    )
    if found.size < 2:
        return UNDEFINED
    number = counts[rated].astype(np.float64)
    table = np.zeros((number.size, found.size))
    np.add.at(table, (np.nonzero(there[rated])[0], codes), 1.0)
    own = table / number[:, None]
    within = (1 - (own**2).sum(axis=1)) * number / (number - 1)
    shares = _shares(weights, rated, number)
    apart = 1 - own @ (shares @ own)
    parts = _parts(within, apart, number, shares)
    return chance_corrected(
        within, parts.by_chance, parts.influence, shares, _chosen(sessions, rated), level
    )


class _Parts(NamedTuple):
    """What alpha is made of: the two disagreements and each unit's influence on it."""

    observed: float
    by_chance: float
    influence: FloatArray


def _shares(weights: ArrayLike | None, rated: NDArray[np.bool_], number: FloatArray) -> FloatArray:
    """(rated units,): each unit's share of all ratings, by weight; they add up to 1."""
    checked = sample(np.zeros(rated.shape), weights)
    ratings = checked.weights[rated] * number
    return np.asarray(ratings / ratings.sum())


def _parts(within: FloatArray, apart: FloatArray, number: FloatArray, shares: FloatArray) -> _Parts:
    """From each unit's disagreement within and its disagreement with all ratings."""
    # A rating is not compared with itself: the factor makes alpha right for few ratings
    apart = apart * number.sum() / (number.sum() - 1)
    by_chance, observed = float(shares @ apart), float(shares @ within)
    moves = 2 * (apart - by_chance)
    influence = (observed * moves / by_chance - (within - observed)) / by_chance
    return _Parts(observed, by_chance, influence)


def _chosen(sessions: ArrayLike | None, rated: NDArray[np.bool_]) -> NDArray[np.generic] | None:
    """The sessions of the rated units."""
    if sessions is None:
        return None
    names = np.asarray(sessions)
    require_same_length("sessions", names, rated)
    return names[rated]
