"""An assessment as MLflow's entity and as the row that the journal, lake and read model hold."""

from __future__ import annotations

import json
import math
import time
import uuid
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Value  # type: ignore[attr-defined]
from mlflow.entities import Assessment, AssessmentError, AssessmentSource, Expectation, Feedback
from mlflow.entities.assessment import IssueReference
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.utils.trace_analytics import assessment_aggregate

from vedette.intake.records import AssessmentRow

_DEEPEST = 80  # messages in each other; protobuf reads 100, and there are some around a value


def assessment_row(assessment: Assessment, trace_id: str) -> AssessmentRow:
    """The row of a new assessment of a trace; an id is made if it has none.

    Raises:
        TypeError, ValueError: the value or the metadata can't be stored: see `value_json`.
    """
    now = int(time.time() * 1000)
    error: str | None = None
    value: Any
    if assessment.feedback is not None:
        kind, value = "feedback", assessment.feedback.value
        if assessment.feedback.error is not None:
            error = json.dumps(assessment.feedback.error.to_dictionary())
    elif assessment.expectation is not None:
        kind, value = "expectation", assessment.expectation.value
    elif assessment.issue is not None:
        kind, value = "issue", assessment.issue.to_dictionary()
    else:
        raise MlflowException.invalid_parameter_value(
            "Assessment must have either feedback, expectation, or issue value"
        )
    aggregate, numeric = assessment_aggregate(value)
    return AssessmentRow(
        assessment_id=assessment.assessment_id or f"a-{uuid.uuid4().hex}",
        trace_id=trace_id,
        name=assessment.name,
        assessment_type=kind,
        value=value_json(value, kind),
        error=error,
        created_timestamp=assessment.create_time_ms or now,
        last_updated_timestamp=assessment.last_update_time_ms or now,
        source_type=assessment.source.source_type,
        source_id=assessment.source.source_id,
        run_id=assessment.run_id,
        span_id=assessment.span_id,
        rationale=assessment.rationale,
        overrides=assessment.overrides,
        valid=True,
        assessment_metadata=json.dumps(assessment.metadata) if assessment.metadata else None,
        aggregate_value=aggregate,
        is_numeric_value=numeric,
    )


def value_json(value: Any, kind: str) -> str:
    """The value of an assessment as JSON, if MLflow can hand it out again: one that it can't would
    make its trace unreadable.

    Args:
        value: of feedback or of an expectation, or an issue's fields.
        kind: ``feedback``, ``expectation`` or ``issue``.

    Raises:
        TypeError: it isn't what JSON can hold.
        ValueError: a number is not finite or beyond double precision's, or the value is nested too
            deeply.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        _require_double(value)
    elif kind == "feedback" and isinstance(value, list | dict):  # expectations travel as text
        try:
            ParseDict(value, Value(), max_recursion_depth=_DEEPEST)
        except (ParseError, OverflowError) as error:
            raise ValueError(f"a value can't be carried in a message: {error}") from error
        return json.dumps(value, allow_nan=False)
    return json.dumps(value)


def _require_double(number: float) -> None:
    try:
        finite = math.isfinite(number)
    except OverflowError:
        raise ValueError("a number is too large: 1.8e308 is the largest") from None
    if not finite:
        raise ValueError(f"{number} is no number that JSON can hold")


def assessment_entity(row: AssessmentRow) -> Assessment:
    """MLflow's entity for a row."""
    value = json.loads(row["value"])
    metadata = row["assessment_metadata"]
    common: dict[str, Any] = {
        "source": AssessmentSource(source_type=row["source_type"], source_id=row["source_id"]),
        "trace_id": row["trace_id"],
        "metadata": None if metadata is None else json.loads(metadata),
        "span_id": row["span_id"],
        "create_time_ms": row["created_timestamp"],
        "last_update_time_ms": row["last_updated_timestamp"],
    }
    entity: Assessment
    if row["assessment_type"] == "feedback":
        error = row["error"]
        entity = Feedback(
            name=row["name"],
            value=value,
            error=None if error is None else AssessmentError.from_dictionary(json.loads(error)),
            rationale=row["rationale"],
            **common,
        )
    elif row["assessment_type"] == "expectation":
        entity = Expectation(name=row["name"], value=value, **common)
    else:
        entity = IssueReference(
            issue_id=row["name"],
            issue_name=value.get("issue_name"),
            run_id=row["run_id"],
            rationale=row["rationale"],
            **common,
        )
    entity.overrides = row["overrides"]
    entity.valid = bool(row["valid"])
    entity.run_id = row["run_id"]
    entity.assessment_id = row["assessment_id"]
    return entity
