"""``/monitor/scorer``: one scorer's scores over time, how they spread, and which were low."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from nicegui import ui

from vedette.monitor import words
from vedette.monitor.charts import Axis, Chart, band, line, markers, options
from vedette.monitor.data import Experiment, MonitorData, ScorerView, Shared
from vedette.monitor.figures.period import DEFAULT_RANGE
from vedette.monitor.figures.scorer import Judging, LowScore, ScorerDetail
from vedette.monitor.figures.scores import Score
from vedette.monitor.intervals import VerdictMark, in_percent, told
from vedette.monitor.layout import trace_path
from vedette.monitor.live import BUILD_SECONDS, Live
from vedette.monitor.markup import tag
from vedette.monitor.opening import opened
from vedette.monitor.status import decision_status
from vedette.monitor.view import View
from vedette.quality.estimate import Estimate

_MAX_AGE = 3.0
_COLOURS = ("series-1", "series-2", "series-3")
_LONGEST = 300  # characters of a request


def add_page(data: MonitorData) -> None:
    """Add the page."""

    def compute(view: View) -> ScorerView:
        name = dict(view.more)["name"]
        return data.scorer(view.experiment.experiment_id, name, view.period)

    shared = Shared(compute, max_age=_MAX_AGE)

    @ui.page("/scorer", response_timeout=BUILD_SECONDS)
    async def page(
        name: str = "",
        experiment_id: str | None = None,
        range: str = DEFAULT_RANGE,
        until: str | None = None,
    ) -> None:
        more = (("name", name),)
        asked = View("/scorer", Experiment("", ""), range, until, more)
        async with opened(data, name or "Scorer", asked, experiment_id) as view:
            if view is not None:
                live = Live(lambda: shared.get(view), lambda found: found.at)
                await live.start(_ScorerPage(view).show)


class _ScorerPage:
    """A part for each score the scorer gives, and how scoring went."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._names: list[str] | None = None
        self._parts: dict[str, _ScorePart] = {}
        self._shown: Judging | None = None
        self._content = tag("div", classes="content")
        tag("h2", "How scoring went")
        self._judging = tag("dl", classes="facts")

    def show(self, found: ScorerView) -> None:
        """Show it."""
        detail = found.detail
        names = [one.name for one in detail.scores]
        if names != self._names:
            self._names = names
            self._content.clear()
            with self._content:
                if not names:
                    tag("p", "It gave no score in this time, nor in the one before.", "empty")
                self._parts = {one.name: _ScorePart(self._view, one) for one in detail.scores}
        for one in detail.scores:
            self._parts[one.name].show(one, detail)
        if detail.judging != self._shown:
            self._shown = detail.judging
            self._judging.clear()
            with self._judging:
                _judging(detail.judging)


class _ScorePart:
    """One score: its series, its spread, its lowest."""

    def __init__(self, view: View, score: Score) -> None:
        self._spread_shown: Any = None
        self._lowest_shown: Any = None
        if score.name != score.scorer:
            tag("h2", score.name)
        with tag("p", classes="headline"):
            self._figure = tag("span", classes="figure")
            self._bounds = tag("span", classes="quiet")
            self._verdict = VerdictMark()
        self._chart = Chart(score.name, f"/api/vedette/scores.csv?{view.query}", tall=True)
        with tag("div", classes="columns"):
            with tag("section", aria_label="Spread"):
                tag("h3", "How the traffic spreads")
                self._spread = tag("table", classes="spread")
            with tag("section", aria_label="Lowest") as section:
                tag("h3", "Newest failures" if score.kind == "boolean" else "Lowest")
                self._lowest = tag("div")
            section.set_visibility(score.kind != "label")

    def show(self, score: Score, detail: ScorerDetail) -> None:
        """Show it; lists stay as they are while they say the same."""
        percent = in_percent(score)
        value, bounds = told(score.estimate, percent=percent)
        self._figure.text = value
        self._bounds.text = f" {bounds}, from {words.count(score.units)} scores"
        better = True if score.kind == "boolean" else None
        self._verdict.show(score.verdict, more_is_better=better)
        self._chart.show(_series_chart(score, detail))
        spread = {word: tuple(map(float, one)) for word, one in detail.spread[score.name].items()}
        if spread != self._spread_shown:
            self._spread_shown = spread
            self._spread.clear()
            with self._spread:
                _spread(detail.spread[score.name])
        lowest = detail.lowest[score.name]
        if lowest != self._lowest_shown:
            self._lowest_shown = lowest
            self._lowest.clear()
            with self._lowest:
                _lowest(lowest, score)


