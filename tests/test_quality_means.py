"""Means, proportions, differences and quantiles: edge cases, properties, other people's figures."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, t
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from vedette.quality.difference import difference, shared_sessions
from vedette.quality.estimate import Estimate
from vedette.quality.mean import mean
from vedette.quality.moments import Moments, moments
from vedette.quality.proportion import effective_size, proportion
from vedette.quality.quantile import quantile
from vedette.quality.shares import shares
from vedette.quality.unseen import with_unseen
from vedette.quality.wilson import wilson

INF = math.inf


def units(values: st.SearchStrategy[Any], least: int = 1) -> st.SearchStrategy[Any]:
    """Lists of (score, weight, session)."""
    unit = st.tuples(values, st.floats(1, 50), st.integers(0, 8))
    return st.lists(unit, min_size=least, max_size=40)


numbers = st.floats(-100, 100).map(lambda x: round(x, 3))


def columns(rows: list[Any]) -> list[np.ndarray]:
    return [np.array(column) for column in zip(*rows, strict=True)]


def bounds_of(estimate: Estimate) -> tuple[float, float, float]:
    return float(estimate.value), float(estimate.low), float(estimate.high)


# What holds for any sample


@given(units(numbers), st.randoms())
def test_the_order_of_units_does_not_matter(rows: list[Any], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    for one, other in zip(
        bounds_of(mean(moments(*columns(rows)), bounds=(-200, 200))),
        bounds_of(mean(moments(*columns(shuffled)), bounds=(-200, 200))),
        strict=True,
    ):
        assert one == pytest.approx(other, abs=1e-3)
    assert quantile(*with_probability(rows)) == quantile(*with_probability(shuffled))


def with_probability(rows: list[Any]) -> tuple[Any, ...]:
    values, weights, sessions = columns(rows)
    return values, 0.9, np.round(weights), sessions


@given(units(st.booleans()), st.floats(0.01, 100))
def test_the_scale_of_weights_does_not_matter(rows: list[Any], scale: float) -> None:
    values, weights, sessions = columns(rows)
    ours = bounds_of(proportion(moments(values, weights, sessions)))
    scaled = bounds_of(proportion(moments(values, weights * scale, sessions)))
    assert ours == pytest.approx(scaled, abs=1e-6)


@given(units(st.booleans()))
def test_a_proportion_and_its_interval_are_within_0_and_1(rows: list[Any]) -> None:
    value, low, high = bounds_of(proportion(moments(*columns(rows))))
    assert 0 <= low <= value <= high <= 1
    assert low < high


@given(units(st.booleans()))
def test_what_passes_and_what_fails_are_each_others_mirror(rows: list[Any]) -> None:
    values, weights, sessions = columns(rows)
    value, low, high = bounds_of(proportion(moments(values, weights, sessions)))
    mirrored = bounds_of(proportion(moments(~values, weights, sessions)))
    assert (1 - value, 1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-6)


@given(units(numbers))
def test_an_interval_contains_its_estimate(rows: list[Any]) -> None:
    values, weights, sessions = columns(rows)
    for estimate in (
        mean(moments(values, weights, sessions)),
        mean(moments(values, weights, sessions), bounds=(-100, 100)),
        quantile(values, 0.5, weights, sessions),
        quantile(values, 0.95, weights, sessions, bounds=(-100, 100)),
    ):
        value, low, high = bounds_of(estimate)
        assert low <= value <= high


@given(units(numbers, least=2), st.floats(0.5, 0.9), st.floats(0.91, 0.999))
def test_a_higher_level_is_a_wider_interval(rows: list[Any], less: float, more: float) -> None:
    sums = moments(*columns(rows))
    wide, narrow = mean(sums, more), mean(sums, less)
    assert wide.low <= narrow.low
    assert wide.high >= narrow.high


@given(st.integers(0, 50), st.integers(1, 50), st.integers(2, 20))
def test_more_of_the_same_is_a_narrower_interval(passed: int, failed: int, times: int) -> None:
    few = proportion(moments([1] * passed + [0] * failed))
    many = proportion(moments(([1] * passed + [0] * failed) * times))
    assert many.high - many.low < few.high - few.low or passed + failed == 1


@given(units(numbers), units(numbers))
def test_sums_of_parts_add_up(one: list[Any], other: list[Any]) -> None:
    apart = [(value, weight, session + 100) for value, weight, session in other]
    together = moments(*columns(one + apart))
    added = moments(*columns(one)) + moments(*columns(apart))
    for name in Moments.__slots__:
        assert getattr(added, name) == pytest.approx(getattr(together, name), rel=1e-9, abs=1e-6)


def test_sums_may_be_of_many_hours_at_once() -> None:
    hours = [moments([1, 1, 0]), moments([]), moments([0, 1, 1, 1], sessions=[1, 1, 2, 3])]
    joined = Moments(
        *(np.stack([getattr(h, n) for h in hours], axis=-1) for n in Moments.__slots__)
    )
    for number, hour in enumerate(hours):
        for method in (mean, proportion):
            series = method(joined)
            single = method(hour)
            assert [float(column[number]) for column in series] == pytest.approx(
                bounds_of(single), nan_ok=True
            )


# Edge cases


def test_nothing_tells_nothing() -> None:
    assert bounds_of(mean(moments([]), bounds=(1, 5))) == pytest.approx((np.nan, 1, 5), nan_ok=True)
    assert bounds_of(proportion(moments([]))) == pytest.approx((np.nan, 0, 1), nan_ok=True)
    assert bounds_of(quantile([], 0.5)) == pytest.approx((np.nan, -INF, INF), nan_ok=True)
    assert shares([]) == {}


def test_one_session_says_nothing_of_others() -> None:
    one = moments([4.0, 5.0, 4.0], sessions=["a", "a", "a"])
    assert bounds_of(mean(one)) == (pytest.approx(13 / 3), -INF, INF)
    assert bounds_of(mean(one, bounds=(1, 5))) == (pytest.approx(13 / 3), 1, 5)
    assert bounds_of(proportion(moments([1, 1, 0], sessions=[7, 7, 7])))[1:] == (0, 1)
    assert bounds_of(quantile([3.0], 0.5)) == (3, -INF, INF)


def test_all_alike_is_not_certainty() -> None:
    same = moments([4.0] * 50)
    assert bounds_of(mean(same))[1:] == (-INF, INF)
    value, low, high = bounds_of(mean(same, bounds=(1, 5)))
    unseen = float(wilson(0, 50).high)
    assert (value, low, high) == pytest.approx((4, 4 - 3 * unseen, 4 + unseen))
    # For booleans this is Wilson's interval
    assert bounds_of(mean(moments([1] * 50), bounds=(0, 1))) == pytest.approx(
        bounds_of(wilson(1, 50))
    )


@pytest.mark.parametrize("value", [0, 1])
def test_rates_of_0_and_1_have_intervals(value: int) -> None:
    found, low, high = bounds_of(proportion(moments([value] * 30)))
    assert found == value
    assert high - low == pytest.approx(0.1135, abs=1e-4)


def test_at_none_failed_an_interval_is_as_wide_as_that_of_sessions() -> None:
    sessions = np.repeat(np.arange(100), 10)
    passed = np.ones(1000)
    none_failed = proportion(moments(passed, sessions=sessions))
    assert float(none_failed.low) == pytest.approx(float(wilson(1, 100).low))
    passed[0] = 0
    one_failed = proportion(moments(passed, sessions=sessions))
    assert one_failed.low < none_failed.low + 0.02
    assert one_failed.high < 1


def test_at_rate_1_everything_is_scored_and_the_interval_is_not_a_point() -> None:
    value, low, high = bounds_of(proportion(moments([1] * 90 + [0] * 10, weights=[1.0] * 100)))
    assert (low, high) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert value == 0.9


def test_a_session_of_all_the_weight_leaves_one_degree_of_freedom() -> None:
    sums = moments([1.0, 2.0, 3.0], weights=[1e6, 1, 1])
    assert 1 <= float(sums.degrees_of_freedom) < 1.01
    assert np.isfinite(mean(sums).high)


def test_a_million_sessions_have_a_million_degrees_of_freedom() -> None:
    sums = moments(np.tile([0.0, 1.0], 500_000))
    assert float(sums.degrees_of_freedom) == pytest.approx(999_999, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, np.nan],), "values at 1 is nan"),
        (([1, 2], [1, 0]), "weight 1 is 0.0"),
        (([1, 2], [1, np.inf]), "weights at 1 is inf"),
        (([1, 2], [1]), "weights has shape"),
        (([1, 2], None, [1]), "sessions has shape"),
        (([[1, 2]],), "one-dimensional"),
    ],
)
def test_what_can_not_be_a_sample_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moments(*arguments)


def test_what_can_not_be_asked_is_refused() -> None:
    sums = moments([1.0, 2.0, 9.0])
    with pytest.raises(ValueError, match="outside the bounds"):
        mean(sums, bounds=(0, 1))
    with pytest.raises(ValueError, match="between 0 and 1"):
        proportion(sums)
    with pytest.raises(ValueError, match="level of 95"):
        mean(sums, level=95)
    with pytest.raises(ValueError, match="percentile of 95"):
        quantile([1.0], 95)
    with pytest.raises(ValueError, match="rate"):
        wilson(1.5, 10)
    with pytest.raises(ValueError, match="size"):
        wilson(0.5, -1)


# Against other libraries


@pytest.mark.parametrize(("passed", "counted"), [(0, 10), (10, 10), (81, 263), (1, 29), (199, 200)])
def test_the_wilson_interval_is_scipys(passed: int, counted: int) -> None:
    expected = binomtest(passed, counted).proportion_ci(method="wilson")
    for found in (
        wilson(passed / counted, counted),
        proportion(moments([1] * passed + [0] * (counted - passed))),
    ):
        assert bounds_of(found)[1:] == pytest.approx((expected.low, expected.high))


def test_the_wilson_interval_of_a_fractional_size_is_statsmodels() -> None:
    expected = proportion_confint(0.9 * 37.5, 37.5, method="wilson")
    assert bounds_of(wilson(0.9, 37.5))[1:] == pytest.approx(expected)


def test_one_mean_of_equal_units_is_students() -> None:
    values = np.array([3.1, 4.7, 2.2, 5.0, 4.4, 3.9])
    error = values.std(ddof=1) / math.sqrt(6)
    expected = t.interval(0.95, 5, values.mean(), error)
    assert bounds_of(mean(moments(values)))[1:] == pytest.approx(expected)


def test_the_linearised_variance_is_statsmodels_clustered_one() -> None:
    rng = np.random.default_rng(5)
    sessions = rng.integers(0, 30, 200)
    weights, values = rng.uniform(1, 20, 200), rng.normal(size=200) + sessions / 10
    fitted = sm.WLS(values, np.ones(200), weights=weights).fit(
        cov_type="cluster", cov_kwds={"groups": sessions, "use_correction": False}
    )
    sums = moments(values, weights, sessions)
    assert float(sums.mean) == pytest.approx(fitted.params[0])
    assert float(sums.linearised_variance) == pytest.approx(fitted.bse[0] ** 2)


@given(st.lists(st.floats(0.1, 30), min_size=2, max_size=12))
def test_bias_and_degrees_of_freedom_are_those_of_the_matrices(weights: list[float]) -> None:
    """Bell & McCaffrey's quadratic form, with matrices as in the paper."""
    share = np.array(weights) / sum(weights)
    residuals = np.eye(share.size) - np.outer(share, np.ones(share.size))
    covariance = residuals @ np.diag(share**2) @ residuals.T
    trace, of_square = np.trace(covariance), np.trace(covariance @ covariance)
    sums = moments(np.arange(share.size), weights)
    bias = float(sums.linearised_variance / sums.variance)
    assert bias == pytest.approx(trace / (share**2).sum(), rel=1e-6)
    expected = max(trace**2 / of_square, 1)
    assert float(sums.degrees_of_freedom) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("counts", [(56, 70, 48, 80), (9, 10, 3, 10), (10, 10, 0, 20)])
