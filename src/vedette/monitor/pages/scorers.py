"""``/monitor/scorers``: how each scorer of an experiment is doing, live."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from vedette.monitor import words
from vedette.monitor.data import Experiment, MonitorData, ScorersView, Shared
from vedette.monitor.figures.period import DEFAULT_RANGE
from vedette.monitor.live import BUILD_SECONDS, Live
from vedette.monitor.markup import StatusMark, notice, tag
from vedette.monitor.opening import opened
from vedette.monitor.starting import first_scorer
from vedette.monitor.status import scorer_status
from vedette.monitor.view import View

_MAX_AGE = 2.0

# Heading, what it means, and what it shows of a row
_COLUMNS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("Version", "of the scorer, counted by register", lambda row: words.count(row["version"])),
    ("Rate", "share of units that is selected", lambda row: words.percent(row["rate"])),
    (
        "Epoch",
        "counts the changes of rate, filter and version",
        lambda row: words.count(row["epoch"]),
    ),
    ("Units", "traces or sessions decided so far", lambda row: words.count(row["units"])),
    ("Selected", "of these, in the sample", lambda row: words.count(row["selected"])),
    ("Scored", "of these, scored", lambda row: words.count(row["scored"])),
    (
        "Waiting",
        "complete units it has yet to look at, those of other experiments included",
        lambda row: words.count(row["waiting"]),
    ),
    (
        "Retrying",
        "selected, to be tried again after a transient failure",
        lambda row: words.count(row["retrying"]),
    ),
    ("Failed", "selected, ended in an error", lambda row: words.count(row["failed"])),
    (
        "Lag",
        "how long the oldest waiting unit has been complete",
        lambda row: words.span(row["lag_seconds"]),
    ),
    (
        "Calls today",
        "of judge models, since midnight UTC",
        lambda row: words.count(row["calls_today"]),
    ),
    ("Cost today", "of these calls", lambda row: words.dollars(row["cost_today_usd"])),
)


def add_page(data: MonitorData) -> None:
    """Add the page."""
    shared = Shared(data.scorers, max_age=_MAX_AGE)

    @ui.page("/scorers", response_timeout=BUILD_SECONDS)
    async def page(
        experiment_id: str | None = None, range: str = DEFAULT_RANGE, until: str | None = None
    ) -> None:
        asked = View("/scorers", Experiment("", ""), range, until)
        async with opened(data, "Scorers", asked, experiment_id, timed=False) as view:
            if view is not None:
                tag("p", f"Experiment {view.experiment.name}", "subject")
                chosen = view.experiment.experiment_id
                live = Live(lambda: shared.get(chosen), lambda found: found.at)
                await live.start(_ScorersView(view.experiment.name).show)


class _ScorersView:
    """The table, and what stands there instead when there is no scorer."""

    def __init__(self, experiment: str) -> None:
        self._experiment = experiment
        self._warnings: list[str] | None = None
        self._rows: dict[str, _Row] | None = None
        self._notices = tag("div", classes="notices", aria_live="polite")
        self._content = tag("div", classes="content")

    def show(self, view: ScorersView) -> None:
        """Show it, in place as far as it can be: what has the focus keeps it."""
        if view.warnings != self._warnings:
            self._warnings = view.warnings
            self._notices.clear()
            with self._notices:
                for warning in view.warnings:
                    notice(warning, "wait", "warning")
        names = [row["scorer"] for row in view.rows]
        if self._rows is None or names != list(self._rows):
            self._content.clear()
            with self._content:
                self._rows = self._table(names) if names else self._nothing()
        for row in view.rows:
            self._rows[row["scorer"]].show(row, view.engine)

    def _table(self, names: list[str]) -> dict[str, _Row]:
        with tag("div", classes="scroll"), tag("table", classes="scorers"):
            with tag("thead"), tag("tr"):
                for heading in ("Scorer", "State"):
                    tag("th", heading, scope="col")
                for heading, meaning, _ in _COLUMNS:
                    tag("th", heading, "number", scope="col", title=meaning)
            with tag("tbody"):
                rows = {name: _Row(name) for name in names}
        with tag("details"):
            tag("summary", "What the columns say")
            with tag("dl", classes="meanings"):
                for heading, meaning, _ in _COLUMNS:
                    tag("dt", heading)
                    tag("dd", meaning)
        return rows

    def _nothing(self) -> dict[str, _Row]:
        tag("p", "No scorer is registered in this experiment. Register and start one:")
        first_scorer(self._experiment)
        return {}


class _Row:
    """One scorer's."""

    def __init__(self, name: str) -> None:
        self._cells: list[tuple[TextElement, Callable[[Mapping[str, Any]], str]]] = []
        self._status: StatusMark | None = None
        with tag("tr"):
            tag("th", name, scope="row")
            self._state = tag("td", data_label="State")
            for heading, _, value in _COLUMNS:
                self._cells.append((tag("td", classes="number", data_label=heading), value))

    def show(self, row: Mapping[str, Any], engine: str) -> None:
        """Show these figures."""
        status = scorer_status(row, engine)
        if self._status is None:
            with self._state:
                self._status = StatusMark(status)
        self._status.show(status)
        for cell, value in self._cells:
            cell.text = value(row)
