"""Looks at rules that count: silence, volume, people's feedback, cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vedette.alerts.grammar import format_window
from vedette.alerts.messages import finite, moment
from vedette.alerts.rules import Rule
from vedette.alerts.sequential import ALPHA, PERIOD_SECONDS
from vedette.alerts.states import Finding
from vedette.alerts.traffic import Traffic
from vedette.quality.mean import mean
from vedette.quality.moments import moments
from vedette.quality.unusual import prediction

_DAY_MS = 86_400_000
_MOST_PAST, _FEWEST_PAST = 14, 7  # windows that a count is compared with
_SAMPLES = 60  # of what was spent, in a window
_EXAMPLES = 5


def look(
    rule: Rule, traffic: Traffic, memory: Mapping[str, Any] | None, *, now_ms: int, firing: bool
) -> Finding:
    """Count.

    Args:
        memory: of the last look; None: the rule is new.
        now_ms: what arrived until then is in the read model.
        firing: the rule's state.
    """
    known = {"since_ms": now_ms, **(memory or {})}
    match rule.condition.kind:
        case "liveness":
            return _liveness(rule, traffic, known, now_ms)
        case "negative_feedback":
            return _negative_feedback(rule, traffic, known, now_ms)
        case "judge_cost":
            return _judge_cost(rule, traffic, known, now_ms)
        case "volume":
            return _once_a_window(rule, known, now_ms, firing, traffic, _volume)
        case _:
            return _once_a_window(rule, known, now_ms, firing, traffic, _divergence)


def _liveness(rule: Rule, traffic: Traffic, memory: dict[str, Any], now_ms: int) -> Finding:
    window = rule.condition.window_seconds
    told = format_window(window)
    first = traffic.first_trace_since(now_ms - window * 1000)
    alive = traffic.any_arrived(rule.experiment_id, first)
    # A rule that has just been added must not blame silence that it wasn't there to hear
    watched = now_ms - memory["since_ms"] >= window * 1000
    if alive:
        why = f"traces arrived in the last {told}"
    elif watched:
        why = f"no trace has arrived for {told}"
    else:
        why = f"no trace has arrived since {moment(memory['since_ms'])}; watching for {told}"
    return Finding(
        met=not alive and watched,
        cleared=alive,
        leaning=False,
        has_data=alive or watched,
        complete=True,
        why=why,
        evidence={"units": int(alive)},
        memory=memory,
    )


def _negative_feedback(
    rule: Rule, traffic: Traffic, memory: dict[str, Any], now_ms: int
) -> Finding:
    condition = rule.condition
    given = traffic.feedback(rule.experiment_id, now_ms - condition.window_seconds * 1000, now_ms)
    negative = [trace_id for trace_id, _, positive in given if not positive]
    most = condition.number + rule.minimum_effect
    return Finding(
        met=len(negative) >= most,
        cleared=len(negative) < condition.number,
        leaning=False,
        has_data=bool(given),
        complete=True,
        why=f"{len(negative)} of {len(given)} users' feedbacks in the last"
        f" {format_window(condition.window_seconds)} are negative; fewer than"
        f" {condition.number:g} may be",
        evidence={
            "estimate": len(negative),
            "units": len(given),
            "unit": "negative feedbacks",
            "examples": list(dict.fromkeys(negative))[-_EXAMPLES:],
        },
        memory=memory,
    )


def _judge_cost(rule: Rule, traffic: Traffic, memory: dict[str, Any], now_ms: int) -> Finding:
    condition = rule.condition
    window_ms = condition.window_seconds * 1000
    total = traffic.cost(rule.experiment_id)
    samples = [(at, spent) for at, spent in memory.get("samples", ()) if spent <= total + 1e-9]
    if not samples or now_ms - samples[-1][0] >= window_ms / _SAMPLES:
        samples.append((now_ms, total))
    older = [sample for sample in samples if sample[0] <= now_ms - window_ms]
    samples = older[-1:] + samples[len(older) :]
    began, before = samples[0]
    spent = max(0.0, total - before)
    return Finding(
        met=spent > condition.number + rule.minimum_effect,
        cleared=spent <= condition.number,
        leaning=False,
        has_data=True,
        complete=True,
        why=f"judges cost ${spent:.2f} since {moment(began)}; ${condition.number:g} in"
        f" {format_window(condition.window_seconds)} are allowed",
        evidence={"estimate": round(spent, 6), "unit": "USD"},
        memory={**memory, "samples": samples},
    )


def _once_a_window(
    rule: Rule,
    memory: dict[str, Any],
    now_ms: int,
    firing: bool,
    traffic: Traffic,
    judge: Any,
) -> Finding:
    """Judge a window when it is over, so that it is known how often one looks: with ALPHA divided
    by the number of windows in 30 days there is one false alarm in them with probability ALPHA."""
    window_ms = rule.condition.window_seconds * 1000
    end = now_ms - now_ms % window_ms
    if memory.get("end_ms") != end:
        level = 1 - ALPHA * min(1.0, window_ms / (PERIOD_SECONDS * 1000))
        memory = {**memory, "end_ms": end, "found": judge(rule, traffic, end, level)}
    found = memory["found"]
    return Finding(
        met=found["met"],
        cleared=not found["met"],
        leaning=False,
        has_data=found["has_data"],
        complete=True,
        why=found["why"],
        evidence=found["evidence"],
        memory=memory,
    )


def _volume(rule: Rule, traffic: Traffic, end_ms: int, level: float) -> dict[str, Any]:
    window = rule.condition.window_seconds
    window_ms = window * 1000
    step = max(_DAY_MS, window_ms)  # the same time of other days
    began = traffic.first_arrival(rule.experiment_id)

    def count(end: int) -> int:
        first, last = traffic.first_trace_since(end - window_ms), traffic.first_trace_since(end)
        return traffic.arrived(rule.experiment_id, first, last)

    ends = [end_ms - step * back for back in range(1, _MOST_PAST + 1)]
    past = [count(end) for end in ends if began is not None and began <= end - window_ms]
    arrived, told = count(end_ms), format_window(window)
    evidence: dict[str, Any] = {"estimate": arrived, "unit": "traces", "units": len(past)}
    if len(past) < _FEWEST_PAST:
        why = f"{len(past)} of {_FEWEST_PAST} windows are known that {told} can be compared with"
        return {"met": False, "has_data": False, "why": why, "evidence": evidence}
    usual = prediction(past, level)
    low, high = float(usual.low), float(usual.high)
    by = max(low - arrived, arrived - high)
    why = (
        f"{arrived:,} traces in the {told} until {moment(end_ms)}; by the same time of"
        f" {len(past)} days before, {low:,.0f} to {high:,.0f} are usual"
    )
    met = by > 0 and by >= rule.minimum_effect
    return {"met": met, "has_data": True, "why": why, "evidence": evidence}


def _divergence(rule: Rule, traffic: Traffic, end_ms: int, level: float) -> dict[str, Any]:
    condition = rule.condition
    told = format_window(condition.window_seconds)
    given = traffic.feedback(rule.experiment_id, end_ms - condition.window_seconds * 1000, end_ms)
    judged = traffic.judged(rule.experiment_id, [trace_id for trace_id, _, _ in given])
    pairs = [
        (trace_id, session or trace_id, positive - judged[trace_id][0], judged[trace_id][1])
        for trace_id, session, positive in given
        if trace_id in judged
    ]
    if not pairs:
        why = f"no trace has both users' feedback and a score in the {told} until {moment(end_ms)}"
        return {"met": False, "has_data": False, "why": why, "evidence": {"units": 0}}
    ids, sessions, differences, weights = zip(*pairs, strict=True)
    sums = moments(differences, weights, np.array(sessions, dtype=object))
    found = mean(sums, level, bounds=(-1.0, 1.0))
    value, low, high = map(float, found)
    least = condition.number + rule.minimum_effect
    worst = sorted(range(len(pairs)), key=lambda at: -abs(differences[at]))[:_EXAMPLES]
    why = (
        f"users are {value:+.3g} (between {low:+.3g} and {high:+.3g}) from the judges on"
        f" {len(pairs)} traces of the {told} until {moment(end_ms)}; {condition.number:g} may be"
    )
    evidence = {
        "estimate": finite(value),
        "low": finite(low),
        "high": finite(high),
        "unit": "users less judges",
        "units": len(pairs),
        "examples": [ids[at] for at in worst],
    }
    met = high < -condition.number or low > condition.number
    return {
        "met": met and abs(value) >= least,
        "has_data": True,
        "why": why,
        "evidence": evidence,
    }
