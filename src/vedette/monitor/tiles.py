"""The traffic of a period at a glance: a figure, how it moved, and a chart, four times."""

from __future__ import annotations

from typing import Any

from vedette.monitor import words
from vedette.monitor.charts import Chart
from vedette.monitor.figures.overview import Overview
from vedette.monitor.figures.traffic import PERCENTILES, changes
from vedette.monitor.figures.verdicts import MILLISECONDS, POINTS, Verdict, verdict
from vedette.monitor.intervals import VerdictMark, told
from vedette.monitor.markup import tag
from vedette.monitor.traffic_charts import (
    cost_chart,
    errors_chart,
    latency_chart,
    tokens_chart,
    traces_chart,
)
from vedette.monitor.view import View
from vedette.quality.difference import difference


class Tiles:
    """Traces, errors, latency, and tokens and cost."""

    def __init__(self, view: View) -> None:
        csv = f"/api/vedette/traffic.csv?{view.query}"
        with tag("div", classes="tiles"):
            self._traces = _Tile("Traces", csv)
            self._errors = _Tile("Error rate", csv)
            self._latency = _Tile("Latency", csv)
            self._cost = _Tile("Tokens and cost", csv)

    def show(self, figures: Overview) -> None:
        """Show these figures."""
        now, before, period = figures.traffic, figures.before, figures.period
        series = figures.series
        moved = changes(now, before)
        self._traces.show(
            words.short_count(now.traces),
            f"exact; of {now.sessions:,} sessions" if now.sessions else "exact",
            moved["traces"],
            traces_chart(period, series),
        )
        value, bounds = told(now.error_rate, percent=True)
        rate = difference(now.error_rate, before.error_rate)
        self._errors.show(
            value,
            f"{bounds}; {now.errors:,} of {now.traces:,}" if now.traces else "no traces",
            "",
            errors_chart(period, series),
        )
        self._errors.moved(
            verdict(rate, POINTS, now.traces, before.traces, "traces"), more_is_better=False
        )
        p95 = difference(now.latency[95], before.latency[95])
        value, bounds = told(now.latency[95], percent=False, unit=" ms")
        others = (
            f"p{one} {told(now.latency[one], percent=False, unit=' ms')[0]}"
            for one in PERCENTILES
            if one != 95
        )
        self._latency.show(
            f"p95 {value}",
            f"{bounds}; {', '.join(others)}" if now.timed else "no trace told how long it took",
            "",
            latency_chart(period, series),
        )
        self._latency.moved(
            verdict(p95, MILLISECONDS, now.timed, before.timed, "traces"), more_is_better=False
        )
        tokens = f"{words.short_count(now.tokens['total'])} tokens"
        if now.cost_usd:
            told_by = "" if now.priced == now.traces else f" of {now.priced:,} traces that told it"
            self._cost.show(
                words.dollars(now.cost_usd),
                f"exact{told_by}; {tokens}",
                moved["cost_usd"],
                cost_chart(period, series),
            )
        else:
            in_, out = (words.short_count(now.tokens[one]) for one in ("input", "output"))
            self._cost.show(
                tokens,
                f"exact; {in_} in, {out} out; no cost was told",
                moved["tokens"],
                tokens_chart(period, series),
            )


class _Tile:
    """One of them."""

    def __init__(self, title: str, csv: str) -> None:
        with tag("section", classes="tile", aria_label=title):
            tag("h3", title)
            self._figure = tag("p", classes="figure")
            self._bounds = tag("p", classes="quiet")
            with tag("p", classes="change"):
                self._change = tag("span", classes="quiet")
                self._verdict = VerdictMark()
            self._chart = Chart(title, csv)
        self._verdict.set_visibility(visible=False)

    def show(self, figure: str, bounds: str, change: str, options: dict[str, Any]) -> None:
        """Show these."""
        self._figure.text, self._bounds.text, self._change.text = figure, bounds, change
        self._chart.show(options)

    def moved(self, change: Verdict, *, more_is_better: bool | None) -> None:
        """Say how far an estimate moved."""
        self._verdict.set_visibility(visible=True)
        self._verdict.show(change, more_is_better=more_is_better)
