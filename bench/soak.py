"""A busy experiment after thirty days: is it as quick as on the first, and does it stay so?

Time is compressed. The days that are over are there from the start, as files and versions with
few rows (`bench.aged`). Then 20 traces a second arrive at a `vedette up` that commits ten times as
often as it would, ten commits a second to each table, all traces scored, while logs and replaced
files are kept a tenth as long. So the log holds as many entries, and a table as many small files,
as they do after a month, and an hour makes ten hours of versions. Compaction, checkpoints and log
clean-up have ten times the work in their usual turns.

Fails if latency, memory, open files or the log grow: a line is fitted to the second two thirds of
each series, and its rise over that time may be no more than a share of the median.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from deltalake import DeltaTable

from bench.aged import age
from bench.agent_traces import AgentTraces
from bench.json_client import JsonClient
from bench.live_scorers import CODE
from bench.live_scores import start_scorer
from bench.processes import pss_bytes, tree, wait_until_quiet
from bench.queries import search
from bench.results import Table, record
from bench.servers import Server, vedette_up
from vedette.lake.location import DEFAULT
from vedette.lake.schemas import SPANS

_LOOK_SECONDS = 0.2
_SAMPLES = 120
_REBUILD_SECONDS = 600.0
_LOOKS = 5  # at each latency, for a sample
_WARM_UP = 1 / 3  # of the time: caches fill, the log reaches its length


class Limit(NamedTuple):
    """What may grow by how much over the run, after the warm-up."""

    share: float  # of the median
    least: float  # so much is always allowed, in the unit of the series


@dataclass(slots=True)
class Series:
    """What was measured, each at `seconds` after the beginning."""

    seconds: list[float] = field(default_factory=list)
    commit_ms: list[float] = field(default_factory=list)  # from arrival to all tables
    list_ms: list[float] = field(default_factory=list)  # the newest 100 traces
    trace_ms: list[float] = field(default_factory=list)  # one trace with its spans
    memory_mb: list[float] = field(default_factory=list)  # PSS of all processes
    open_files: list[float] = field(default_factory=list)  # of all processes
    log_files: list[float] = field(default_factory=list)  # in the tables' logs
    log_mb: list[float] = field(default_factory=list)
    active_files: list[float] = field(default_factory=list)  # of the spans table
    journal_files: list[float] = field(default_factory=list)


LIMITS = {
    "commit_ms": Limit(0.25, 30.0),
    "list_ms": Limit(0.25, 5.0),
    "trace_ms": Limit(0.25, 5.0),
    "memory_mb": Limit(0.10, 30.0),
    "open_files": Limit(0.10, 8.0),
    "log_files": Limit(0.25, 100.0),
    "log_mb": Limit(0.25, 2.0),
    "active_files": Limit(0.10, 60.0),
    "journal_files": Limit(0.25, 6.0),
}


class Growth(NamedTuple):
    """How a series went after the warm-up."""

    median: float
    rise: float  # of the fitted line, from its beginning to its end
    allowed: float

    @property
    def is_flat(self) -> bool:
        return self.rise <= self.allowed


def growth(seconds: Sequence[float], values: Sequence[float], limit: Limit) -> Growth:
    """Fit a line to what comes after the warm-up; falling is no growth."""
    end = seconds[-1]
    kept = [(t, v) for t, v in zip(seconds, values, strict=True) if t >= end * _WARM_UP]
    times, found = np.array(kept).T
    slope = np.polyfit(times, found, 1)[0] if len(kept) > 1 else 0.0
    median = float(np.median(found))
    rise = float(slope) * (times[-1] - times[0])
    return Growth(median, rise, max(limit.share * median, limit.least))


def main() -> None:
    """Measure and record; exit code 1 if something grows, or a trace is refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=60.0,
        help="of traffic; below 20 the log is not yet as long as it gets",
    )
    parser.add_argument("--days", type=int, default=30, help="that are over")
    parser.add_argument("--rate", type=int, default=20, help="traces per second")
    parser.add_argument(
        "--speed",
        type=int,
        default=10,
        help="commits a second to each table; if they lag ever more, the machine can't do as many",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vedette-soak-") as scratch:
        sys.exit(_measure(Path(scratch) / "vedette", options))


def _measure(directory: Path, options: argparse.Namespace) -> int:
    files = age(directory / "data", options.days, options.speed)
    print(f"{options.days} days: {files}", flush=True)
    with soaking(directory, options.speed) as server:
        wait_until_quiet()
        before = version(directory)
        series, refused = run(server, directory, options.rate, options.minutes * 60)
        commits = version(directory) - before
    table = Table("", "first", "median", "last", "rise", "allowed", "flat")
    steady = True
    for name, limit in LIMITS.items():
        values = getattr(series, name)
        found = growth(series.seconds, values, limit)
        steady &= found.is_flat
        table.add(
            name.replace("_", " "),
            *(f"{value:,.1f}" for value in (values[0], found.median, values[-1])),
            f"{found.rise:+,.1f}",
            f"{found.allowed:,.1f}",
            "yes" if found.is_flat else "NO",
        )
    rates = ", ".join(f"{name} {count:,}" for name, count in files.items())
    record(
        "Soak",
        table,
        [
            f"{options.minutes:.0f} minutes of {options.rate} traces/s of five spans and 12 kB, "
            f"all scored, after {options.days} days ({rates} files); {commits:,} commits of spans, "
            f"{commits / (options.minutes * 60):.1f} a second; {refused} requests refused.",
            f"Time is compressed {options.speed} times: so many more commits, logs and replaced "
            "files kept so much shorter. The days that are over have few rows in as many files "
            "and versions.",
            "commit: from arrival to all tables. list: the newest 100. trace: one with its spans. "
            "memory: PSS of all processes. log: of the three tables.",
            "rise: of a line fitted after the first third; allowed: a share of the median "
            "(latencies and logs 25 %, memory and files 10 %), and always a little.",
        ],
    )
    return 0 if steady and not refused else 1


def soaking(directory: Path, speed: int) -> contextlib.AbstractContextManager[Server]:
    """A Vedette that commits ``speed`` times a second."""
    return vedette_up(directory, VEDETTE_SEGMENT_SECONDS=str(1 / speed))


def version(directory: Path) -> int:
    """Of the spans table."""
    return int(DeltaTable(str(_table(directory, SPANS.name))).version())


def run(server: Server, directory: Path, rate: int, seconds: float) -> tuple[Series, int]:
    """Send traces and measure; returns that, and how many requests were refused."""
    _await_read_model(server)
    experiment = server.create_experiment("soak")
    start_scorer(server.url, experiment, CODE, 1.0)
    traffic = _Traffic(server.url, experiment, rate)
    series = Series()
    began = time.monotonic()
    every = max(1.0, seconds / _SAMPLES)
    try:
        while (elapsed := time.monotonic() - began) < seconds:
            time.sleep(max(0.0, (len(series.seconds) + 1) * every - elapsed))
            _sample(series, time.monotonic() - began, server, directory, experiment, traffic.last)
    finally:
        traffic.stop()
    return series, traffic.refused


def _await_read_model(server: Server) -> None:
    """It is made of the days that are over, by the engine."""
    patient_until = time.monotonic() + _REBUILD_SECONDS
    while (health := server.call("GET", "/health"))["status"] != "ok":
        if time.monotonic() > patient_until:
            raise TimeoutError(f"not ready after {_REBUILD_SECONDS:.0f} s: {health}")
        time.sleep(0.5)


class _Traffic:
    """Sends one trace per request, at fixed times, on a thread of its own."""

    def __init__(self, url: str, experiment: str, rate: int) -> None:
        self.refused = 0
        self.last = ""  # the trace that was acknowledged a while ago
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(url, experiment, rate))
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self, url: str, experiment: str, rate: int) -> None:
        maker, client = AgentTraces(5), JsonClient(url)
        headers = {"x-mlflow-experiment-id": experiment, "content-type": "application/x-protobuf"}
        began, number = time.monotonic(), 0
        while not self._over.wait(max(0.0, began + number / rate - time.monotonic())):
            number += 1
            request = maker.request([time.time_ns()])
            try:
                client.send("POST", "/v1/traces", request.body, headers)
            except Exception as error:
                self.refused += 1
                print(f"refused: {error}", flush=True)
                continue
            if number % (10 * rate) == 1:
                self.last = request.traces[0].trace_id


