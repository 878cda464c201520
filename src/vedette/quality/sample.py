"""Scores as they come, checked."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vedette.quality.estimate import FloatArray


class Sample(NamedTuple):
    """Scored units; arrays of one length n.

    Attributes:
        values: the scores, finite; booleans as 0 and 1.
        weights: 1 / inclusion probability, finite and above 0.
        sessions: number of the unit's session, 0 to ``session_count`` - 1.
    """

    values: FloatArray
    weights: FloatArray
    sessions: NDArray[np.intp]
    session_count: int


def sample(
    values: ArrayLike, weights: ArrayLike | None = None, sessions: ArrayLike | None = None
) -> Sample:
    """Check what is to be estimated from.

    Args:
        values: (n,) numbers or booleans.
        weights: (n,) 1 / inclusion probability; None if all are equal.
        sessions: (n,) what names each unit's session, anything that sorts (integers are fastest);
            None if units are independent. A unit whose session is None or nan is one by itself.

    Raises:
        ValueError: lengths differ, or a value or weight can't be one; says which.
    """
    checked = _numbers("values", values)
    if weights is None:
        checked_weights = np.ones_like(checked)
    else:
        checked_weights = _numbers("weights", weights)
        require_same_length("weights", checked_weights, checked)
        if (wrong := np.flatnonzero(checked_weights <= 0)).size:
            raise ValueError(
                f"weight {wrong[0]} is {checked_weights[wrong[0]]}: a weight is"
                " 1 / inclusion probability, so above 0"
            )
    if sessions is None:
        return Sample(checked, checked_weights, np.arange(checked.size), checked.size)
    names = np.asarray(sessions)
    require_same_length("sessions", names, checked)
    there = ~missing(names)
    found, codes = np.unique(names[there], return_inverse=True)
    alone = names.size - codes.size
    numbers = np.empty(names.size, np.intp)
    numbers[there], numbers[~there] = codes, found.size + np.arange(alone)
    return Sample(checked, checked_weights, numbers, found.size + alone)


def categories(name: str, given: ArrayLike) -> NDArray[np.generic]:
    """(n,) categories: text, booleans or numbers.

    Raises:
        ValueError: one is missing; says which.
    """
    array = np.asarray(given)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, not of shape {array.shape}")
    if (wrong := np.flatnonzero(missing(array))).size:
        raise ValueError(f"{name} at {wrong[0]} is missing: leave out units without it")
    return array


def booleans(name: str, given: ArrayLike) -> NDArray[np.bool_]:
    """(n,) booleans, or 0 and 1.

    Raises:
        ValueError: one is neither; says which.
    """
    array = categories(name, given)
    if array.size and not (array.dtype.kind in "buif" and np.isin(array, (0, 1)).all()):
        raise ValueError(f"{name} must be booleans, or 0 and 1")
    return array.astype(np.bool_)


def session_sums(checked: Sample, per_unit: FloatArray) -> FloatArray:
    """(n,) -> (sessions,): the sum over the units of each session."""
    return np.bincount(checked.sessions, per_unit, checked.session_count).astype(np.float64)


def require_same_length(name: str, array: NDArray[np.generic], other: NDArray[np.generic]) -> None:
    """Raises ValueError unless both are (n,) with the same n."""
    if array.shape != other.shape:
        raise ValueError(f"{name} has shape {array.shape}, not {other.shape} as the values")


def missing(array: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Where there is None or nan, in the array's shape."""
    if array.dtype.kind == "O":
        return np.array([_is_missing(one) for one in array.flat], np.bool_).reshape(array.shape)
    return np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, np.bool_)


def _is_missing(one: object) -> bool:
    return one is None or (isinstance(one, float) and math.isnan(one))


def _numbers(name: str, given: ArrayLike) -> FloatArray:
    array = np.asarray(given, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, not of shape {array.shape}")
    if (wrong := np.flatnonzero(~np.isfinite(array))).size:
        raise ValueError(
            f"{name} at {wrong[0]} is {array[wrong[0]]}, not a number: leave out units without"
            " a score"
        )
    return array
