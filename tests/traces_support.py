"""A read model of any size, filled by SQL: regular traces over thirty days."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from vedette.traces.index import TraceIndex

T0 = 1_760_000_000_000  # ms
DAYS = 30
SPANS = [
    ("agent", "AGENT"),
    ("retrieve", "RETRIEVER"),
    ("llm", "CHAT_MODEL"),
    ("tool", "TOOL"),
    ("answer", "CHAT_MODEL"),
]

_FILL = """
CREATE TEMP TABLE n AS
  WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
  SELECT i, :t0 + i * :step + i * 7919 % 20000 AS time FROM n;
INSERT INTO traces (id, trace_id, experiment_id, timestamp_ms, execution_time_ms, status, finalized,
  client_request_id, trace_name, session_id, input_tokens, output_tokens, total_tokens, input_cost,
  output_cost, total_cost, has_root, span_count, first_received_ms, last_received_ms)
SELECT i, 'tr-' || printf('%032x', i * 2654435761), 1 + (i % 10 = 0), time, 50 + i * 31 % 3000,
  iif(i % 20 = 0, 'ERROR', 'OK'), 1, iif(i % 3 = 0, 'req-' || i, NULL), 'agent-' || i % 7,
  'session-' || i / 10, 100 + i % 900, 10 + i % 200, 110 + i % 900 + i % 200,
  i % 100 * 0.0001, i % 50 * 0.0002, i % 100 * 0.0001 + i % 50 * 0.0002, 1, 5, time, time + 3000
FROM n;
INSERT INTO trace_previews SELECT i, 'Question ' || i, 'Answer ' || i FROM n;
INSERT INTO trace_tags SELECT i, 'env', iif(i % 3 = 0, 'prod', 'dev') FROM n;
INSERT INTO trace_tags SELECT i, 'customer', 'c' || i / 50 FROM n WHERE i % 2 = 0;
INSERT INTO trace_tags SELECT i, 'release', 'old' FROM n WHERE i <= :last / 10;
INSERT INTO trace_metadata SELECT i, 'mlflow.trace.infoFinalized', 'true' FROM n;
INSERT INTO trace_metadata SELECT i, 'mlflow.user', 'u' || i % 50 FROM n;
INSERT INTO assessments SELECT 'a-' || i, i, 'correct', 'feedback',
  iif(i % 10 = 0, 'false', 'true'), NULL, time, time, 'CODE', 'check', NULL, NULL, NULL, NULL, 1,
  NULL, i % 10 <> 0, 0 FROM n;
INSERT INTO run_links SELECT 'tr-' || printf('%032x', i * 2654435761), 'run-' || i % 100 FROM n
  WHERE i % 10 = 0;"""
_FILL_SPANS = """
INSERT INTO spans (trace, span_id, parent_span_id, name, type, status, start_ns, end_ns, input_cost,
  output_cost, total_cost, model_name, model_provider, received_ms, content_size)
SELECT i, printf('%016x', i * 5 + :k), iif(:k > 0, printf('%016x', i * 5), NULL), :name, :type,
  iif(i % 20 = 0 AND :k IN (0, 3), 'ERROR', 'OK'), (time + :k) * 1000000,
  (time + :k + (:k + 1) * 7) * 1000000,
  iif(:k IN (2, 4), i % 100 * 0.0001, NULL), iif(:k IN (2, 4), i % 50 * 0.0002, NULL),
  iif(:k IN (2, 4), i % 100 * 0.0001 + i % 50 * 0.0002, NULL),
  iif(:k IN (2, 4), 'model-' || i % 4, NULL), iif(:k IN (2, 4), 'acme', NULL), time,
  1000
FROM n ORDER BY i"""


def filled_index(path: Path, traces: int) -> TraceIndex:
    """A new read model with this many traces of five spans."""
    index = TraceIndex(path)
    add_traces(index.connection(), 1, traces)
    return index


def add_traces(connection: sqlite3.Connection, first: int, last: int) -> None:
    """Add the traces with these row ids and note them as changed."""
    values = {"first": first, "last": last, "t0": T0, "step": DAYS * 86_400_000 // last}
    connection.execute("BEGIN IMMEDIATE")
    for statement in _FILL.split(";\n"):
        connection.execute(statement.rstrip(";"), values)
    for k, (name, kind) in enumerate(SPANS):
        connection.execute(_FILL_SPANS, {"k": k, "name": name, "type": kind})
    connection.execute("DROP TABLE n")
    note_changed(connection, range(first, last + 1))
    connection.execute("COMMIT")


def note_changed(connection: sqlite3.Connection, rows: range | list[int]) -> None:
    """Note traces as changed by a fold, in the caller's transaction."""
    connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'batch'")
    connection.executemany(
        "INSERT INTO changes SELECT value, ? FROM counters WHERE name = 'batch'",
        [(row,) for row in rows],
    )
