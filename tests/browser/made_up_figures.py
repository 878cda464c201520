"""Figures of an agent that got worse this afternoon, for the monitor's pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vedette.monitor.figures.overview import Coverage, Overview, ScorerFigures
from vedette.monitor.figures.period import Period
from vedette.monitor.figures.scorer import Change, Judging, LowScore, ScorerDetail
from vedette.monitor.figures.scores import Score
from vedette.monitor.figures.traffic import Traffic
from vedette.monitor.figures.verdicts import NUMBER, POINTS, Verdict, verdict
from vedette.quality.difference import difference
from vedette.quality.estimate import Estimate
from vedette.quality.wilson import wilson

FIRING = [
    {
        "name": "answers_the_question_drift_neg_0_05_6h",
        "state": "firing",
        "why": "the mean fell by 0.062 against the 6 hours before, between 0.031 and 0.093",
        "since_ms": 1_790_000_000_000,
    }
]


def estimate(value: float, reach: float) -> Estimate:
    return Estimate(*(np.asarray(one) for one in (value, value - reach, value + reach)))


def share(value: float, size: int) -> Estimate:
    return wilson(value, size)


def traffic(traces: int, errors: int, slower: float) -> Traffic:
    return Traffic(
        traces=traces,
        sessions=traces // 4,
        errors=errors,
        error_rate=share(errors / traces if traces else math.nan, traces),
        independent=0.8,
        latency={
            50: estimate(820.0 * slower, 14.0),
            95: estimate(2900.0 * slower, 110.0),
            99: estimate(7400.0 * slower, 690.0),
        },
        tokens={"input": 812 * traces, "output": 140 * traces, "total": 952 * traces},
        cost_usd=0.0021 * traces,
        priced=traces,
        timed=traces,
    )


def series(period: Period) -> list[dict[str, Any]]:
    buckets = period.buckets(period.choice.traffic_ms)
    found = []
    for place, at in enumerate(buckets):
        day = 0.6 - 0.4 * math.cos(2 * math.pi * at / 86_400_000)
        traces = round(430 * day + 37 * (place * 7919 % 11) / 11)
        if place in (30, 31):
            traces = 0
        errors = traces * (6 if place > 70 else 2) // 100
        rate = wilson(errors / traces if traces else math.nan, 0.8 * traces)
        p50 = 780 + 90 * math.sin(place / 5) if traces else None
        found.append(
            {
                "at_ms": at,
                "traces": traces,
                "errors": errors,
                "error_rate": errors / traces if traces else None,
                "error_rate_low": float(rate.low),
                "error_rate_high": float(rate.high),
                "p50_ms": p50,
                "p95_ms": p50 and 3.6 * p50,
                "p99_ms": p50 and 9.1 * p50 + 300 * math.sin(place),
                "input_tokens": 812 * traces,
                "output_tokens": 140 * traces,
                "cost_usd": 0.0021 * traces,
            }
        )
    return found


def score(scorer: str, now: Estimate, before: Estimate, **changes: Any) -> Score:
    kind = changes.get("kind", "boolean")
    moved = difference(now, before)
    made = {
        "scorer": scorer,
        "name": scorer,
        "kind": kind,
        "label": None,
        "units": 4_123,
        "lowest": 0.0,
        "highest": 1.0,
        "others": 0,
        "estimate": now,
        "units_before": 4_020,
        "before": before,
        "verdict": verdict(moved, NUMBER if kind == "number" else POINTS, 4_123, 4_020),
        "level": 0.9875,
        "versions": [3],
        "versions_before": [3],
    }
    return Score(**(made | changes))


SCORES = {
    "answers_the_question": [
        score("answers_the_question", share(0.871, 1300), share(0.932, 1250), versions=[2, 3])
    ],
    "deleted_one": [],
    "just_started": [
        score(
            "just_started",
            share(6 / 7, 7),
            share(math.nan, 0),
            units=7,
            units_before=0,
            verdict=Verdict("unknown", "too few scores yet: 7"),
            versions_before=[],
        )
    ],
    "safety": [
        score("safety", share(0.993, 2000), share(0.994, 2100)),
        score(
            "safety",
            estimate(4.31, 0.08),
            estimate(4.02, 0.09),
            name="severity",
            kind="number",
            lowest=1.0,
            highest=5.0,
        ),
    ],
    "stopped_one": [
        score("stopped_one", share(0.41, 900), share(0.40, 800), kind="label", label="refund")
    ],
}


def overview(experiment_id: str, period: Period, rows: Sequence[Mapping[str, Any]]) -> Overview:
    some = bool(rows)
    seen = 41_233 if some else 0
    return Overview(
        experiment_id=experiment_id,
        period=period,
        traffic=traffic(seen, 1_412, 1.06) if some else traffic(0, 0, 1.0),
        before=traffic(36_817, 811, 1.0) if some else traffic(0, 0, 1.0),
        series=series(period) if some else [],
        scorers=[
            ScorerFigures(
                row,
                SCORES.get(row["scorer"], []),
                Coverage("trace", 4_123 if row["active"] else 0, seen, 12),
            )
            for row in rows
        ],
    )


def scorer_detail(experiment_id: str, period: Period, name: str) -> ScorerDetail:
    """A scorer that got another version and rate in the afternoon."""
    found = SCORES.get(name, [])
    turn = period.since_ms + 2 * period.choice.length_ms // 3
    return ScorerDetail(
        experiment_id=experiment_id,
        period=period,
        scorer=name,
        scores=found,
        series={one.name: scores_over_time(one, period, turn) for one in found},
        spread={one.name: spread(one) for one in found},
        lowest={one.name: LOWEST if one.kind != "label" else [] for one in found},
        changes=[Change(turn, "version 3, rate 0.5", "version 2 -> 3, rate 0.1 -> 0.5")],
        judging=Judging(
            {"scored": 4_123, "not_selected": 36_900, "failed": 41, "retrying": 12},
            share(41 / 4164, 4164),
            {50: estimate(812.0, 12.0), 95: estimate(2_410.0, 160.0)},
        ),
    )


def scores_over_time(one: Score, period: Period, turn: int) -> list[dict[str, Any]]:
    points = []
    for place, at in enumerate(period.buckets(period.choice.score_ms)):
        if place in (6, 7):
            continue
        late = at >= turn
        if one.kind == "number":
            of = estimate(4.3 - 0.3 * late + 0.1 * math.sin(place), 0.3)
        else:
            of = share(0.93 - 0.09 * late + 0.02 * math.sin(place), 170)
        value, low, high = map(float, of)
        points.append(
            {
                "at_ms": at,
                "version": 3 if late else 2,
                "scores": 170,
                "value": value,
                "low": low,
                "high": high,
            }
        )
    return points


def spread(one: Score) -> dict[str, Estimate]:
    if one.kind == "number":
        parts = (0.02, 0.05, 0.11, 0.32, 0.5)
        return {str(place + 1): share(part, 900) for place, part in enumerate(parts)}
    words = ("refund", "order", "other") if one.kind == "label" else ("pass", "fail")
    rest = 1 - float(one.estimate.value)
    parts = (1 - rest, 2 * rest / 3, rest / 3) if one.kind == "label" else (1 - rest, rest)
    return {word: share(part, 900) for word, part in zip(words, parts, strict=True)}


LOWEST = [
    LowScore(
        "tr-1",
        1_790_000_000_000 - 60_000 * number,
        "How long does <b>delivery</b> to an island take, and what does it cost?",
        0.0,
        "The answer names the price, but not how long delivery takes." if number % 2 else "",
    )
    for number in range(6)
]
