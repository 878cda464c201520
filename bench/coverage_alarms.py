"""What looking after every score does: false alarms at the limit, and how soon a fall is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vedette.quality.beta_binomial import evidence_below
from vedette.quality.change import fall
from vedette.quality.discoveries import discoveries
from vedette.quality.estimate import FloatArray
from vedette.quality.off_policy import weighted_evidence_below
from vedette.quality.wilson import wilson

ALPHA = 0.05
LIMIT = 0.8
LOOKS = 1000
_ALARM = np.log(1 / ALPHA)


@dataclass(frozen=True)
class Watch:
    """A way to watch scores, in a situation.

    Attributes:
        name: of the way.
        situation: for people.
        alarms: gives, for as many runs as it is asked for, how many scores it took to raise an
            alarm; 0 if none was raised.
        is_false: whether an alarm is a false one here.
        allowed: the probability of a false alarm that is promised; None if none is.
    """

    name: str
    situation: str
    alarms: Callable[[np.random.Generator, int], NDArray[np.intp]]
    is_false: bool
    allowed: float | None


def _scores(rng: np.random.Generator, runs: int, rate: float, looks: int = LOOKS) -> FloatArray:
    return (rng.random((runs, looks)) < rate).astype(np.float64)


def _first(alarmed: NDArray[np.bool_]) -> NDArray[np.intp]:
    """(runs, n) -> (runs,): at which score the first alarm was, from 1 on; 0 for none."""
    return np.where(alarmed.any(-1), alarmed.argmax(-1) + 1, 0)


def _wilson(fewest: int) -> Callable[[np.random.Generator, int], NDArray[np.intp]]:
    """The 95 % interval of fixed size lies below the limit; looked at from some score on."""

    def alarms(rng: np.random.Generator, runs: int) -> NDArray[np.intp]:
        counted = np.arange(1, LOOKS + 1)
        rates = np.cumsum(_scores(rng, runs, LIMIT), axis=1) / counted
        below = wilson(np.minimum(rates, 1), counted).high < LIMIT
        return _first(below & (counted >= fewest))

    return alarms


def _evidence(rate: float, limit: float = LIMIT) -> Callable[..., NDArray[np.intp]]:
    def alarms(rng: np.random.Generator, runs: int) -> NDArray[np.intp]:
        passed = np.cumsum(_scores(rng, runs, rate), axis=1)
        return _first(evidence_below(passed, np.arange(1, LOOKS + 1), limit) >= _ALARM)

    return alarms


def _alike_sessions(rng: np.random.Generator, runs: int) -> NDArray[np.intp]:
    """Sessions of 5 with intra-class correlation 0.3, as units with their mean."""
    own = rng.beta(LIMIT * 7 / 3, (1 - LIMIT) * 7 / 3, (runs, LOOKS // 5))
    passed = np.cumsum(rng.binomial(5, own) / 5, axis=1)
    return _first(evidence_below(passed, np.arange(1, LOOKS // 5 + 1), LIMIT) >= _ALARM)


def _weighted(rate: float) -> Callable[..., NDArray[np.intp]]:
    """Rate 0.05 for 6,000 traces, then 0.5 for 2,000; a stratum in which failures are four times
    as frequent has twice the rate, so the plain mean of what is scored is too low."""

    def alarms(rng: np.random.Generator, runs: int) -> NDArray[np.intp]:
        def one() -> int:
            values = (rng.random(LOOKS * 8) < rate).astype(np.float64)
            probability = np.where(np.arange(values.size) < 6000, 0.05, 0.5)
            oversampled = rng.random(values.size) < np.where(values == 1, 0.1, 0.4)
            chances = np.where(oversampled, 2 * probability, probability)
            at = rng.random(values.size) < chances
            evidence = weighted_evidence_below(
                values[at], 1 / chances[at], LIMIT, 1 / probability[at]
            )
            return int(_first(evidence >= _ALARM))

        return np.array([one() for _ in range(runs)])

    return alarms


def _fall(before: float, after: float | None) -> Callable[..., NDArray[np.intp]]:
    """A score a minute for a day and a half, against the day that ended an hour ago."""

    def alarms(rng: np.random.Generator, runs: int) -> NDArray[np.intp]:
        def one() -> int:
            values = _scores(rng, 1, before, 2160)[0]
            if after is not None:
                values[1800:] = rng.random(360) < after
            times = np.arange(values.size) * 60.0
            evidence = fall(values, np.ones_like(values), times, window=86_400, lag=3600)
            alarmed = evidence.log_e >= np.log(values.size / ALPHA)
            return int(_first(alarmed[1800:] if after is not None else alarmed))

        return np.array([one() for _ in range(runs)])

    return alarms


def _false_discoveries(rng: np.random.Generator, runs: int) -> NDArray[np.intp]:
    """20 scorers, 5 of which fell: 1 where a false one is among those reported."""

    def one() -> bool:
        rates = np.where(np.arange(20) < 5, 0.6, LIMIT)
        passed = rng.binomial(300, rates)
        found = discoveries(evidence_below(passed, 300, LIMIT), ALPHA)
        return bool(rng.random() < found[5:].sum() / max(found.sum(), 1))

    return np.array([one() for _ in range(runs)]).astype(np.intp)


WATCHES = [
    Watch("Wilson 95 %", "0.8, 1,000 scores, from the first on", _wilson(1), True, None),
    Watch("Wilson 95 %", "0.8, 1,000 scores, from the 30th on", _wilson(30), True, None),
    Watch("beta-binomial", "0.8, 1,000 scores, from the first on", _evidence(LIMIT), True, ALPHA),
    Watch("beta-binomial", "0.8, 200 sessions of 5, alike 0.3", _alike_sessions, True, ALPHA),
    Watch("importance-weighted", "0.8, rate 0.05, then 0.5", _weighted(LIMIT), True, ALPHA),
    Watch("fall", "0.9, 2,160 scores", _fall(0.9, None), True, ALPHA),
    Watch("e-BH, false share", "15 of 20 scorers at 0.8", _false_discoveries, True, ALPHA),
    Watch("beta-binomial", "rate 0.7, limit 0.8", _evidence(0.7), False, None),
    Watch("beta-binomial", "rate 0.8, limit 0.9", _evidence(0.8, 0.9), False, None),
    Watch("beta-binomial", "rate 0.85, limit 0.95", _evidence(0.85, 0.95), False, None),
    Watch("importance-weighted", "rate 0.7, limit 0.8", _weighted(0.7), False, None),
    Watch("fall", "from 0.9 to 0.8 after 1,800 scores", _fall(0.9, 0.8), False, None),
    Watch("fall", "from 0.9 to 0.6 after 1,800 scores", _fall(0.9, 0.6), False, None),
]
