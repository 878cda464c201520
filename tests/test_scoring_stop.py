"""A scorer that is stopped: nothing more is called, nothing is forgotten, and all of it is told."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.fake_llm import FakeLLM, Reply, error, verdict
from mlflow.genai.judges import make_judge

from scoring_support import Plane, spans_record
from vedette.intake.journal import JournalFull
from vedette.intake.records import Record
from vedette.scoring import backoff, breaker
from vedette.scoring import plan as planning
from vedette.scoring.explain import Explainer
from vedette.scoring.sample import draw

SLOW = "import time\ntime.sleep(1.5)\nreturn True"
BEFORE = "not scored: it was complete before the scorer was started"
WHILE = "not scored: it was complete while it was stopped"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    plane = Plane(tmp_path)
    yield plane
    plane.close()


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLLM]:
    """A model that is overloaded, for a judge that has patience for tenths of a second."""
    server = FakeLLM()
    for name in [name for name in os.environ if name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.2)
    monkeypatch.setattr(backoff, "LONGEST_SECONDS", 0.5)
    monkeypatch.setattr(breaker, "FIRST_WAIT", 0.3)
    server.reset(Reply(503, error("overloaded")))
    yield server
    server.close()


def trace_id(number: int) -> str:
    return f"tr-{number:032x}"


def told(plane: Plane, number: int, name: str = "probe") -> str:
    explainer = Explainer(plane.settings, plane.index, plane.selection)
    state = plane.scoring.state()["scorers"]
    found = explainer.explain(trace_id(number), plane.scoring.active(), state)
    assert found is not None
    return {one.scorer: one.text for one in found}.get(name, "")


def until(plane: Plane, reached: Any, seconds: float = 60) -> None:
    """Run the engine until something holds."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, plane.scoring.state()
        plane.fold()
        plane.scoring.tick()
        time.sleep(0.005)


def in_flight(plane: Plane, key: str) -> int:
    return int(plane.scoring.state()["scorers"].get(key, {}).get("in_flight", 0))


def complete(plane: Plane, numbers: range, experiment: str = "0", **span: Any) -> None:
    """These traces arrive and get their places."""
    known = "SELECT count(*) FROM completed"
    (before,) = plane.index.connection().execute(known).fetchone()
    plane.arrive(*(spans_record(experiment, number, **span) for number in numbers))
    until(
        plane,
        lambda: plane.index.connection().execute(known).fetchone()[0] >= before + len(numbers),
    )


def judge(plane: Plane, name: str = "nice") -> None:
    made = make_judge(
        name=name, instructions="Is {{ outputs }} nice?", model="openai:/gpt-4.1-mini"
    )
    plane.store.register_scorer("0", name, json.dumps(made.model_dump()))
    plane.start("0", name)
    plane.settle()


