"""The stock MLflow client against a real server: what users' code does, through the wire."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource, Feedback, SpanType, Trace
from mlflow.entities.assessment import IssueReference
from mlflow.entities.issue import IssueSeverity
from mlflow.exceptions import MlflowException
from mlflow.genai.datasets import create_dataset, get_dataset
from mlflow.genai.label_schemas import InputPassFail, create_label_schema
from mlflow.genai.review_queues import (
    add_items_to_review_queue,
    create_review_queue,
    list_review_queue_items,
)

from running import RunningVedette

HUMAN = AssessmentSource(source_type="HUMAN", source_id="reviewer@example.com")


@pytest.fixture(autouse=True)
def experiment(vedette: RunningVedette) -> Iterator[str]:
    """An experiment of the test's own, active; its id."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(vedette.url)
    yield mlflow.set_experiment(uuid.uuid4().hex).experiment_id
    mlflow.flush_trace_async_logging()
    mlflow.set_tracking_uri(before)


@mlflow.trace(span_type=SpanType.TOOL)
def look_up(word: str) -> str:
    return word.upper()


@mlflow.trace(name="answer", span_type=SpanType.AGENT)
def answer(question: str) -> str:
    mlflow.update_current_trace(
        tags={"team": "support"}, metadata={"mlflow.trace.session": "s-1", "mlflow.trace.user": "u"}
    )
    return f"{question}: {look_up(question)}"


def traced(question: str = "why") -> str:
    """A trace logged as agents log theirs; its id."""
    answer(question)
    mlflow.flush_trace_async_logging()
    trace_id = mlflow.get_last_active_trace_id()
    assert trace_id is not None
    return trace_id


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(MlflowException) as caught:
        call()
    return caught.value.error_code


def test_a_traced_function_is_readable_with_its_spans(experiment: str) -> None:
    trace = mlflow.get_trace(traced())
    assert isinstance(trace, Trace)
    assert trace.info.experiment_id == experiment
    assert trace.info.state == "OK"
    assert trace.info.tags["team"] == "support"
    assert trace.info.tags["mlflow.traceName"] == "answer"
    assert trace.info.tags["mlflow.trace.spansLocation"] == "TRACKING_STORE"
    assert trace.info.trace_metadata["mlflow.trace.session"] == "s-1"
    root, tool = trace.data.spans
    assert (root.name, root.span_type, root.parent_id) == ("answer", "AGENT", None)
    assert (tool.name, tool.span_type, tool.parent_id) == ("look_up", "TOOL", root.span_id)
    assert root.inputs == {"question": "why"}
    assert root.outputs == "why: WHY"


def test_spans_are_not_uploaded_as_artifacts(vedette: RunningVedette) -> None:
    trace_id = traced()
    assert not list((vedette.data / "artifacts").rglob(f"*{trace_id}*"))


def test_search_finds_traces_by_tag_session_and_status() -> None:
    trace_id = traced()
    for filter_string in (
        "tags.team = 'support'",
        "metadata.`mlflow.trace.session` = 's-1'",
        "trace.status = 'OK'",
        "span.name = 'look_up'",
    ):
        found = mlflow.search_traces(filter_string=filter_string, return_type="list")
        assert [trace.info.trace_id for trace in found] == [trace_id]
    assert mlflow.search_traces(filter_string="tags.team = 'sales'", return_type="list") == []


def test_a_write_is_visible_to_the_next_read() -> None:
    trace_id = traced()
    for number in range(20):
        mlflow.set_trace_tag(trace_id, "round", str(number))
        assert mlflow.get_trace(trace_id).info.tags["round"] == str(number)


def test_tags_are_set_and_deleted() -> None:
    trace_id = traced()
    mlflow.set_trace_tag(trace_id, "team", "sales")
    mlflow.delete_trace_tag(trace_id, "mlflow.traceName")
    tags = mlflow.get_trace(trace_id).info.tags
    assert tags["team"] == "sales"
    assert "mlflow.traceName" not in tags
    assert refused(lambda: mlflow.delete_trace_tag(trace_id, "absent")) == "RESOURCE_DOES_NOT_EXIST"
    assert refused(lambda: mlflow.set_trace_tag("tr-0", "a", "b")) == "RESOURCE_DOES_NOT_EXIST"
    assert refused(lambda: mlflow.set_trace_tag(trace_id, "k" * 251, "b")) == (
        "INVALID_PARAMETER_VALUE"
    )


