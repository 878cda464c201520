"""Judges in the engine: what fails for the time being is tried again, across restarts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.fake_llm import FakeLLM, Reply, completion, error, verdict
from mlflow.entities import ExperimentTag
from mlflow.genai.judges import make_judge

from scoring_support import Plane, spans_record
from vedette.intake.records import Record
from vedette.scoring import backoff, breaker
from vedette.scoring.active import BUDGET_TAG


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLLM]:
    server = FakeLLM()
    for name in [name for name in os.environ if name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of waiting as parts of a second."""
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.2)
    monkeypatch.setattr(backoff, "LONGEST_SECONDS", 1.0)
    monkeypatch.setattr(breaker, "FIRST_WAIT", 0.3)


def register_version(plane: Plane, experiment: str, model: str, name: str = "nice") -> None:
    made = make_judge(name=name, instructions="Is {{ outputs }} nice?", model=model)
    plane.store.register_scorer(experiment, name, json.dumps(made.model_dump()))


def register_judge(plane: Plane, experiment: str, name: str = "nice") -> None:
    register_version(plane, experiment, "openai:/gpt-4.1-mini", name)
    plane.start(experiment, name)


def settled(plane: Plane, experiment: str, wanted: dict[str, int], seconds: float = 60) -> None:
    """Run the engine until the judge's decisions are these."""
    deadline = time.monotonic() + seconds
    while (counts := plane.counts(experiment, "nice")) != wanted:
        assert time.monotonic() < deadline, (counts, plane.scoring.state())
        plane.fold()
        plane.scoring.tick()
        time.sleep(0.01)


@pytest.mark.usefixtures("quick")
def test_a_failure_that_passes_ends_in_one_score_also_after_a_restart(
    tmp_path: Path, llm: FakeLLM
) -> None:
    llm.reset(Reply(503, error("overloaded")))
    plane = Plane(tmp_path)
    experiment = plane.store.create_experiment("judged")
    register_judge(plane, experiment)
    plane.settle()
    plane.arrive(*(spans_record(experiment, number) for number in (1, 2, 3)))
    settled(plane, experiment, {"retrying": 3})
    (first, *_) = plane.decisions(experiment, "nice").values()
    assert first["error_code"] == "UNAVAILABLE"
    assert first["next_attempt_ms"] > first["decided_ms"]
    assert plane.scored(experiment, "nice") == []
    plane.close()

    llm.reset(Reply(body=verdict("yes")))
    plane = Plane(tmp_path)
    settled(plane, experiment, {"scored": 3})

    assert plane.scored(experiment, "nice") == [1, 2, 3]
    for row in plane.decisions(experiment, "nice").values():
        assert row["attempts"] > 1
        assert (row["calls"], row["input_tokens"], row["output_tokens"]) == (1, 100, 20)
        assert row["model"] == "openai:/gpt-4.1-mini"
        assert row["cost_usd"] > 0
    plane.close()


@pytest.mark.usefixtures("quick")
def test_a_trace_that_is_deleted_while_it_waits_is_no_failure(tmp_path: Path, llm: FakeLLM) -> None:
    llm.reset(Reply(503, error("overloaded")))
    plane = Plane(tmp_path)
    experiment = plane.store.create_experiment("judged")
    register_judge(plane, experiment)
    plane.settle()
    plane.arrive(*(spans_record(experiment, number) for number in (1, 2)))
    settled(plane, experiment, {"retrying": 2})
    ids = [f"tr-{1:032x}"]
    plane.arrive(Record("delete_traces", int(time.time() * 1000), {"trace_ids": ids}))
    plane.fold()

    llm.reset(Reply(body=verdict("yes")))
    settled(plane, experiment, {"deleted": 1, "scored": 1})
    plane.close()


