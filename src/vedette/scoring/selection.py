"""Which of the completed traces a scorer is to score."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence

from vedette.scoring.active import ActiveScorer
from vedette.scoring.completion import CompletedTrace
from vedette.scoring.sample import selected
from vedette.traces.filters import TraceFilter, compile_filter, prepare

# Of these traces (rows of the read model), those with a span that the filter's span part matches
SpanCheck = Callable[[TraceFilter, Sequence[int]], Iterable[int]]


def to_score(
    connection: sqlite3.Connection,
    scorer: ActiveScorer,
    traces: Iterable[CompletedTrace],
    spans_match: SpanCheck,
) -> list[CompletedTrace]:
    """Those in the scorer's experiment, not of an evaluation run, in its sample, past its filter.

    Raises:
        MlflowException: the filter is not valid.
    """
    sample = [
        trace
        for trace in traces
        if trace.trace_id is not None
        and trace.experiment_id == scorer.experiment_id
        and not trace.of_run
        and selected(trace.trace_id, scorer.sample_rate)
    ]
    if scorer.filter_string is None or not sample:
        return sample
    rows = [trace.row for trace in sample if trace.row is not None]
    matching = _matching(connection, scorer, rows, spans_match)
    return [trace for trace in sample if trace.row in matching]


def _matching(
    connection: sqlite3.Connection,
    scorer: ActiveScorer,
    rows: Sequence[int],
    spans_match: SpanCheck,
) -> set[int]:
    compiled = compile_filter(scorer.filter_string, [int(scorer.experiment_id)])
    where = compiled.where()
    prepare(connection)
    found = connection.execute(
        "SELECT t.id FROM traces t"
        f" WHERE t.id IN (SELECT value FROM json_each(?)) AND ({where.text})",
        (json.dumps(rows), *where.params),
    )
    matching = {row for (row,) in found}
    if compiled.spans is not None and matching:
        matching = set(spans_match(compiled, sorted(matching)))
    return matching
