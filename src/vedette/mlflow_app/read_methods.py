"""The store's methods that read traces: all answered by `vedette.traces`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from mlflow.entities import Assessment, Trace, TraceInfo
from mlflow.entities.trace_metrics import MetricAggregation, MetricDataPoint, MetricViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import NOT_IMPLEMENTED
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.tracking import (
    MAX_RESULTS_QUERY_TRACE_METRICS,
    SEARCH_TRACES_DEFAULT_MAX_RESULTS,
)
from mlflow.tracing.analysis import TraceFilterCorrelationResult
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION

from vedette.mlflow_app.located_ids import bare_ids, in_place
from vedette.mlflow_app.plane import TracePlane


class ReadMethods:
    """Mixed into the store, ahead of MLflow's."""

    _plane: TracePlane

    def get_trace_info(self, trace_id: str) -> TraceInfo:
        """A trace without its spans. RESOURCE_DOES_NOT_EXIST: there is none."""
        info = self._plane.reads.get_trace_info(trace_id)
        self._locate_artifacts([info])
        return info

    def get_trace(self, trace_id: str, *, allow_partial: bool = False) -> Trace:
        """A trace with its spans; ``allow_partial``: even if some haven't arrived."""
        trace = self._plane.reads.get_trace(trace_id, allow_partial=allow_partial)
        self._locate_artifacts([trace.info])
        return trace

    def batch_get_traces(
        self,
        trace_ids: Sequence[str],
        location: str | None = None,
        experiment_ids: Sequence[str] | None = None,
    ) -> list[Trace]:
        """Traces with their spans, those that are there and whole, in the order asked for."""
        traces = self._plane.reads.batch_get_traces(
            bare_ids(trace_ids), experiment_ids=experiment_ids
        )
        infos = in_place([trace.info for trace in traces], trace_ids, self._plane.locations)
        self._locate_artifacts(infos)
        kept = {info.trace_id for info in infos}
        return [trace for trace in traces if trace.info.trace_id in kept]

    def batch_get_trace_infos(
        self,
        trace_ids: Sequence[str],
        location: str | None = None,
        experiment_ids: Sequence[str] | None = None,
    ) -> list[TraceInfo]:
        """Traces without their spans, those that are there, in the order asked for."""
        found = self._plane.reads.batch_get_trace_infos(
            bare_ids(trace_ids), experiment_ids=experiment_ids
        )
        infos = in_place(found, trace_ids, self._plane.locations)
        self._locate_artifacts(infos)
        return infos

    def search_traces(
        self,
        experiment_ids: Sequence[str] | None = None,
        filter_string: str | None = None,
        max_results: int = SEARCH_TRACES_DEFAULT_MAX_RESULTS,
        order_by: Sequence[str] | None = None,
        page_token: str | None = None,
        model_id: str | None = None,
        locations: Sequence[str] | None = None,
    ) -> tuple[list[TraceInfo], str | None]:
        """One page of the traces that match, and the token of the next page."""
        infos, token = self._plane.reads.search_traces(
            experiment_ids=experiment_ids,
            filter_string=filter_string,
            max_results=max_results,
            order_by=order_by,
            page_token=page_token,
            locations=locations,
        )
        self._locate_artifacts(infos)
        return infos, token

    def find_completed_sessions(
        self,
        experiment_id: str,
        min_last_trace_timestamp_ms: int,
        max_last_trace_timestamp_ms: int,
        max_results: int | None = None,
        filter_string: str | None = None,
    ) -> list[Any]:
        """Sessions whose last trace is within the bounds, as MLflow's ``CompletedSession``."""
        return self._plane.reads.find_completed_sessions(
            experiment_id,
            min_last_trace_timestamp_ms,
            max_last_trace_timestamp_ms,
            max_results=max_results,
            filter_string=filter_string,
        )

    def query_trace_metrics(
        self,
        experiment_ids: Sequence[str],
        view_type: MetricViewType,
        metric_name: str,
        aggregations: Sequence[MetricAggregation],
        dimensions: Sequence[str] | None = None,
        filters: Sequence[str] | None = None,
        time_interval_seconds: int | None = None,
        start_time_ms: int | None = None,
        end_time_ms: int | None = None,
        max_results: int = MAX_RESULTS_QUERY_TRACE_METRICS,
        page_token: str | None = None,
    ) -> PagedList[MetricDataPoint]:
        """Aggregates over traces, spans or assessments: what the UI's Overview shows."""
        return self._plane.reads.query_trace_metrics(
            experiment_ids=experiment_ids,
            view_type=view_type,
            metric_name=metric_name,
            aggregations=aggregations,
            dimensions=dimensions,
            filters=filters,
            time_interval_seconds=time_interval_seconds,
            start_time_ms=start_time_ms,
            end_time_ms=end_time_ms,
            max_results=max_results,
        )

    def calculate_trace_filter_correlation(
        self,
        experiment_ids: Sequence[str],
        filter_string1: str,
        filter_string2: str,
        base_filter: str | None = None,
    ) -> TraceFilterCorrelationResult:
        """How far two filters select the same traces (NPMI)."""
        return self._plane.reads.calculate_trace_filter_correlation(
            experiment_ids, filter_string1, filter_string2, base_filter
        )

    def get_assessment(self, trace_id: str, assessment_id: str) -> Assessment:
        """An assessment of a trace. RESOURCE_DOES_NOT_EXIST: it, or the trace, isn't there."""
        return self._plane.reads.get_assessment(trace_id, assessment_id)

    def get_online_trace_details(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refused: it reads Databricks' inference tables."""
        raise MlflowException(
            "get_online_trace_details reads Databricks inference tables; here, use get_trace.",
            error_code=NOT_IMPLEMENTED,
        )

    def _locate_artifacts(self, infos: Iterable[TraceInfo]) -> None:
        """Say where attachments of each trace are: a tag to MLflow, but the same for all of an
        experiment, so it isn't stored with each trace."""
        for info in infos:
            info.tags[MLFLOW_ARTIFACT_LOCATION] = self._plane.artifact_location(info)
