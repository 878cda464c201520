"""How many traces a second workers score, by sandbox, what a new worker costs, and how many traces
a second a judge of a slow model scores.

A scorer that does next to nothing, on traces of five spans that are in memory already: what is
measured is the way to the workers and back, and the making of what a scorer is given.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from mlflow.genai.judges import make_judge

from bench.fake_llm import FakeLLM, Reply
from bench.results import Table, record
from vedette.scoring.active import ActiveScorer
from vedette.scoring.judge_pool import JudgePool
from vedette.scoring.outcomes import Unit
from vedette.scoring.pool import WorkerPool
from vedette.scoring.sandbox import Sandbox, missing_for_isolation

_SPANS = 5
_BATCH = 32  # as the engine makes them
_MODEL_SECONDS = 1.0
_JUDGE_CALLS = 32


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--judged", type=int, default=640, help="traces for the judge")
    options = parser.parse_args()
    units = [_unit(number) for number in range(options.traces)]
    table = Table("sandbox", "traces/s", "worker CPU us/trace", "engine CPU us/trace", "start ms")
    missing = missing_for_isolation()
    for name in ("process",) if missing else ("process", "container"):
        with tempfile.TemporaryDirectory() as scratch:
            pool = WorkerPool(Path(scratch) / "workers", Sandbox(name))
            try:
                rounds = [_round(pool, units) for _ in range(options.rounds + 1)][1:]
                start = statistics.median(_start_milliseconds(pool) for _ in range(20))
            finally:
                pool.close()
        figures = [f"{statistics.median(column):.0f}" for column in zip(*rounds, strict=True)]
        table.add(name, *figures, f"{start:.1f}")
    notes = [
        f"{options.traces:,} traces of {len(units[0].payload):,} bytes, two workers; medians of "
        f"{options.rounds} rounds.",
        "start: a new worker, forked, confined and ready for its scorer.",
    ]
    record("Scorers", table, [*notes, f"process: {missing}."] if missing else notes)
    _record_judges(units[: options.judged])


def _record_judges(units: list[Unit]) -> None:
    """A judge of a model that takes a second, 32 calls at once."""
    table = Table("traces", "traces/s", "calls at once", "host CPU ms/trace")
    llm = FakeLLM()
    llm.answer = Reply(seconds=_MODEL_SECONDS)
    os.environ |= llm.environment
    with tempfile.TemporaryDirectory() as scratch:
        pool = JudgePool(Path(scratch) / "judges", concurrency=_JUDGE_CALLS)
        try:
            pool.submit(_JUDGE, units[:_JUDGE_CALLS]).result(600)  # imports MLflow
            used, start = _workers_seconds(), time.perf_counter()
            outcomes = pool.submit(_JUDGE, units).result(600)
            elapsed = time.perf_counter() - start
            used = _workers_seconds() - used
        finally:
            pool.close()
            llm.close()
    scored = sum(row["error"] is None for outcome in outcomes for row in outcome.rows)
    table.add(
        f"{scored} of {len(units)}",
        f"{scored / elapsed:.1f}",
        str(llm.most_in_flight),
        f"{used / len(units) * 1000:.1f}",
    )
    record("Judges", table, [f"`make_judge`, a model on loopback that takes {_MODEL_SECONDS} s."])


def _round(pool: WorkerPool, units: list[Unit]) -> tuple[float, float, float]:
    """Traces per second; microseconds of processor time per trace, of workers and of here."""
    workers, here, start = _workers_seconds(), time.process_time(), time.perf_counter()
    batches = [units[at : at + _BATCH] for at in range(0, len(units), _BATCH)]
    for future in [pool.submit(_SCORER, batch) for batch in batches]:
        future.result(600)
    elapsed = time.perf_counter() - start
    used = (_workers_seconds() - workers, time.process_time() - here)
    return len(units) / elapsed, *(seconds / len(units) * 1e6 for seconds in used)


def _workers_seconds() -> float:
    found = psutil.Process().children(recursive=True)
    return sum(sum(process.cpu_times()[:2]) for process in found)


def _start_milliseconds(pool: WorkerPool) -> float:
    start = time.perf_counter()
    child = pool._start(_SCORER)
    elapsed = time.perf_counter() - start
    pool._forks.kill(child)
    return elapsed * 1000


def _unit(number: int) -> Unit:
    trace_id = f"tr-{number:032x}"
    info = {
        "trace_id": trace_id,
        "trace_location": {
            "type": "MLFLOW_EXPERIMENT",
            "mlflow_experiment": {"experiment_id": "1"},
        },
        "request_time": "2024-01-01T00:00:00Z",
        "state": "OK",
        "tags": {"mlflow.traceName": "agent"},
    }
    spans = [_span(trace_id, place) for place in range(_SPANS)]
    return Unit(trace_id, json.dumps({"info": info, "spans": spans}).encode())


def _span(trace_id: str, place: int) -> dict[str, object]:
    asked = {"messages": [{"role": "user", "content": "How do I reset my password? " * 8}]}
    answer = {"choices": [{"message": {"content": "Open the settings, then choose ... " * 8}}]}
    attributes = {
        "mlflow.traceRequestId": trace_id,
        "mlflow.spanType": "LLM" if place else "AGENT",
        "mlflow.spanInputs": asked,
        "mlflow.spanOutputs": answer,
        "gen_ai.request.model": "a-model",
    }
    return {
        "trace_id": "AAAAAAAAAAAAAAAAAAAAAQ==",
        "span_id": base64.b64encode((place + 1).to_bytes(8, "big")).decode(),
        "parent_span_id": "AAAAAAAAAAE=" if place else None,
        "name": f"span {place}",
        "start_time_unix_nano": 1_700_000_000_000_000_000,
        "end_time_unix_nano": 1_700_000_000_500_000_000,
        "status": {"code": "STATUS_CODE_OK", "message": ""},
        "events": [],
        "attributes": {key: json.dumps(value) for key, value in attributes.items()},
    }


_SCORER = ActiveScorer(
    "1",
    "has_answer",
    1,
    json.dumps(
        {
            "name": "has_answer",
            "call_source": "return len(str(outputs)) > 5",
            "call_signature": "(outputs)",
            "original_func_name": "has_answer",
            "mlflow_version": "3.17.2",
            "serialization_version": 1,
            "is_session_level_scorer": False,
        }
    ),
    1.0,
)

_JUDGE = ActiveScorer(
    "1",
    "is_polite",
    1,
    json.dumps(
        make_judge(
            name="is_polite",
            instructions="Is {{ outputs }} polite? yes or no",
            model="openai:/gpt-4.1-mini",
        ).model_dump()
    ),
    1.0,
)

if __name__ == "__main__":
    main()
