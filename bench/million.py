"""A million traces in Vedette: reads against its own at 50,000, memory and disk as it fills."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bench.otlp_client import send
from bench.processes import pss_by_part, pss_bytes, wait_until_quiet
from bench.queries import DAY_MS, count_spans
from bench.reads import Read, in_turns, reads, sample, vedette_bytes
from bench.results import Table, ratio, record
from bench.servers import Server, vedette_up
from bench.stamped_requests import StampedRequests

_TRACES_PER_REQUEST = 100
_REQUESTS_PER_CHUNK = 100  # held in memory at once
_SAMPLE_SECONDS = 2.0
_DRAIN_SECONDS = 1_200.0
_FLAT_SECONDS = 30.0  # of rest after the fill, for the last memory sample
_BYTES_PER_TRACE = 20_000  # of free disk that must be there: several times what is used
_MEGABYTE = 1e6


class Memory(NamedTuple):
    """One look at the process tree."""

    traces: int
    pss_bytes: int


def main() -> None:
    """Run the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=1_000_000)
    parser.add_argument("--compare-at", type=int, default=50_000, help="reads are also timed here")
    parser.add_argument("--payload", type=int, default=1_500, help="bytes of text per trace")
    parser.add_argument("--repeats", type=int, default=15, help="of every read")
    parser.add_argument("--seconds", type=float, default=1_200.0, help="longest time of the fill")
    parser.add_argument("--quiet", type=float, default=60.0, help="wait for quiet, at most seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vedette-bench-") as scratch:
        free = shutil.disk_usage(scratch).free
        if free < options.traces * _BYTES_PER_TRACE:
            parser.error(
                f"{scratch} has {free:,} bytes free, too few for {options.traces:,} traces"
            )
        with vedette_up(Path(scratch) / "vedette") as server:
            _measure(server, options)


def _measure(server: Server, options: argparse.Namespace) -> None:
    experiment = server.create_experiment("million")
    filling = Filling(server, experiment, options.payload, options.seconds)
    times: list[Mapping[str, float]] = []
    for size in (options.compare_at, options.traces):
        filling.fill_to(size)
        rate = filling.traces / filling.seconds
        print(f"{filling.traces:,} traces sent, {rate:.0f}/s, {filling.told()}", flush=True)
        waited = server.drain(at_most_seconds=_DRAIN_SECONDS)
        filling.drained_seconds += waited
        print(f"... in the lake {waited:.1f} s later, {filling.told()}", flush=True)
        wait_until_quiet(at_most_seconds=options.quiet)
        filling.sample()
        chosen = sample(server, experiment)
        timed = reads(server, experiment, chosen, int(time.time() * 1000))
        times.append(_time(timed, options.repeats))
        filling.sample()
    rest_began = time.monotonic()
    while time.monotonic() - rest_began < _FLAT_SECONDS:
        time.sleep(_SAMPLE_SECONDS)
        filling.sample()
    found = count_spans(server, experiment) // 5
    table = Table("read", f"ms at {options.compare_at:,}", f"ms at {found:,}", "ratio")
    for name, before in times[0].items():
        table.add(name, f"{before:.1f}", f"{times[1][name]:.1f}", ratio(times[1][name], before))
    record("A million traces", table, _notes(filling, server, found, options))


def _notes(filling: Filling, server: Server, found: int, options: argparse.Namespace) -> list[str]:
    sizes = vedette_bytes(server.directory / "data")
    disk = ", ".join(f"{part} {size / found / 1000:.2f}" for part, size in sizes.items())
    memory = ", ".join(
        f"{m.pss_bytes / _MEGABYTE:.0f} at {m.traces:,}" for m in filling.milestones(8)
    )
    peak = max(m.pss_bytes for m in filling.memory)
    return [
        f"{found:,} traces of {filling.sent_bytes / found / 1000:.1f} kB as sent, "
        f"{options.payload / 1000:.1f} kB of it text that repeats after 2,000 traces; "
        f"{filling.traces - found} lost; medians of {options.repeats} reads.",
        f"Acknowledged at {filling.traces / filling.seconds:.0f} traces/s, "
        f"{_TRACES_PER_REQUEST} per request, 4 connections; all in the lake at "
        f"{filling.traces / (filling.seconds + filling.drained_seconds):.0f} traces/s.",
        f"Memory, MB of PSS of server, engine and workers: {memory}; "
        f"peak {peak / _MEGABYTE:.0f}; after {_FLAT_SECONDS:.0f} s of rest "
        f"{filling.memory[-1].pss_bytes / _MEGABYTE:.0f} ({filling.told()}).",
        f"On disk, kB per trace: {disk}.",
    ]


class Filling:
    """Sends traces, spread over the last 24 hours, and watches the memory meanwhile."""

    def __init__(self, server: Server, experiment: str, payload: int, seconds: float) -> None:
        self.traces = 0
        self.seconds = 0.0
        self.drained_seconds = 0.0
        self.sent_bytes = 0
        self.memory: list[Memory] = []
        self._server = server
        self._experiment = experiment
        self._most_seconds = seconds
        self._made = StampedRequests(
            1, templates=20, traces_per_request=_TRACES_PER_REQUEST, payload_bytes=payload
        )

    def fill_to(self, traces: int) -> None:
        """Send until there are so many, or until the time is over.

        Raises:
            RuntimeError: a request was refused.
        """
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(done,))
        watch.start()
        try:
            while self.traces < traces and self.seconds < self._most_seconds:
                left = -(-(traces - self.traces) // _TRACES_PER_REQUEST)
                self._send(min(left, _REQUESTS_PER_CHUNK))
        finally:
            done.set()
            watch.join()

    def sample(self) -> None:
        """Look at the memory now."""
        self.memory.append(Memory(self.traces, pss_bytes(self._server.pid)))

    def told(self) -> str:
        """The memory now, for people."""
        parts = pss_by_part(self._server.pid)
        return ", ".join(f"{name} {size / _MEGABYTE:.0f} MB" for name, size in parts.items())

    def milestones(self, count: int) -> list[Memory]:
        """Evenly chosen samples, the first and the last among them."""
        last = len(self.memory) - 1
        return [self.memory[i * last // (count - 1)] for i in range(count)]

    def _send(self, requests: int) -> None:
        now = time.time_ns()
        bodies = list(self._made.bodies(now - DAY_MS * 1_000_000, now, requests))
        sent = send(self._server.url, self._experiment, bodies, concurrency=4, seconds=600)
        if len(sent.acknowledged) < len(bodies):
            raise RuntimeError(f"refused while filling: {sent.refused}")
        self.seconds += sent.seconds
        self.sent_bytes += sum(map(len, bodies))
        self.traces += requests * _TRACES_PER_REQUEST

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(_SAMPLE_SECONDS):
            self.sample()


def _time(timed: Mapping[str, Read], repeats: int) -> dict[str, float]:
    return {name: in_turns([read], repeats)[0] for name, read in timed.items()}


if __name__ == "__main__":
    main()
