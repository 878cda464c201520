"""Guide "multi-turn judges": registered and started like any other, beside single-turn ones."""

from __future__ import annotations

from typing import Literal

import pytest
from mlflow.exceptions import MlflowException
from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import (
    ConversationCompleteness,
    Guidelines,
    Safety,
    ScorerSamplingConfig,
    UserFrustration,
    list_scorers,
    scorer,
)


def test_built_in_multi_turn_judges() -> None:
    completeness_scorer = ConversationCompleteness().register(name="conversation_completeness")
    completeness_scorer = completeness_scorer.start(
        sampling_config=ScorerSamplingConfig(sample_rate=1.0),
    )
    frustration_scorer = UserFrustration().register(name="user_frustration")
    frustration_scorer = frustration_scorer.start(
        sampling_config=ScorerSamplingConfig(sample_rate=1.0),
    )
    for one in (completeness_scorer, frustration_scorer):
        assert (one.sample_rate, one.is_session_level_scorer) == (1.0, True)


def test_single_turn_and_multi_turn_together() -> None:
    safety_judge = Safety().register(name="safety")
    safety_judge = safety_judge.start(sampling_config=ScorerSamplingConfig(sample_rate=1.0))
    english_judge = Guidelines(
        name="english", guidelines=["The response must be in English"]
    ).register(name="is_english")
    english_judge = english_judge.start(sampling_config=ScorerSamplingConfig(sample_rate=0.5))
    frustration_judge = UserFrustration().register(name="frustration")
    frustration_judge = frustration_judge.start(
        sampling_config=ScorerSamplingConfig(sample_rate=0.3)
    )
    found = {one.name: (one.sample_rate, one.is_session_level_scorer) for one in list_scorers()}
    assert found == {
        "safety": (1.0, False),
        "is_english": (0.5, False),
        "frustration": (0.3, True),
    }


def test_a_judge_of_conversations_of_ones_own() -> None:
    politeness_judge = make_judge(
        name="politeness",
        instructions=(
            "Was the assistant polite throughout?\n\n{{ conversation }}\n\n"
            "Answer 'consistently_polite', 'mostly_polite' or 'impolite'."
        ),
        feedback_value_type=Literal["consistently_polite", "mostly_polite", "impolite"],
    )
    politeness_judge = politeness_judge.register()
    politeness_judge = politeness_judge.start(sampling_config=ScorerSamplingConfig(sample_rate=0.2))
    assert politeness_judge.is_session_level_scorer


def test_conversation_goes_with_no_single_turn_variable() -> None:
    with pytest.raises(MlflowException, match="conversation"):
        make_judge(name="both", instructions="{{ conversation }} and {{ outputs }}")


def test_a_function_of_sessions() -> None:
    @scorer
    def turns(session):
        return len(session)

    turns_scorer = turns.register()
    turns_scorer = turns_scorer.start(sampling_config=ScorerSamplingConfig(sample_rate=1.0))
    assert turns_scorer.is_session_level_scorer
