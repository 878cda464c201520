"""Numbers and times, as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def told_estimate(evidence: Mapping[str, Any]) -> str | None:
    """``0.71 (0.66 to 0.76)``; None if there is none."""
    value, low, high = (evidence.get(name) for name in ("estimate", "low", "high"))
    if value is None:
        return None
    unit = f" {evidence['unit']}" if evidence.get("unit") else ""
    if low is None or high is None:
        return f"{value:g}{unit}"
    return f"{value:.3g} ({low:.3g} to {high:.3g}){unit}"


def moment(milliseconds: int) -> str:
    """``2026-11-22 20:04 UTC``."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def finite(number: float) -> float | None:
    """None for what JSON has no word for."""
    return float(number) if math.isfinite(number) else None
