"""What means, proportions and their intervals need to know of a sample: a dozen sums.

Sums over disjoint sets of sessions add up, so they can be kept per hour, stratum or slice, made in
SQL, and joined for any period without touching the scores again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from vedette.quality.estimate import FloatArray
from vedette.quality.sample import sample, session_sums

_NO_VARIATION = 1e-12  # of the sum of squares: what rounding leaves when all are alike


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over sessions g, with W = the sum of its units' weights and T = that of weight x score.

    Each is an array of the same shape: of one number, or of one per hour or slice, say.

    Attributes:
        units: number of units.
        sessions: number of sessions.
        unit_squares: sum over units of weight**2.
        weights: (5, ...), the sums of W, W**2, ... W**5.
        weighted: sum of T.
        cross: sum of T * W.
        squares: sum of T**2.
    """

    units: FloatArray
    sessions: FloatArray
    unit_squares: FloatArray
    weights: FloatArray
    weighted: FloatArray
    cross: FloatArray
    squares: FloatArray

    def __add__(self, other: Moments) -> Moments:
        """Of both samples together; no session may be in both."""
        return Moments(
            self.units + other.units,
            self.sessions + other.sessions,
            self.unit_squares + other.unit_squares,
            self.weights + other.weights,
            self.weighted + other.weighted,
            self.cross + other.cross,
            self.squares + other.squares,
        )

    def rescaled(self, lowest: float, highest: float) -> Moments:
        """Of the scores' places between two bounds, 0 at the lowest and 1 at the highest."""
        extent, (weight, squared, *_) = highest - lowest, self.weights
        return replace(
            self,
            weighted=(self.weighted - lowest * weight) / extent,
            cross=(self.cross - lowest * squared) / extent,
            squares=(self.squares - 2 * lowest * self.cross + lowest**2 * squared) / extent**2,
        )

    @property
    def mean(self) -> FloatArray:
        """The Hajek mean, sum of T / sum of W; nan if there are no units."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.weighted / self.weights[0])

    @property
    def linearised_variance(self) -> FloatArray:
        """Sum of (T - mean * W)**2 / (sum of W)**2: the mean's variance as it shows in the sample,
        a little too small; exactly 0 if all sessions have the same mean."""
        mean = self.mean
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = self.weights[0] ** 2
            variance = (self.squares - 2 * mean * self.cross + mean**2 * self.weights[1]) / scale
            return np.where(variance <= _NO_VARIATION * self.squares / scale, 0.0, variance)

    @property
    def variance(self) -> FloatArray:
        """The mean's variance without that bias, see `vedette.quality.mean`; nan for less than two
        sessions."""
        shares = self._shares
        with np.errstate(invalid="ignore", divide="ignore"):
            unbiased = self.linearised_variance / (1 + shares[1] - 2 * shares[2] / shares[1])
        return np.where(self.sessions >= 2, unbiased, np.nan)

    @property
    def degrees_of_freedom(self) -> FloatArray:
        """Satterthwaite's, of that variance, see `vedette.quality.mean`: sessions - 1 if they have
        equal weight; 0 for less than two sessions."""
        _, s2, s3, s4, s5 = self._shares
        trace = s2 * (1 + s2) - 2 * s3
        trace_of_square = s4 * (1 + 4 * s2) - 4 * s5 + s2**4 + 2 * s3**2 - 4 * s2**2 * s3
        most = np.maximum(self.sessions - 1, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            # If one session has nearly all the weight, only rounding is left, and it is 1
            found = np.where(trace_of_square > 1e-9 * s4, trace**2 / trace_of_square, 1.0)
        return np.where(self.sessions >= 2, np.clip(found, np.minimum(1.0, most), most), 0.0)

    @property
    def unit_share(self) -> FloatArray:
        """1 / Kish's effective number of units: sum of weight**2 / (sum of weights)**2."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.unit_squares / self.weights[0] ** 2)

    @property
    def session_share(self) -> FloatArray:
        """1 / the effective number of sessions: sum of W**2 / (sum of W)**2."""
        return np.asarray(self._shares[1])

    @property
    def _shares(self) -> FloatArray:
        """(5, ...): the sums of p**k over sessions, p being the session's share of the weight."""
        with np.errstate(invalid="ignore", divide="ignore"):
            powers = np.cumprod(np.broadcast_to(self.weights[0], self.weights.shape), axis=0)
            return np.asarray(self.weights / powers)


def moments(
    values: ArrayLike, weights: ArrayLike | None = None, sessions: ArrayLike | None = None
) -> Moments:
    """The sums of a sample of n units.

    Args:
        values: (n,) numbers or booleans, n may be 0.
        weights: (n,) 1 / inclusion probability; None if all are equal.
        sessions: (n,) what names each unit's session; None if units are independent.

    Raises:
        ValueError: lengths differ, or a value or weight can't be one.
    """
    checked = sample(values, weights, sessions)
    return of_sessions(
        weight=session_sums(checked, checked.weights),
        weighted=session_sums(checked, checked.weights * checked.values),
        unit_squares=session_sums(checked, checked.weights**2),
        units=session_sums(checked, np.ones_like(checked.weights)),
    )


def of_sessions(
    *, weight: FloatArray, weighted: FloatArray, unit_squares: FloatArray, units: FloatArray
) -> Moments:
    """The sums, from sessions already summed up.

    Args:
        weight: (..., g) W of each of g sessions; 0 where there is none.
        weighted: (..., g) T.
        unit_squares: (..., g) sum of its units' weight**2.
        units: (..., g) number of its units.
    """
    return Moments(
        units=units.sum(-1),
        sessions=(weight > 0).sum(-1).astype(np.float64),
        unit_squares=unit_squares.sum(-1),
        weights=np.stack([(weight**power).sum(-1) for power in range(1, 6)]),
        weighted=weighted.sum(-1),
        cross=(weighted * weight).sum(-1),
        squares=(weighted**2).sum(-1),
    )
