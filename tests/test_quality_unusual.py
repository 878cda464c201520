"""Counts that are unlike those before them."""

from __future__ import annotations

import numpy as np
import pytest

from vedette.quality.unusual import prediction


@pytest.mark.parametrize("expected", [5.0, 100.0, 10_000.0])
def test_the_next_count_lies_within_as_often_as_promised(expected: float) -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(1000):
        *past, following = rng.poisson(expected, 15)
        usual = prediction(past, 0.95)
        inside += bool(usual.low <= following <= usual.high)
    assert inside >= 935


def test_days_that_differ_widen_it() -> None:
    alike, differing = prediction([100] * 10, 0.99), prediction([50, 200] * 5, 0.99)
    assert alike.low > differing.low
    assert alike.high < differing.high
    assert alike.low < 100 < alike.high


def test_none_are_a_count() -> None:
    usual = prediction([0] * 10, 0.999)
    assert usual.low == 0
    assert 0 < usual.high < 200


@pytest.mark.parametrize("counts", [[], [3], [1, -1]])
def test_too_little_to_predict_from_is_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="at least two counts"):
        prediction(counts, 0.95)
