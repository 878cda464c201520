"""Ten minutes without an engine, under traffic: how fast does it catch up, and in order?

The server goes on acknowledging and its journal grows; then the engine starts again. Every trace
must be in the tables and scored, once, in the order of arrival.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
from deltalake import DeltaTable

from bench.live_scorers import CODE
from bench.live_scores import TAKE_UP_SECONDS, send, start_scorer
from bench.processes import end, pss_bytes, tree, wait_until_quiet
from bench.queries import count_traces
from bench.results import Table, record
from bench.servers import Server, drained, vedette_up

_LOOK_SECONDS = 0.5
_DRAIN_SECONDS = 1_800.0
_COMPLETION_SECONDS = 10.0  # trace_completion_buffer's default


def main() -> None:
    """Measure and record; exit code 1 if a trace or a score is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=300, help="traces per second")
    parser.add_argument("--minutes", type=float, default=10.0, help="without an engine")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vedette-bench-") as scratch:
        sys.exit(_measure(Path(scratch) / "vedette", options.rate, options.minutes * 60))


def _measure(directory: Path, rate: int, seconds: float) -> int:
    with vedette_up(directory) as server:
        experiment = server.create_experiment("restart")
        start_scorer(server.url, experiment, CODE, 1.0)
        time.sleep(TAKE_UP_SECONDS)
    wait_until_quiet()
    order: list[str] = []
    with vedette_up(directory, "server") as server:
        for request, _ in send(server.url, experiment, rate, seconds):
            order += [trace.trace_id for trace in request.traces]
        backlog = int(server.call("GET", "/health")["journal"]["backlog_bytes"])
        print(f"{len(order):,} traces wait, {backlog / 1e6:.0f} MB of journal", flush=True)
        engine = subprocess.Popen(
            [sys.executable, "-m", "vedette", "engine", f"--data={directory / 'data'}"],
            stdout=(directory / "engine.log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        try:
            began, peak = time.monotonic(), 0
            in_tables = scored = 0.0
            while not scored and time.monotonic() - began < _DRAIN_SECONDS:
                time.sleep(_LOOK_SECONDS)
                peak = max(peak, pss_bytes(engine.pid))
                elapsed = time.monotonic() - began
                empty = drained(server.call("GET", "/health"))
                if empty and not in_tables:
                    in_tables = elapsed
                if empty and _decided(server, experiment) == len(order):
                    scored = elapsed
            found = count_traces(server, experiment)
        finally:
            end(tree(engine.pid))
            engine.wait()
    units, distinct, back = _scored_order(directory / "data" / "lake", order)
    table = Table("traces waiting", "journal MB", "in tables/s", "scored/s", "lost", "unscored")
    table.add(
        f"{len(order):,}",
        f"{backlog / 1e6:.0f}",
        f"{len(order) / in_tables:.0f}" if in_tables else "-",
        f"{len(order) / scored:.0f}" if scored else "-",
        str(len(order) - found),
        str(len(order) - distinct),
    )
    record(
        "Ten minutes without an engine",
        table,
        [
            f"{seconds / 60:g} minutes at {rate} traces/s, five spans and 12 kB each; one code "
            "scorer at rate 1. Times count from the start of the engine's process.",
            f"{units - distinct} scores too many; the furthest that a decision comes behind one "
            f"for a trace that arrived later: {back:,} traces.",
            f"Engine and workers: at most {peak / 1e6:.0f} MB of PSS.",
        ],
    )
    return 0 if len(order) == found == distinct == units else 1


def _decided(server: Server, experiment: str) -> int:
    rows = server.call("GET", f"/api/scorers?experiment_id={experiment}")["scorers"]
    return sum(int(row["scored"]) for row in rows)


def _scored_order(lake: Path, order: list[str]) -> tuple[int, int, int]:
    """Scores, traces that have one, and the largest step back in the order of arrival."""
    decisions = DeltaTable(str(lake / "main" / "default" / "mlflow_monitor_decisions"))
    with duckdb.connect() as connection:
        connection.register("rows", decisions.to_pyarrow_table())
        units = [
            unit
            for (unit,) in connection.execute(
                "SELECT 'tr-' || trace_id FROM rows WHERE decision = 'scored' ORDER BY record_id"
            ).fetchall()
        ]
    place = {trace_id: number for number, trace_id in enumerate(order)}
    furthest = back = 0
    for unit in units:
        furthest = max(furthest, place[unit])
        back = max(back, furthest - place[unit])
    return len(units), len(set(units)), back


if __name__ == "__main__":
    main()
