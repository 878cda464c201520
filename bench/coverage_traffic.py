"""Made-up traffic of known quality: sessions of several traces, sampled at several rates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vedette.quality.estimate import FloatArray
from vedette.quality.moments import Moments, of_sessions

_LONGEST = 20  # traces of a session


class Drawn(NamedTuple):
    """Scored traces of many runs; arrays (runs, sessions, places), 0 where there is no trace."""

    values: FloatArray
    weights: FloatArray

    def moments(self) -> Moments:
        """(runs,) sums."""
        return of_sessions(
            weight=self.weights.sum(-1),
            weighted=(self.weights * self.values).sum(-1),
            unit_squares=(self.weights**2).sum(-1),
            units=(self.weights > 0).sum(-1).astype(np.float64),
        )

    def run(self, number: int) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
        """Values, weights and sessions of one run's traces."""
        session, place = np.nonzero(self.weights[number])
        return self.values[number, session, place], self.weights[number, session, place], session


def places(
    rng: np.random.Generator, runs: int, sessions: int, mean_length: float
) -> NDArray[np.bool_]:
    """(runs, sessions, places): where there are traces; lengths are geometric, 20 at most."""
    lengths = np.minimum(rng.geometric(1 / mean_length, (runs, sessions)), _LONGEST)
    most = 1 if mean_length == 1 else _LONGEST
    return np.asarray(np.arange(most) < lengths[..., None])


def session_rates(
    rng: np.random.Generator, rate: FloatArray, alike: float, shape: tuple[int, ...]
) -> FloatArray:
    """Each session's own pass rate, (*shape, 1): beta around ``rate``, with intra-class
    correlation ``alike``."""
    if alike == 0:
        return np.broadcast_to(rate, (*shape, 1))
    strength = 1 / alike - 1
    p = np.broadcast_to(rate, (*shape, 1))
    return rng.beta(p * strength, (1 - p) * strength)


def drawn(
    rng: np.random.Generator,
    there: NDArray[np.bool_],
    values: FloatArray,
    probabilities: FloatArray | float,
) -> Drawn:
    """The traces that sampling with these inclusion probabilities selects."""
    chances = np.broadcast_to(np.asarray(probabilities, np.float64), there.shape)
    selected = there & (rng.random(there.shape) < chances)
    return Drawn(np.where(selected, values, 0.0), np.where(selected, 1 / chances, 0.0))


def around(rng: np.random.Generator, rate: float, runs: int) -> FloatArray:
    """(runs, 1, 1): a rate per run, within a tenth of the way to the nearer end. Coverage at one
    exact rate and size is up or down by luck, as counts are whole numbers."""
    reach = min(rate, 1 - rate) / 10
    return rng.uniform(rate - reach, rate + reach, (runs, 1, 1))
