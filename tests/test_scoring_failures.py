"""Each way in which a provider can fail, through MLflow's own adapters, and what it comes to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from bench.fake_llm import FakeLLM, Reply, Request, completion, error, verdict
from mlflow.genai.scorers import (
    Guidelines,
    RelevanceToQuery,
    RetrievalGroundedness,
    Safety,
    Scorer,
    ToolCallCorrectness,
)

from judge_support import MODEL, active, judge, unit
from vedette.scoring import provider_calls
from vedette.scoring.active import ActiveScorer
from vedette.scoring.failures import Permanent, classify
from vedette.scoring.judge_pool import JudgePool
from vedette.scoring.outcomes import Hold, Outcome, Retry
from vedette.scoring.provider_calls import ProviderFailed, retry_after, watching
from vedette.scoring.token_usage import token_usage, told_cost, why_finished


@pytest.fixture(scope="module")
def server() -> Iterator[FakeLLM]:
    server = FakeLLM()
    yield server
    server.close()


@pytest.fixture(scope="module")
def pool(server: FakeLLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JudgePool]:
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.endswith("_API_KEY") or name.startswith(("AWS_", "AZURE_")):
                patch.delenv(name)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        pool = JudgePool(tmp_path_factory.mktemp("judges"), timeout=30.0)
        pool.submit(judge(), [unit(0)]).result(120)
        yield pool
    pool.close()


@dataclass(frozen=True)
class Case:
    """A failure, and what it comes to."""

    name: str
    reply: Reply
    kind: str  # retry, hold or error
    code: str
    says: str = ""


def refused(status: int, message: str = "no", code: str | None = None) -> Reply:
    return Reply(status, error(message, code))


def said(content: str | None, finish: str = "stop") -> Reply:
    return Reply(body=completion(content, finish))


REFUSAL = completion(None)
REFUSAL["choices"][0]["message"]["refusal"] = "I can't help with that."

CASES = [
    Case("slow_down", refused(429, "slow down"), "retry", "RATE_LIMITED", "slow down"),
    Case("overloaded", refused(529, "Overloaded"), "retry", "UNAVAILABLE", "529"),
    *[
        Case(f"status_{status}", refused(status), "retry", "UNAVAILABLE", str(status))
        for status in (500, 502, 503, 504)
    ],
    Case("html_from_a_proxy", Reply(502, "<html>Bad gateway</html>"), "retry", "UNAVAILABLE"),
    Case("status_408", refused(408), "retry", "TIMEOUT"),
    Case("reset", Reply(breaks="reset"), "retry", "CONNECTION"),
    Case("cut", Reply(breaks="cut"), "retry", "CONNECTION"),
    Case("no_credit", refused(429, "quota", "insufficient_quota"), "hold", "NO_CREDIT", "credit"),
    Case("payment", refused(402), "hold", "NO_CREDIT"),
    Case("wrong_key", refused(401, "Incorrect API key"), "hold", "NOT_AUTHORIZED", "API_KEY"),
    Case("forbidden", refused(403, "not in your country"), "hold", "NOT_AUTHORIZED", "country"),
    Case("no_model", refused(404, "The model `x` does not exist"), "hold", "UNKNOWN_MODEL"),
    Case("no_model_400", refused(400, "x is not a valid model ID"), "hold", "UNKNOWN_MODEL"),
    Case(
        "filtered",
        refused(400, "The response was filtered by Azure's content management policy"),
        *("error", "CONTENT_FILTERED", "filtered"),
    ),
    Case(
        "too_long",
        refused(400, "This model's maximum context length is 8192 tokens"),
        *("error", "CONTEXT_TOO_LONG", "too long"),
    ),
    Case("too_large", refused(413), "error", "CONTEXT_TOO_LONG"),
    Case("bad_request", refused(422, "temperature"), "error", "PROVIDER_REFUSED", "temperature"),
    Case("prose", said("I'd say it is quite nice."), "error", "BAD_ANSWER"),
    Case("other_json", said('{"opinion": "nice"}'), "error", "BAD_ANSWER"),
    Case("a_list", said("[1, 2]"), "error", "BAD_ANSWER"),
    Case("nothing", said(None), "error", "BAD_ANSWER"),
    Case("half", said('{"result": "y', "length"), "error", "BAD_ANSWER", "ran out of tokens"),
    Case("cut_off_by_filter", said("", "content_filter"), "error", "CONTENT_FILTERED"),
    Case("refusal", Reply(body=REFUSAL), "error", "REFUSED", "refused"),
    Case("html", Reply(body="<html>Welcome to the hotel's wifi</html>"), "error", "BAD_ANSWER"),
    Case("no_choices", Reply(body={"choices": []}), "error", "BAD_ANSWER"),
    Case("null", Reply(body="null"), "error", "BAD_ANSWER"),
]


def require(outcome: Outcome, case: Case) -> None:
    if case.kind == "error":
        assert (outcome.retry, outcome.hold) == (None, None)
        [row] = outcome.rows
        told = json.loads(row["error"] or "{}")
        code, message = told["error_code"], told["error_message"]
    else:
        assert outcome.rows == []
        failure = outcome.retry if case.kind == "retry" else outcome.hold
        assert failure is not None, outcome
        code, message = failure.code, failure.message
    assert (code, message) == (case.code, message)
    assert case.says in message
    assert MODEL.split(":", maxsplit=1)[0] in message  # it names the model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_failure_is_what_it_is_and_is_not_repeated(
    pool: JudgePool, server: FakeLLM, case: Case
) -> None:
    server.reset(case.reply)

    # A model of its own: "slow down" is for all who ask the same
    [outcome] = pool.submit(judge(model=f"openai:/{case.name}"), [unit(1)]).result(60)

    require(outcome, case)
    assert len(server.requests) == 1
    assert outcome.usage is not None
    assert outcome.usage.calls == 1


BUILT_IN: dict[str, Callable[[str], Scorer]] = {
    "guidelines": lambda model: Guidelines(guidelines=["be polite"], model=model),
    "safety": lambda model: Safety(model=model),
    "relevance": lambda model: RelevanceToQuery(model=model),
}


@pytest.mark.parametrize("kind", [*BUILT_IN, "trace"])
@pytest.mark.parametrize("name", ["slow_down", "status_503", "reset", "wrong_key", "prose"])
def test_it_is_the_same_for_every_kind_of_judge(
    pool: JudgePool, server: FakeLLM, kind: str, name: str
) -> None:
    case = next(case for case in CASES if case.name == name)
    model = f"openai:/{kind}-{name}"
    server.reset(case.reply)
    if kind == "trace":
        scorer = judge(instructions="Look at {{ trace }}", model=model)
    else:
        scorer = active(BUILT_IN[kind](model))

    [outcome] = pool.submit(scorer, [unit(1)]).result(60)

    require(outcome, replace(case, says=""))


def test_what_a_judge_lacks_on_a_trace_is_not_the_providers_fault(
    pool: JudgePool, server: FakeLLM
) -> None:
    server.reset()
    scorer = active(RetrievalGroundedness(model=MODEL))  # there is no retrieval span
    [outcome] = pool.submit(scorer, [unit(1)]).result(60)

    assert (outcome.retry, outcome.hold, outcome.usage) == (None, None, None)
    assert json.loads(outcome.rows[0]["error"] or "{}")["error_code"] == "SCORER_ERROR"


def test_a_score_made_without_all_answers_is_none(pool: JudgePool, server: FakeLLM) -> None:
    def answer(request: Request) -> Reply:
        return Reply(503) if len(server.requests) == 1 else Reply()

    server.reset(answer)
    trace = json.loads(unit(1).payload)
    tool = {"mlflow.spanType": '"TOOL"', "mlflow.spanInputs": "{}", "mlflow.spanOutputs": "1"}
    trace["spans"].append(
        {
            **trace["spans"][0],
            "span_id": "AAAAAAAAAAI=",
            "parent_span_id": trace["spans"][0]["span_id"],
            "attributes": {**trace["spans"][0]["attributes"], **tool},
        }
    )
    scorer = active(ToolCallCorrectness(model=MODEL))  # goes on without the tools' descriptions
    sent = replace(unit(1), payload=json.dumps(trace).encode())
    [outcome] = pool.submit(scorer, [sent]).result(60)

    assert len(server.requests) == 2
    assert outcome.rows == []
    assert outcome.retry is not None
    assert outcome.retry.code == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("model", "code", "says"),
    [
        ("anthropic:/claude", "NO_API_KEY", "ANTHROPIC_API_KEY"),
        ("gemini:/flash", "NO_API_KEY", "GEMINI_API_KEY"),
        ("mistral:/small", "NO_API_KEY", "MISTRAL_API_KEY"),
        ("groq:/llama", "NO_API_KEY", "GROQ_API_KEY"),
        ("openrouter:/x/y", "NO_API_KEY", "OPENROUTER_API_KEY"),
        ("azure:/mine", "NO_API_KEY", "AZURE_API_KEY"),
        ("bedrock:/nova", "NO_API_KEY", "AWS_ACCESS_KEY_ID"),
        ("cohere:/command", "NO_PROVIDER_LIBRARY", "litellm"),
        ("nonsense:/gpt", "NO_PROVIDER_LIBRARY", "nonsense:/gpt"),
        ("databricks", "NO_PROVIDER_LIBRARY", "databricks-agents"),
        ("gpt-4o", "UNKNOWN_MODEL", "gpt-4o"),
    ],
)
def test_what_is_missing_is_a_state_of_the_scorer(
    pool: JudgePool, model: str, code: str, says: str
) -> None:
    definition = judge().definition
    definition["instructions_judge_pydantic_data"]["model"] = model
    scorer = ActiveScorer("1", "nice", 1, json.dumps(definition), 1.0)

    [outcome] = pool.submit(scorer, [unit(1)]).result(60)

    assert outcome.hold is not None, outcome
    assert outcome.hold.code == code
    assert says in outcome.hold.message


def test_nobody_listening_is_a_matter_of_time(pool: JudgePool) -> None:
    [outcome] = pool.submit(judge(model="ollama:/llama"), [unit(1)]).result(60)
    assert outcome.retry is not None
    assert outcome.retry.code == "CONNECTION"


class StatusError(Exception):
    """As the providers' own libraries raise them."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"Error code: {status_code}")
        self.status_code = status_code


