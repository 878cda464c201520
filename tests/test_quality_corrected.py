"""A judge's mean corrected with human labels: PPI++ and, with few labels, people alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vedette.quality.corrected import FEWEST_LABELS, corrected_mean, corrected_rate
from vedette.quality.mean import mean
from vedette.quality.moments import moments
from vedette.quality.proportion import proportion


def traffic(judged: int, labels: int, right: float = 0.9, seed: int = 0) -> tuple[Any, Any]:
    """A judge's verdicts and, for the first, people's."""
    rng = np.random.default_rng(seed)
    truth = rng.random(judged) < 0.8
    judge = np.where(rng.random(judged) < right, truth, ~truth).astype(float)
    human = np.where(np.arange(judged) < labels, truth, np.nan)
    return judge, human


def test_it_is_the_papers_estimate() -> None:
    """Example 1 of arXiv:2311.01453 with lambda = Cov(y, f) / ((1 + n/N) Var f), separate samples:
    here labelled units are judged ones, so the N others are separate from the n labelled."""
    judge, human = traffic(5000, 400)
    n, others = 400, 4600
    y, f, rest = human[:n], judge[:n], judge[n:]
    reliance = np.cov(y, f)[0, 1] / np.var(np.concatenate([f, rest])) / (1 + n / others)
    expected = y.mean() + reliance * (rest.mean() - f.mean())
    found = corrected_mean(judge, human)
    assert float(found.estimate.value) == pytest.approx(expected, abs=0.002)
    # Relying on all judged instead of the others multiplies lambda by (n + N) / N; its variance of
    # f is that of the labelled mostly, the paper's that of all
    assert found.reliance == pytest.approx(reliance * 5000 / others, abs=0.06)
    variance = np.var(y - reliance * f) / n + reliance**2 * np.var(rest) / others
    width = float(found.estimate.high - found.estimate.low)
    assert width / (2 * 1.966) == pytest.approx(np.sqrt(variance), rel=0.02)


def test_below_100_labels_people_speak_for_themselves() -> None:
    judge, human = traffic(1000, FEWEST_LABELS - 1)
    found = corrected_rate(judge, human)
    assert found.reliance == 0
    assert found.labels == 99
    assert found.estimate == proportion(moments(human[:99]))
    assert corrected_mean(judge, human).estimate == mean(moments(human[:99]))
    assert corrected_rate(*traffic(1000, FEWEST_LABELS)).reliance > 0.5


def test_labels_of_unequal_weight_are_fewer() -> None:
    """50 that stand for nearly everything, all passes, and 100 light ones."""
    human = np.array([1.0] * 50 + [0.0, 1.0] * 50)
    weights = np.array([1e6] * 50 + [1.0] * 100)
    found = corrected_rate(human, human, label_weights=weights)
    assert (found.labels, found.reliance) == (150, 0)
    assert found.estimate.low < 0.94


def test_a_good_judge_narrows_the_interval_and_a_bad_one_does_no_harm() -> None:
    def width(right: float) -> float:
        found = corrected_rate(*traffic(5000, 300, right)).estimate
        return float(found.high - found.low)

    people = proportion(moments(traffic(5000, 300)[1][:300]))
    alone = float(people.high - people.low)
    assert width(0.97) < 0.6 * alone
    assert width(0.5) < 1.05 * alone


def test_a_biased_judge_is_put_right() -> None:
    rng = np.random.default_rng(4)
    truth = rng.random(20_000) < 0.7
    judge = (truth | (rng.random(20_000) < 0.6)).astype(float)  # lets most failures pass
    human = np.where(rng.random(20_000) < 0.03, truth, np.nan)
    found = corrected_rate(judge, human).estimate
    assert judge.mean() > 0.85
    assert found.low < 0.7 < found.high


def test_labels_are_a_sample_with_probabilities_of_their_own() -> None:
    """People look at what the judge failed, mostly."""
    rng = np.random.default_rng(4)
    truth = rng.random(20_000) < 0.8
    judge = np.where(rng.random(20_000) < 0.9, truth, ~truth)
    chances = np.where(judge, 0.02, 0.2)
    human = np.where(rng.random(20_000) < chances, truth, np.nan)
    weighted = corrected_rate(judge, human, label_weights=1 / chances).estimate
    assert np.nanmean(human) < 0.6
    assert weighted.low < 0.8 < weighted.high


def test_a_judge_who_was_never_contradicted_is_not_faultless() -> None:
    judge, _ = traffic(100_000, 0)
    human = np.where(np.arange(100_000) < 150, judge, np.nan)
    found = corrected_rate(judge, human).estimate
    assert found.high - found.low > 0.025


def test_all_alike_is_not_certainty() -> None:
    human = np.where(np.arange(1000) < 120, 1.0, np.nan)
    value, low, high = corrected_rate(np.ones(1000), human).estimate
    assert (float(value), float(high)) == (1, 1)
    assert low == pytest.approx(1 - 1.98 / 120, abs=0.002)
    numbers = corrected_mean(np.full(1000, 4.0), human * 4, bounds=(1, 5)).estimate
    assert numbers.low < 3.95 < numbers.high


def test_without_labels_nothing_is_known() -> None:
    found = corrected_rate([1.0, 0.0], [np.nan, np.nan])
    assert np.isnan(found.estimate.value)
    assert (float(found.estimate.low), float(found.estimate.high)) == (0, 1)
    assert found.labels == 0


def test_sessions_make_it_less_sure() -> None:
    rng = np.random.default_rng(1)
    session = np.repeat(np.arange(200), 10)
    truth = (rng.random(200) < 0.8)[session]
    judge = np.where(rng.random(2000) < 0.7, truth, ~truth)
    human = np.where(rng.random(2000) < 0.5, truth, np.nan)
    apart, together = corrected_rate(judge, human), corrected_rate(judge, human, sessions=session)
    assert together.estimate.value == pytest.approx(float(apart.estimate.value), abs=0.05)
    assert together.estimate.high - together.estimate.low > 1.8 * float(
        apart.estimate.high - apart.estimate.low
    )


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0.1, 50), st.floats(0.1, 50))
def test_neither_order_nor_scale_of_weights_matters(
    seed: int, scale: float, label_scale: float
) -> None:
    judge, human = traffic(400, 150, seed=seed)
    rng = np.random.default_rng(seed)
    weights, label_weights = rng.uniform(1, 9, (2, 400))
    order = rng.permutation(400)
    found = corrected_rate(judge, human, weights, label_weights)
    other = corrected_rate(
        judge[order], human[order], weights[order] * scale, label_weights[order] * label_scale
    )
    assert [float(x) for x in found.estimate] == pytest.approx([float(x) for x in other.estimate])
    assert 0 <= found.estimate.low <= found.estimate.value <= found.estimate.high <= 1


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(ValueError, match="booleans"):
        corrected_rate([0.5], [1.0])
    with pytest.raises(ValueError, match="human has shape"):
        corrected_rate([1.0, 0.0], [1.0])
    with pytest.raises(ValueError, match="label_weights has shape"):
        corrected_rate([1.0, 0.0], [1.0, 0.0], label_weights=[1.0])


def test_the_standard_error_is_the_jackknifes() -> None:
    """Leave out a session at a time, with all that is estimated on the way, reliance as well."""
    rng = np.random.default_rng(12)
    session = np.repeat(np.arange(150), 6)
    truth = rng.normal(3, 1, 150)[session] + rng.normal(0, 1, 900)
    judge = truth + rng.normal(0.5, 0.7, 900)
    chances = np.where(judge < 3, 0.6, 0.2)
    human = np.where(rng.random(900) < chances, truth, np.nan)
    weights = rng.uniform(1, 4, 900)

    def estimate(kept: np.ndarray) -> Any:
        return corrected_mean(
            judge[kept], human[kept], weights[kept], (weights / chances)[kept], session[kept]
        ).estimate

    found = estimate(np.ones(900, bool))
    without = np.array([float(estimate(session != one).value) for one in range(150)])
    error = np.sqrt(149 / 150 * ((without - without.mean()) ** 2).sum())
    assert float(found.high - found.low) / (2 * 1.98) == pytest.approx(error, rel=0.1)
