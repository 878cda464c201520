"""How strongly two trace filters go together: normalized pointwise mutual information."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from mlflow.store.analytics.trace_correlation import TraceCorrelationCounts

from vedette.traces.conditions import Sql, in_list, prepare
from vedette.traces.filters import TraceFilter
from vedette.traces.search import ContentCheck

_COUNTS = """
WITH
  one AS MATERIALIZED (SELECT t.id FROM traces t WHERE {scope} AND {one}),
  two AS MATERIALIZED (SELECT t.id FROM traces t WHERE {scope} AND {two}),
  marked AS (
    SELECT t.id IN (SELECT id FROM one) AS first, t.id IN (SELECT id FROM two) AS second
    FROM traces t WHERE {scope} AND {base}
  )
SELECT count(*), coalesce(sum(first), 0), coalesce(sum(second), 0),
  coalesce(sum(first AND second), 0)
FROM marked"""


def correlation_counts(
    connection: sqlite3.Connection,
    experiment_ids: Sequence[int],
    filters: Sequence[TraceFilter],
    checks: Sequence[ContentCheck],
) -> TraceCorrelationCounts:
    """Among the experiments' traces that satisfy the first filter: how many there are, how many
    satisfy the second, how many the third, and how many both.

    Args:
        filters: three filters.
        checks: for each of them, tells for which traces its span part holds.
    """
    prepare(connection)
    scope = in_list("t.experiment_id", experiment_ids)
    base, one, two = (
        _settled(connection, scope, compiled, check)
        for compiled, check in zip(filters, checks, strict=True)
    )
    query = _COUNTS.format(scope=scope.text, one=one.text, two=two.text, base=base.text)
    params = tuple(param for part in (one, two, base) for param in (*scope.params, *part.params))
    total, first, second, joint = connection.execute(query, params).fetchone()
    return TraceCorrelationCounts(
        total_count=total, filter1_count=first, filter2_count=second, joint_count=joint
    )


def _settled(
    connection: sqlite3.Connection, scope: Sql, compiled: TraceFilter, check: ContentCheck
) -> Sql:
    """A filter's condition; if it compares span content, the list of the traces that pass."""
    where = compiled.where()
    if compiled.spans is None:
        return where
    rows = connection.execute(
        f"SELECT t.id FROM traces t WHERE {scope.text} AND {where.text}",
        (*scope.params, *where.params),
    )
    passed = json.dumps(list(check([row[0] for row in rows])))
    return Sql("t.id IN (SELECT value FROM json_each(?))", (passed,))
