"""Sums over sessions as the mirror's SQL gives them, for `vedette.quality`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vedette.quality.estimate import Estimate
from vedette.quality.moments import Moments

Row = tuple[Any, ...]
WIDTH = 11  # columns of `sums_of`


def sums_of(units: str, weight: str, weighted: str, unit_squares: str) -> str:
    """SQL for what makes `Moments`: aggregates over one row per session.

    Args:
        units: SQL of the number of the session's units; the others of W, T and the sum of weight**2
            likewise. Sessions without weight are none.
    """
    powers = ", ".join(f"sum({' * '.join([weight] * power)})" for power in range(1, 6))
    return (
        f"sum({units}), count(nullif({weight}, 0)), sum({unit_squares}), {powers}, "
        f"sum({weighted}), sum({weighted} * {weight}), sum({weighted} * {weighted})"
    )


def moments_of(row: Sequence[Any]) -> Moments:
    """The moments that `sums_of` gave."""
    units, sessions, unit_squares, *powers, weighted, cross, squares = (
        np.float64(0.0 if value is None else value) for value in row[:WIDTH]
    )
    return Moments(
        units=np.asarray(units),
        sessions=np.asarray(sessions),
        unit_squares=np.asarray(unit_squares),
        weights=np.asarray(powers),
        weighted=np.asarray(weighted),
        cross=np.asarray(cross),
        squares=np.asarray(squares),
    )


# Of sessions that lie in both of two periods: what `correlation` takes
SHARED = "sum(ta * tb), sum(wa * tb), sum(ta * wb), sum(wa * wb)"


def correlation(after: Moments, before: Moments, shared: Sequence[float | None]) -> float:
    """As `vedette.quality.difference.shared_sessions`, from sums.

    Args:
        shared: what `SHARED` gave.
    """
    both, ours, theirs, weights = (0.0 if value is None else value for value in shared)
    if not weights:
        return 0.0
    one, other = float(after.mean), float(before.mean)
    covariance = both - one * ours - other * theirs + one * other * weights
    spread = 1.0
    for side in (after, before):
        spread *= float(side.linearised_variance) * float(side.weights[0]) ** 2
    return float(np.clip(covariance / math.sqrt(spread), -1, 1)) if spread > 0 else 0.0


def document(estimate: Estimate) -> dict[str, float | None]:
    """An estimate as the API tells it; null where there is none, or no bound."""
    return {
        "value": finite(estimate.value),
        "low": finite(estimate.low),
        "high": finite(estimate.high),
    }


def finite(value: Any) -> float | None:
    """The number, or None for one that JSON has no word for."""
    number = float(value)
    return number if math.isfinite(number) else None
