"""A judge on live traffic, both servers: how long until every trace of a burst is judged.

This is what MLflow's open server can score live: a judge of a gateway model. Its model is one on
loopback that takes a second, the judge, the gateway and the buffer before a trace counts as
complete are the same on both.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.agent_traces import AgentTraces
from bench.fake_llm import FakeLLM, Reply
from bench.live_scorers import JUDGE
from bench.live_scores import TAKE_UP_SECONDS, start_scorer
from bench.otlp_client import send
from bench.processes import wait_until_quiet
from bench.queries import all_traces
from bench.results import Table, ratio, record
from bench.servers import Server, mlflow_server, vedette_up

_MODEL_SECONDS = 1.0
_BUFFER_SECONDS = 10
_LOOK_SECONDS = 1.0
_ENDPOINT = "loopback"
_TRACES_PER_REQUEST = 10


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=300)
    parser.add_argument("--patience", type=float, default=600.0, help="seconds, per server")
    options = parser.parse_args()
    os.environ |= {
        "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_ONLINE_SCORING_DEFAULT_TRACE_COMPLETION_BUFFER_SECONDS": str(_BUFFER_SECONDS),
    }
    table = Table("", "judged", "first s", "last s", "judged/s", "calls at once", "calls")
    figures = []
    with tempfile.TemporaryDirectory(prefix="vedette-bench-") as scratch, ExitStack() as ends:
        llm = FakeLLM()
        ends.callback(llm.close)
        for start in (vedette_up, mlflow_server):
            with start(Path(scratch) / start.__name__) as server:
                llm.reset(Reply(seconds=_MODEL_SECONDS))
                seen = _judged(server, llm, options.traces, options.patience)
            first, last = seen[0], seen[-1]
            figures.append((last, len(seen) / (last - first + _LOOK_SECONDS)))
            table.add(
                server.name,
                f"{len(seen)} of {options.traces}",
                f"{first:.1f}",
                f"{last:.1f}",
                f"{figures[-1][1]:.1f}",
                str(llm.most_in_flight),
                str(len(llm.requests)),
            )
    (ours, our_rate), (theirs, their_rate) = figures
    table.add("ratio", "", "", ratio(theirs, ours), ratio(our_rate, their_rate), "", "")
    record(
        "A judge on live traffic",
        table,
        [
            f"{options.traces} traces in a burst, judged by `make_judge` over a gateway endpoint "
            f"whose model takes {_MODEL_SECONDS:.0f} s; seconds from the last acknowledgement.",
            f"A trace counts as complete after {_BUFFER_SECONDS} s in both (MLflow's default is "
            "300 s). judged/s: between the first and the last judged trace.",
            "MLflow looks for new traces once a minute, and judges at most 500 each time.",
        ],
    )


def _judged(server: Server, llm: FakeLLM, count: int, patience: float) -> list[float]:
    """Seconds after the last acknowledgement at which each judged trace was seen, rising."""
    experiment = server.create_experiment("judges")
    _create_endpoint(server, llm.url)
    start_scorer(server.url, experiment, JUDGE, 1.0, f"gateway:/{_ENDPOINT}")
    time.sleep(TAKE_UP_SECONDS)
    wait_until_quiet()
    requests = AgentTraces(5).requests([time.time_ns()] * count, _TRACES_PER_REQUEST)
    sent = send(
        server.url, experiment, [each.body for each in requests], concurrency=1, seconds=120
    )
    if sent.refused:
        raise RuntimeError(f"{server.name} refused {sent.refused}")
    began = time.monotonic()
    seen: dict[str, float] = {}
    while len(seen) < count and time.monotonic() - began < patience:
        time.sleep(_LOOK_SECONDS)
        for trace in all_traces(server, experiment):
            names = {each["assessment_name"] for each in trace.get("assessments", ())}
            if JUDGE in names:
                seen.setdefault(str(trace["trace_id"]), time.monotonic() - began)
    return sorted(seen.values())


def _create_endpoint(server: Server, llm_url: str) -> None:
    """A gateway endpoint over the loopback model, as MLflow's UI creates it."""
    gateway = "/api/3.0/mlflow/gateway"
    secret = server.call(
        "POST",
        f"{gateway}/secrets/create",
        {
            "secret_name": _ENDPOINT,
            "secret_value": {"api_key": "sk-fake"},
            "provider": "openai",
            "auth_config": {"api_base": llm_url},
        },
    )["secret"]
    model = server.call(
        "POST",
        f"{gateway}/model-definitions/create",
        {
            "name": _ENDPOINT,
            "secret_id": secret["secret_id"],
            "provider": "openai",
            "model_name": "gpt-4.1-mini",
        },
    )["model_definition"]
    server.call(
        "POST",
        f"{gateway}/endpoints/create",
        {
            "name": _ENDPOINT,
            "model_configs": [
                {
                    "model_definition_id": model["model_definition_id"],
                    "linkage_type": "PRIMARY",
                    "weight": 1.0,
                }
            ],
            "usage_tracking": False,
        },
    )


if __name__ == "__main__":
    main()
