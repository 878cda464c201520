"""Every kind of scorer goes through its whole life with MLflow's own functions, over HTTP.

No model is called: registering and starting a judge needs none.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any, Literal

import mlflow
import mlflow.genai.scorers
import pytest
from mlflow.exceptions import MlflowException
from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import (
    ConversationalGuidelines,
    Guidelines,
    KnowledgeRetention,
    PIIDetection,
    RegexMatch,
    RelevanceToQuery,
    ResponseLength,
    Safety,
    Scorer,
    ScorerSamplingConfig,
    delete_scorer,
    get_scorer,
    list_scorers,
    make_scorer_ensemble,
    scorer,
)
from mlflow.genai.scorers.base import ScorerStatus
from mlflow.genai.scorers.registry import list_scorer_versions
from mlflow.tracking import MlflowClient

MODEL = "openai:/gpt-4o-mini"
BUILT_IN = (
    "Completeness",
    "ConversationCompleteness",
    "ConversationalRoleAdherence",
    "ConversationalSafety",
    "ConversationalToolCallEfficiency",
    "Correctness",
    "Equivalence",
    "ExpectationsGuidelines",
    "Fluency",
    "KnowledgeRetention",
    "RelevanceToQuery",
    "RetrievalGroundedness",
    "RetrievalRelevance",
    "RetrievalSufficiency",
    "Safety",
    "Summarization",
    "ToolCallCorrectness",
    "ToolCallEfficiency",
    "UserFrustration",
)


@scorer
def brief(outputs) -> bool:
    return len(str(outputs)) < 100


@scorer
def polite(session) -> bool:
    return len(session) > 0


pytestmark = pytest.mark.usefixtures("experiment")


def sampling(rate: float | None = None, filter_string: str | None = None) -> ScorerSamplingConfig:
    return ScorerSamplingConfig(sample_rate=rate, filter_string=filter_string)


def live_through(made: Scorer) -> Scorer:
    """register, start, update, get, list, stop, a second version, delete; the loaded handle."""
    registered = made.register(name="under_test")
    assert registered is not made
    assert (registered.status, registered.sample_rate) == (ScorerStatus.STOPPED, 0.0)

    started = registered.start(sampling_config=sampling(0.5, "attributes.status = 'OK'"))
    assert started is not registered
    assert (started.name, started.status) == ("under_test", ScorerStatus.STARTED)

    faster = started.update(sampling_config=sampling(0.8))
    assert (faster.sample_rate, faster.filter_string) == (0.8, "attributes.status = 'OK'")
    narrower = faster.update(sampling_config=sampling(filter_string="tags.team = 'a'"))
    assert (narrower.sample_rate, narrower.filter_string) == (0.8, "tags.team = 'a'")
    assert started.sample_rate == 0.5

    loaded = get_scorer(name="under_test")
    (listed,) = list_scorers()
    for handle in (loaded, listed):
        assert (handle.sample_rate, handle.filter_string) == (0.8, "tags.team = 'a'")
        assert handle.is_session_level_scorer == made.is_session_level_scorer

    stopped = loaded.stop()
    assert (stopped.status, stopped.sample_rate) == (ScorerStatus.STOPPED, 0.0)
    assert stopped.filter_string == "tags.team = 'a'"

    made.register(name="under_test")
    loaded.register(name="under_test")
    assert [number for _, number in list_scorer_versions(name="under_test")] == [1, 2, 3]
    delete_scorer(name="under_test")
    assert list_scorers() == []
    return loaded


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_judges(name: str) -> None:
    made = getattr(mlflow.genai.scorers, name)(model=MODEL)
    loaded = live_through(made)
    assert type(loaded) is type(made)
    assert loaded.model == MODEL


def test_no_built_in_judge_is_missing_above() -> None:
    below = {
        "ConversationalGuidelines",
        "Guidelines",
        "PIIDetection",
        "RegexMatch",
        "ResponseLength",
    }
    lazy = mlflow.genai.scorers._LAZY_IMPORTS - {"get_all_scorers"}
    assert lazy == set(BUILT_IN) | below


@pytest.mark.parametrize(
    "made",
    [
        Guidelines(name="polite", guidelines=["Be polite.", "Be brief."], model=MODEL),
        ConversationalGuidelines(name="polite", guidelines="Be polite."),
        PIIDetection(pii_types=["email"]),
        RegexMatch(pattern="[0-9]+"),
        ResponseLength(max_length=100),
    ],
    ids=lambda made: type(made).__name__,
)
def test_built_in_scorers_with_settings_of_their_own(made: Scorer) -> None:
    loaded = live_through(made)
    ours = made.model_dump()["builtin_scorer_pydantic_data"]
    theirs = loaded.model_dump()["builtin_scorer_pydantic_data"]
    assert {**theirs, "name": None} == {**ours, "name": None}


@pytest.mark.parametrize(
    ("instructions", "value_type"),
    [
        ("Is {{ outputs }} an answer to {{ inputs }}?", bool),
        ("How formal is {{ outputs }}?", Literal["formal", "not_formal"]),
        ("Did every step of {{ trace }} succeed?", bool),
        ("Was the assistant polite in {{ conversation }}?", Literal["yes", "no"]),
    ],
)
def test_judges_of_make_judge(instructions: str, value_type: Any) -> None:
    made = make_judge(
        name="judge", instructions=instructions, feedback_value_type=value_type, model=MODEL
    )
    loaded = live_through(made)
    assert loaded.instructions == instructions
    assert loaded.feedback_value_type == value_type
    assert loaded.is_session_level_scorer == ("conversation" in instructions)


@pytest.mark.parametrize("made", [brief, polite], ids=["trace", "session"])
def test_functions(made: Scorer) -> None:
    assert "return len(" in live_through(made).source


@pytest.mark.parametrize(
    ("parts", "function"),
    [
        ([Safety(), RelevanceToQuery()], "majority_vote"),
        ([Safety(), brief], "agg_all"),
        ([KnowledgeRetention()], "majority_vote"),
    ],
    ids=["judges", "with a function", "of sessions"],
)
def test_ensembles(parts: list[Scorer], function: str) -> None:
    live_through(make_scorer_ensemble(name="together", scorers=parts, ensemble_fn=function))


def test_an_ensemble_with_a_function_of_its_own_says_which_there_are() -> None:
    made = make_scorer_ensemble(name="largest", scorers=[Safety(), brief], ensemble_fn=max)
    with pytest.raises(MlflowException, match=r"built-in ensemble functions.*majority_vote"):
        made.register()


@pytest.fixture
def phoenix(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Scorer]:
    """A library of evaluators, installed here: as much of it as MLflow's wrapper touches."""
    library = types.ModuleType("phoenix.evals")
    library.HallucinationEvaluator = lambda model: model  # type: ignore[attr-defined]
    library.LiteLLMModel = lambda **_: None  # type: ignore[attr-defined]
    package = types.ModuleType("phoenix")
    package.evals = library  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "phoenix", package)
    monkeypatch.setitem(sys.modules, "phoenix.evals", library)

    def make() -> Scorer:
        from mlflow.genai.scorers.phoenix import Hallucination

        return Hallucination(model=MODEL)

    return make


