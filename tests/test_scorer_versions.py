"""Registering again makes the next version; the live one scores, and each score says which."""

from __future__ import annotations

import time

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.genai.scorers import ScorerSamplingConfig, delete_scorer, get_scorer, scorer
from mlflow.genai.scorers.registry import list_scorer_versions

from running import RunningVedette

LOOKS_EVERY = 1.5  # seconds, in which the engine has seen which scorers there are


pytestmark = pytest.mark.usefixtures("experiment")


@scorer(name="which")
def first(outputs):
    return "first"


@scorer(name="which")
def second(outputs):
    return "second"


@mlflow.trace
def answer(question: str) -> str:
    return question


def score_of_a_new_trace(vedette: RunningVedette) -> tuple[str, str]:
    """(value, version) of the score that a trace gets which arrives now."""
    time.sleep(LOOKS_EVERY)
    answer("?")
    mlflow.flush_trace_async_logging()
    trace_id = mlflow.get_last_active_trace_id() or ""
    [score] = vedette.wait_until(lambda: mlflow.get_trace(trace_id).info.assessments)
    return score.value, score.metadata["mlflow.assessment.scorerVersion"]


def test_the_live_version_is_on_each_score(vedette: RunningVedette) -> None:
    started = first.register().start(sampling_config=ScorerSamplingConfig(sample_rate=1.0))
    assert started.scorer_version == 1
    assert score_of_a_new_trace(vedette) == ("first", "1")

    assert second.register().scorer_version == 2
    assert get_scorer(name="which").sample_rate == 1.0  # goes on without a start
    assert score_of_a_new_trace(vedette) == ("second", "2")
    sources = [handle.source.split()[-1] for handle, _ in list_scorer_versions(name="which")]
    assert sources == ['"first"', '"second"']
    assert get_scorer(name="which", version=1).scorer_version == 1

    delete_scorer(name="which", version=2)
    assert score_of_a_new_trace(vedette) == ("first", "1")


@pytest.mark.parametrize("asked", ["abc", "1", 1.0, True])
def test_a_version_is_a_whole_number(asked: object) -> None:
    first.register()
    for call in (get_scorer, delete_scorer):
        with pytest.raises(MlflowException, match=f"whole number such as 1, got {asked!r}"):
            call(name="which", version=asked)
    assert get_scorer(name="which").scorer_version >= 1
