"""The state of a rule, from what a look found and the state before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "pending", "firing", "resolved", "no_data", "not_yet_complete"]
STATES: tuple[State, ...] = ("ok", "pending", "firing", "resolved", "no_data", "not_yet_complete")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at a rule found.

    Attributes:
        met: there is enough evidence that the condition holds.
        cleared: if it fires, there is enough to say that it is over.
        leaning: it looks like it, and isn't sure.
        has_data: there was anything to judge.
        complete: all that should be there is; else nothing good is said of it.
        why: for people, one line.
        evidence: JSON: estimate, low, high, e_value, examples, ...; what the metric has.
        memory: JSON: what the next look needs.
    """

    met: bool
    cleared: bool
    leaning: bool
    has_data: bool
    complete: bool
    why: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] | None = None


def next_state(before: State, finding: Finding, *, seconds: float, window: float) -> State:
    """The state after a look.

    Args:
        seconds: for how long the state before has held.
        window: of the rule, in seconds: for so long a resolved one is shown as such.
    """
    if before == "firing":
        # What is not known doesn't end it: a scorer that died would clear its own alerts
        over = finding.cleared and finding.has_data and finding.complete
        return "resolved" if over else "firing"
    recently = before == "resolved" and seconds < window
    states: list[tuple[State, bool]] = [
        ("firing", finding.met),
        ("not_yet_complete", not finding.complete),
        ("no_data", not finding.has_data),
        ("pending", finding.leaning),
        ("resolved", recently),
    ]
    return next((state for state, holds in states if holds), "ok")
