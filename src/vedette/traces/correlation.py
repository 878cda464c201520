"""How strongly two trace filters go together: normalized pointwise mutual information."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from mlflow.store.analytics.trace_correlation import TraceCorrelationCounts

from vedette.traces.filters import Sql, TraceFilter, in_list, prepare

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
    base: TraceFilter,
    one: TraceFilter,
    two: TraceFilter,
) -> TraceCorrelationCounts:
    """Among the experiments' traces that satisfy ``base``: how many there are, how many satisfy
    ``one``, how many ``two``, and how many both."""
    prepare(connection)
    scope = in_list("t.experiment_id", experiment_ids)
    parts: list[Sql] = [one.where(), two.where(), base.where()]
    query = _COUNTS.format(
        scope=scope.text, one=parts[0].text, two=parts[1].text, base=parts[2].text
    )
    params = tuple(param for part in parts for param in (*scope.params, *part.params))
    total, first, second, joint = connection.execute(query, params).fetchone()
    return TraceCorrelationCounts(
        total_count=total, filter1_count=first, filter2_count=second, joint_count=joint
    )
