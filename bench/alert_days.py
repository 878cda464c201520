"""30 simulated days, a look a minute: false alarms, how soon a fall is found, and a peer's way."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.results import Table, record
from vedette.quality.beta_binomial import evidence_below
from vedette.quality.off_policy import log_gains
from vedette.quality.onset import FROM_THE_START, advance, begin

ALPHA = 0.05
_ALARM = math.log(1 / ALPHA)
_DAYS, _LOOKS = 30, 30 * 1440
_WINDOW = 1440  # looks of the peer's window, a day
_FEWEST = 30  # scores in it before the peer says anything
_RUNS = 1000

Course = Callable[[np.random.Generator], "Scores"]


@dataclass(frozen=True)
class Scores:
    """A month, in order of arrival.

    Attributes:
        values, weights, largest: (n,) as `vedette.quality.onset.advance` takes them.
        looks: (n,) the minute after which each is there, ascending.
    """

    values: NDArray[np.float64]
    weights: NDArray[np.float64]
    largest: NDArray[np.float64]
    looks: NDArray[np.intp]


@dataclass(frozen=True)
class Scenario:
    """Attributes:
    name: for people.
    limit: that must be held.
    course: makes a month.
    fall: at which look it falls below; None: it never does, and every alarm is a false one.
    """

    name: str
    limit: float
    course: Course
    fall: int | None = None


def steady(rate: float, per_look: float = 1.0, after: float | None = None, fall: int = 0) -> Course:
    """A rate, and another from a look on; so many scores a minute."""

    def course(rng: np.random.Generator) -> Scores:
        n = int(_LOOKS * per_look)
        looks = (np.arange(n) / per_look).astype(np.intp)
        rates = np.full(n, rate) if after is None else np.where(looks < fall, rate, after)
        ones = np.ones(n)
        return Scores((rng.random(n) < rates).astype(float), ones, ones, looks)

    return course


def rate_at_noon(rate: float) -> Course:
    """10 traces a minute at a sampling rate of 0.05, at 0.5 from noon of day 15 on; a stratum whose
    failures are four times as frequent has twice the rate, so the plain mean is too low."""

    def course(rng: np.random.Generator) -> Scores:
        looks = np.repeat(np.arange(_LOOKS), 10)
        values = (rng.random(looks.size) < rate).astype(float)
        base = np.where(looks < _LOOKS // 2, 0.05, 0.5)
        chance = np.where(rng.random(looks.size) < np.where(values == 1, 0.1, 0.4), 2 * base, base)
        at = rng.random(looks.size) < chance
        return Scores(values[at], 1 / chance[at], 1 / base[at], looks[at])

    return course


def sessions(rate: float) -> Course:
    """A session of 5 every 5 minutes, alike with intra-class correlation 0.3, as one unit each."""

    def course(rng: np.random.Generator) -> Scores:
        n = _LOOKS // 5
        own = rng.beta(rate * 7 / 3, (1 - rate) * 7 / 3, n)
        fives = np.full(n, 5.0)
        return Scores(rng.binomial(5, own) / 5, fives, fives, np.arange(n) * 5)

    return course


_HALF = _LOOKS // 2
SCENARIOS = [
    Scenario("on the limit, 0.8", 0.8, steady(0.8)),
    Scenario("on the limit, 0.9", 0.9, steady(0.9)),
    Scenario("on the limit, 0.95", 0.95, steady(0.95)),
    Scenario("on the limit, 0.8, a score in 10 minutes", 0.8, steady(0.8, 0.1)),
    Scenario("above it by 0.03, 0.83", 0.8, steady(0.83)),
    Scenario("sampling 0.05, from noon 0.5", 0.8, rate_at_noon(0.8)),
    Scenario("sessions of 5, alike 0.3", 0.8, sessions(0.8)),
    Scenario("0.7 from the start", 0.8, steady(0.7), 0),
    Scenario("0.8 from the start", 0.9, steady(0.8), 0),
    Scenario("0.85 from the start", 0.95, steady(0.85), 0),
    Scenario("0.8, after 15 days 0.7", 0.8, steady(0.8, 1.0, 0.7, _HALF), _HALF),
    Scenario("0.9, after 15 days 0.7", 0.8, steady(0.9, 1.0, 0.7, _HALF), _HALF),
    Scenario("0.95, after 15 days 0.8", 0.9, steady(0.95, 1.0, 0.8, _HALF), _HALF),
]


def evidence(scores: Scores, limit: float) -> NDArray[np.float64]:
    """The log of the e-value after each score: what `vedette.quality.onset.advance` comes to score
    by score, in closed form, so that a month takes milliseconds; `require_same` compares them."""
    over = scores.looks / _LOOKS
    logs = log_gains(scores.values, scores.weights, np.asarray(limit), scores.largest)
    grown = np.cumsum(logs, axis=1)
    before = np.c_[np.zeros(len(logs)), grown[:, :-1]]
    with np.errstate(divide="ignore"):
        stakes = np.log((1 - FROM_THE_START) * np.diff(over, prepend=0.0))
        later = np.log((1 - FROM_THE_START) * (1 - over))
    bets = grown + np.logaddexp.accumulate(stakes - before, axis=1)
    unequal = np.flatnonzero(scores.weights < scores.largest * (1 - 1e-9))
    alike = int(unequal[0]) if unequal.size else over.size
    passed, counted = np.cumsum(scores.values[:alike]), np.arange(1, alike + 1)
    first = np.full(over.size, -np.inf)
    first[:alike] = math.log(FROM_THE_START) + evidence_below(passed, counted, limit)
    if alike < over.size:  # from there on they are bet on with fixed bets
        held = first[alike - 1] if alike else math.log(FROM_THE_START)
        bets[:, alike:] = np.logaddexp(
            bets[:, alike:], held + grown[:, alike:] - before[:, [alike]]
        )
    mean = np.logaddexp.reduce(bets, axis=0) - math.log(len(bets))
    return np.logaddexp(np.logaddexp(first, mean), later)


def require_same(scores: Scores, limit: float, counted: int = 3000) -> None:
    """Refuse to simulate something else than what alerts do."""
    part = slice(0, counted)
    elapsed = scores.looks[part] / _LOOKS
    wealth = advance(
        begin(), scores.values[part], scores.weights[part], elapsed, limit, scores.largest[part]
    )
    mine = evidence(scores, limit)[part][-1]
    if not math.isclose(wealth.log_e(limit), mine, rel_tol=1e-6, abs_tol=1e-6):
        raise AssertionError(f"{wealth.log_e(limit)} is not {mine}")


def alarm(scores: Scores, limit: float, since: int = 0) -> int | None:
    """At which look the rule fires, `since` or later; None if it doesn't."""
    last = np.r_[np.diff(scores.looks) > 0, True]  # of a look
    fired = scores.looks[last & (scores.looks >= since) & (evidence(scores, limit) >= _ALARM)]
    return int(fired[0]) if fired.size else None


