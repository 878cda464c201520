"""Lists and metrics as JSON are what protobuf makes of MLflow's entities."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from histories import T0, assessments
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities import Assessment, TraceInfo, TraceLocation, TraceState
from mlflow.entities.trace_metrics import AggregationType, MetricAggregation, MetricViewType
from mlflow.protos.service_pb2 import QueryTraceMetrics, SearchTracesV3
from pair import Pair
from population import populate
from starlette.applications import Starlette
from starlette.types import Message

from vedette.mlflow_app.read_routes import read_routes
from vedette.traces.documents import assessment_document, trace_document

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


class Client:
    """Asks our routes, without a socket."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    def post(self, path: str, body: Any, content_type: str = "application/json") -> Any:
        """Status and JSON of the answer."""
        sent: list[Message] = []
        headers = [(b"content-type", content_type.encode())]
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": headers,
        }

        async def receive() -> Message:
            return {"type": "http.request", "body": json.dumps(body).encode()}

        async def send(message: Message) -> None:
            sent.append(message)

        asyncio.run(self._app(scope, receive, send))
        return sent[0]["status"], json.loads(sent[1]["body"])


Populated = tuple[Pair, list[str], Client]


@pytest.fixture(scope="module")
def populated(pair: Pair) -> Populated:
    """Stores with traces, and a client of our routes."""
    experiments = populate(pair)
    return pair, experiments, Client(Starlette(routes=read_routes(pair.plane)))


def locations(experiments: list[str]) -> list[dict[str, Any]]:
    return [
        {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
        for experiment in experiments
    ]


def test_a_list_is_what_protobuf_makes_of_it(populated: Populated) -> None:
    pair, experiments, client = populated
    body = {"locations": locations(experiments), "max_results": 5, "order_by": ["timestamp ASC"]}
    token, pages = None, 0
    while True:
        infos, token = pair.ours.search_traces(
            locations=experiments, max_results=5, order_by=["timestamp ASC"], page_token=token
        )
        expected = SearchTracesV3.Response(next_page_token=token)
        expected.traces.extend(info.to_proto() for info in infos)
        status, answer = client.post("/api/3.0/mlflow/traces/search", body)
        assert status == 200
        assert answer == MessageToDict(expected, preserving_proto_field_name=True)
        pages += 1
        if token is None:
            break
        body["page_token"] = answer["next_page_token"]
    assert pages > 4


def test_an_empty_list(populated: Populated) -> None:
    _, experiments, client = populated
    body = {"locations": locations(experiments), "filter": "tags.env = 'nowhere'"}
    assert client.post("/ajax-api/3.0/mlflow/traces/search", body) == (200, {})


@pytest.mark.parametrize("dimensions", [[], ["trace_name", "trace_status"]])
def test_metrics_are_what_protobuf_makes_of_them(
    populated: Populated, dimensions: list[str]
) -> None:
    pair, experiments, client = populated
    body = {
        "experiment_ids": experiments,
        "view_type": "TRACES",
        "metric_name": "trace_count",
        "aggregations": [{"aggregation_type": "COUNT"}],
        "dimensions": dimensions,
        "time_interval_seconds": 3600,
        "start_time_ms": T0,
        "end_time_ms": str(T0 + 10**8),
    }
    points = pair.ours.query_trace_metrics(
        experiments,
        MetricViewType.TRACES,
        "trace_count",
        [MetricAggregation(AggregationType.COUNT)],
        dimensions,
        None,
        3600,
        T0,
        T0 + 10**8,
    )
    assert points
    expected = QueryTraceMetrics.Response()
    expected.data_points.extend(point.to_proto() for point in points)
    status, answer = client.post("/ajax-api/3.0/mlflow/traces/metrics", body)
    assert status == 200
    assert answer == MessageToDict(expected, preserving_proto_field_name=True)


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("search", {}, "'locations'"),
        ("search", [], "not a request"),
        ("search", "x", "not a request"),
        ("search", {"locations": "x"}, "not a request"),
        ("search", {"locations": [{"mlflow_experiment": 5}]}, "not a request"),
        ("search", {"locations": locations(["0"]), "max_results": 501}, "at most 500"),
        ("search", {"locations": locations(["0"]), "max_results": 0}, "positive"),
        ("search", {"locations": locations(["x"])}, "Invalid experiment ID"),
        ("search", {"locations": locations(["0"]), "filter": "x = "}, "filter"),
        ("metrics", {}, "'experiment_ids'"),
        ("metrics", {"experiment_ids": ["0"], "view_type": "NONE"}, "'metric_name'"),
        (
            "metrics",
            {
                "experiment_ids": ["0"],
                "view_type": "TRACES",
                "metric_name": "latency",
                "aggregations": [{"aggregation_type": "PERCENTILE"}],
            },
            "Percentile value is required",
        ),
        (
            "metrics",
            {
                "experiment_ids": ["0"],
                "view_type": "TRACES",
                "metric_name": "latency",
                "aggregations": [],
            },
            "aggregations is empty",
        ),
    ],
)
def test_what_is_wrong_is_told(populated: Populated, path: str, body: Any, told: str) -> None:
    _, _, client = populated
    status, answer = client.post(f"/api/3.0/mlflow/traces/{path}", body)
    assert status == 400
    assert told in answer["message"]


