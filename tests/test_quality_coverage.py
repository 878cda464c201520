"""Do intervals hold their level, and tests their rate of false alarms? A small, seeded run of
`python -m bench.coverage`, which does 10,000 runs of each; and would a wrong one be noticed?"""

from __future__ import annotations

from dataclasses import replace

import bench.coverage_scenarios
import numpy as np
import pytest
from bench.coverage import LEVEL, TOLERANCE, cover
from bench.coverage_alarms import ALPHA, WATCHES, Watch
from bench.coverage_scenarios import SCENARIOS, Found, Scenario
from bench.coverage_traffic import Drawn

from vedette.quality.moments import Moments, of_sessions

RUNS = 300
# Three standard errors of a share of 95 %, beyond what is tolerated with 10,000 runs
LEAST = LEVEL - TOLERANCE - 3 * np.sqrt(LEVEL * (1 - LEVEL) / RUNS)
NARROWEST, WIDEST = 1.35, 0.8  # errors are known to 4 %, so widths are


def complaints(scenario: Scenario) -> list[str]:
    """What is wrong with its intervals."""
    found = cover(scenario, RUNS, seed=3)
    checks = {
        "does not cover": found.covered < LEAST,
        "is too narrow": not scenario.at_least and found.spread > NARROWEST,
        "is too wide": not scenario.at_least and found.spread < WIDEST,
        # Means come with a standard error of a quarter of a width / sqrt(RUNS)
        "is biased": not scenario.at_least and abs(found.bias) > found.width / 8,
    }
    return [complaint for complaint, so in checks.items() if so]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: f"{one.method}: {one.name}")
def test_an_interval_contains_the_truth_as_often_as_it_says(scenario: Scenario) -> None:
    assert complaints(scenario) == []


def named(method: str, name: str) -> Scenario:
    """The one scenario whose name contains this."""
    (found,) = (one for one in SCENARIOS if one.method == method and name in one.name)
    return found


def scaled(scenario: Scenario, factor: float) -> Scenario:
    """With intervals so much wider."""

    def simulate(rng: np.random.Generator, runs: int) -> Found:
        value, low, high, truth = scenario.simulate(rng, runs)
        return Found(value, value - factor * (value - low), value + factor * (high - value), truth)

    return replace(scenario, simulate=simulate)


@pytest.mark.parametrize(
    "scenario",
    [
        named("mean", "20 normal"),
        named("proportion", "100 sessions"),
        named("difference", "0.9 of 200"),
        named("quantile", "median"),
        named("corrected", "judge right 0.9,"),
        named("kappa", "0.7"),
    ],
    ids=lambda one: one.method,
)
def test_a_wrong_width_would_be_noticed(scenario: Scenario) -> None:
    assert "does not cover" in complaints(scaled(scenario, 0.7))
    assert "is too wide" in complaints(scaled(scenario, 1.4))


@pytest.mark.parametrize("method", ["mean", "proportion"])
def test_forgotten_weights_would_be_noticed(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = bench.coverage_scenarios.drawn

    def unweighted(*arguments: object) -> Drawn:
        values, weights = drawn(*arguments)  # type: ignore[arg-type]
        return Drawn(values, (weights > 0).astype(np.float64))

    monkeypatch.setattr(bench.coverage_scenarios, "drawn", unweighted)
    assert {"does not cover", "is biased"} <= set(complaints(named(method, "from noon 0.5")))


@pytest.mark.parametrize(
    ("method", "name"), [("mean", "1-5, 200 sessions"), ("proportion", "0.9, 100 sessions")]
)
def test_forgotten_sessions_would_be_noticed(
    method: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def every_trace_by_itself(sampled: Drawn) -> Moments:
        weights, values = (each.reshape(len(each), -1) for each in sampled[::-1])
        return of_sessions(
            weight=weights,
            weighted=weights * values,
            unit_squares=weights**2,
            units=(weights > 0).astype(np.float64),
        )

    monkeypatch.setattr(Drawn, "moments", every_trace_by_itself)
    assert "does not cover" in complaints(named(method, name))


def test_every_interval_has_a_scenario() -> None:
    """A new method comes with a simulation."""
    expected = {
        "mean",
        "wilson",
        "proportion",
        "difference",
        "shares",
        "unseen",
        "quantile",
        "corrected",
    }
    expected |= {"kappa", "gwet", "krippendorff", "accuracy", "beta_binomial", "betting"}
    assert {one.method for one in SCENARIOS} == expected


@pytest.mark.parametrize(
    "watch", [one for one in WATCHES if one.allowed], ids=lambda one: f"{one.name}: {one.situation}"
)
def test_looking_after_every_score_raises_few_false_alarms(watch: Watch) -> None:
    first = watch.alarms(np.random.default_rng(4), RUNS)
    assert (first > 0).mean() <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def test_an_interval_of_fixed_size_raises_many() -> None:
    """About 43 % when looked at from the first score on, where the e-process raises 3 %."""
    first, later, evidence = WATCHES[:3]
    share = [
        (one.alarms(np.random.default_rng(4), 4 * RUNS) > 0).mean()
        for one in (first, later, evidence)
    ]
    assert 0.35 < share[0] < 0.5
    assert share[1] > 0.15
    assert share[2] < ALPHA


def test_a_fall_of_a_tenth_is_found_within_120_scores() -> None:
    """The median over runs."""
    falls = [one for one in WATCHES if one.name == "beta-binomial" and not one.is_false]
    assert len(falls) == 3
    for watch in falls:
        first = watch.alarms(np.random.default_rng(4), RUNS)
        assert np.median(np.where(first > 0, first, 10**6)) <= 120, watch.situation
