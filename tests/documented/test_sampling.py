"""Guide "sampling": rates by cost, filters in the language of `mlflow.search_traces`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.genai import make_judge
from mlflow.genai.scorers import Guidelines, Safety, ScorerSamplingConfig, get_scorer, scorer


def test_critical_scorers_on_everything_and_expensive_ones_on_a_few() -> None:
    safety_judge = Safety().register(name="safety")
    safety_judge = safety_judge.start(sampling_config=ScorerSamplingConfig(sample_rate=1.0))

    complex_judge = make_judge(
        name="complex_analysis",
        instructions="Rate how well {{ outputs }} answers {{ inputs }}.",
        feedback_value_type=Literal["well", "partly", "not"],
        model="databricks:/databricks-gpt-oss-20b",
    ).register()
    complex_judge = complex_judge.start(sampling_config=ScorerSamplingConfig(sample_rate=0.05))
    assert (safety_judge.sample_rate, complex_judge.sample_rate) == (1.0, 0.05)


def test_a_judge_with_a_model_of_its_own() -> None:
    english_judge = Guidelines(
        name="english",
        guidelines=["The response must be in English"],
        model="databricks:/databricks-gpt-oss-20b",
    ).register(name="custom_is_english")
    english_judge = english_judge.start(sampling_config=ScorerSamplingConfig(sample_rate=0.7))
    assert get_scorer(name="custom_is_english").model == "databricks:/databricks-gpt-oss-20b"


def test_only_traces_that_completed_successfully() -> None:
    safety_judge = Safety().register(name="safety")
    safety_judge = safety_judge.start(
        sampling_config=ScorerSamplingConfig(
            sample_rate=1.0, filter_string="attributes.status = 'OK'"
        ),
    )
    one_day_ago = int((time.time() - 86400) * 1000)
    safety_judge = safety_judge.start(
        sampling_config=ScorerSamplingConfig(
            sample_rate=0.5,
            filter_string=f"attributes.status = 'OK' AND attributes.timestamp_ms > {one_day_ago}",
        ),
    )
    assert get_scorer(name="safety").filter_string == safety_judge.filter_string
    assert str(one_day_ago) in safety_judge.filter_string


def test_the_rate_or_the_filter_alone_is_changed() -> None:
    judge = Safety().register(name="safety")
    judge = judge.start(
        sampling_config=ScorerSamplingConfig(sample_rate=0.3, filter_string="tags.team = 'a'")
    )
    judge = judge.update(sampling_config=ScorerSamplingConfig(sample_rate=0.5))
    assert (judge.sample_rate, judge.filter_string) == (0.5, "tags.team = 'a'")
    judge = judge.update(sampling_config=ScorerSamplingConfig(filter_string="tags.team = 'b'"))
    assert (judge.sample_rate, judge.filter_string) == (0.5, "tags.team = 'b'")


def test_only_what_the_filter_lets_through_is_scored(
    answer: Callable[..., str], scores_of: Callable[..., dict[str, Any]]
) -> None:
    @scorer
    def always(outputs):
        return True

    successful = "attributes.status = 'OK' AND tags.team = '{}'"
    for name, team in (("ours", "support"), ("theirs", "sales")):
        started = always.register(name=name).start(
            sampling_config=ScorerSamplingConfig(1.0, successful.format(team))
        )
        assert started.sample_rate == 1.0
    time.sleep(1.5)  # the engine looks once a second
    answer()
    assert set(scores_of("ours")) == {"ours"}


def test_a_filter_with_a_mistake_is_told_at_once() -> None:
    judge = Safety().register(name="safety")
    with pytest.raises(MlflowException, match="at character 1"):
        judge.start(
            sampling_config=ScorerSamplingConfig(sample_rate=1.0, filter_string="state = OK")
        )
    assert mlflow.genai.get_scorer(name="safety").sample_rate == 0