def test_feedback_is_logged_overridden_updated_and_deleted() -> None:
    trace_id = traced()
    first = mlflow.log_feedback(
        trace_id=trace_id, name="correct", value=False, source=HUMAN, rationale="no source"
    )
    second = mlflow.override_feedback(
        trace_id=trace_id, assessment_id=first.assessment_id, value=True, source=HUMAN
    )
    by_id = {one.assessment_id: one for one in mlflow.get_trace(trace_id).info.assessments}
    assert by_id[first.assessment_id].valid is False
    assert by_id[second.assessment_id].valid is True
    assert by_id[second.assessment_id].overrides == first.assessment_id

    updated = mlflow.update_assessment(
        trace_id=trace_id,
        assessment_id=second.assessment_id,
        assessment=Feedback(name="correct", value=0.5, metadata={"round": "2"}, source=HUMAN),
    )
    assert (updated.value, updated.metadata) == (0.5, {"round": "2"})
    assert mlflow.get_assessment(trace_id, second.assessment_id).value == 0.5

    mlflow.delete_assessment(trace_id=trace_id, assessment_id=second.assessment_id)
    (left,) = mlflow.get_trace(trace_id).info.assessments
    assert (left.assessment_id, left.valid) == (first.assessment_id, True)


def test_expectations_are_kept() -> None:
    trace_id = traced()
    mlflow.log_expectation(
        trace_id=trace_id, name="facts", value={"expected": ["a", "b"]}, source=HUMAN
    )
    (expectation,) = mlflow.get_trace(trace_id).info.assessments
    assert expectation.value == {"expected": ["a", "b"]}


def test_assessments_of_what_is_not_there_are_refused() -> None:
    trace_id = traced()
    for call in (
        lambda: mlflow.log_feedback(trace_id="tr-0", name="a", value=1),
        lambda: mlflow.get_assessment(trace_id, "a-0"),
        lambda: mlflow.override_feedback(trace_id=trace_id, assessment_id="a-0", value=1),
    ):
        assert refused(call) == "RESOURCE_DOES_NOT_EXIST"
    mlflow.delete_assessment(trace_id, "a-0")  # as in MLflow: nothing to do


def test_traces_are_linked_to_runs() -> None:
    trace_id = traced()
    with mlflow.start_run() as run:
        during = traced("how")
        MlflowClient().link_traces_to_run([trace_id], run.info.run_id)
    found = mlflow.search_traces(run_id=run.info.run_id, return_type="list")
    assert {trace.info.trace_id for trace in found} == {trace_id, during}


def test_what_a_run_assessed_goes_with_the_run() -> None:
    trace_id = traced()
    with mlflow.start_run() as run:
        mlflow.log_feedback(
            trace_id=trace_id,
            name="by_run",
            value=True,
            metadata={"mlflow.assessment.sourceRunId": run.info.run_id},
        )
    mlflow.log_feedback(trace_id=trace_id, name="by_hand", value=True)
    mlflow.delete_run(run.info.run_id)
    assert [one.name for one in mlflow.get_trace(trace_id).info.assessments] == ["by_hand"]


def test_prompts_are_linked_to_traces() -> None:
    name = f"p-{uuid.uuid4().hex}"
    mlflow.genai.register_prompt(name, "Answer {{question}}")

    @mlflow.trace
    def with_prompt() -> str:
        return mlflow.genai.load_prompt(f"prompts:/{name}/1").format(question="why")

    with_prompt()
    mlflow.flush_trace_async_logging()
    deadline = time.monotonic() + 10  # linking is asynchronous in the SDK
    while time.monotonic() < deadline:
        if mlflow.search_traces(filter_string=f"prompt = '{name}/1'", return_type="list"):
            return
        time.sleep(0.1)
    pytest.fail("the trace isn't linked to the prompt it loaded")