def test_the_difference_of_proportions_is_newcombes(counts: tuple[int, int, int, int]) -> None:
    expected = confint_proportions_2indep(*counts, method="newcomb", compare="diff")
    found = difference(
        wilson(counts[0] / counts[1], counts[1]), wilson(counts[2] / counts[3], counts[3])
    )
    assert bounds_of(found)[1:] == pytest.approx(expected)


@pytest.mark.parametrize("probability", [0.01, 0.5, 0.75, 0.95])
def test_a_quantile_is_numpys(probability: float) -> None:
    rng = np.random.default_rng(11)
    values, weights = rng.lognormal(size=101), rng.integers(1, 9, 101)
    expected = np.quantile(values, probability, method="inverted_cdf", weights=weights)
    assert float(quantile(values, probability, weights).value) == expected


# What a quality owner relies on


def test_a_change_of_rate_biases_nothing() -> None:
    """Noon: the rate goes from 0.05 to 0.5 and quality from 0.9 to 0.6; half the traffic each."""
    rng = np.random.default_rng(3)
    afternoon = np.arange(400_000) >= 200_000
    passes = rng.random(400_000) < np.where(afternoon, 0.6, 0.9)
    chances = np.where(afternoon, 0.5, 0.05)
    drawn = rng.random(400_000) < chances
    found = proportion(moments(passes[drawn], 1 / chances[drawn]))
    assert passes[drawn].mean() < 0.64
    assert found.low < 0.75 < found.high
    assert found.high - found.low < 0.012


