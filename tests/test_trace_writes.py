"""Writes are checked against everything journaled before them, and durable when they return."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import AssessmentSource, Expectation, Feedback
from mlflow.exceptions import MlflowException

from vedette.intake.journal import JournalReader, JournalWriter
from vedette.intake.records import AssessmentRow, Position, TraceHeader
from vedette.lake.locations import Locations
from vedette.traces.assessments import assessment_entity, assessment_row
from vedette.traces.index import TraceIndex
from vedette.traces.totals import gateway_cost, issue_trace_counts
from vedette.traces.writes import TraceWrites


class Opened:
    """A journal and a read model, and what another process would find in the journal."""

    def __init__(self, directory: Path, **limits: int) -> None:
        self.journal = JournalWriter(directory / "journal", **limits)
        self.index = TraceIndex(directory / "index.db")
        self.reader = JournalReader(directory / "journal")
        self.locations = Locations(directory)
        self.writes = TraceWrites(self.journal, self.up_to_date, self.locations)

    def up_to_date(self) -> Any:
        self.index.catch_up([self.reader])
        return self.index.connection()

    def start(self, trace_id: str, **fields: Any) -> None:
        header: dict[str, Any] = {
            "trace_id": trace_id,
            "experiment_id": "1",
            "request_time": 1000,
            "execution_duration": 5,
            "state": "OK",
            "client_request_id": None,
            "request_preview": None,
            "response_preview": None,
            "tags": {},
            "metadata": {},
            "assessments": [],
        }
        self.writes.start_trace(TraceHeader(**{**header, **fields}))

    def kinds(self) -> list[str]:
        return [record.kind for record, _ in self.reader.read(Position(0, 0))]

    def assessments(self) -> dict[str, tuple[Any, bool]]:
        rows = self.up_to_date().execute("SELECT assessment_id, value, valid FROM assessments")
        return {name: (json.loads(value), bool(valid)) for name, value, valid in rows}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(tmp_path)
    yield opened
    opened.journal.close()


def feedback(assessment_id: str, value: Any = True, **fields: Any) -> AssessmentRow:
    entity = Feedback(name="good", value=value, **fields)
    entity.assessment_id = assessment_id
    return assessment_row(entity, "tr-1")


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(MlflowException) as caught:
        call()
    return caught.value.error_code


def test_what_is_refused_leaves_nothing_in_the_journal(opened: Opened) -> None:
    opened.start("tr-1")
    before = opened.kinds()
    for call in (
        lambda: opened.writes.set_tag("tr-0", "a", "b"),
        lambda: opened.writes.delete_tag("tr-1", "a"),
        lambda: opened.writes.delete_tag("tr-1", "mlflow.traceName"),
        lambda: opened.writes.link_prompts("tr-0", ["p/1"]),
        lambda: opened.writes.create_assessment(feedback("a-1", overrides="a-0"), new_id=False),
        lambda: opened.writes.revise_assessment("tr-1", "a-0", lambda row: row),
        lambda: opened.writes.revise_assessment("tr-0", "a-0", lambda row: row),
    ):
        assert refusal(call) == "RESOURCE_DOES_NOT_EXIST"
    opened.writes.delete_assessment("tr-1", "a-0")
    assert opened.writes.delete_traces(1, trace_ids=["tr-0"]) == []
    assert opened.kinds() == before == ["start_trace"]


def test_text_that_is_not_unicode_is_refused(opened: Opened) -> None:
    opened.start("tr-1")
    call = lambda: opened.writes.set_tag("tr-1", "a", "\ud800")  # noqa: E731
    assert refusal(call) == "INVALID_PARAMETER_VALUE"
    assert opened.kinds() == ["start_trace"]


def test_tags_and_the_name_are_set_and_deleted(opened: Opened) -> None:
    opened.start("tr-1", tags={"a": "1", "mlflow.traceName": "first"})
    opened.writes.set_tag("tr-1", "mlflow.traceName", "second")
    opened.writes.delete_tag("tr-1", "a")
    name, tags = (
        opened.up_to_date()
        .execute("SELECT trace_name, (SELECT count(*) FROM trace_tags WHERE key = 'a') FROM traces")
        .fetchone()
    )
    assert (name, tags) == ("second", 0)
    opened.writes.delete_tag("tr-1", "mlflow.traceName")
    assert refusal(lambda: opened.writes.delete_tag("tr-1", "mlflow.traceName")) == (
        "RESOURCE_DOES_NOT_EXIST"
    )


def test_an_override_invalidates_and_deleting_it_restores(opened: Opened) -> None:
    opened.start("tr-1")
    opened.writes.create_assessment(feedback("a-1", False), new_id=False)
    opened.writes.create_assessment(feedback("a-2", True, overrides="a-1"), new_id=False)
    assert opened.assessments() == {"a-1": (False, False), "a-2": (True, True)}
    opened.writes.delete_assessment("tr-1", "a-2")
    assert opened.assessments() == {"a-1": (False, True)}


def test_an_id_is_used_once(opened: Opened) -> None:
    opened.start("tr-1")
    opened.writes.create_assessment(feedback("a-1", 1), new_id=False)
    call = lambda: opened.writes.create_assessment(feedback("a-1", 2), new_id=False)  # noqa: E731
    assert refusal(call) == "RESOURCE_ALREADY_EXISTS"
    assert opened.assessments() == {"a-1": (1, True)}


def test_an_assessment_belongs_to_its_trace(opened: Opened) -> None:
    opened.start("tr-1")
    opened.start("tr-2")
    opened.writes.create_assessment(feedback("a-1"), new_id=False)
    opened.writes.delete_assessment("tr-2", "a-1")
    assert refusal(lambda: opened.writes.revise_assessment("tr-2", "a-1", lambda row: row)) == (
        "RESOURCE_DOES_NOT_EXIST"
    )
    assert opened.assessments() == {"a-1": (True, True)}


def test_concurrent_revisions_build_on_each_other(opened: Opened) -> None:
    opened.start("tr-1")
    opened.writes.create_assessment(feedback("a-1", 0), new_id=False)

    def add_one(_: int) -> None:
        def change(row: AssessmentRow) -> AssessmentRow:
            changed = row.copy()
            changed["value"] = json.dumps(json.loads(row["value"]) + 1)
            return changed

        opened.writes.revise_assessment("tr-1", "a-1", change)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add_one, range(40)))
    assert opened.assessments() == {"a-1": (40, True)}


def test_deletes_take_the_oldest_of_one_experiment(opened: Opened) -> None:
    for number in range(5):
        opened.start(f"tr-{number}", request_time=number)
    opened.start("tr-other", experiment_id="2")
    delete = opened.writes.delete_traces
    assert delete(1, max_timestamp_ms=3, max_traces=2) == ["tr-0", "tr-1"]
    assert delete(1, trace_ids=["tr-4", "tr-other"]) == ["tr-4"]
    assert delete(1, max_timestamp_ms=10) == ["tr-2", "tr-3"]
    left = opened.up_to_date().execute("SELECT trace_id FROM traces").fetchall()
    assert left == [("tr-other",)]


def test_what_runs_assessed_is_deleted_by_run(opened: Opened) -> None:
    opened.start("tr-1")
    for number in range(3):
        metadata = {"mlflow.assessment.sourceRunId": f"run-{number}"}
        opened.writes.create_assessment(feedback(f"a-{number}", metadata=metadata), new_id=False)
    opened.writes.create_assessment(feedback("a-by-hand"), new_id=False)
    opened.writes.delete_assessments_of_runs(["run-0", "run-2"])
    assert opened.assessments().keys() == {"a-1", "a-by-hand"}


def test_a_full_journal_is_temporary(tmp_path: Path) -> None:
    opened = Opened(tmp_path, max_bytes=2000)
    opened.start("tr-1")
    call = lambda: opened.writes.set_tag("tr-1", "a", "x" * 3000)  # noqa: E731
    assert refusal(call) == "TEMPORARILY_UNAVAILABLE"
    opened.writes.set_tag("tr-1", "a", "b")
    opened.journal.close()
    assert refusal(lambda: opened.writes.set_tag("tr-1", "a", "c")) == "TEMPORARILY_UNAVAILABLE"


def test_writes_of_many_threads_are_all_kept(opened: Opened) -> None:
    opened.start("tr-1")
    barrier = threading.Barrier(8)

    def write(thread: int) -> None:
        barrier.wait()
        for number in range(20):
            opened.writes.set_tag("tr-1", f"{thread}-{number}", "x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    (count,) = (
        opened.up_to_date().execute("SELECT count(*) FROM trace_tags WHERE value = 'x'").fetchone()
    )
    assert count == 160


@pytest.mark.parametrize(
    "entity",
    [
        Feedback(name="f", value=0.5, rationale="r", metadata={"a": "b"}, span_id="0" * 16),
        Feedback(name="f", error=ValueError("broken")),
        Feedback(name="f", value=["a", "b"], source=AssessmentSource("HUMAN", "me")),
        Expectation(name="e", value={"expected": [1, 2]}),
    ],
)
def test_an_assessment_survives_being_a_row(entity: Any) -> None:
    row = assessment_row(entity, "tr-1")
    again = assessment_entity(row)
    assert again.trace_id == "tr-1"
    entity.trace_id, entity.assessment_id, entity.valid = "tr-1", row["assessment_id"], True
    assert again == entity


def test_totals_for_issues_and_gateway_budgets(opened: Opened) -> None:
    for number in range(3):
        opened.start(
            f"tr-{number}",
            request_time=number,
            metadata={
                "mlflow.gateway.endpointId": "e-1" if number else "e-2",
                "mlflow.auth.username": "me",
                "mlflow.trace.cost": json.dumps({"total_cost": 0.5}),
            },
        )
    index = opened.up_to_date()
    assert gateway_cost(index, 0, 10, None, None) == 1.5
    assert gateway_cost(index, 0, 2, "e-1", "me") == 0.5
    assert gateway_cost(index, 0, 10, None, "you") == 0.0
    assert issue_trace_counts(index, ["iss-1"]) == {}
