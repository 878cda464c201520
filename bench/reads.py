"""Reads at 50,000 traces, both servers: lists, one trace, the hourly aggregates of the Overview."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from statistics import median

from bench.agent_traces import TraceRef
from bench.processes import wait_until_quiet
from bench.queries import OVERVIEW, all_traces, count_spans, overview, search
from bench.results import Table, ratio, record
from bench.servers import Server, mlflow_server, vedette_up
from bench.stock_traces import multiply, send_day

Read = Callable[[], object]


def main() -> None:
    """Run the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=50_000, help="in each server")
    parser.add_argument(
        "--seeds", type=int, default=1_000, help="traces that MLflow gets before multiplication"
    )
    parser.add_argument("--repeats", type=int, default=15, help="of every read")
    parser.add_argument("--quiet", type=float, default=60.0, help="wait for quiet, at most seconds")
    options = parser.parse_args()
    seeds = min(options.seeds, options.traces)
    table = Table("read", "vedette ms", "mlflow ms", "vedette takes")
    with tempfile.TemporaryDirectory(prefix="vedette-bench-") as scratch, ExitStack() as running:
        peer_directory = Path(scratch) / "mlflow"
        with mlflow_server(peer_directory) as seeded:
            peer_experiment = seeded.create_experiment("reads")
            send_day(seeded, peer_experiment, seeds)
        multiply(peer_directory / "mlflow.db", seeds, options.traces // seeds - 1)
        ours = running.enter_context(vedette_up(Path(scratch) / "vedette"))
        experiment = ours.create_experiment("reads")
        send_day(ours, experiment, options.traces)
        ours.drain()
        peer = running.enter_context(mlflow_server(peer_directory))
        for server, its_experiment in ((ours, experiment), (peer, peer_experiment)):
            _require(server, its_experiment, options.traces // seeds * seeds)
        wait_until_quiet(at_most_seconds=options.quiet)
        until_ms = int(time.time() * 1000)
        mine = reads(ours, experiment, sample(ours, experiment), until_ms)
        theirs = reads(peer, peer_experiment, sample(peer, peer_experiment), until_ms)
        for name, read in mine.items():
            times = in_turns((read, theirs[name]), options.repeats)
            table.add(name, f"{times[0]:.1f}", f"{times[1]:.1f}", ratio(times[0], times[1]))
        sizes = {
            "vedette": vedette_bytes(ours.directory / "data"),
            "mlflow": {"mlflow.db": _bytes(peer_directory / "mlflow.db")},
        }
    kilobytes = {
        name: ", ".join(f"{part} {size / options.traces / 1000:.2f}" for part, size in s.items())
        for name, s in sizes.items()
    }
    notes = [
        f"{options.traces:,} traces over the last 24 hours in each, each with a feedback; "
        f"medians of {options.repeats} over one kept HTTP connection, in turns.",
        f"MLflow wrote {seeds:,} of its traces itself; `mlflow_copies.sql` multiplied them.",
        "The Overview's reads are all requests that the tab makes, recorded in a browser.",
        f"On disk, kB per trace: Vedette {kilobytes['vedette']}; MLflow {kilobytes['mlflow']}.",
    ]
    record(f"Reads at {options.traces:,} traces", table, notes)


def reads(
    server: Server, experiment_id: str, sample: Sequence[TraceRef], until_ms: int
) -> dict[str, Read]:
    """The reads that are timed, by name; each call reads something else where that matters."""
    refs: Iterator[TraceRef] = iter(lambda: random.choice(sample), None)

    def by_session() -> object:
        wanted = f"metadata.`mlflow.trace.session` = '{next(refs).session_id}'"
        return _some(search(server, experiment_id, filter_string=wanted))

    def by_tag() -> object:
        return _some(search(server, experiment_id, filter_string="tags.env = 'canary'"))

    def one_trace() -> object:
        return server.call("GET", f"/api/3.0/mlflow/traces/get?trace_id={next(refs).trace_id}")

    return {
        "newest 100": lambda: _some(search(server, experiment_id)),
        "by session": by_session,
        "by tag (100 of a tenth)": by_tag,
        "one trace with its spans": one_trace,
        **{
            f"Overview, {tab} ({len(requests)} requests)": (
                lambda tab=tab: overview(server, experiment_id, tab, until_ms)  # type: ignore[misc]
            )
            for tab, requests in OVERVIEW.items()
        },
    }


def in_turns(candidates: Sequence[Read], repeats: int) -> list[float]:
    """Median milliseconds of each, after one call that is not counted."""
    times: list[list[float]] = [[] for _ in candidates]
    for number in range(repeats + 1):
        order = range(len(candidates)) if number % 2 == 0 else reversed(range(len(candidates)))
        for i in order:
            began = time.perf_counter()
            candidates[i]()
            if number:
                times[i].append(1e3 * (time.perf_counter() - began))
    return [median(t) for t in times]


def vedette_bytes(data: Path) -> dict[str, int]:
    """Bytes on disk by part of a data directory."""
    parts = {
        "lake": [data / "lake"],
        "index": sorted(data.glob("index.db*")),
        "metrics": sorted(data.glob("metrics.duckdb*")),
        "journal": [data / "journal"],
    }
    return {name: sum(map(_bytes, paths)) for name, paths in parts.items()}


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files)


def _some(page: dict[str, object]) -> object:
    """Raises RuntimeError when a list that must have traces is empty."""
    if not page.get("traces"):
        raise RuntimeError(f"a list came back empty: {page}")
    return page


def sample(server: Server, experiment_id: str) -> list[TraceRef]:
    """The newest traces, to choose sessions and single traces from."""
    infos = islice(all_traces(server, experiment_id), 3_000)
    return [
        TraceRef(
            info["trace_id"],
            info["trace_metadata"]["mlflow.trace.session"],
            info["tags"]["env"],
        )
        for info in infos
    ]


def _require(server: Server, experiment_id: str, traces: int) -> None:
    found = count_spans(server, experiment_id)
    if found != 5 * traces:
        raise RuntimeError(f"{server.name} has {found} spans, not {5 * traces}: nothing to compare")


if __name__ == "__main__":
    main()
