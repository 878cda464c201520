"""What people read: a title, a text in Markdown; and what programs read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

_WORDS = {
    "firing": "FIRING",
    "again": "STILL FIRING",
    "resolved": "RESOLVED",
    "test": "TEST",
    "rollback": "ROLLBACK",
}


def title(message: Mapping[str, Any]) -> str:
    """One line; `message` as in `vedette.alerts.store`."""
    return f"[{_WORDS[message['event']]}] {message['severity']}: {message['rule']}"


def body(message: Mapping[str, Any]) -> str:
    """Markdown: why, the evidence, examples, and how to go on."""
    lines = [message["why"], ""]
    evidence = message["evidence"]
    if (estimate := told_estimate(evidence)) is not None:
        lines.append(f"- estimate: {estimate}")
    if evidence.get("e_value") is not None:
        lines.append(f"- evidence: {evidence['e_value']:.3g} (20 is enough)")
    if message.get("slice"):
        lines.append(f"- slice: `{message['slice']}`")
    lines.append(f"- experiment {message['experiment_id']}, at {moment(message['at_ms'])}")
    if examples := evidence.get("examples"):
        lines += ["- traces to read:"]
        lines += [
            f"    - {message['url']}/monitor/trace/{quote(one, safe=str())}" for one in examples
        ]
    return "\n".join(lines)


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
