"""Handles are new at every call; one whose successor was dropped tells what the server says."""

from __future__ import annotations

import copy
import sys
import types
import uuid
import warnings

import mlflow
import pytest
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

from vedette.client import sampling as handles

OK = "attributes.status = 'OK'"


@scorer
def brief(outputs) -> bool:
    return len(str(outputs)) < 100


pytestmark = pytest.mark.usefixtures("experiment")


@pytest.fixture(autouse=True)
def _nobody_has_been_warned() -> None:
    handles._warned.clear()


def sampling(rate: float | None = None, filter_string: str | None = None) -> ScorerSamplingConfig:
    return ScorerSamplingConfig(sample_rate=rate, filter_string=filter_string)


@pytest.mark.parametrize("made", [brief, Safety(name="safe")], ids=["function", "judge"])
def test_a_handle_whose_start_was_dropped_tells_the_servers_truth(made) -> None:
    handle = made.register()
    handle.start(sampling_config=sampling(0.5, OK))
    with pytest.warns(UserWarning, match=r"Write `\w+ = \w+\.start\(\.\.\.\)`"):
        assert handle.status is ScorerStatus.STARTED
    assert (handle.sample_rate, handle.filter_string) == (0.5, OK)

    get_scorer(name=handle.name).update(sampling_config=sampling(0.7))  # as somebody else would
    assert (handle.sample_rate, handle.filter_string) == (0.7, OK)

    handle.stop()
    assert handle.status is ScorerStatus.STOPPED
    delete_scorer(name=handle.name)
    assert handle.sample_rate == 0.0


def test_it_is_said_once_per_process() -> None:
    one, other = brief.register(name="one"), brief.register(name="other")
    for handle in (one, other):
        handle.start(sampling_config=sampling(0.5))
    with pytest.warns(UserWarning, match="out of date") as said:
        assert [handle.sample_rate for handle in (one, other, one)] == [0.5, 0.5, 0.5]
    assert len(said) == 1
    assert said[0].filename == __file__  # the line that asked


def test_a_handle_whose_successor_is_kept_stays_as_it_was() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registered = brief.register()
        started = registered.start(sampling_config=sampling(0.5))
        faster = started.update(sampling_config=sampling(0.8))
        stopped = faster.stop()
        rates = [one.sample_rate for one in (registered, started, faster, stopped)]
        assert rates == [0.0, 0.5, 0.8, 0.0]
        assert started.status is ScorerStatus.STARTED


def test_the_history_of_a_notebook_keeps_no_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace: dict[str, object] = {}
    notebook = types.ModuleType("IPython")
    notebook.get_ipython = lambda: types.SimpleNamespace(user_ns=namespace)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", notebook)

    handle = brief.register()
    namespace["_1"] = namespace["_"] = handle.start(sampling_config=sampling(0.5))
    with pytest.warns(UserWarning, match="out of date"):
        assert handle.sample_rate == 0.5
    namespace["started"] = namespace["_"]
    assert handle.sample_rate == 0.0


def test_dropping_what_register_returned_is_forgiven() -> None:
    @scorer
    def short(outputs):
        return len(str(outputs)) < 100

    short.register()
    short.start(sampling_config=sampling(0.5))
    assert get_scorer(name="short").sample_rate == 0.5
    with pytest.warns(UserWarning, match="out of date"):
        assert short.status is ScorerStatus.STARTED

    elsewhere = mlflow.set_experiment(uuid.uuid4().hex).experiment_id
    again = short.register()  # in the experiment that is active now
    assert (again._experiment_id, again.sample_rate) == (elsewhere, 0.0)
    short.start(sampling_config=sampling(0.9))
    assert get_scorer(name="short").sample_rate == 0.9


def test_registering_again_is_the_next_version_and_stays_started() -> None:
    started = brief.register().start(sampling_config=sampling(0.5, OK))
    again = brief.register()
    assert (started.scorer_version, again.scorer_version) == (1, 2)
    assert (again.status, again.sample_rate, again.filter_string) == (ScorerStatus.STARTED, 0.5, OK)
    assert get_scorer(name="brief").scorer_version == 2
    old, new = (handle for handle, _ in list_scorer_versions(name="brief"))
    assert [one.sample_rate for one in (old, new)] == [0.5, 0.5]


def test_handles_can_be_copied_and_listed_with_their_rates() -> None:
    handle = brief.register()
    handle.start(sampling_config=sampling(0.5))
    Safety().register(name="safe")
    with pytest.warns(UserWarning, match="out of date"):
        assert copy.deepcopy(handle).sample_rate == 0.5
    assert [one.name for one in list_scorers() if one.sample_rate > 0] == ["brief"]
