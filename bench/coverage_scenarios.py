"""Situations whose truth is known, for every interval of `vedette.quality`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bench.coverage_traffic import around, drawn, places, session_rates
from vedette.quality.accuracy import accuracy
from vedette.quality.beta_binomial import rate_sequence
from vedette.quality.betting import mean_sequence
from vedette.quality.corrected import corrected_mean, corrected_rate
from vedette.quality.difference import difference, shared_sessions
from vedette.quality.estimate import Estimate, FloatArray
from vedette.quality.gwet import ac1
from vedette.quality.kappa import kappa
from vedette.quality.krippendorff import alpha, nominal_alpha
from vedette.quality.mean import mean
from vedette.quality.moments import moments
from vedette.quality.proportion import proportion
from vedette.quality.quantile import quantile
from vedette.quality.shares import shares
from vedette.quality.unseen import with_unseen
from vedette.quality.wilson import wilson

_INF = float("inf")


class Found(NamedTuple):
    """Estimates of some runs, arrays (runs,), and what they should have been."""

    value: FloatArray
    low: FloatArray
    high: FloatArray
    truth: FloatArray

    @property
    def covered(self) -> FloatArray:
        """(runs,) 1 where the interval contains the truth, else 0."""
        return ((self.low <= self.truth) & (self.truth <= self.high)).astype(np.float64)


Simulation = Callable[[np.random.Generator, int], Found]


@dataclass(frozen=True)
class Scenario:
    """One situation.

    Attributes:
        method: module of `vedette.quality`.
        name: the situation, for people.
        simulate: gives as many runs as it is asked for.
        at_least: the level is a lower bound, not met exactly: because the interval holds at every
            score, or because so little was seen that it has to be careful.
    """

    method: str
    name: str
    simulate: Simulation
    at_least: bool = False


SCENARIOS: list[Scenario] = []


def scenario(method: str, name: str, at_least: bool = False) -> Callable[..., Simulation]:
    """Adds a simulation to `SCENARIOS`."""

    def add(simulate: Simulation) -> Simulation:
        SCENARIOS.append(Scenario(method, name, simulate, at_least))
        return simulate

    return add


def _found(estimate: Estimate, truth: float | FloatArray) -> Found:
    value = np.asarray(estimate.value, np.float64)
    return Found(value, estimate.low, estimate.high, np.broadcast_to(truth, value.shape))


def _each(estimates: Iterator[Estimate], truth: float | FloatArray) -> Found:
    """The runs one by one, for what is not vectorised over runs."""
    value, low, high = (np.array(column, np.float64) for column in zip(*estimates, strict=True))
    return Found(value, low, high, np.broadcast_to(truth, value.shape))


# Means


@scenario("mean", "20 normal scores")
def _(rng: np.random.Generator, runs: int) -> Found:
    values = rng.normal(3.0, 1.0, (runs, 20, 1))
    return _found(mean(drawn(rng, np.ones(values.shape, bool), values, 1.0).moments()), 3.0)


_USUAL = (0.05, 0.05, 0.15, 0.35, 0.4)
_MOSTLY_5 = (0.03, 0.0, 0.0, 0.07, 0.9)


def _ratings(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    alike: float,
    chances: tuple[float, ...] = _USUAL,
) -> FloatArray:
    """1 to 5, so often each. With probability ``alike`` a trace has its session's."""
    options = np.arange(1, 6)
    own = rng.choice(options, shape, p=chances)
    of_session = rng.choice(options, (*shape[:-1], 1), p=chances)
    return np.where(rng.random(shape) < alike, of_session, own).astype(np.float64)


def _rated_sessions(
    sessions: int, rate: float, length: float = 4, chances: tuple[float, ...] = _USUAL
) -> Simulation:
    truth = float(np.arange(1, 6) @ np.array(chances))

    def simulate(rng: np.random.Generator, runs: int) -> Found:
        there = places(rng, runs, sessions, length)
        values = _ratings(rng, there.shape, 0.5, chances)
        return _found(mean(drawn(rng, there, values, rate).moments(), bounds=(1, 5)), truth)

    return simulate


