"""``/monitor/``: whether quality moved, by how much, how sure that is, and what to look at."""

from __future__ import annotations

from typing import Any

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from vedette.monitor import words
from vedette.monitor.data import Experiment, MonitorData, OverviewView, Shared
from vedette.monitor.figures.overview import Overview, ScorerFigures
from vedette.monitor.figures.period import DEFAULT_RANGE
from vedette.monitor.figures.scores import Score
from vedette.monitor.intervals import IntervalBar, VerdictMark, in_percent, told
from vedette.monitor.live import BUILD_SECONDS, Live
from vedette.monitor.markup import StatusMark, notice, tag
from vedette.monitor.opening import opened
from vedette.monitor.starting import first_scorer, first_trace
from vedette.monitor.status import Status, scorer_status
from vedette.monitor.tiles import Tiles
from vedette.monitor.view import View

_MAX_AGE = 2.0
_QUIET = Status("No alert fires", "good", "notifications_none")
_NO_RULES = Status("No alert rules are set up", "idle", "notifications_off")


def add_page(data: MonitorData) -> None:
    """Add the page."""

    def compute(view: View) -> OverviewView:
        return data.overview(view.experiment.experiment_id, view.period)

    shared = Shared(compute, max_age=_MAX_AGE)

    @ui.page("/", response_timeout=BUILD_SECONDS)
    async def page(
        experiment_id: str | None = None, range: str = DEFAULT_RANGE, until: str | None = None
    ) -> None:
        asked = View("/", Experiment("", ""), range, until)
        async with opened(data, "Overview", asked, experiment_id) as view:
            if view is not None:
                live = Live(lambda: shared.get(view), lambda found: found.at)
                await live.start(_OverviewPage(view).show)


class _OverviewPage:
    """Alerts, tiles and scorers, and what stands there instead when there are none."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._alerts = _AlertsPlace()
        self._shape: tuple[bool, list[str]] | None = None
        self._tiles: Tiles | None = None
        self._scorers: _ScorersTable | None = None
        self._content = tag("div", classes="content")

    def show(self, found: OverviewView) -> None:
        """Show it, in place as far as it can be: what has the focus keeps it."""
        figures = found.figures
        self._alerts.show(found.firing, figures.lag_seconds)
        some = bool(figures.traffic.traces or figures.before.traces)
        shape = some, [one.row["scorer"] for one in figures.scorers]
        if shape != self._shape:
            self._shape = shape
            self._content.clear()
            with self._content:
                self._build(figures, some)
        if self._tiles is not None:
            self._tiles.show(figures)
        if self._scorers is not None:
            self._scorers.show(found)

    def _build(self, figures: Overview, some: bool) -> None:
        name = self._view.experiment.name
        self._tiles = self._scorers = None
        if some:
            self._tiles = Tiles(self._view)
        else:
            tag("p", "No trace began in this time, nor in the one before.", "empty")
            first_trace(name)
        tag("h2", "Scorers")
        if figures.scorers:
            self._scorers = _ScorersTable(self._view)
        else:
            tag("p", "No scorer is registered in this experiment. Register and start one:")
            first_scorer(name)


class _AlertsPlace:
    """What fires, first of all."""

    def __init__(self) -> None:
        self._shown: list[dict[str, Any]] | None = []
        with tag("div", classes="state"):
            self._status = StatusMark(_QUIET)
            self._lag = tag("span", classes="quiet")
        self._firing = tag("div", aria_live="polite")

    def show(self, firing: list[dict[str, Any]] | None, lag_seconds: float) -> None:
        """Show it."""
        self._lag.text = (
            f"The trace that waits longest for its scores has waited {words.span(lag_seconds)}."
            if lag_seconds >= 1
            else "No trace waits for its scores."
        )
        if firing:
            many = f"{len(firing)} alert{'s fire' if len(firing) > 1 else ' fires'}"
            self._status.show(Status(many, "bad", "notifications_active"))
        else:
            self._status.show(_NO_RULES if firing is None else _QUIET)
        if firing == self._shown:
            return
        self._shown = firing
        self._firing.clear()
        with self._firing:
            for rule in firing or []:
                since = words.moment(rule["since_ms"])
                notice(f"{rule['name']}: {rule['why']} (since {since})", "bad", "error")


class _ScorersTable:
    """One row for each score; a scorer that has given none has a row too."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._names: dict[str, list[str]] | None = None
        self._rows: dict[tuple[str, str], _Row] = {}
        with tag("div", classes="scroll"), tag("table", classes="scores"):
            with tag("thead"), tag("tr"):
                for heading in ("Scorer", "Passes, or mean", "", "Against the time before"):
                    tag("th", heading, scope="col")
                for heading in ("Coverage", "State"):
                    tag("th", heading, scope="col")
            self._body = tag("tbody")
        with tag("details"):
            tag("summary", "How to read this")
            tag(
                "p",
                "Each figure is of all traffic of the time, estimated from the scored part of it"
                " with its 95 % interval: traces that were drawn with a probability of 10 % count"
                " ten times, and traces of one session are not taken for independent. The filled"
                " mark is now, the open one the time before. A change is told when the data show"
                " one; of all changes told here together, at most 5 % are wrong.",
            )

    def show(self, found: OverviewView) -> None:
        """Show it."""
        names = {
            one.row["scorer"]: [score.name for score in one.scores] or [""]
            for one in found.figures.scorers
        }
        if names != self._names:
            self._names = names
            self._body.clear()
            with self._body:
                self._rows = {
                    (scorer, name): _Row(
                        scorer, name, self._view.at("/scorer", name=scorer), is_first=place == 0
                    )
                    for scorer, of in names.items()
                    for place, name in enumerate(of)
                }
        engine = found.scorers.engine
        for one in found.figures.scorers:
            for score in one.scores:
                self._rows[score.scorer, score.name].show(one, score, engine)
            if not one.scores:
                self._rows[one.row["scorer"], ""].show(one, None, engine)