def test_another_content_type_is_refused(populated: Populated) -> None:
    _, _, client = populated
    status, _ = client.post("/api/3.0/mlflow/traces/search", {}, "text/plain")
    assert status == 400


# Values that a request for metrics or a list may hold, and values that it may not
_odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["NaN", "9" * 30, "-1", "COUNT", "\ud800", "x" * 300]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["aggregation_type", "type", "x"]), inner, max_size=2)
    ),
    max_leaves=5,
)


def _or_odd(*sensible: Any) -> st.SearchStrategy[Any]:
    return st.integers(0, 7).flatmap(
        lambda chance: st.sampled_from(sensible) if chance else _odd  # mostly sensible
    )


_aggregation = st.fixed_dictionaries(
    {"aggregation_type": _or_odd(*(kind.value for kind in AggregationType))},
    optional={"percentile_value": _or_odd(0, 50, 99.9, 100, "50", -1, 101, 1e300)},
)
_times = _or_odd(0, T0, str(T0 + 10**8), -(2**63), 2**63 - 1)
_numbers = _or_odd(0, 1, 60, 3600, -1, -60, 2**31 - 1, 2**62, -(2**63), 2**63 - 1)
_metrics_requests = st.fixed_dictionaries(
    {
        "experiment_ids": _or_odd([], ["0"], ["1", "2"], ["9" * 30], ["x"]),
        "view_type": _or_odd("TRACES", "SPANS", "ASSESSMENTS", 1, 2, 3),
        "metric_name": _or_odd("trace_count", "latency", "span_count", "assessment_value"),
        "aggregations": st.lists(_aggregation, max_size=2) | _odd,
    },
    optional={
        "dimensions": _or_odd([], ["trace_name"], ["span_name"], ["assessment_name"] * 2),
        "filters": _or_odd([], ["trace.status = 'OK'"], ["span.name = 'llm'"], ["", "("]),
        "time_interval_seconds": _numbers,
        "start_time_ms": _times,
        "end_time_ms": _times,
        "max_results": _numbers,
        "page_token": _or_odd("x"),
    },
)
_list_requests = st.fixed_dictionaries(
    {"locations": st.just(locations(["0", "1"])) | st.just(locations(["9" * 30])) | _odd},
    optional={
        "filter": _or_odd("", f"timestamp > {10**23}", "name RLIKE '('", "(" * 3000, "x"),
        "max_results": _numbers,
        "order_by": _or_odd([], ["timestamp DESC"], ["x"], [""]),
        "page_token": _or_odd("", "eyJvZmZzZXQiOiAtNX0=", "W10=", "x"),
    },
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.tuples(st.just("metrics"), _metrics_requests)
    | st.tuples(st.just("search"), _list_requests)
    | st.tuples(st.sampled_from(["metrics", "search"]), _odd)
)
def test_whatever_is_asked_is_answered_or_refused(
    populated: Populated, asked: tuple[str, Any]
) -> None:
    _, _, client = populated
    path, body = asked
    status, answer = client.post(f"/api/3.0/mlflow/traces/{path}", body)
    assert status in (200, 400), answer
    assert status == 200 or len(answer["message"]) > 10


@given(assessments())
def test_any_assessment_is_what_protobuf_makes_of_it(assessment: Assessment) -> None:
    assessment.trace_id, assessment.assessment_id = "tr-1", "a-1"
    expected = MessageToDict(assessment.to_proto(), preserving_proto_field_name=True)
    assert json.loads(json.dumps(assessment_document(assessment))) == expected


@given(
    st.integers(0, 2**40),
    st.none() | st.integers(-(10**6), 10**9),
    st.dictionaries(st.text(max_size=300), st.text(max_size=300), max_size=2),
    st.none() | st.text(),
)
def test_any_trace_is_what_protobuf_makes_of_it(
    time_ms: int, took_ms: int | None, entries: dict[str, str], preview: str | None
) -> None:
    info = TraceInfo(
        trace_id="tr-1",
        trace_location=TraceLocation.from_experiment_id("1"),
        request_time=time_ms,
        execution_duration=took_ms,
        state=TraceState.OK,
        tags=entries,
        trace_metadata=entries,
        request_preview=preview,
    )
    expected = MessageToDict(info.to_proto(), preserving_proto_field_name=True)
    assert trace_document(info) == expected
