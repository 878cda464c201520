"""The ledger adds up: also when traces are deleted, annotated again, or get their root late."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scoring_support import Plane, spans_record
from vedette.intake.records import Record
from vedette.scoring import plan as planning
from vedette.scoring.explain import Explainer
from vedette.scoring.sample import draw
from vedette.scoring.summary import scorers_summary

TURNS = "return len(session)"
BAD = "feedback.user_feedback = 'false'"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    plane = Plane(tmp_path)
    yield plane
    plane.close()


def trace_id(number: int) -> str:
    return f"tr-{number:032x}"


def u(number: int) -> float:
    return draw(trace_id(number))


def settle(plane: Plane) -> None:
    """Until everything is decided, and counted on disk."""
    plane.settle()
    plane.scoring.flush()
    plane.settle()


def delete(plane: Plane, *numbers: int) -> None:
    ids = [trace_id(number) for number in numbers]
    plane.arrive(Record("delete_traces", int(time.time() * 1000), {"trace_ids": ids}))


def start_of_run(number: int) -> Record:
    """What MLflow says of a trace that an evaluation makes."""
    header = {
        "trace_id": trace_id(number),
        "experiment_id": "0",
        "request_time": 1,
        "execution_duration": 1,
        "state": "OK",
        "client_request_id": None,
        "request_preview": None,
        "response_preview": None,
        "tags": {},
        "metadata": {"mlflow.sourceRun": "0123"},
        "assessments": [],
    }
    return Record("start_trace", int(time.time() * 1000), {"trace": header})


def waiting(plane: Plane, monkeypatch: pytest.MonkeyPatch, *records: Record) -> None:
    """These arrive and complete, but no scorer looks at them yet."""
    with monkeypatch.context() as patch:
        patch.setattr(planning, "_IN_FLIGHT", 0)
        plane.arrive(*records)
        plane.settle()


def strata(plane: Plane, name: str) -> dict[tuple[int, str], int]:
    """Units by stratum and decision."""
    found = plane.index.connection().execute(
        "SELECT stratum, decision, sum(units) FROM decision_counts WHERE scorer = ? GROUP BY 1, 2",
        (f"0/{name}",),
    )
    return {(stratum, decision): units for stratum, decision, units in found if units}


def live(plane: Plane, name: str) -> list[tuple[int, Any]]:
    rows = plane.index.connection().execute(
        "SELECT t.trace_id, a.value FROM assessments a JOIN traces t ON t.id = a.trace"
        " WHERE a.name = ? AND a.valid ORDER BY t.trace_id",
        (name,),
    )
    return [(int(trace[3:], 16), json.loads(value)) for trace, value in rows]


def told(plane: Plane, number: int, name: str = "probe") -> str:
    explainer = Explainer(plane.settings, plane.index, plane.selection)
    found = explainer.explain(trace_id(number), plane.scoring.active())
    assert found is not None
    return {one.scorer: one.text for one in found}[name]


def test_a_session_is_not_complete_before_its_traces_are(tmp_path: Path) -> None:
    plane = Plane(tmp_path, trace_completion_buffer=0.6, session_completion_buffer=0.1)
    plane.register("0", "turns", TURNS, of_sessions=True)
    plane.start("0", "turns")
    plane.settle()
    plane.arrive(*(spans_record("0", n, session="s", begun=n) for n in (1, 2)))
    plane.settle()
    assert live(plane, "turns") == [(1, 2)]

    plane.arrive(spans_record("0", 3, session="s", begun=3))
    plane.settle()
    assert live(plane, "turns") == [(1, 3)]
    assert sorted(plane.decisions("0", "turns")) == [("s", 0), ("s", 1)]
    plane.close()


def test_traces_deleted_before_their_turn_are_counted_by_the_scorers_of_their_experiment(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = plane.store.create_experiment("shop")
    for one in ("0", experiment):
        plane.register(one, "probe", "return True")
        plane.start(one, "probe")
    plane.settle()
    waiting(plane, monkeypatch, *(spans_record(experiment, n) for n in range(1, 5)))
    delete(plane, 1, 2)
    settle(plane)

    assert plane.counts(experiment, "probe") == {"deleted": 2, "scored": 2}
    assert plane.counts("0", "probe") == {}
    assert plane.scored(experiment, "probe") == [3, 4]


def test_a_trace_deleted_between_its_choice_and_its_scoring_is_counted(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.register("0", "probe", "return True")
    plane.start("0", "probe")
    plane.settle()
    payloads = plane.scoring._planner._payloads
    read = payloads.of

    def delete_first(*arguments: Any) -> Any:
        delete(plane, 1)
        plane.fold()
        return read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(payloads, "of", delete_first)
        plane.arrive(*(spans_record("0", n) for n in (1, 2)))
        settle(plane)

    assert plane.counts("0", "probe") == {"deleted": 1, "scored": 1}


def test_a_session_whose_first_trace_is_deleted_is_scored_by_what_is_left(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.register("0", "turns", TURNS, of_sessions=True)
    plane.start("0", "turns")
    plane.settle()
    records = [spans_record("0", n, session="s", begun=n) for n in (1, 2, 3)]
    records.append(spans_record("0", 4, session="gone"))
    waiting(plane, monkeypatch, *records)
    delete(plane, 1, 4)
    settle(plane)

    assert live(plane, "turns") == [(2, 2)]
    assert plane.counts("0", "turns") == {"scored": 1, "deleted": 1}
    assert told(plane, 3, "turns").startswith("scored by version 1")


def test_a_session_whose_first_trace_is_deleted_while_it_is_scored_keeps_its_score(
    plane: Plane,
) -> None:
    plane.register("0", "turns", f"import time\ntime.sleep(1)\n{TURNS}", of_sessions=True)
    plane.start("0", "turns")
    plane.settle()
    plane.arrive(*(spans_record("0", n, session="s", begun=n) for n in (1, 2)))
    deadline = time.monotonic() + 30
    while not plane.scoring.state()["scorers"]["0/turns"]["in_flight"]:
        assert time.monotonic() < deadline
        plane.fold()
        plane.scoring.tick()
    delete(plane, 1)
    plane.settle()

    assert live(plane, "turns") == [(2, 2)]
    assert plane.decisions("0", "turns")["s", 0]["trace_id"] == trace_id(2)


@pytest.mark.parametrize("filter_string", [None, BAD])
def test_a_trace_that_feedback_brings_into_a_stratum_is_counted_there_alone(
    plane: Plane, filter_string: str | None
) -> None:
    plane.register("0", "probe", "return True")
    plane.start("0", "probe", rate=1e-9, filter_string=filter_string, strata=[(BAD, 1.0)])
    plane.settle()
    plane.arrive(*(spans_record("0", n) for n in range(1, 11)))
    settle(plane)
    undrawn = "not_selected" if filter_string is None else "filtered"
    assert strata(plane, "probe") == {(-1, undrawn): 10}

    plane.annotate(3, "user_feedback", "false")
    settle(plane)

    assert strata(plane, "probe") == {(-1, undrawn): 9, (0, "scored"): 1}
    assert plane.scored("0", "probe") == [3]
    (row,) = [one for one in plane.decisions("0", "probe").values() if one["attempts"]]
    assert (row["stratum"], row["inclusion_probability"]) == (0, 1.0)


def test_traces_that_match_late_and_are_not_drawn_are_known_to_match(plane: Plane) -> None:
    plane.register("0", "probe", "return True")
    plane.start("0", "probe", rate=0.4, filter_string=BAD)
    plane.settle()
    numbers = range(1, 21)
    plane.arrive(*(spans_record("0", n) for n in numbers))
    settle(plane)
    assert plane.counts("0", "probe") == {"filtered": 20}
    late = [n for n in numbers if n % 2]
    for n in late:
        plane.annotate(n, "user_feedback", "false")
        plane.annotate(n + 1, "user_feedback", "true")
    settle(plane)

    drawn = [n for n in late if u(n) < 0.4]
    assert plane.scored("0", "probe") == drawn
    assert plane.counts("0", "probe") == {
        "filtered": 10,
        "scored": len(drawn),
        "not_selected": len(late) - len(drawn),
    }
    left = next(n for n in late if n not in drawn)
    assert told(plane, left) == f"not selected: u={u(left):.4f} >= rate 0.4 (epoch 1)"
    assert told(plane, 2).startswith("filtered out: ")


def test_feedback_before_the_first_look_has_a_trace_scored_once(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.register("0", "probe", "return True")
    plane.start("0", "probe", filter_string=BAD)
    plane.settle()
    waiting(plane, monkeypatch, spans_record("0", 1), spans_record("0", 2))
    with monkeypatch.context() as patch:
        patch.setattr(planning, "_IN_FLIGHT", 0)
        plane.annotate(1, "user_feedback", "false")
        plane.settle()
    settle(plane)

    assert plane.counts("0", "probe") == {"scored": 1, "filtered": 1}
    assert plane.decisions("0", "probe")[trace_id(1), 0]["attempts"] == 1


def test_a_root_that_comes_late_is_taken_back_from_where_it_was_counted(tmp_path: Path) -> None:
    plane = Plane(tmp_path, max_trace_age=0.2)
    plane.register("0", "probe", "return True")
    plane.start("0", "probe")
    plane.settle()
    plane.arrive(spans_record("0", 1, root=False))
    deadline = time.monotonic() + 20
    while plane.counts("0", "probe") != {"incomplete": 1}:
        assert time.monotonic() < deadline
        settle(plane)
    plane.start("0", "probe", rate=0.999)
    plane.settle()
    plane.arrive(spans_record("0", 1))
    settle(plane)

    found = plane.index.connection().execute(
        "SELECT epoch, decision, units FROM decision_counts WHERE units <> 0"
    )
    assert found.fetchall() == [(2, "scored", 1)]
    plane.close()


def test_a_root_that_comes_after_a_stop_takes_back_what_was_counted_before_it(
    tmp_path: Path,
) -> None:
    plane = Plane(tmp_path, max_trace_age=0.2)
    plane.register("0", "probe", "return True")
    plane.start("0", "probe")
    plane.settle()
    plane.arrive(spans_record("0", 1, root=False))
    deadline = time.monotonic() + 20
    while plane.counts("0", "probe") != {"incomplete": 1}:
        assert time.monotonic() < deadline
        settle(plane)
    for rate in (0.0, 1.0):
        plane.start("0", "probe", rate=rate)
        plane.settle()
    plane.arrive(spans_record("0", 1))
    settle(plane)

    assert plane.counts("0", "probe") == {"scored": 1}
    plane.close()


def test_a_trace_of_an_evaluation_run_without_its_root_is_counted_once(tmp_path: Path) -> None:
    plane = Plane(tmp_path, max_trace_age=0.2)
    plane.register("0", "probe", "return True")
    plane.start("0", "probe")
    plane.settle()
    plane.arrive(spans_record("0", 1, root=False), start_of_run(1))
    deadline = time.monotonic() + 20
    while plane.counts("0", "probe") != {"incomplete": 1}:
        assert time.monotonic() < deadline, plane.counts("0", "probe")
        settle(plane)
    plane.arrive(spans_record("0", 1))
    settle(plane)

    assert plane.counts("0", "probe") == {"evaluation_run": 1}
    plane.close()


def test_only_units_that_were_drawn_count_as_selected(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.register("0", "turns", TURNS, of_sessions=True)
    plane.start("0", "turns", rate=1e-9)
    plane.settle()
    waiting(plane, monkeypatch, spans_record("0", 1, session="s", begun=1))
    waiting(plane, monkeypatch, spans_record("0", 2, session="s", begun=2))
    settle(plane)
    assert plane.counts("0", "turns") == {"superseded": 1, "not_selected": 1}

    (row,) = scorers_summary(plane.index.connection(), plane.scoring.active(), {})
    assert (row["units"], row["selected"]) == (2, 0)


def test_a_session_that_goes_on_while_it_is_scored_counts_as_selected(plane: Plane) -> None:
    plane.register("0", "turns", f"import time\ntime.sleep(0.5)\n{TURNS}", of_sessions=True)
    plane.start("0", "turns")
    plane.settle()
    in_flight: Callable[[], int] = lambda: plane.scoring.state()["scorers"]["0/turns"]["in_flight"]  # noqa: E731
    plane.arrive(spans_record("0", 1, session="s", begun=1))
    while not in_flight():
        plane.fold()
        plane.scoring.tick()
    plane.arrive(spans_record("0", 2, session="s", begun=2))
    settle(plane)

    (row,) = scorers_summary(plane.index.connection(), plane.scoring.active(), {})
    assert plane.counts("0", "turns") == {"superseded": 1, "scored": 1}
    assert row["selected"] == 2
