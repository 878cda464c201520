"""What a scorer is given for a trace: exactly what ``mlflow.genai.evaluate`` gives it."""

from __future__ import annotations

from typing import Any

from mlflow.entities import Trace
from mlflow.genai.evaluation.entities import EvalItem


def scorer_arguments(trace: Trace) -> dict[str, Any]:
    """``inputs``, ``outputs``, ``expectations`` and ``trace``, as `mlflow.genai.evaluate([trace])`
    passes them.

    ``trace`` must have been read from its JSON, as evaluate does: that turns an expectation of 5
    into 5.0, for example. Evaluate goes through pandas, which may turn None into NaN when some
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
