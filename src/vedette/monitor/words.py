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
