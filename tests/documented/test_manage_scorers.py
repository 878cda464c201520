"""Guide "manage production scorers": list, get and update, stop and delete."""

from __future__ import annotations

import pytest
from mlflow.exceptions import MlflowException
from mlflow.genai.scorers import (
    Guidelines,
    Safety,
    ScorerSamplingConfig,
    delete_scorer,
    get_scorer,
    list_scorers,
    scorer,
)


@scorer
def mentions_databricks(outputs):
    return "databricks" in str(outputs.get("response", "")).lower()


@pytest.fixture(autouse=True)
def three_scorers(experiment: str) -> None:
    safety_judge = Safety().register(name="safety_monitor")
    safety_judge = safety_judge.start(sampling_config=ScorerSamplingConfig(sample_rate=0.5))
    databricks_scorer = mentions_databricks.register(name="databricks_mentions")
    databricks_scorer = databricks_scorer.start(
        sampling_config=ScorerSamplingConfig(sample_rate=1.0, filter_string="tags.team = 'a'")
    )
    Guidelines(name="english", guidelines=["Be in English"]).register(name="is_english")


def test_listing(capsys: pytest.CaptureFixture[str]) -> None:
    scorers = list_scorers()
    for one in scorers:
        print(f"Name: {one.name}")
        print(f"Sample rate: {one.sample_rate}")
        print(f"Filter: {one.filter_string}")
    told = capsys.readouterr().out.splitlines()
    assert told[3:6] == ["Name: is_english", "Sample rate: 0.0", "Filter: None"]
    assert {line for line in told if line.startswith("Name")} == {
        "Name: safety_monitor",
        "Name: databricks_mentions",
        "Name: is_english",
    }


def test_which_are_active_is_told_by_the_sample_rate() -> None:
    active = []
    for one in list_scorers():
        if one.sample_rate > 0:  # also of one that was never started
            active.append(one.name)
    assert sorted(active) == ["databricks_mentions", "safety_monitor"]


def test_getting_and_updating() -> None:
    safety_judge = get_scorer(name="safety_monitor")
    updated_judge = safety_judge.update(sampling_config=ScorerSamplingConfig(sample_rate=0.8))
    print(f"Original sample rate: {safety_judge.sample_rate}")
    print(f"Updated sample rate: {updated_judge.sample_rate}")
    assert (safety_judge.sample_rate, updated_judge.sample_rate) == (0.5, 0.8)


def test_stopping_restarting_and_deleting() -> None:
    databricks_scorer = get_scorer(name="databricks_mentions")
    stopped_scorer = databricks_scorer.stop()
    print(f"Sample rate after stop: {stopped_scorer.sample_rate}")
    assert stopped_scorer.sample_rate == 0
    restarted_scorer = stopped_scorer.start(sampling_config=ScorerSamplingConfig(sample_rate=0.5))
    assert (restarted_scorer.sample_rate, restarted_scorer.filter_string) == (
        0.5,
        "tags.team = 'a'",
    )
    delete_scorer(name=databricks_scorer.name)
    with pytest.raises(MlflowException, match="Registered: is_english, safety_monitor"):
        get_scorer(name="databricks_mentions")
