"""Every read of traces, as MLflow's tracking store names them, answers and errors included."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import duckdb
from mlflow.entities import Assessment, Trace, TraceData, TraceInfo
from mlflow.entities.span import LazySpan, Span
from mlflow.entities.trace_metrics import MetricAggregation, MetricDataPoint, MetricViewType
from mlflow.exceptions import MlflowException, MlflowTracingException
from mlflow.genai.scorers.online.entities import CompletedSession
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from mlflow.store.analytics.trace_correlation import calculate_npmi_from_counts
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.tracking import (
    MAX_RESULTS_QUERY_TRACE_METRICS,
    SEARCH_TRACES_DEFAULT_MAX_RESULTS,
)
from mlflow.tracing.analysis import TraceFilterCorrelationResult
from mlflow.tracing.constant import SpansLocation, TraceTagKey
from mlflow.utils.search_utils import SearchTraceUtils

from vedette.intake.journal import JournalCorrupt
from vedette.lake.storage import LakeUnavailable
from vedette.traces.arguments import (
    check_max_results,
    experiment_numbers,
    page_offset,
    searched_experiments,
)
from vedette.traces.columns import Ask, Columns, ColumnsUnavailable
from vedette.traces.conditions import Condition, among_rows, invalid
from vedette.traces.correlation import correlation_counts
from vedette.traces.filters import TraceFilter, compile_filter
from vedette.traces.index import IndexUnavailable
from vedette.traces.infos import (
    expected_spans,
    find_assessment,
    infos_by_row,
    trace_infos,
    trace_rows,
)
from vedette.traces.matching import Contents, matching_spans, narrowed
from vedette.traces.metrics import MetricsQuery, query_metrics
from vedette.traces.order import compile_order
from vedette.traces.patterns import limited_time
from vedette.traces.search import ContentCheck, Search, page
from vedette.traces.sessions import completed_sessions

# How long a read waits for spans that the trace says it has and that haven't arrived, in seconds.
_PATIENCE = 3.0
_POLL = 0.25
# So many traces are worth starting a search from.
_MANY_TRACES = 50_000


class TraceReads:
    """Reads traces of one data directory. Use from any thread.

    Args:
        up_to_date: gives this thread's connection to the read model after everything journaled so
            far has been folded into it.
        columns: the read model's mirror.
        contents: where the content of spans comes from.

    Raises (every method):
        MlflowException: INVALID_PARAMETER_VALUE for arguments that make no sense;
            RESOURCE_DOES_NOT_EXIST for what isn't there; TEMPORARILY_UNAVAILABLE when the lake or
            the read model can't be read now.
    """

    def __init__(
        self,
        up_to_date: Callable[[], sqlite3.Connection],
        columns: Columns,
        contents: Contents,
    ) -> None:
        self._up_to_date = up_to_date
        self._columns = columns
        self._contents = contents

    def get_trace_info(self, trace_id: str) -> TraceInfo:
        """A trace without its spans."""
        infos = self.batch_get_trace_infos([trace_id])
        if not infos:
            raise MlflowException(f"Trace with ID '{trace_id}' not found.", RESOURCE_DOES_NOT_EXIST)
        return infos[0]

    def batch_get_trace_infos(
        self, trace_ids: Sequence[str], *, experiment_ids: Sequence[str] | None = None
    ) -> list[TraceInfo]:
        """Traces without their spans, those that are there, in the order asked for.

        Args:
            experiment_ids: only traces in these experiments; None for any.
        """
        return [info for _, info in self._infos(trace_ids, experiment_ids)]

    def _infos(
        self, trace_ids: Sequence[str], experiment_ids: Sequence[str] | None
    ) -> list[tuple[int, TraceInfo]]:
        """Row id and info; of an id that is asked for twice the last place counts."""
        unique = list(dict.fromkeys(reversed(trace_ids)))[::-1]
        experiments = None if experiment_ids is None else experiment_numbers(experiment_ids)
        with _reading():
            connection = self._up_to_date()
            rows = trace_rows(connection, unique, experiments)
            found = infos_by_row(connection, rows)
            return [(row, found[row]) for row in rows if row in found]

    def get_trace(self, trace_id: str, *, allow_partial: bool = False) -> Trace:
        """A trace with its spans.

        Args:
            allow_partial: take what is there. Otherwise RESOURCE_DOES_NOT_EXIST if the trace has no
                span yet, or fewer than start_trace said, after some waiting.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            found = self._infos([trace_id], None)
            if not found:
                raise MlflowException(
                    f"Trace with ID {trace_id} is not found.", RESOURCE_DOES_NOT_EXIST
                )
            for trace in self._with_spans(found, allow_partial=allow_partial):
                return trace
            if time.monotonic() > deadline:
                raise MlflowException(
                    f"Trace with ID {trace_id} is not fully exported yet, please try again later.",
                    RESOURCE_DOES_NOT_EXIST,
                )
            time.sleep(_POLL)

    def batch_get_traces(
        self, trace_ids: Sequence[str], *, experiment_ids: Sequence[str] | None = None
    ) -> list[Trace]:
        """Traces with their spans, those that are there with all of them, in the order asked for.

        Args:
            experiment_ids: only traces in these experiments; None for any.
        """
        found = self._infos(trace_ids, experiment_ids)
        return list(self._with_spans(found, allow_partial=False))

    def _with_spans(
        self, found: Sequence[tuple[int, TraceInfo]], *, allow_partial: bool
    ) -> Iterator[Trace]:
        for _, info in found:
            location = info.tags.get(TraceTagKey.SPANS_LOCATION)
            if location != SpansLocation.TRACKING_STORE.value:
                raise MlflowTracingException("Trace data not stored in tracking store")
        with _reading():
            contents = self._contents.of([row for row, _ in found])
        for row, info in found:
            texts = contents.get(row, ())
            if allow_partial or (texts and len(texts) >= expected_spans(info.trace_metadata)):
                spans: list[Span] = [LazySpan.from_stored_content(text) for text in texts]
                yield Trace(info=info, data=TraceData(spans=spans))

    def search_traces(
        self,
        experiment_ids: Sequence[str] | None = None,
        filter_string: str | None = None,
        max_results: int = SEARCH_TRACES_DEFAULT_MAX_RESULTS,
        order_by: Sequence[str] | None = None,
        page_token: str | None = None,
        locations: Sequence[str] | None = None,
    ) -> tuple[list[TraceInfo], str | None]:
        """One page of the traces that match a filter, and the token of the next page if any.

        Args:
            experiment_ids: old name of ``locations``.
            locations: the experiments to search; None for all.
        """
        experiments = searched_experiments(experiment_ids, locations)
        check_max_results(max_results)
        order = compile_order(order_by)
        compiled = compile_filter(filter_string, experiments)
        offset = page_offset(page_token)
        with _reading():
            connection = self._up_to_date()
            check = self._content_check(connection, compiled)
            search = Search(
                compiled, experiments, order, check, lambda: self._narrow(connection, compiled)
            )
            rows = page(connection, search, offset, max_results)
            infos = trace_infos(connection, rows)
        more = len(rows) == max_results
        return infos, SearchTraceUtils.create_page_token(offset + max_results) if more else None

    def matching_spans(self, compiled: TraceFilter, rows: Sequence[int]) -> Iterable[int]:
        """Of these traces (rows of ``traces``), those that the filter's span part matches."""
        return self._content_check(self._up_to_date(), compiled)(rows)

    def _narrow(self, connection: sqlite3.Connection, compiled: TraceFilter) -> Condition | None:
        if compiled.spans is not None:
            return narrowed(self._contents, compiled)
        rows = self._columns.traces_with_span(connection, compiled.span_values, _MANY_TRACES)
        return None if rows is None else among_rows(rows)

    def _content_check(self, connection: sqlite3.Connection, compiled: TraceFilter) -> ContentCheck:
        spans = compiled.spans
        if spans is None:
            return lambda rows: rows
        return lambda rows: matching_spans(connection, self._contents, spans, rows)

    def find_completed_sessions(
        self,
        experiment_id: str,
        min_last_trace_timestamp_ms: int,
        max_last_trace_timestamp_ms: int,
        *,
        max_results: int | None = None,
        filter_string: str | None = None,
    ) -> list[CompletedSession]:
        """Sessions whose newest trace is within the bounds, by its time, then by session id.

        Args:
            filter_string: what the first trace of the session must satisfy.
        """
        (experiment,) = experiment_numbers([experiment_id])
        first_trace = compile_filter(filter_string, [experiment])
        with _reading():
            connection = self._up_to_date()
            return completed_sessions(
                connection,
                experiment,
                min_last_trace_timestamp_ms,
                max_last_trace_timestamp_ms,
                max_results,
                first_trace,
                self._content_check(connection, first_trace),
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
    ) -> PagedList[MetricDataPoint]:
        """Aggregates over traces, spans or assessments; times in ms, both ends inclusive."""
        query = MetricsQuery(
            experiment_numbers(experiment_ids),
            view_type,
            metric_name,
            aggregations,
            dimensions,
            filters,
            time_interval_seconds,
            start_time_ms,
            end_time_ms,
            max_results,
        )
        with _reading():
            return PagedList(query_metrics(self._up_to_date(), self._columns, query), None)

    @contextmanager
    def mirror(self) -> Iterator[Ask]:
        """Ask the columnar mirror several things of one state of it, with everything so far."""
        with _reading(), self._columns.reading(self._up_to_date()) as ask:
            yield ask

    def calculate_trace_filter_correlation(
        self,
        experiment_ids: Sequence[str],
        filter_string1: str,
        filter_string2: str,
        base_filter: str | None = None,
    ) -> TraceFilterCorrelationResult:
        """How far two filters select the same traces (normalized pointwise mutual information).

        Args:
            base_filter: count only traces that satisfy it.
        """
        experiments = experiment_numbers(experiment_ids)
        both = [
            f"{base_filter} and {text}" if base_filter else text
            for text in (filter_string1, filter_string2)
        ]
        one, other, base = (compile_filter(text, experiments) for text in (*both, base_filter))
        filters = [base, one, other]
        with _reading():
            connection = self._up_to_date()
            checks = [self._content_check(connection, one) for one in filters]
            counts = correlation_counts(connection, experiments, filters, checks)
        result = calculate_npmi_from_counts(
            counts.joint_count, counts.filter1_count, counts.filter2_count, counts.total_count
        )
        return TraceFilterCorrelationResult(
            npmi=result.npmi,
            npmi_smoothed=result.npmi_smoothed,
            filter1_count=counts.filter1_count,
            filter2_count=counts.filter2_count,
            joint_count=counts.joint_count,
            total_count=counts.total_count,
        )

    def get_assessment(self, trace_id: str, assessment_id: str) -> Assessment:
        """An assessment of a trace."""
        with _reading():
            connection = self._up_to_date()
            if assessment := find_assessment(connection, trace_id, assessment_id):
                return assessment
            if trace_rows(connection, [trace_id], None):
                raise MlflowException(
                    f"Assessment with ID '{assessment_id}' not found for trace '{trace_id}'",
                    RESOURCE_DOES_NOT_EXIST,
                )
            raise MlflowException(
                f"Trace with request_id '{trace_id}' not found", RESOURCE_DOES_NOT_EXIST
            )


@contextmanager
def _reading() -> Iterator[None]:
    """What reading can raise, in the terms of MLflow's API."""
    try:
        with limited_time():
            yield
    except OverflowError as error:
        raise invalid("A number is beyond 64 bits.") from error
    except UnicodeEncodeError as error:
        raise invalid(f"A value is not valid text: {error}") from error
    except sqlite3.OperationalError as error:
        if "too complex" in str(error) or "too many" in str(error):  # of SQL or a LIKE pattern
            raise invalid(f"The filter is too long or too complex: {error}") from error
        raise MlflowException(
            f"The read model can't be read now: {error}", TEMPORARILY_UNAVAILABLE
        ) from error
    except (
        LakeUnavailable,
        ColumnsUnavailable,
        IndexUnavailable,
        JournalCorrupt,
        duckdb.Error,
        OSError,
    ) as error:
        raise MlflowException(str(error), TEMPORARILY_UNAVAILABLE) from error
