"""Traces of the read model as rows of an archive."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa
from mlflow.entities import Assessment, TraceInfo
from mlflow.tracing.constant import SpanAttributeKey

from vedette.archive.schema import ARCHIVE_SCHEMA
from vedette.intake.records import Record
from vedette.intake.spans import DecodedSpan
from vedette.intake.values import stored
from vedette.lake.rows import SegmentRows
from vedette.lake.schemas import PARTITION, lake_trace_id
from vedette.named_sql import statements
from vedette.traces.contents import Form, SpanContents
from vedette.traces.index import TraceIndex
from vedette.traces.infos import INCOMPLETE_TAG, infos_by_row
from vedette.unicode import storable

_SQL = statements("vedette.archive", "changes")

FILE_SCHEMA = pa.schema([column for column in ARCHIVE_SCHEMA if column.name != PARTITION])
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What readers understand, in milliseconds: from the year 1 to the year 9999
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999


def arrival_day(received_ms: int) -> str:
    """The partition of a trace that began to arrive then: "2026-01-31"."""
    return _time(received_ms).date().isoformat()


def archive_rows(
    index: TraceIndex, contents: SpanContents, rows: Sequence[int], experiment_id: str
) -> pa.Table:
    """Traces as the read model has them now, with the columns of an archive's files.

    Args:
        rows: of ``traces``. Those that are gone, or in another experiment, are left out.

    Raises:
        LakeUnavailable: the lake, which alone has some of their spans, can't be read.
    """
    connection = index.connection()
    connection.execute("BEGIN")  # one state for all the queries
    try:
        infos = infos_by_row(connection, rows)
        values = {"rows": orjson.dumps(list(rows)).decode(), "experiment": int(experiment_id)}
        arrived = connection.execute(_SQL["arrived"], values).fetchall()
    finally:
        connection.execute("COMMIT")
    spans = contents.in_form(_SPANS, [row for row, _ in arrived])
    found = [_row(infos[row], received_ms, spans.get(row, [])) for row, received_ms in arrived]
    try:
        return pa.Table.from_pylist(found, schema=FILE_SCHEMA)
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can carry
        return pa.Table.from_pylist(_storable(found), schema=FILE_SCHEMA)


def _row(info: TraceInfo, received_ms: int, spans: list[dict[str, Any]]) -> dict[str, Any]:
    # Whether something is missing is told by the clock: it would be out of date in a table
    tags = {key: value for key, value in info.tags.items() if key != INCOMPLETE_TAG}
    return {
        "trace_id": lake_trace_id(info.trace_id),
        "client_request_id": info.client_request_id,
        "request_time": _time(info.request_time),
        "state": info.state.value,
        "execution_duration_ms": info.execution_duration,
        "request": _of_root(spans, SpanAttributeKey.INPUTS) or info.request_preview,
        "response": _of_root(spans, SpanAttributeKey.OUTPUTS) or info.response_preview,
        "trace_metadata": _texts(info.trace_metadata),
        "tags": _texts(tags),
        "spans": spans,
        "assessments": [_assessment(one) for one in info.assessments],
        "experiment_id": str(info.experiment_id),
        "received_at": _time(received_ms),
    }


def _of_root(spans: list[dict[str, Any]], key: str) -> str | None:
    """An attribute of the root, as MLflow stores it: JSON text."""
    if not spans or spans[0]["parent_span_id"] is not None:  # roots come first
        return None
    attributes = _loads(spans[0]["attributes"])
    return stored(attributes[key]) if attributes.get(key) is not None else None


def _assessment(assessment: Assessment) -> dict[str, Any]:
    feedback = expectation = None
    if assessment.feedback is not None:
        error = assessment.feedback.error
        feedback = {
            "value": _text(assessment.feedback.value),
            "error": error
            and {
                "error_code": error.error_code,
                "error_message": error.error_message,
                "stack_trace": error.stack_trace,
            },
        }
    elif assessment.expectation is not None:
        expectation = {"value": _text(assessment.expectation.value)}
    source = assessment.source
    return {
        "assessment_id": assessment.assessment_id,
        "assessment_name": assessment.name,
        "source": {"source_id": source.source_id, "source_type": source.source_type},
        "create_time": _time(assessment.create_time_ms or 0),
        "last_update_time": _time(assessment.last_update_time_ms or 0),
        "expectation": expectation,
        "feedback": feedback,
        "rationale": assessment.rationale,
        "metadata": _texts(assessment.metadata or {}),
        "span_id": assessment.span_id,
        "overrides": assessment.overrides,
        "valid": assessment.valid,
    }


def _texts(entries: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    return [(key, _text(entries[key])) for key in sorted(entries)]


def _text(value: Any) -> str | None:
    """Text as it is; anything else, but null, as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _storable(value: Any) -> Any:
    """The same with all text in it storable."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {key: _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_storable, value))
    return value


def _time(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=max(_FIRST_MS, min(milliseconds, _LAST_MS)))


def _loads(text: str) -> dict[str, Any]:
    """A JSON object, which may hold integers of any size."""
    try:
        found: dict[str, Any] = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = json.loads(text)
    return found


def _of_row(row: dict[str, Any]) -> dict[str, Any]:
    """A span as it is in the lake."""
    return {name: row[name] for name in _SPAN_COLUMNS}


def _of_span(span: DecodedSpan) -> dict[str, Any]:
    """A span of the journal, as it will be in the lake: what doesn't fit there is made fit."""
    rows = SegmentRows("", 0)
    rows.add(Record("spans", 0), 0, [span])
    (row,) = rows.spans().select(_SPAN_COLUMNS).to_pylist()
    return dict(row)


_SPAN_COLUMNS = [field.name for field in ARCHIVE_SCHEMA.field("spans").type.value_type]
_MORE_COLUMNS = (
    "trace_state",
    "flags",
    "dropped_attributes_count",
    "dropped_events_count",
    "dropped_links_count",
    "resource",
    "resource_schema_url",
    "instrumentation_scope",
    "span_schema_url",
)
_SPANS = Form(_of_row, _of_span, _MORE_COLUMNS)
