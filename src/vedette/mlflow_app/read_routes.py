"""REST routes of MLflow's that lists and the Overview ask most: traces' search and metrics.

MLflow's own run Flask in a thread and build protobuf messages to write their JSON, which takes
longer than finding what to answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import orjson
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from mlflow.entities.trace_metrics import MetricAggregation, MetricViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.service_pb2 import QueryTraceMetrics, SearchTracesV3
from mlflow.store.tracking import MAX_RESULTS_QUERY_TRACE_METRICS
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vedette.mlflow_app.plane import TracePlane
from vedette.traces.documents import Document, metrics_document, trace_document

M = TypeVar("M", bound=Message)

_PREFIXES = ("/api/3.0/mlflow/traces", "/ajax-api/3.0/mlflow/traces")
_LARGEST_PAGE = 500


def read_routes(plane: TracePlane) -> list[Route]:
    """``POST .../traces/search`` and ``POST .../traces/metrics``."""
    answers: dict[str, Callable[[TracePlane, bytes], Document]] = {
        "search": _search,
        "metrics": _metrics,
    }
    return [
        Route(f"{prefix}/{name}", _endpoint(plane, answer), methods=["POST"])
        for prefix in _PREFIXES
        for name, answer in answers.items()
    ]


def _endpoint(plane: TracePlane, answer: Callable[[TracePlane, bytes], Document]) -> Any:
    def respond(body: bytes) -> Response:
        try:
            return _json(answer(plane, body))
        except MlflowException as error:
            return _refusal(error)

    async def endpoint(request: Request) -> Response:
        # As MLflow: what another site can make a browser send without asking has another type
        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            return _refusal(
                _invalid("Bad Request. Content-Type must be one of ['application/json'].")
            )
        return await asyncio.to_thread(respond, await request.body())

    return endpoint


def _search(plane: TracePlane, body: bytes) -> Document:
    message = _parsed(body, SearchTracesV3(), required=["locations"])
    if message.max_results > _LARGEST_PAGE:
        raise _invalid(
            f"Invalid value {message.max_results} for parameter 'max_results' supplied. "
            f"It must be at most {_LARGEST_PAGE}."
        )
    infos, token = plane.reads.search_traces(
        locations=[
            location.mlflow_experiment.experiment_id
            for location in message.locations
            if location.HasField("mlflow_experiment")
        ],
        filter_string=message.filter,
        max_results=message.max_results,
        order_by=list(message.order_by),
        page_token=message.page_token or None,
    )
    for info in infos:
        info.tags[MLFLOW_ARTIFACT_LOCATION] = plane.artifact_location(info)
    document: Document = {}
    if infos:
        document["traces"] = [trace_document(info) for info in infos]
    if token:
        document["next_page_token"] = token.decode() if isinstance(token, bytes) else token
    return document


def _metrics(plane: TracePlane, body: bytes) -> Document:
    required = ["experiment_ids", "view_type", "metric_name", "aggregations"]
    message = _parsed(body, QueryTraceMetrics(), required)
    given = {field.name: value for field, value in message.ListFields()}
    try:
        view_type = MetricViewType.from_proto(message.view_type)
        aggregations = [MetricAggregation.from_proto(one) for one in message.aggregations]
    except ValueError as error:
        raise _invalid(str(error)) from error
    points = plane.reads.query_trace_metrics(
        list(message.experiment_ids),
        view_type,
        message.metric_name,
        aggregations,
        list(message.dimensions) or None,
        list(message.filters) or None,
        given.get("time_interval_seconds"),
        given.get("start_time_ms"),
        given.get("end_time_ms"),
        given.get("max_results", MAX_RESULTS_QUERY_TRACE_METRICS),
    )
    return metrics_document(points)


def _parsed(body: bytes, message: M, required: Sequence[str]) -> M:
    """The request as a message.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE, it isn't one.
    """
    try:
        fields = orjson.loads(body) if body else {}
        fields = json.loads(fields) if isinstance(fields, str) else fields  # of old clients
        if not isinstance(fields, dict):
            raise ValueError("it is not an object")
        ParseDict(fields, message, ignore_unknown_fields=True)
    except (ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _invalid(f"The body is not a request in JSON: {error}") from error
    for name in required:
        if fields.get(name) in (None, ""):
            raise _invalid(
                f"Missing value for required parameter '{name}'. "
                "See the API docs for more information about request parameters."
            )
    return message


def _refusal(error: MlflowException) -> Response:
    # The message may hold what is no Unicode; JSON escapes it
    content = json.dumps(json.loads(error.serialize_as_json()))
    return Response(content, error.get_http_status_code(), media_type="application/json")


def _json(document: Document) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")


def _invalid(message: str) -> MlflowException:
    error: MlflowException = MlflowException.invalid_parameter_value(message)
    return error