def peer_alarm(scores: Scores, limit: float, since: int = 0) -> int | None:
    """The same of a mean of the last day's scores that is compared with the limit."""
    looks = np.arange(since, _LOOKS)
    fired = looks[_day_means(scores, looks) < limit]
    return int(fired[0]) if fired.size else None


def _day_means(scores: Scores, looks: NDArray[np.intp]) -> NDArray[np.float64]:
    """Of the day before each look; NaN of too few scores."""
    sums = np.r_[0, np.cumsum(scores.values)]
    ends = np.searchsorted(scores.looks, looks, "right")
    starts = np.searchsorted(scores.looks, looks - _WINDOW, "right")
    counted = ends - starts
    means = (sums[ends] - sums[starts]) / np.maximum(counted, 1)
    return np.where(counted >= _FEWEST, means, np.nan)


def told(scenario: Scenario, way: Callable[..., int | None], runs: int) -> tuple[str, str, str]:
    """(false alarms, found, median scores to it) of a way, for people."""
    false, needed = 0, []
    for run in range(runs):
        scores = month(scenario, run)
        found = way(scores, scenario.limit)
        if found is not None and (scenario.fall is None or found < scenario.fall):
            false += 1
        elif found is not None:
            within = (scores.looks >= (scenario.fall or 0)) & (scores.looks <= found)
            needed.append(np.count_nonzero(within))
    alarms = "" if scenario.fall == 0 else f"{false / runs:.1%}"
    if scenario.fall is None:
        return alarms, "", ""
    median = f"{np.median(needed):.0f}" if needed else ""
    return alarms, f"{len(needed) / runs:.0%}", median


