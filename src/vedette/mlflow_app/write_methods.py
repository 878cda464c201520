"""The store's methods that write traces: MLflow's validation here, the rest in `vedette.traces`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from mlflow.entities import (
    Assessment,
    Expectation,
    Feedback,
    Span,
    TraceInfo,
)
from mlflow.entities.model_registry import PromptVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, NOT_IMPLEMENTED
from mlflow.store.tracking import MAX_TRACE_LINKS_PER_REQUEST
from mlflow.store.tracking.dbmodels.models import SqlReviewQueueItem
from mlflow.store.tracking.utils.trace_analytics import (
    assessment_aggregate,
    validate_trace_name,
)
from mlflow.tracing.constant import TraceTagKey
from mlflow.tracing.utils.otlp import resource_to_otel_proto
from mlflow.utils.validation import _parse_experiment_id, _validate_trace_tag
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from vedette.intake.records import AssessmentRow
from vedette.mlflow_app.experiments import require_possible
from vedette.mlflow_app.located_ids import bare_ids
from vedette.mlflow_app.plane import TracePlane
from vedette.mlflow_app.starts import checked_row, experiment_of, started_info, trace_header
from vedette.traces.assessments import assessment_entity, value_json

_REVIEWED_TRACES_PER_QUERY = 500


class WriteMethods:
    """Mixed into the store, ahead of MLflow's."""

    _plane: TracePlane

    def start_trace(self, trace_info: TraceInfo) -> TraceInfo:
        """Say what a trace is; its spans come before or after. See `started_info`."""
        experiment = self._plane.experiments.get_active(experiment_of(trace_info))
        header = trace_header(trace_info, experiment)
        self._plane.writes.start_trace(header)
        return started_info(trace_info, header, self._plane.artifact_location(trace_info))

    def log_spans(
        self, location: str, spans: list[Span], tracking_uri: str | None = None
    ) -> list[Span]:
        """Log spans to the experiment with the id ``location``."""
        if spans:
            experiment = self._plane.experiments.get(location)
            self._plane.log_spans(experiment.experiment_id, _otlp_request(spans))
        return spans

    async def log_spans_async(self, location: str, spans: list[Span]) -> list[Span]:
        """As `log_spans`, off the event loop."""
        return await asyncio.to_thread(self.log_spans, location, spans)

    def set_trace_tag(self, trace_id: str, key: str, value: str) -> None:
        """Set a tag on a trace."""
        key, value = _validate_trace_tag(key, value)
        if key == TraceTagKey.TRACE_NAME:
            validate_trace_name(value)
        self._plane.writes.set_tag(trace_id, key, value)

    def delete_trace_tag(self, trace_id: str, key: str) -> None:
        """Delete a tag of a trace."""
        self._plane.writes.delete_tag(trace_id, key)

    def _delete_traces(
        self,
        experiment_id: str,
        max_timestamp_millis: int | None = None,
        max_traces: int | None = None,
        trace_ids: Sequence[str] | None = None,
    ) -> int:
        # What MLflow's delete_traces calls once it has checked the combination of arguments
        require_possible(experiment_id)
        deleted = self._plane.writes.delete_traces(
            _parse_experiment_id(experiment_id),
            max_timestamp_ms=max_timestamp_millis,
            max_traces=max_traces,
            trace_ids=bare_ids(trace_ids) if trace_ids else None,
        )
        forget_reviews(self, deleted)
        return len(deleted)

    def create_assessment(self, assessment: Assessment) -> Assessment:
        """Add an assessment to a trace; one that it overrides becomes invalid."""
        row = checked_row(assessment, assessment.trace_id or "")
        self._plane.writes.create_assessment(row, new_id=not assessment.assessment_id)
        return assessment_entity(row)

    def update_assessment(
        self,
        trace_id: str,
        assessment_id: str,
        name: str | None = None,
        expectation: Any = None,
        feedback: Any = None,
        rationale: str | None = None,
        metadata: dict[str, str] | None = None,
        valid: bool | None = None,
    ) -> Assessment:
        """Change what is given of an assessment; metadata is merged.

        ``valid`` is in the REST API's update mask; MLflow's store doesn't know it and crashes.
        """

        def change(row: AssessmentRow) -> AssessmentRow:
            existing = assessment_entity(row)
            if expectation is not None and feedback is not None:
                raise _invalid("Cannot specify both `expectation` and `feedback` parameters.")
            if not isinstance(existing, Expectation | Feedback):
                raise _invalid("An issue reference can't be updated; delete it and add another.")
            if expectation is not None and not isinstance(existing, Expectation):
                raise _invalid("Cannot update expectation value on a Feedback assessment.")
            if feedback is not None and not isinstance(existing, Feedback):
                raise _invalid("Cannot update feedback value on an Expectation assessment.")
            changed = row.copy()
            if (given := expectation if expectation is not None else feedback) is not None:
                changed["value"] = _value(given.value, row["assessment_type"])
                error = getattr(given, "error", None)
                changed["error"] = _json(error.to_dictionary()) if error else None
            changed["aggregate_value"], changed["is_numeric_value"] = assessment_aggregate(
                json.loads(changed["value"])
            )
            changed["name"] = row["name"] if name is None else name
            if isinstance(existing, Expectation):
                changed["rationale"] = None  # as MLflow: expectations have none
            elif rationale is not None:
                changed["rationale"] = rationale
            merged = {**(existing.metadata or {}), **(metadata or {})}
            changed["assessment_metadata"] = _json(merged) if merged else None
            changed["last_updated_timestamp"] = time.time_ns() // 1_000_000
            changed["valid"] = row["valid"] if valid is None else valid
            return changed

        return assessment_entity(
            self._plane.writes.revise_assessment(trace_id, assessment_id, change)
        )

    def delete_assessment(self, trace_id: str, assessment_id: str) -> None:
        """Delete an assessment if it is there; one that it overrode is valid again."""
        self._plane.writes.delete_assessment(trace_id, assessment_id)

    def link_traces_to_run(self, trace_ids: Sequence[str], run_id: str) -> None:
        """Link at most 100 traces to a run."""
        if len(trace_ids) > MAX_TRACE_LINKS_PER_REQUEST:
            raise MlflowException(
                f"Cannot link more than {MAX_TRACE_LINKS_PER_REQUEST} traces to a run in "
                f"a single request. Provided {len(trace_ids)} traces.",
                error_code=INVALID_PARAMETER_VALUE,
            )
        if trace_ids:
            self._plane.writes.link_run(bare_ids(trace_ids), run_id)

    def unlink_traces_from_run(self, trace_ids: Sequence[str], run_id: str) -> None:
        """Undo `link_traces_to_run`, where it was done."""
        if trace_ids:
            self._plane.writes.unlink_run(bare_ids(trace_ids), run_id)

    def link_prompts_to_trace(self, trace_id: str, prompt_versions: list[PromptVersion]) -> None:
        """Link prompt versions to a trace."""
        if prompt_versions:
            prompts = [f"{prompt.name}/{prompt.version}" for prompt in prompt_versions]
            self._plane.writes.link_prompts(trace_id, prompts)

    def deprecated_start_trace_v2(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refused: MLflow 2 keeps spans in files, where nothing could score them."""
        raise _too_old()

    def deprecated_end_trace_v2(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refused, as `deprecated_start_trace_v2`."""
        raise _too_old()

    def archive_traces(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refused: it moves spans out of MLflow's tables, where there are none."""
        raise MlflowException(
            "Vedette keeps traces in Delta tables; MLflow's trace archival doesn't apply to them.",
            error_code=NOT_IMPLEMENTED,
        )


def forget_reviews(store: Any, trace_ids: Sequence[str]) -> None:
    """Take deleted traces off the review queues, which are in the tables of MLflow's ``store``."""
    for start in range(0, len(trace_ids), _REVIEWED_TRACES_PER_QUERY):
        some = trace_ids[start : start + _REVIEWED_TRACES_PER_QUERY]
        with store.ManagedSessionMaker(read_only=False) as session:
            session.query(SqlReviewQueueItem).filter(
                SqlReviewQueueItem.item_type == "trace", SqlReviewQueueItem.item_id.in_(some)
            ).delete(synchronize_session=False)


def _value(value: Any, kind: str) -> str:
    try:
        return value_json(value, kind)
    except (TypeError, ValueError) as error:
        raise _invalid(f"An assessment's value can't be stored: {error}") from error


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise _invalid(f"An assessment's value must be what JSON can hold: {error}") from error


def _otlp_request(spans: Sequence[Span]) -> bytes:
    """The OTLP request that MLflow's client would send for the spans."""
    request = ExportTraceServiceRequest()
    groups: dict[int, Any] = {}
    for span in spans:
        resource = getattr(span._span, "resource", None)
        if (group := groups.get(id(resource))) is None:
            message = request.resource_spans.add()
            message.resource.CopyFrom(resource_to_otel_proto(resource))
            group = groups[id(resource)] = message.scope_spans.add()
        group.spans.append(span.to_otel_proto())
    body: bytes = request.SerializeToString()
    return body


def _invalid(message: str) -> MlflowException:
    error: MlflowException = MlflowException.invalid_parameter_value(message)
    return error


def _too_old() -> MlflowException:
    return MlflowException(
        "Vedette takes traces from MLflow 3 and from OpenTelemetry; this is the trace API of "
        "MLflow 2. Upgrade the client, or send OTLP to /v1/traces.",
        error_code=NOT_IMPLEMENTED,
    )
