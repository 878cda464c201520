"""Judges run in one host, many at a time; what a provider does to one, the others don't mind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from bench.fake_llm import FakeLLM, Reply, Request, completion, error, tool_call, verdict
from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import Guidelines, make_scorer_ensemble

import scoring_support
from judge_support import MODEL, active, judge, unit
from scoring_support import code
from vedette.scoring.active import ActiveScorer
from vedette.scoring.judge_pool import JudgePool
from vedette.scoring.outcomes import Outcome
from vedette.scoring.pool import WorkerPool, WorkersUnavailable
from vedette.scoring.sandbox import choose_sandbox

YES_OR_NO: dict[str, Any] = {"feedback_value_type": bool}


@pytest.fixture(scope="module")
def server() -> Iterator[FakeLLM]:
    server = FakeLLM()
    yield server
    server.close()


@pytest.fixture(scope="module")
def pool(server: FakeLLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JudgePool]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.endswith("_API_KEY")]:
            patch.delenv(name)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setenv("VEDETTE_BACKEND_STORE_URI", "postgresql://me:hunter2@db/mlflow")
        patch.setenv("SOMEBODYS_SECRET", "hunter2")
        pool = JudgePool(
            tmp_path_factory.mktemp("judges"),
            timeout=30.0,
            tracking_uri=f"http://127.0.0.1:{server.port}/mlflow",
        )
        pool.submit(judge(), [unit(0)]).result(120)  # waits for the import of MLflow
        yield pool
    pool.close()


@pytest.fixture
def llm(server: FakeLLM) -> FakeLLM:
    """The server, with a clean slate."""
    server.reset()
    return server


def run(pool: JudgePool, scorer: ActiveScorer, *numbers: int) -> list[Outcome]:
    return pool.submit(scorer, [unit(number) for number in numbers]).result(60)


def values(outcomes: list[Outcome]) -> list[Any]:
    return [json.loads(row["value"]) for outcome in outcomes for row in outcome.rows]


def error_of(outcome: Outcome) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(outcome.rows[0]["error"] or "{}")
    return error


def test_a_judge_gives_feedback_and_tells_what_it_cost(pool: JudgePool, llm: FakeLLM) -> None:
    llm.answer = Reply(body=verdict("no", "it is rude", prompt_tokens=1000, completion_tokens=50))

    [outcome] = run(pool, judge(), 1)

    [row] = outcome.rows
    assert (row["name"], json.loads(row["value"]), row["rationale"]) == ("nice", "no", "it is rude")
    assert (row["source_type"], row["source_id"]) == ("LLM_JUDGE", MODEL)
    assert outcome.usage is not None
    assert (outcome.usage.calls, outcome.usage.model) == (1, MODEL)
    assert (outcome.usage.input_tokens, outcome.usage.output_tokens) == (1000, 50)
    assert outcome.usage.cost_usd == pytest.approx(1000 * 0.4e-6 + 50 * 1.6e-6)
    assert psutil.Process(int(outcome.worker.removeprefix("pid "))).is_running()


def test_outcomes_come_in_the_order_of_the_units(pool: JudgePool, llm: FakeLLM) -> None:
    def answer(request: Request) -> Reply:
        number = int(request.prompt.split("inputs: ")[1])
        return Reply(body=verdict(str(number)), seconds=0.3 if number == 0 else 0.0)

    llm.answer = answer
    outcomes = run(pool, judge(instructions="{{ outputs }} of {{ inputs }}"), *range(20))

    assert values(outcomes) == [str(number) for number in range(20)]
    assert [outcome.unit_id for outcome in outcomes] == [unit(n).unit_id for n in range(20)]


def test_32_judge_calls_at_once_score_25_traces_a_second(pool: JudgePool, llm: FakeLLM) -> None:
    units = [unit(number) for number in range(256)]
    best = 0.0
    for _ in range(3):  # others may be using the processor
        llm.reset(Reply(seconds=1.0))
        start = time.monotonic()
        outcomes = pool.submit(judge(), units).result(60)
        rate = len(outcomes) / (time.monotonic() - start)
        print(f"\n{rate:.1f} traces/s with {llm.most_in_flight} calls of 1 s in flight")
        assert llm.most_in_flight == 32
        assert len(llm.requests) == 256
        assert llm.connections <= 64
        best = max(best, rate)
        if best >= 25:
            break
    assert best >= 25


def test_scorers_of_one_model_take_turns_and_share_its_limit(pool: JudgePool, llm: FakeLLM) -> None:
    llm.reset(Reply(seconds=0.2))
    many = pool.submit(judge("many"), [unit(number) for number in range(200)])

    few = run(pool, judge("few"), 1, 2, 3)

    assert len(few) == 3
    assert not many.done()
    assert len(many.result(60)) == 200
    assert llm.most_in_flight <= 32


def test_a_model_that_hangs_holds_up_no_other_and_no_code_scorer(
    pool: JudgePool, llm: FakeLLM, tmp_path: Path
) -> None:
    llm.answer = lambda request: Reply(seconds=100.0 if request.payload["model"] == "slow" else 0.0)
    scorer = judge("stuck", model="openai:/slow", timeout=20)
    stuck = pool.submit(scorer, [unit(number) for number in range(32)])

    assert values(run(pool, judge(), *range(10))) == ["yes"] * 10
    workers = WorkerPool(tmp_path / "workers", choose_sandbox(None))
    function = code("return inputs", name="function")
    outcomes = workers.submit(function, [scoring_support.unit(n) for n in range(100)]).result(60)
    workers.close()
    assert len(outcomes) == 100
    assert not stuck.done()
    assert pool.state()["openai:/slow"]["under_way"] == 32
    assert {outcome.retry and outcome.retry.code for outcome in stuck.result(60)} == {"TIMEOUT"}


def test_more_models_that_hang_than_there_is_room_for_hold_up_no_other(
    pool: JudgePool, llm: FakeLLM
) -> None:
    llm.answer = lambda request: Reply(seconds=100.0 if "slow" in request.payload["model"] else 0.0)
    units = [unit(number) for number in range(32)]
    stuck = [
        pool.submit(judge("stuck", model=f"openai:/slow-{number}", timeout=8), units)
        for number in range(6)  # there is room for four
    ]
    deadline = time.monotonic() + 5
    while sum(pool.state()[f"openai:/slow-{n}"]["under_way"] for n in range(6)) < 128:
        assert time.monotonic() < deadline, pool.state()
        time.sleep(0.05)

    start = time.monotonic()
    assert values(run(pool, judge(), *range(10))) == ["yes"] * 10
    assert time.monotonic() - start < 5  # before any of them ends
    for future in stuck:
        assert {one.retry and one.retry.code for one in future.result(60)} == {"TIMEOUT"}


def test_what_is_not_yet_asked_can_be_taken_back(pool: JudgePool, llm: FakeLLM) -> None:
    llm.reset(Reply(seconds=5.0))
    futures = [pool.submit(judge(), [unit(number)]) for number in range(40)]
    deadline = time.monotonic() + 60
    while pool.state()[MODEL]["under_way"] < 32:
        assert time.monotonic() < deadline
        time.sleep(0.01)

    taken_back = [future.cancel() for future in futures]

    assert taken_back == [False] * 32 + [True] * 8
    assert [values(future.result(30)) for future in futures[:32]] == [["yes"]] * 32
    assert values(run(pool, judge(), 41)) == ["yes"]
    assert len(llm.requests) == 33


def test_what_hangs_ends_at_the_time_limit(pool: JudgePool, llm: FakeLLM) -> None:
    for reply in (Reply(seconds=100.0), Reply(breaks="drip")):
        llm.reset(reply)
        start = time.monotonic()
        [outcome] = run(pool, judge(timeout=1.0), 1)

        assert outcome.retry is not None
        assert outcome.retry.code == "TIMEOUT"
        assert time.monotonic() - start < 30
        assert outcome.rows == []


def test_a_host_with_too_many_lost_threads_is_replaced(pool: JudgePool, llm: FakeLLM) -> None:
    before = _host_of(run(pool, judge(), 1))
    llm.reset(Reply(breaks="drip"))
    lost = run(pool, judge("lost", model="openai:/drips", timeout=0.5), *range(20))
    llm.reset()

    assert {outcome.retry and outcome.retry.code for outcome in lost} == {"TIMEOUT"}
    after = _host_of(run(pool, judge(), 2))
    assert after != before
    psutil.wait_procs([before], timeout=20)
    assert not before.is_running()


@pytest.mark.parametrize("after", ["3", None])
def test_asked_to_slow_down_nobody_asks_that_model(
    pool: JudgePool, llm: FakeLLM, after: str | None
) -> None:
    model = f"openai:/busy-{after}"
    headers = {} if after is None else {"Retry-After": after}
    busy = Reply(status=429, body=error("slow down"), headers=headers)
    llm.answer = lambda request: busy if "busy" in request.payload["model"] else Reply()
    [outcome] = run(pool, judge("one", model=model), 1)
    llm.reset()

    start = time.monotonic()
    other = pool.submit(judge("other", model=model), [unit(2)])
    assert values(run(pool, judge(), 3)) == ["yes"]  # another model
    assert not other.done()
    assert values(other.result(30)) == ["yes"]
    assert time.monotonic() - start > (2.5 if after else 0.8)

    assert outcome.retry is not None
    assert outcome.retry.code == "RATE_LIMITED"
    assert outcome.retry.after_seconds == (3.0 if after else None)
    assert "slow down" in outcome.retry.message


def test_a_long_wait_is_left_to_the_caller(pool: JudgePool, llm: FakeLLM) -> None:
    llm.reset(Reply(status=429, headers={"Retry-After": "3600"}))
    scorer = judge(model="openai:/tomorrow")
    [asked] = run(pool, scorer, 1)
    assert asked.retry is None
    assert asked.hold is not None
    assert asked.hold.after_seconds == 3600.0
    llm.reset()

    outcomes = run(pool, scorer, 2, 3)

    assert llm.requests == []
    for outcome in outcomes:
        assert outcome.hold is not None
        assert outcome.hold.code == "RATE_LIMITED"
        assert outcome.hold.after_seconds == pytest.approx(3600, abs=30)
        assert "openai:/tomorrow asked to wait 60 min" in outcome.hold.message


def test_tokens_of_a_useless_answer_are_paid_too(pool: JudgePool, llm: FakeLLM) -> None:
    llm.reset(Reply(body=completion("I'd rather not say.")))

    [outcome] = run(pool, judge(), 1)

    assert error_of(outcome)["error_code"] == "BAD_ANSWER"
    assert outcome.usage is not None
    assert outcome.usage.input_tokens == 100


def test_a_judge_looks_at_the_trace_with_tools(pool: JudgePool, llm: FakeLLM) -> None:
    def answer(request: Request) -> Reply:
        if request.payload["messages"][-1]["role"] == "tool":
            return Reply(body=verdict("seen"))
        return Reply(body=tool_call("list_spans"))

    llm.answer = answer
    [outcome] = run(pool, judge(instructions="Look at {{ trace }}"), 7)

    assert values([outcome]) == ["seen"]
    assert "root" in llm.requests[-1].payload["messages"][-1]["content"]
    assert outcome.usage is not None
    assert (outcome.usage.calls, outcome.usage.input_tokens) == (2, 200)


def test_judges_leave_no_traces_of_their_own(pool: JudgePool, llm: FakeLLM) -> None:
    run(pool, judge(), 1)
    run(pool, active(Guidelines(name="polite", guidelines=["be polite"], model=MODEL)), 1)

    assert [request.path for request in llm.requests] == ["/v1/chat/completions"] * 2


def test_a_model_of_mlflows_gateway_is_asked_there(pool: JudgePool, llm: FakeLLM) -> None:
    [outcome] = run(pool, judge(model="gateway:/mine"), 1)

    assert values([outcome]) == ["yes"]
    assert llm.requests[0].path.startswith("/mlflow/gateway/")
    assert outcome.usage is not None
    assert (outcome.usage.input_tokens, outcome.usage.model) == (100, "gateway:/mine")


def test_an_ensemble_of_judges(pool: JudgePool, llm: FakeLLM) -> None:
    first = make_judge(name="a", instructions="{{ outputs }}?", model=MODEL, **YES_OR_NO)
    second = make_judge(name="b", instructions="{{ outputs }}!", model="openai:/other", **YES_OR_NO)
    both = active(make_scorer_ensemble(name="both", scorers=[first, second], ensemble_fn="agg_all"))
    llm.answer = lambda request: Reply(
        body=verdict("yes" if request.payload["model"] == "other" else "no")
    )

    [outcome] = run(pool, both, 1)

    assert values([outcome]) == [False]
    assert outcome.usage is not None
    assert outcome.usage.calls == 2


def test_one_judge_of_an_ensemble_that_must_wait_makes_all_of_it_wait(
    pool: JudgePool, llm: FakeLLM
) -> None:
    first = make_judge(name="a", instructions="{{ outputs }}?", model="openai:/down", **YES_OR_NO)
    second = make_judge(name="b", instructions="{{ outputs }}!", model=MODEL, **YES_OR_NO)
    both = active(make_scorer_ensemble(name="both", scorers=[first, second], ensemble_fn="agg_all"))
    llm.answer = lambda request: Reply(503 if request.payload["model"] == "down" else 200)

    [outcome] = run(pool, both, 1)

    assert outcome.retry is not None
    assert outcome.retry.code == "UNAVAILABLE"


def test_source_code_does_not_run_here(pool: JudgePool, llm: FakeLLM, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    function = code(f"open({str(proof)!r}, 'w')\nreturn True", name="mine").definition
    both = make_scorer_ensemble(
        name="both",
        scorers=[make_judge(name="a", instructions="{{ outputs }}?", model=MODEL, **YES_OR_NO)] * 2,
        ensemble_fn="agg_all",
    ).model_dump()
    both["ensemble_scorer_data"]["scorers"][1] = function
    gadget = {**active(Guidelines(name="g", guidelines="x")).definition}
    gadget["builtin_scorer_class"] = "invoke_judge_model"

    for definition, hint in (
        (both, "'mine'"),
        (function, "source code"),
        (gadget, "no built-in scorer 'invoke_judge_model'"),
        ({"name": "nonsense"}, "nonsense"),
    ):
        [outcome] = run(pool, ActiveScorer("1", "x", 1, json.dumps(definition), 1.0), 1)
        assert outcome.hold is not None
        assert outcome.hold.code in {"REFUSED", "NOT_LOADED"}
        assert hint in outcome.hold.message or outcome.hold.code == "NOT_LOADED"
    assert not proof.exists()
    assert llm.requests == []


def test_a_judge_does_not_say_where_the_keys_are_sent(pool: JudgePool, llm: FakeLLM) -> None:
    stolen = judge(model="groq:/x")
    stolen.definition["instructions_judge_pydantic_data"]["inference_params"] = {
        "temperature": 0.0,
        "model": "openai/gpt-4o",
        "api_base": llm.url,
    }
    [outcome] = run(pool, ActiveScorer("1", "x", 1, json.dumps(stolen.definition), 1.0), 1)

    assert outcome.hold is not None
    assert outcome.hold.code == "REFUSED"
    assert "sets 'model', 'api_base' for its model" in outcome.hold.message
    assert llm.requests == []


def test_the_host_has_the_providers_keys_and_no_other_secrets(pool: JudgePool) -> None:
    environment = _host_of(run(pool, judge(), 1)).environ()

    assert environment["OPENAI_API_KEY"] == "sk-fake"
    assert "hunter2" not in json.dumps(environment)


def test_the_death_of_the_host_is_an_event_not_an_incident(pool: JudgePool, llm: FakeLLM) -> None:
    host = _host_of(run(pool, judge(), 1))
    llm.reset(Reply(seconds=0.3))
    future = pool.submit(judge(), [unit(number) for number in range(64)])
    time.sleep(0.5)
    host.kill()

    outcomes = future.result(60)
    assert values(outcomes) == ["yes"] * 64
    assert _host_of(outcomes[-1:]) != host


def test_a_host_that_stops_is_ended_with_its_engine(server: FakeLLM, tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from vedette.scoring.judge_pool import JudgePool\n"
        "pool = JudgePool(Path(sys.argv[1]))\npool.prepare()\n"
        "while not (pool._hosts and pool._hosts[0].process.ready): time.sleep(0.05)\n"
        "print(pool._hosts[0].process.pid, flush=True)\ntime.sleep(100)"
    )
    engine = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "judges")], stdout=subprocess.PIPE
    )
    assert engine.stdout is not None
    host = psutil.Process(int(engine.stdout.readline()))
    host.send_signal(signal.SIGSTOP)  # it can't help
    engine.kill()
    engine.wait()

    psutil.wait_procs([host], timeout=10)
    assert not host.is_running()


def test_closing_leaves_no_process_behind(
    server: FakeLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.reset()
    pool = JudgePool(tmp_path / "judges")
    host = _host_of(run(pool, judge(), 1))
    server.reset(Reply(seconds=100))
    stuck = pool.submit(judge(), [unit(number) for number in range(64)])
    time.sleep(0.2)

    start = time.monotonic()
    pool.close()

    assert time.monotonic() - start < 5
    assert isinstance(stuck.exception(5), WorkersUnavailable)
    assert isinstance(pool.submit(judge(), [unit(1)]).exception(5), WorkersUnavailable)
    assert not host.is_running()
    assert pool.processes == 0


def _host_of(outcomes: list[Outcome]) -> psutil.Process:
    return psutil.Process(int(outcomes[-1].worker.removeprefix("pid ")))