def test_deleted_traces_are_gone(experiment: str) -> None:
    kept, deleted = traced("keep"), traced("drop")
    client = MlflowClient()
    assert client.delete_traces(experiment, trace_ids=[deleted]) == 1
    found = mlflow.search_traces(return_type="list")
    assert [trace.info.trace_id for trace in found] == [kept]
    assert client.delete_traces(experiment, trace_ids=[deleted]) == 0
    assert client.delete_traces(experiment, max_timestamp_millis=2**40 * 2) == 1
    assert refused(lambda: client.delete_traces(experiment)) == "INVALID_PARAMETER_VALUE"


def test_traces_can_not_be_added_to_a_deleted_experiment(experiment: str) -> None:
    info = mlflow.get_trace(traced()).info
    client = MlflowClient()
    client.delete_experiment(experiment)
    info.trace_id = f"tr-{uuid.uuid4().hex}"
    start = client._tracing_client.start_trace
    assert refused(lambda: start(info)) == "INVALID_PARAMETER_VALUE"
    client.restore_experiment(experiment)
    assert start(info).trace_id == info.trace_id


def test_attachments_location_is_that_of_the_experiment(experiment: str) -> None:
    trace_id = traced()
    root = mlflow.get_experiment(experiment).artifact_location
    expected = f"{root}/traces/{trace_id}/artifacts"
    assert mlflow.get_trace(trace_id).info.tags["mlflow.artifactLocation"] == expected


def test_runs_datasets_and_label_schemas_work_as_ever(experiment: str) -> None:
    with mlflow.start_run() as run:
        mlflow.log_param("a", 1)
        mlflow.log_metric("m", 0.5)
        mlflow.log_text("hello", "note.txt")
    found = mlflow.get_run(run.info.run_id)
    assert (found.data.params, found.data.metrics) == ({"a": "1"}, {"m": 0.5})
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/note.txt") == "hello"

    dataset = create_dataset(name=f"d-{uuid.uuid4().hex}", experiment_id=[experiment])
    dataset.merge_records([mlflow.get_trace(traced())])
    assert len(get_dataset(dataset_id=dataset.dataset_id).to_df()) == 1

    schema = create_label_schema(
        name="helpful",
        type="feedback",
        instruction="Is it helpful?",
        input=InputPassFail(positive_label="yes", negative_label="no"),
    )
    assert schema.name == "helpful"


def test_a_deleted_trace_leaves_its_review_queue(experiment: str) -> None:
    kept, deleted = traced("keep"), traced("drop")
    queue = create_review_queue("mine", queue_type="custom", users=["me"])
    add_items_to_review_queue(queue.queue_id, item_ids=[kept, deleted])
    MlflowClient().delete_traces(experiment, trace_ids=[deleted])
    assert [item.item_id for item in list_review_queue_items(queue.queue_id)] == [kept]


def test_issues_are_listed_by_severity_and_number_of_traces(experiment: str) -> None:
    store = MlflowClient()._tracking_client.store
    issues = {
        name: store.create_issue(experiment, name, "...", severity=severity)
        for name, severity in (
            ("rare", IssueSeverity.LOW),
            ("frequent", IssueSeverity.LOW),
            ("grave", IssueSeverity.HIGH),
        )
    }
    for _ in range(2):
        trace_id = traced()
        issue_id = issues["frequent"].issue_id
        store.create_assessment(IssueReference(issue_id, "frequent", trace_id=trace_id))
    first = store.search_issues(experiment, include_trace_count=True, max_results=2)
    rest = store.search_issues(
        experiment, include_trace_count=True, max_results=2, page_token=first.token
    )
    found = [(issue.name, issue.trace_count) for issue in [*first, *rest]]
    assert found == [("grave", 0), ("frequent", 2), ("rare", 0)]
    assert rest.token is None


def test_another_process_can_not_use_the_servers_own_uri(vedette: RunningVedette) -> None:
    mlflow.set_tracking_uri(f"lakehouse://{vedette.data}")
    with pytest.raises(MlflowException, match="set_tracking_uri"):
        mlflow.search_traces(locations=["0"])
