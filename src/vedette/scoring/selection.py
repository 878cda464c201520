"""Which of the completed traces a scorer is to score."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from mlflow.exceptions import MlflowException

from vedette.scoring.active import ActiveScorer
from vedette.scoring.completion import CompletedTrace
from vedette.scoring.sample import selected
from vedette.traces.filters import compile_filter, prepare


def to_score(
    connection: sqlite3.Connection, scorer: ActiveScorer, traces: Iterable[CompletedTrace]
) -> list[CompletedTrace]:
    """Those in the scorer's experiment, not of an evaluation run, in its sample, past its filter.

    Raises:
        MlflowException: the filter is not valid.
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
    if compiled.spans is not None:
        raise MlflowException.invalid_parameter_value(
            "live scoring can't compare span content yet: use span.name, span.type, span.status"
        )
    where = compiled.where()
    prepare(connection)
    found = connection.execute(
        "SELECT t.id FROM traces t"
        f" WHERE t.id IN (SELECT value FROM json_each(?)) AND ({where.text})",
        (json.dumps([trace.row for trace in sample]), *where.params),
    )
    matching = {row for (row,) in found}
    return [trace for trace in sample if trace.row in matching]