def test_third_party_scorers(phoenix: Callable[[], Scorer]) -> None:
    made = phoenix()
    assert type(live_through(made)) is type(made)


def test_a_third_party_scorer_is_steered_where_its_library_is_not_installed(
    phoenix: Callable[[], Scorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    phoenix().register(name="from_elsewhere")
    Safety().register(name="safe")
    monkeypatch.delitem(sys.modules, "phoenix.evals")
    monkeypatch.delitem(sys.modules, "phoenix")

    assert [one.name for one in list_scorers()] == ["from_elsewhere", "safe"]
    handle = get_scorer(name="from_elsewhere").start(sampling_config=sampling(0.5))
    assert handle.status is ScorerStatus.STARTED
    with pytest.raises(MlflowException, match=r"but not run.*arize-phoenix-evals"):
        handle(outputs="x")
    assert handle.stop().status is ScorerStatus.STOPPED


def test_what_is_no_scorer_is_refused_by_the_server(experiment: str) -> None:
    store = MlflowClient()._tracking_client.store
    for text in ("{}", "no JSON", '{"name": "x"}', '{"name": "x", "call_source": ""}'):
        with pytest.raises(MlflowException) as caught:
            store.register_scorer(experiment, "x", text)
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_class_based_scorers_are_refused() -> None:
    class Custom(Scorer):
        name: str = "custom"

        def __call__(self, *, outputs):
            return True

    with pytest.raises(MlflowException, match="must be a builtin or decorator scorer"):
        Custom().register()
