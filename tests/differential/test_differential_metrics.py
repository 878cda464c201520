"""Metrics are those that MLflow's store computes, whatever is asked of them."""

from __future__ import annotations

import logging
from itertools import product
from typing import Any

import pytest
from histories import T0
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities.trace_metrics import AggregationType, MetricAggregation, MetricViewType
from mlflow.store.tracking.utils.sql_trace_metrics_utils import VIEW_TYPE_CONFIGS
from pair import Pair
from population import populate

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

Populated = tuple[Pair, list[str]]

_PLAIN = [MetricAggregation(kind) for kind in AggregationType if kind != AggregationType.PERCENTILE]
_PERCENTILES = [
    MetricAggregation(AggregationType.PERCENTILE, share) for share in (0, 12.5, 50.0, 90, 99.9, 100)
]
_METRICS = [(view, metric) for view, metrics in VIEW_TYPE_CONFIGS.items() for metric in metrics]
_DIMENSIONS = sorted(
    {
        dimension
        for metrics in VIEW_TYPE_CONFIGS.values()
        for config in metrics.values()
        for dimension in config.dimensions
    }
)
_FILTERS = [
    "trace.status = 'OK'",
    "trace.status = 'ok'",
    "trace.tag.env = 'prod'",
    "trace.tag.`a b/c-d.e` = 'dev'",
    "trace.tag.mlflow.traceName = 'prod'",
    "trace.metadata.version = 'v1.2'",
    "trace.metadata.mlflow.trace.session = 's-1'",
    "trace.metadata.mlflow.trace.user = 'prod'",
    "trace.metadata.mlflow.sourceRun = 'run-1'",
    "trace.metadata.mlflow.trace.tokenUsage = '{\"total_tokens\": 9}'",
    "trace.metadata.mlflow.trace.cost = '{\"total_cost\": 0.5}'",
    "span.name = 'llm'",
    "span.status = 'ERROR'",
    "span.type = 'AGENT'",
    "assessment.name = 'quality'",
    "assessment.type = 'feedback'",
    "trace.status != 'OK'",
    "trace.status = 'OK' AND trace.status = 'OK'",
    "trace.nonsense = 'x'",
    "trace.tag = 'x'",
    "span.name.x = 'x'",
    "status = 'OK'",
    "nonsense",
    "",
]


@pytest.fixture(scope="module")
def populated(pair: Pair) -> Populated:
    """Both stores with the same traces in two experiments."""
    return pair, populate(pair)


def _sensible(view: MetricViewType, metric: str, which: list[Any]) -> list[MetricAggregation]:
    allowed = VIEW_TYPE_CONFIGS[view][metric].aggregation_types
    return [one for one in which if one.aggregation_type in allowed]


@pytest.mark.parametrize(("view", "metric"), _METRICS)
def test_every_metric_by_every_dimension(
    populated: Populated, view: MetricViewType, metric: str
) -> None:
    pair, experiments = populated
    dimensions = sorted(VIEW_TYPE_CONFIGS[view][metric].dimensions)
    groups = [None, [], *([one] for one in dimensions), dimensions, dimensions[::-1]]
    hourly = {"time_interval_seconds": 3600, "start_time_ms": T0, "end_time_ms": T0 + 10**7}
    for group, when in product(groups, [{}, hourly]):
        aggregations = _sensible(view, metric, [*_PLAIN, *_PERCENTILES])
        found = pair.call(
            "query_trace_metrics", experiments, view, metric, aggregations, group, **when
        )
        assert found.error is None
    for one in (*_PLAIN, *_PERCENTILES):  # refused, some of them
        pair.call("query_trace_metrics", experiments, view, metric, [one])
    for dimension in _DIMENSIONS:
        pair.call("query_trace_metrics", experiments, view, metric, aggregations, [dimension])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(_METRICS),
    st.lists(st.sampled_from([*_PLAIN, *_PERCENTILES]), max_size=4),
    st.lists(st.sampled_from(_DIMENSIONS), max_size=2),
    st.none() | st.lists(st.sampled_from(_FILTERS), max_size=2),
    st.sampled_from([None, 0, 1, 2, 60, 3600, 86400, -60, 10**12, 2**62, -(2**62), 2**70]),
    st.sampled_from([None, 0, T0, T0 + 500, T0 + 1000, -(2**70)]),
    st.sampled_from([None, 0, T0, T0 + 1000, T0 + 3_600_000, 2**70]),
    st.sampled_from([0, 1, 2, 1000, -1, 2**31, 2**63]),
    st.sampled_from([[], [0], [0, 1]]),
)
def test_any_question(
    populated: Populated,
    what: tuple[MetricViewType, str],
    aggregations: list[MetricAggregation],
    dimensions: list[str],
    filters: list[str] | None,
    interval: int | None,
    since: int | None,
    until: int | None,
    limit: int,
    where: list[int],
) -> None:
    pair, experiments = populated
    view, metric = what
    config = VIEW_TYPE_CONFIGS[view][metric]
    pair.call(
        "query_trace_metrics",
        [experiments[place] for place in where],
        view,
        metric,
        _sensible(view, metric, aggregations) or aggregations,
        [dimension for dimension in dimensions if dimension in config.dimensions],
        filters,
        interval,
        since,
        until,
        limit,
    )


def test_a_metric_that_is_not_there(populated: Populated) -> None:
    pair, experiments = populated
    pair.call("query_trace_metrics", experiments, MetricViewType.SPANS, "trace_count", [_PLAIN[0]])
    pair.call("query_trace_metrics", ["x"], MetricViewType.TRACES, "trace_count", [_PLAIN[0]])
