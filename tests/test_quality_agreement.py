"""Agreement of judges and people: published examples, other libraries' figures, edge cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, confusion_matrix
from statsmodels.stats.inter_rater import cohens_kappa

from vedette.quality.accuracy import accuracy
from vedette.quality.estimate import Estimate
from vedette.quality.gwet import ac1
from vedette.quality.judge_versions import judge_quality
from vedette.quality.kappa import kappa
from vedette.quality.krippendorff import alpha, nominal_alpha
from vedette.quality.wilson import wilson

nan = math.nan

# 100 abstracts by two abstractors, and 12 units by four observers, some missing: K. L. Gwet,
# "Calculating Chance-corrected Agreement Coefficients", vignette of irrCAC 1.0 (CRAN, 2019), which
# prints coefficients and standard errors. The second is K. Krippendorff's, "Computing
# Krippendorff's Alpha-Reliability" (2011), section C, alpha 0.743 for nominal data and section D,
# 0.849 for interval data.
ABSTRACTORS = [("ectopic", "ectopic")] * 13 + [("AIU", "AIU")] * 20 + [("AIU", "NIU")] * 7
ABSTRACTORS += [("NIU", "AIU")] * 4 + [("NIU", "NIU")] * 56
OBSERVERS = [
    [1, 1, nan, 1],
    [2, 2, 3, 2],
    [3, 3, 3, 3],
    [3, 3, 3, 3],
    [2, 2, 2, 2],
    [1, 2, 3, 4],
    [4, 4, 4, 4],
    [1, 1, 2, 1],
    [2, 2, 2, 2],
    [nan, 5, 5, 5],
    [nan, nan, 1, 1],
    [nan, nan, 3, nan],
]


def both(judge: Any, human: Any, *more: Any) -> Estimate:
    return nominal_alpha(np.stack([np.asarray(judge), np.asarray(human)], axis=1), *more)


COEFFICIENTS: list[Callable[..., Estimate]] = [kappa, ac1, both]
verdicts = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.floats(1, 9), st.integers(0, 5)),
    min_size=2,
    max_size=40,
)


@pytest.mark.parametrize(
    ("coefficient", "value", "error"),
    [(kappa, 0.7964094, 0.05891072), (ac1, 0.8493305, 0.04321747), (both, 0.7972585, 0.05905473)],
)
def test_the_published_two_raters(
    coefficient: Callable[..., Estimate], value: float, error: float
) -> None:
    first, second = zip(*ABSTRACTORS, strict=True)
    found = coefficient(first, second)
    assert float(found.value) == pytest.approx(value, abs=1e-6)
    # Wilson's shape moves the bounds, but not their distance by much
    width = float(found.high - found.low) / (2 * 1.96)
    assert width == pytest.approx(error, rel=0.06)


def test_the_published_four_observers() -> None:
    assert float(nominal_alpha(OBSERVERS).value) == pytest.approx(0.74342, abs=1e-5)
    assert float(alpha(OBSERVERS).value) == pytest.approx(0.849, abs=5e-4)


def test_missing_categories_may_be_none() -> None:
    named = [[None if math.isnan(x) else "?abcde"[int(x)] for x in row] for row in OBSERVERS]
    assert float(nominal_alpha(named).value) == pytest.approx(0.74342, abs=1e-5)


@given(verdicts)
def test_kappa_is_scikit_learns_with_weights(rows: Any) -> None:
    judge, human, weights, sessions = zip(*rows, strict=True)
    found = kappa(judge, human, weights, sessions)
    if len({*judge, *human}) > 1:
        expected = cohen_kappa_score(judge, human, sample_weight=weights)
        assert float(found.value) == pytest.approx(expected, abs=1e-9)
    else:
        assert np.isnan(found.value)


def test_kappas_standard_error_is_statsmodels() -> None:
    rng = np.random.default_rng(9)
    human = rng.integers(0, 3, 4000)
    judge = np.where(rng.random(4000) < 0.7, human, rng.integers(0, 3, 4000))
    expected = cohens_kappa(confusion_matrix(judge, human))
    found = kappa(judge, human)
    assert float(found.value) == pytest.approx(expected.kappa)
    assert float(found.high - found.low) / 2 == pytest.approx(1.96 * expected.std_kappa, rel=0.02)


def test_alpha_of_numbers_is_the_ratio_of_squared_differences() -> None:
    """All pairs, written out."""
    ratings = np.random.default_rng(3).normal(size=(30, 3)) + np.arange(30)[:, None] / 10
    ratings[::4, 1] = nan
    rows = [row[~np.isnan(row)] for row in ratings]
    every = np.concatenate(rows)
    observed = sum(((r[:, None] - r) ** 2).sum() / (r.size - 1) for r in rows) / every.size
    by_chance = ((every[:, None] - every) ** 2).sum() / every.size / (every.size - 1)
    assert float(alpha(ratings).value) == pytest.approx(1 - observed / by_chance)


@given(verdicts, st.randoms(), st.floats(0.1, 10))
def test_neither_order_nor_scale_nor_names_matter(rows: Any, random: Any, scale: float) -> None:
    shuffled = random.sample(rows, len(rows))
    for coefficient in COEFFICIENTS:
        judge, human, weights, sessions = zip(*rows, strict=True)
        found = coefficient(judge, human, weights, sessions)
        judge, human, weights, sessions = zip(*shuffled, strict=True)
        renamed = [["xyz"["abc".index(name)] for name in names] for names in (judge, human)]
        other = coefficient(*renamed, np.array(weights) * scale, sessions)
        for one, two in zip(found, other, strict=True):
            assert float(one) == pytest.approx(float(two), abs=1e-6, nan_ok=True)


@given(verdicts)
def test_a_coefficient_is_within_its_interval(rows: Any) -> None:
    judge, human, weights, sessions = zip(*rows, strict=True)
    for coefficient in COEFFICIENTS:
        found = coefficient(judge, human, weights, sessions)
        if not np.isnan(found.value):
            assert -1 <= found.low <= found.value <= found.high <= 1
            assert found.low < found.high


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_perfect_agreement_is_not_certainty(coefficient: Callable[..., Estimate]) -> None:
    verdicts = [True] * 15 + [False] * 10
    found = coefficient(verdicts, verdicts)
    unseen = float(wilson(0, 25).high)
    assert (float(found.value), float(found.high)) == (1, 1)
    assert float(found.low) == pytest.approx(1 - unseen / 0.48, abs=0.03)
    more = coefficient(verdicts * 4, verdicts * 4)
    assert more.low > found.low


def test_when_everything_passes_only_ac1_says_something() -> None:
    everything = [True] * 40
    for coefficient in (kappa, both):
        found = coefficient(everything, everything)
        assert np.isnan(found.value)
        assert (float(found.low), float(found.high)) == (-1, 1)
    found = ac1(everything, everything)
    assert float(found.value) == 1
    assert float(found.low) == pytest.approx(float(wilson(1, 40).low))


def test_kappas_paradox_is_none_of_ac1() -> None:
    judge, human = [True] * 96 + [False, False, True, True], [True] * 98 + [False, False]
    assert float(kappa(judge, human).value) < 0
    assert float(ac1(judge, human).value) > 0.95


def test_opposites_disagree_more_than_by_chance() -> None:
    judge, human = [True, False] * 20, [False, True] * 20
    for coefficient in COEFFICIENTS:
        assert float(coefficient(judge, human).value) == pytest.approx(-1, abs=0.03)


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_one_label_or_session_tells_nothing_of_others(coefficient: Callable[..., Estimate]) -> None:
    for found in (
        coefficient(["a"], ["b"]),
        coefficient(list("abab"), list("abbb"), None, [1] * 4),
    ):
        assert (float(found.low), float(found.high)) == (-1, 1)


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_raters_who_never_agreed_may_be_as_bad_as_can_be(
    coefficient: Callable[..., Estimate],
) -> None:
    found = coefficient(["a"] * 30, ["b"] * 30)
    assert float(found.low) == -1
    assert found.high < 0.2


@pytest.mark.parametrize("coefficient", [kappa, ac1])
def test_no_labels_tell_nothing(coefficient: Callable[..., Estimate]) -> None:
    found = coefficient([], [])
    assert np.isnan(found.value)
    assert (float(found.low), float(found.high)) == (-1, 1)


def test_ratings_that_no_two_gave_tell_nothing() -> None:
    for found in (alpha([[1.0, nan], [nan, 2.0]]), nominal_alpha([["a", None]]), alpha([[3, 3]])):
        assert np.isnan(found.value)
        assert (float(found.low), float(found.high)) == (-1, 1)
    with pytest.raises(ValueError, match="infinite"):
        alpha([[1.0, math.inf], [1.0, 2.0]])
    with pytest.raises(ValueError, match="units, raters"):
        alpha([1.0, 2.0])


def test_equal_numbers_agree_perfectly() -> None:
    found = alpha([[1, 1], [2, 2], [5, 5]] * 10)
    assert float(found.value) == pytest.approx(1)
    assert found.low < 0.9


def test_labels_of_one_session_are_fewer() -> None:
    rng = np.random.default_rng(5)
    human = rng.random(300) < 0.7
    wrong = np.repeat(rng.random(30) < 0.2, 10)
    judge = human ^ wrong
    apart, together = kappa(judge, human), kappa(judge, human, None, np.repeat(np.arange(30), 10))
    assert together.high - together.low > 2 * (apart.high - apart.low)


# Sensitivity and specificity


def test_sensitivity_and_specificity_are_shares_with_wilson_intervals() -> None:
    human = [True] * 40 + [False] * 160
    judge = [True] * 30 + [False] * 10 + [True] * 8 + [False] * 152
    found = accuracy(judge, human)
    for estimate, right, of in ((found.sensitivity, 30, 40), (found.specificity, 152, 160)):
        assert tuple(map(float, estimate)) == pytest.approx(
            tuple(map(float, wilson(right / of, of)))
        )


def test_without_failures_sensitivity_is_unknown() -> None:
    found = accuracy([True, False], [False, False])
    assert np.isnan(found.sensitivity.value)
    assert (float(found.sensitivity.low), float(found.sensitivity.high)) == (0, 1)
    assert float(found.specificity.value) == 0.5


def test_each_version_is_judged_by_itself() -> None:
    human = np.array(["fail", "pass", "pass", "fail"] * 20)
    good = np.where(np.arange(80) % 10 == 0, "pass", human)
    bad = np.array(["pass"] * 80)
    found = judge_quality(
        [1] * 80 + [2] * 80, np.concatenate([good, bad]), np.tile(human, 2), "fail"
    )
    assert list(found) == [1, 2]
    assert found[1].labels == 80
    assert found[1].kappa == kappa(good, human)
    assert found[1].alpha == both(good, human)
    assert float(found[1].accuracy.specificity.value) == 1
    assert float(found[2].accuracy.sensitivity.value) == 0
    assert float(found[2].kappa.value) == pytest.approx(0)


def test_raters_of_different_lengths_are_refused() -> None:
    for call in (kappa, ac1, accuracy):
        with pytest.raises(ValueError, match="shape"):
            call([True], [True, False])


def test_missing_verdicts_are_refused() -> None:
    for call in (kappa, ac1):
        with pytest.raises(ValueError, match="the second rater at 1 is missing"):
            call(["a", "b"], ["a", None])
        with pytest.raises(ValueError, match="the first rater at 0 is missing"):
            call([nan, 1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="human at 1 is missing"):
        accuracy([True, False], [True, None])
    with pytest.raises(ValueError, match="judge must be booleans"):
        accuracy(["yes", "no"], [True, False])
    with pytest.raises(ValueError, match="versions at 0 is missing"):
        judge_quality([None], ["a"], ["a"], "a")


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_the_standard_errors_of_weights_and_sessions_are_the_jackknifes(
    coefficient: Callable[..., Estimate],
) -> None:
    """Leave out a session at a time."""
    rng = np.random.default_rng(2)
    session = np.repeat(np.arange(200), 5)
    human = (rng.random(200) < 0.6)[session] ^ (rng.random(1000) < 0.2)
    judge = human ^ (rng.random(1000) < 0.2)
    weights = np.where(judge, 4.0, 1.0) * rng.uniform(1, 2, 1000)
    found = coefficient(judge, human, weights, session)
    without = np.array(
        [
            float(coefficient(judge[at], human[at], weights[at], session[at]).value)
            for at in (session != one for one in range(200))
        ]
    )
    error = np.sqrt(199 / 200 * ((without - without.mean()) ** 2).sum())
    assert float(found.high - found.low) / (2 * 1.97) == pytest.approx(error, rel=0.08)
