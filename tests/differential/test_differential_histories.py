"""Whatever happens to traces, in whatever order: reading them gives what MLflow's store gives."""

from __future__ import annotations

import logging
from itertools import count

from histories import Action, World, histories
from hypothesis import HealthCheck, given, settings
from pair import Pair

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("opentelemetry").setLevel(logging.ERROR)

_numbers = count(1)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(histories())
def test_any_history_reads_as_in_mlflow(pair: Pair, history: list[Action]) -> None:
    world = World(pair, [pair.experiment(), pair.experiment()], next(_numbers))
    for action in history:
        action.act(world)
    trace_ids = pair.all_traces(world.experiments)
    for experiment in world.experiments:
        pair.call("search_traces", [experiment])
        pair.call("batch_get_trace_infos", trace_ids, experiment_ids=[experiment])
