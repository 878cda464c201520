"""What workers answer, checked: a worker runs anybody's code, so its word is only taken for rows
of the trace and the scorer at hand."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Set
from typing import Any

from mlflow.entities import AssessmentSource
from mlflow.exceptions import MlflowException

from vedette.intake.records import AssessmentRow
from vedette.traces.assessments import value_json
from vedette.unicode import storable

_MOST_ROWS = 100  # feedbacks of one call
_ERROR_KEYS = frozenset({"error_code", "error_message", "stack_trace"})
_MAY_LACK = frozenset({"error_message", "stack_trace"})
_LONGEST = {"name": 250, "source_type": 50, "source_id": 250, "span_id": 50}


class BadAnswer(ValueError):
    """What a worker sent is not the answer to what it was asked."""


def checked_rows(header: dict[str, Any]) -> list[AssessmentRow]:
    """The feedback rows in a worker's answer; their ids and trace are for the caller to set.

    Raises:
        BadAnswer: they are not rows that scorers may write.
    """
    rows = header.get("rows")
    if not isinstance(rows, list) or len(rows) > _MOST_ROWS:
        raise BadAnswer(f"not a list of at most {_MOST_ROWS} feedbacks")
    return [_checked_row(row) for row in rows]


def failed_row(name: str, code: str, message: str) -> AssessmentRow:
    """The feedback of a scorer that gave no answer.

    Args:
        name: the scorer's name.
        code: ``SCORER_TIMEOUT`` or the like.
        message: what happened, for people.
    """
    now = int(time.time() * 1000)
    error = {"error_code": code, "error_message": storable(message), "stack_trace": None}
    return AssessmentRow(
        assessment_id="",
        trace_id="",
        name=name,
        assessment_type="feedback",
        value="null",
        error=json.dumps(error),
        created_timestamp=now,
        last_updated_timestamp=now,
        source_type="CODE",
        source_id=name,
        run_id=None,
        span_id=None,
        rationale=None,
        overrides=None,
        valid=True,
        assessment_metadata=None,
        aggregate_value=None,
        is_numeric_value=False,
    )


def _checked_row(row: Any) -> AssessmentRow:
    if not isinstance(row, dict):
        raise BadAnswer("a feedback is not an object")
    aggregate = row.get("aggregate_value")
    if aggregate is not None and not (
        isinstance(aggregate, (int, float)) and math.isfinite(aggregate)
    ):
        raise BadAnswer("aggregate_value is not a number")
    return AssessmentRow(
        assessment_id="",
        trace_id="",
        name=_text(row, "name"),
        assessment_type="feedback",
        value=_value(row),
        error=_texts(row, "error", _ERROR_KEYS),
        created_timestamp=_time(row, "created_timestamp"),
        last_updated_timestamp=_time(row, "last_updated_timestamp"),
        source_type=_source_type(row),
        source_id=_optional_text(row, "source_id") or "default",
        run_id=None,
        span_id=_optional_text(row, "span_id"),
        rationale=_optional_text(row, "rationale"),
        overrides=None,
        valid=True,
        assessment_metadata=_texts(row, "assessment_metadata"),
        aggregate_value=aggregate,
        is_numeric_value=row.get("is_numeric_value") is True,
    )


def _text(row: dict[str, Any], key: str) -> str:
    value = _optional_text(row, key)
    if not value:
        raise BadAnswer(f"{key} is missing")
    return value


def _optional_text(row: dict[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadAnswer(f"{key} is not a text")
    return value[: _LONGEST.get(key)]


def _source_type(row: dict[str, Any]) -> str:
    value = _text(row, "source_type")
    try:
        return str(AssessmentSource(value).source_type)
    except MlflowException as error:
        raise BadAnswer("source_type is none of MLflow's") from error


def _value(row: dict[str, Any]) -> str:
    try:
        value_json(value := _json(row, "value"), "feedback")
    except ValueError as error:
        raise BadAnswer(f"value can't be stored: {error}") from error
    return _written(value)


def _texts(row: dict[str, Any], key: str, only: Set[str] | None = None) -> str | None:
    """An object of texts, with no other keys than these: what it is read into has no others."""
    value = _json(row, key)
    if value is None:
        return None
    if not isinstance(value, dict) or (only is not None and value.keys() != only):
        raise BadAnswer(f"{key} is not what it should be")
    for name, text in value.items():
        if not (isinstance(text, str) or (text is None and only and name in _MAY_LACK)):
            raise BadAnswer(f"{name} in {key} is not a text")
    return _written(value)


def _json(row: dict[str, Any], key: str) -> Any:
    value = _optional_text(row, key)
    if value is None:
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"{key} is not JSON") from error


def _written(value: Any) -> str:
    """JSON as anybody can read it: no half of a surrogate pair, which JSON may carry as an escape
    but no table, and no other JSON."""
    return storable(json.dumps(value, ensure_ascii=False))


def _time(row: dict[str, Any], key: str) -> int:
    value = row.get(key)
    if type(value) is not int or not 0 <= value < 2**53:
        raise BadAnswer(f"{key} is not a time in milliseconds")
    return value
