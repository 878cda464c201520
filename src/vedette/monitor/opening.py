"""How a page over an experiment and a time begins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from nicegui import ui
from starlette.concurrency import run_in_threadpool

from vedette.monitor.data import MonitorData
from vedette.monitor.figures.period import RANGES, PeriodError
from vedette.monitor.layout import frame
from vedette.monitor.live import told
from vedette.monitor.markup import notice, tag
from vedette.monitor.view import View
from vedette.monitor.words import day_and_time


@asynccontextmanager
async def opened(
    data: MonitorData, title: str, view: View, experiment_id: str | None, *, timed: bool = True
) -> AsyncIterator[View | None]:
    """Put the block's elements into a page with a header; yields what it looks at.

    None: the page has said that there is no such experiment or time, or that it can't be told.

    Args:
        view: of any experiment.
        experiment_id: the one that was asked for; None: the first.
        timed: whether it shows a time.
    """
    try:
        experiments = await run_in_threadpool(data.experiments)
    except Exception as error:
        with frame(title, [], None):
            notice(f"The experiments can't be told now: {told(error)}", "bad", "error")
            yield None
        return
    wanted = experiment_id or (experiments[0].experiment_id if experiments else "")
    found = next((one for one in experiments if one.experiment_id == wanted), None)
    if found is None:
        with frame(title, experiments, None, view):
            notice(f"There is no experiment {wanted}: choose one above.", "bad", "error")
            yield None
        return
    view = replace(view, experiment=found)
    with frame(title, experiments, view.experiment.experiment_id, view):
        try:
            if timed:
                _time_choice(view)
        except PeriodError as error:
            notice(f"{error}.", "bad", "error")
            yield None
            return
        yield view


def _time_choice(view: View) -> None:
    """Which time the page shows, what it is compared with, and the way to another."""
    span = view.period
    with tag("div", classes="times"):
        with tag("nav", aria_label="Time range", classes="ranges"):
            for name in RANGES:
                link = ui.link(name, replace(view, range=name).address)
                if name == view.range:
                    link.props["aria-current"] = "true"
        with tag("p", classes="quiet"):
            label = RANGES[view.range].label
            since, until = day_and_time(span.since_ms), day_and_time(span.until_ms)
            if view.until is None:
                tag("span", f"The last {label}, since {since} UTC, beside the {label} before. ")
                ui.link("Keep this time", replace(view, until=str(span.until_ms)).address)
            else:
                tag("span", f"{since} to {until} UTC, beside the {label} before. ")
                ui.link("Show the newest", replace(view, until=None).address)
