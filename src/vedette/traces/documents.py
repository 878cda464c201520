"""Traces and metrics as the JSON of MLflow's REST API, without a detour over protobuf.

Protobuf's own way to JSON takes most of the time of a list of traces. What comes out is the same,
but for insignificant spaces; the tests compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from mlflow.entities import Assessment, TraceInfo
from mlflow.entities.trace_metrics import MetricDataPoint
from mlflow.tracing.constant import (
    MAX_CHARS_IN_TRACE_INFO_METADATA,
    MAX_CHARS_IN_TRACE_INFO_TAGS_KEY,
    MAX_CHARS_IN_TRACE_INFO_TAGS_VALUE,
)

Document = dict[str, Any]

_EXACT = 2**53  # whole numbers up to here are the same as floating point numbers


def trace_document(info: TraceInfo) -> Document:
    """The JSON object of a ``TraceInfoV3`` message."""
    document: Document = {
        "trace_id": info.trace_id,
        "trace_location": {
            "type": "MLFLOW_EXPERIMENT",
            "mlflow_experiment": {"experiment_id": info.experiment_id},
        },
        "request_time": _timestamp(info.request_time),
        "state": info.state.value,
    }
    if info.execution_duration is not None:
        document["execution_duration"] = _duration(info.execution_duration)
    for name in ("client_request_id", "request_preview", "response_preview"):
        if (text := getattr(info, name)) is not None:
            document[name] = text
    if info.trace_metadata:
        limit = MAX_CHARS_IN_TRACE_INFO_METADATA
        document["trace_metadata"] = _texts(info.trace_metadata, limit, limit)
    if info.tags:
        document["tags"] = _texts(
            info.tags, MAX_CHARS_IN_TRACE_INFO_TAGS_KEY, MAX_CHARS_IN_TRACE_INFO_TAGS_VALUE
        )
    if info.assessments:
        document["assessments"] = [assessment_document(one) for one in info.assessments]
    return document


def assessment_document(assessment: Assessment) -> Document:
    """The JSON object of an ``Assessment`` message."""
    value = _simple_value(assessment)
    if value is None:
        general: Document = MessageToDict(assessment.to_proto(), preserving_proto_field_name=True)
        return general
    document: Document = {
        "assessment_id": assessment.assessment_id,
        "assessment_name": assessment.name,
        "trace_id": assessment.trace_id,
        "source": {
            "source_type": assessment.source.source_type,
            "source_id": assessment.source.source_id,
        },
        "create_time": _timestamp(assessment.create_time_ms or 0),
        "last_update_time": _timestamp(assessment.last_update_time_ms or 0),
        **value,
    }
    if assessment.valid is not None:
        document["valid"] = assessment.valid
    if assessment.span_id is not None:
        document["span_id"] = assessment.span_id
    if assessment.rationale is not None:
        document["rationale"] = assessment.rationale
    if assessment.overrides:
        document["overrides"] = assessment.overrides
    if assessment.metadata:
        document["metadata"] = {key: str(text) for key, text in assessment.metadata.items()}
    return document


def metrics_document(points: Sequence[MetricDataPoint]) -> Document:
    """The JSON object of a ``QueryTraceMetrics.Response`` message."""
    if not points:
        return {}
    return {"data_points": [_point(point) for point in points]}


def _simple_value(assessment: Assessment) -> Document | None:
    """Feedback or an expectation that is a text, a truth value or a number; None for the rest."""
    kind = assessment.feedback or assessment.expectation
    if kind is None or assessment.source.source_id is None or getattr(kind, "error", None):
        return None
    value = kind.value
    if not isinstance(value, bool | int | float | str):
        return None
    if not isinstance(value, bool | str) and not (math.isfinite(value) and abs(value) <= _EXACT):
        return None
    return {"feedback" if assessment.feedback else "expectation": {"value": value}}


def _point(point: MetricDataPoint) -> Document:
    document: Document = {"metric_name": point.metric_name}
    if point.dimensions:
        document["dimensions"] = point.dimensions
    document["values"] = {label: float(number) for label, number in point.values.items()}
    return document


def _texts(entries: dict[str, str], key_limit: int, limit: int) -> dict[str, str]:
    return {key[:key_limit]: str(text)[:limit] for key, text in entries.items()}


def _timestamp(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms // 1000, UTC).isoformat()[:19]
    return f"{moment}.{time_ms % 1000:03}Z" if time_ms % 1000 else f"{moment}Z"


def _duration(duration_ms: int) -> str:
    sign, seconds, rest = "-" if duration_ms < 0 else "", *divmod(abs(duration_ms), 1000)
    return f"{sign}{seconds}.{rest:03}s" if rest else f"{sign}{seconds}s"