def test_traces_of_one_session_are_not_as_many_sessions() -> None:
    passed = np.repeat([1, 1, 1, 0], 25)
    apart = proportion(moments(passed))
    together = proportion(moments(passed, sessions=np.repeat(np.arange(20), 5)))
    assert together.high - together.low > 1.8 * (apart.high - apart.low)
    assert float(effective_size(moments(passed))) == pytest.approx(100)


def test_units_of_a_heavier_stratum_count_for_more() -> None:
    value, _, _ = bounds_of(proportion(moments([1, 0], weights=[9, 1])))
    assert value == pytest.approx(0.9)


def test_categories_shares_add_up() -> None:
    found = shares(["a", "b", "a", "c"], weights=[1, 2, 3, 4])
    assert {name: float(one.value) for name, one in found.items()} == pytest.approx(
        {"a": 0.4, "b": 0.2, "c": 0.4}
    )


@given(units(st.booleans()), units(st.booleans()))
def test_a_difference_contains_its_estimate_and_turns_round(
    one: list[Any], other: list[Any]
) -> None:
    after, before = (proportion(moments(*columns(rows))) for rows in (one, other))
    value, low, high = bounds_of(difference(after, before))
    assert -1 <= low <= value <= high <= 1
    assert bounds_of(difference(before, after)) == pytest.approx((-value, -high, -low))


