"""What a rule on a mean measures: its limit, the estimate in the metric's unit, and the words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vedette.alerts.grammar import format_window
from vedette.alerts.messages import finite, moment
from vedette.alerts.rules import Rule
from vedette.alerts.traffic import WindowRow
from vedette.quality.moments import Moments, moments
from vedette.quality.proportion import proportion

BASELINE_WINDOWS = 7  # that a fall is told from
_LATENCY_SHARE = 0.95  # of traces that must be as fast
_EXAMPLES = 5


def sums(rows: Sequence[WindowRow]) -> Moments:
    """Of a window's scores, by session."""
    return moments(
        [row.value for row in rows],
        [row.weight for row in rows],
        np.array([row.session for row in rows], dtype=object) if rows else None,
    )


class Measure:
    """How a rule's metric is measured. Scores are shares, 0..1, of which 1 is fine."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._kind = rule.condition.kind
        self.fall = rule.condition.number / (rule.highest - rule.lowest)  # of a drift, as a share

    def limit(self, baseline: float | None) -> float | None:
        """The mean that must be held, as a share; None if there is none yet.

        Args:
            baseline: of a drift: the limit that was estimated.
        """
        condition, rule = self._rule.condition, self._rule
        match self._kind:
            case "drift":
                limit = baseline
            case "error_rate":
                limit = 1 - condition.number
            case "latency_p95":
                limit = _LATENCY_SHARE
            case _:
                limit = (condition.number - rule.lowest) / (rule.highest - rule.lowest)
        return limit if limit is not None and 0 < limit < 1 else None

    def told_limit(self, baseline: float | None) -> float | None:
        """The same in the metric's unit."""
        rule = self._rule
        match self._kind:
            case "drift":
                extent = rule.highest - rule.lowest
                return None if baseline is None else rule.lowest + baseline * extent
            case "latency_p95":
                return round(1 - _LATENCY_SHARE, 9)
            case _:
                return rule.condition.number

    def beyond(self, estimate: float, baseline: float | None) -> float:
        """By how much an estimate is beyond the limit, in the metric's unit."""
        limit = self.told_limit(baseline) or 0.0
        above = self._kind in ("error_rate", "latency_p95")
        return estimate - limit if above else limit - estimate

    def evidence(self, rows: Sequence[WindowRow]) -> dict[str, Any]:
        """The estimate with its interval, in the metric's unit, and traces to read."""
        rule = self._rule
        found = proportion(sums(rows))
        extent = rule.highest - rule.lowest
        value, low, high = (rule.lowest + extent * float(one) for one in found)
        unit = None
        if self._kind in ("error_rate", "latency_p95"):
            value, low, high = 1 - value, 1 - high, 1 - low
            unit = "of traces failed" if self._kind == "error_rate" else "of traces were slower"
        worst = sorted(range(len(rows)), key=lambda at: (rows[at].value, at))[:_EXAMPLES]
        top = max((row.value for row in rows), default=0.0)
        return {
            "estimate": finite(value),
            "low": finite(low),
            "high": finite(high),
            "unit": unit,
            "units": len(rows),
            "examples": [rows[at].trace_id for at in worst if rows[at].value < top or top < 1],
        }

    def why(self, evidence: Mapping[str, Any], now_ms: int, *, sure: bool, beyond: float) -> str:
        """One line for people; ``evidence`` as above, with ``since_ms`` and ``limit``."""
        condition = self._rule.condition
        window = format_window(condition.window_seconds)
        if evidence["estimate"] is None:
            return f"nothing to judge in the last {window}"
        if evidence["limit"] is None:
            return f"the {BASELINE_WINDOWS} windows before say too little to tell a fall from"
        value, low, high = (evidence[name] for name in ("estimate", "low", "high"))
        when = f"in the last {window}"
        if evidence["since_ms"] > now_ms - condition.window_seconds * 1000:
            when = f"since {moment(evidence['since_ms'])}"
        told = f"{value:.3g} (between {low:.3g} and {high:.3g}) {when}"
        match self._kind:
            case "error_rate":
                text = f"{told} of traces failed; {condition.number:g} may"
            case "latency_p95":
                text = f"{told} of traces took longer than {condition.number:g} s; 0.05 may"
            case "drift":
                text = (
                    f"{condition.scorer} is {told}; {condition.number:g} below what the"
                    f" {BASELINE_WINDOWS} windows before were at least is {evidence['limit']:.3g}"
                )
            case _:
                text = f"{condition.scorer} is {told}; it must be at least {condition.number:g}"
        if sure and 0 < beyond < self._rule.minimum_effect:
            text += f"; less than the minimum effect, {self._rule.minimum_effect:g}, beyond it"
        return text
