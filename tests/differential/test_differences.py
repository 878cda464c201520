"""The differences we intend are there, in the installed MLflow too: none outlives its reason."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from histories import T0
from mlflow.entities import AssessmentSource, Feedback, Span, TraceInfo, TraceLocation, TraceState
from mlflow.entities.assessment import IssueReference
from mlflow.exceptions import MlflowException
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from pair import Pair

from otlp_strategies import fill_attributes

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

_numbers = iter(range(10**6, 10**9))
USAGE = json.dumps({"input_tokens": 1, "output_tokens": 2, "total_tokens": 3})


class Both:
    """One trace in both stores, without making MLflow's as we intend it."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.experiment = pair.experiment()
        self._otel_id = next(_numbers).to_bytes(16)
        self.trace_id = f"tr-{self._otel_id.hex()}"

    def span(self, number: int, end_ms: int | None = 10, **attributes: Any) -> None:
        """Send a span that begins at `T0`."""
        span = ProtoSpan(
            trace_id=self._otel_id,
            span_id=(number + 1).to_bytes(8),
            parent_span_id=b"" if number == 0 else (1).to_bytes(8),
            name="step",
            start_time_unix_nano=T0 * 1_000_000,
            end_time_unix_nano=0 if end_ms is None else (T0 + end_ms) * 1_000_000,
        )
        fill_attributes(span.attributes, attributes)
        request = ExportTraceServiceRequest()
        request.resource_spans.add().scope_spans.add().spans.append(span)
        self.pair.mlflow.log_spans(self.experiment, [Span.from_otel_proto(span)])
        self.pair.plane.log_spans(self.experiment, request.SerializeToString())

    def start(self, **fields: Any) -> list[TraceInfo]:
        """Call start_trace; returns what each store answers."""
        info = TraceInfo(
            trace_id=self.trace_id,
            trace_location=TraceLocation.from_experiment_id(self.experiment),
            request_time=T0,
            state=TraceState.OK,
            execution_duration=5,
            **fields,
        )
        return [store.start_trace(info) for store in (self.pair.mlflow, self.pair.ours)]

    def infos(self) -> tuple[TraceInfo, TraceInfo]:
        """MLflow's and ours."""
        return (
            self.pair.mlflow.get_trace_info(self.trace_id),
            self.pair.ours.get_trace_info(self.trace_id),
        )

    def found(self, text: str) -> tuple[bool, bool]:
        """Whether a filter finds the trace in MLflow's store, and in ours."""
        mlflow, ours = (
            bool(store.search_traces([self.experiment], text)[0])
            for store in (self.pair.mlflow, self.pair.ours)
        )
        return mlflow, ours


@pytest.fixture
def both(pair: Pair) -> Both:
    return Both(pair)


def errors(both: Both, method: str, *args: Any, **kwargs: Any) -> tuple[str | None, str | None]:
    """The error of a call in MLflow's store, and in ours."""
    codes: list[str | None] = []
    for store in (both.pair.mlflow, both.pair.ours):
        try:
            getattr(store, method)(*args, **kwargs)
            codes.append(None)
        except MlflowException as error:
            codes.append(error.error_code)
        except Exception:
            codes.append("INTERNAL_ERROR")
    return codes[0], codes[1]


def test_an_error_says_what_is_wrong(both: Both) -> None:
    found = errors(both, "set_trace_tag", "tr-nope", "key", "value")
    assert found == ("BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")
    found = errors(both, "search_traces", ["1"], "request_id = ('a', 'b')")
    assert found == ("BAD_REQUEST", "INVALID_PARAMETER_VALUE")
    found = errors(both, "search_traces", ["1"], order_by=["timestamp", "timestamp"])
    assert found == ("INTERNAL_ERROR", "INVALID_PARAMETER_VALUE")


