"""Which of the completed traces a scorer is to score."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from vedette.scoring.active import ActiveScorer
from vedette.scoring.completion import CompletedTrace
from vedette.scoring.sample import selected
from vedette.traces.conditions import prepare
from vedette.traces.filters import compile_filter
from vedette.traces.matching import Contents, matching_spans
from vedette.traces.patterns import limited_time


def to_score(
    connection: sqlite3.Connection,
    contents: Contents,
    scorer: ActiveScorer,
    traces: Iterable[CompletedTrace],
) -> list[CompletedTrace]:
    """Those in the scorer's experiment, not of an evaluation run, in its sample, past its filter.

    Raises:
        MlflowException: the filter is not valid, or takes too long.
        LakeUnavailable: the filter compares span content, which can't be read now.
    """
    sample = [
        trace
        for trace in traces
        if trace.row
        and trace.experiment_id == scorer.experiment_id
        and not trace.of_run
        and selected(trace.trace_id, scorer.sample_rate)
    ]
    if scorer.filter_string is None:
        return sample
    compiled = compile_filter(scorer.filter_string, [int(scorer.experiment_id)])
    where = compiled.where()
    prepare(connection)
    with limited_time():
        found = connection.execute(
            "SELECT t.id FROM traces t"
            f" WHERE t.id IN (SELECT value FROM json_each(?)) AND ({where.text})",
            (json.dumps([trace.row for trace in sample]), *where.params),
        )
        matching = {row for (row,) in found}
        if compiled.spans is not None:
            matching = set(matching_spans(connection, contents, compiled.spans, sorted(matching)))
    return [trace for trace in sample if trace.row in matching]
