"""What an order of completion says of another one that is made of the same arrivals."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scoring_support import spans_record
from vedette.intake.records import Record
from vedette.scoring.arrival_order import arrived_until, position_of
from vedette.scoring.completion import (
    CompletedUnit,
    Completion,
    completed_after,
    stored_cursors,
)
from vedette.scoring.resume import Resumption
from vedette.traces.fold import decoded, fold
from vedette.traces.index import TraceIndex

NOW = 1_767_300_000_000  # ms
TRACE_MS, SESSION_MS, AGE_MS = 10, 30, 60
SCORER = "1/probe"


def completion(index: TraceIndex) -> Completion:
    return Completion(
        index,
        trace_buffer=TRACE_MS / 1000,
        session_buffer=SESSION_MS / 1000,
        max_trace_age=AGE_MS / 1000,
    )


@dataclass
class Step:
    """Something arrives, or what is quiet becomes complete. Times are milliseconds."""

    after: int  # since the step before
    trace: int | None  # None: completion
    root: bool
    lag: int  # how much has been folded beyond what completion goes by

    @property
    def session(self) -> str | None:
        """Two of three traces are of a session."""
        return None if self.trace is None or self.trace % 3 == 0 else f"s-{self.trace % 2}"


def steps() -> st.SearchStrategy[list[Step]]:
    one = st.builds(
        Step,
        after=st.integers(1, 40),
        trace=st.none() | st.integers(1, 8),
        root=st.booleans(),
        lag=st.integers(0, 15),
    )
    return st.lists(one, min_size=1, max_size=40)


def decision(unit: CompletedUnit) -> dict[str, Any]:
    """A score of the unit."""
    found: dict[str, Any] = dict.fromkeys(
        [
            "error_code",
            "error",
            "first_attempt_ms",
            "next_attempt_ms",
            "milliseconds",
            "worker",
            "model",
            "input_tokens",
            "output_tokens",
            "cost_usd",
        ]
    )
    return found | {
        "unit_id": unit.unit_id,
        "unit_type": "trace" if unit.session_id is None else "session",
        "trace_id": unit.trace_id,
        "revision": unit.revision,
        "version": 1,
        "epoch": 1,
        "stratum": -1,
        "inclusion_probability": 1.0,
        "draw": 0.5,
        "decision": "scored",
        "scores": "[]",
        "attempts": 1,
        "calls": 0,
        "completed_ms": unit.completed_ms,
        "decided_ms": NOW,
        "origin": "live",
    }


def decisions(units: list[CompletedUnit], place: int, until: int, *, sessions: bool) -> Record:
    """The record of a scorer that has come to a place."""
    fields = {
        "scorer": SCORER,
        "cursor": None,
        "arrived_until": until,
        "epochs": [
            {
                "epoch": 1,
                "opened_ms": NOW,
                "after_position": 0,
                "after_arrival": 1,
                "of_sessions": sessions,
                "version": 1,
                "rate": 1.0,
                "filter": None,
                "strata": [],
                "reason": "started",
            }
        ],
        "decisions": [
            decision(one) for one in units if one.position <= place and one.reason != "incomplete"
        ],
        "counts": [],
        "put": [],
    }
    return Record("decisions", NOW + 1_000_000, fields)


def put_in(index: TraceIndex, record: Record) -> None:
    with index.transaction() as connection:
        fold(connection, [decoded(record)])


def last_arrivals(records: list[Record]) -> dict[str, int]:
    """When something of each trace and session arrived last, by its id."""
    found: dict[str, int] = {}
    for record in records:
        _, spans = decoded(record)
        for span in spans:
            found[span.trace_id] = record.at
            if (session := span.session_id) is not None:
                found[session] = record.at
    return found


def with_roots(records: list[Record]) -> set[str]:
    """Ids of the traces that have a root."""
    return {
        span.trace_id
        for record in records
        for span in decoded(record)[1]
        if span.parent_span_id is None
    }


def is_of(unit: CompletedUnit, *, sessions: bool) -> bool:
    return (unit.session_id is not None) == sessions


def newest(units: list[CompletedUnit]) -> dict[str, CompletedUnit]:
    """The last place of each unit."""
    return {unit.unit_id: unit for unit in units}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=steps(), sessions=st.booleans(), where=st.floats(0, 1))
def test_nothing_that_waited_is_passed_over_and_nothing_decided_comes_again(
    history: list[Step], sessions: bool, where: float
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        index = TraceIndex(Path(directory) / "index.db")
        records: list[Record] = []
        now, folded_until = NOW, NOW
        for step in history:
            now += step.after
            if step.trace is not None:
                record = spans_record("1", step.trace, root=step.root, at=now, session=step.session)
                records.append(record)
                put_in(index, record)
            else:
                folded_until = max(folded_until, now - step.lag)
                completion(index).advance(folded_until_ms=folded_until, annotations=False)
        units = completed_after(index, 0, 10_000)
        place = units[int(where * (len(units) - 1))].position if units and where else 0
        until = arrived_until(index, place, of_sessions=sessions)
        mine = [one for one in units if is_of(one, sessions=sessions)]
        scorer = decisions(mine, place, until, sessions=sessions)

        again = TraceIndex(Path(directory) / "again.db")
        resumption = Resumption(again, completion(again))
        for record in [*records, scorer]:
            resumption.note(record)
            put_in(again, record)
        assert resumption.finish(now, lambda _: None) == []

        cursor = stored_cursors(again)[SCORER]
        found = [one for one in completed_after(again, 0, 10_000) if is_of(one, sessions=sessions)]
        passed = [one for one in found if one.position <= cursor]
        behind = {(one.unit_id, one.reason == "incomplete") for one in passed}
        last, rooted = last_arrivals(records), with_roots(records)
        decided = {(one["unit_id"], one["revision"]) for one in scorer.fields["decisions"]}
        for one in newest([u for u in units if is_of(u, sessions=sessions)]).values():
            given_up = one.reason == "incomplete"
            if one.position > place and not (given_up and one.unit_id in rooted):
                assert (one.unit_id, given_up) not in behind
            elif one.position <= place and not given_up:
                buffer = SESSION_MS if sessions else TRACE_MS
                if last[one.unit_id] <= one.completed_ms - buffer:  # nothing came after that
                    assert (one.unit_id, False) in behind
        # A scorer decides each state of a session once
        for one in found:
            if one.session_id is not None and one.position > cursor:
                known = max((n for unit, n in decided if unit == one.unit_id), default=-1)
                completed = {(u.unit_id, u.revision): u.completed_ms for u in units}
                grown = known < 0 or last[one.unit_id] > completed[one.unit_id, known]
                assert one.revision == known + grown


def test_a_place_is_known_by_the_arrivals_before_it(tmp_path: Path) -> None:
    """Also amid traces that arrived in one request: they have an order of their own."""
    index, again = (TraceIndex(tmp_path / f"{name}.db") for name in ("one", "other"))
    records = [spans_record("1", n, at=NOW + n // 6, session=f"s-{n % 3}") for n in range(1, 13)]
    for record in records:
        put_in(index, record)
        completion(index).advance(folded_until_ms=record.at, annotations=False)
    completion(index).advance(folded_until_ms=NOW + 1000, annotations=False)
    for record in reversed(records):
        put_in(again, record)
    completion(again).advance(folded_until_ms=NOW + 1000, annotations=False)

    for sessions in (False, True):
        before, after = (
            [one for one in completed_after(each, 0, 100) if is_of(one, sessions=sessions)]
            for each in (index, again)
        )
        assert [one.unit_id for one in before] == [one.unit_id for one in after]
        assert arrived_until(index, 0, of_sessions=sessions) == 1
        assert position_of(again, 1, of_sessions=sessions) is None
        for one, same in zip(before, after, strict=True):
            until = arrived_until(index, one.position, of_sessions=sessions)
            assert position_of(again, until, of_sessions=sessions) == same.position


def test_places_of_one_read_model_are_none_of_another(tmp_path: Path) -> None:
    for name in ("one", "other"):
        index = TraceIndex(tmp_path / f"{name}.db")
        put_in(index, spans_record("1", 1, at=NOW))
        Resumption(index, completion(index)).finish(NOW + 1000, lambda _: None)
    places = [
        completed_after(TraceIndex(tmp_path / f"{name}.db"), 0, 10)[0].position
        for name in ("one", "other")
    ]
    assert 0 < places[0] < places[1]
