"""Guide "scorer lifecycle": register, start, update, stop, delete; each returns a new instance."""

from __future__ import annotations

import pytest
from mlflow.exceptions import MlflowException
from mlflow.genai.scorers import (
    Safety,
    ScorerSamplingConfig,
    delete_scorer,
    get_scorer,
    list_scorers,
    scorer,
)
from mlflow.genai.scorers.base import ScorerStatus


def test_a_built_in_judge_through_all_states() -> None:
    safety_judge = Safety()
    assert safety_judge.status is ScorerStatus.UNREGISTERED
    safety_judge = safety_judge.register(name="safety_check")
    assert safety_judge.status is ScorerStatus.STOPPED
    safety_judge = safety_judge.start(
        sampling_config=ScorerSamplingConfig(sample_rate=1.0),
    )
    assert safety_judge.status is ScorerStatus.STARTED
    safety_judge = safety_judge.update(
        sampling_config=ScorerSamplingConfig(sample_rate=0.8),
    )
    assert safety_judge.sample_rate == 0.8
    safety_judge = safety_judge.stop()
    assert safety_judge.status is ScorerStatus.STOPPED
    delete_scorer(name="safety_check")
    assert list_scorers() == []


def test_a_function_through_all_states() -> None:
    @scorer
    def response_length(outputs):
        return len(str(outputs.get("response", "")))

    length_scorer = response_length.register(name="length_check")
    length_scorer = length_scorer.start(
        sampling_config=ScorerSamplingConfig(sample_rate=0.5, filter_string="trace.status = 'OK'"),
    )
    assert get_scorer(name="length_check").sample_rate == 0.5
    length_scorer = length_scorer.stop()
    print(f"Sample rate: {length_scorer.sample_rate}")
    assert length_scorer.sample_rate == 0
    assert length_scorer.filter_string == "trace.status = 'OK'"


def test_an_update_leaves_the_original_as_it_was() -> None:
    original_judge = Safety().register(name="safety")
    original_judge = original_judge.start(
        sampling_config=ScorerSamplingConfig(sample_rate=0.3),
    )
    updated_judge = original_judge.update(
        sampling_config=ScorerSamplingConfig(sample_rate=0.8),
    )
    print(f"Original: {original_judge.sample_rate}")
    print(f"Updated: {updated_judge.sample_rate}")
    assert (original_judge.sample_rate, updated_judge.sample_rate) == (0.3, 0.8)


def test_registered_and_started_without_keeping_what_is_returned() -> None:
    @scorer
    def not_empty(outputs):
        return bool(outputs)

    not_empty.register()
    not_empty.start(sampling_config=ScorerSamplingConfig(sample_rate=1))
    assert get_scorer(name="not_empty").status is ScorerStatus.STARTED


def test_registering_where_the_name_is_taken() -> None:
    for version in (1, 2):
        try:
            safety = Safety().register(name="safety_monitor")
        except MlflowException:
            pytest.fail("a taken name is the next version")
        safety = safety.start(sampling_config=ScorerSamplingConfig(sample_rate=1.0))
        assert safety.scorer_version == version
