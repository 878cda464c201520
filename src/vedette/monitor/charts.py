"""Charts over time, by ECharts. Their colours are style.css's, so they follow the page's theme.

What a point says is written here, in words, and shown as it is when somebody points at it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from vedette.monitor.markup import tag

_FONT = "Roboto, sans-serif"
_SMALL = 11
_FEW = 40  # points that can be told apart
# A point's words, and none for what only draws an interval
_TIP = "points => points.map(point => point.data && point.data.tip).filter(Boolean).join('<br>')"

Point = tuple[float, float | None, str]  # when (ms since the epoch), how much, what it says


@dataclass(frozen=True, slots=True)
class Axis:
    """What a chart is drawn on.

    Attributes:
        since_ms: where it begins; ``until_ms`` likewise.
        format: JavaScript that makes a label of ``value``.
        right: pixels beside it, for lines' names; ``top`` likewise, for markers.
        lowest: of the values; None: what they need. ``highest`` likewise.
    """

    since_ms: int
    until_ms: int
    format: str = "value"
    right: int = 12
    top: int = 14
    lowest: float | None = 0
    highest: float | None = None


def bars(name: str, points: Sequence[Point], colour: str, stack: str = "") -> dict[str, Any]:
    """A series of bars; those of one stack stand upon each other."""
    made = _series("bar", name, points, colour)
    return {**made, "stack": stack or name, "barMaxWidth": 24, "barCategoryGap": "15%"}


def line(
    name: str, points: Sequence[Point], colour: str, kind: str = "solid", *, named: bool = False
) -> dict[str, Any]:
    """A series of points with lines between them; gaps where there is no value.

    Args:
        named: whether its name stands at its end.
    """
    made = _series("line", name, points, colour)
    end = {"show": named, "formatter": name, "color": "var(--quiet)", "fontSize": _SMALL}
    return {
        **made,
        "lineStyle": {"width": 2, "color": f"var(--{colour})", "type": kind},
        "endLabel": end,
        "symbol": "circle",
        # Points between gaps have no line; elsewhere symbols are not to be seen
        "symbolSize": 5 if len(points) <= _FEW else 2,
        "showAllSymbol": True,
    }


def band(
    name: str, bounds: Sequence[tuple[float, float | None, float | None]], colour: str
) -> list[dict[str, Any]]:
    """The area between two bounds: (when, lower, upper)."""
    low = [[at, one] for at, one, other in bounds]
    height = [
        [at, None if one is None or other is None else other - one] for at, one, other in bounds
    ]
    drawn: dict[str, Any] = {
        "type": "line",
        "name": name,
        "stack": f"band {name}",
        "stackStrategy": "all",
        "symbol": "none",
        "silent": True,
        "lineStyle": {"opacity": 0},
        "emphasis": {"disabled": True},
    }
    area = {"areaStyle": {"color": f"var(--{colour})", "opacity": 0.18}}
    return [{**drawn, "data": low}, {**drawn, **area, "data": height}]


def markers(points: Sequence[tuple[float, str]]) -> dict[str, Any]:
    """Upright lines at moments that have a name: (when, name)."""
    return {
        "symbol": "none",
        "silent": True,
        "lineStyle": {"color": "var(--quiet)", "type": "dashed", "width": 1},
        "label": {
            "color": "var(--ink)",
            "fontSize": _SMALL,
            "position": "end",
            "distance": 4,
            "formatter": "{b}",
        },
        "data": [{"xAxis": at, "name": name} for at, name in points],
    }


def options(axis: Axis, series: Sequence[Mapping[str, Any]], told: str) -> dict[str, Any]:
    """A whole chart.

    Args:
        told: what it shows, for those who can't see it.
    """
    quiet = {"color": "var(--quiet)", "fontSize": _SMALL, "fontFamily": _FONT}
    return {
        "useUTC": True,
        "animation": False,
        "aria": {"enabled": True, "label": {"description": told}},
        "textStyle": {"fontFamily": _FONT},
        "grid": {
            "left": 4,
            "right": axis.right,
            "top": axis.top,
            "bottom": 4,
            "containLabel": True,
        },
        "tooltip": {
            "trigger": "axis",
            "confine": True,
            "backgroundColor": "var(--raised)",
            "borderColor": "var(--line)",
            "textStyle": {"color": "var(--ink)", "fontSize": 12},
            "axisPointer": {"lineStyle": {"color": "var(--quiet)"}},
            ":formatter": _TIP,
        },
        "xAxis": {
            "type": "time",
            "min": axis.since_ms,
            "max": axis.until_ms,
            "axisLabel": {**quiet, "hideOverlap": True},
            "axisLine": {"lineStyle": {"color": "var(--line)"}},
            "axisTick": {"show": False},
            "splitLine": {"show": False},
        },
        "yAxis": {
            "type": "value",
            "min": axis.lowest,
            "max": axis.highest,
            "splitNumber": 3,
            "axisLabel": {**quiet, ":formatter": f"value => {axis.format}"},
            "splitLine": {"lineStyle": {"color": "var(--line)", "opacity": 0.6}},
        },
        "series": list(series),
    }


class Chart:
    """A chart with its heading, and the ways to take it along.

    Args:
        title: what it shows; also the name of its files.
        csv: the address of its numbers.
        tall: it is the page's main thing.
    """

    def __init__(self, title: str, csv: str, *, tall: bool = False) -> None:
        self._options: dict[str, Any] = {}
        self._chart = ui.echart({}, renderer="svg").classes("chart tall" if tall else "chart")
        with tag("p", classes="take"):
            tag("a", "CSV", href=csv, download="", aria_label=f"{title} as CSV")
            picture = tag("button", "PNG", type="button", aria_label=f"{title} as PNG")
        arguments = json.dumps([f"c{self._chart.id}", title])[1:-1]
        picture.on("click", js_handler=f"() => saveChartAsPng({arguments})")

    def show(self, options: dict[str, Any]) -> None:
        """Draw it, if it isn't drawn so already."""
        if options == self._options:
            return
        self._options = options
        self._chart.options.clear()
        self._chart.options.update(options)
        self._chart.update()


def _series(kind: str, name: str, points: Sequence[Point], colour: str) -> dict[str, Any]:
    return {
        "type": kind,
        "name": name,
        "itemStyle": {"color": f"var(--{colour})"},
        "emphasis": {"disabled": True},
        "data": [{"value": [at, value], "tip": tip} for at, value, tip in points],
    }
