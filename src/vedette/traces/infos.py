"""Rows of the read model as MLflow's ``TraceInfo`` and assessment entities."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from mlflow.entities import Assessment, TraceInfo, TraceLocation, TraceState
from mlflow.store.tracking.utils.trace_analytics import COST_COLUMN_BY_KEY, TOKEN_COLUMN_BY_KEY
from mlflow.tracing.constant import TraceMetadataKey, TraceSizeStatsKey, TraceTagKey

from vedette.intake.records import AssessmentRow
from vedette.traces.assessments import assessment_entity

T = TypeVar("T")

# Shown on a trace of which something got lost on its way, say in the SDK's full queue. It is told
# from what has arrived and isn't stored: it goes when the rest comes.
INCOMPLETE_TAG = "vedette.incomplete"
_LATE_MS = 60_000

# Values per IN list: a page of 100 is one query per table, and SQLite's bound on variables is far.
CHUNK = 500

_TOKENS = list(TOKEN_COLUMN_BY_KEY.items())
_COSTS = list(COST_COLUMN_BY_KEY.items())
_TRACE_COLUMNS = [
    "id",
    "trace_id",
    "experiment_id",
    "timestamp_ms",
    "execution_time_ms",
    "status",
    "client_request_id",
    "trace_name",
    "session_id",
    "has_root",
    "span_count",
    "last_received_ms",
]
_ASSESSMENT_COLUMNS = [name for name in AssessmentRow.__annotations__ if name != "trace_id"]
_FIRST_TOKEN = len(_TRACE_COLUMNS)
_FIRST_COST = _FIRST_TOKEN + len(_TOKENS)
_PREVIEWS = _FIRST_COST + len(_COSTS)
_COLUMNS = ", ".join(
    f"t.{column}"
    for column in (
        *_TRACE_COLUMNS,
        *(column for _, column in _TOKENS),
        *(column for _, column in _COSTS),
    )
)


def chunks(values: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """``values`` in pieces of at most ``size``."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def marks(values: Sequence[Any]) -> str:
    """The placeholders of an IN list."""
    return "(" + ", ".join("?" * len(values)) + ")"


def trace_infos(connection: sqlite3.Connection, ids: Sequence[int]) -> list[TraceInfo]:
    """The traces with these row ids (``traces.id``), in this order, as far as they are there."""
    found = infos_by_row(connection, ids)
    return [found[row] for row in ids if row in found]


def infos_by_row(connection: sqlite3.Connection, ids: Sequence[int]) -> dict[int, TraceInfo]:
    """The traces with these row ids (``traces.id``): four queries per 500 of them."""
    found: dict[int, TraceInfo] = {}
    for part in chunks(ids):
        found.update(_load(connection, part))
    return found


def trace_rows(
    connection: sqlite3.Connection, trace_ids: Sequence[str], experiment_ids: Iterable[int] | None
) -> list[int]:
    """The row ids of these traces, in this order, as far as they are there.

    Args:
        experiment_ids: only traces in these experiments; None for any.
    """
    wanted = None if experiment_ids is None else set(experiment_ids)
    rows: dict[str, int] = {}
    for part in chunks(trace_ids):
        query = f"SELECT trace_id, id, experiment_id FROM traces WHERE trace_id IN {marks(part)}"
        for trace_id, row, experiment_id in connection.execute(query, part):
            if wanted is None or experiment_id in wanted:
                rows[trace_id] = row
    return [rows[trace_id] for trace_id in trace_ids if trace_id in rows]


def find_assessment(
    connection: sqlite3.Connection, trace_id: str, assessment_id: str
) -> Assessment | None:
    """An assessment of a trace, if it is there."""
    query = (
        f"SELECT {', '.join(f'a.{column}' for column in _ASSESSMENT_COLUMNS)} FROM assessments a"
        " JOIN traces t ON t.id = a.trace WHERE a.assessment_id = ? AND t.trace_id = ?"
    )
    values = connection.execute(query, (assessment_id, trace_id)).fetchone()
    return None if values is None else _assessment(values, trace_id)


def assessment_rows(
    connection: sqlite3.Connection, assessment_ids: Sequence[str]
) -> list[AssessmentRow]:
    """These assessments as they are journaled, as far as they are there, in no order."""
    found: list[AssessmentRow] = []
    columns = ", ".join(f"a.{column}" for column in _ASSESSMENT_COLUMNS)
    for part in chunks(assessment_ids):
        query = (
            f"SELECT t.trace_id, {columns} FROM assessments a JOIN traces t ON t.id = a.trace"
            f" WHERE a.assessment_id IN {marks(part)}"
        )
        for trace_id, *values in connection.execute(query, part):
            row: Any = dict(zip(_ASSESSMENT_COLUMNS, values, strict=True))
            row["valid"], row["is_numeric_value"] = (
                bool(row["valid"]),
                bool(row["is_numeric_value"]),
            )
            row["trace_id"] = trace_id
            found.append(row)
    return found


