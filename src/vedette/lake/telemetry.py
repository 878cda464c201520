"""Log records and metric data points as rows of their tables.

They are no part of traces: the lake alone has them, and the read model knows nothing of them. A
record that is sent twice is there twice, as OTLP gives it no identity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from vedette.intake.decode_logs import decode_logs
from vedette.intake.decode_metrics import decode_metrics
from vedette.intake.records import Record
from vedette.lake.row_tables import MICROSECONDS_PER_DAY, place, table_of
from vedette.lake.telemetry_schemas import LOGS_SCHEMA, METRICS_SCHEMA


class TelemetryRows:
    """Collects the records of one kind, in the order of one segment, and gives their rows."""

    def __init__(
        self, kind: str, schema: pa.Schema, decode: Callable[[bytes], list[dict[str, Any]]]
    ) -> None:
        self._kind = kind
        self._schema = schema
        self._decode = decode
        self._rows: list[dict[str, Any]] = []

    @classmethod
    def of_logs(cls) -> TelemetryRows:
        """Of ``logs`` records, for the table of logs."""
        return cls("logs", LOGS_SCHEMA, decode_logs)

    @classmethod
    def of_metrics(cls) -> TelemetryRows:
        """Of ``metrics`` records, for the table of metrics."""
        return cls("metrics", METRICS_SCHEMA, decode_metrics)

    def add(self, record: Record, record_id: str) -> None:
        """Add the rows of ``record``, if it is of that kind."""
        if record.kind != self._kind:
            return
        rows = self._decode(record.body)
        received = record.at * 1000 + record.sub
        place(rows, record_id, received)
        for row in rows:
            said = row["time_unix_nano"] or row.get("observed_time_unix_nano")
            row["time"] = received if said is None else said // 1000
            row["date"] = row["time"] // MICROSECONDS_PER_DAY
            row["experiment_id"] = record.fields["experiment_id"]
        self._rows.extend(rows)

    def table(self) -> pa.Table:
        """The rows so far; perhaps none."""
        return table_of(self._rows, self._schema)
