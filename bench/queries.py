"""The reads that people and MLflow's UI make, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.servers import Server

LARGEST_PAGE = 500
DAY_MS = 24 * 3600 * 1000

_PERCENTILES = ("P50", "P90", "P99")
_HOURLY = {"time_interval_seconds": 3600}
_FEEDBACK = {"filters": ['assessment.type = "feedback"']}
_TOOLS = {"filters": ['span.type = "TOOL"']}

# What each tab of the Overview asks for when it shows the last 24 hours, recorded in a browser:
# view, metric, aggregations, the rest of the request.
OVERVIEW: dict[str, list[tuple[str, str, tuple[str, ...], dict[str, Any]]]] = {
    "usage": [
        ("TRACES", "trace_count", ("COUNT",), {**_HOURLY, "dimensions": ["trace_status"]}),
        ("TRACES", "latency", _PERCENTILES, _HOURLY),
        ("TRACES", "latency", ("AVG",), {}),
        ("TRACES", "input_tokens", ("SUM",), _HOURLY),
        ("TRACES", "output_tokens", ("SUM",), _HOURLY),
        ("TRACES", "cache_read_input_tokens", ("SUM",), _HOURLY),
        ("TRACES", "cache_creation_input_tokens", ("SUM",), _HOURLY),
        ("TRACES", "total_tokens", ("SUM", "AVG"), {}),
        ("TRACES", "total_tokens", _PERCENTILES, _HOURLY),
        ("SPANS", "total_cost", ("SUM",), {**_HOURLY, "dimensions": ["span_model_name"]}),
        ("SPANS", "total_cost", ("SUM",), {"dimensions": ["span_model_name"]}),
    ],
    "quality": [
        (
            "ASSESSMENTS",
            "assessment_value",
            ("AVG",),
            {**_HOURLY, **_FEEDBACK, "dimensions": ["assessment_name"]},
        ),
        (
            "ASSESSMENTS",
            "assessment_count",
            ("COUNT",),
            {**_FEEDBACK, "dimensions": ["assessment_name", "assessment_value"]},
        ),
    ],
    "tool calls": [
        ("SPANS", "span_count", ("COUNT",), {**_TOOLS, "dimensions": ["span_name", "span_status"]}),
        ("SPANS", "latency", ("AVG",), _TOOLS),
        ("SPANS", "latency", ("AVG",), {**_TOOLS, "dimensions": ["span_name"]}),
        ("SPANS", "span_count", ("COUNT",), {**_HOURLY, **_TOOLS, "dimensions": ["span_name"]}),
        ("SPANS", "latency", ("AVG",), {**_HOURLY, **_TOOLS, "dimensions": ["span_name"]}),
    ],
}


def search(
    server: Server,
    experiment_id: str,
    *,
    filter_string: str = "",
    max_results: int = 100,
    order_by: Sequence[str] = ("timestamp_ms DESC",),
    page_token: str = "",
) -> Any:
    """``search_traces``: one page, as the answer's JSON."""
    body = {
        "locations": [
            {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment_id}}
        ],
        "filter": filter_string,
        "max_results": max_results,
        "order_by": list(order_by),
    }
    if page_token:
        body["page_token"] = page_token
    return server.call("POST", "/api/3.0/mlflow/traces/search", body)


def all_traces(server: Server, experiment_id: str) -> Iterator[Mapping[str, Any]]:
    """Every trace info of an experiment, page by page."""
    page_token = ""
    while True:
        page = search(server, experiment_id, max_results=LARGEST_PAGE, page_token=page_token)
        yield from page.get("traces", ())
        page_token = page.get("next_page_token", "")
        if not page_token:
            return


def trace_ids(server: Server, experiment_id: str) -> set[str]:
    """The ids of an experiment's traces."""
    return {str(trace["trace_id"]) for trace in all_traces(server, experiment_id)}


def metrics(
    server: Server, experiment_id: str, view: str, metric: str, *aggregations: str, **more: Any
) -> list[Mapping[str, Any]]:
    """``query_trace_metrics``: its data points."""
    body = {
        "experiment_ids": [experiment_id],
        "view_type": view,
        "metric_name": metric,
        "aggregations": [_aggregation(name) for name in aggregations],
        **more,
    }
    answer = server.call("POST", "/api/3.0/mlflow/traces/metrics", body)
    return list(answer.get("data_points", ()))


def _aggregation(name: str) -> dict[str, Any]:
    if name.startswith("P"):
        return {"aggregation_type": "PERCENTILE", "percentile_value": float(name[1:])}
    return {"aggregation_type": name}


def count_traces(server: Server, experiment_id: str) -> int:
    """How many traces an experiment has."""
    return _count(metrics(server, experiment_id, "TRACES", "trace_count", "COUNT"))


def count_spans(server: Server, experiment_id: str) -> int:
    """How many spans an experiment's traces have."""
    return _count(metrics(server, experiment_id, "SPANS", "span_count", "COUNT"))


def _count(points: list[Mapping[str, Any]]) -> int:
    return int(sum(point["values"]["COUNT"] for point in points))


def overview(server: Server, experiment_id: str, tab: str, until_ms: int) -> None:
    """Every request of one tab of the Overview, one after the other."""
    times = {"start_time_ms": until_ms - DAY_MS, "end_time_ms": until_ms}
    for view, metric, aggregations, more in OVERVIEW[tab]:
        metrics(server, experiment_id, view, metric, *aggregations, **more, **times)