def _sample(
    series: Series, at: float, server: Server, directory: Path, experiment: str, trace: str
) -> None:
    lags = []
    for _ in range(_LOOKS):
        lags.append(float(server.call("GET", "/health")["lake"]["lag_seconds"] or 0.0) * 1000)
        time.sleep(_LOOK_SECONDS)
    processes = tree(server.pid)
    logs = list(directory.glob(f"data/lake/{DEFAULT.catalog}/{DEFAULT.schema}/*/_delta_log/*"))
    handle = DeltaTable(str(_table(directory, SPANS.name)))
    found = {
        "seconds": at,
        "commit_ms": statistics.median(lags),
        "list_ms": _median_ms(lambda: search(server, experiment)),
        "trace_ms": _median_ms(
            lambda: server.call("GET", f"/api/3.0/mlflow/traces/get?trace_id={trace}")
        )
        if trace
        else 0.0,
        "memory_mb": pss_bytes(server.pid) / 1e6,
        "open_files": float(sum(map(_open_files, processes))),
        "log_files": float(len(logs)),
        "log_mb": sum(map(_size, logs)) / 1e6,
        "active_files": float(len(handle.file_uris())),
        "journal_files": float(len(list(directory.glob("data/journal/*/*.sealed")))),
    }
    for one in fields(series):
        getattr(series, one.name).append(found[one.name])


def _median_ms(read: Callable[[], object]) -> float:
    times = []
    for _ in range(_LOOKS):
        began = time.perf_counter()
        read()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def _open_files(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.num_fds())
    return 0


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):  # cleaned up meanwhile
        return path.stat().st_size
    return 0


def _table(directory: Path, name: str) -> Path:
    return (directory / "data" / "lake").joinpath(*DEFAULT.table(name))


if __name__ == "__main__":
    main()
