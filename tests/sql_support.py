"""A lake with rows that a test chooses, and an engine to query it."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from lake_support import JOURNAL, open_lake
from vedette.lake.location import DEFAULT, Location
from vedette.lake.row_tables import MICROSECONDS_PER_DAY, table_of
from vedette.lake.schemas import PARTITION
from vedette.lake.sql.engine import SqlEngine
from vedette.lake.sql.formats import from_arrow

SECOND = 10**6  # times are microseconds since the epoch, as in the tables
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND


def hour_ago(hours: int) -> int:
    """The middle of an hour, so many full hours before the current one."""
    return time.time_ns() // 1000 // HOUR * HOUR - hours * HOUR + 30 * MINUTE


def day_ago(days: int) -> int:
    """Noon (UTC), so many days before today."""
    return time.time_ns() // 1000 // DAY * DAY - days * DAY + 12 * HOUR


def trace_id(number: int) -> str:
    """A trace id as the tables have it."""
    return f"{number:032x}"


class RowsLake:
    """Collects rows of all tables; `commit` writes them as one segment."""

    def __init__(self, directory: Path) -> None:
        self.lake = open_lake(directory)
        self.engine = SqlEngine(self.lake)
        self._segment = 0
        self._row = 0
        self._rows: dict[str, list[dict[str, Any]]] = {}

    def rows(self, query: str, **options: Any) -> list[dict[str, Any]]:
        """A query's result."""
        table = self.table(query, **options)
        found: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="lossy")
        return found

    def table(self, query: str, **options: Any) -> pa.Table:
        """A query's result as Arrow has it."""
        return from_arrow(self.engine.run(query, **options).content)

    def commit(self, location: Location = DEFAULT) -> None:
        """Append what was collected to the tables of a location."""
        self._segment += 1
        of_default = self.lake.tables
        for table, like in zip(self.lake.at(location).tables, of_default, strict=True):
            rows = self._rows.pop(like.spec.name, [])
            table.append_segment(JOURNAL, self._segment, table_of(rows, table.spec.schema))

    def span(
        self,
        trace: int,
        at: int,
        *,
        name: str = "agent",
        root: bool = True,
        milliseconds: float | None = 100.0,
        failed: bool = False,
        attributes: dict[str, Any] | None = None,
        resource: dict[str, Any] | None = None,
        **columns: Any,
    ) -> None:
        """A span; ``columns`` are further ones of the table."""
        start = at * 1000
        row = {
            "time": at,
            "date": at // MICROSECONDS_PER_DAY,
            "trace_id": trace_id(trace),
            "span_id": name.encode().hex()[:16].rjust(16, "0"),
            "parent_span_id": None if root else "0" * 16,
            "name": name,
            "kind": "SPAN_KIND_INTERNAL",
            "start_time_unix_nano": start,
            "end_time_unix_nano": None if milliseconds is None else start + int(milliseconds * 1e6),
            "attributes": orjson.dumps(attributes or {}).decode(),
            "status": {
                "message": "broken" if failed else "",
                "code": f"STATUS_CODE_{'ERROR' if failed else 'OK'}",
            },
            "resource": {"attributes": orjson.dumps(resource or {}).decode()},
            "experiment_id": "1",
        }
        self._add("mlflow_otel_spans", {**row, **columns}, at)

    def feedback(
        self,
        trace: int,
        at: int,
        name: str,
        value: Any,
        *,
        annotation_id: str | None = None,
        **columns: Any,
    ) -> str:
        """A score or a human's feedback; returns its id."""
        annotation_id = annotation_id or f"a-{uuid.uuid4().hex}"
        row = {
            "annotation_id": annotation_id,
            "target_type": "TRACE",
            "target_id": trace_id(trace),
            "annotation_type": "FEEDBACK",
            "name": name,
            "value": orjson.dumps(value).decode(),
            "created_at": at,
            "updated_at": at,
            "last_updated_at": at,
            "created_by": "someone",
            "source_type": "CODE",
            "valid": True,
            "experiment_id": "1",
        }
        self._add("mlflow_otel_annotations", {**row, **columns}, columns.get("updated_at", at))
        return annotation_id

    def deleted_annotation(self, annotation_id: str, trace: int, at: int) -> None:
        """The row that says that an assessment is gone."""
        row = {
            "annotation_id": annotation_id,
            "target_type": "TRACE",
            "target_id": trace_id(trace),
            "updated_at": at,
            "deleted_at": at,
        }
        self._add("mlflow_otel_annotations", row, at)

    def tag(self, trace: int, at: int, key: str, value: str) -> None:
        """A tag of a trace."""
        self._add(
            "mlflow_otel_annotations",
            {
                "annotation_id": f"{trace}:tag:{key}",
                "target_type": "TRACE",
                "target_id": trace_id(trace),
                "annotation_type": "TAG",
                "name": key,
                "value": orjson.dumps(value).decode(),
                "created_at": at,
                "updated_at": at,
            },
            at,
        )

    def header(self, trace: int, at: int, *, deleted: bool = False, **fields: Any) -> None:
        """What start_trace says of a trace, or that the trace is deleted."""
        row = {
            "annotation_id": f"{trace}:metadata",
            "target_type": "TRACE",
            "target_id": trace_id(trace),
            "annotation_type": "METADATA",
            "value": None if deleted else orjson.dumps(fields).decode(),
            "created_at": at,
            "updated_at": at,
            "deleted_at": at if deleted else None,
        }
        self._add("mlflow_otel_annotations", row, at)

    def decision(self, at: int, scorer: str, decision: str, **columns: Any) -> None:
        """A row of the ledger."""
        row = {
            "decision_id": uuid.uuid4().hex,
            "experiment_id": "1",
            "scorer": scorer,
            "decision": decision,
            "units": 1,
            "attempts": 1,
            "completed_at": at,
            "decided_at": at,
            "origin": "live",
        }
        self._add("mlflow_monitor_decisions", {**row, **columns}, at)

    def _add(self, table: str, row: dict[str, Any], received: int) -> None:
        self._row += 1
        row["record_id"] = f"{received // 1000:011x}-{JOURNAL}-{self._row:016x}"
        row["received_at"] = received
        row[PARTITION] = received // MICROSECONDS_PER_DAY
        self._rows.setdefault(table, []).append(row)