scenario("mean", "ratings 1-5, 200 sessions")(_rated_sessions(200, 1.0))
scenario("mean", "ratings 1-5, 30 sessions", at_least=True)(_rated_sessions(30, 1.0))
scenario("mean", "ratings 1-5, 10 sessions", at_least=True)(_rated_sessions(10, 1.0))
scenario("mean", "ratings 1-5, mostly 5, 200 sessions")(
    _rated_sessions(200, 1.0, chances=_MOSTLY_5)
)
scenario("mean", "ratings 1-5, mostly 5, 50 independent traces", at_least=True)(
    _rated_sessions(50, 1.0, 1, _MOSTLY_5)
)
scenario("mean", "ratings 1-5, 400 sessions, rate 0.2")(_rated_sessions(400, 0.2))


@scenario("mean", "rate 0.05, from noon 0.5, and quality falls by 1.5")
def _(rng: np.random.Generator, runs: int) -> Found:
    there = places(rng, runs, 600, 4)
    afternoon = rng.random((runs, 600, 1)) < 0.5
    values = _ratings(rng, there.shape, 0.5) - np.where(afternoon, 1.5, 0.0)
    sampled = drawn(rng, there, values, np.where(afternoon, 0.5, 0.05))
    return _found(mean(sampled.moments()), 3.25)


@scenario("mean", "long sessions are worse, 300 sessions")
def _(rng: np.random.Generator, runs: int) -> Found:
    there = places(rng, runs, 300, 4)
    lengths = there.sum(-1, keepdims=True)
    values = 5.0 - 0.1 * lengths + rng.normal(0, 1, there.shape)
    sizes = np.arange(1, 21)
    chances = 0.25 * 0.75 ** (sizes - 1)
    chances[-1] *= 4  # and all that would be longer
    truth = 5.0 - 0.1 * (chances * sizes**2).sum() / (chances * sizes).sum()
    return _found(mean(drawn(rng, there, values, 1.0).moments()), truth)


# Proportions


def _passes(
    rate: float, units: int, alike: float = 0.0, length: float = 1, sampling: float = 1.0
) -> Simulation:
    def simulate(rng: np.random.Generator, runs: int) -> Found:
        p = around(rng, rate, runs)
        there = places(rng, runs, units, length)
        own = session_rates(rng, p, alike, (runs, units))
        values = (rng.random(there.shape) < own).astype(np.float64)
        sampled = drawn(rng, there, values, sampling)
        return _found(proportion(sampled.moments()), p[:, 0, 0])

    return simulate


@scenario("wilson", "0.5 of 50")
def _(rng: np.random.Generator, runs: int) -> Found:
    p = around(rng, 0.5, runs)[:, 0, 0]
    return _found(wilson(rng.binomial(50, p) / 50, 50), p)


@scenario("wilson", "0.95 of 200")
def _(rng: np.random.Generator, runs: int) -> Found:
    p = around(rng, 0.95, runs)[:, 0, 0]
    return _found(wilson(rng.binomial(200, p) / 200, 200), p)


scenario("proportion", "0.9 of 100 independent traces")(_passes(0.9, 100))
scenario("proportion", "0.99 of 500 independent traces")(_passes(0.99, 500))
scenario("proportion", "0.9, 100 sessions, alike 0.3")(_passes(0.9, 100, 0.3, 4))
scenario("proportion", "0.9, 15 sessions, alike 0.3", at_least=True)(_passes(0.9, 15, 0.3, 4))
scenario("proportion", "0.98, 200 sessions, alike 0.3", at_least=True)(_passes(0.98, 200, 0.3, 4))
scenario("proportion", "0.9, 400 sessions, alike 0.3, rate 0.2")(_passes(0.9, 400, 0.3, 4, 0.2))


