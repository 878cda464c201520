"""Live scoring hands a scorer exactly what ``mlflow.genai.evaluate`` hands it for a trace."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities import Document, Feedback, SpanType, Trace
from mlflow.genai.evaluation.entities import EvalItem
from mlflow.genai.evaluation.utils import _convert_to_eval_set
from mlflow.genai.scorers import Scorer, scorer

from vedette.intake.records import AssessmentRow
from vedette.scoring.call import ScorerCall
from vedette.scoring.inputs import scorer_arguments
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


# Returns all it is given as JSON text, so that a difference in anything shows in the score
@scorer  # type: ignore[untyped-decorator]
def witness(inputs: Any, outputs: Any, expectations: Any, trace: Any) -> Feedback:
    import json

    from mlflow.entities import Feedback

    seen = {
        "inputs": [type(inputs).__name__, inputs],
        "outputs": [type(outputs).__name__, outputs],
        "expectations": [type(expectations).__name__, expectations],
        "trace": json.loads(trace.to_json()),
        "documents": [
            (document["page_content"], document["metadata"])
            for span in trace.search_spans(span_type="RETRIEVER")
            for document in span.outputs
        ],
        "tools": [
            [type(span.inputs["a"]).__name__, span.outputs, span.get_attribute("note")]
            for span in trace.search_spans(name="calc")
        ],
    }
    return Feedback(value=json.dumps(seen, sort_keys=True), rationale=type(trace).__name__)


def by_evaluate(function: Scorer, trace: Trace) -> list[dict[str, Any]]:
    """The feedback that evaluate logs for a trace, in what both ways must agree on."""
    mlflow.genai.evaluate(data=[trace], scorers=[function])
    after = mlflow.get_trace(trace.info.trace_id)
    assert after is not None
    known = {a.assessment_id for a in trace.info.assessments}
    found = [
        {
            "name": a.name,
            "value": a.feedback.value,
            "error": a.feedback.error and a.feedback.error.error_message,
            "error_code": a.feedback.error and a.feedback.error.error_code,
            "rationale": a.rationale,
            "source": [a.source.source_type, a.source.source_id],
            "span_id": a.span_id,
            "digest": a.metadata["mlflow.assessment.scorerDigest"],
        }
        for a in after.info.assessments
        if a.feedback is not None and a.assessment_id not in known
    ]
    return sorted(found, key=lambda one: str(one["name"]))


def by_vedette(function: Scorer, trace: Trace) -> list[dict[str, Any]]:
    """The feedback that a worker makes for the same trace."""
    call = ScorerCall(json.dumps(function.model_dump()), function.name, 3)
    sent = payload(trace.info, _stored_contents(trace))
    return sorted(map(_told, call(sent)), key=lambda one: str(one["name"]))


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
    assert metadata["mlflow.assessment.scorerVersion"] == "3"
    return {
        "name": row["name"],
        "value": json.loads(row["value"]),
        "error": error.get("error_message"),
        "error_code": error.get("error_code"),
        "rationale": row["rationale"],
        "source": [row["source_type"], row["source_id"]],
        "span_id": row["span_id"],
        "digest": metadata["mlflow.assessment.scorerDigest"],
    }


@pytest.mark.parametrize(
    ("inputs", "outputs", "expectations"),
    [
        pytest.param({"question": "what?", "history": [1, {"a": None}]}, {"answer": "x"}, {}),
        pytest.param({"question": "what?"}, "a plain answer", {"expected_response": "y"}),
        pytest.param("plain text", ["a", 1, None], {"n": 5, "facts": ["a", "b"], "d": {"k": 1}}),
        pytest.param('{"json": "in a string"}', 17, {"score": 0.5}),
        pytest.param("17", True, {}),
        pytest.param({"q": 1}, 2.5, {}),
        pytest.param(None, None, {}),
        pytest.param({}, "", {"empty": ""}),
        pytest.param([{"role": "user", "content": "ü ☃"}], {"n": 2**60, "nested": {"a": []}}, {}),
    ],
)
def test_a_scorer_sees_what_evaluate_shows_it(
    inputs: Any, outputs: Any, expectations: dict[str, Any]
) -> None:
    trace = log_trace(inputs, outputs, expectations=expectations)

    ours = by_vedette(witness, trace)
    theirs = by_evaluate(witness, trace)

    assert ours == theirs
    assert ours[0]["error"] is None


def returning(source: str) -> Scorer:
    """A scorer with this body, as it is after a round through the registry."""
    dump = {**witness.model_dump(), "name": "returning", "original_func_name": "returning"}
    return Scorer.model_validate({**dump, "call_signature": "(outputs)", "call_source": source})


@pytest.mark.parametrize(
    "body",
    [
        "return 3",
        "return 0.25",
        "return False",
        "return 'yes'",
        "return None",
        "return Feedback(value=True, rationale='because')",
        "return Feedback(name='own_name', value={'a': 1.5})",
        "return Feedback(name='feedback', value=[1, 2])",
        "return [Feedback(name='a', value=1), Feedback(name='b', value='x', rationale='r')]",
        "return [Feedback(value=1)]",
        "return Feedback(error=ValueError('unsure'))",
        "return Feedback(value='human', source=AssessmentSource('HUMAN', 'ann'))",
        "raise ValueError('no good')",
        "return object()",
        "return {'a': 1}",
        "import numpy\nreturn numpy.float64(0.5)",
    ],
)
def test_what_a_scorer_returns_becomes_what_evaluate_logs(body: str) -> None:
    function = returning(body)
    trace = log_trace({"q": 1}, "answer")

    assert by_vedette(function, trace) == by_evaluate(function, trace)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("import numpy\nreturn numpy.int64(3)", 3),
        ("import numpy\nreturn numpy.bool_(True)", True),
        ("import numpy\nreturn Feedback(value=numpy.float32(0.5))", 0.5),
    ],
)
def test_numpy_scalars_that_evaluate_refuses_are_taken(body: str, value: Any) -> None:
    [ours] = by_vedette(returning(body), log_trace({}, "answer"))

    assert (ours["value"], ours["error"]) == (value, None)


@pytest.mark.parametrize("body", ["return float('nan')", "return Feedback(value=[float('inf')])"])
def test_what_json_cannot_hold_is_an_error_that_says_so(body: str) -> None:
    [ours] = by_vedette(returning(body), log_trace({}, "answer"))

    assert ours["error_code"] == "SCORER_ERROR"
    assert "'returning' returned" in ours["error"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(inputs=json_values, outputs=json_values)
def test_any_json_value_comes_through_as_evaluate_has_it(inputs: Any, outputs: Any) -> None:
    trace = _template(inputs, outputs)
    row = _convert_to_eval_set(pd.DataFrame({"trace": [trace]})).to_dict(orient="records")[0]
    item = EvalItem.from_dataset_row(row)

    given = scorer_arguments(trace)

    for ours, theirs in (
        (given["inputs"], item.inputs),
        (given["outputs"], item.outputs),
        (given["expectations"], item.expectations),
    ):
        assert type(ours) is type(theirs)
        assert json.dumps(ours) == json.dumps(theirs)


_TEMPLATES: list[dict[str, Any]] = []


def _template(inputs: Any, outputs: Any) -> Trace:
    if not _TEMPLATES:
        _TEMPLATES.append(log_trace({"q": 1}, "a").to_dict())
    copy = json.loads(json.dumps(_TEMPLATES[0]))
    attributes = copy["data"]["spans"][0]["attributes"]
    attributes["mlflow.spanInputs"] = json.dumps(inputs)
    attributes["mlflow.spanOutputs"] = json.dumps(outputs)
    return Trace.from_dict(copy)