def _load(connection: sqlite3.Connection, ids: Sequence[int]) -> Iterable[tuple[int, TraceInfo]]:
    query = (
        f"SELECT {_COLUMNS}, p.request, p.response FROM traces t"
        f" LEFT JOIN trace_previews p ON p.trace = t.id WHERE t.id IN {marks(ids)}"
    )
    rows = connection.execute(query, ids).fetchall()
    tags = _entries(connection, "trace_tags", ids)
    metadata = _entries(connection, "trace_metadata", ids)
    assessments = _assessments(connection, ids, {row[0]: row[1] for row in rows})
    for row in rows:
        yield row[0], _trace_info(row, tags[row[0]], metadata[row[0]], assessments[row[0]])


def _entries(
    connection: sqlite3.Connection, table: str, ids: Sequence[int]
) -> dict[int, dict[str, str]]:
    entries: dict[int, dict[str, str]] = defaultdict(dict)
    query = f"SELECT trace, key, value FROM {table} WHERE trace IN {marks(ids)}"
    for trace, key, value in connection.execute(query, ids):
        entries[trace][key] = value
    return entries


def _assessments(
    connection: sqlite3.Connection, ids: Sequence[int], trace_ids: dict[int, str]
) -> dict[int, list[Assessment]]:
    """Assessments by trace row id, oldest first, then as they came."""
    entities: dict[int, list[Assessment]] = defaultdict(list)
    query = (
        f"SELECT trace, {', '.join(_ASSESSMENT_COLUMNS)} FROM assessments"
        f" WHERE trace IN {marks(ids)} ORDER BY trace, created_timestamp, rowid"
    )
    for trace, *values in connection.execute(query, ids):
        entities[trace].append(_assessment(values, trace_ids[trace]))
    return entities


def _assessment(values: Sequence[Any], trace_id: str) -> Assessment:
    row: Any = dict(zip(_ASSESSMENT_COLUMNS, values, strict=True))
    row["trace_id"] = trace_id
    return assessment_entity(row)


def _trace_info(
    row: tuple[Any, ...],
    tags: dict[str, str],
    metadata: dict[str, str],
    assessments: list[Assessment],
) -> TraceInfo:
    (
        _,
        trace_id,
        experiment_id,
        started_ms,
        took_ms,
        status,
        client_id,
        name,
        session,
        *arrived,
    ) = row[:_FIRST_TOKEN]
    if missing := _missing(metadata, *arrived):
        tags[INCOMPLETE_TAG] = missing
    if name is not None:
        tags[TraceTagKey.TRACE_NAME] = name
    if session is not None:
        metadata[TraceMetadataKey.TRACE_SESSION] = session
    if usage := _numbers(_TOKENS, row[_FIRST_TOKEN:_FIRST_COST]):
        metadata[TraceMetadataKey.TOKEN_USAGE] = json.dumps(usage)
    if cost := _numbers(_COSTS, row[_FIRST_COST:_PREVIEWS]):
        metadata[TraceMetadataKey.COST] = json.dumps(cost)
    return TraceInfo(
        trace_id=trace_id,
        trace_location=TraceLocation.from_experiment_id(str(experiment_id)),
        request_time=started_ms,
        execution_duration=took_ms,
        state=TraceState(status),
        tags=tags,
        trace_metadata=metadata,
        client_request_id=client_id,
        request_preview=row[_PREVIEWS],
        response_preview=row[_PREVIEWS + 1],
        assessments=assessments,
    )


def _missing(
    metadata: dict[str, str], has_root: int, span_count: int, last_received_ms: int
) -> str | None:
    """What of a trace should have arrived by now and hasn't; None if nothing is missing."""
    expected = expected_spans(metadata)
    if (has_root and span_count >= expected) or _now_ms() - last_received_ms < _LATE_MS:
        return None
    if span_count < expected:
        return f"{span_count} of {expected} spans arrived"
    return "no spans arrived" if span_count == 0 else "the root span has not arrived"


def expected_spans(metadata: dict[str, str]) -> int:
    """How many spans start_trace said the trace has; 0 if it didn't say."""
    try:
        stats = json.loads(metadata.get(TraceMetadataKey.SIZE_STATS, "{}"))
        return int(stats.get(TraceSizeStatsKey.NUM_SPANS, 0))
    except (AttributeError, TypeError, ValueError):
        return 0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _numbers(names: list[tuple[str, str]], values: Sequence[Any]) -> dict[str, Any]:
    return {key: value for (key, _), value in zip(names, values, strict=True) if value is not None}