def wrapped(error: Exception) -> Exception:
    """As MLflow and third-party scorers pass them on."""
    outer = ValueError("the metric failed")
    outer.__cause__ = RuntimeError("while judging")
    outer.__cause__.__context__ = error
    return outer


@pytest.mark.parametrize(
    ("failure", "kind", "code"),
    [
        (StatusError(429), Retry, "RATE_LIMITED"),
        (StatusError(503), Retry, "UNAVAILABLE"),
        (StatusError(401), Hold, "NOT_AUTHORIZED"),
        (StatusError(400), Permanent, "PROVIDER_REFUSED"),
        (TimeoutError("timed out"), Retry, "TIMEOUT"),
        (ConnectionResetError("reset"), Retry, "CONNECTION"),
        (ModuleNotFoundError("No module named 'deepeval'"), Hold, "NO_PROVIDER_LIBRARY"),
        (Exception("Your default credentials were not found."), Hold, "NO_API_KEY"),
        (Exception("Unable to locate credentials"), Hold, "NO_API_KEY"),
    ],
)
def test_what_could_not_be_seen_is_told_by_its_exceptions(
    failure: Exception, kind: type, code: str
) -> None:
    for raised in (failure, wrapped(failure)):
        found = classify(raised, str(raised), [], MODEL)
        assert isinstance(found, kind)
        assert found.code == code

    assert classify(wrapped(KeyError("outputs")), "the metric failed", [], MODEL) is None


