"""Numbers and times as pages write them, and trace ids as people paste them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_TRACE_ID = re.compile(r"tr-[0-9a-zA-Z_-]+")
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]{32}")


def count(number: int | None) -> str:
    """``1,234``; nothing for None."""
    return "" if number is None else f"{number:,}"


def percent(share: float | None) -> str:
    """A share of 1 as ``12.5 %``."""
    return "" if share is None else f"{100 * share:g} %"


def dollars(amount: float | None) -> str:
    """``$1.23``; small amounts with more digits, so that a judge's call isn't shown as nothing."""
    if amount is None:
        return ""
    return f"${amount:.2f}" if amount == 0 or amount >= 1 else f"${amount:.4f}"


def span(seconds: float | None) -> str:
    """How long: ``12 s``, ``5 min``, ``3.2 h``."""
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def milliseconds(number: float | None) -> str:
    """``12 ms``, or seconds when there are many."""
    if number is None:
        return ""
    return f"{number:.0f} ms" if number < 10_000 else f"{number / 1000:,.1f} s"


def moment(ms: float | None) -> str:
    """A time in ms since the epoch as ``2026-01-31 12:00:00 UTC``."""
    if ms is None:
        return ""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def trace_id_in(text: str) -> str:
    """The trace id in what somebody pasted: the id, OpenTelemetry's, or a link of MLflow's UI."""
    if found := _TRACE_ID.search(text):
        return found[0]
    bare = text.strip()
    return f"tr-{bare.lower()}" if _HEXADECIMAL.fullmatch(bare) else bare


def day_and_time(ms: float) -> str:
    """A time in ms since the epoch as ``31 Jan 12:00``."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%-d %b %H:%M}"


def time_span(since_ms: float, until_ms: float) -> str:
    """``31 Jan 12:00–13:00``, both days where they differ; UTC."""
    since, until = day_and_time(since_ms), day_and_time(until_ms)
    same_day = since[:-5] == until[:-5]
    return f"{since}–{until[-5:]}" if same_day else f"{since} – {until}"


def figure(value: float | None, low: float | None, high: float | None) -> str:
    """A number with as many digits as its interval leaves it; a dash for None."""
    return "–" if value is None else f"{value:,.{_digits(low, high)}f}"


def interval(low: float | None, high: float | None, unit: str = "") -> str:
    """``88 to 93 %``; what has no bound is said so."""
    digits = _digits(low, high)
    if low is None and high is None:
        return "no interval yet"
    if high is None:
        return f"at least {low:,.{digits}f}{unit}"
    if low is None:
        return f"at most {high:,.{digits}f}{unit}"
    return f"{low:,.{digits}f} to {high:,.{digits}f}{unit}"


def short_count(number: float) -> str:
    """``41,233``; from a million on ``1.23 M``, from a thousand million on ``1.23 G``."""
    for size, letter in ((1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:,.0f}"


def _digits(low: float | None, high: float | None) -> int:
    """Of numbers between these bounds: the last one is about a tenth of the interval."""
    if low is None or high is None or high <= low:
        return 1 if high is None or high < 100 else 0
    width = high - low
    return 0 if width >= 10 else 1 if width >= 1 else 2 if width >= 0.1 else 3
