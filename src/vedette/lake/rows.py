"""One sealed journal segment as rows of the lake's tables: a pure function of the segment.

That a replayed segment gives the same rows, with the same ids, is what makes a replay exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vedette.intake.records import Record
from vedette.intake.spans import DecodedSpan, Resource
from vedette.lake.annotations import AnnotationRows
from vedette.lake.decisions import DecisionRows
from vedette.lake.row_tables import MICROSECONDS_PER_DAY
from vedette.lake.schemas import (
    EVENT,
    LINK,
    PARTITION,
    RESOURCE,
    SCOPE,
    SPANS_SCHEMA,
    lake_trace_id,
)
from vedette.lake.telemetry import TelemetryRows
from vedette.unicode import storable

_MAX_INT64 = 2**63 - 1
_MAX_INT32 = 2**31 - 1


class SegmentRows:
    """Collects the records of one sealed segment, in order, and gives the rows of every table.

    ``journal_id`` and ``segment`` say which segment it is; with each record's place they make the
    rows' ``record_id``, which sorts by arrival.
    """

    def __init__(self, journal_id: str, segment: int) -> None:
        self._place = f"{journal_id}-{segment:08x}"
        self._annotations = AnnotationRows()
        self._decisions = DecisionRows()
        self._logs = TelemetryRows.of_logs()
        self._metrics = TelemetryRows.of_metrics()
        self._spans: list[DecodedSpan] = []
        self._record_ids: list[str] = []
        self._experiments: list[str | None] = []
        self._received_ms: list[int] = []

    def add(self, record: Record, offset: int, spans: Sequence[DecodedSpan] = ()) -> None:
        """Add the next record; ``spans`` is its decoded body if it is of the kind ``spans``."""
        record_id = f"{record.at:011x}-{self._place}-{offset:08x}"
        if record.kind == "spans":
            count = len(spans)
            self._spans.extend(spans)
            self._record_ids.extend([f"{record_id}-{index:05x}" for index in range(count)])
            self._experiments.extend([record.fields.get("experiment_id")] * count)
            self._received_ms.extend([record.at] * count)
        self._annotations.add(record, record_id, spans)
        self._decisions.add(record, record_id)
        self._logs.add(record, record_id)
        self._metrics.add(record, record_id)

    def annotations(self) -> pa.Table:
        """The segment's rows of the annotations table; perhaps none."""
        return self._annotations.table()

    def decisions(self) -> pa.Table:
        """The segment's rows of the ledger of decisions; perhaps none."""
        return self._decisions.table()

    def logs(self) -> pa.Table:
        """The segment's rows of the logs table; perhaps none."""
        return self._logs.table()

    def metrics(self) -> pa.Table:
        """The segment's rows of the metrics table; perhaps none."""
        return self._metrics.table()

    def cursors(self) -> dict[str, int]:
        """How far the segment's decisions bring their scorers, by application of transactions."""
        return self._decisions.cursors

    def spans(self) -> pa.Table:
        """The segment's rows of the spans table; perhaps none."""
        spans = self._spans
        times = pa.array([span.start_ns // 1000 for span in spans], pa.int64())
        received = pc.multiply(pa.array(self._received_ms, pa.int64()), 1000)
        lake_ids = {trace_id: lake_trace_id(trace_id) for trace_id in {s.trace_id for s in spans}}
        resources = _Shared(spans)
        costs = [span.cost or _NO_COST for span in spans]
        columns = {
            "record_id": pa.array(self._record_ids, pa.string()),
            "time": times.cast(pa.timestamp("us", tz="UTC")),
            "date": _date(times),
            "service_name": resources.strings("service_name"),
            "trace_id": _strings(lake_ids[span.trace_id] for span in spans),
            "span_id": _strings(span.span_id for span in spans),
            "trace_state": _strings(span.trace_state for span in spans),
            "parent_span_id": _strings(span.parent_span_id for span in spans),
            "flags": _integers([span.flags for span in spans], pa.int32()),
            "name": _strings(span.name for span in spans),
            "kind": _strings(span.kind for span in spans),
            "start_time_unix_nano": _integers([span.start_ns for span in spans], pa.int64()),
            "end_time_unix_nano": _integers([span.end_ns for span in spans], pa.int64()),
            "attributes": _strings(span.attributes for span in spans),
            "dropped_attributes_count": _integers(
                [span.dropped_attributes_count for span in spans], pa.int32()
            ),
            "events": _structs([span.events for span in spans], EVENT),
            "dropped_events_count": _integers(
                [span.dropped_events_count for span in spans], pa.int32()
            ),
            "links": _structs([span.links for span in spans], LINK),
            "dropped_links_count": _integers(
                [span.dropped_links_count for span in spans], pa.int32()
            ),
            "status": pa.StructArray.from_arrays(
                [
                    _strings(span.status_message for span in spans),
                    _strings(f"STATUS_CODE_{span.status_code}" for span in spans),
                ],
                ["message", "code"],
            ),
            "resource": resources.structs(RESOURCE, ""),
            "resource_schema_url": resources.strings("schema_url"),
            "instrumentation_scope": resources.structs(SCOPE, "scope_"),
            "span_schema_url": resources.strings("span_schema_url"),
            "experiment_id": _strings(self._experiments),
            "received_at": received.cast(pa.timestamp("us", tz="UTC")),
            "span_type": _strings(span.span_type for span in spans),
            "model_name": _strings(span.model_name for span in spans),
            "model_provider": _strings(span.model_provider for span in spans),
            "input_cost": _floats(cost.get("input_cost") for cost in costs),
            "output_cost": _floats(cost.get("output_cost") for cost in costs),
            "total_cost": _floats(cost.get("total_cost") for cost in costs),
            PARTITION: _date(received),
        }
        return pa.table(columns, schema=SPANS_SCHEMA)


_NO_COST: dict[str, Any] = {}


class _Shared:
    """Columns whose values come from the resources that many spans share."""

    def __init__(self, spans: Sequence[DecodedSpan]) -> None:
        resources = {id(span.resource): span.resource for span in spans}
        places = {key: place for place, key in enumerate(resources)}
        self._resources: list[Resource] = list(resources.values())
        self._indices = pa.array([places[id(span.resource)] for span in spans], pa.int32())

    def _array(self, field: str, kind: pa.DataType) -> pa.Array:
        values = [getattr(resource, field) for resource in self._resources]
        return _integers(values, kind) if pa.types.is_integer(kind) else _strings(values)

    def strings(self, field: str) -> pa.Array:
        return self._array(field, pa.string()).take(self._indices)

    def structs(self, kind: pa.StructType, prefix: str) -> pa.Array:
        fields = [self._array(f"{prefix}{field.name}", field.type) for field in kind]
        return pa.StructArray.from_arrays(fields, fields=list(kind)).take(self._indices)


def _date(microseconds: pa.Array) -> pa.Array:
    return pc.divide(microseconds, MICROSECONDS_PER_DAY).cast(pa.int32()).cast(pa.date32())


def _strings(values: Iterable[str | None]) -> pa.Array:
    """Text that can't be stored would stop the lake."""
    texts = list(values)
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        return pa.array([t and storable(t) for t in texts], pa.string())


def _integers(values: list[int | None], kind: pa.DataType) -> pa.Array:
    """OTLP's unsigned numbers in Delta's signed columns: what doesn't fit becomes the largest."""
    try:
        return pa.array(values, kind)
    except (OverflowError, pa.ArrowInvalid):
        largest = _MAX_INT64 if kind == pa.int64() else _MAX_INT32
        return pa.array([None if v is None else min(v, largest) for v in values], kind)


def _floats(values: Iterable[Any]) -> pa.Array:
    return pa.array([None if v is None else _float(v) for v in values], pa.float64())


def _float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _structs(lists: list[list[dict[str, Any]]], kind: pa.StructType) -> pa.Array:
    """A list column; most spans have no events and no links."""
    offsets, end = [0], 0
    for members in lists:
        end += len(members)
        offsets.append(end)
    flat = [member for members in lists for member in members]
    arrays = []
    for field in kind:
        values = [member.get(field.name) for member in flat]
        if pa.types.is_integer(field.type):
            arrays.append(_integers(values, field.type))
        else:
            arrays.append(_strings(values))
    structs = pa.StructArray.from_arrays(arrays, fields=list(kind))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs, type=pa.list_(kind))
