"""MLflow's start_trace: its validation, what is journaled of it, and what is answered.

The SDK calls it once per trace, so the REST route is ours too: MLflow's runs Flask in a thread for
each request, which costs several times what the rest of a trace does.
"""

from __future__ import annotations

import asyncio
import copy
import json
from typing import cast

import orjson
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from mlflow.entities import Assessment, TraceInfo, TraceLocation
from mlflow.exceptions import MlflowException
from mlflow.protos.service_pb2 import StartTraceV3, TraceInfoV3
from mlflow.protos.service_pb2 import Trace as TraceMessage
from mlflow.store.tracking.utils.trace_analytics import (
    analytics_columns_from_metadata,
    validate_trace_name,
)
from mlflow.tracing.constant import SpansLocation, TraceMetadataKey, TraceTagKey
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vedette.intake.journal import JournalFull, JournalUnavailable
from vedette.intake.records import AssessmentRow, TraceHeader
from vedette.mlflow_app.experiments import ExperimentFacts
from vedette.mlflow_app.plane import TracePlane
from vedette.traces.assessments import assessment_entity, assessment_row
from vedette.traces.writes import unavailable

_PATHS = ("/api/3.0/mlflow/traces", "/ajax-api/3.0/mlflow/traces")
_TRACE_ID_LENGTH = 50  # MLflow's column
# The server says where a trace's data is, not the client
_SERVER_TAGS = (TraceTagKey.SPANS_LOCATION, MLFLOW_ARTIFACT_LOCATION)


def experiment_of(info: TraceInfo) -> str:
    """The id of the experiment a trace says it is in.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE, it doesn't say.
    """
    if info.experiment_id is None:
        raise _invalid("A trace must be in an MLflow experiment: set its trace location to one.")
    return str(info.experiment_id)


def trace_header(info: TraceInfo, experiment: ExperimentFacts) -> TraceHeader:
    """What is journaled.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE, as MLflow's store (name and session too long), and
            for an id that can't name a trace in a URL or in MLflow's tables.
    """
    validate_trace_name(info.tags.get(TraceTagKey.TRACE_NAME))
    analytics_columns_from_metadata(info.trace_metadata)  # checks the session's length
    trace_id = info.trace_id
    if not trace_id or len(trace_id) > _TRACE_ID_LENGTH or "/" in trace_id:
        raise _invalid(
            f"Invalid trace id {trace_id!r}: it must have 1 to {_TRACE_ID_LENGTH} characters and "
            "no '/'."
        )
    return TraceHeader(
        trace_id=trace_id,
        experiment_id=experiment.experiment_id,
        request_time=info.request_time,
        execution_duration=info.execution_duration,
        state=info.state.value,
        client_request_id=info.client_request_id,
        request_preview=info.request_preview,
        response_preview=info.response_preview,
        tags={key: value for key, value in info.tags.items() if key not in _SERVER_TAGS},
        metadata=dict(info.trace_metadata),
        assessments=[checked_row(one, trace_id) for one in info.assessments],
    )


def started_info(info: TraceInfo, header: TraceHeader, artifact_location: str) -> TraceInfo:
    """What is answered: what was given, and the tags that the server adds.

    MLflow's store reads back the trace, with what may have arrived of it before. The SDK needs the
    tags only, and every trace would pay for the read.
    """
    started = copy.copy(info)
    started.trace_location = TraceLocation.from_experiment_id(header["experiment_id"])
    started.tags = {
        **header["tags"],
        # Without it the client would upload the spans once more, as an artifact
        TraceTagKey.SPANS_LOCATION: SpansLocation.TRACKING_STORE.value,
        MLFLOW_ARTIFACT_LOCATION: artifact_location,
    }
    started.trace_metadata = {
        **header["metadata"],
        TraceMetadataKey.TRACE_INFO_FINALIZED: "true",
    }
    started.assessments = [assessment_entity(row) for row in header["assessments"]]
    return started


def checked_row(assessment: Assessment, trace_id: str) -> AssessmentRow:
    """`assessment_row`, its errors as MLflow's.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE, a value isn't what JSON can hold.
    """
    try:
        return assessment_row(assessment, trace_id)
    except (TypeError, ValueError) as error:
        raise _invalid(f"An assessment holds what JSON can't: {error}") from error


def start_trace_routes(plane: TracePlane) -> list[Route]:
    """``POST .../mlflow/traces`` of MLflow's REST API, version 3."""

    async def start_trace(request: Request) -> Response:
        try:
            info = _parse(await request.body())
            experiment = await plane.experiments.get_active_async(experiment_of(info))
            header = trace_header(info, experiment)
            # Shielded: a request that is given up must not cancel a write the journal has begun
            await asyncio.shield(asyncio.wrap_future(plane.writes.append_start(header)))
        except MlflowException as error:
            return _refusal(error)
        except (JournalFull, JournalUnavailable) as error:
            return _refusal(unavailable(error))
        started = started_info(info, header, plane.artifact_location(info))
        message = StartTraceV3.Response(
            trace=TraceMessage(trace_info=cast(TraceInfoV3, started.to_proto()))
        )
        return _json(MessageToDict(message, preserving_proto_field_name=True))

    return [Route(path, start_trace, methods=["POST"]) for path in _PATHS]


def _parse(body: bytes) -> TraceInfo:
    try:
        message = ParseDict(orjson.loads(body), StartTraceV3(), ignore_unknown_fields=True)
        if not message.trace.HasField("trace_info"):
            raise _invalid("Missing value for required parameter 'trace.trace_info'.")
        return TraceInfo.from_proto(message.trace.trace_info)
    except (ValueError, TypeError, AttributeError, ParseError) as error:
        raise _invalid(f"The body is not a start_trace request in JSON: {error}") from error


def _refusal(error: MlflowException) -> Response:
    return _json(json.loads(error.serialize_as_json()), error.get_http_status_code())


def _json(content: object, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def _invalid(message: str) -> MlflowException:
    error: MlflowException = MlflowException.invalid_parameter_value(message)
    return error
