"""The stock SDK end to end: how fast an application's traces arrive whole, how many get lost."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.agent_traces import SPANS_PER_TRACE
from bench.processes import cpu_seconds, wait_until_quiet
from bench.queries import count_spans, trace_ids
from bench.results import Table, ratio, record
from bench.servers import Server, mlflow_server, vedette_up

_APP_SECONDS = 300.0  # an application that needs longer is given up


class Run(NamedTuple):
    """One application's life."""

    seconds: float  # from its first trace until its last was acknowledged
    whole: float  # traces that arrived, counted by their spans
    lost_traces: int
    lost_spans: int
    app_cpu_s: float
    server_cpu_s: float


def main() -> None:
    """Run the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--burst", type=int, default=150, help="traces that the SDK's queue holds")
    parser.add_argument("--traces", type=int, default=1_200, help="traces of the steady load")
    parser.add_argument("--rate", type=float, default=50.0, help="traces/s of an application")
    parser.add_argument("--rounds", type=int, default=3, help="bursts per server")
    parser.add_argument("--quiet", type=float, default=60.0, help="wait for quiet, at most seconds")
    options = parser.parse_args()
    table = Table(
        "load",
        "",
        "whole traces/s",
        "a free server's",
        "lost",
        "app CPU ms/trace",
        "server CPU ms/trace",
    )
    with tempfile.TemporaryDirectory(prefix="vedette-bench-") as scratch, ExitStack() as running:
        servers = (
            running.enter_context(vedette_up(Path(scratch) / "vedette")),
            running.enter_context(mlflow_server(Path(scratch) / "mlflow")),
        )
        for server in servers:
            _run(server, traces=20, rate=0.0, apps=1, quiet=options.quiet)  # warm up
        _measure(
            f"burst of {options.burst}",
            servers,
            table,
            options,
            traces=options.burst,
            rate=0.0,
            apps=1,
        )
        options.rounds = 1  # the steady load is long enough by itself
        for apps, rate in ((1, options.rate), (2, 2 * options.rate), (2, 8 * options.rate)):
            _measure(
                f"{options.traces} at {rate:.0f}/s from {apps}",
                servers,
                table,
                options,
                traces=options.traces,
                rate=rate,
                apps=apps,
            )
    notes = [
        "An application process with `@mlflow.trace`, five spans a trace, asynchronous logging "
        "with its default queue; the clock stops when the SDK has flushed.",
        "A free server's: what the applications, a process each, can send at most, were the server "
        "to take no processor time at all: the offered rate, or what the SDK's own leaves.",
        "Whole traces: spans that arrived, divided by five. The burst fits into the SDK's queue, "
        "so that nothing has to be dropped; the steady load does not if the server is slow.",
    ]
    record("SDK end to end", table, notes)


def _measure(
    label: str,
    servers: Sequence[Server],
    table: Table,
    options: argparse.Namespace,
    *,
    traces: int,
    rate: float,
    apps: int,
) -> None:
    runs: dict[str, list[Run]] = {server.name: [] for server in servers}
    for number in range(options.rounds):
        for server in servers if number % 2 == 0 else servers[::-1]:
            run = _run(server, traces=traces, rate=rate, apps=apps, quiet=options.quiet)
            runs[server.name].append(run)
    rates, bounds = {}, {}
    for server in servers:
        mine = runs[server.name]
        app_cpu_s = median(run.app_cpu_s for run in mine) / traces
        bound = min(apps, os.cpu_count() or 1) / app_cpu_s
        bounds[server.name] = min(bound, rate) if rate else bound
        rates[server.name] = median(run.whole / run.seconds for run in mine)
        lost_traces = sum(run.lost_traces for run in mine)
        lost_spans = sum(run.lost_spans for run in mine)
        offered = traces * len(mine)
        table.add(
            label,
            server.name,
            f"{rates[server.name]:.1f}",
            f"{bounds[server.name]:.1f}",
            f"{lost_traces} of {offered} traces, {lost_spans} of {offered * SPANS_PER_TRACE} spans",
            f"{1e3 * app_cpu_s:.1f}",
            f"{1e3 * median(run.server_cpu_s / max(1.0, run.whole) for run in mine):.1f}",
        )
    at_most = ratio(bounds["vedette"], rates["mlflow"])
    table.add(label, "ratio", ratio(rates["vedette"], rates["mlflow"]), at_most, "", "", "")


def _run(server: Server, *, traces: int, rate: float, apps: int, quiet: float) -> Run:
    experiment = server.create_experiment(f"sdk {time.time_ns()}")
    wait_until_quiet(at_most_seconds=quiet)
    before = cpu_seconds(server.pid)
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "bench.sdk_app",
                f"--url={server.url}",
                f"--experiment={experiment}",
                f"--traces={traces // apps}",
                f"--rate={rate / apps}",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a warning per lost trace
            cwd=Path(__file__).parent.parent,
        )
        for _ in range(apps)
    ]
    try:
        outputs = [app.communicate(timeout=_APP_SECONDS)[0] for app in started]
    finally:
        for app in started:
            app.kill()
    reports = [json.loads(output.splitlines()[-1]) for output in outputs]
    server.drain()
    used = cpu_seconds(server.pid) - before
    spans = count_spans(server, experiment)
    return Run(
        seconds=max(report["flushed_s"] for report in reports),
        whole=spans / SPANS_PER_TRACE,
        lost_traces=traces - len(trace_ids(server, experiment)),
        lost_spans=traces * SPANS_PER_TRACE - spans,
        app_cpu_s=sum(report["cpu_s"] for report in reports),
        server_cpu_s=used,
    )


if __name__ == "__main__":
    main()
