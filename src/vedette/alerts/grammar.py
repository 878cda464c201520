"""What alert ids mean, such as ``doc_citation_below_0_80_24h``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "drift",
    "below",
    "liveness",
    "volume",
    "error_rate",
    "latency_p95",
    "negative_feedback",
    "divergence",
    "judge_cost",
]

_UNITS = {"m": 60, "h": 3600, "d": 86_400}
_SHORTEST, _LONGEST = 60, 31 * 86_400
_WINDOW = r"(?P<window>[1-9]\d{0,4}[mhd])"
_DECIMAL = r"(?P<number>\d{1,3}_\d{2})"
_WHOLE = r"(?P<number>[1-9]\d{0,8})"
_SCORER = r"(?P<scorer>.+?)"
# Those of scorers come last: a scorer may be called error_rate_above
_FORMS: tuple[tuple[Kind, str, str], ...] = (
    ("liveness", rf"liveness_zero_traces_{_WINDOW}", "liveness_zero_traces_15m"),
    ("volume", rf"volume_anomaly_{_WINDOW}", "volume_anomaly_1h"),
    ("error_rate", rf"error_rate_above_{_DECIMAL}_{_WINDOW}", "error_rate_above_0_05_1h"),
    ("latency_p95", rf"latency_p95_above_{_WHOLE}s_{_WINDOW}", "latency_p95_above_8s_1h"),
    (
        "negative_feedback",
        rf"human_negative_feedback_ge_{_WHOLE}_{_WINDOW}",
        "human_negative_feedback_ge_3_24h",
    ),
    (
        "divergence",
        rf"human_judge_divergence_{_DECIMAL}_{_WINDOW}",
        "human_judge_divergence_0_10_7d",
    ),
    ("judge_cost", rf"judge_cost_above_{_WHOLE}usd_{_WINDOW}", "judge_cost_above_50usd_24h"),
    ("drift", rf"{_SCORER}_drift_neg_{_DECIMAL}_{_WINDOW}", "SCORER_drift_neg_0_05_6h"),
    ("below", rf"{_SCORER}_below_{_DECIMAL}_{_WINDOW}", "SCORER_below_0_80_24h"),
)
FORMS = tuple(example for _, _, example in _FORMS)
_OF_SCORERS = ("drift", "below")
_SHARES = ("error_rate", "divergence")


class AlertIdError(ValueError):
    """An id that means nothing; the message says what to write."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What an alert id asks for.

    Attributes:
        kind: which form it has.
        window_seconds: of the window.
        number: fall, limit, share, seconds, count or dollars; 0 for forms without one.
        scorer: its name; None for forms without one.
    """

    kind: Kind
    window_seconds: int
    number: float = 0.0
    scorer: str | None = None

    @property
    def id(self) -> str:
        """The id, with the window in its largest unit."""
        window = format_window(self.window_seconds)
        decimal = f"{self.number:.2f}".replace(".", "_")
        whole = f"{self.number:.0f}"
        form: dict[Kind, str] = {
            "drift": f"{self.scorer}_drift_neg_{decimal}",
            "below": f"{self.scorer}_below_{decimal}",
            "liveness": "liveness_zero_traces",
            "volume": "volume_anomaly",
            "error_rate": f"error_rate_above_{decimal}",
            "latency_p95": f"latency_p95_above_{whole}s",
            "negative_feedback": f"human_negative_feedback_ge_{whole}",
            "divergence": f"human_judge_divergence_{decimal}",
            "judge_cost": f"judge_cost_above_{whole}usd",
        }
        return f"{form[self.kind]}_{window}"


def parse_alert_id(text: str) -> Condition:
    """What an alert id means.

    Raises:
        AlertIdError: it has none of the forms, or a number that makes no sense; says what to write.
    """
    for kind, pattern, example in _FORMS:
        found = re.fullmatch(pattern, text, re.ASCII if kind not in _OF_SCORERS else re.DOTALL)
        if found is None:
            continue
        parts = found.groupdict()
        window = parse_window(parts["window"], text)
        number = float(parts.get("number", "0").replace("_", "."))
        if kind in _SHARES and not 0 < number < 1:
            raise AlertIdError(
                f"{text}: {number:g} is not between 0 and 1; write it like {example}"
            )
        if kind == "drift" and not number > 0:
            raise AlertIdError(f"{text}: a fall must be above 0; write it like {example}")
        return Condition(kind, window, number, parts.get("scorer"))
    raise AlertIdError(_explain(text))


def parse_window(text: str, where: str | None = None) -> int:
    """Seconds of ``15m``, ``6h`` or ``7d``.

    Raises:
        AlertIdError: it is none of these, or not within 1m and 31d.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not _SHORTEST <= seconds <= _LONGEST:
        name = f"{where}: " if where else ""
        raise AlertIdError(
            f"{name}{text!r} is no window: write minutes, hours or days, 1m to 31d, like 15m or 7d"
        )
    return seconds


def format_window(seconds: int) -> str:
    """The inverse of `parse_window`, in the largest unit that divides it; a day is ``24h``."""
    if seconds == _UNITS["d"]:
        return "24h"
    unit = next(unit for unit in "dhm" if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


def require_scorer(condition: Condition, registered: Collection[str]) -> None:
    """Refuse a condition on a scorer that isn't registered.

    Raises:
        AlertIdError: it names those that are like it, or all there are.
    """
    if condition.scorer is None or condition.scorer in registered:
        return
    near = difflib.get_close_matches(condition.scorer, registered, n=3, cutoff=0.6)
    known = ", ".join(near or sorted(registered)[:20])
    hint = f"did you mean {known}?" if near else f"there are: {known or 'none yet'}"
    raise AlertIdError(
        f"{condition.id}: no scorer {condition.scorer!r} is registered in the experiment; {hint}"
    )


def _explain(text: str) -> str:
    if not text:
        return f"an alert id is missing; write one like {', '.join(FORMS)}"
    near = difflib.get_close_matches(text, FORMS, n=1, cutoff=0.5)
    for word, example in (("_below_", FORMS[-1]), ("_drift", FORMS[-2])):
        if word in text and not near:
            near = [example]
    forms = f"write it like {near[0]}" if near else f"the forms are {', '.join(FORMS)}"
    return (
        f"{text[:200]!r} is no alert id: {forms} (numbers with two decimals, 0_80 for 0.80; windows"
        " like 15m, 6h, 7d)"
    )
