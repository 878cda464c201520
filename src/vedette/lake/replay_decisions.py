"""The records that made the ledger's rows: the inverse of `vedette.lake.decisions`.

Places in the order of completion mean nothing in a read model that is made anew: cursors don't come
back, and epochs say with ``after_arrival`` where they begin. Cursors are also what a record that
was written twice is known by; without them, its counts are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from vedette.intake.records import CountRow, DecisionRow, Decisions, EpochRow, Record, Stream
from vedette.lake.arrivals import Arrived
from vedette.lake.decisions import TIMES, count_id
from vedette.lake.schemas import DECISIONS_SCHEMA, PARTITION, mlflow_trace_id

_COUNT_IDS = "count_ids"  # of each of ``counts``, its ``decision_id``

DECISION_COLUMNS = [
    name for name in DECISIONS_SCHEMA.names if name not in ("record_id", "received_at", PARTITION)
]


def decisions_record(arrived: Arrived) -> Record:
    """The ``decisions`` record, without its scores: those are rows of annotations. Or the
    ``backfill`` record."""
    rows = [dict(zip(DECISION_COLUMNS, row, strict=True)) for row in arrived.rows]
    first = rows[0]
    if first["decision"] == "backfill":
        return Record("backfill", arrived.place.at, orjson.loads(first["settings"]))
    counts = [row for row in rows if row["unit_id"] is None and row["decision"] != "epoch"]
    fields = Decisions(
        scorer=Stream.with_origin(first["experiment_id"], first["scorer"], first["origin"]).key,
        cursor=None,
        epochs=[_epoch(row) for row in rows if row["decision"] == "epoch"],
        decisions=[_decision(row) for row in rows if row["unit_id"] is not None],
        counts=[_count(row) for row in counts],
        put=[],
    )
    count_ids = [row["decision_id"] for row in counts]
    return Record("decisions", arrived.place.at, {**fields, _COUNT_IDS: count_ids})


def without_places(record: Record) -> Record:
    """A journaled ``decisions`` record as the ledger would tell it, but with its scores."""
    fields = record.fields
    since = (fields["cursor"] or (None, None))[0]
    changed = {
        "cursor": None,
        "epochs": [{**epoch, "after_position": 0} for epoch in fields["epochs"]],
        _COUNT_IDS: [count_id(fields["scorer"], since, count) for count in fields["counts"]],
    }
    return replace(record, fields={**fields, **changed})


class CountedOnce:
    """Leaves out the counts of records that were written a second time, the same.

    That happens when it isn't known whether the first was written, and no other record of the
    scorer comes in between: it is enough to remember its last counts.
    """

    def __init__(self) -> None:
        self._last: dict[str, set[str]] = {}  # by scorer: their ids

    def of(self, record: Record) -> Record:
        """The record that comes next in the order of arrival, with the counts that are new."""
        if record.kind != "decisions":
            return record
        fields = dict(record.fields)
        ids, scorer = fields.pop(_COUNT_IDS), fields["scorer"]
        known = self._last.get(scorer, set())
        fields["counts"] = [
            count for count, id_ in zip(fields["counts"], ids, strict=True) if id_ not in known
        ]
        if ids:
            self._last[scorer] = set(ids)
        return replace(record, fields=fields)


def _epoch(row: dict[str, Any]) -> EpochRow:
    settings = orjson.loads(row["settings"])
    epoch = EpochRow(
        epoch=row["epoch"],
        opened_ms=row["decided_at"] // 1000,
        after_position=0,
        version=row["version"],
        rate=settings["rate"],
        filter=settings["filter"],
        strata=settings["strata"],
        reason=settings["reason"],
        of_sessions=bool(settings.get("of_sessions")),
    )
    if (after := settings.get("after_arrival")) is not None:
        epoch["after_arrival"] = after
    return epoch


def _count(row: dict[str, Any]) -> CountRow:
    return CountRow(
        epoch=row["epoch"],
        stratum=row["stratum"],
        hour_ms=row["completed_at"] // 1000,
        decision=row["decision"],
        units=row["units"],
    )


def _decision(row: dict[str, Any]) -> DecisionRow:
    found: Any = {name: row[name] for name in DecisionRow.__annotations__ if name in row}
    for name, column in TIMES.items():
        found[name] = None if row[column] is None else row[column] // 1000
    found["trace_id"] = mlflow_trace_id(row["trace_id"])
    if row["unit_type"] == "trace":
        found["unit_id"] = mlflow_trace_id(row["unit_id"])
    decision: DecisionRow = found
    return decision