def test_all_that_was_complete_at_a_stop_is_in_the_ledger_and_explained(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_IN_FLIGHT", 2)  # what comes after two waits for its turn
    plane.register("0", "probe", SLOW)
    complete(plane, range(1, 2))
    plane.start("0", "probe")
    plane.settle()
    complete(plane, range(2, 4))
    until(plane, lambda: in_flight(plane, "0/probe") == 2)
    complete(plane, range(4, 9))

    plane.start("0", "probe", rate=0)
    plane.settle()
    complete(plane, range(9, 12))

    assert plane.counts("0", "probe") == {"stopped": 7}
    rows = plane.decisions("0", "probe")
    assert {unit: row["decision"] for (unit, _), row in rows.items()} == {
        trace_id(2): "stopped",
        trace_id(3): "stopped",
    }
    assert plane.scored("0", "probe") == []
    assert told(plane, 1) == BEFORE
    assert told(plane, 2).startswith("stopped: The scorer was stopped before it was scored.")
    assert told(plane, 4) == "stopped or deleted before the unit's turn came"
    assert told(plane, 9) == WHILE

    plane.start("0", "probe")
    plane.settle()
    complete(plane, range(12, 14))
    plane.settle()
    assert plane.scored("0", "probe") == [12, 13]
    assert plane.counts("0", "probe") == {"stopped": 7, "scored": 2}
    assert told(plane, 4) == "stopped or deleted before the unit's turn came"
    assert told(plane, 9) == WHILE


def test_what_was_decided_before_a_stop_is_explained_as_it_was(plane: Plane) -> None:
    plane.register("0", "probe", "return True")
    plane.start("0", "probe", rate=0.001, filter_string="trace.status = 'OK'")
    plane.settle()
    complete(plane, range(1, 2))
    complete(plane, range(2, 3), failed=True)
    plane.settle()
    plane.scoring.flush()
    plane.settle()
    usual = f"not selected: u={draw(trace_id(1)):.4f} >= rate 0.001 (epoch 1)"
    failed = "filtered out: \"trace.status = 'OK'\" doesn't match (epoch 1)"
    assert (told(plane, 1), told(plane, 2)) == (usual, failed)

    plane.start("0", "probe", rate=0)
    plane.settle()
    assert (told(plane, 1), told(plane, 2)) == (usual, failed)

    plane.start("0", "probe", rate=1.0)
    plane.settle()
    assert (told(plane, 1), told(plane, 2)) == (usual, failed)
    assert plane.counts("0", "probe") == {"not_selected": 1, "filtered": 1}


def test_a_scorer_that_cannot_go_on_says_so_of_each_trace_that_waits_for_it(plane: Plane) -> None:
    plane.register("0", "probe", "return True")
    plane.start("0", "probe", filter_string="no such thing")
    plane.settle()
    complete(plane, range(1, 3))
    plane.settle()

    text = told(plane, 2)
    assert text.startswith("waiting: complete, 1 units are before it; the scorer waits: ")
    assert "filter can't be used" in text


def test_stopping_ends_what_was_to_be_tried_again(plane: Plane, llm: FakeLLM) -> None:
    judge(plane)
    complete(plane, range(1, 3))
    until(plane, lambda: plane.counts("0", "nice") == {"retrying": 2})
    plane.store.delete_scorer("0", "nice")
    plane.settle()

    assert plane.counts("0", "nice") == {"stopped": 2}
    for row in plane.decisions("0", "nice").values():
        assert row["next_attempt_ms"] is None
    assert told(plane, 1, "nice").startswith("stopped: ")

    llm.reset(Reply(body=verdict("yes")))
    judge(plane)  # another scorer of that name has nothing to do with it
    time.sleep(0.6)
    plane.settle()
    assert llm.requests == []
    assert plane.counts("0", "nice") == {"stopped": 2}
    assert plane.scored("0", "nice") == []


def test_what_was_stopped_while_no_engine_ran_is_told_by_the_next(
    tmp_path: Path, llm: FakeLLM
) -> None:
    plane = Plane(tmp_path)
    judge(plane)
    complete(plane, range(1, 3))
    until(plane, lambda: plane.counts("0", "nice") == {"retrying": 2})
    plane.close()
    plane = Plane(tmp_path)
    plane.arrive(*(spans_record("0", number) for number in range(3, 6)))
    plane.start("0", "nice", rate=0)
    plane.settle()

    assert plane.counts("0", "nice") == {"stopped": 2}
    assert plane.index.connection().execute("SELECT * FROM scorer_cursors").fetchall() == []
    assert told(plane, 4, "nice") == WHILE
    plane.close()


def test_a_version_that_scores_sessions_is_another_scorer(plane: Plane, llm: FakeLLM) -> None:
    judge(plane)
    complete(plane, range(1, 3))
    until(plane, lambda: plane.counts("0", "nice") == {"retrying": 2})

    plane.register("0", "nice", "return len(session)", of_sessions=True)
    plane.settle()
    assert plane.counts("0", "nice") == {"stopped": 2}
    plane.arrive(*(spans_record("0", n, session="s", begun=n) for n in range(3, 5)))
    plane.settle()

    assert plane.counts("0", "nice") == {"stopped": 2, "scored": 1}
    assert [(one.number, one.value) for one in plane.scores("0", "nice")] == [(3, 2)]


def test_a_scorer_that_is_stopped_and_started_while_the_journal_is_full_goes_on(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = plane.store.create_experiment("shop")
    for experiment in ("0", shop):
        plane.register(experiment, "probe", "return True")
        plane.start(experiment, "probe")
    plane.settle()
    append = plane.engine_journal.append

    def refuse(record: Record) -> Any:
        if record.fields["scorer"] == f"{shop}/probe":
            raise JournalFull("full")
        return append(record)

    with monkeypatch.context() as patch:
        patch.setattr(plane.engine_journal, "append", refuse)
        plane.arrive(spans_record(shop, 1))
        with pytest.raises(JournalFull):
            plane.settle()
        for rate in (0.0, 1.0):
            plane.start("0", "probe", rate=rate)
            plane.fold()
            with pytest.raises(JournalFull):
                plane.scoring.tick()
    plane.settle()
    complete(plane, range(2, 4))
    plane.settle()

    assert plane.scored("0", "probe") == [2, 3]
    assert plane.scored(shop, "probe") == [1]
