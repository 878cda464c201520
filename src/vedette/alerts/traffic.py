"""What alerts see of the traffic: units in the order in which they became complete."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from mlflow.tracing.constant import TraceMetadataKey

from vedette.alerts.rules import Rule
from vedette.alerts.scores import Scorer, as_number, score_of
from vedette.named_sql import statements
from vedette.scoring.arrival_order import DRAW_BITS
from vedette.traces.conditions import Sql, conjunction, prepare
from vedette.traces.filters import compile_filter
from vedette.traces.index import TraceIndex

_SQL = statements("vedette.alerts", "traffic")
_WINDOW_ROWS = 50_000
_LIVE = "NOT EXISTS (SELECT 1 FROM trace_metadata m WHERE m.trace = t.id AND m.key = ?)"
_STEPS = 5_000  # of SQLite's machine between two looks at the clock


class Unit(NamedTuple):
    """An independent unit: a trace of no session, or a session.

    Attributes:
        at_ms: when it was complete.
        trace_id: its trace, or the worst of the session's.
        scores: (value, weight) of each of its traces, in the order of completion.
        largest: what the weight of one trace of it could have been at most.
    """

    at_ms: int
    trace_id: str
    scores: tuple[tuple[float, float], ...]
    largest: float


class WindowRow(NamedTuple):
    """A scored trace, or a scored session, of a window."""

    session: str
    trace_id: str
    value: float
    weight: float


class Traffic:
    """Reads of the read model for one look. Not thread-safe.

    Args:
        patience: seconds that a statement may take before it is broken off.
    """

    def __init__(self, index: TraceIndex, patience: float = 10.0) -> None:
        self._index = index
        self._patience = patience

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Statements within take `patience` seconds in all, at most.

        Raises:
            sqlite3.OperationalError: they took longer.
        """
        connection = self._index.connection()
        prepare(connection)
        deadline = time.monotonic() + self._patience
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        try:
            yield
        finally:
            connection.set_progress_handler(None, 0)

    def identity(self) -> int:
        """Tells one read model from the next."""
        return int(self._one("identity"))

    def newest_place(self) -> int:
        """The place that was given last."""
        return int(self._one("newest_place"))

    def place_of_arrival(self, arrival: int) -> int:
        """The last place of what had arrived by then, see `vedette.scoring.arrival_order`."""
        return int(self._one("place_of_arrival", arrival))

    def arrival_of_place(self, place: int) -> int:
        """The last arrival up to a place; 0 if there is none."""
        return int(self._one("arrival_of_place", place) or 0)

    def place_before(self, at_ms: int) -> int:
        """The last place of traces whose last arrival was before that moment."""
        return self._before("place_at", self.newest_place(), at_ms)

    def first_trace_since(self, at_ms: int) -> int:
        """The lowest row of ``traces`` that arrived then or later; one more than the last if none
        did."""
        return self._before("received_at", int(self._one("newest_trace")), at_ms) + 1

    def scorer(self, rule: Rule) -> Scorer | None:
        """None: it was never started, or is stopped."""
        key = f"{rule.experiment_id}/{rule.condition.scorer}"
        cursor = self._one("cursor", key)
        epochs = self._all("epochs", key)
        if cursor is None or not epochs:
            return None
        largest = {}
        for epoch, rate, strata, _ in epochs:
            rates = [
                share for share in (rate, *(one for _, one in json.loads(strata))) if share > 0
            ]
            largest[epoch] = 1 / min(rates) if rates else 1.0
        return Scorer(int(cursor), largest, bool(epochs[-1][3]))

    def units(self, rule: Rule, scorer: Scorer | None, after: int, until: int) -> list[Unit]:
        """Those that have places after ``after`` and up to ``until``."""
        where = _slice(rule)
        place = (after, until, int(rule.experiment_id), *where.params)
        if scorer is not None and scorer.of_sessions:
            rows = self._read("scored_sessions", where, (self._key(rule), *place))
        elif scorer is None:
            rows = self._read("alone", where, place)
        else:
            rows = self._read("scored_alone", where, (self._key(rule), *place))
        units: dict[int, Unit] = {}
        for row in rows:
            number, weight, largest = score_of(rule, row, scorer)
            if number is not None:
                units[row[0]] = Unit(row[1], row[2], ((number, weight),), largest)
        if scorer is None or not scorer.of_sessions:
            units |= self._sessions(rule, scorer, where, after, until)
        return [units[place] for place in sorted(units)]

    def window(
        self, rule: Rule, scorer: Scorer | None, since_ms: int, until: int
    ) -> list[WindowRow]:
        """Scored traces (or sessions) whose last arrival was since then, up to a place; newest
        first, 50,000 at most."""
        where = _slice(rule)
        after = self.place_before(since_ms)
        rest = (int(rule.experiment_id), *where.params, _WINDOW_ROWS)
        if scorer is None:
            rows = self._read("window", where, (after, until, *rest))
        elif scorer.of_sessions:  # their places are not in the order of traces' arrivals
            arrived = (self._key(rule), after, until, since_ms << DRAW_BITS)
            rows = self._read("scored_sessions_window", where, (*arrived, *rest))
        else:
            rows = self._read("scored_window", where, (self._key(rule), after, until, *rest))
        scored = ((row[0], row[1], *score_of(rule, row, scorer)) for row in rows)
        return [
            WindowRow(session or f"trace {trace_id}", trace_id, number, weight)
            for session, trace_id, number, weight, _ in scored
            if number is not None
        ]

    def retrying(self, rule: Rule, since_ms: int) -> int:
        """How many units that were complete since then are to be scored again."""
        return int(self._one("retrying", self._key(rule), since_ms))

    def oldest_after(self, place: int) -> int | None:
        """When the first unit after a place was complete."""
        found = self._one("completed_at", place + 1)
        return None if found is None else int(found)

    def arrived(self, experiment_id: str, first: int, end: int) -> int:
        """How many traces of the experiment are among these rows."""
        return int(self._one("arrived", first, end, int(experiment_id)))

    def any_arrived(self, experiment_id: str, first: int) -> bool:
        """Whether a trace of the experiment is among those from this row on."""
        return bool(self._one("any_arrived", first, int(experiment_id)))

    def first_arrival(self, experiment_id: str) -> int | None:
        """When the experiment's first trace came."""
        found = self._one("first_arrival", int(experiment_id))
        return None if found is None else int(found)

    def cost(self, experiment_id: str) -> float:
        """US dollars that the experiment's judges have cost so far."""
        return float(self._one("cost", experiment_id))

    def feedback(
        self, experiment_id: str, after_ms: int, until_ms: int
    ) -> list[tuple[str, str | None, float]]:
        """(trace, session, 1 for positive and 0 for negative): the latest of each user and trace
        that was given then."""
        rows = self._all("feedback", int(experiment_id), after_ms, until_ms)
        values = (
            (trace, session, as_number(json.loads(value))) for trace, session, value, _ in rows
        )
        return [(trace, session, float(v > 0)) for trace, session, v in values if v is not None]

    def judged(
        self, experiment_id: str, trace_ids: Sequence[str]
    ) -> dict[str, tuple[float, float]]:
        """(mean of the judges' scores, weight) of those that were scored with shares."""
        found: dict[str, list[tuple[float, float]]] = {}
        ids = json.dumps(list(dict.fromkeys(trace_ids)))
        for trace_id, scores, probability in self._all("judged", ids, experiment_id):
            for one in json.loads(scores):
                value = as_number(one["value"])
                if value is not None and 0 <= value <= 1:
                    found.setdefault(trace_id, []).append((value, 1 / probability))
        return {
            trace_id: (sum(v for v, _ in all_) / len(all_), max(w for _, w in all_))
            for trace_id, all_ in found.items()
        }

    def _sessions(
        self, rule: Rule, scorer: Scorer | None, where: Sql, after: int, until: int
    ) -> dict[int, Unit]:
        complete = self._all("sessions", after, until, int(rule.experiment_id))
        if not complete:
            return {}
        ids = json.dumps([session for _, _, session in complete])
        last = max(at for _, at, _ in complete)
        shared = (int(rule.experiment_id), last, *where.params)
        if scorer is None:
            rows = self._read("of_sessions", where, (ids, *shared))
        else:
            rows = self._read("scored_of_sessions", where, (ids, self._key(rule), *shared))
        traces: dict[str, list[tuple[str, float, float, float]]] = {}
        for session, trace_id, *rest in rows:
            number, weight, largest = score_of(rule, rest, scorer)
            if number is not None:
                traces.setdefault(session, []).append((trace_id, number, weight, largest))
        units = {}
        for place, at, session in complete:
            if its := traces.get(session):
                worst = min(its, key=lambda one: one[1])[0]
                scores = tuple((number, weight) for _, number, weight, _ in its)
                units[place] = Unit(at, worst, scores, max(one[3] for one in its))
        return units

    def _before(self, name: str, newest: int, at_ms: int) -> int:
        """The last row before a moment, of a table whose times ascend with its numbers."""
        low, high = 0, newest
        while low < high:
            middle = (low + high) // 2 + 1
            row = self._index.connection().execute(_SQL[name], (middle,)).fetchone()
            if row is None or row[1] >= at_ms:
                high = middle - 1
            else:
                low = row[0]
        return low

    def _key(self, rule: Rule) -> str:
        return f"{rule.experiment_id}/{rule.condition.scorer}"

    def _read(self, name: str, where: Sql, values: tuple[Any, ...]) -> list[Any]:
        # Not the % operator: a slice's SQL may have signs of its own
        statement = _SQL[name].replace("(%s)", f"({where.text})")
        return self._index.connection().execute(statement, values).fetchall()

    def _all(self, name: str, *values: Any) -> list[Any]:
        return self._index.connection().execute(_SQL[name], values).fetchall()

    def _one(self, name: str, *values: Any) -> Any:
        row = self._index.connection().execute(_SQL[name], values).fetchone()
        return None if row is None else row[0]


def _slice(rule: Rule) -> Sql:
    """Which traces count: those of the slice, and none that evaluations made."""
    wanted = compile_filter(rule.slice, [int(rule.experiment_id)]).where()
    return conjunction([wanted, Sql(_LIVE, (TraceMetadataKey.SOURCE_RUN,))])