def _series_chart(score: Score, detail: ScorerDetail) -> dict[str, Any]:
    """A line and a band for each version, upright lines where the scorer changed."""
    period, points = detail.period, detail.series[score.name]
    factor, unit = (100.0, " %") if in_percent(score) else (1.0, "")
    length = period.choice.score_ms
    by_version: dict[int, dict[int, Any]] = {}
    for one in points:
        by_version.setdefault(one["version"], {})[one["at_ms"]] = one
    drawn: list[dict[str, Any]] = []
    for place, version in enumerate(sorted(by_version)):
        colour, of = _COLOURS[place % len(_COLOURS)], by_version[version]
        middles, bounds = [], []
        for at in period.buckets(length):
            middle = at + length / 2
            point = of.get(at)
            value, low, high = (
                None if point is None or point[name] is None else factor * point[name]
                for name in ("value", "low", "high")
            )
            bounds.append((middle, low, high))
            text = ""
            if point is not None:
                when = words.time_span(at, min(at + length, period.until_ms))
                text = escape(
                    f"{when}: {words.figure(value, low, high)}{unit} "
                    f"({words.interval(low, high, unit)}), {point['scores']:,} scores, "
                    f"version {version}"
                )
            middles.append((middle, value, text))
        drawn += band(f"interval of version {version}", bounds, colour)
        drawn.append(line(f"v{version}", middles, colour, named=len(by_version) > 1))
    if drawn:
        drawn[-1]["markLine"] = markers([(one.at_ms, one.words) for one in detail.changes])
    end = period.since_ms + period.choice.length_ms
    lowest: float | None = None
    highest: float | None = None
    if in_percent(score):
        lows = [100 * one["low"] for one in points if one["low"] is not None]
        lowest, highest = 10 * (min(lows, default=0.0) // 10), 100
    axis = Axis(period.since_ms, end, f"value + '{unit}'", 30, 26, lowest, highest)
    return options(axis, drawn, f"{score.name} over time with its 95 % interval, by version")


def _spread(shares: dict[str, Estimate] | Any) -> None:
    for word, share in shares.items():
        value, bounds = told(share, percent=True)
        with tag("tr"):
            tag("th", word, scope="row")
            with tag("td", classes="wide"):
                bar = tag("div", classes="share")
                bar.style(f"width: {100 * float(share.value):.1f}%")
            with tag("td"):
                tag("span", value, "figure")
                tag("span", f" {bounds}", "quiet")


def _lowest(found: Sequence[LowScore], score: Score) -> None:
    if not found:
        tag("p", "No scored trace of this time failed." if score.kind == "boolean" else "None.")
    for one in found:
        with tag("div", classes="low"):
            with tag("p"):
                ui.link(words.moment(one.time_ms), trace_path(one.trace_id))
                if score.kind == "number":
                    tag("span", f" {one.value:g}", "figure")
                tag("span", f" {one.request[:_LONGEST]}")
            if one.rationale:
                tag("p", one.rationale, "quiet")


def _judging(judging: Judging) -> None:
    facts = [
        (decision_status(name).word, words.count(units))
        for name, units in sorted(judging.decisions.items(), key=lambda one: -one[1])
    ]
    rate, bounds = told(judging.failure_rate, percent=True)
    if rate != "–":
        facts.append(("errors, of those tried", f"{rate} ({bounds})"))
    for one, latency in judging.latency.items():
        value, bounds = told(latency, percent=False, unit=" ms")
        if value != "–":
            facts.append((f"time per score, p{one}", f"{value} ({bounds})"))
    if not facts:
        facts.append(("units", "none in this time"))
    for name, text in facts:
        with tag("div"):
            tag("dt", name)
            tag("dd", text)