def test_a_difference_of_the_unknown_is_unknown() -> None:
    nothing, something = mean(moments([])), mean(moments([1.0, 2.0]))
    assert bounds_of(difference(something, nothing))[1:] == (-INF, INF)


def test_sessions_on_both_sides_make_a_difference_surer() -> None:
    rng = np.random.default_rng(2)
    session = np.repeat(np.arange(40), 6)
    values = rng.normal(size=40)[session] + rng.normal(size=240) / 4
    is_after = np.tile([True, False], 120)
    correlation = shared_sessions(values, session, is_after)
    assert correlation > 0.9
    assert shared_sessions(values, np.arange(240), is_after) == 0
    assert shared_sessions(values, session, np.ones(240, bool)) == 0
    after, before = (mean(moments(values[at], None, session[at])) for at in (is_after, ~is_after))
    surer, unsure = difference(after, before, correlation), difference(after, before)
    assert surer.high - surer.low < 0.5 * (unsure.high - unsure.low)


def test_few_latencies_bound_a_high_percentile_from_below_only() -> None:
    _, low, high = bounds_of(quantile(np.arange(1.0, 51.0), 0.99, bounds=(0, INF)))
    assert low > 40
    assert high == INF


@given(units(numbers), st.floats(0.05, 0.5), st.floats(0.5, 0.95))
def test_a_higher_percentile_is_no_lower(rows: list[Any], less: float, more: float) -> None:
    values, weights, sessions = columns(rows)
    lower = quantile(values, less, weights, sessions)
    assert lower.value <= quantile(values, more, weights, sessions).value


@given(st.integers(5, 400), st.sampled_from([0.5, 0.9, 0.95]))
def test_a_quantiles_bounds_are_ranks_that_a_binomial_may_have(n: int, probability: float) -> None:
    """Of n independent values: as many as a score test doesn't reject lie below the quantile."""
    _, low, high = bounds_of(quantile(np.arange(1.0, n + 1), probability, bounds=(0, n + 1)))
    reach = 1.959964 * math.sqrt(probability * (1 - probability) / n)
    ranks = [rank for rank in range(n + 1) if abs(rank / n - probability) <= reach]
    if ranks[0] > 0 and ranks[-1] < n:
        assert low == pytest.approx(ranks[0], abs=1)
        assert high == pytest.approx(ranks[-1] + 1, abs=1)
        # A score test's own coverage, of ranks: 0.9198 at least with these n
        assert binom.cdf(high - 1, n, probability) - binom.cdf(low - 1, n, probability) > 0.919


