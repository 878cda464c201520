"""Do intervals hold their level, and tests their rate of false alarms? A small, seeded run of
`python -m bench.coverage`, which does 10,000 runs of each."""

from __future__ import annotations

import numpy as np
import pytest
from bench.coverage import LEVEL, TOLERANCE, cover
from bench.coverage_alarms import ALPHA, WATCHES, Watch
from bench.coverage_scenarios import SCENARIOS, Scenario

RUNS = 200
# Four standard errors of a share of 95 %, beyond what is tolerated with 10,000 runs
MARGIN = TOLERANCE + 4 * np.sqrt(LEVEL * (1 - LEVEL) / RUNS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: f"{one.method}: {one.name}")
def test_an_interval_contains_the_truth_as_often_as_it_says(scenario: Scenario) -> None:
    covered, width, bias = cover(scenario, RUNS, seed=3)
    assert covered >= LEVEL - MARGIN
    assert abs(bias) < width


def test_every_interval_has_a_scenario() -> None:
    """A new method comes with a simulation."""
    expected = {"mean", "wilson", "proportion", "difference", "shares", "quantile", "corrected"}
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
