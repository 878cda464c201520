"""Scores as alerts count them: shares of the way between the rule's bounds, with their weights."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vedette.alerts.rules import Rule

_YES = frozenset({"yes", "true", "pass", "passed", "positive", "up", "thumbs_up"})
_NO = frozenset({"no", "false", "fail", "failed", "negative", "down", "thumbs_down"})


@dataclass(frozen=True, slots=True)
class Scorer:
    """What the read model knows of a scorer.

    Attributes:
        cursor: every unit up to this place is decided.
        largest: by epoch, 1 / the smallest probability that a unit could have been drawn with.
        of_sessions: its units are sessions.
    """

    cursor: int
    largest: dict[int, float]
    of_sessions: bool


def as_number(value: Any) -> float | None:
    """A score as a number: True and "yes" are 1, False and "no" are 0; None for what is none."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        word = value.strip().lower()
        return 1.0 if word in _YES else 0.0 if word in _NO else None
    return None


class OutsideBounds(ValueError):
    """A score is not between the rule's bounds."""


def score_of(
    rule: Rule, row: Sequence[Any], scorer: Scorer | None
) -> tuple[float | None, float, float]:
    """(score, weight, largest weight) of a row: the score is in 0..1, None if there is none.

    Of a scorer the row ends with scores, probability, epoch, and the score is its share of the way
    between the rule's bounds; else it ends with status and milliseconds, and 1 is fine.
    """
    if scorer is None:
        *_, status, milliseconds = row
        if rule.condition.kind == "error_rate":
            return float(status != "ERROR"), 1.0, 1.0
        if milliseconds is None:
            return None, 1.0, 1.0
        return float(milliseconds <= rule.condition.number * 1000), 1.0, 1.0
    *_, scores, probability, epoch = row
    weight = 1 / probability
    largest = max(weight, scorer.largest.get(epoch, weight))
    answers = json.loads(scores)
    own = [one for one in answers if one["name"] == rule.condition.scorer] or answers
    value = as_number(own[0]["value"]) if len(own) == 1 else None
    if value is None:
        return None, weight, largest
    if not rule.lowest <= value <= rule.highest:
        raise OutsideBounds(
            f"a score is {value:g}, not between {rule.lowest:g} and {rule.highest:g}: set the"
            " rule's bounds, such as [1, 5]"
        )
    return (value - rule.lowest) / (rule.highest - rule.lowest), weight, largest