# Attacks


def test_one_trace_that_stands_for_a_million_leaves_little_known() -> None:
    """1,000 passes scored at rate 1, and a failure at 0.000001."""
    found = proportion(moments([1] * 1000 + [0], [1.0] * 1000 + [1e6]))
    value, low, high = bounds_of(found)
    assert value == pytest.approx(0.001, abs=1e-5)
    assert low < 0.0005
    assert high > 0.7
    turned = bounds_of(proportion(moments([0] * 1000 + [1], [1.0] * 1000 + [1e6])))
    assert turned == pytest.approx((1 - value, 1 - high, 1 - low), abs=1e-9)


wild = st.lists(
    st.tuples(
        st.booleans(), st.floats(0, 6).map(lambda power: 10**power), st.integers(0, 5) | st.none()
    ),
    max_size=30,
)


@given(wild)
def test_no_weights_make_an_interval_that_is_none(rows: list[Any]) -> None:
    values, weights, sessions = ([row[column] for row in rows] for column in range(3))
    sums = moments(values, weights, sessions)
    for value, low, high in (
        bounds_of(proportion(sums)),
        bounds_of(mean(sums, bounds=(0, 1))),
        bounds_of(quantile(np.asarray(values, float), 0.5, weights, sessions, bounds=(0, 1))),
    ):
        assert 0 <= low <= high <= 1
        assert math.isnan(value) == (not rows)
        assert math.isnan(value) or low <= value <= high


def test_sums_that_rounding_spoilt_are_still_those_of_a_rate_of_1() -> None:
    """As when a database adds weights and weighted scores in different orders."""
    sums = moments([1] * 20, np.linspace(1, 3, 20))
    spoilt = replace(sums, weighted=sums.weighted * (1 - 1e-15), squares=sums.squares * (1 + 1e-15))
    assert bounds_of(proportion(spoilt)) == pytest.approx(bounds_of(proportion(sums)))


@pytest.mark.parametrize("missing", [None, math.nan])
def test_units_without_a_session_are_by_themselves(missing: Any) -> None:
    sums = moments([1, 0, 1, 1], sessions=[missing, missing, 1.0, 1.0])
    assert float(sums.sessions) == 3


def test_missing_scores_and_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="values at 1 is nan"):
        moments([1.0, None])
    with pytest.raises(ValueError, match="labels at 0 is missing"):
        shares([None, "a"])


def test_ratings_that_are_mostly_alike_do_not_make_a_point() -> None:
    """A t interval would end at 4.9999: it knows of no rating below 4.99."""
    found = mean(moments([5.0] * 49 + [4.99]), bounds=(1, 5))
    assert found.low < 4.86
    assert float(found.high) == pytest.approx(5, abs=1e-3)


def test_in_the_middle_of_its_bounds_a_mean_has_students_interval() -> None:
    values = np.random.default_rng(3).uniform(2, 4, 2000)
    free, bounded = (bounds_of(mean(moments(values), bounds=b)) for b in ((-INF, INF), (1, 5)))
    assert bounded == pytest.approx(free, abs=0.001)
    assert bounds_of(mean(moments(values), bounds=(0, INF))) == pytest.approx(free)
    with pytest.raises(ValueError, match="the first must be lower"):
        mean(moments(values), bounds=(5, 1))


# What had no chance


def test_an_empty_stratum_may_be_anything() -> None:
    seen = proportion(moments([1] * 90 + [0] * 10))
    value, low, high = bounds_of(with_unseen(seen, 0.2))
    assert value == pytest.approx(0.9)
    assert low == pytest.approx(0.8 * float(seen.low))
    assert high == pytest.approx(0.8 * float(seen.high) + 0.2)
    assert bounds_of(with_unseen(seen, 0)) == pytest.approx(bounds_of(seen))
    assert bounds_of(with_unseen(seen, 1)) == pytest.approx((np.nan, 0, 1), nan_ok=True)
    assert bounds_of(with_unseen(mean(moments([1.0, 2.0])), 0.1, (-INF, INF)))[1:] == (-INF, INF)
    with pytest.raises(ValueError, match="share of traffic"):
        with_unseen(seen, 1.2)
