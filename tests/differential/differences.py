"""Every intended difference between MLflow's SQL store and ours, with its reason. There are few."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Span, TraceInfo
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.tracking.utils.trace_analytics import (
    COST_COLUMN_BY_KEY,
    TOKEN_COLUMN_BY_KEY,
    analytics_columns_from_metadata,
)
from mlflow.tracing.constant import TraceTagKey
from sqlalchemy import Connection, TextClause, bindparam, text

from vedette.traces.infos import INCOMPLETE_TAG


@dataclass(frozen=True)
class Difference:
    """Something we answer otherwise than MLflow.

    Attributes:
        reason: why that is right.
        explains: whether it explains (method, MLflow's outcome, our outcome).
    """

    reason: str
    explains: Callable[[str, Any, Any], bool]


def _explained_error(method: str, theirs: Any, ours: Any) -> bool:
    return theirs.error in ("INTERNAL_ERROR", "BAD_REQUEST", "TEMPORARILY_UNAVAILABLE") and (
        ours.error
        in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")
    )


def _answer_to_start(method: str, theirs: Any, ours: Any) -> bool:
    return method == "start_trace" and theirs.error is None and ours.error is None


def _order_by_end(method: str, theirs: Any, ours: Any) -> bool:
    return "has no attribute 'end_time_ms'" in theirs.message and ours.error != "INTERNAL_ERROR"


def _number_beyond_64_bits(method: str, theirs: Any, ours: Any) -> bool:
    return "too large to convert" in theirs.message and ours.error is None


def _update_of_issue(method: str, theirs: Any, ours: Any) -> bool:
    return theirs.error is not None and ours.message.startswith("An issue reference can't be")


DIFFERENCES = {
    "an error says what is wrong": Difference(
        "Where MLflow fails inside (a trace that isn't there, a number beyond 64 bits, a list in "
        "place of a value, half a page token) with the text of an SQL error or a 500, we say what "
        "is wrong with the call.",
        _explained_error,
    ),
    "start_trace answers what it was told": Difference(
        "MLflow reads the trace back, with what has arrived of it before. Clients need the tag "
        "that says where spans are; the read would cost every trace. What is stored is compared "
        "by all other calls.",
        _answer_to_start,
    ),
    "issue references can't be updated": Difference(
        "MLflow neither updates them; it takes them for feedback and says so, or fails.",
        _update_of_issue,
    ),
    "numbers may be of any size": Difference(
        "MLflow answers a number beyond 64 bits with an error of SQLite's; here it is compared as "
        "what it is: larger, or smaller, than all that is stored.",
        _number_beyond_64_bits,
    ),
    "traces can be sorted by their end": Difference(
        "MLflow's parser takes `order_by` end_time and its store then fails; here it works.",
        _order_by_end,
    ),
}


# Tags that are shown and not stored: a trace of which something got lost is marked.
SHOWN_TAGS = (INCOMPLETE_TAG,)


def explained(method: str, theirs: Any, ours: Any) -> bool:
    """Whether a known difference explains two different outcomes."""
    return any(known.explains(method, theirs, ours) for known in DIFFERENCES.values())


class IntendedMlflow:
    """Writes to MLflow's store, whose tables are then made to hold what we intend to hold.

    These are the differences in what is stored; applied to MLflow's tables right after each write,
    so that all that comes later stays comparable.
    """

    def __init__(self, store: SqlAlchemyStore) -> None:
        self._store = store
        self._told: dict[str, set[str]] = {}  # what start_trace told of a trace's totals

    def start_trace(self, info: TraceInfo) -> TraceInfo:
        """A started trace says where its spans are.

        MLflow sets this tag with the first span. Until then the SDK, which looks at it, takes the
        spans to be in the artifact store.
        """
        if not self._exists(info.trace_id):
            self._told.pop(info.trace_id, None)
        answer = self._store.start_trace(info)
        columns = analytics_columns_from_metadata(info.trace_metadata)
        told = self._told.setdefault(info.trace_id, set())
        told.update(name for name, value in columns.items() if value is not None)
        self._store.set_trace_tag(info.trace_id, "mlflow.trace.spansLocation", "TRACKING_STORE")
        return answer

    def log_spans(self, experiment_id: str, spans: list[Span]) -> None:
        """Spans change less, or more, than in MLflow; see the statements below."""
        ids = sorted({span.trace_id for span in spans})
        for trace_id in ids:
            if not self._exists(trace_id):
                self._told.pop(trace_id, None)
        with self._store.engine.begin() as connection:
            started = connection.execute(_among(STARTED_TIMES), {"ids": ids}).all()
            totals = self._open_totals(connection, ids)
        self._store.log_spans(experiment_id, spans)
        self._name_by_roots(spans)
        with self._store.engine.begin() as connection:
            for statement in RUNNING:
                connection.execute(_among(statement), {"ids": ids})
            for trace_id, span_id, content in connection.execute(
                _among(SPAN_CONTENTS), {"ids": ids}
            ).all():
                shown = json.loads(content)["attributes"].get("mlflow.spanType", "null")
                values = {"type": json.loads(shown), "trace": trace_id, "span": span_id}
                connection.execute(text(SPAN_TYPE), values)
            for trace_id, time_ms, took_ms in started:
                for statement in RESTORE_TIMES:
                    values = {"id": trace_id, "time": time_ms, "took": took_ms}
                    connection.execute(text(statement), values)
            for trace_id, column, value in totals:
                statement = KEEP_TOTAL.format(column=column)
                connection.execute(text(statement), {"id": trace_id, "value": value})

    def unlink_traces_from_run(self, trace_ids: Sequence[str], run_id: str) -> None:
        """MLflow's SQL store can link traces to a run but not undo it: NotImplementedError."""
        with self._store.engine.begin() as connection:
            connection.execute(_among(UNLINK), {"ids": list(trace_ids), "run": run_id})

    def _name_by_roots(self, spans: list[Span]) -> None:
        """A trace that nobody has named has the name of its root.

        MLflow leaves every trace that comes by OTLP alone without a name: all look alike in lists.
        """
        roots: dict[str, str] = {}
        for span in spans:
            if span.parent_id is None:
                roots.setdefault(span.trace_id, span.name)
        for info in self._store.batch_get_trace_infos(list(roots)):
            if TraceTagKey.TRACE_NAME not in info.tags and (name := roots[info.trace_id]):
                self._store.set_trace_tag(info.trace_id, TraceTagKey.TRACE_NAME, name)

    def _exists(self, trace_id: str) -> bool:
        return bool(self._store.batch_get_trace_infos([trace_id]))

    def _open_totals(
        self, connection: Connection, trace_ids: Sequence[str]
    ) -> list[tuple[str, str, Any]]:
        """Clear totals that start_trace hasn't told; returns them."""
        cleared = []
        for group in (TOKEN_COLUMN_BY_KEY, COST_COLUMN_BY_KEY):
            columns = list(group.values())
            for trace_id in trace_ids:
                if not self._told.get(trace_id, set()) & set(columns):
                    query = f"SELECT {', '.join(columns)} FROM trace_info WHERE request_id = :id"
                    row = connection.execute(text(query), {"id": trace_id}).one_or_none()
                    for column, value in zip(columns, row or (), strict=False):
                        statement = CLEAR_TOTAL.format(column=column)
                        connection.execute(text(statement), {"id": trace_id})
                        cleared.append((trace_id, column, value))
        return cleared


def _among(statement: str) -> TextClause:
    return text(statement).bindparams(bindparam("ids", expanding=True))


# After start_trace, the time and the duration of a trace are what it said. In MLflow they are kept
# if the spans that arrive later carry tokens, cost or a session, and overwritten if they don't.
STARTED_TIMES = """
SELECT t.request_id, t.timestamp_ms, t.execution_time_ms FROM trace_info t
JOIN trace_request_metadata m ON m.request_id = t.request_id
WHERE t.request_id IN :ids AND m.key = 'mlflow.trace.infoFinalized'"""
RESTORE_TIMES = [
    "UPDATE trace_info SET timestamp_ms = :time, execution_time_ms = :took WHERE request_id = :id",
    "UPDATE assessments SET trace_timestamp_ms = :time WHERE trace_id = :id",
]

# Tokens and cost are summed over all spans, unless start_trace told them. MLflow takes a sum that
# it made itself, of the spans before start_trace, for told, and leaves out spans that come after.
CLEAR_TOTAL = "UPDATE trace_info SET {column} = NULL WHERE request_id = :id"
KEEP_TOTAL = "UPDATE trace_info SET {column} = coalesce({column}, :value) WHERE request_id = :id"

# A span's type, to filters and metrics, is the one it is shown with. MLflow translates the types of
# other conventions (gen_ai.operation.name, openinference.span.kind) in what it shows, not here.
SPAN_CONTENTS = "SELECT trace_id, span_id, content FROM spans WHERE trace_id IN :ids"
SPAN_TYPE = "UPDATE spans SET type = :type WHERE trace_id = :trace AND span_id = :span"

# A span that still runs (OTLP says: end 0) has no duration, and gives the trace none. MLflow takes
# it to have ended in 1970: with a latency of minus fifty years.
RUNNING = [
    "UPDATE spans SET end_time_unix_nano = NULL WHERE end_time_unix_nano = 0 AND trace_id IN :ids",
    "UPDATE trace_info SET execution_time_ms = NULL"
    " WHERE execution_time_ms = -timestamp_ms AND request_id IN :ids",
]

UNLINK = """
DELETE FROM entity_associations
WHERE source_type = 'trace' AND destination_type = 'run'
  AND source_id IN :ids AND destination_id = :run"""
