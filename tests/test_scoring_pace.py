"""The pace of calls to one model follows its answers; and what a definition says of a scorer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import Guidelines, RegexMatch

from judge_support import MODEL, active, judge, unit
from scoring_support import code
from vedette.scoring.endpoints import Endpoint
from vedette.scoring.judge_environment import judge_environment
from vedette.scoring.judge_queue import JudgeQueue
from vedette.scoring.judges import asks_model, call_objection, has_code, models, refusal
from vedette.scoring.outcomes import Outcome


def test_slow_down_halves_the_calls_and_pauses_all() -> None:
    endpoint = Endpoint(32)
    endpoint.throttled(started=0.0, now=1.0, after_seconds=5.0)

    assert endpoint.limit == 16
    assert not endpoint.has_room(0, now=5.9)
    assert endpoint.has_room(15, now=6.0)
    assert not endpoint.has_room(16, now=6.0)


def test_a_burst_counts_once_and_pauses_grow_until_an_answer_comes() -> None:
    endpoint = Endpoint(32)
    for _ in range(31):
        endpoint.throttled(started=0.0, now=1.0, after_seconds=None)
    assert (endpoint.limit, endpoint.opens_at) == (16, 2.0)

    endpoint.throttled(started=2.0, now=3.0, after_seconds=None)
    assert (endpoint.limit, endpoint.opens_at) == (8, 5.0)
    for _ in range(8):
        endpoint.answered(started=5.0)
    endpoint.throttled(started=6.0, now=7.0, after_seconds=None)
    assert endpoint.opens_at == 8.0


def test_good_answers_bring_the_calls_back() -> None:
    endpoint = Endpoint(8)
    for number in range(10):
        endpoint.throttled(started=float(number), now=number + 0.5, after_seconds=0.0)
    assert endpoint.limit == 1
    for _ in range(100):
        endpoint.answered(started=20.0)
    assert endpoint.limit == 8


def test_what_is_cancelled_before_its_turn_is_not_asked() -> None:
    queue = JudgeQueue(4)
    scorer = code("return True")
    given_up, wanted = (queue.put(scorer, ["m"], [unit(n)]) for n in (1, 2))
    assert given_up.future.cancel()

    assert [job.batch for job in queue.due(0.0)] == [wanted]
    assert queue.state(0.0)["m"]["under_way"] == 1


@given(
    st.lists(
        st.tuples(st.booleans(), st.floats(0, 100), st.none() | st.floats(0, 1000)), max_size=100
    )
)
def test_whatever_is_answered_there_is_room_again(
    answers: list[tuple[bool, float, float | None]],
) -> None:
    endpoint, now = Endpoint(32), 0.0
    for good, seconds, after in answers:
        started, now = now, now + seconds
        if good:
            endpoint.answered(started)
        else:
            endpoint.throttled(started, now, after)
        assert 1 <= endpoint.limit <= 32
        assert endpoint.has_room(0, max(now, endpoint.opens_at))
        assert endpoint.opens_at <= now + 1000


def test_when_slow_models_have_all_the_room_each_other_one_has_its_share() -> None:
    queue, units = JudgeQueue(concurrency=4), [unit(number) for number in range(20)]
    for number in range(6):
        queue.put(judge(), [f"openai:/slow-{number}"], units)
    queue.due(0.0)
    taken = sorted(int(state["under_way"]) for state in queue.state(0.0).values())
    assert taken == [2, 2, 3, 3, 3, 3]  # of 16
    assert queue.due(1.0) == []

    queue.put(judge(), ["openai:/quick"], units)
    for second in range(2, 12):
        jobs = queue.due(float(second))
        assert [job.batch.models for job in jobs] == [["openai:/quick"]] * 2
        for job in jobs:
            queue.finish(job, Outcome(job.unit.unit_id, [], 0.0), second + 0.5)
    assert queue.state(12.0)["openai:/quick"]["waiting"] == 0


def test_more_models_than_calls_are_all_asked() -> None:
    queue = JudgeQueue(concurrency=1)
    for number in range(10):
        queue.put(judge(), [f"openai:/{number}"], [unit(1), unit(2)])

    assert len({job.batch.models[0] for job in queue.due(0.0)}) == 10


def ensemble(*definitions: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "all",
        "ensemble_scorer_data": {"ensemble_fn": "agg_all", "scorers": list(definitions)},
    }


JUDGE = active(make_judge(name="j", instructions="{{ outputs }}", model="openai:/a")).definition
DEFAULT = active(Guidelines(name="g", guidelines="x")).definition
PATTERN = active(RegexMatch(pattern="x")).definition
CODE = code("return 1", name="mine").definition


@pytest.mark.parametrize(
    ("definition", "asks", "coded", "asked"),
    [
        (JUDGE, True, False, ["openai:/a"]),
        (DEFAULT, True, False, [MODEL]),
        (PATTERN, False, False, []),
        (CODE, False, True, []),
        (ensemble(JUDGE, DEFAULT, JUDGE), True, False, ["openai:/a", MODEL]),
        (ensemble(CODE, PATTERN), False, True, []),
        (ensemble(ensemble(CODE), ensemble(JUDGE)), True, True, ["openai:/a"]),
        ({"memory_augmented_judge_data": {"base_judge": JUDGE}}, True, False, ["openai:/a"]),
    ],
)
def test_where_a_scorer_runs_is_read_from_its_definition(
    definition: dict[str, Any], asks: bool, coded: bool, asked: list[str]
) -> None:
    environment = {"MLFLOW_GENAI_JUDGE_DEFAULT_MODEL": MODEL}

    assert asks_model(definition) == asks
    assert has_code(definition) == coded
    assert models(definition, environment) == asked
    assert (refusal(definition) is not None) == (asks and coded)


def test_a_refusal_says_what_to_do() -> None:
    text = refusal(ensemble(CODE, JUDGE)) or ""
    assert "'mine'" in text
    assert "register" in text


GENERATION = {"temperature": 0.0, "max_tokens": 9, "reasoning_effort": "low", "stop": ["."]}


def third_party(**kwargs: Any) -> dict[str, Any]:
    data = {"module": "mlflow.genai.scorers.deepeval", "class": "Bias", "model": "openai:/a"}
    return {"name": "bias", "third_party_scorer_data": {**data, "kwargs": kwargs}}


@pytest.mark.parametrize(
    "definition",
    [
        judge(inference_params=GENERATION).definition,
        active(Guidelines(name="g", guidelines="x", inference_params=GENERATION)).definition,
        judge(model="bedrock:/arn:aws:bedrock:us-east-1:1:inference-profile/x").definition,
        judge(model="openai://gpt-4.1-mini").definition,
        third_party(threshold=0.5, model_kwargs={"temperature": 0.0}),
    ],
)
def test_a_judge_may_say_how_its_model_generates(definition: dict[str, Any]) -> None:
    assert call_objection(definition) is None
    assert call_objection(ensemble(definition)) is None


@pytest.mark.parametrize(
    ("definition", "named"),
    [
        *(
            (judge(inference_params={"temperature": 0, name: "x"}).definition, repr(name))
            for name in ("model", "api_base", "base_url", "api_key", "custom_llm_provider")
        ),
        (
            judge(inference_params={"extra_headers": {}, "extra_body": {}}).definition,
            "'extra_body'",
        ),
        (
            active(Guidelines(name="g", guidelines="x", inference_params={"url": "x"})).definition,
            "'url'",
        ),
        ({"inference_params": [["api_base", "https://evil"]]}, "inference_params: [['api_base'"),
        (third_party(model_kwargs={"api_base": "x"}), "'api_base'"),
        (third_party(completion_kwargs={"api_key": "x"}), "'api_key'"),
        (third_party(options={"deep": [{"base_url": "x"}]}), "'base_url'"),
        (judge(model="huggingface:/https://evil").definition, "'huggingface:/https://evil'"),
    ],
)
def test_a_judge_does_not_say_where_the_keys_are_sent(
    definition: dict[str, Any], named: str
) -> None:
    for whole in (
        definition,
        ensemble(JUDGE, definition),
        {"memory_augmented_judge_data": {"base_judge": definition}},
    ):
        assert named in (call_objection(whole) or "")
        assert "environment of Vedette's engine" in (refusal(whole) or "")


def test_judges_have_what_providers_need_and_nothing_else() -> None:
    given_ = {
        **dict.fromkeys(("OPENAI_API_KEY", "AWS_REGION", "AZURE_API_BASE", "CEREBRAS_X"), "k"),
        **dict.fromkeys(("FRIENDLIAI_API_KEY", "HOSTED_VLLM_API_BASE", "WX_API_KEY"), "k"),
        **dict.fromkeys(("STRIPE_API_KEY", "DD_API_KEY", "SHOP_BASE_URL"), "secret"),
        **dict.fromkeys(("GITHUB_TOKEN", "CLOUDFLARE_API_TOKEN", "SNOWFLAKE_PASSWORD"), "secret"),
        **dict.fromkeys(("MY_API_BASE", "MY_API_VERSION", "MY_OPENAI_API_KEY"), "secret"),
        **dict.fromkeys(("MLFLOW_GENAI_JUDGE_DEFAULT_MODEL", "HTTPS_PROXY", "HOME", "PATH"), "k"),
        **dict.fromkeys(("VEDETTE_BACKEND_STORE_URI", "VEDETTE_API_KEY", "PGPASSWORD"), "secret"),
        **dict.fromkeys(("MLFLOW_TRACKING_PASSWORD", "MLFLOW_BACKEND_STORE_URI"), "secret"),
        "MLFLOW_TRACKING_URI": "postgresql://me:secret@db/x",
    }

    found = judge_environment(given_, "http://127.0.0.1:5000", 300.0)

    assert [name for name, value in given_.items() if value == "k" and name not in found] == []
    assert "secret" not in str(found)
    assert found["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert "MLFLOW_TRACKING_URI" not in judge_environment(given_, None, 300.0)
