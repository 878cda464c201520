"""What became of the demo's traces: how many were scored and passed, by scorer and version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from mlflow.entities import TraceInfo
from rich.table import Table

from vedette.quality.wilson import wilson

VERSION_TAG = "agent_version"


class Score(NamedTuple):
    """What one scorer said of one trace, and when (milliseconds since the epoch)."""

    passed: bool
    at: int


@dataclass
class Tally:
    """One scorer's results on the traces of one agent version."""

    traces: int = 0
    scored: int = 0
    passed: int = 0

    def rate(self) -> str:
        """The pass rate in percent with its 95 % interval, as text."""
        if not self.scored:
            return "no scores"
        rate, low, high = map(float, wilson(self.passed / self.scored, self.scored))
        return f"{rate:.0%} ({low * 100:.0f}-{high:.0%})"


def score_of(trace: TraceInfo, scorer: str) -> Score | None:
    """The scorer's valid feedback on the trace; None if there is none, or only an error."""
    for assessment in trace.assessments or []:
        feedback = assessment.feedback
        if assessment.name == scorer and feedback and assessment.valid is not False:
            if feedback.error is not None:
                return None
            return Score(feedback.value is True, assessment.create_time_ms or 0)
    return None


def count_scored(traces: Iterable[TraceInfo], scorers: Sequence[str]) -> int:
    """How many traces every one of the scorers has given a value."""
    return sum(all(score_of(trace, scorer) for scorer in scorers) for trace in traces)


def tally(traces: Iterable[TraceInfo], scorers: Sequence[str]) -> dict[tuple[str, str], Tally]:
    """The results by (scorer, agent version)."""
    tallies: dict[tuple[str, str], Tally] = {}
    for trace in traces:
        for scorer in scorers:
            one = tallies.setdefault((scorer, trace.tags[VERSION_TAG]), Tally())
            one.traces += 1
            if score := score_of(trace, scorer):
                one.scored += 1
                one.passed += score.passed
    return tallies


def seconds_to_score(traces: Iterable[TraceInfo], scorers: Sequence[str]) -> float:
    """The median time from a trace's end to a score of it, in seconds."""
    return median(
        (score.at - trace.request_time - (trace.execution_duration or 0)) / 1000
        for trace in traces
        for scorer in scorers
        if (score := score_of(trace, scorer))
    )


def failing_trace(traces: Iterable[TraceInfo], scorers: Sequence[str]) -> TraceInfo | None:
    """A trace that went well for the agent (state OK) but failed every scorer, or else some."""

    def failures(trace: TraceInfo) -> int:
        scores = [score_of(trace, scorer) for scorer in scorers]
        return sum(score is not None and not score.passed for score in scores)

    failed = [trace for trace in traces if trace.state == "OK" and failures(trace)]
    return max(failed, key=failures, default=None)


def table(tallies: dict[tuple[str, str], Tally], scorers: Sequence[str]) -> Table:
    """One row per scorer: how many traces, how many scored, the pass rate before and after."""
    versions = sorted({version for _, version in tallies})
    shown = Table()
    shown.add_column("scorer", no_wrap=True)
    shown.add_column("traces", justify="right", no_wrap=True, min_width=6)
    shown.add_column("scored", justify="right", no_wrap=True, min_width=6)
    for version in versions:
        shown.add_column(f"pass rate {version}", justify="right", no_wrap=True)
    for scorer in scorers:
        of_scorer = [tallies[scorer, version] for version in versions]
        shown.add_row(
            scorer,
            str(sum(one.traces for one in of_scorer)),
            str(sum(one.scored for one in of_scorer)),
            *(one.rate() for one in of_scorer),
        )
    return shown
