"""The ledger: what scoring decided, as rows of the table ``<prefix>_monitor_decisions``.

The table is append-only. Readers keep, of each ``decision_id``, the row with the highest
``record_id``. A row stands for ``units`` units: 1 where ``unit_id`` is set, else a count, which may
be negative when units that were counted before were decided otherwise. A scorer whose filter or
strata ask for tags or assessments may select a trace later, when these change: what it has not
selected, or filtered out, has a row then.

``origin`` says whose sample a row is of: null or ``live``, or ``backfill:<job>``. Each is a sample
by itself, with inclusion probabilities of its own: never add up two of them.

=================  ===================================================================
decision           meaning
=================  ===================================================================
scored, failed     the scorer was run: it has given its scores, or an error
retrying           it met a transient failure; ``next_attempt_at`` says when it is tried again
budget             selected, but there was no budget to score it
superseded         a session's revision that had a newer one; a count: before its turn came
stopped            the scorer was stopped meanwhile; a count: before the unit's turn came
deleted            the trace was deleted meanwhile; a count: before it was first tried
not_selected       a count: draw >= inclusion probability
filtered           a count: the scorer's filter doesn't match
evaluation_run     a count: the trace was made by an evaluation, which scores it itself
incomplete         a count: the trace never had a root span that ended
epoch              no unit: the scorer's rate, filter or version changed; ``settings`` has them
reused             by a backfill: this version had scored it; ``scores`` are those
backfill           no unit: a backfill was asked for, or cancelled; ``settings`` says which
=================  ===================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
import pyarrow as pa

from vedette.intake.records import Record, Stream
from vedette.lake.row_tables import place, table_of
from vedette.lake.schemas import DECISIONS_SCHEMA, lake_trace_id

_SETTINGS = ("rate", "filter", "strata", "reason", "of_sessions", "after_arrival")

# Of the ledger's transactions: how far a scorer has come; see `Decisions.arrived_until`
CURSOR_APP = "scorer/"

TIMES = {
    "completed_ms": "completed_at",
    "decided_ms": "decided_at",
    "first_attempt_ms": "first_attempt_at",
    "next_attempt_ms": "next_attempt_at",
}


class DecisionRows:
    """Collects ``decisions`` records, in the order of one segment, and gives their rows."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self.cursors: dict[str, int] = {}  # versions of Delta transactions; 0: no cursor any more

    def add(self, record: Record, record_id: str) -> None:
        """Add the rows of ``record``, if it is of that kind."""
        if record.kind == "backfill":
            self._place([_backfill(record)], record, record_id)
        if record.kind != "decisions":
            return
        fields = record.fields
        key = fields["scorer"]
        if "arrived_until" in fields:
            self.cursors[CURSOR_APP + key] = fields["arrived_until"] or 0
        stream = Stream.of(key)
        since = (fields["cursor"] or (None, None))[0]
        rows = [_epoch(key, epoch) for epoch in fields["epochs"]]
        rows += [_decision(key, decision) for decision in fields["decisions"]]
        rows += [_count(key, since, count) for count in fields["counts"]]
        for row in rows:
            row["experiment_id"], row["scorer"] = stream.experiment_id, stream.scorer
            if stream.job is not None:
                row["origin"] = stream.origin
        self._place(rows, record, record_id)

    def _place(self, rows: list[dict[str, Any]], record: Record, record_id: str) -> None:
        received = record.at * 1000
        place(rows, record_id, received)
        for row in rows:
            row.setdefault("decided_at", received)
        self._rows.extend(rows)

    def table(self) -> pa.Table:
        """The rows so far, as a table with the columns of the ledger."""
        return table_of(self._rows, DECISIONS_SCHEMA)


def _decision(key: str, decision: dict[str, Any]) -> dict[str, Any]:
    row = dict(decision)
    for name, column in TIMES.items():
        milliseconds = row.pop(name)
        row[column] = None if milliseconds is None else milliseconds * 1000
    row["decision_id"] = _digest(key, "unit", decision["unit_id"], decision["revision"])
    if decision["unit_type"] == "trace":
        row["unit_id"] = lake_trace_id(row["unit_id"])
    row["trace_id"] = lake_trace_id(row["trace_id"])
    row["units"] = 1
    return row


def _count(key: str, since: int | None, count: dict[str, Any]) -> dict[str, Any]:
    hour = count["hour_ms"] * 1000
    return {
        "decision_id": count_id(key, since, count),
        "epoch": count["epoch"],
        "stratum": count["stratum"],
        "completed_at": hour,
        "decision": count["decision"],
        "units": count["units"],
    }


def count_id(key: str, since: int | None, count: Mapping[str, Any]) -> str:
    """The ``decision_id`` of a count of scorer ``key``, of units complete after place ``since``."""
    hour = count["hour_ms"] * 1000
    return _digest(key, "count", since, count["epoch"], count["stratum"], hour, count["decision"])


def _epoch(key: str, epoch: dict[str, Any]) -> dict[str, Any]:
    return {
        "decision_id": _digest(key, "epoch", epoch["epoch"]),
        "epoch": epoch["epoch"],
        "version": epoch["version"],
        "decision": "epoch",
        "decided_at": epoch["opened_ms"] * 1000,
        "settings": orjson.dumps({name: epoch.get(name) for name in _SETTINGS}).decode(),
        "units": 0,
    }


def _backfill(record: Record) -> dict[str, Any]:
    fields = record.fields
    return {
        "decision_id": _digest("backfill", fields["job"], fields["cancelled_ms"]),
        "experiment_id": fields["experiment_id"],
        "decision": "backfill",
        "origin": Stream(fields["experiment_id"], "", fields["job"]).origin,
        "settings": orjson.dumps(fields).decode(),
        "units": 0,
    }


def _digest(*identity: Any) -> str:
    return hashlib.sha256(orjson.dumps(identity)).hexdigest()
