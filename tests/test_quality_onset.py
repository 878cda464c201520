"""Evidence that goes on for a month: few false alarms, and falls that are found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vedette.quality.beta_binomial import evidence_below
from vedette.quality.onset import FROM_THE_START, Wealth, advance, begin

ALARM = math.log(20)


def first_alarm(values: np.ndarray, limit: float, weights: np.ndarray, look: int) -> int:
    """How many scores it took, looked at after every ``look``; 0 if none was raised."""
    wealth = begin()
    for start in range(0, values.size, look):
        part = slice(start, start + look)
        elapsed = np.arange(start + 1, start + 1 + values[part].size) / values.size
        largest = weights[part].max()
        wealth = advance(wealth, values[part], weights[part], elapsed, limit, largest)
        if wealth.log_e(limit) >= ALARM:
            return min(start + look, values.size)
    return 0


@pytest.mark.parametrize("limit", [0.8, 0.9, 0.95])
def test_a_fall_of_a_tenth_at_the_start_is_found_within_120_scores(limit: float) -> None:
    rng = np.random.default_rng(1)
    runs = rng.random((60, 1000)) < limit - 0.1
    found = [first_alarm(run.astype(float), limit, np.ones(1000), 1) for run in runs]
    assert min(found) > 0
    assert np.median(found) <= 120


def test_a_month_on_the_limit_raises_few_alarms() -> None:
    rng = np.random.default_rng(2)
    runs = (rng.random((60, 4320)) < 0.8).astype(float)
    found = [first_alarm(run, 0.8, np.ones(4320), 10) for run in runs]
    assert np.count_nonzero(found) / 60 <= 0.1  # 5 % at most; 6 of 60 are 5 % with p = 0.06


def test_what_falls_after_half_a_month_is_found() -> None:
    rng = np.random.default_rng(3)
    healthy = (rng.random((20, 2160)) < 0.9).astype(float)
    fallen = (rng.random((20, 2160)) < 0.7).astype(float)
    runs = np.hstack([healthy, fallen])
    late = [first_alarm(run, 0.8, np.ones(4320), 10) - 2160 for run in runs]
    assert min(late) > 0
    assert np.median(late) < 450  # log(2160 / 0.05) / divergence is 378: see the docstring


def test_a_changed_rate_raises_nothing() -> None:
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(40):
        weights = np.where(np.arange(2000) < 300, 20.0, 2.0)
        values = (rng.random(2000) < 0.8).astype(float)
        wealth = advance(
            begin(), values, weights, np.linspace(0, 1, 2000), 0.8, np.where(weights > 2, 20.0, 2.0)
        )
        alarms += wealth.log_e(0.8) >= ALARM
    assert alarms <= 4


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([1.0, 2.0])), min_size=1, max_size=40),
    st.integers(0, 40),
)
def test_it_does_not_matter_how_many_come_at_a_time(
    scores: list[tuple[bool, float]], cut: int
) -> None:
    values = np.array([value for value, _ in scores], float)
    weights = np.array([weight for _, weight in scores])
    elapsed = np.linspace(0.1, 0.9, values.size)
    whole = advance(begin(), values, weights, elapsed, 0.8, 2.0)
    parts = begin()
    for part in (slice(0, cut), slice(cut, None)):
        parts = advance(parts, values[part], weights[part], elapsed[part], 0.8, 2.0)
    assert parts.log_e(0.8) == pytest.approx(whole.log_e(0.8))


def test_from_the_start_it_is_the_beta_binomial_mixture() -> None:
    wealth = advance(begin(), np.zeros(30), np.ones(30), np.zeros(30), 0.8, 1.0)
    alone = math.log(FROM_THE_START) + float(evidence_below(0, 30, 0.8))
    assert wealth.log_e(0.8) == pytest.approx(alone, abs=0.01)


def test_nothing_bets_nothing() -> None:
    assert begin().log_e(0.8) == pytest.approx(0.0)
    assert begin(alike=False).log_e(0.8) == pytest.approx(0.0)
    assert isinstance(advance(begin(), [], [], [], 0.8, 1.0), Wealth)
