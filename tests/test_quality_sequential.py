"""What may be looked at after every score: evidence, confidence sequences, change, e-BH."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta, betabinom, binom

from vedette.quality.beta_binomial import evidence_below, rate_sequence
from vedette.quality.betting import mean_sequence
from vedette.quality.change import fall
from vedette.quality.discoveries import discoveries
from vedette.quality.mean import mean
from vedette.quality.moments import moments
from vedette.quality.off_policy import weighted_evidence_below

scores = st.lists(st.floats(0, 1), min_size=1, max_size=60)
limits = st.floats(0.02, 0.98)


# Evidence


@pytest.mark.parametrize(("passed", "counted", "limit"), [(7, 12, 0.8), (0, 5, 0.3), (20, 20, 0.9)])
def test_evidence_is_a_likelihood_ratio_averaged_over_lower_rates(
    passed: int, counted: int, limit: float
) -> None:
    prior = beta(10 * limit, 10 * (1 - limit))

    def weighed(p: float) -> float:
        return float(prior.pdf(p) * binom.pmf(passed, counted, p))

    averaged = quad(weighed, 0, limit)[0] / prior.cdf(limit)
    expected = np.log(averaged / binom.pmf(passed, counted, limit))
    assert float(evidence_below(passed, counted, limit)) == pytest.approx(expected, rel=1e-6)


@given(limits, st.integers(0, 40), st.integers(0, 40))
def test_the_expected_wealth_does_not_grow_at_the_limit_or_above(
    limit: float, passed: int, failed: int
) -> None:
    counted = passed + failed
    now = evidence_below(passed, counted, limit)
    after = np.exp(evidence_below([passed + 1, passed], counted + 1, limit) - now)
    for rate in (limit, (limit + 1) / 2, 1.0):
        assert rate * after[0] + (1 - rate) * after[1] <= 1 + 1e-6


@given(limits, st.integers(1, 40), st.integers(0, 40))
def test_a_failure_is_evidence_and_a_pass_takes_it_back(
    limit: float, passed: int, failed: int
) -> None:
    more, fewer = evidence_below([passed - 1, passed], passed + failed, limit)
    assert more >= fewer
    assert float(evidence_below(0, 0, limit)) == pytest.approx(0)


def test_evidence_ends_where_it_must() -> None:
    assert float(evidence_below(0, 4, 0.9)) > np.log(20)  # four failures in a row
    assert -15 < float(evidence_below(1_000_000, 1_000_000, 0.9)) < -10
    assert float(evidence_below(100_000, 200_000, 0.9)) > 1000
    for limit in (0, 1, 80):
        with pytest.raises(ValueError, match="limit"):
            evidence_below(1, 2, limit)
    with pytest.raises(ValueError, match="counted"):
        evidence_below(3, 2, 0.5)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 9)), max_size=60), limits)
def test_weighted_evidence_is_a_fair_bet_at_the_limit(rows: Any, limit: float) -> None:
    """Whatever came before, a score of mean ``limit`` leaves the expected wealth as it is."""
    values = np.array([value for value, _ in rows] + [0.0])
    weights = np.array([weight for _, weight in rows] + [3.0])
    before = weighted_evidence_below(values[:-1], weights[:-1], limit, 9.0)[-1:]
    failed = weighted_evidence_below(values, weights, limit, 9.0)[-1]
    values[-1] = 1.0
    passed = weighted_evidence_below(values, weights, limit, 9.0)[-1]
    expected = np.logaddexp(np.log(limit) + passed, np.log1p(-limit) + failed)
    assert float(expected) == pytest.approx(float(before[0]) if before.size else 0, abs=1e-6)


@given(scores, st.floats(0.1, 100))
def test_evidence_does_not_mind_the_scale_of_weights(values: list[float], scale: float) -> None:
    weights = np.linspace(1, 5, len(values))
    ours = weighted_evidence_below(values, weights, 0.7, 5.0)
    scaled = weighted_evidence_below(values, weights * scale, 0.7, 5.0 * scale)
    assert ours == pytest.approx(scaled)


def test_a_fall_behind_unequal_probabilities_is_found() -> None:
    """Failures are oversampled, so the plain mean is below the limit when nothing is wrong."""
    rng = np.random.default_rng(8)

    def evidence(rate: float) -> float:
        passes = rng.random(8000) < rate
        chances = np.where(passes, 0.1, 0.4)
        drawn = rng.random(8000) < chances
        assert passes[drawn].mean() < 0.75
        return float(weighted_evidence_below(passes[drawn], 1 / chances[drawn], 0.8, 10.0)[-1])

    assert evidence(0.85) < 0
    assert evidence(0.7) > np.log(20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([2.0], [1.0], 0.5, 1.0), "between 0 and 1"),
        (([1.0], [3.0], 0.5, 2.0), "larger than the largest"),
        (([1.0], [1.0], 1.0, 1.0), "limit of 1.0"),
    ],
)
def test_impossible_evidence_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weighted_evidence_below(*arguments)


# Confidence sequences


@pytest.mark.parametrize(("passed", "counted"), [(0, 8), (8, 8), (30, 40), (1, 200)])
def test_a_rate_sequence_ends_where_the_mixture_rejects(passed: int, counted: int) -> None:
    """scipy's beta-binomial: the mixture's probability against that at the bound."""
    found = rate_sequence(passed, counted)
    mixture = betabinom.pmf(passed, counted, 1, 1)
    for bound in (float(found.low), float(found.high)):
        if 0 < bound < 1:
            assert mixture / binom.pmf(passed, counted, bound) == pytest.approx(20)
    assert 0 <= found.low <= passed / counted <= found.high <= 1
    assert (found.low == 0) == (passed == 0)
    assert (found.high == 1) == (passed == counted)


def test_before_the_first_score_a_rate_is_unknown() -> None:
    found = rate_sequence(0, 0)
    assert np.isnan(found.value)
    assert (float(found.low), float(found.high)) == (0, 1)


@given(scores)
def test_a_mean_sequence_is_within_0_and_1(values: list[float]) -> None:
    found = mean_sequence(values)
    assert found.value == pytest.approx(np.cumsum(values) / np.arange(1, len(values) + 1))
    inside = ~np.isnan(found.low)
    assert np.all((found.low[inside] >= 0) & (found.low[inside] < found.high[inside]))
    assert np.all(found.high[inside] <= 1)


@given(scores)
def test_a_mean_sequence_mirrors(values: list[float]) -> None:
    found, mirrored = mean_sequence(values), mean_sequence(1 - np.array(values))
    assert found.low == pytest.approx(1 - mirrored.high, abs=0.0011, nan_ok=True)


def test_a_mean_sequence_is_the_same_in_one_go_and_in_chunks() -> None:
    values = np.random.default_rng(4).beta(8, 2, 1200)
    whole, part = mean_sequence(values), mean_sequence(values[:700])
    assert np.array_equal(whole.low[:700], part.low)


def test_a_mean_sequence_narrows_down_to_the_mean() -> None:
    values = np.random.default_rng(4).beta(8, 2, 3000)
    found = mean_sequence(values)
    assert found.low[-1] < 0.8 < found.high[-1]
    assert found.high[-1] - found.low[-1] < 0.03
    fixed = 2 * 1.96 * values.std() / np.sqrt(3000)
    assert found.high[-1] - found.low[-1] < 3 * fixed


def test_no_constant_mean_explains_a_jump() -> None:
    found = mean_sequence([0.0] * 500 + [1.0] * 500)
    assert np.isnan(found.low[600:]).all()
    assert found.high[499] < 0.1


def test_nothing_gives_nothing() -> None:
    assert mean_sequence([]).value.size == 0
    assert weighted_evidence_below([], [], 0.5, 1.0).size == 0
    assert fall([], [], [], window=1, lag=0).log_e.size == 0


# Change


def watched(values: np.ndarray, **more: Any) -> Any:
    times = np.arange(len(values)) * 60.0
    return fall(values, np.ones(len(values)), times, window=86_400, lag=3600, **more)


def test_a_fall_against_the_day_before_is_found_and_a_rise_is_not() -> None:
    rng = np.random.default_rng(6)
    steady = (rng.random(2400) < 0.9).astype(float)
    alarm = np.log(2400 / 0.05)
    assert watched(steady).log_e.max() < alarm
    fallen, risen = steady.copy(), steady.copy()
    fallen[1800:] = rng.random(600) < 0.6
    risen[1800:] = rng.random(600) < 0.99
    found = watched(fallen)
    first = int(np.argmax(found.log_e >= alarm))
    assert 1800 < first < 1900
    assert found.limit[first] == pytest.approx(0.86, abs=0.02)
    assert watched(risen).log_e.max() < alarm


def test_a_fall_that_does_not_matter_yet_is_none() -> None:
    rng = np.random.default_rng(6)
    values = (rng.random(2400) < np.where(np.arange(2400) < 1800, 0.9, 0.75)).astype(float)
    alarm = np.log(2400 / 0.05)
    assert watched(values).log_e.max() > alarm
    assert watched(values, least=0.15).log_e.max() < alarm


def test_without_a_baseline_nothing_is_claimed() -> None:
    found = watched(np.zeros(60))
    assert np.all(found.limit == 0)
    assert np.all(found.log_e <= np.log(np.arange(1, 61)) + 1e-9)


def test_a_baseline_minds_weights_and_numbers_need_not_be_booleans() -> None:
    rng = np.random.default_rng(1)
    heavy = np.tile([True, False], 1500)
    values = np.where(heavy, 0.9, 0.3) + rng.uniform(-0.05, 0.05, 3000)
    times = np.arange(3000) * 60.0
    weights = np.where(heavy, 9.0, 1.0)
    found = fall(values, weights, times, window=86_400, lag=3600, largest_weight=9.0)
    assert found.limit[-1] == pytest.approx(0.84, abs=0.02)


def test_a_change_can_not_be_looked_for_in_disorder() -> None:
    with pytest.raises(ValueError, match="order of arrival"):
        fall([1, 0], [1, 1], [2.0, 1.0], window=10, lag=0)
    with pytest.raises(ValueError, match="window"):
        fall([1], [1], [1.0], window=0, lag=0)


# Many at once


def test_ebh_reports_the_largest_number_that_may_be() -> None:
    """Of 4 at 5 %: thresholds 80, 40, 26.7 and 20, for the first to the fourth."""
    assert discoveries(np.log([70, 41, 30, 1])).tolist() == [True, True, True, False]
    assert discoveries(np.log([70, 30, 20, 1])).tolist() == [False] * 4
    assert discoveries(np.log([[20, 20], [20, 20]])).tolist() == [[True, True], [True, True]]
    assert discoveries([]).size == 0
    assert discoveries([-np.inf, np.inf]).tolist() == [False, True]
    with pytest.raises(ValueError, match="not a number"):
        discoveries([np.nan])


@given(st.lists(st.floats(-5, 20), min_size=1, max_size=30), st.randoms())
def test_ebh_does_not_mind_the_order(logs: list[float], random: Any) -> None:
    order = random.sample(range(len(logs)), len(logs))
    assert discoveries(logs)[order].tolist() == discoveries(np.array(logs)[order]).tolist()
    stronger = discoveries(np.array(logs) + 1)
    assert np.all(stronger >= discoveries(logs))


@given(st.lists(st.floats(-2, 12), min_size=1, max_size=12))
def test_ebh_is_the_largest_set_of_its_definition(logs: list[float]) -> None:
    """Every set size tried."""
    largest = sorted(logs, reverse=True)
    sizes = [k for k in range(1, len(logs) + 1) if largest[k - 1] >= np.log(len(logs) / 0.05 / k)]
    expected = [log >= largest[sizes[-1] - 1] for log in logs] if sizes else [False] * len(logs)
    assert discoveries(logs).tolist() == expected


# Against their definitions, written out


@pytest.mark.parametrize(("passed", "counted"), [(500, 520), (8000, 8000), (96_000, 100_000)])
def test_evidence_after_good_times_is_small_but_not_none(passed: int, counted: int) -> None:
    """The likelihood ratio averaged by quadrature: betainc itself would underflow."""
    limit, failed, prior = 0.9, counted - passed, beta(9, 1)

    def weighed(p: float) -> float:
        ratio = passed * np.log(p / limit) + failed * (np.log1p(-p) - np.log1p(-limit))
        return float(np.exp(ratio) * prior.pdf(p))

    averaged = quad(weighed, 0.85, limit, points=[0.899, 0.8999, 0.89999], limit=500)[0]
    expected = np.log(averaged / prior.cdf(limit))
    found = float(evidence_below(passed, counted, limit))
    assert expected - 0.6 < found < expected + 1e-3


def test_weighted_evidence_is_the_mean_wealth_of_six_bets() -> None:
    rng = np.random.default_rng(3)
    values, weights = rng.random(50), rng.uniform(1, 8, 50)
    found = weighted_evidence_below(values, weights, 0.6, 8.0)
    for n in (1, 20, 50):
        wealths = [
            np.prod(1 + bet * weights[:n] / 8 * (0.6 - values[:n]) / 0.4)
            for bet in (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)
        ]
        assert float(found[n - 1]) == pytest.approx(np.log(np.mean(wealths)))


def test_a_fall_is_the_sum_of_bets_begun_at_each_score() -> None:
    rng = np.random.default_rng(3)
    values, times = rng.random(60), np.arange(60.0)
    found = fall(values, np.ones(60), times, window=30, lag=5)
    total = 0.0
    for bet in 2.0 ** -np.arange(1, 7):
        factors = 1 + bet * (found.limit - values) / (1 - found.limit) * (found.limit > 0)
        total += sum(np.prod(factors[begun:]) for begun in range(60)) / 6
    assert float(found.log_e[-1]) == pytest.approx(np.log(total))
    before = mean(moments(values[24:54]), 0.999, bounds=(0, 1))
    assert float(found.limit[-1]) == pytest.approx(float(before.low))


def test_a_mean_sequence_is_what_two_gamblers_leave() -> None:
    """Scores one by one and candidates one by one, with bets as in the paper."""
    values = np.random.default_rng(9).beta(2, 3, 80)
    found = mean_sequence(values)
    kept, bets = [], []
    for i in range(80):
        guesses = [(0.5 + values[: k + 1].sum()) / (k + 2) for k in range(i)]
        spread = (0.25 + sum((values[:i] - guesses) ** 2)) / (i + 1)
        bets.append(np.sqrt(2 * np.log(40) / (spread * (i + 1) * np.log(i + 2))))
    for candidate in np.linspace(0.01, 0.99, 99):
        higher = lower = richest = 1.0
        for i, bet in enumerate(bets):
            higher *= 1 + min(bet, 0.5 / candidate) * (values[i] - candidate)
            lower *= 1 - min(bet, 0.5 / (1 - candidate)) * (values[i] - candidate)
            richest = max(richest, higher, lower)
        if richest < 40:
            kept.append(candidate)
    assert float(found.low[-1]) == pytest.approx(min(kept), abs=0.0101)
    assert float(found.high[-1]) == pytest.approx(max(kept), abs=0.0101)


@pytest.mark.parametrize(("passed", "counted"), [(np.nan, 3), (1, np.nan), (np.inf, np.inf)])
def test_counts_that_are_none_are_refused(passed: float, counted: float) -> None:
    with pytest.raises(ValueError, match="counted"):
        evidence_below(passed, counted, 0.5)
    with pytest.raises(ValueError, match="counted"):
        rate_sequence(passed, counted)
