"""Judges and session scorers are handed what ``mlflow.genai.evaluate`` hands them: the prompts that
an LLM gets and the feedback that comes of its answers are the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlflow
import pytest
from bench.fake_llm import FakeLLM, Reply, Request, tool_call, verdict
from mlflow.entities import Feedback, Trace
from mlflow.genai import scorers as built_in
from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import Scorer, make_scorer_ensemble, scorer

from evaluate_support import (
    by_evaluate,
    by_vedette,
    log_session,
    log_trace,
    stock_mlflow,  # noqa: F401
)
from judge_support import MODEL


@pytest.fixture(scope="module")
def llm(stock_mlflow: None) -> Iterator[FakeLLM]:  # noqa: F811
    server = FakeLLM()
    server.answer = answer
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_GENAI_JUDGE_DEFAULT_MODEL", MODEL)
        yield server
    server.close()


def answer(request: Request) -> Reply:
    """Look at the trace first where there is one to look at; the length tells prompts apart."""
    messages = request.payload["messages"]
    if request.payload.get("tools") and messages[-1]["role"] != "tool":
        return Reply(body=tool_call("get_root_span"))
    return Reply(body=verdict("yes", f"of {len(request.prompt)} characters"))


def side_by_side(
    llm: FakeLLM, scorers: Sequence[Scorer], traces: Sequence[Trace]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Our feedback and evaluate's, after having found their prompts to be the same."""
    ways: tuple[Callable[..., list[dict[str, Any]]], ...] = (by_vedette, by_evaluate)
    feedback, prompts = [], []
    for way in ways:
        llm.requests.clear()
        feedback.append(way(scorers, traces))
        prompts.append(sorted(json.dumps(request.payload) for request in llm.requests))
    assert prompts[0] == prompts[1]
    return feedback[0], feedback[1]


