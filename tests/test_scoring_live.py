"""Every complete trace is scored once by every scorer that is to score it, and by no other."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from scoring_support import Plane, make_control_database, spans_record
from vedette.intake.journal import JournalFull
from vedette.intake.records import Record
from vedette.scoring.sample import draw
from vedette.traces import patterns

numbers = itertools.count(1_000)
experiments = itertools.count(1)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    data = tmp_path_factory.mktemp("live")
    make_control_database(data / "control.db")
    plane = Plane(data)
    yield plane
    plane.close()


@pytest.fixture
def experiment(plane: Plane) -> str:
    created: str = plane.store.create_experiment(f"experiment {next(experiments)}")
    return created


def arrive(plane: Plane, experiment: str, count: int, **span: Any) -> list[int]:
    """New traces, complete with their one span; their numbers."""
    arrived = [next(numbers) for _ in range(count)]
    plane.arrive(*(spans_record(experiment, number, **span) for number in arrived))
    return arrived


def test_every_complete_trace_is_scored_once(plane: Plane, experiment: str) -> None:
    plane.register(experiment, "same", "return inputs")
    plane.start(experiment, "same")
    first = arrive(plane, experiment, 100)
    plane.settle()
    second = arrive(plane, experiment, 20)
    plane.settle()

    scores = plane.scores(experiment, "same")

    assert sorted(score.number for score in scores) == first + second
    assert all(score.value == score.number for score in scores)
    assert {score.metadata["mlflow.assessment.scorerVersion"] for score in scores} == {"1"}


def test_scores_are_made_in_the_order_of_arrival(plane: Plane, experiment: str) -> None:
    plane.settle()
    late, early = next(numbers), next(numbers)
    arrivals = ((late, False), (early, True), (late, True))
    for number, root in arrivals:
        plane.arrive(spans_record(experiment, number, root=root))
        time.sleep(0.005)  # the order is that of milliseconds
    plane.settle()

    order = plane.index.connection().execute(
        "SELECT t.trace_id FROM completed c JOIN traces t ON t.id = c.trace"
        " WHERE t.experiment_id = ? ORDER BY c.position",
        (int(experiment),),
    )
    assert [int(trace_id[3:], 16) for (trace_id,) in order] == [early, late]


def test_a_trace_without_its_root_waits_and_one_that_grows_later_is_not_scored_again(
    plane: Plane, experiment: str
) -> None:
    plane.register(experiment, "same", "return inputs")
    plane.start(experiment, "same")
    [whole] = arrive(plane, experiment, 1)
    [rootless] = arrive(plane, experiment, 1, root=False)
    plane.settle()
    assert plane.scored(experiment, "same") == [whole]
    before = plane.decisions(experiment, "same")

    plane.arrive(spans_record(experiment, whole, root=False))
    plane.settle()
    assert plane.decisions(experiment, "same") == before

    plane.arrive(spans_record(experiment, rootless))
    plane.settle()
    assert plane.scored(experiment, "same") == sorted([whole, rootless])


def test_samples_are_those_of_the_hash_and_lie_in_one_another(
    plane: Plane, experiment: str
) -> None:
    for name, rate in (("all", 1.0), ("half", 0.5), ("few", 0.1)):
        plane.register(experiment, name, "return True")
        plane.start(experiment, name, rate=rate)
    arrived = arrive(plane, experiment, 300)
    plane.settle()

    for name, rate in (("all", 1.0), ("half", 0.5), ("few", 0.1)):
        expected = [number for number in arrived if draw(f"tr-{number:032x}") < rate]
        assert plane.scored(experiment, name) == expected
    assert 0 < len(plane.scored(experiment, "few")) < 60


def test_only_traces_that_match_the_filter_are_scored(plane: Plane, experiment: str) -> None:
    plane.register(experiment, "tools", "return True")
    plane.register(experiment, "content", "return True")
    plane.start(experiment, "tools", filter_string="span.name = 'tool'")
    arrive(plane, experiment, 3, name="agent")
    tools = arrive(plane, experiment, 3, name="tool")
    content = f"span.content LIKE '%\"{tools[1]}\"%'"  # the number is the root's input
    plane.start(experiment, "content", filter_string=content)
    plane.settle()

    assert plane.scored(experiment, "tools") == tools
    assert plane.scored(experiment, "content") == [tools[1]]


def test_a_filter_that_makes_no_sense_stops_its_scorer_only(plane: Plane, experiment: str) -> None:
    for name, filter_string in (("bad", "no such thing"), ("good", None)):
        plane.register(experiment, name, "return True")
        plane.start(experiment, name, filter_string=filter_string)
    arrived = arrive(plane, experiment, 3)
    plane.settle()

    assert plane.scored(experiment, "good") == arrived
    assert plane.scored(experiment, "bad") == []
    problem = plane.scoring.state()["scorers"][f"{experiment}/bad"]["problem"]
    assert "filter can't be used" in problem

    plane.start(experiment, "bad")  # without a filter: it goes on where it stopped
    plane.settle()
    assert plane.scored(experiment, "bad") == arrived


def test_a_filter_that_would_take_for_ever_stops_its_scorer_only(
    plane: Plane, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "_SECONDS", 0.1)
    # Trace ids are mostly zeros here
    for name, filter_string in (("slow", "request_id RLIKE '-(0|0)*$'"), ("good", None)):
        plane.register(experiment, name, "return True")
        plane.start(experiment, name, filter_string=filter_string)
    arrived = arrive(plane, experiment, 3)
    plane.settle()

    assert plane.scored(experiment, "good") == arrived
    problem = plane.scoring.state()["scorers"][f"{experiment}/slow"]["problem"]
    assert "RLIKE" in problem
    plane.start(experiment, "slow", rate=0.0)  # it would hold up the tests that follow


def test_traces_of_evaluation_runs_are_not_scored(plane: Plane, experiment: str) -> None:
    plane.register(experiment, "same", "return inputs")
    plane.start(experiment, "same")
    [of_run] = arrive(plane, experiment, 1)
    plane.arrive(
        Record(
            "start_trace",
            6_000,
            {
                "trace": {
                    "trace_id": f"tr-{of_run:032x}",
                    "experiment_id": experiment,
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
            },
        )
    )
    [live] = arrive(plane, experiment, 1)
    plane.settle()

    assert plane.scored(experiment, "same") == [live]


def test_a_scorer_scores_what_comes_after_its_start(plane: Plane, experiment: str) -> None:
    plane.register(experiment, "same", "return inputs")
    arrive(plane, experiment, 3)
    plane.settle()
    plane.start(experiment, "same")
    first = arrive(plane, experiment, 2)
    plane.settle()
    plane.start(experiment, "same", rate=0)
    plane.settle()
    arrive(plane, experiment, 3)
    plane.settle()
    plane.start(experiment, "same")
    second = arrive(plane, experiment, 2)
    plane.settle()

    assert plane.scored(experiment, "same") == first + second


def test_a_deleted_scorer_leaves_nothing_behind(plane: Plane, experiment: str) -> None:
    plane.register(experiment, "same", "return inputs")
    plane.start(experiment, "same")
    first = arrive(plane, experiment, 2)
    plane.settle()
    plane.store.delete_scorer(experiment, "same")
    plane.settle()
    arrive(plane, experiment, 2)
    plane.settle()

    assert plane.scored(experiment, "same") == first
    cursors = plane.index.connection().execute("SELECT scorer FROM scorer_cursors").fetchall()
    assert (f"{experiment}/same",) not in cursors


def test_the_next_version_takes_over(plane: Plane, experiment: str) -> None:
    plane.register(experiment, "version", "return 'old'")
    plane.start(experiment, "version")
    first = arrive(plane, experiment, 2)
    plane.settle()
    plane.register(experiment, "version", "return 'new'")
    second = arrive(plane, experiment, 2)
    plane.settle()

    by_value = {(score.number, score.value) for score in plane.scores(experiment, "version")}
    assert by_value == {(n, "old") for n in first} | {(n, "new") for n in second}


def test_a_bad_scorer_does_not_hold_up_a_good_one(plane: Plane, experiment: str) -> None:
    bad = "if inputs % 2: import os; os._exit(1)\nraise ValueError('even')"
    for name, body in (("bad", bad), ("good", "return inputs")):
        plane.register(experiment, name, body)
        plane.start(experiment, name)
    arrived = arrive(plane, experiment, 6)
    plane.settle()

    assert plane.scored(experiment, "good") == arrived
    codes = {s.number: (s.error or {})["error_code"] for s in plane.scores(experiment, "bad")}
    assert codes == {n: "SCORER_CRASHED" if n % 2 else "SCORER_ERROR" for n in arrived}


def test_deleted_traces_are_passed_over(plane: Plane, experiment: str) -> None:
    plane.register(experiment, "same", "return inputs")
    plane.start(experiment, "same")
    gone, kept = arrive(plane, experiment, 2)
    plane.fold()
    plane.scoring.tick()  # both are on their way
    plane.arrive(Record("delete_traces", 9_000, {"trace_ids": [f"tr-{gone:032x}"]}))
    plane.settle()

    assert plane.scored(experiment, "same") == [kept]


def test_scores_wait_for_a_journal_that_is_full(
    plane: Plane, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.register(experiment, "same", "return inputs")
    plane.start(experiment, "same")
    first = arrive(plane, experiment, 2)
    plane.settle()
    second = arrive(plane, experiment, 40)
    with monkeypatch.context() as patch:
        patch.setattr(plane.engine_journal, "_max_bytes", 0)
        with pytest.raises(JournalFull):
            plane.settle()
        assert plane.scored(experiment, "same") == first
    plane.settle()

    assert plane.scored(experiment, "same") == first + second
