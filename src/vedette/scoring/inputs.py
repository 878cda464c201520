"""What a scorer is given for a unit: exactly what ``mlflow.genai.evaluate`` gives it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Trace
from mlflow.genai.evaluation.entities import EvalItem
from mlflow.tracing.constant import TraceMetadataKey
from mlflow.tracing.otel.translation import translate_loaded_span_with_status


@dataclass(frozen=True, slots=True)
class Subject:
    """What one call of a scorer is about."""

    arguments: dict[str, Any]
    """By parameter, of `Scorer.run`."""
    trace: Trace
    """Where the feedback goes: the trace, or the first of the session."""
    metadata: dict[str, str]
    """For every feedback."""


def read_subject(payload: bytes) -> Subject:
    """A unit as `vedette.scoring.outcomes.Unit` has it: a trace, or a session.

    Raises:
        Exception: of whatever kind, it can't be read.
    """
    stored = json.loads(payload)
    if "traces" not in stored:
        trace = _trace(stored)
        return Subject(scorer_arguments(trace), trace, {})
    traces = [_trace(one) for one in stored["traces"]]
    return Subject(
        {"session": traces},
        min(traces, key=lambda trace: trace.info.request_time),
        {TraceMetadataKey.TRACE_SESSION: stored["session_id"]},
    )


def read_payload(payload: bytes) -> Trace:
    """The trace that `vedette.scoring.payloads.payload` was made of, as it is when MLflow has read
    it from its store and, as evaluate does, from its JSON.

    That matters: it turns an expectation of 5 into 5.0, for example.

    Raises:
        Exception: of whatever kind, it can't be read.
    """
    return _trace(json.loads(payload))


def _trace(stored: dict[str, Any]) -> Trace:
    if "unreadable" in stored:
        raise ValueError(f"what is stored of the trace can't be read: {stored['unreadable']}")
    for span in stored["spans"]:
        translate_loaded_span_with_status(span)
    return Trace.from_dict({"info": stored["info"], "data": {"spans": stored["spans"]}})


def scorer_arguments(trace: Trace) -> dict[str, Any]:
    """``inputs``, ``outputs``, ``expectations`` and ``trace``, as `mlflow.genai.evaluate([trace])`
    passes them.

    Evaluate goes through pandas, which may turn None into NaN when some
    traces of a set have an output and some have not; one trace by itself never sees that.
    """
    root = next((span for span in trace.data.spans if span.parent_id is None), None)
    item = EvalItem.from_dataset_row(
        {
            "request_id": trace.info.trace_id,
            "inputs": None if root is None else root.inputs,
            "outputs": None if root is None else root.outputs,
            "expectations": {
                assessment.name: assessment.expectation.value
                for assessment in trace.info.assessments
                if assessment.expectation is not None
            },
            "trace": trace,
        }
    )
    return {
        "inputs": item.inputs,
        "outputs": item.outputs,
        "expectations": item.expectations,
        "trace": item.trace,
    }
