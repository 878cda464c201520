"""States in plain words, each with a shape and a colour: nothing is told by colour alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Status:
    """A state as pages show it.

    Attributes:
        word: says it.
        tone: ``good``, ``wait``, ``bad`` or ``idle``; names a colour in style.css.
        icon: a Material icon; each word's differs from those of other tones.
        reason: why it is so, or empty.
    """

    word: str
    tone: str
    icon: str
    reason: str = ""


def scorer_status(row: Mapping[str, Any], engine: str) -> Status:
    """The state of a scorer.

    Args:
        row: of `ScorersView`.
        engine: its state.
    """
    if not row["active"]:
        return _inactive(row)
    if engine == "starting":
        return Status("waits", "wait", "pause_circle", "the engine is starting")
    if engine != "running":
        return Status("waits", "bad", "error", f"the engine is {engine}: nothing is scored")
    if row["problem"]:
        return Status("waits", "wait", "pause_circle", str(row["problem"]))
    if row["epoch"] is None:
        return Status("starting", "wait", "hourglass_top", "the engine takes it up in a moment")
    return Status("running", "good", "check_circle")


def _inactive(row: Mapping[str, Any]) -> Status:
    if not row["registered"]:
        return Status("deleted", "idle", "delete_outline")
    if row["units"]:
        return Status("stopped", "idle", "stop_circle", "start it again with .start(...)")
    return Status("not started", "idle", "radio_button_unchecked", "start it with .start(...)")


_DECISIONS = {
    "scored": Status("scored", "good", "check_circle"),
    "failed": Status("failed", "bad", "error"),
    "retrying": Status("retrying", "wait", "autorenew"),
    "waiting": Status("waiting", "wait", "hourglass_top"),
    "budget": Status("over budget", "bad", "money_off"),
    "incomplete": Status("incomplete", "bad", "broken_image"),
    "not_selected": Status("not selected", "idle", "remove_circle_outline"),
    "filtered": Status("filtered out", "idle", "filter_alt"),
    "evaluation_run": Status("evaluation run", "idle", "science"),
    "stopped": Status("stopped", "idle", "stop_circle"),
    "deleted": Status("deleted", "idle", "delete_outline"),
    "superseded": Status("superseded", "idle", "update"),
    "not_started": Status("before its start", "idle", "radio_button_unchecked"),
    "not_scored": Status("not scored", "idle", "remove_circle_outline"),
}


def decision_status(decision: str) -> Status:
    """What a decision of the ledger, or of an explanation, is called."""
    return _DECISIONS.get(decision, Status(decision.replace("_", " "), "idle", "help_outline"))