@scenario("proportion", "rate 0.05, from noon 0.5, quality falls from 0.95 to 0.75")
def _(rng: np.random.Generator, runs: int) -> Found:
    there = places(rng, runs, 600, 4)
    afternoon = rng.random((runs, 600, 1)) < 0.5
    own = session_rates(rng, np.where(afternoon, 0.75, 0.95), 0.2, (runs, 600))
    values = (rng.random(there.shape) < own).astype(np.float64)
    sampled = drawn(rng, there, values, np.where(afternoon, 0.5, 0.05))
    return _found(proportion(sampled.moments()), 0.85)


def _errors_first(rest: float) -> Simulation:
    """A tenth are errors, scored at rate 1; of the others a tenth is scored."""

    def simulate(rng: np.random.Generator, runs: int) -> Found:
        there = places(rng, runs, 2000, 1)
        error = rng.random(there.shape) < 0.1
        values = (rng.random(there.shape) < np.where(error, 0.3, rest)).astype(np.float64)
        sampled = drawn(rng, there, values, np.where(error, 1.0, 0.1))
        return _found(proportion(sampled.moments()), 0.1 * 0.3 + 0.9 * rest)

    return simulate


_NAME = "errors (0.1, pass 0.3) at rate 1, the rest"
scenario("proportion", f"{_NAME} (0.95) at 0.1")(_errors_first(0.95))
scenario("proportion", f"{_NAME} (0.995) at 0.1", at_least=True)(_errors_first(0.995))


@scenario("proportion", "0.8, probabilities from 1 down to 0.001, 10,000 traces", at_least=True)
def _(rng: np.random.Generator, runs: int) -> Found:
    p = around(rng, 0.8, runs)
    there = places(rng, runs, 10_000, 1)
    values = (rng.random(there.shape) < p).astype(np.float64)
    sampled = drawn(rng, there, values, 0.001 ** rng.random(there.shape))
    return _found(proportion(sampled.moments()), p[:, 0, 0])


@scenario("unseen", "a stratum of 0.1, pass 0.6, was never scored; the rest 0.9", at_least=True)
def _(rng: np.random.Generator, runs: int) -> Found:
    seen = _passes(0.9, 900)(rng, runs)
    found = with_unseen(Estimate(*seen[:3]), 0.1)
    return _found(found, 0.9 * seen.truth + 0.1 * 0.6)


@scenario("shares", "three categories, 0.7, 0.25, 0.05: the rarest of 300")
def _(rng: np.random.Generator, runs: int) -> Found:
    labels = rng.choice(["a", "b", "c"], (runs, 300), p=(0.7, 0.25, 0.05))
    none = Estimate(*(np.asarray(bound) for bound in (0.0, 0.0, 1.0)))
    return _each((shares(one).get("c", none) for one in labels), 0.05)


# Differences


@scenario("difference", "0.9 of 200 and 0.8 of 100 traces")
def _(rng: np.random.Generator, runs: int) -> Found:
    before, after = _passes(0.9, 200)(rng, runs), _passes(0.8, 100)(rng, runs)
    return _difference(after, before)


@scenario("difference", "0.98 of 200 and 0.95 of 200 traces", at_least=True)
def _(rng: np.random.Generator, runs: int) -> Found:
    before, after = _passes(0.98, 200)(rng, runs), _passes(0.95, 200)(rng, runs)
    return _difference(after, before)


@scenario("difference", "0.9 and 0.8, 100 sessions each, alike 0.3; rates 0.2 and 0.8")
def _(rng: np.random.Generator, runs: int) -> Found:
    before = _passes(0.9, 300, 0.3, 4, 0.2)(rng, runs)
    after = _passes(0.8, 100, 0.3, 4, 0.8)(rng, runs)
    return _difference(after, before)


@scenario("difference", "means of ratings, 40 sessions each", at_least=True)
def _(rng: np.random.Generator, runs: int) -> Found:
    return _difference(_rated_sessions(40, 1.0)(rng, runs), _rated_sessions(40, 1.0)(rng, runs))


