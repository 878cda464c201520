"""MLflow's own store and ours, side by side: the same calls to both, the same answers expected."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import differences
from mlflow.entities import Assessment, Span, Trace, TraceInfo
from mlflow.entities.trace_metrics import MetricDataPoint
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from vedette.mlflow_app.control import prepare_control_database
from vedette.mlflow_app.environment import ARTIFACTS_PROXY, store_uri
from vedette.mlflow_app.plane import TracePlane, open_plane
from vedette.mlflow_app.store import VedetteStore
from vedette.settings import Settings


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a call gave: a value in plain types, or an error's code and message."""

    value: Any = None
    error: str | None = None
    message: str = ""


class Pair:
    """Both stores. Made by `open_pair`."""

    def __init__(self, mlflow: SqlAlchemyStore, ours: VedetteStore, plane: TracePlane) -> None:
        self.mlflow = mlflow
        self.ours = ours
        self.plane = plane
        self._intended = differences.IntendedMlflow(mlflow)

    def experiment(self) -> str:
        """A new experiment, the same in both."""
        name = f"experiment-{time.time_ns()}"
        one, other = self.mlflow.create_experiment(name), self.ours.create_experiment(name)
        assert one == other
        return str(one)

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Outcome:
        """Call both; fail if their outcomes differ and no known difference explains it."""
        # Where a write leaves something else behind, on purpose
        theirs_of = self._intended if hasattr(self._intended, method) else self.mlflow
        theirs = _outcome(theirs_of, method, args, kwargs)
        ours = _outcome(self.ours, method, args, kwargs)
        if theirs != ours and not differences.explained(method, theirs, ours):
            raise AssertionError(
                f"{method}(*{args}, **{kwargs})\n  MLflow: {_short(theirs)}\n  ours:   "
                f"{_short(ours)}\n{_where(theirs.value, ours.value)}"
            )
        return ours

    def send(self, experiment_id: str, request: ExportTraceServiceRequest) -> None:
        """An OTLP request, as its HTTP route would hand it to the store."""
        body = request.SerializeToString()
        parsed = ExportTraceServiceRequest.FromString(body)
        spans = [
            Span.from_otel_proto(span, resource=group.resource)
            for group in parsed.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]
        self._intended.log_spans(experiment_id, spans)
        self.plane.log_spans(experiment_id, body)

    def all_traces(self, experiment_ids: Sequence[str]) -> list[str]:
        """Compare every trace of the experiments, with and without spans; returns their ids."""
        found = self.call("search_traces", experiment_ids, max_results=1000)
        trace_ids = [info["trace_id"] for info in found.value[0]]
        self.call("batch_get_trace_infos", trace_ids)
        for trace_id in trace_ids:
            self.call("get_trace_info", trace_id)
            self.call("get_trace", trace_id, allow_partial=True)
        self.call("batch_get_traces", trace_ids)
        return trace_ids


@contextmanager
def open_pair(directory: Path, **changes: Any) -> Iterator[Pair]:
    """Both stores, empty, with their files under ``directory``; ours with these settings."""
    settings = Settings(data=directory / "vedette", **changes)
    settings.data.mkdir()
    prepare_control_database(settings)
    shutil.copy(settings.data / "control.db", directory / "mlflow.db")  # its tables, made once
    mlflow = SqlAlchemyStore(f"sqlite:///{directory / 'mlflow.db'}", ARTIFACTS_PROXY)
    with open_plane(settings) as plane:
        yield Pair(mlflow, VedetteStore(store_uri(settings), ARTIFACTS_PROXY), plane)


def _outcome(store: Any, method: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Outcome:
    try:
        value = getattr(store, method)(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    except MlflowException as error:
        return Outcome(error=error.error_code, message=str(error.message))
    except Exception as error:  # MLflow's server answers 500
        return Outcome(error="INTERNAL_ERROR", message=repr(error))
    return Outcome(plain(value))


def plain(value: Any) -> Any:
    """Entities as what they hold, comparable with ==."""
    for kind, form in _FORMS:
        if isinstance(value, kind):
            return form(value)
    if dataclasses.is_dataclass(value):
        return {name: plain(field) for name, field in vars(value).items()}
    if hasattr(value, "to_dictionary"):
        return plain(value.to_dictionary())
    return value


def _trace(trace: Trace) -> dict[str, Any]:
    return {"info": plain(trace.info), "data": json.loads(trace.data.to_json_bytes())}


def _assessment(assessment: Assessment) -> dict[str, Any]:
    fields = {name: plain(field) for name, field in vars(assessment).items()}
    for name in ("create_time_ms", "last_update_time_ms"):
        fields[name] = _moment(fields[name])
    return {"class": type(assessment).__name__, **fields}


def _point(point: MetricDataPoint) -> tuple[Any, ...]:
    values = {label: _number(number) for label, number in point.values.items()}
    return (point.metric_name, point.dimensions, values)


def _trace_info(info: TraceInfo) -> dict[str, Any]:
    fields = {name: plain(value) for name, value in vars(info).items()}
    tags = fields["tags"].items()
    fields["tags"] = {key: text for key, text in tags if key not in differences.SHOWN_TAGS}
    return fields


_FORMS: list[tuple[Any, Any]] = [
    (TraceInfo, _trace_info),
    (Trace, _trace),
    (Assessment, _assessment),
    (MetricDataPoint, _point),
    ((list, tuple), lambda values: [plain(value) for value in values]),
    (dict, lambda values: {key: plain(value) for key, value in values.items()}),
    (float, lambda number: "nan" if math.isnan(number) else number),
]


def _moment(time_ms: int) -> Any:
    """The two stores are called one after the other: their present is the same moment."""
    return "now" if abs(time_ms - time.time() * 1000) < 3_600_000 else time_ms


def _number(number: float) -> tuple[str, float]:
    # Sums of floats depend in the last digits on the order in which rows are added up
    return type(number).__name__, float(f"{number:.12g}") if isinstance(number, float) else number


def _short(outcome: Outcome) -> str:
    text = str(outcome.value) if outcome.error is None else f"{outcome.error}: {outcome.message}"
    return text if len(text) < 3000 else text[:3000] + " ..."


def _where(theirs: Any, ours: Any, path: str = "") -> str:
    """The places in which two plain values differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = [*theirs, *(key for key in ours if key not in theirs)]
        return "".join(_where(theirs.get(k), ours.get(k), f"{path}.{k}") for k in keys)
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        pairs = enumerate(zip(theirs, ours, strict=True))
        return "".join(_where(one, other, f"{path}[{i}]") for i, (one, other) in pairs)
    return "" if theirs == ours else f"  at {path}: MLflow {theirs!r}, ours {ours!r}\n"
