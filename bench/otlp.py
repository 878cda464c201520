"""OTLP ingest: acknowledged traces per second, latency, CPU per trace, nothing lost."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.agent_traces import SPANS_PER_TRACE, AgentTraces, Request
from bench.otlp_client import Sent, send
from bench.processes import cpu_seconds, wait_until_quiet
from bench.queries import count_spans, trace_ids
from bench.results import Table, ratio, record
from bench.servers import Server, mlflow_server, vedette_up

_SETTLE_SECONDS = 3.0  # in the CPU figure: what a server still does after it has drained


class Run(NamedTuple):
    """One measured load."""

    traces_per_s: float
    cpu_ms_per_trace: float
    sent: Sent
    busy_before: float


def main() -> None:
    """Run the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=12_000, help="at most, per load of ours")
    parser.add_argument("--peer-traces", type=int, default=1_200, help="... and of mlflow server's")
    parser.add_argument("--rounds", type=int, default=2, help="loads per server and shape")
    parser.add_argument("--seconds", type=float, default=25.0, help="longest time of one load")
    parser.add_argument("--concurrency", type=int, default=8, help="connections")
    options = parser.parse_args()
    table = Table(
        "load", "", "traces/s", "p50 ms", "p99 ms", "server CPU ms/trace", "lost", "refused"
    )
    notes = [
        "Medians over the rounds; CPU is that of the whole process tree, ours with engine and "
        f"workers until the journal is drained, and of {_SETTLE_SECONDS:.0f} s after it.",
        "Lost: acknowledged traces not listed by `search_traces` afterwards, plus spans missing "
        "in `query_trace_metrics`.",
    ]
    with (
        tempfile.TemporaryDirectory(prefix="vedette-bench-") as scratch,
        contextlib.ExitStack() as up,
    ):
        servers = (
            up.enter_context(vedette_up(Path(scratch) / "vedette")),
            up.enter_context(mlflow_server(Path(scratch) / "mlflow")),
        )
        for label, traces_per_request, share in (("batches of 100", 100, 1.0), ("single", 1, 0.4)):
            counts = {
                "vedette": int(options.traces * share),
                "mlflow": int(options.peer_traces * share),
            }
            _measure(label, servers, counts, traces_per_request, options, table, notes)
    record("OTLP ingest", table, notes)


def _measure(
    label: str,
    servers: Sequence[Server],
    counts: dict[str, int],
    traces_per_request: int,
    options: argparse.Namespace,
    table: Table,
    notes: list[str],
) -> None:
    runs: dict[str, list[Run]] = {server.name: [] for server in servers}
    requests: dict[str, list[Request]] = {server.name: [] for server in servers}
    experiments = {
        server.name: server.create_experiment(f"otlp {label} {time.time_ns()}")
        for server in servers
    }
    for server in servers:
        warm_up = AgentTraces(0).requests(
            [time.time_ns()] * (10 * traces_per_request), traces_per_request
        )
        elsewhere = server.create_experiment(f"warm-up {label} {time.time_ns()}")
        _load(server, elsewhere, warm_up, options)
    for round_number in range(options.rounds):
        for server in servers if round_number % 2 == 0 else servers[::-1]:
            starts = [time.time_ns()] * counts[server.name]
            made = AgentTraces(round_number).requests(starts, traces_per_request)
            run = _load(server, experiments[server.name], made, options)
            runs[server.name].append(run)
            requests[server.name] += [made[i] for i in run.sent.acknowledged]
    rates, cpus = {}, {}
    for server in servers:
        mine = runs[server.name]
        rates[server.name] = statistics.median(run.traces_per_s for run in mine)
        cpus[server.name] = statistics.median(run.cpu_ms_per_trace for run in mine)
        table.add(
            label,
            server.name,
            f"{rates[server.name]:.0f}",
            f"{statistics.median(run.sent.median_ms for run in mine):.1f}",
            f"{statistics.median(run.sent.p99_ms for run in mine):.1f}",
            f"{cpus[server.name]:.2f}",
            _lost(server, experiments[server.name], requests[server.name]),
            str(sum(sum(run.sent.refused.values()) for run in mine)),
        )
        busy = max(run.busy_before for run in mine)
        if busy > 0.3:
            notes.append(f"{label}, {server.name}: the machine was not quiet ({busy:.1f} cores).")
    table.add(
        label,
        "ratio",
        ratio(rates["vedette"], rates["mlflow"]),
        "",
        "",
        ratio(cpus["mlflow"], cpus["vedette"]),
        "",
        "",
    )


def _load(
    server: Server, experiment_id: str, requests: Sequence[Request], options: argparse.Namespace
) -> Run:
    quiet = wait_until_quiet()
    before = cpu_seconds(server.pid)
    sent = send(
        server.url,
        experiment_id,
        [request.body for request in requests],
        concurrency=options.concurrency,
        seconds=options.seconds,
    )
    server.drain()
    time.sleep(_SETTLE_SECONDS)
    used = cpu_seconds(server.pid) - before
    traces = sum(len(requests[i].traces) for i in sent.acknowledged)
    return Run(traces / sent.seconds, 1e3 * used / max(1, traces), sent, quiet.busy_cores)


def _lost(server: Server, experiment_id: str, acknowledged: Sequence[Request]) -> str:
    expected = {trace.trace_id for request in acknowledged for trace in request.traces}
    missing = expected - trace_ids(server, experiment_id)
    spans = SPANS_PER_TRACE * len(expected) - count_spans(server, experiment_id)
    return f"{len(missing)} traces, {spans} spans" if missing or spans else "0"


if __name__ == "__main__":
    main()