def _difference(after: Found, before: Found) -> Found:
    found = difference(Estimate(*after[:3]), Estimate(*before[:3]))
    return _found(found, after.truth - before.truth)


@scenario("difference", "two versions in the same 60 sessions, alike 0.5", at_least=True)
def _(rng: np.random.Generator, runs: int) -> Found:
    there = places(rng, runs, 60, 6)
    is_after = rng.random(there.shape) < 0.5
    values = _ratings(rng, there.shape, 0.5)

    def one(run: int) -> Estimate:
        session, place = np.nonzero(there[run])
        scores, after = values[run, session, place], is_after[run, session, place]
        ours, theirs = (mean(moments(scores[at], None, session[at])) for at in (after, ~after))
        return difference(ours, theirs, shared_sessions(scores, session, after))

    return _each((one(run) for run in range(runs)), 0.0)


# Quantiles


def _latencies(probability: float, traces: int, sessions: bool = False) -> Simulation:
    def simulate(rng: np.random.Generator, runs: int) -> Found:
        there = places(rng, runs, traces, 4 if sessions else 1)
        # A number of traces per run: ranks are whole numbers, so coverage goes up and down with it
        there &= np.arange(traces)[:, None] < rng.integers(traces * 4 // 5, traces, (runs, 1, 1))
        noise = rng.normal(0, 1, there.shape)
        if sessions:
            noise = 0.8 * noise + 0.6 * rng.normal(0, 1, (runs, traces, 1))
        slow = np.exp(noise)  # lognormal; strata by latency: the slow ones at rate 1
        chances = np.where(slow > 3, 1.0, 0.2) if sessions else np.ones_like(slow)
        sampled = drawn(rng, there, slow, chances)
        truth = float(np.exp(_NORMAL[probability]))
        return _each(
            (
                quantile(values, probability, weights, names, bounds=(0, _INF))
                for values, weights, names in map(sampled.run, range(runs))
            ),
            truth,
        )

    return simulate


_NORMAL = {0.5: 0.0, 0.95: 1.6448536269514722, 0.99: 2.3263478740408408}
scenario("quantile", "median of about 90")(_latencies(0.5, 100))
scenario("quantile", "95th percentile of about 270")(_latencies(0.95, 300))
scenario("quantile", "99th percentile of about 1,800")(_latencies(0.99, 2000))
scenario(
    "quantile",
    "95th percentile, about 180 sessions; slow traces at rate 1, others 0.2",
    at_least=True,
)(_latencies(0.95, 200, sessions=True))


# Judges and people


def _labels(
    rng: np.random.Generator, shape: tuple[int, ...], rate: FloatArray | float, right: float
) -> tuple[FloatArray, FloatArray]:
    """People's verdicts, and a judge's that is right so often."""
    human = rng.random(shape) < rate
    judge = np.where(rng.random(shape) < right, human, ~human)
    return human.astype(np.float64), judge.astype(np.float64)


def _corrected(rate: float, right: float, labels: int, judged: int) -> Simulation:
    def simulate(rng: np.random.Generator, runs: int) -> Found:
        p = around(rng, rate, runs)[:, :, 0]
        human, judge = _labels(rng, (runs, judged), p, right)
        human[:, labels:] = np.nan
        return _each(
            (corrected_rate(judge[run], human[run]).estimate for run in range(runs)), p[:, 0]
        )

    return simulate


scenario("corrected", "0.8, judge right 0.9, 200 of 2,000 labelled")(
    _corrected(0.8, 0.9, 200, 2000)
)
scenario("corrected", "0.95, judge right 0.97, 150 of 2,000 labelled")(
    _corrected(0.95, 0.97, 150, 2000)
)
scenario("corrected", "0.8, judge right 0.6, 200 of 1,000 labelled")(
    _corrected(0.8, 0.6, 200, 1000)
)
scenario("corrected", "0.99, judge right 0.98, 150 of 2,000 labelled", at_least=True)(
    _corrected(0.99, 0.98, 150, 2000)
)
scenario("corrected", "0.9, 50 labels: people only")(_corrected(0.9, 0.9, 50, 500))


@scenario("corrected", "what the judge fails is labelled at 0.8, the rest at 0.1; 300 sessions")
def _(rng: np.random.Generator, runs: int) -> Found:
    there = places(rng, runs, 300, 4)
    own = session_rates(rng, np.asarray(0.8), 0.2, (runs, 300))
    human = rng.random(there.shape) < own
    judge = np.where(rng.random(there.shape) < 0.85, human, ~human)
    chances = np.where(judge, 0.1, 0.8)
    labelled = rng.random(there.shape) < chances

    def one(run: int) -> Estimate:
        at = np.nonzero(there[run])
        labels = np.where(labelled[run], human[run], np.nan)[at]
        return corrected_rate(
            judge[run][at], labels, label_weights=1 / chances[run][at], sessions=at[0]
        ).estimate

    return _each((one(run) for run in range(runs)), 0.8)


def _corrected_ratings(right: float) -> Simulation:
    def simulate(rng: np.random.Generator, runs: int) -> Found:
        human, other = (_ratings(rng, (runs, 1500, 1), 0.0)[..., 0] for _ in range(2))
        judge = np.where(rng.random(human.shape) < right, human, other)
        human[:, 150:] = np.nan
        return _each(
            (corrected_mean(judge[run], human[run], bounds=(1, 5)).estimate for run in range(runs)),
            4.0,
        )

    return simulate


scenario("corrected", "ratings 1-5, judge half right, 150 of 1,500 labelled")(
    _corrected_ratings(0.5)
)
scenario("corrected", "ratings 1-5, judge right 0.98, 150 of 1,500 labelled", at_least=True)(
    _corrected_ratings(0.98)
)


def _agreement(
    coefficient: Callable[[FloatArray, FloatArray], Estimate],
    truth: Callable[[float, float], float],
    rate: float,
    right: float,
    labels: int,
) -> Simulation:
    def simulate(rng: np.random.Generator, runs: int) -> Found:
        human, judge = _labels(rng, (runs, labels), rate, right)
        return _each(
            (coefficient(judge[run], human[run]) for run in range(runs)), truth(rate, right)
        )

    return simulate


def _kappa(rate: float, right: float) -> float:
    judge = rate * right + (1 - rate) * (1 - right)
    return 1 - (1 - right) / (1 - rate * judge - (1 - rate) * (1 - judge))


def _ac1(rate: float, right: float) -> float:
    share = (rate + rate * right + (1 - rate) * (1 - right)) / 2
    return 1 - (1 - right) / (1 - 2 * share * (1 - share))


def _alpha(rate: float, right: float) -> float:
    share = (rate + rate * right + (1 - rate) * (1 - right)) / 2
    return 1 - (1 - right) / (2 * share * (1 - share))


def _both(judge: FloatArray, human: FloatArray, *more: FloatArray) -> Estimate:
    return nominal_alpha(np.stack([judge, human], axis=1), *more)


for _rate, _right, _count in ((0.7, 0.9, 100), (0.8, 0.85, 50), (0.9, 0.95, 200)):
    _name = f"pass {_rate}, judge right {_right}, {_count} labels"
    scenario("kappa", _name)(_agreement(kappa, _kappa, _rate, _right, _count))
    scenario("gwet", _name)(_agreement(ac1, _ac1, _rate, _right, _count))
    scenario("krippendorff", _name)(_agreement(_both, _alpha, _rate, _right, _count))


def _sensitivity(judge: FloatArray, human: FloatArray, *more: FloatArray) -> Estimate:
    return accuracy(1 - judge, 1 - human, *more).sensitivity


def _chosen_labels(
    coefficient: Callable[..., Estimate], truth: float, sessions: int = 150
) -> Simulation:
    """What the judge fails is labelled at 0.8, the rest at 0.2; sessions are alike."""

    def simulate(rng: np.random.Generator, runs: int) -> Found:
        there = places(rng, runs, sessions, 4)
        human, judge = _labels(
            rng, there.shape, session_rates(rng, _P, 0.2, (runs, sessions)), 0.85
        )
        sampled = drawn(rng, there, human, np.where(judge == 1, 0.2, 0.8))

        def one(run: int) -> Estimate:
            at = np.nonzero(sampled.weights[run])
            weights = sampled.weights[run][at]
            return coefficient(judge[run][at], human[run][at], weights, at[0])

        return _each((one(run) for run in range(runs)), truth)

    return simulate


_P = np.asarray(0.8)
_NAME = "0.8, judge right 0.85, what it fails labelled at 0.8, the rest at 0.2"
_150 = f"{_NAME}; 150 sessions"
scenario("kappa", _150, at_least=True)(_chosen_labels(kappa, _kappa(0.8, 0.85)))
scenario("gwet", _150)(_chosen_labels(ac1, _ac1(0.8, 0.85)))
scenario("krippendorff", _150, at_least=True)(_chosen_labels(_both, _alpha(0.8, 0.85)))
scenario("accuracy", f"sensitivity; {_NAME}; 300 sessions")(_chosen_labels(_sensitivity, 0.85, 300))


@scenario("krippendorff", "numbers, 3 raters, 100 units, alpha 0.8")
def _(rng: np.random.Generator, runs: int) -> Found:
    ratings = rng.normal(0, 2, (runs, 100, 1)) + rng.normal(0, 1, (runs, 100, 3))
    ratings[rng.random(ratings.shape) < 0.2] = np.nan
    return _each((alpha(one) for one in ratings), 0.8)


@scenario("accuracy", "sensitivity 0.8, 40 or so failures")
def _(rng: np.random.Generator, runs: int) -> Found:
    p = around(rng, 0.8, runs)[:, :, 0]
    human = rng.random((runs, 200)) < 0.2
    judge = human & (rng.random(human.shape) < p)
    return _each((accuracy(judge[run], human[run]).sensitivity for run in range(runs)), p[:, 0])


# At all times


def _always(estimate: Estimate, truth: float) -> Estimate:
    """(..., n) -> (...,): the tightest bounds there ever were, and the last value."""
    return Estimate(
        estimate.value[..., -1],
        np.where(np.isnan(estimate.low), np.inf, estimate.low).max(-1),
        np.where(np.isnan(estimate.high), -np.inf, estimate.high).min(-1),
    )


@scenario("beta_binomial", "0.9, after each of 1,000 scores", at_least=True)
def _(rng: np.random.Generator, runs: int) -> Found:
    passed = np.cumsum(rng.random((runs, 1000)) < 0.9, axis=1)
    return _found(_always(rate_sequence(passed, np.arange(1, 1001)), 0.9), 0.9)


@scenario("betting", "beta(8, 2), after each of 100 scores", at_least=True)
def _(rng: np.random.Generator, runs: int) -> Found:
    values = rng.beta(8, 2, (runs, 100))
    return _each((_always(mean_sequence(one), 0.8) for one in values), 0.8)


@scenario("betting", "0.8; weights 1 or 10, failures oversampled; 100 scores", at_least=True)
def _(rng: np.random.Generator, runs: int) -> Found:
    values = (rng.random((runs, 1500)) < 0.8).astype(np.float64)
    chances = np.where(rng.random(values.shape) < np.where(values == 1, 0.05, 0.2), 1.0, 0.1)
    selected = rng.random(values.shape) < chances
    return _each(
        (
            _always(mean_sequence(one[at][:100], 1 / pi[at][:100], 10.0), 0.8)
            for one, pi, at in zip(values, chances, selected, strict=True)
        ),
        0.8,
    )