def test_start_trace_answers_what_it_was_told(both: Both) -> None:
    both.span(0, **{"session.id": "s"})
    mlflow, ours = both.start()
    assert "mlflow.trace.session" in mlflow.trace_metadata
    assert "mlflow.trace.session" not in ours.trace_metadata


def test_traces_can_be_sorted_by_their_end(both: Both) -> None:
    found = errors(both, "search_traces", [both.experiment], order_by=["end_time DESC"])
    assert found == ("INTERNAL_ERROR", None)


def test_issue_references_cannot_be_updated(both: Both) -> None:
    both.span(0)
    source = AssessmentSource("CODE", "check")
    for store in (both.pair.mlflow, both.pair.ours):
        issue = IssueReference("iss-1", "slow", source=source, trace_id=both.trace_id)
        issue.assessment_id = f"a-{both.trace_id[3:]}"
        store.create_assessment(issue)
    value = Feedback(name="x", value=1).feedback
    found = errors(
        both, "update_assessment", both.trace_id, f"a-{both.trace_id[3:]}", feedback=value
    )
    assert found == ("INVALID_PARAMETER_VALUE", "INVALID_PARAMETER_VALUE")
    found = errors(both, "update_assessment", both.trace_id, f"a-{both.trace_id[3:]}", name="y")
    assert found == ("INTERNAL_ERROR", "INVALID_PARAMETER_VALUE")


def test_a_started_trace_says_where_its_spans_are(both: Both) -> None:
    both.start()
    mlflow, ours = both.infos()
    assert "mlflow.trace.spansLocation" not in mlflow.tags
    assert ours.tags["mlflow.trace.spansLocation"] == "TRACKING_STORE"


def test_a_trace_that_nobody_has_named_has_the_name_of_its_root(both: Both) -> None:
    both.span(1)
    both.span(0)
    mlflow, ours = both.infos()
    assert "mlflow.traceName" not in mlflow.tags
    assert ours.tags["mlflow.traceName"] == "step"
    for text in ("trace.name = 'step'", "attributes.name = 'step'", "name LIKE 'st%'"):
        assert both.found(text) == (False, True)
    (found, _) = both.pair.ours.search_traces([both.experiment], order_by=["name DESC"])
    assert [info.trace_id for info in found] == [both.trace_id]


def test_start_trace_says_how_long_a_trace_took(both: Both) -> None:
    both.start()
    both.span(0, end_ms=10)
    mlflow, ours = both.infos()
    assert (mlflow.execution_duration, ours.execution_duration) == (10, 5)


def test_tokens_of_spans_after_start_trace_count(both: Both) -> None:
    both.span(1, **{"mlflow.chat.tokenUsage": USAGE})
    both.start()
    both.span(2, **{"mlflow.chat.tokenUsage": USAGE})
    mlflow, ours = both.infos()
    totals = [
        json.loads(info.trace_metadata["mlflow.trace.tokenUsage"])["total_tokens"]
        for info in (mlflow, ours)
    ]
    assert totals == [3, 6]


def test_a_span_is_of_the_type_it_is_shown_with(both: Both) -> None:
    both.span(0, **{"gen_ai.operation.name": "chat"})
    for store in (both.pair.mlflow, both.pair.ours):
        (span,) = store.get_trace(both.trace_id, allow_partial=True).data.spans
        assert span.span_type == "CHAT_MODEL"
    assert both.found("span.type = 'CHAT_MODEL'") == (False, True)


def test_a_running_span_has_no_duration(both: Both) -> None:
    both.span(1, end_ms=None)
    both.span(0, end_ms=None)
    mlflow, ours = both.infos()
    assert mlflow.execution_duration is not None
    assert mlflow.execution_duration < 0
    assert ours.execution_duration is None


def test_traces_can_be_unlinked_from_runs(both: Both) -> None:
    both.span(0)
    found = errors(both, "unlink_traces_from_run", [both.trace_id], "run-1")
    assert found == ("INTERNAL_ERROR", None)
