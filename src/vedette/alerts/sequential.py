"""Looks at rules on means: scores, errors, latency; as often as one likes, see `quality.onset`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vedette.alerts.means import BASELINE_WINDOWS, Measure, sums
from vedette.alerts.messages import finite
from vedette.alerts.rules import Rule
from vedette.alerts.scores import OutsideBounds, Scorer
from vedette.alerts.states import Finding
from vedette.alerts.traffic import Traffic, Unit
from vedette.quality.mean import mean
from vedette.quality.onset import Wealth, advance, begin

ALPHA = 0.05
_ALARM = math.log(1 / ALPHA)
_LEANING = math.log(5)
PERIOD_SECONDS = 30 * 86_400  # in which there is one false alarm with probability ALPHA at most
_PLACES, _TURNS = 5_000, 10  # read at a time, and so many times in a look
_LATE_SECONDS = 120.0  # a scorer that has not decided what was complete so long ago lags
_WAITING_SHARE = 0.1  # of a window's selected units; more without a score, and it isn't complete
_LONGEST_SESSION = 20  # traces of a session that count
_BASELINE_LEVEL = 0.999
_REFRESHES = 96  # of estimate and baseline, in a window
_ANY = 0.5  # a limit for evidence that has none: nothing was bet


@dataclass(frozen=True, slots=True)
class _Memory:
    """What a look leaves for the next.

    Attributes:
        place, arrival: units up to there were taken in; the arrival holds in any read model.
        begun_ms: of the period.
        down, up: evidence that the mean is below the limit, and above it.
        floor, onset_ms: the lowest that the evidence has been, and when: since then it has grown,
            so about then it began.
        session: mean number of traces of a session of late.
        limit, limit_ms: of a drift, and when it was estimated.
        evidence, evidence_ms: the estimate, and when it was made.
        fired: the log of the e-value at which it fired, while it does.
    """

    identity: int
    place: int
    arrival: int
    begun_ms: int
    down: Wealth
    up: Wealth
    onset_ms: int
    floor: float = 0.0
    session: float = 1.0
    limit: float | None = None
    limit_ms: int = 0
    evidence: Mapping[str, Any] | None = None
    evidence_ms: int = 0
    fired: float | None = None


def look(
    rule: Rule,
    traffic: Traffic,
    memory: Mapping[str, Any] | None,
    *,
    now_ms: int,
    firing: bool,
    anew: bool,
) -> Finding:
    """Take in what became complete since the last look.

    Args:
        memory: of the last look; None: begin one window ago.
        now_ms: what arrived until then is in the read model.
        firing: the rule's state.
        anew: it has just begun or ceased to fire: so does the evidence.
    """
    return _Look(rule, traffic, now_ms, firing).run(memory, anew)


class _Look:
    def __init__(self, rule: Rule, traffic: Traffic, now_ms: int, firing: bool) -> None:
        self._rule = rule
        self._traffic = traffic
        self._now = now_ms
        self._firing = firing
        self._window_ms = rule.condition.window_seconds * 1000
        self._drift = rule.condition.kind == "drift"
        self._measure = Measure(rule)

    def run(self, stored: Mapping[str, Any] | None, anew: bool) -> Finding:
        rule = self._rule
        scorer = None
        memory = self._begin() if stored is None else self._taken_up(stored)
        if anew or self._now - memory.begun_ms > PERIOD_SECONDS * 1000:
            if anew:
                fired = self._log_e(memory) if self._firing else None
                memory = replace(memory, fired=fired)
            memory = replace(memory, begun_ms=self._now, floor=0.0, **self._fresh())
            if not self._firing:
                memory = replace(memory, onset_ms=self._now)
        if rule.condition.scorer is not None:
            scorer = self._traffic.scorer(rule)
            if scorer is None:
                why = f"the scorer {rule.condition.scorer} is not started"
                return _unknown(why, memory, has_data=False)
        newest = self._traffic.newest_place()
        decided = newest if scorer is None else min(newest, scorer.cursor)
        try:
            memory = self._with_limit(memory, scorer)
            for _ in range(_TURNS):
                memory = self._advance(memory, scorer, decided)
            memory = self._estimated(memory, scorer, decided)
        except OutsideBounds as error:
            return _unknown(str(error), memory, has_data=False)
        late = self._late(memory, scorer, decided, newest)
        if late is None and memory.place < decided:
            late = f"{decided - memory.place:,} units are yet to be looked at"
        return self._judged(memory, late)

    def _begin(self) -> _Memory:
        begun = self._now - self._window_ms
        return _Memory(
            identity=self._traffic.identity(),
            place=self._traffic.place_before(begun),
            arrival=0,
            begun_ms=begun,
            onset_ms=begun,
            **self._fresh(),
        )

    def _fresh(self) -> dict[str, Any]:
        wealth = begin(alike=not self._drift)
        return {"down": wealth, "up": wealth}

    def _taken_up(self, stored: Mapping[str, Any]) -> _Memory:
        memory = _Memory(**{**stored, "down": _wealth(stored["down"]), "up": _wealth(stored["up"])})
        identity = self._traffic.identity()
        if identity != memory.identity:
            place = self._traffic.place_of_arrival(memory.arrival)
            memory = replace(memory, identity=identity, place=place)
        return memory

    def _advance(self, memory: _Memory, scorer: Scorer | None, decided: int) -> _Memory:
        until = min(memory.place + _PLACES, decided)
        if until <= memory.place:
            return memory
        units = self._traffic.units(self._rule, scorer, memory.place, until)
        arrival = self._traffic.arrival_of_place(until) or memory.arrival
        memory = replace(memory, place=until, arrival=arrival)
        if not units:
            return memory
        cap = _session_cap(memory.session)
        values, weights, largest = _cut(units, cap)
        elapsed = [(unit.at_ms - memory.begun_ms) / (PERIOD_SECONDS * 1000) for unit in units]
        limit = self._measure.limit(memory.limit)
        down, up = memory.down, memory.up
        if limit is not None:
            down = advance(down, values, weights, np.maximum(elapsed, 0), limit, largest)
            up = advance(up, 1 - values, weights, np.maximum(elapsed, 0), 1 - limit, largest)
        mean_size = memory.session
        for unit in units:
            mean_size += (len(unit.scores) - mean_size) / 50
        evidence = memory.evidence
        if evidence is not None and evidence["estimate"] is None:
            evidence = None  # now there is something to judge
        memory = replace(memory, down=down, up=up, session=mean_size, evidence=evidence)
        if not self._firing and (log_e := self._log_e(memory)) <= memory.floor:
            memory = replace(memory, floor=log_e, onset_ms=units[-1].at_ms)
        return memory

    def _with_limit(self, memory: _Memory, scorer: Scorer | None) -> _Memory:
        """For a drift: the baseline's lower bound, less the fall, known before the scores."""
        due = self._now - memory.limit_ms >= self._window_ms / _REFRESHES
        if not self._drift or not due or (self._firing and memory.limit is not None):
            return memory  # while it fires the baseline stays: the fall must not become it
        end = self._now - self._window_ms
        since, until = end - BASELINE_WINDOWS * self._window_ms, self._traffic.place_before(end)
        rows = self._traffic.window(self._rule, scorer, since, until)
        low = float(mean(sums(rows), _BASELINE_LEVEL, bounds=(0.0, 1.0)).low) if rows else 0.0
        limit = low - self._measure.fall if low > self._measure.fall else None
        return replace(memory, limit=limit, limit_ms=self._now)

    def _estimated(self, memory: _Memory, scorer: Scorer | None, decided: int) -> _Memory:
        """With the estimate, if the last is old or is about to be told: of the window, or of what
        is in it since the fall began."""
        leaning = self._log_e(memory) >= _LEANING
        recent = self._now - memory.evidence_ms < min(self._window_ms / _REFRESHES, 900_000)
        if memory.evidence is not None and recent and not leaning and not self._firing:
            return memory
        since = self._now - self._window_ms
        if leaning or self._firing:
            since = max(since, memory.onset_ms)
        rows = self._traffic.window(self._rule, scorer, since + 1, decided)
        evidence = {**self._measure.evidence(rows), "since_ms": since}
        return replace(memory, evidence=evidence, evidence_ms=self._now)

    def _log_e(self, memory: _Memory) -> float:
        """Evidence that the mean is below the limit."""
        limit = self._measure.limit(memory.limit)
        return memory.down.log_e(_ANY if limit is None else limit)

    def _late(
        self, memory: _Memory, scorer: Scorer | None, decided: int, newest: int
    ) -> str | None:
        """Why not all is there that should be; None if it is."""
        if scorer is None:
            return None
        if decided < newest:
            oldest = self._traffic.oldest_after(decided)
            if oldest is not None and (lag := (self._now - oldest) / 1000) > _LATE_SECONDS:
                return f"the scorer is {lag:.0f} s behind"
        waiting = self._traffic.retrying(self._rule, self._now - self._window_ms)
        scored = (memory.evidence or {}).get("units", 0)
        if waiting > _WAITING_SHARE * (waiting + scored):
            return f"{waiting:,} units of the window wait to be scored again"
        return None

    def _judged(self, memory: _Memory, late: str | None) -> Finding:
        limit = self._measure.limit(memory.limit)
        down = self._log_e(memory)
        up = memory.up.log_e(_ANY if limit is None else 1 - limit)
        told = down if memory.fired is None else memory.fired
        evidence = {**(memory.evidence or {}), "e_value": finite(math.exp(min(told, 690.0)))}
        estimate = evidence.get("estimate")
        known = not self._drift or memory.limit is not None
        beyond = -math.inf
        if estimate is not None and known:
            beyond = self._measure.beyond(estimate, memory.limit)
        sure = down >= _ALARM
        evidence["limit"] = self._measure.told_limit(memory.limit)
        why = self._measure.why(evidence, self._now, sure=sure, beyond=beyond)
        return Finding(
            met=known and sure and beyond > 0 and beyond >= self._rule.minimum_effect,
            cleared=up >= _ALARM or beyond <= 0,
            leaning=known and down >= _LEANING,
            has_data=estimate is not None and known,
            complete=late is None,
            why=why if late is None or sure else late,
            evidence=evidence,
            memory=_stored(memory),
        )


def _session_cap(session: float) -> int:
    """How many traces of a session count: known from earlier sessions, so that a bet is bounded
    without being small where sessions are short."""
    return max(1, min(_LONGEST_SESSION, math.ceil(1.5 * session - 0.5 - 1e-9)))


def _cut(units: Sequence[Unit], cap: int) -> tuple[Any, Any, Any]:
    """(values, weights, largest weights) of units, of whose scores the first ``cap`` count."""
    values, weights = [], []
    for unit in units:
        scores = unit.scores[:cap]
        weight = sum(one for _, one in scores)
        weights.append(weight)
        values.append(sum(value * one for value, one in scores) / weight)
    largest = np.array([unit.largest for unit in units]) * cap
    return np.clip(values, 0.0, 1.0), np.array(weights), largest


def _unknown(why: str, memory: _Memory, *, has_data: bool) -> Finding:
    return Finding(False, False, False, has_data, True, why, memory=_stored(memory))


def _wealth(stored: Sequence[Any]) -> Wealth:
    passed, counted, alike, bets, spent = stored
    return Wealth(passed, counted, alike, tuple(bets), spent)


def _stored(memory: _Memory) -> dict[str, Any]:
    return {**asdict(memory), "down": list(memory.down), "up": list(memory.up)}
