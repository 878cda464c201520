"""Why a trace has the scores it has: for each scorer what was decided, and why, in one line."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.tracing.constant import TraceMetadataKey

from vedette.intake.records import Stream
from vedette.named_sql import statements
from vedette.scoring.active import ActiveScorer
from vedette.scoring.backfills import REUSED
from vedette.scoring.completion import CompletedUnit, completed_after, stored_cursors
from vedette.scoring.epochs import Epoch, Epochs, stored_epochs
from vedette.scoring.running_backfills import is_backfill
from vedette.scoring.selection import SELECTED, Choice, Selection
from vedette.scoring.stopping import left_behind
from vedette.settings import Settings
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

    def explain(
        self,
        trace_id: str,
        active: Iterable[ActiveScorer],
        engine: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> list[Explanation] | None:
        """One explanation for each scorer that has to do with the trace, also those that have been
        stopped since; None if there is no such trace.

        Args:
            active: the scorers that are started now.
            engine: what it last published of its scorers, by scorer key.
        """
        connection = self._index.connection()
        row = connection.execute(_SQL["trace"], {"trace_id": trace_id}).fetchone()
        if row is None:
            return None
        trace = _Trace(*row)
        epochs, cursors = stored_epochs(self._index), stored_cursors(self._index)
        held = {key: _held(state) for key, state in (engine or {}).items()}
        found = {one.scorer: one for one in self._decided(trace, epochs, held)}
        scorers = {
            key: left_behind(key, known) for key, known in epochs.items() if not is_backfill(key)
        }
        scorers |= {scorer.key: scorer for scorer in active}
        for key, scorer in scorers.items():
            if scorer.experiment_id != str(trace.experiment_id) or scorer.name in found:
                continue
            unit_type = "session" if scorer.is_session_level else "trace"
            if scorer.invalid is not None:
                known = "waiting", f"waiting: {scorer.invalid}"
            elif scorer.sample_rate and key not in cursors:
                known = "waiting", "waiting: the engine has not taken the scorer up yet"
            else:
                known = self._undecided(
                    trace, scorer, cursors.get(key), epochs.get(key, Epochs()), held.get(key, "")
                )
            found[scorer.name] = Explanation(scorer.name, unit_type, *known, {})
        return [found[name] for name in sorted(found)]

    def _decided(
        self, trace: _Trace, epochs: Mapping[str, Epochs], held: Mapping[str, str]
    ) -> Iterator[Explanation]:
        units = [trace.trace_id] + ([trace.session_id] if trace.session_id else [])
        for unit_id in units:
            rows = self._index.connection().execute(_SQL["decisions"], {"unit_id": unit_id})
            names = [column[0] for column in rows.description]
            for row in rows:  # what was decided last holds, whoever asked for it
                details = dict(zip(names, row, strict=True))
                key = details.pop("scorer")
                stream, decision = Stream.of(key), details["decision"]
                if stream.job is not None and decision in (REUSED, "superseded", "stopped"):
                    continue  # that says nothing new of the unit
                if stream.experiment_id == str(trace.experiment_id):
                    unit_type = details["unit_type"]
                    text = _told(details, epochs.get(key, Epochs()))
                    if decision == "retrying":
                        text += held.get(key, "")
                    if stream.job is not None:
                        text += f", in backfill {stream.job}"
                    yield Explanation(stream.scorer, unit_type, decision, text, details)

    def _undecided(
        self, trace: _Trace, scorer: ActiveScorer, cursor: int | None, epochs: Epochs, held: str
    ) -> tuple[str, str]:
        """What holds for a unit that has no row in the ledger.

        Args:
            cursor: None: the scorer is stopped.
        """
        places = self._places(trace, of_session=scorer.is_session_level)
        if not places and cursor is None:
            return "not_started", "not scored: the scorer is stopped or deleted"
        if not places:
            return "waiting", self._incompleteness(trace, of_session=scorer.is_session_level)
        if cursor is not None and places[-1] > cursor:
            values = {"cursor": cursor, "place": places[-1]}
            (ahead,) = self._index.connection().execute(_SQL["ahead"], values).fetchone()
            return "waiting", f"waiting: complete, {ahead - 1:,} units are before it{held}"
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
            max(self._settings.session_completion_buffer, self._settings.trace_completion_buffer)
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
        known: tuple[str, str] | None = None
        for place in reversed(places):
            epoch = epochs.holding(place)
            if epoch is not None and epoch.left:
                return "stopped", "stopped or deleted before the unit's turn came"
            if epoch is None or epoch.stopped:
                when = "before the scorer was started" if epoch is None else "while it was stopped"
                known = known or ("not_started", f"not scored: it was complete {when}")
                continue
            units = completed_after(self._index, place - 1, 1)
            try:
                choices = self._selection.choose(scorer, epochs, epoch, units)
            except MlflowException as error:
                return "waiting", f"waiting: its filter can't be used: {error.message}"
            if counted := [choice for choice in choices if choice.count > 0]:
                return _chosen(counted[0], units[0])
        return known or ("not_scored", "not scored: it is none of the units of this scorer")


@dataclass(frozen=True, slots=True)
class _Trace:
    row: int
    trace_id: str
    experiment_id: int
    session_id: str | None
    has_root: int
    last_received_ms: int


def _held(state: Mapping[str, Any]) -> str:
    """What keeps a scorer from going on, as it is put behind what waits for it."""
    if reason := state.get("problem"):
        return f"; the scorer waits: {reason}"
    return f"; {note}" if (note := state.get("note")) else ""


def _chosen(choice: Choice, unit: CompletedUnit) -> tuple[str, str]:
    texts = {
        "evaluation_run": "not scored: an evaluation run made the trace, and scores it",
        "incomplete": "incomplete: no root span that ended arrived in time",
        "superseded": f"superseded: revision {unit.revision} has a newer one",
        # In the sample, but without a row: such as after a rebuild of the read model
        SELECTED: "not scored: it was selected, but no decision was recorded",
    }
    text = texts.get(choice.decision) or _undrawn(
        choice.decision, choice.epoch, choice.stratum, choice.draw
    )
    return choice.decision, f"{text} (epoch {choice.epoch.number})"


def _undrawn(decision: str, epoch: Epoch | None, stratum: int, draw: float) -> str:
    """Why a unit is not in the sample."""
    if epoch is None:
        return decision.replace("_", " ")
    if decision == "filtered":
        return f"filtered out: {epoch.filter_string!r} doesn't match"
    return f"not selected: u={draw:.4f} >= rate {epoch.probability(stratum):g}"


def _told(details: dict[str, Any], epochs: Epochs) -> str:
    decision = details["decision"]
    if decision in ("filtered", "not_selected"):
        number, stratum, draw = details["epoch"], details["stratum"], details["draw"]
        return f"{_undrawn(decision, epochs.numbered(number), stratum, draw)} (epoch {number})"
    if decision == "superseded":
        return "superseded: the session went on before it was scored"
    error = details["error"]
    match decision:
        case "retrying":
            at = datetime.fromtimestamp(details["next_attempt_ms"] / 1000, UTC)
            text = (
                f"retrying: {details['error_code']}, attempt {details['attempts']}, "
                f"next at {at:%Y-%m-%d %H:%M:%S} UTC: {error}"
            )
        case "failed":
            text = f"failed: {details['error_code']}: {error}"
        case "budget":
            text = f"over budget: {error}"
        case "stopped" | "deleted":
            text = f"{decision}: {error}"
        case _:
            took = details["milliseconds"]
            text = f"scored by version {details['version']}"
            text += "" if took is None else f" in {took:.0f} ms"
    return (
        f"{text} (u={details['draw']:.4f} < rate {details['inclusion_probability']:g}, "
        f"epoch {details['epoch']})"
    )
