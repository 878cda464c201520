"""Why a trace has the scores it has: for each scorer what was decided, and why, in one line."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.tracing.constant import TraceMetadataKey

from vedette.scoring.active import ActiveScorer
from vedette.scoring.completion import CompletedUnit, completed_after, stored_cursors
from vedette.scoring.epochs import Epochs, stored_epochs
from vedette.scoring.selection import SELECTED, Choice, Selection
from vedette.settings import Settings
from vedette.sql import statements
from vedette.traces.index import TraceIndex

_SQL = statements("vedette.scoring", "summary")


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one scorer did with a trace, or with the session it belongs to.

    Attributes:
        scorer: its name.
        unit_type: ``trace`` or ``session``.
        decision: as in the ledger, or ``waiting`` or ``not_started``.
        text: the decision and its reason, for people.
        details: what else is known: probabilities, attempts, times (ms since the epoch), cost.
    """

    scorer: str
    unit_type: str
    decision: str
    text: str
    details: dict[str, Any]


class Explainer:
    """Explains traces from the read model.

    Args:
        settings: whose completion buffers hold.
        selection: decides again what leaves no row of its own.
    """

    def __init__(self, settings: Settings, index: TraceIndex, selection: Selection) -> None:
        self._settings = settings
        self._index = index
        self._selection = selection

    def explain(self, trace_id: str, active: Iterable[ActiveScorer]) -> list[Explanation] | None:
        """One explanation for each scorer that has to do with the trace; None if there is no such
        trace.

        Args:
            active: the scorers that are started now.
        """
        connection = self._index.connection()
        row = connection.execute(_SQL["trace"], {"trace_id": trace_id}).fetchone()
        if row is None:
            return None
        trace = _Trace(*row)
        found = {one.scorer: one for one in self._decided(trace)}
        cursors, epochs = stored_cursors(self._index), stored_epochs(self._index)
        for scorer in active:
            if scorer.experiment_id != str(trace.experiment_id) or scorer.name in found:
                continue
            unit_type = "session" if scorer.is_session_level else "trace"
            cursor = cursors.get(scorer.key)
            if scorer.invalid is not None:
                known = "waiting", f"waiting: {scorer.invalid}"
            elif cursor is None:
                known = "waiting", "waiting: the engine has not taken the scorer up yet"
            else:
                known = self._undecided(trace, scorer, cursor, Epochs(epochs.get(scorer.key, ())))
            found[scorer.name] = Explanation(scorer.name, unit_type, *known, {})
        return [found[name] for name in sorted(found)]

    def _decided(self, trace: _Trace) -> Iterator[Explanation]:
        units = [trace.trace_id] + ([trace.session_id] if trace.session_id else [])
        for unit_id in units:
            rows = self._index.connection().execute(_SQL["decisions"], {"unit_id": unit_id})
            names = [column[0] for column in rows.description]
            for row in rows:
                details = dict(zip(names, row, strict=True))
                experiment_id, _, name = details.pop("scorer").partition("/")
                if experiment_id == str(trace.experiment_id):
                    unit_type, decision = details["unit_type"], details["decision"]
                    yield Explanation(name, unit_type, decision, _told(details), details)

    def _undecided(
        self, trace: _Trace, scorer: ActiveScorer, cursor: int, epochs: Epochs
    ) -> tuple[str, str]:
        """What holds for a unit that has no row in the ledger."""
        places = self._places(trace, of_session=scorer.is_session_level)
        if not places:
            return "waiting", self._incompleteness(trace, of_session=scorer.is_session_level)
        last = places[-1]
        if last > cursor:
            values = {"cursor": cursor, "place": last}
            (ahead,) = self._index.connection().execute(_SQL["ahead"], values).fetchone()
            return "waiting", f"waiting: complete, {ahead - 1:,} units are before it"
        if epochs.current is None or places[0] <= epochs.begin:
            return "not_started", "not scored: it was complete before the scorer was started"
        return self._decide_again(scorer, epochs, places)

    def _places(self, trace: _Trace, *, of_session: bool) -> list[int]:
        if of_session:
            values = {"session_id": trace.session_id, "experiment_id": trace.experiment_id}
            found = self._index.connection().execute(_SQL["session_places"], values)
        else:
            found = self._index.connection().execute(_SQL["places"], {"trace": trace.row})
        return [place for (place,) in found]

    def _incompleteness(self, trace: _Trace, *, of_session: bool) -> str:
        if of_session and trace.session_id is None:
            return f"not scored: the trace has no session ({TraceMetadataKey.TRACE_SESSION})"
        if not trace.has_root:
            age = self._settings.max_trace_age
            return (
                f"waiting: no root span that ended has arrived; given up {age:g} s after its start"
            )
        buffer = (
            self._settings.session_completion_buffer
            if of_session
            else self._settings.trace_completion_buffer
        )
        quiet = max(0.0, time.time() - trace.last_received_ms / 1000)
        what = "session" if of_session else "trace"
        return (
            f"waiting: the {what} is complete when nothing came for {buffer:g} s; "
            f"the last arrival was {quiet:.0f} s ago"
        )

    def _decide_again(
        self, scorer: ActiveScorer, epochs: Epochs, places: Sequence[int]
    ) -> tuple[str, str]:
        """Filter and hash decide now as they did then."""
        for place in reversed(places):
            epoch, _ = epochs.at(place - 1)
            units = completed_after(self._index, place - 1, 1)
            try:
                choices = self._selection.choose(scorer, epochs, epoch, units)
            except MlflowException as error:
                return "waiting", f"waiting: its filter can't be used: {error.message}"
            if counted := [choice for choice in choices if choice.count > 0]:
                return _chosen(counted[0], units[0])
        return "not_scored", "not scored: it is none of the units of this scorer"


@dataclass(frozen=True, slots=True)
class _Trace:
    row: int
    trace_id: str
    experiment_id: int
    session_id: str | None
    has_root: int
    last_received_ms: int


def _chosen(choice: Choice, unit: CompletedUnit) -> tuple[str, str]:
    rate = choice.epoch.probability(choice.stratum)
    texts = {
        "not_selected": f"not selected: u={choice.draw:.4f} >= rate {rate:g}",
        "filtered": f"filtered out: {choice.epoch.filter_string!r} doesn't match",
        "evaluation_run": "not scored: an evaluation run made the trace, and scores it",
        "incomplete": "incomplete: no root span that ended arrived in time",
        "superseded": f"superseded: revision {unit.revision} has a newer one",
        # In the sample by today's annotations, but no row: it didn't match when it was looked at
        SELECTED: "not scored: it didn't match the filter when it became complete",
    }
    return choice.decision, texts[choice.decision] + f" (epoch {choice.epoch.number})"


def _told(details: dict[str, Any]) -> str:
    decision = details["decision"]
    chance = (
        f"u={details['draw']:.4f} < rate {details['inclusion_probability']:g}, "
        f"epoch {details['epoch']}"
    )
    if decision == "retrying":
        at = datetime.fromtimestamp(details["next_attempt_ms"] / 1000, UTC)
        return (
            f"retrying: {details['error_code']}, attempt {details['attempts']}, "
            f"next at {at:%Y-%m-%d %H:%M:%S} UTC: {details['error']}"
        )
    if decision == "failed":
        return f"failed: {details['error_code']}: {details['error']} ({chance})"
    if decision == "budget":
        return f"over budget: {details['error']} ({chance})"
    if decision == "superseded":
        return "superseded: the session went on before it was scored"
    took = "" if details["milliseconds"] is None else f" in {details['milliseconds']:.0f} ms"
    return f"scored by version {details['version']}{took} ({chance})"