def month(scenario: Scenario, run: int) -> Scores:
    """The same for both ways."""
    return scenario.course(np.random.default_rng([7, run, *scenario.name.encode()]))


def picture(path: Path) -> None:
    """One month, both ways: a scorer that is fine until day 15, then falls."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    limit, fall = 0.8, _HALF
    scores = month(Scenario("picture", limit, steady(0.83, 0.1, 0.7, fall)), 1)
    looks = np.arange(_LOOKS)
    means = _day_means(scores, looks)
    logs = evidence(scores, limit)
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 5))
    days = looks / 1440
    above.plot(days, means, color="#0072b2", linewidth=1)
    above.axhline(limit, color="black", linestyle="--", linewidth=1)
    above.fill_between(days, 0.5, 1, where=means < limit, color="#d55e00", alpha=0.25, linewidth=0)
    above.set(ylim=(0.55, 1), ylabel="mean of the day", title="Firing: mean of the day below 0.80")
    below.plot(scores.looks / 1440, np.exp(logs), color="#0072b2", linewidth=1)
    below.axhline(20, color="black", linestyle="--", linewidth=1)
    fires = alarm(scores, limit)
    if fires is not None:
        below.axvspan(fires / 1440, _DAYS, color="#d55e00", alpha=0.25, linewidth=0)
    below.set(yscale="log", ylim=(1e-1, 1e6), ylabel="e-value", xlabel="day")
    below.set_title("Firing: Vedette, from an e-value of 20 on")
    for axes in (above, below):
        axes.axvline(fall / 1440, color="black", linewidth=1)
        axes.set_xlim(0, _DAYS)
    figure.text(0.99, 0.01, "true rate 0.83, from day 15 on 0.70; 144 scores a day", ha="right")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Simulate and record; exit code 1 if a promise isn't held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=_RUNS, help="of each scenario")
    options = parser.parse_args()
    began = time.monotonic()
    table = Table("scenario", "limit", "way", "false alarms", "found", "median scores to it")
    broken = False
    for scenario in SCENARIOS:
        require_same(month(scenario, 0), scenario.limit)
        for name, way in (("alerts", alarm), ("mean of the day", peer_alarm)):
            cells = told(scenario, way, options.runs)
            table.add(scenario.name, f"{scenario.limit:g}", name, *cells)
            if way is alarm and scenario.fall is None:
                error = math.sqrt(ALPHA * (1 - ALPHA) / options.runs)
                broken |= float(cells[0].rstrip("%")) / 100 > ALPHA + 2 * error
            if way is alarm and scenario.fall == 0:
                broken |= cells[1] != "100%" or float(cells[2]) > 120
    notes = (
        f"{options.runs} months of 30 days each, one look a minute, a score a minute unless said"
        " otherwise; an alarm before the fall is a false one. The alerts' promise: 5 % in a month.",
        f"The mean of the day: of the last 24 hours' scores, from {_FEWEST} on, fires when it is"
        " below the limit.",
        "No test that promises 5 % in a month can find a fall after 15 days in 120 scores: see"
        " `vedette.quality.onset`.",
    )
    record("Alerts in simulated months", table, notes)
    picture(Path(__file__).parent.parent / "docs" / "alerts.png")
    print(f"{time.monotonic() - began:.0f} s", flush=True)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
