"""Judges in the engine: what fails for the time being is tried again, across restarts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.fake_llm import FakeLLM, Reply, error, verdict
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


def register_judge(plane: Plane, experiment: str, name: str = "nice") -> None:
    made = make_judge(
        name=name, instructions="Is {{ outputs }} nice?", model="openai:/gpt-4.1-mini"
    )
    plane.store.register_scorer(experiment, name, json.dumps(made.model_dump()))
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