def test_litellm_is_watched_and_kept_from_trying_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "litellm.py").write_text(
        "class RateLimitError(Exception):\n"
        "    status_code = 429\n"
        "    response = type('Response', (), {'headers': {'retry-after': '7'}})\n"
        "class Answer:\n"
        "    _hidden_params = {'response_cost': 0.25}\n"
        "    def model_dump(self):\n"
        "        return {'usage': {'prompt_tokens': 3, 'completion_tokens': 4}}\n"
        "def completion(**given):\n"
        "    asked.append(given)\n"
        "    if given['model'] == 'cohere/busy': raise RateLimitError('busy')\n"
        "    return Answer()\n"
        "asked = []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    provider_calls._watch_litellm()
    import litellm

    with watching(5.0) as watch:
        litellm.completion(model="cohere/fine", retry_policy="many", max_retries=10)
        with pytest.raises(litellm.RateLimitError):
            litellm.completion(model="cohere/busy", max_retries=10)

    fine, busy = watch.calls
    assert (fine.model, fine.cost_usd, fine.tokens["output_tokens"]) == ("fine", 0.25, 4)
    assert classify(None, "", [busy], "cohere:/busy") == Retry(
        "RATE_LIMITED", "cohere:/busy asks to slow down. It was said: busy", 7.0
    )
    for given in litellm.asked:
        assert given["max_retries"] == given["num_retries"] == 0
        assert "retry_policy" not in given
        assert 0 < given["timeout"] <= 5.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("1e99", 24 * 3600.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, now=10.0) == seconds


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (verdict("yes"), {"input_tokens": 100, "output_tokens": 20}),
        (
            {"usage": {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}},
            {"input_tokens": 9, "cache_read_input_tokens": 4},
        ),
        (
            {"usage": {"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": 5}},
            {"input_tokens": 14, "output_tokens": 2, "cache_read_input_tokens": 5},
        ),
        (
            {
                "usageMetadata": {
                    "promptTokenCount": 9,
                    "candidatesTokenCount": 2,
                    "thoughtsTokenCount": 30,
                }
            },
            {"input_tokens": 9, "output_tokens": 32},
        ),
        ({"usage": {"prompt_tokens": "many"}}, {}),
        ({"usage": None}, {}),
        ({}, {}),
    ],
)
def test_tokens_are_read_from_every_kind_of_answer(
    body: dict[str, Any], tokens: dict[str, int]
) -> None:
    assert token_usage(body) == tokens


def test_cost_and_reason_are_read_where_they_are_told() -> None:
    assert told_cost({"usage": {"cost": 0.5}}) == 0.5
    assert told_cost({"usage": {"cost": "dear"}}) is None
    assert why_finished({"stop_reason": "end_turn"}) is None
    assert why_finished({"stop_reason": "refusal"}) == "refusal"
    assert why_finished({"candidates": [{"finishReason": "SAFETY"}]}) == "safety"
    assert why_finished({"candidates": ["?"]}) is None


def test_errors_keep_keys_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    monkeypatch.setattr(requests.Session, "request", requests.Session.request)
    provider_calls._watch_requests(None)

    with watching(5.0) as watch, pytest.raises(ProviderFailed):
        requests.post("http://127.0.0.1:9/v1?key=AIzaSecret", json={"model": "x"})

    assert watch.calls[0].problem is not None
    assert "AIzaSecret" not in watch.calls[0].problem
