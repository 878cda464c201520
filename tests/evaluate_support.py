"""The same scorer on the same trace or session, by ``mlflow.genai.evaluate`` and by us."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Document, SpanType, Trace
from mlflow.genai.scorers import Scorer
from mlflow.tracing.constant import AssessmentMetadataKey, TraceMetadataKey

from vedette.intake.records import AssessmentRow
from vedette.scoring.call import ScorerCall
from vedette.scoring.payloads import payload


@pytest.fixture(scope="module", autouse=True)
def stock_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stock MLflow on a SQLite store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
        patch.setenv("MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS", "true")
        directory: Path = tmp_path_factory.mktemp("stock")
        patch.chdir(directory)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(f"sqlite:///{directory}/stock.db")
        mlflow.set_experiment("scoring")
        yield
        mlflow.set_tracking_uri(before)


def log_trace(inputs: Any, outputs: Any, *, expectations: dict[str, Any] | None = None) -> Trace:
    """A trace with retrieval and tool spans, as the server would return it."""
    with mlflow.start_span("agent", span_type=SpanType.AGENT) as root:
        root.set_inputs(inputs)
        with mlflow.start_span("search", span_type=SpanType.RETRIEVER) as retriever:
            retriever.set_inputs({"query": "q"})
            retriever.set_outputs(
                [Document(page_content="alpha", metadata={"doc_uri": "a.md"}, id="1")]
            )
        with mlflow.start_span("calc", span_type=SpanType.TOOL) as tool:
            tool.set_inputs({"a": 1, "b": 2.5})
            tool.set_outputs(3.5)
            tool.set_attribute("note", {"deep": [1, None, "x"]})
        root.set_outputs(outputs)
    for name, value in (expectations or {}).items():
        mlflow.log_expectation(trace_id=root.trace_id, name=name, value=value)
    trace = mlflow.get_trace(root.trace_id)
    assert trace is not None
    return trace


def log_session(session_id: str, turns: int) -> list[Trace]:
    """The traces of one conversation, in their order."""
    traces = []
    for turn in range(turns):
        with mlflow.start_span("turn", span_type=SpanType.AGENT) as root:
            mlflow.update_current_trace(metadata={TraceMetadataKey.TRACE_SESSION: session_id})
            root.set_inputs({"messages": [{"role": "user", "content": f"question {turn}"}]})
            with mlflow.start_span("look_up", span_type=SpanType.TOOL) as tool:
                tool.set_inputs({"turn": turn})
                tool.set_outputs(["found", turn])
            root.set_outputs(f"answer {turn}")
        trace = mlflow.get_trace(root.trace_id)
        assert trace is not None
        traces.append(trace)
    return traces


def by_evaluate(scorers: Sequence[Scorer], traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """The feedback that evaluate logs, in what both ways must agree on."""
    mlflow.genai.evaluate(data=list(traces), scorers=list(scorers))
    found = []
    for trace in traces:
        after = mlflow.get_trace(trace.info.trace_id)
        assert after is not None
        known = {a.assessment_id for a in trace.info.assessments}
        found += [
            {
                "trace": trace.info.trace_id,
                "name": a.name,
                "value": a.feedback.value,
                "error": a.feedback.error and a.feedback.error.error_message,
                "error_code": a.feedback.error and a.feedback.error.error_code,
                "rationale": a.rationale,
                "source": [a.source.source_type, a.source.source_id],
                "span_id": a.span_id,
                "metadata": _shared(a.metadata),
            }
            for a in after.info.assessments
            if a.feedback is not None and a.assessment_id not in known
        ]
    return sorted(found, key=_order)


def by_vedette(scorers: Sequence[Scorer], traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """The feedback that a worker makes of the same traces, or of the session that they are."""
    found = []
    for scorer in scorers:
        call = ScorerCall(json.dumps(scorer.model_dump()), scorer.name, 3)
        payloads = [payload(trace.info, _stored_contents(trace)) for trace in traces]
        if scorer.is_session_level_scorer:
            session_id = traces[0].info.trace_metadata[TraceMetadataKey.TRACE_SESSION]
            session = b",".join(payloads)
            payloads = [
                b'{"session_id": %b, "traces": [%b]}' % (json.dumps(session_id).encode(), session)
            ]
        found += [_told(row) for sent in payloads for row in call(sent)]
    return sorted(found, key=_order)


def _stored_contents(trace: Trace) -> list[str]:
    """What the stock store has of the spans, which is what ours has."""
    path = mlflow.get_tracking_uri().removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as store:
        found = store.execute(
            "SELECT content FROM spans WHERE trace_id = ?"
            " ORDER BY parent_span_id IS NOT NULL, start_time_unix_nano",
            (trace.info.trace_id,),
        )
        return [content for (content,) in found]


def _told(row: AssessmentRow) -> dict[str, Any]:
    error = json.loads(row["error"] or "{}")
    metadata = json.loads(row["assessment_metadata"] or "{}")
    assert metadata[AssessmentMetadataKey.SCORER_VERSION] == "3"
    return {
        "trace": row["trace_id"],
        "name": row["name"],
        "value": json.loads(row["value"]),
        "error": error.get("error_message"),
        "error_code": error.get("error_code"),
        "rationale": row["rationale"],
        "source": [row["source_type"], row["source_id"]],
        "span_id": row["span_id"],
        "metadata": _shared(metadata),
    }


def _shared(metadata: dict[str, Any]) -> dict[str, str]:
    """All but the run of an evaluation, the version of a registered scorer, and times."""
    own = {
        AssessmentMetadataKey.SOURCE_RUN_ID,
        AssessmentMetadataKey.SCORER_NAME,
        AssessmentMetadataKey.SCORER_VERSION,
    }
    return {
        key: re.sub(r'"\w+_time": "[^"]*"', "", str(value))
        for key, value in metadata.items()
        if key not in own
    }


def _order(told: dict[str, Any]) -> str:
    return json.dumps([told["trace"], told["name"], str(told["value"]), told["metadata"]])
