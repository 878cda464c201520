"""One call of a scorer on one trace or session, as ``mlflow.genai.evaluate`` makes it."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from mlflow.entities import AssessmentError, Feedback, Trace
from mlflow.genai.evaluation.utils import (
    add_scorer_metadata,
    make_code_type_assessment_source,
    standardize_scorer_value,
)
from mlflow.genai.scorers.base import Scorer, ScorerKind
from mlflow.tracing.constant import AssessmentMetadataKey

from vedette.intake.records import AssessmentRow
from vedette.scoring.hints import hint
from vedette.scoring.inputs import read_subject
from vedette.traces.assessments import assessment_row
from vedette.unicode import storable

_MESSAGE_LIMIT = 4_000  # characters of an error's message
_TRACE_LIMIT = 10_000  # characters of a stack trace, its end is kept: MLflow's own limit
_RESULT_LIMIT = 1024 * 1024  # bytes of what one call returns
_NOTE = "vedette.note"  # in a feedback's metadata: what its author should know


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one call: a row for each feedback, and what the scorer raised, if it did."""

    rows: list[AssessmentRow]
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where feedback goes."""

    trace_id: str = ""
    root_span_id: str | None = None
    span_ids: frozenset[str] = frozenset()
    metadata: tuple[tuple[str, str], ...] = ()


class ScorerCall:
    """A deserialised scorer, ready to be called.

    Args:
        serialized: MLflow's JSON of the scorer. Deserialising it may execute code.
        name: the name it is registered under.
        version: its registered version.
        isolated: it runs in the sandbox ``container``, which some errors come from.

    Raises:
        MlflowException: it can't be deserialised.
    """

    def __init__(self, serialized: str, name: str, version: int, *, isolated: bool = False) -> None:
        self._isolated = isolated
        self._scorer = Scorer.model_validate_json(serialized)
        self._scorer.name = self._name = name
        # The engine times every call and ends the process; MLflow's way would leave a thread behind
        self._scorer.timeout = 0
        if self._scorer.kind is ScorerKind.DECORATOR:
            _return_plain_scalars(type(self._scorer))
        self._run: Callable[..., Any] = self._scorer.run
        # The digest is the same for every feedback but dear: take it from one
        probe = Feedback(name=name, value=True)
        add_scorer_metadata(self._scorer, [probe])
        self._metadata = {
            **(probe.metadata or {}),
            AssessmentMetadataKey.SCORER_NAME: name,
            AssessmentMetadataKey.SCORER_VERSION: str(version),
        }

    def __call__(self, payload: bytes) -> list[AssessmentRow]:
        """The feedback on one unit, one row each. What the scorer raises becomes a row too."""
        return self.answer(payload).rows

    def answer(self, payload: bytes) -> Answer:
        """The feedback on one unit, and what the scorer raised.

        Args:
            payload: of `vedette.scoring.outcomes.Unit`.
        """
        place = _Place()
        try:
            subject = read_subject(payload)
            place = _place(subject.trace, subject.metadata)
            value = self._run(**subject.arguments)
            rows = [
                self._row(feedback, place)
                for feedback in standardize_scorer_value(self._name, value)
            ]
            size = sum(len(text) for row in rows for text in row.values() if isinstance(text, str))
            if size > _RESULT_LIMIT:
                raise ValueError(
                    f"scorer {self._name!r} returned {size:,} characters; "
                    f"the limit is {_RESULT_LIMIT:,}"
                )
        except BaseException as error:  # also SystemExit: nothing a scorer raises ends the worker
            return Answer([self._row(self._failure(error), place)], error)
        return Answer(rows)

    def _row(self, feedback: Feedback, place: _Place) -> AssessmentRow:
        feedback.metadata = {
            **{str(key): str(value) for key, value in (feedback.metadata or {}).items()},
            **dict(place.metadata),
            **self._metadata,
        }
        if feedback.span_id and feedback.span_id not in place.span_ids:
            feedback.metadata[_NOTE] = f"span {feedback.span_id!r} is not in this trace"
            feedback.span_id = None
        feedback.span_id = feedback.span_id or place.root_span_id
        try:
            row: Any = assessment_row(feedback, place.trace_id)
            return cast(
                AssessmentRow,
                {
                    key: storable(text) if isinstance(text, str) else text
                    for key, text in row.items()
                },
            )
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"scorer {self._name!r} returned a {type(feedback.value).__name__}, which can't be "
                f"stored: {error}"
            ) from error

    def _failure(self, error: BaseException) -> Feedback:
        message = _text(error)[:_MESSAGE_LIMIT]
        if advice := hint(error, isolated=self._isolated):
            message = f"{message}\n{advice}"
        return Feedback(
            name=self._name,
            source=make_code_type_assessment_source(self._name),
            error=AssessmentError(
                error_code="SCORER_ERROR",
                error_message=message,
                stack_trace="".join(traceback.format_exception(error))[-_TRACE_LIMIT:],
            ),
        )


def _place(trace: Trace, metadata: dict[str, str]) -> _Place:
    root = next((span for span in trace.data.spans if span.parent_id is None), None)
    return _Place(
        trace.info.trace_id,
        None if root is None else root.span_id,
        frozenset(span.span_id for span in trace.data.spans),
        tuple(metadata.items()),
    )


def _text(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # the scorer's own exception class: its __str__ may do anything
        return type(error).__name__


def _return_plain_scalars(scorer: type[Scorer]) -> None:
    """Let a function scorer return numpy's scalars, alone or in a Feedback.

    MLflow refuses most of them before their value can be seen, so they are converted inside the
    call. Its class belongs to this one scorer: MLflow makes one for each decorated function.
    """
    original = scorer.__call__

    @functools.wraps(original)
    def call(self: Scorer, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if isinstance(result, np.generic):
            return result.item()
        for feedback in result if isinstance(result, list) else [result]:
            if isinstance(feedback, Feedback) and isinstance(feedback.value, np.generic):
                feedback.value = feedback.value.item()
        return result

    scorer.__call__ = call  # type: ignore[method-assign]
