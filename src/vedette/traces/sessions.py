"""Sessions: which traces they have, and those that MLflow takes as completed in a time window."""

from __future__ import annotations

import json
import sqlite3

from mlflow.genai.scorers.online.entities import CompletedSession

from vedette.traces.conditions import Sql, prepare
from vedette.traces.filters import TraceFilter
from vedette.traces.search import ContentCheck

_TRACES = """
SELECT trace_id, count(*) OVER () FROM traces
WHERE session_id = ? AND experiment_id = ? ORDER BY timestamp_ms, trace_id LIMIT ?"""

_STATISTICS = """
SELECT t.session_id, min(t.timestamp_ms) AS first_ms, max(t.timestamp_ms) AS last_ms
FROM traces t
WHERE t.experiment_id = ? AND t.session_id IN ({sessions})
GROUP BY t.session_id
HAVING last_ms <= ?
ORDER BY last_ms, t.session_id
LIMIT ?"""

# Sessions with a trace since then; the index on time finds them without a look at older traces.
_RECENT = """
SELECT DISTINCT r.session_id FROM traces r INDEXED BY traces_by_time
WHERE r.experiment_id = ? AND r.timestamp_ms >= ? AND r.session_id IS NOT NULL"""

# The first traces (all that are, if they are of the same time) of recent sessions, past a filter
_FIRST = """
SELECT t.id, t.session_id FROM traces t
JOIN (
  SELECT f.session_id, min(f.timestamp_ms) AS first_ms FROM traces f
  WHERE f.experiment_id = ? AND f.session_id IN ({recent})
  GROUP BY f.session_id
) b ON t.session_id = b.session_id AND t.timestamp_ms = b.first_ms
WHERE t.experiment_id = ? AND {where}"""


def session_traces(
    connection: sqlite3.Connection, experiment_id: int, session_id: str | None, limit: int
) -> tuple[int, list[str]]:
    """How many traces a session has, and the ids of the ``limit`` oldest, oldest first. There is no
    session None."""
    rows = connection.execute(_TRACES, (session_id, experiment_id, limit)).fetchall()
    return (rows[0][1] if rows else 0), [trace_id for trace_id, _ in rows]


def completed_sessions(
    connection: sqlite3.Connection,
    experiment_id: int,
    min_last_ms: int,
    max_last_ms: int,
    max_results: int | None,
    first_trace: TraceFilter,
    content_check: ContentCheck,
) -> list[CompletedSession]:
    """Sessions of an experiment whose newest trace is in ``[min_last_ms, max_last_ms]``.

    Args:
        max_results: None for all.
        first_trace: what the session's first trace must satisfy.
        content_check: tells for which traces the filter's span part holds.

    Returns:
        By time of the newest trace, then session id.
    """
    prepare(connection)
    sessions = Sql(_RECENT, (experiment_id, min_last_ms))
    if first_trace.conditions:
        where = first_trace.where()
        first = connection.execute(
            _FIRST.format(recent=sessions.text, where=where.text),
            (experiment_id, *sessions.params, experiment_id, *where.params),
        ).fetchall()
        if first_trace.spans is not None:
            passed = set(content_check([trace for trace, _ in first]))
            first = [(trace, session) for trace, session in first if trace in passed]
        names = json.dumps(list({session for _, session in first}))
        sessions = Sql("SELECT value FROM json_each(?)", (names,))
    rows = connection.execute(
        _STATISTICS.format(sessions=sessions.text),
        (experiment_id, *sessions.params, max_last_ms, -1 if max_results is None else max_results),
    )
    return [CompletedSession(*row) for row in rows]
