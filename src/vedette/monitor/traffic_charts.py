"""The charts of traffic: traces, errors, latency, tokens and cost over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from vedette.monitor import words
from vedette.monitor.charts import Axis, Point, band, bars, line, options
from vedette.monitor.figures.period import Period
from vedette.monitor.figures.traffic import PERCENTILES

Bucket = Mapping[str, Any]

# Of each percentile: colour and line
_LINES = {50: ("series-1", "solid"), 95: ("series-2", "dashed"), 99: ("series-3", "dotted")}
_AS_DURATION = "value >= 1000 ? value / 1000 + ' s' : value + ' ms'"
_SHORT = "value >= 1e6 ? value / 1e6 + ' M' : value.toLocaleString('en')"


def traces_chart(period: Period, series: Sequence[Bucket]) -> dict[str, Any]:
    """How many traces came, those that failed apart."""

    def fine(one: Bucket) -> tuple[float, str]:
        return one["traces"] - one["errors"], _count(one["traces"], "trace")

    def failed(one: Bucket) -> tuple[float, str]:
        return one["errors"], _count(one["errors"], "error")

    drawn = [
        bars("traces", list(_points(period, series, fine)), "series-1", "traces"),
        bars("errors", list(_points(period, series, failed, timed=False)), "series-2", "traces"),
    ]
    return options(_axis(period, _SHORT), drawn, "Traces over time, errors stacked on the others")


def errors_chart(period: Period, series: Sequence[Bucket]) -> dict[str, Any]:
    """The error rate with its interval."""

    def rate(one: Bucket) -> tuple[float | None, str]:
        value, low, high = (one[f"error_rate{end}"] for end in ("", "_low", "_high"))
        if value is None:
            return None, "no traces"
        bounds = words.interval(100 * low, 100 * high, " %")
        return 100 * value, (
            f"{words.figure(100 * value, 100 * low, 100 * high)} % errors ({bounds}), "
            f"{one['errors']:,} of {one['traces']:,}"
        )

    middle = period.choice.traffic_ms / 2
    bounds = [
        (one["at_ms"] + middle, 100 * one["error_rate_low"], 100 * one["error_rate_high"])
        if one["traces"]
        else (one["at_ms"] + middle, None, None)
        for one in series
    ]
    drawn = [
        *band("interval", bounds, "series-2"),
        line("error rate", list(_points(period, series, rate)), "series-2"),
    ]
    # Intervals of few traces reach up to 100 %: the rates themselves are to be seen
    highest = max((value for _, _, value in bounds if value is not None), default=1.0)
    largest = max((100 * (one["error_rate"] or 0.0) for one in series), default=0.0)
    top = min(highest, max(3 * largest, 5.0))
    return options(
        _axis(period, "value + ' %'", highest=_round_up(top)),
        drawn,
        "Share of traces with an error over time, with its 95 % interval",
    )


def latency_chart(period: Period, series: Sequence[Bucket]) -> dict[str, Any]:
    """Percentiles of how long traces took."""

    def of(percentile: int) -> Callable[[Bucket], tuple[float | None, str]]:
        def value(one: Bucket) -> tuple[float | None, str]:
            found = one[f"p{percentile}_ms"]
            return found, "" if found is None else f"p{percentile} {words.milliseconds(found)}"

        return value

    drawn = [
        line(
            f"p{one}",
            list(_points(period, series, of(one), timed=one == PERCENTILES[0])),
            *_LINES[one],
            named=True,
        )
        for one in PERCENTILES
    ]
    told = "Latency over time: 50th, 95th and 99th percentile"
    return options(_axis(period, _AS_DURATION, right=30), drawn, told)


def cost_chart(period: Period, series: Sequence[Bucket]) -> dict[str, Any]:
    """What the traces' model calls cost."""

    def cost(one: Bucket) -> tuple[float, str]:
        return one["cost_usd"], words.dollars(one["cost_usd"])

    drawn = [bars("cost", list(_points(period, series, cost)), "series-1")]
    return options(_axis(period, "'$' + value"), drawn, "Cost of the traces over time, in dollars")


def tokens_chart(period: Period, series: Sequence[Bucket]) -> dict[str, Any]:
    """Tokens that went in and came out."""

    def of(kind: str) -> Callable[[Bucket], tuple[float, str]]:
        def value(one: Bucket) -> tuple[float, str]:
            found = one[f"{kind}_tokens"]
            return found, f"{_count(found, 'token')} {'in' if kind == 'input' else 'out'}"

        return value

    drawn = [
        bars("input", list(_points(period, series, of("input"))), "series-1", "tokens"),
        bars(
            "output", list(_points(period, series, of("output"), timed=False)), "series-3", "tokens"
        ),
    ]
    told = "Tokens over time, those that came out stacked on those that went in"
    return options(_axis(period, _SHORT), drawn, told)


def _points(
    period: Period,
    series: Sequence[Bucket],
    of: Callable[[Bucket], tuple[float | None, str]],
    *,
    timed: bool = True,
) -> Iterator[Point]:
    """Each bucket's, in its middle.

    Args:
        timed: whether the words begin with the time: the first series of a chart does so.
    """
    length = period.choice.traffic_ms
    for one in series:
        value, text = of(one)
        if timed:
            until = min(one["at_ms"] + length, period.until_ms)
            text = f"<b>{words.time_span(one['at_ms'], until)}</b><br>{escape(text)}"
        yield one["at_ms"] + length / 2, value, text


def _axis(period: Period, format: str, *, right: int = 12, highest: float | None = None) -> Axis:
    end = period.since_ms + period.choice.length_ms
    return Axis(period.since_ms, end, format, right, highest=highest)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' * (number != 1)}"


def _round_up(number: float) -> float:
    """A round number above it, for the end of an axis."""
    for step in (1, 2, 5, 10, 20, 50, 100):
        if number <= step:
            return float(step)
    return number
