"""OTLP ingest: acknowledged traces per second, latency, CPU per trace, nothing lost."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.agent_traces import SPANS_PER_TRACE, AgentTraces, Request
from bench.otlp_client import Sent, send
from bench.processes import cpu_seconds, wait_until_quiet
from bench.queries import count_spans, search, trace_ids
from bench.results import Table, ratio, record
from bench.servers import Server, mlflow_server, vedette_up

_SETTLE_SECONDS = 3.0  # in the CPU figure: what a server still does after it has drained


class Run(NamedTuple):
    """One measured load."""

    traces_per_s: float  # acknowledged
    next_read_ms: float  # of the newest traces, right after the last acknowledgement
    stored_per_s: float  # acknowledged, until the journal is drained
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
    parser.add_argument("--quiet", type=float, default=60.0, help="wait for quiet, at most seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vedette-bench-") as scratch, ExitStack() as running:
        servers = (
            running.enter_context(vedette_up(Path(scratch) / "vedette")),
            running.enter_context(mlflow_server(Path(scratch) / "mlflow")),
        )
        figure = OtlpFigure(servers, options)
        figure.measure("batches of 100", 100, {"vedette": 1.0, "mlflow": 1.0})
        # One trace per request is slower: as many would only take longer.
        figure.measure("single", 1, {"vedette": 0.4, "mlflow": 0.4})
    record("OTLP ingest", figure.table, figure.notes)


class OtlpFigure:
    """Loads two running servers in turns."""

    def __init__(self, servers: Sequence[Server], options: argparse.Namespace) -> None:
        self.table = Table(
            "load",
            "",
            "traces/s",
            "p50 ms",
            "p99 ms",
            "next read ms",
            "in tables/s",
            "server CPU ms/trace",
            "lost",
            "refused",
        )
        self.notes = [
            f"{options.concurrency} connections; medians over {options.rounds} rounds.",
            "CPU is that of the whole process tree, ours with engine and workers, until the "
            f"journal is drained and {_SETTLE_SECONDS:.0f} s more.",
            "traces/s: acknowledged, so durable. next read: the newest 100, asked for right after "
            "the last acknowledgement and showing all of it. in tables/s: until everything is in "
            "the Delta tables, too; sqlite holds it when MLflow answers.",
            "Lost: acknowledged traces that `search_traces` does not list afterwards, and spans "
            "that `query_trace_metrics` does not count.",
        ]
        self._servers = servers
        self._options = options
        self._counts = {"vedette": options.traces, "mlflow": options.peer_traces}

    def measure(self, label: str, traces_per_request: int, shares: dict[str, float]) -> None:
        """A row per server and one of ratios."""
        runs: dict[str, list[Run]] = {server.name: [] for server in self._servers}
        acknowledged: dict[str, list[Request]] = {server.name: [] for server in self._servers}
        experiments = {server.name: _new_experiment(server) for server in self._servers}
        for server in self._servers:
            warm_up = _made(0, 10 * traces_per_request, traces_per_request)
            self._load(server, _new_experiment(server), warm_up)
        for number in range(self._options.rounds):
            for server in self._servers if number % 2 == 0 else self._servers[::-1]:
                count = int(self._counts[server.name] * shares[server.name])
                requests = _made(number, count, traces_per_request)
                run = self._load(server, experiments[server.name], requests)
                runs[server.name].append(run)
                acknowledged[server.name] += [requests[i] for i in run.sent.acknowledged]
        rates, stored, cpus = {}, {}, {}
        for server in self._servers:
            mine = runs[server.name]
            rates[server.name] = median(run.traces_per_s for run in mine)
            stored[server.name] = median(run.stored_per_s for run in mine)
            cpus[server.name] = median(run.cpu_ms_per_trace for run in mine)
            self.table.add(
                label,
                server.name,
                f"{rates[server.name]:.0f}",
                f"{median(run.sent.median_ms for run in mine):.1f}",
                f"{median(run.sent.p99_ms for run in mine):.1f}",
                f"{median(run.next_read_ms for run in mine):.0f}",
                f"{stored[server.name]:.0f}",
                f"{cpus[server.name]:.2f}",
                _lost(server, experiments[server.name], acknowledged[server.name]),
                str(sum(sum(run.sent.refused.values()) for run in mine)),
            )
            busy = max(run.busy_before for run in mine)
            if busy > 0.3:
                self.notes.append(f"{label}, {server.name}: {busy:.1f} cores were busy before it.")
        self.table.add(
            label,
            "ratio",
            ratio(rates["vedette"], rates["mlflow"]),
            "",
            "",
            "",
            ratio(stored["vedette"], stored["mlflow"]),
            ratio(cpus["mlflow"], cpus["vedette"]),
            "",
            "",
        )

    def _load(self, server: Server, experiment_id: str, requests: Sequence[Request]) -> Run:
        quiet = wait_until_quiet(at_most_seconds=self._options.quiet)
        before = cpu_seconds(server.pid)
        sent = send(
            server.url,
            experiment_id,
            [request.body for request in requests],
            concurrency=self._options.concurrency,
            seconds=self._options.seconds,
        )
        began = time.perf_counter()
        search(server, experiment_id)
        next_read_ms = 1e3 * (time.perf_counter() - began)
        server.drain()
        stored_after = sent.seconds + time.perf_counter() - began
        time.sleep(_SETTLE_SECONDS)
        used = cpu_seconds(server.pid) - before
        traces = sum(len(requests[i].traces) for i in sent.acknowledged)
        return Run(
            traces / sent.seconds,
            next_read_ms,
            traces / stored_after,
            1e3 * used / max(1, traces),
            sent,
            quiet.busy_cores,
        )


def _new_experiment(server: Server) -> str:
    return server.create_experiment(f"otlp {time.time_ns()}")


def _made(seed: int, count: int, traces_per_request: int) -> list[Request]:
    return AgentTraces(seed).requests([time.time_ns()] * count, traces_per_request)


def _lost(server: Server, experiment_id: str, acknowledged: Sequence[Request]) -> str:
    expected = {trace.trace_id for request in acknowledged for trace in request.traces}
    missing = expected - trace_ids(server, experiment_id)
    spans = SPANS_PER_TRACE * len(expected) - count_spans(server, experiment_id)
    return f"{len(missing)} traces, {spans} spans" if missing or spans else "0"


if __name__ == "__main__":
    main()
