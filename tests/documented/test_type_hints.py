"""Guide "serialization issues": no hint in the signature may need an import.

Without ``from __future__ import annotations``, as in a notebook.
"""

from typing import Any, List, Optional  # noqa: UP035

import pytest
from mlflow.entities import Feedback, Trace
from mlflow.exceptions import MlflowException
from mlflow.genai.scorers import scorer


@scorer
def scorer_with_bad_types(outputs: List[str]):  # noqa: UP006
    return False


@scorer
def all_that_there_is(
    *,
    inputs: Optional[dict[str, Any]],  # noqa: UP045
    outputs: Any,
    trace: Trace,
) -> Feedback:
    return Feedback(value=True)


@scorer
def built_in_types(
    inputs: dict[str, list[str | None]], outputs: str | None, trace: Trace
) -> list[Feedback]:
    return [Feedback(name="length", value=len(str(outputs)))]


def test_hints_that_need_an_import_are_refused_with_the_line() -> None:
    with pytest.raises(MlflowException, match=r"line 15: its signature needs List"):
        scorer_with_bad_types.register()
    with pytest.raises(MlflowException) as caught:
        all_that_there_is.register()
    for line, name in ((22, "Optional"), (22, "Any")):
        assert f"line {line}: its signature needs {name}" in caught.value.message


def test_hints_of_built_in_types_traces_and_feedback_are_fine() -> None:
    assert built_in_types.register().scorer_version == 1
