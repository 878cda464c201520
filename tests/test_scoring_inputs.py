"""Live scoring hands a scorer exactly what ``mlflow.genai.evaluate`` hands it for a trace."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities import Feedback, Trace
from mlflow.genai.evaluation.entities import EvalItem
from mlflow.genai.evaluation.utils import _convert_to_eval_set
from mlflow.genai.scorers import Scorer, scorer

from evaluate_support import by_evaluate, by_vedette, log_trace, stock_mlflow  # noqa: F401
from vedette.scoring.inputs import scorer_arguments


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

    ours = by_vedette([witness], [trace])
    theirs = by_evaluate([witness], [trace])

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

    assert by_vedette([function], [trace]) == by_evaluate([function], [trace])


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("import numpy\nreturn numpy.int64(3)", 3),
        ("import numpy\nreturn numpy.bool_(True)", True),
        ("import numpy\nreturn Feedback(value=numpy.float32(0.5))", 0.5),
    ],
)
def test_numpy_scalars_that_evaluate_refuses_are_taken(body: str, value: Any) -> None:
    [ours] = by_vedette([returning(body)], [log_trace({}, "answer")])

    assert (ours["value"], ours["error"]) == (value, None)


@pytest.mark.parametrize(
    "body",
    [
        "return float('nan')",
        "return Feedback(value=[float('inf')])",
        "return 10**400",
        "return Feedback(value={'a': [10**400]})",
        "value = 1\nfor _ in range(200):\n    value = [value]\nreturn Feedback(value=value)",
    ],
)
def test_what_json_cannot_hold_is_an_error_that_says_so(body: str) -> None:
    [ours] = by_vedette([returning(body)], [log_trace({}, "answer")])

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