@pytest.mark.usefixtures("quick")
def test_a_missing_key_is_a_state_of_the_scorer_and_units_wait(
    tmp_path: Path, llm: FakeLLM
) -> None:
    llm.reset(Reply(401, error("Incorrect API key provided", "invalid_api_key")))
    plane = Plane(tmp_path)
    experiment = plane.store.create_experiment("judged")
    register_judge(plane, experiment)
    plane.register(experiment, "code", "return True")
    plane.start(experiment, "code")
    plane.settle()
    plane.arrive(*(spans_record(experiment, number) for number in (1, 2, 3)))

    def problem() -> Any:
        plane.fold()
        plane.scoring.tick()
        time.sleep(0.01)
        return plane.scoring.state()["scorers"][f"{experiment}/nice"]["problem"]

    deadline = time.monotonic() + 60
    while not (problem() and plane.scored(experiment, "code") == [1, 2, 3]):
        assert time.monotonic() < deadline, plane.scoring.state()
    assert "key" in problem().lower()
    assert plane.counts(experiment, "nice") == {}

    llm.reset(Reply(body=verdict("yes")))
    settled(plane, experiment, {"scored": 3})
    assert problem() is None
    plane.close()


def run_for(plane: Plane, seconds: float) -> None:
    """Run the engine for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        plane.fold()
        plane.scoring.tick()
        time.sleep(0.01)


def paused(plane: Plane, experiment: str, says: str, seconds: float = 60) -> str:
    """Run the engine until the judge is paused; why."""
    deadline = time.monotonic() + seconds
    while says not in (problem := problem_of_judge(plane, experiment)):
        assert time.monotonic() < deadline, plane.scoring.state()
        run_for(plane, 0.02)
    return problem


def problem_of_judge(plane: Plane, experiment: str) -> str:
    state = plane.scoring.state()["scorers"].get(f"{experiment}/nice", {})
    return state.get("problem") or ""


@pytest.mark.usefixtures("quick")
def test_what_an_unknown_model_left_waiting_is_scored_by_the_next_version(
    tmp_path: Path, llm: FakeLLM
) -> None:
    gone = Reply(404, error("The model `gone` does not exist", "model_not_found"))
    llm.answer = lambda request: (
        gone if request.payload["model"] == "gone" else Reply(body=verdict("yes"))
    )
    plane = Plane(tmp_path)
    experiment = plane.store.create_experiment("judged")
    register_version(plane, experiment, "openai:/gone")
    plane.start(experiment, "nice")
    plane.settle()
    plane.arrive(*(spans_record(experiment, number) for number in (1, 2, 3)))
    problem = paused(plane, experiment, "UNKNOWN_MODEL")
    assert "Register the scorer with another model" in problem
    run_for(plane, 4.0)  # by now probes have failed too
    assert plane.counts(experiment, "nice") == {}

    register_version(plane, experiment, "openai:/gpt-4.1-mini")
    plane.arrive(spans_record(experiment, 4))
    settled(plane, experiment, {"scored": 4}, seconds=10)

    assert plane.scored(experiment, "nice") == [1, 2, 3, 4]
    rows = plane.decisions(experiment, "nice").values()
    assert {(row["version"], row["attempts"]) for row in rows} == {(2, 1)}
    for score in plane.scores(experiment, "nice"):
        assert score.metadata["mlflow.assessment.scorerVersion"] == "2"
    assert problem_of_judge(plane, experiment) == ""
    plane.close()


@pytest.mark.usefixtures("quick")
def test_a_model_that_gives_no_usable_answer_costs_few_traces_and_then_one_a_probe(
    tmp_path: Path, llm: FakeLLM
) -> None:
    llm.reset(Reply(body=completion("I'd rather not say."), seconds=0.05))
    plane = Plane(tmp_path, judge_concurrency=4)
    experiment = plane.store.create_experiment("judged")
    register_judge(plane, experiment)
    plane.settle()
    plane.arrive(*(spans_record(experiment, number) for number in range(1, 301)))
    paused(plane, experiment, "BAD_ANSWER")
    run_for(plane, 0.2)  # what was under way
    burned = plane.counts(experiment, "nice")["failed"]
    assert burned <= 40

    run_for(plane, 2.5)  # probes after 0.3, 0.6 and 1.2 s
    failed = plane.counts(experiment, "nice")["failed"]
    assert burned + 2 <= failed <= burned + 3
    assert "BAD_ANSWER" in problem_of_judge(plane, experiment)

    llm.answer = Reply(body=verdict("yes"))
    run_for(plane, 3.0)
    failed = plane.counts(experiment, "nice")["failed"]
    settled(plane, experiment, {"failed": failed, "scored": 300 - failed})
    assert failed <= burned + 4
    assert len(llm.requests) == 300  # each trace once
    assert len(plane.scored(experiment, "nice")) == 300
    assert problem_of_judge(plane, experiment) == ""
    plane.close()


@pytest.mark.usefixtures("quick")
def test_when_nothing_waits_the_next_trace_is_the_probe(tmp_path: Path, llm: FakeLLM) -> None:
    llm.reset(Reply(body=completion("I'd rather not say.")))
    plane = Plane(tmp_path)
    experiment = plane.store.create_experiment("judged")
    register_judge(plane, experiment)
    plane.settle()
    plane.arrive(*(spans_record(experiment, number) for number in range(1, 6)))
    settled(plane, experiment, {"failed": 5})
    run_for(plane, 1.0)
    assert "the next one is tried" in problem_of_judge(plane, experiment)

    plane.arrive(*(spans_record(experiment, number) for number in range(6, 100)))
    run_for(plane, 0.5)
    counts = plane.counts(experiment, "nice")
    assert counts in ({"failed": 6}, {"failed": 7})  # one probe, or two

    llm.answer = Reply(body=verdict("yes"))
    settled(plane, experiment, {**counts, "scored": 99 - counts["failed"]})
    assert len(llm.requests) == 99
    plane.close()


def test_a_quota_for_the_day_pauses_the_scorer_and_costs_no_trace_its_tries(
    tmp_path: Path, llm: FakeLLM
) -> None:
    llm.reset(Reply(429, error("that was it for today"), headers={"Retry-After": "86400"}))
    plane = Plane(tmp_path, judge_concurrency=2)
    experiment = plane.store.create_experiment("judged")
    register_judge(plane, experiment)
    plane.settle()
    plane.arrive(*(spans_record(experiment, number) for number in range(1, 51)))
    problem = paused(plane, experiment, "that was it for today")
    assert "one is tried in 24 h" in problem
    asked = len(llm.requests)
    run_for(plane, 3.0)
    assert plane.counts(experiment, "nice") == {}
    assert len(llm.requests) == asked <= 2
    plane.close()

    llm.answer = Reply(body=verdict("yes"))
    plane = Plane(tmp_path)
    settled(plane, experiment, {"scored": 50})
    assert {row["attempts"] for row in plane.decisions(experiment, "nice").values()} == {1}
    plane.close()


@pytest.mark.usefixtures("quick")
def test_a_judge_whose_budget_is_spent_stops_and_says_so(tmp_path: Path, llm: FakeLLM) -> None:
    llm.reset(Reply(body=verdict("yes")))
    plane = Plane(tmp_path)
    experiment = plane.store.create_experiment("judged")
    register_judge(plane, experiment)
    budget = json.dumps({"dollars_per_day": 1e-6})  # one call costs more
    plane.store.set_experiment_tag(experiment, ExperimentTag(f"{BUDGET_TAG}nice", budget))
    plane.settle()
    plane.arrive(spans_record(experiment, 1))
    settled(plane, experiment, {"scored": 1})
    state = plane.scoring.state()["scorers"][f"{experiment}/nice"]
    deadline = time.monotonic() + 20
    while not state["note"]:
        assert time.monotonic() < deadline
        plane.scoring.tick()
        state = plane.scoring.state()["scorers"][f"{experiment}/nice"]
    assert "dollars are spent today" in state["note"]

    plane.arrive(*(spans_record(experiment, number) for number in (2, 3)))
    settled(plane, experiment, {"scored": 1, "budget": 2})

    assert plane.scored(experiment, "nice") == [1]
    assert len(llm.requests) == 1
    plane.close()
