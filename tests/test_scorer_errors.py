"""What is refused when scorers are registered, started and updated, and how it is said."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import (
    Safety,
    ScorerSamplingConfig,
    delete_scorer,
    get_scorer,
    list_scorers,
    scorer,
)
from mlflow.genai.scorers.base import ScorerStatus
from mlflow.genai.scorers.registry import list_scorer_versions
from mlflow.tracking import MlflowClient

from running import RunningVedette


@scorer
def brief(outputs) -> bool:
    return len(str(outputs)) < 100


pytestmark = pytest.mark.usefixtures("experiment")


def sampling(rate: Any = None, filter_string: str | None = None) -> ScorerSamplingConfig:
    return ScorerSamplingConfig(sample_rate=rate, filter_string=filter_string)


def test_a_judge_that_would_have_keys_sent_elsewhere_is_refused() -> None:
    thief = make_judge(
        name="thief",
        instructions="Is {{ outputs }} nice?",
        model="groq:/x",
        inference_params={"temperature": 0.0, "api_base": "https://example.com"},
    )
    with pytest.raises(MlflowException, match="sets 'api_base' for its model") as caught:
        thief.register()
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert list_scorers() == []


@pytest.mark.parametrize("rate", [0, -0.1, "half", None])
def test_start_needs_a_number_above_0(rate: Any) -> None:
    with pytest.raises(MlflowException, match="sample rate must be"):
        brief.register().start(sampling_config=sampling(rate))
    assert get_scorer(name="brief").status is ScorerStatus.STOPPED


@pytest.mark.parametrize("rate", [1.01, 7, float("inf"), float("nan"), True])
def test_rates_outside_0_to_1_are_refused_and_change_nothing(rate: Any) -> None:
    started = brief.register().start(sampling_config=sampling(0.5))
    for call in (started.start, started.update):
        with pytest.raises(MlflowException, match="sample_rate must be") as caught:
            call(sampling_config=sampling(rate))
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert get_scorer(name="brief").sample_rate == 0.5


def test_update_refuses_rates_below_0() -> None:
    started = brief.register().start(sampling_config=sampling(0.5))
    with pytest.raises(MlflowException, match=r"between 0\.0 and 1\.0, got -0\.1"):
        started.update(sampling_config=sampling(-0.1))


@pytest.mark.parametrize(
    ("filter_string", "position"),
    [
        ("status", 1),
        ("tags.x > 'a'", 1),
        ("foo.bar = 'x'", 1),
        ("tags.a = 'b' OR tags.c = 'd'", 14),
        ("attributes.status = 'OK' AND foo.bar = 'x'", 30),
        ("tags.`a AND b` = 'x AND y' and attributes.status = OK", 32),
        ("attributes.status = 'OK' AND (tags.a = 'b')", 30),
        ("attributes.status BETWEEN 1 AND 2", 1),
    ],
)
def test_a_bad_filter_is_refused_when_it_is_set_with_the_position(
    filter_string: str, position: int
) -> None:
    started = brief.register().start(sampling_config=sampling(0.5))
    for call in (started.start, started.update):
        with pytest.raises(MlflowException, match=f"at character {position}, at") as caught:
            call(sampling_config=sampling(0.7, filter_string))
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert get_scorer(name="brief").sample_rate == 0.5


def test_a_truth_value_without_quotes_is_refused_with_what_to_write() -> None:
    started = brief.register().start(sampling_config=sampling(0.5))
    with pytest.raises(MlflowException, match=r"Write the value in quotes: 'false'\.$"):
        started.update(sampling_config=sampling(0.5, "feedback.user_feedback = false"))


@pytest.mark.parametrize(
    "filter_string",
    [
        "trace.status = 'OK'",
        "attributes.status = 'OK' AND attributes.timestamp_ms > 1700000000000",
        "tags.`my.key` LIKE 'a%' AND metadata.`mlflow.trace.session` IS NOT NULL",
        "span.name RLIKE '^tool' AND feedback.relevance = 'yes'",
        "attributes.status IN ('OK', 'ERROR') AND trace.status NOT IN ('IN_PROGRESS')",
    ],
)
def test_a_good_filter_is_kept_as_it_was_written(filter_string: str) -> None:
    brief.register().start(sampling_config=sampling(1.0, filter_string))
    assert get_scorer(name="brief").filter_string == filter_string


@pytest.mark.parametrize(
    "call",
    [
        lambda: get_scorer(name="breif"),
        lambda: get_scorer(name="breif", version=1),
        lambda: list_scorer_versions(name="breif"),
        lambda: delete_scorer(name="breif"),
        lambda: scorer(brief._original_func, name="breif").start(sampling_config=sampling(1.0)),
    ],
)
def test_an_unknown_name_is_answered_with_those_like_it(call: Callable[[], Any]) -> None:
    brief.register()
    with pytest.raises(MlflowException, match="Did you mean 'brief'") as caught:
        call()
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_an_unknown_name_like_no_other_is_answered_with_all() -> None:
    brief.register()
    with pytest.raises(MlflowException, match="Registered: brief"):
        get_scorer(name="zzz")


def test_a_deleted_scorer_is_unknown_to_its_handles() -> None:
    started = brief.register().start(sampling_config=sampling(0.5))
    delete_scorer(name="brief")
    for call in (started.stop, lambda: started.update(sampling_config=sampling(0.7))):
        with pytest.raises(MlflowException) as caught:
            call()
        assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_a_scorer_that_is_not_registered_is_told_how() -> None:
    with pytest.raises(MlflowException, match=r"not registered.*`brief = brief\.register\(\)`"):
        brief.start(sampling_config=sampling(1.0))


def test_the_twenty_first_active_scorer_is_refused_with_the_names_of_the_others() -> None:
    for number in range(20):
        brief.register(name=f"scorer_{number:02}").start(sampling_config=sampling(0.5))
    one_more = brief.register(name="one_more")  # registered may be any number
    with pytest.raises(
        MlflowException, match=r"20 are the most.*scorer_00, .*, scorer_19"
    ) as caught:
        one_more.start(sampling_config=sampling(0.5))
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert get_scorer(name="one_more").status is ScorerStatus.STOPPED

    get_scorer(name="scorer_07").update(sampling_config=sampling(0.9))  # is active already
    get_scorer(name="scorer_08").stop()
    assert one_more.start(sampling_config=sampling(0.5)).status is ScorerStatus.STARTED
    with pytest.raises(MlflowException, match="20 are the most"):
        get_scorer(name="scorer_08").start(sampling_config=sampling(0.5))
    delete_scorer(name="scorer_09")
    get_scorer(name="scorer_08").start(sampling_config=sampling(0.5))


def test_the_limit_holds_when_many_are_started_at_once(experiment: str) -> None:
    store = MlflowClient()._tracking_client.store
    names = [f"scorer_{number:02}" for number in range(30)]
    for name in names:
        brief.register(name=name)

    def refusal(name: str) -> str | None:
        try:
            store.upsert_online_scoring_config(experiment, name, 0.5)
        except MlflowException as error:
            return error.message
        return None

    with ThreadPoolExecutor(10) as pool:
        refusals = list(pool.map(refusal, names))

    assert refusals.count(None) == 20
    assert all("20 are the most" in message for message in refusals if message)
    assert [one.sample_rate > 0 for one in list_scorers()] == [one is None for one in refusals]


def test_versions_are_numbered_without_gaps_when_many_are_registered_at_once(
    experiment: str,
) -> None:
    store = MlflowClient()._tracking_client.store
    brief.register()
    text = store.get_scorer(experiment, "brief")._serialized_scorer

    def register(_: int) -> int:
        return store.register_scorer(experiment, "brief", text).scorer_version

    with ThreadPoolExecutor(10) as pool:
        assert sorted(pool.map(register, range(20))) == list(range(2, 22))


def test_the_limit_is_a_setting(fresh_vedette: Callable[..., RunningVedette]) -> None:
    mlflow.set_tracking_uri(fresh_vedette(max_active_scorers=1).url)
    mlflow.set_experiment("one scorer")
    Safety().register(name="safety").start(sampling_config=sampling(1.0))
    with pytest.raises(MlflowException, match=r"1 active scorers, and 1 are the most.*: safety\."):
        brief.register().start(sampling_config=sampling(1.0))
