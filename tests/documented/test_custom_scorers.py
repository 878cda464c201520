"""Guide "custom scorer functions": what they take, return, import; what can't be registered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mlflow
import pytest
from mlflow.entities import AssessmentError, AssessmentSource, Feedback, Trace
from mlflow.exceptions import MlflowException
from mlflow.genai.scorers import Scorer, ScorerSamplingConfig, scorer

EVERYTHING = ScorerSamplingConfig(sample_rate=1.0)


def start(*scorers: Scorer) -> None:
    """Register and start them all, and let the engine see it: it looks once a second."""
    for one in scorers:
        started = one.register().start(sampling_config=EVERYTHING)
        assert started.sample_rate == 1.0
    time.sleep(1.5)


def test_simple_values(
    answer: Callable[..., str], scores_of: Callable[..., dict[str, Any]]
) -> None:
    @scorer
    def mentions_databricks(outputs):
        """A docstring is no part of what is stored."""
        return "databricks" in str(outputs.get("response", "")).lower()

    @scorer(aggregations=["mean", "min", "max"])
    def response_length(outputs: dict) -> int:
        return len(str(outputs.get("response", "")))

    @scorer
    def contains_citation(outputs: dict) -> str:
        return "yes" if "[source]" in outputs["response"] else "no"

    @scorer
    def response_relevance_score(inputs, outputs):
        query_words = set(str(inputs.get("query", "")).lower().split())
        response_words = set(str(outputs.get("response", "")).lower().split())

        if not query_words:
            return 0.0
        overlap = len(query_words & response_words)
        return overlap / len(query_words)

    @scorer
    def well_designed_scorer(inputs, outputs):
        # All imports inside the function
        import json
        import re

        response = outputs.get("response", "")
        if not response or not re.search(r"\w", json.dumps(response)):
            return 0.0
        return float(len(response) > 10)

    start(
        mentions_databricks,
        response_length,
        contains_citation,
        response_relevance_score,
        well_designed_scorer,
    )
    answer("delta tables")
    values = {
        "mentions_databricks": True,
        "response_length": len("About delta tables: ask Databricks. [source]"),
        "contains_citation": "yes",
        "response_relevance_score": 0.5,
        "well_designed_scorer": 1.0,
    }
    scores = scores_of(*values)
    assert {name: score.value for name, score in scores.items()} == values


def test_feedback(answer: Callable[..., str], scores_of: Callable[..., dict[str, Any]]) -> None:
    @scorer
    def content_quality(outputs):
        return Feedback(
            value=0.85,
            rationale="Clear and accurate, minor grammar issues",
            source=AssessmentSource(source_type="HUMAN", source_id="grammar_checker_v1"),
            metadata={"annotator": "me@example.com"},
        )

    @scorer
    def comprehensive_check(inputs, outputs):
        return [
            Feedback(name="relevance", value=True, rationale="Directly addresses query"),
            Feedback(name="tone", value="professional", rationale="Appropriate for audience"),
            Feedback(name="length", value=150, rationale="Word count within limits"),
        ]

    @scorer
    def tool_time_good(trace: Trace) -> Feedback:
        from mlflow.entities import SpanType

        tool_span = trace.search_spans(span_type=SpanType.TOOL)[0]
        seconds = (tool_span.end_time_ns - tool_span.start_time_ns) / 1e9
        if seconds <= 5.0:
            return Feedback(value="yes", rationale=f"{seconds:.2f}s is within the limit.")
        return Feedback(value="no", rationale=f"{seconds:.2f}s is too long.")

    start(content_quality, comprehensive_check, tool_time_good)
    answer()
    scores = scores_of("content_quality", "relevance", "tone", "length", "tool_time_good")
    assert scores["content_quality"].source.source_id == "grammar_checker_v1"
    assert scores["content_quality"].metadata["annotator"] == "me@example.com"
    assert (scores["relevance"].value, scores["tone"].value) == (True, "professional")
    assert scores["tool_time_good"].value == "yes"
    assert "within the limit" in scores["tool_time_good"].rationale


def test_errors(answer: Callable[..., str], scores_of: Callable[..., dict[str, Any]]) -> None:
    @scorer
    def is_valid_response(outputs):
        import json

        try:
            data = json.loads(outputs["response"])
            missing = [field for field in ("summary", "sources") if field not in data]
            if missing:
                return Feedback(
                    error=AssessmentError(
                        error_code="MISSING_REQUIRED_FIELDS",
                        error_message=f"Missing required fields: {missing}",
                    )
                )
            return Feedback(value=True)
        except json.JSONDecodeError as e:
            return Feedback(error=e)

    @scorer
    def lets_errors_through(outputs):
        return outputs["no such key"]

    start(is_valid_response, lets_errors_through)
    answer()
    scores = scores_of("is_valid_response", "lets_errors_through")
    assert scores["is_valid_response"].error.error_code == "JSONDecodeError"
    assert scores["lets_errors_through"].value is None
    assert "no such key" in scores["lets_errors_through"].error.error_message


def test_a_trace_annotated_as_mlflow_has_it() -> None:
    @scorer
    def from_trace(trace: mlflow.entities.Trace) -> Feedback:
        return Feedback(value="yes", rationale=trace.info.trace_id)

    assert from_trace.register().scorer_version == 1


def test_what_is_not_self_contained_is_refused() -> None:
    import random as external_library

    @scorer
    def bad_scorer(outputs):
        return external_library.process(outputs)

    with pytest.raises(MlflowException, match="uses external_library"):
        bad_scorer.register()

    @scorer
    def good_scorer(outputs):
        import json

        return len(json.dumps(outputs))

    assert good_scorer.register().scorer_version == 1


def test_classes_are_refused() -> None:
    class MyScorer(Scorer):
        name: str = "my_scorer"

        def __call__(self, outputs):
            return len(outputs) > 10

    with pytest.raises(MlflowException, match="must be a builtin or decorator scorer"):
        MyScorer().register()
