"""The records that made the tables' rows: the inverse of `vedette.lake.rows` and `.annotations`.

What a fold into the read model looks at comes back; the rest of a span (its events, links, what
its resource is called) stays in the lake. Not in the tables at all: how far scorers are.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from mlflow.store.tracking.utils.trace_analytics import assessment_aggregate

from vedette.intake.extract import extract, resource_tags
from vedette.intake.records import AssessmentRow, Record
from vedette.intake.spans import DecodedSpan, Resource
from vedette.lake.annotations import DELETED_FOR_GOOD
from vedette.lake.arrivals import Arrived, Place, arrivals
from vedette.lake.replay_decisions import DECISION_COLUMNS, decisions_record
from vedette.lake.schemas import mlflow_trace_id
from vedette.lake.table import Lake

_STATUS_PREFIX = "STATUS_CODE_"


class _SpanRow(NamedTuple):
    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    start_time_unix_nano: int
    end_time_unix_nano: int | None
    attributes: str
    status: str
    resource: str
    experiment_id: str


_SPAN_COLUMNS = [
    {"status": "status.code", "resource": "resource.attributes"}.get(field, field)
    for field in _SpanRow._fields
]


class _Annotation(NamedTuple):
    annotation_id: str
    target_type: str
    target_id: str
    annotation_type: str | None
    name: str | None
    value: str | None
    comment: str | None
    metadata: str | None
    created_at: int | None
    created_by: str | None
    source_type: str | None
    run_id: str | None
    error: str | None
    overrides: str | None
    valid: bool | None
    last_updated_at: int | None
    deleted_at: int | None
    deleted_by: str | None

    @property
    def deleted(self) -> bool:
        """Whether the row says that the thing is gone."""
        return self.deleted_at is not None

    @property
    def trace_id(self) -> str:
        """Of the trace it is on, as MLflow has it."""
        on_span = self.target_type == "SPAN"
        return mlflow_trace_id(self.target_id.rpartition(":")[0] if on_span else self.target_id)


class Replayed(NamedTuple):
    """A record, the spans in it if it is one of spans, and how many rows of the lake it was."""

    place: Place
    record: Record
    spans: list[DecodedSpan]
    rows: int = 0


def replay(lake: Lake, scratch: Path) -> Iterator[Replayed]:
    """The records that the read model is made of, in the order of arrival.

    Args:
        lake: nobody may compact its tables meanwhile.
        scratch: local directory for what doesn't fit into memory.

    Raises:
        LakeUnavailable: the lake can't be read now.
    """
    streams: list[Iterator[Replayed]] = []
    for place in lake.places():
        annotations = arrivals(place.annotations, _Annotation._fields, scratch)
        streams += [
            map(_spans, arrivals(place.spans, _SPAN_COLUMNS, scratch)),
            map(_annotations, annotations),
            map(_decisions, arrivals(place.decisions, DECISION_COLUMNS, scratch)),
        ]
    return heapq.merge(*streams, key=lambda replayed: replayed.place)


def _decisions(arrived: Arrived) -> Replayed:
    return Replayed(arrived.place, decisions_record(arrived), [], len(arrived.rows))


def _spans(arrived: Arrived) -> Replayed:
    place = arrived.place
    rows = [_SpanRow(*row) for row in arrived.rows]
    resources: dict[str, Resource] = {}
    for text in {row.resource for row in rows}:
        resources[text] = Resource(text, tags=resource_tags(orjson.loads(text)))
    # Links to the run are rows of annotations
    fields = {"experiment_id": rows[0].experiment_id, "run_id": None}
    spans = [_span(row, resources[row.resource]) for row in rows]
    return Replayed(place, Record("spans", place.at, fields), spans, len(rows))


def _span(row: _SpanRow, resource: Resource) -> DecodedSpan:
    span = DecodedSpan(
        trace_id=mlflow_trace_id(row.trace_id),
        span_id=row.span_id,
        parent_span_id=row.parent_span_id,
        name=row.name,
        kind="",
        start_ns=row.start_time_unix_nano,
        end_ns=row.end_time_unix_nano,
        status_code=row.status.removeprefix(_STATUS_PREFIX),
        status_message="",
        trace_state="",
        flags=0,
        attributes="",
        dropped_attributes_count=0,
        events=[],
        dropped_events_count=0,
        links=[],
        dropped_links_count=0,
        resource=resource,
        content_size=len(row.attributes),
    )
    extract(span, _json_object(row.attributes))
    return span


def _json_object(text: str) -> dict[str, Any]:
    """A JSON object, which may hold integers of any size."""
    try:
        found: dict[str, Any] = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = json.loads(text)
    return found


def _annotations(arrived: Arrived) -> Replayed:
    rows = [_Annotation(*row) for row in arrived.rows]
    read = _READ.get(rows[0].annotation_type, _assessments)
    kind, fields = read(rows)
    return Replayed(arrived.place, Record(kind, arrived.place.at, fields), [], len(rows))


_Rows = list[_Annotation]
_Header = tuple[str, dict[str, Any]]  # of a record: its kind and its fields


def _metadata(rows: _Rows) -> _Header:
    first, others = rows[0], rows[1:]
    if first.deleted:
        for_good = first.deleted_by == DELETED_FOR_GOOD
        return "delete_traces", {"trace_ids": [row.trace_id for row in rows], "for_good": for_good}
    header = _value(first)
    header["metadata"] = header.pop("trace_metadata")
    header["trace_id"] = first.trace_id
    header["tags"] = {row.name: _value(row) for row in others if row.annotation_type == "TAG"}
    header["assessments"] = [_assessment(row) for row in others if row.annotation_type != "TAG"]
    return "start_trace", {"trace": header}


def _tag(rows: _Rows) -> _Header:
    (row,) = rows
    fields = {"trace_id": row.trace_id, "key": row.name}
    return ("delete_tag", fields) if row.deleted else ("set_tag", {**fields, "value": _value(row)})


def _run_link(rows: _Rows) -> _Header:
    fields = {"trace_ids": [row.trace_id for row in rows], "run_id": _value(rows[0])}
    return "unlink_run" if rows[0].deleted else "link_run", fields


def _prompt_link(rows: _Rows) -> _Header:
    prompts = [_value(row) for row in rows]
    return "link_prompts", {"trace_id": rows[0].trace_id, "prompts": prompts}


def _assessments(rows: _Rows) -> _Header:
    put = [_assessment(row) for row in rows if not row.deleted]
    delete = [[row.trace_id, row.annotation_id] for row in rows if row.deleted]
    return "assessments", {"put": put, "delete": delete}


_READ: dict[str | None, Callable[[_Rows], _Header]] = {
    "METADATA": _metadata,
    "TAG": _tag,
    "RUN_LINK": _run_link,
    "PROMPT_LINK": _prompt_link,
}


def _value(row: _Annotation) -> Any:
    return None if row.value is None else orjson.loads(row.value)


def _assessment(row: _Annotation) -> AssessmentRow:
    value = row.value or "null"
    aggregate, numeric = assessment_aggregate(json.loads(value))
    return AssessmentRow(
        assessment_id=row.annotation_id,
        trace_id=row.trace_id,
        name=row.name or "",
        assessment_type=(row.annotation_type or "").lower(),
        value=value,
        error=row.error,
        created_timestamp=(row.created_at or 0) // 1000,
        last_updated_timestamp=(row.last_updated_at or 0) // 1000,
        source_type=row.source_type or "",
        source_id=row.created_by,
        run_id=row.run_id,
        span_id=row.target_id.rpartition(":")[2] if row.target_type == "SPAN" else None,
        rationale=row.comment,
        overrides=row.overrides,
        valid=bool(row.valid),
        assessment_metadata=row.metadata,
        aggregate_value=aggregate,
        is_numeric_value=numeric,
    )
