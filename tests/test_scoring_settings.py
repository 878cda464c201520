"""Strata and budgets of scorers over HTTP; and the scorers as Prometheus metrics."""

from __future__ import annotations

import re
import urllib.request
from functools import partial
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import ScorerSamplingConfig, delete_scorer, scorer

import vedette as public
from running import RunningVedette
from vedette.cli.terminal import ask
from vedette.scoring.active import BUDGET_TAG, STRATA_TAG, cap_of


@scorer
def brief(outputs) -> bool:
    return len(str(outputs)) < 100


def register_judge(name: str = "nice") -> None:
    made = make_judge(name=name, instructions="Is {{ outputs }} nice?", model="openai:/gpt-4.1")
    made.register(name=name)


def settings_of(experiment: str) -> set[str]:
    tags = mlflow.get_experiment(experiment).tags
    return {name for name in tags if name.startswith((STRATA_TAG, BUDGET_TAG))}


def test_a_budget_of_what_asks_no_model_is_refused(experiment: str) -> None:
    brief.register(name="brief")
    with pytest.raises(MlflowException, match="asks no model") as refused:
        public.set_scoring_budget(experiment, "brief", calls_per_minute=600)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    assert settings_of(experiment) == set()
    public.set_scoring_budget(experiment, "brief")  # none


@pytest.mark.parametrize("limit", [-1, True, "10", 10**400])
def test_a_limit_that_is_no_number_changes_nothing(experiment: str, limit: object) -> None:
    register_judge()
    with pytest.raises(MlflowException, match="calls_per_minute must be") as refused:
        public.set_scoring_budget(experiment, "nice", calls_per_minute=limit)  # type: ignore[arg-type]
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    assert settings_of(experiment) == set()


@pytest.mark.parametrize("limit", [float("inf"), float("nan")])
def test_a_limit_is_finite(limit: float) -> None:
    with pytest.raises(ValueError, match="dollars_per_day must be a finite number"):
        cap_of({"dollars_per_day": limit})


@pytest.mark.parametrize("limit", [float("inf"), float("nan")])
def test_a_limit_that_json_cannot_hold_is_refused(experiment: str, limit: float) -> None:
    register_judge()
    with pytest.raises(MlflowException, match="a budget of scorer 'nice' can't be sent") as refused:
        public.set_scoring_budget(experiment, "nice", dollars_per_day=limit)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    assert settings_of(experiment) == set()


@pytest.mark.parametrize("stratum", ["trace.status = 'ERROR'", ("trace.status = 'ERROR'",), 1.0])
def test_a_stratum_is_a_filter_and_a_rate(experiment: str, stratum: Any) -> None:
    register_judge()
    with pytest.raises(MlflowException, match=r"stratum 1 is .*, not \[a filter string, a rate"):
        public.set_sampling_strata(experiment, "nice", [stratum])
    assert settings_of(experiment) == set()


def test_settings_of_an_unknown_scorer_are_answered_with_names_like_it(experiment: str) -> None:
    register_judge("nice")
    for call in (public.set_scoring_budget, partial(public.set_sampling_strata, strata=[])):
        with pytest.raises(MlflowException, match="Did you mean 'nice'") as refused:
            call(experiment, "niec")
        assert refused.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_a_name_may_have_slashes(experiment: str) -> None:
    register_judge("tone/new")
    public.set_sampling_strata(experiment, "tone/new", [("attributes.status = 'ERROR'", 1.0)])
    public.set_scoring_budget(experiment, "tone/new", dollars_per_day=1)


def test_with_the_last_version_go_strata_and_budget(experiment: str) -> None:
    everything = {f"{tag}{name}" for tag in (STRATA_TAG, BUDGET_TAG) for name in ("nice", "kind")}
    for name in ("nice", "kind"):
        register_judge(name)
        register_judge(name)
        public.set_sampling_strata(experiment, name, [("trace.status = 'ERROR'", 1.0)])
        public.set_scoring_budget(experiment, name, dollars_per_day=1)

    delete_scorer(name="nice", version=1)
    assert settings_of(experiment) == everything
    delete_scorer(name="nice", version=2)
    assert settings_of(experiment) == {f"{tag}kind" for tag in (STRATA_TAG, BUDGET_TAG)}
    delete_scorer(name="kind", version="all")
    assert settings_of(experiment) == set()


def test_metrics_and_the_list_of_scorers_tell_the_same(
    vedette: RunningVedette, experiment: str
) -> None:
    brief.register(name="brief").start(sampling_config=ScorerSamplingConfig(sample_rate=1.0))

    @mlflow.trace
    def agent(question: str) -> str:
        return question

    for number in range(3):
        agent(str(number))
    mlflow.flush_trace_async_logging()

    def row() -> dict[str, object]:
        found = ask(vedette.url, f"/api/scorers?experiment_id={experiment}")["scorers"]
        return dict(found[0]) if found else {}

    vedette.wait_until(lambda: row().get("scored") == 3)
    told = row()
    labels = re.escape(f'{{experiment_id="{experiment}",scorer="brief"}}')
    with urllib.request.urlopen(f"{vedette.url}/metrics") as response:
        text = response.read().decode()
    found = {
        name: float(value)
        for name, value in re.findall(rf"^vedette_scorer_(\w+){labels} (\S+)$", text, re.M)
    }
    assert {name: found[f"{name}_total"] for name in ("units", "selected", "scored", "failed")} == {
        "units": 3,
        "selected": 3,
        "scored": 3,
        "failed": 0,
    }
    for name in ("rate", "waiting", "retrying", "calls_today", "cost_today_usd"):
        assert found[name] == told[name]
    assert {"over_budget_total", "in_flight", "lag_seconds", "paused"} <= found.keys()
    assert {"input_tokens_today", "output_tokens_today"} <= found.keys()