class _Row:
    """One score's."""

    def __init__(self, scorer: str, name: str, address: str, *, is_first: bool) -> None:
        with tag("tr"):
            with tag("th", scope="row"):
                ui.link(scorer if is_first else name, address)
                self._kind = tag("span", classes="quiet")
            with tag("td", data_label="Now"):
                self._value = tag("span", classes="figure")
                self._bounds = tag("span", classes="quiet")
            with tag("td", classes="wide"):
                self._bar = IntervalBar()
            with tag("td", data_label="Change"):
                self._verdict = VerdictMark()
            self._coverage = tag("td", classes="quiet", data_label="Coverage")
            with tag("td", data_label="State"):
                self._state: TextElement = tag("span")
        self._status: StatusMark | None = None
        self._name = name if is_first and name != scorer else ""

    def show(self, figures: ScorerFigures, score: Score | None, engine: str) -> None:
        """Show these figures."""
        worth_telling = figures.row["active"] or score is not None
        self._coverage.text = figures.coverage.text if worth_telling else ""
        status = scorer_status(figures.row, engine)
        if self._status is None:
            with self._state:
                self._status = StatusMark(status)
        self._status.show(status)
        self._bar.set_visibility(visible=score is not None)
        self._verdict.set_visibility(visible=score is not None)
        if score is None:
            self._value.text, self._bounds.text = "", "no scores in this time"
            return
        self._kind.text = _kind(score, self._name)
        percent = in_percent(score)
        value, bounds = told(score.estimate, percent=percent)
        self._value.text, self._bounds.text = value, f" {bounds}"
        self._bar.show(score, f"{value}, interval {bounds}")
        better = True if score.kind == "boolean" else None
        self._verdict.show(score.verdict, more_is_better=better)


def _kind(score: Score, name: str) -> str:
    """What the figure is of, where that isn't plain from the scorer's name."""
    parts = [name] if name else []
    if score.kind == "label":
        parts.append(f"share of “{score.label}”")
    elif score.kind == "number":
        parts.append("mean")
    if score.versions_before and score.versions and score.versions != score.versions_before:
        before, now = (", ".join(map(str, of)) for of in (score.versions_before, score.versions))
        parts.append(f"version {now}, before {before}")
    return " · ".join(parts)
