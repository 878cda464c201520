"""Do the intervals hold what they promise? 10,000 runs of every scenario, about 8 minutes."""

from __future__ import annotations

import argparse
import sys
import time
from typing import NamedTuple

import numpy as np

from bench.coverage_alarms import LOOKS, WATCHES
from bench.coverage_scenarios import SCENARIOS, Scenario
from bench.results import Table, record
from vedette.quality.estimate import normal_quantile

LEVEL, TOLERANCE = 0.95, 0.01
_RUNS = 10_000
_CHUNK = 250  # runs at a time, to stay within memory


def main() -> None:
    """Simulate and record; exit code 1 if a promise isn't held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=_RUNS, help="of each scenario")
    parser.add_argument("--only", default="", help="methods whose name contains this")
    options = parser.parse_args()
    began = time.monotonic()
    broken = _coverage(options.runs, options.only)
    if not options.only:
        broken += _alarms(options.runs)
    print(f"{time.monotonic() - began:.0f} s", flush=True)
    sys.exit(1 if broken else 0)


class Coverage(NamedTuple):
    """What the runs of a scenario say.

    Attributes:
        covered: share of intervals that contain the truth.
        width: their mean width, of those that are bounded.
        bias: mean error of the estimates.
        spread: standard deviation of error / (width / 2 * 1.96): 1 for intervals as wide as errors
            are large, however often they happen to cover.
    """

    covered: float
    width: float
    bias: float
    spread: float


def cover(scenario: Scenario, runs: int, seed: int) -> Coverage:
    """Simulate a scenario."""
    rng = np.random.default_rng([seed, *scenario.method.encode(), *scenario.name.encode()])
    covered, widths, errors = [], [], []
    for start in range(0, runs, _CHUNK):
        found = scenario.simulate(rng, min(_CHUNK, runs - start))
        covered.append(found.covered)
        widths.append(found.high - found.low)
        errors.append(found.value - found.truth)
    width, error = np.concatenate(widths), np.concatenate(errors)
    bounded = np.isfinite(width) & (width > 0)
    return Coverage(
        covered=float(np.concatenate(covered).mean()),
        width=float(width[bounded].mean()),
        bias=float(error.mean()),
        spread=float((error[bounded] / (width[bounded] / 2 / normal_quantile(LEVEL))).std()),
    )


def promise(scenario: Scenario, margin: float = TOLERANCE) -> tuple[float, float]:
    """(least, most): between which the coverage has to be."""
    return (LEVEL, 1.0) if scenario.at_least else (LEVEL - margin, LEVEL + margin)


def _coverage(runs: int, only: str) -> int:
    table, broken = Table("method", "scenario", "promised", "covered", "held", "width", "bias"), 0
    for one in SCENARIOS:
        if only not in one.method:
            continue
        found = cover(one, runs, seed=1)
        least, most = promise(one)
        held = least <= found.covered <= most
        broken += not held
        promised = "at least 95 %" if one.at_least else "95 % +- 1"
        cells = (promised, f"{found.covered:.1%}", "yes" if held else "NO")
        table.add(one.method, one.name, *cells, f"{found.width:.3f}", f"{found.bias:+.4f}")
    notes = (
        f"{runs:,} runs each{', a reduced run' * (runs < _RUNS)}; a share of 95 % comes with a"
        f" standard error of {100 * np.sqrt(0.95 * 0.05 / runs):.1f} points.",
        "At least 95 %: intervals that hold after every score, and those of so few sessions, or"
        " failing traces, that they have to be careful.",
        '"alike": intra-class correlation within sessions, of 4 traces on average, 20 at most.',
        "Pass rates differ from run to run by a tenth of the way to the nearer of 0 and 1: at one"
        " exact rate, coverage is up or down by luck, as counts are whole numbers.",
    )
    if not only:
        record("Coverage of the intervals", table, notes)
    return broken


def _alarms(runs: int) -> int:
    table = Table("method", "situation", "false alarms", "allowed", "found", "median scores to it")
    broken = 0
    for watch in WATCHES:
        rng = np.random.default_rng([2, *watch.name.encode(), *watch.situation.encode()])
        chunks = [watch.alarms(rng, _CHUNK) for _ in range(max(runs // _CHUNK, 1))]
        first = np.concatenate(chunks)
        share = float((first > 0).mean())
        cells = (f"{share:.1%}", "") if watch.is_false else ("", f"{share:.1%}")
        allowed = "" if watch.allowed is None else f"{watch.allowed:.0%}"
        delay = "" if watch.is_false or share < 0.5 else f"{_median(first):.0f}"
        broken += watch.allowed is not None and share > watch.allowed
        table.add(watch.name, watch.situation, cells[0], allowed, cells[1], delay)
    notes = (
        f"Looked at after every score, up to {LOOKS:,} unless said otherwise, limit 0.8; a way"
        " without an allowed rate promises none: it is what dashboards do.",
        "Fall: a score a minute against the day that ended an hour before, alarm at a probability"
        " of 5 % in 2,160 scores.",
    )
    record("Looking after every score", table, notes)
    return broken


def _median(first: np.ndarray[tuple[int], np.dtype[np.intp]]) -> float:
    """Of the scores it took; no alarm is longer than any."""
    return float(np.median(np.where(first > 0, first, np.iinfo(np.intp).max)))


if __name__ == "__main__":
    main()
