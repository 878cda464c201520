"""Estimates as pages show them: a number with its interval, a bar of it, and how it moved."""

from __future__ import annotations

import math

from nicegui import ui

from vedette.monitor import words
from vedette.monitor.figures.scores import Score
from vedette.monitor.figures.sums import finite
from vedette.monitor.figures.verdicts import Verdict
from vedette.monitor.markup import tag
from vedette.quality.estimate import Estimate

# Icon and tone of a direction, by whether more is better; None: nobody knows
_MARKS: dict[tuple[str, bool | None], tuple[str, str]] = {
    ("up", True): ("trending_up", "good"),
    ("up", False): ("trending_up", "bad"),
    ("up", None): ("trending_up", "moved"),
    ("down", True): ("trending_down", "bad"),
    ("down", False): ("trending_down", "good"),
    ("down", None): ("trending_down", "moved"),
}
_STEADY = {"same": ("trending_flat", "idle"), "unknown": ("more_horiz", "idle")}


def in_percent(score: Score) -> bool:
    """Whether the score is told as a share of the traffic."""
    return score.kind != "number"


def told(estimate: Estimate, *, percent: bool, unit: str = "") -> tuple[str, str]:
    """The number and its interval, in words.

    Args:
        percent: it is a share of 1.
        unit: behind both, such as `` ms``; of shares it is the per cent sign.
    """
    value, low, high = scaled(estimate, percent=percent)
    unit = " %" if percent else unit
    if value is None:
        return "–", ""
    return f"{words.figure(value, low, high)}{unit}", words.interval(low, high, unit)


def scaled(estimate: Estimate, *, percent: bool) -> tuple[float | None, ...]:
    """Value and bounds as pages write them; None where there is none."""
    factor = 100.0 if percent else 1.0
    found = (finite(one) for one in estimate)
    return tuple(None if one is None else factor * one for one in found)


class VerdictMark:
    """A change: an arrow, and what the data can show of it."""

    def __init__(self) -> None:
        with tag("span", classes="verdict") as self._mark:
            self._icon = ui.icon("more_horiz")
            self._text = tag("span")

    def show(self, verdict: Verdict, *, more_is_better: bool | None) -> None:
        """Change it."""
        steady = _STEADY.get(verdict.direction)
        icon, tone = steady or _MARKS[verdict.direction, more_is_better]
        self._mark.classes(replace=f"verdict {tone}")  # visible, too
        self._icon.name = icon
        self._text.text = verdict.text

    def set_visibility(self, *, visible: bool) -> None:
        """Show it, or not."""
        self._mark.set_visibility(visible)


class IntervalBar:
    """An interval on a scale, with the estimate of the period before as an open mark."""

    def __init__(self) -> None:
        with tag("div", classes="interval", role="img") as self._bar:
            self._band = tag("div", classes="band")
            self._before = tag("div", classes="before")
            self._value = tag("div", classes="value")

    def set_visibility(self, *, visible: bool) -> None:
        """Show it, or not."""
        self._bar.set_visibility(visible)

    def show(self, score: Score, text: str) -> None:
        """Draw it.

        Args:
            text: what it says.
        """
        lowest, highest = (0.0, 1.0) if in_percent(score) else _scale(score)
        extent = highest - lowest

        def place(number: float) -> float:
            return min(max(100 * (number - lowest) / extent, 0.0), 100.0) if extent else 50.0

        self._bar.props["aria-label"] = text
        self._bar.props["title"] = text
        value, low, high = (finite(one) for one in score.estimate)
        before = finite(score.before.value)
        left = 0.0 if low is None else place(low)
        right = 100.0 if high is None else place(high)
        self._band.style(f"left: {left:.2f}%; width: {right - left:.2f}%")
        self._band.set_visibility(value is not None)
        for mark, at in ((self._value, value), (self._before, before)):
            mark.set_visibility(at is not None)
            if at is not None:
                mark.style(f"left: {place(at):.2f}%")


def _scale(score: Score) -> tuple[float, float]:
    """Of numbers: as far as the scores of both periods reach."""
    known = [one for one in (score.lowest, score.highest) if math.isfinite(one)]
    return (min(known), max(known)) if known else (0.0, 1.0)