def without_spans(feedback: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Evaluate puts all feedback on the root span, whatever span it names."""
    return [{**one, "span_id": None} for one in feedback]


def trace_judges() -> list[Scorer]:
    """Every kind of judge of a trace, and the scorers that MLflow brings."""
    inputs = make_judge(name="inputs", instructions="{{ inputs }} {{ outputs }}", model=MODEL)
    yes_or_no: dict[str, Any] = {"model": MODEL, "feedback_value_type": bool}
    pair = [
        make_judge(name=name, instructions=f"{name}? {{{{ outputs }}}}", **yes_or_no)
        for name in ("first", "second")
    ]
    return [
        inputs,
        make_judge(name="expectations", instructions="{{ expectations }}", model=MODEL),
        make_judge(name="traced", instructions="See {{ trace }}", model=MODEL),
        make_judge(name="both", instructions="{{ outputs }} in {{ trace }}", model=MODEL),
        make_scorer_ensemble(name="pair", scorers=pair, ensemble_fn="agg_all"),
        built_in.Guidelines(name="polite", guidelines=["be polite", "be brief"]),
        built_in.ExpectationsGuidelines(),
        built_in.Safety(),
        built_in.RelevanceToQuery(),
        built_in.Correctness(),
        built_in.Equivalence(),
        built_in.Completeness(),
        built_in.Fluency(),
        built_in.Summarization(),
        built_in.RetrievalRelevance(),
        built_in.RetrievalSufficiency(),
        built_in.RetrievalGroundedness(),
        built_in.ToolCallCorrectness(),
        built_in.ToolCallEfficiency(),
        built_in.RegexMatch(pattern="a+"),
        built_in.ResponseLength(max_length=10),
    ]


@pytest.mark.parametrize(
    ("inputs", "outputs", "expectations"),
    [
        pytest.param(
            {"question": "what?", "history": [1, {"a": None}]},
            {"answer": "x"},
            {"expected_response": "y", "guidelines": ["be kind"]},
            id="dicts",
        ),
        pytest.param(
            "plain ü ☃", "a plain answer", {"n": 5, "expected_facts": ["a", "b"]}, id="plain"
        ),
        pytest.param({"messages": [{"role": "user", "content": "hi"}]}, ["a", 1, None], {}, id="x"),
        pytest.param(None, None, {}, id="nothing"),
    ],
)
def test_a_judge_sees_what_evaluate_shows_it(
    llm: FakeLLM, inputs: Any, outputs: Any, expectations: dict[str, Any]
) -> None:
    trace = log_trace(inputs, outputs, expectations=expectations)

    ours, theirs = side_by_side(llm, trace_judges(), [trace])

    assert without_spans(ours) == without_spans(theirs)
    assert len(ours) > len(trace_judges()) - 1
    if expectations.get("guidelines"):
        assert [one["error"] for one in ours if one["error"]] == []


# Returns all it is given as JSON text, so that a difference in anything shows in the score
@scorer  # type: ignore[untyped-decorator]
def session_witness(session: Any) -> Feedback:
    import json

    from mlflow.entities import Feedback

    seen = [json.loads(trace.to_json()) for trace in session]
    tools = [span.outputs for trace in session for span in trace.search_spans(name="look_up")]
    return Feedback(value=json.dumps([seen, tools], sort_keys=True), rationale=str(type(session)))


@scorer  # type: ignore[untyped-decorator]
def session_fails(session: Any) -> Feedback:
    raise ValueError(f"{len(session)} turns are too many")


def session_judges() -> list[Scorer]:
    return [
        session_witness,
        session_fails,
        make_judge(name="talk", instructions="Is {{ conversation }} nice?", model=MODEL),
        built_in.UserFrustration(),
        built_in.ConversationCompleteness(),
        built_in.ConversationalSafety(),
        built_in.ConversationalToolCallEfficiency(),
        built_in.ConversationalGuidelines(guidelines=["be polite"]),
    ]


@pytest.mark.parametrize("turns", [1, 2, 50])
def test_a_session_is_what_evaluate_makes_of_it(llm: FakeLLM, turns: int) -> None:
    traces = log_session(f"talk-{turns}", turns)

    ours, theirs = side_by_side(llm, session_judges(), traces)

    assert ours == theirs
    assert {one["trace"] for one in ours} == {traces[0].info.trace_id}
    assert {one["metadata"]["mlflow.trace.session"] for one in ours} == {f"talk-{turns}"}
    assert {one["name"] for one in ours} == {one.name for one in session_judges()}


def test_feedback_lands_on_the_span_it_names(llm: FakeLLM) -> None:
    trace = log_trace({"q": 1}, "answer")
    retriever = trace.search_spans(name="search")[0].span_id
    root = trace.search_spans(name="agent")[0].span_id

    ours = by_vedette([built_in.RetrievalRelevance()], [trace])

    assert {one["span_id"] for one in ours} == {retriever}
    for named, lands in ((retriever, retriever), ("feedbeef", root)):
        function = returning(f"return Feedback(value=1, span_id={named!r})")
        [feedback] = by_vedette([function], [trace])
        assert feedback["span_id"] == lands
        assert ("vedette.note" in feedback["metadata"]) == (named != lands)


def returning(source: str) -> Scorer:
    dump = {**session_witness.model_dump(), "name": "returning", "original_func_name": "returning"}
    dump |= {"call_signature": "(outputs)", "call_source": source, "is_session_level_scorer": False}
    return Scorer.model_validate(dump)


def test_this_is_the_installed_mlflow() -> None:
    """A new release of MLflow has new judges: they belong into the lists above."""
    known = {type(one).__name__ for one in [*trace_judges(), *session_judges()]}
    known |= {"KnowledgeRetention", "PIIDetection", "ConversationalRoleAdherence"}
    brought = {type(one).__name__ for one in built_in.get_all_scorers()}
    assert brought - known == set(), mlflow.__version__
