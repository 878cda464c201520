"""The two servers under test, started as a user would start them, each on a fresh directory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

from bench.json_client import JsonClient
from bench.processes import end, tree

READY_SECONDS = 240.0  # four workers that import mlflow on a busy machine take long
_BIN = Path(sys.executable).parent


@dataclass
class Server:
    """A running server."""

    name: str  # vedette | mlflow
    url: str
    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def pid(self) -> int:
        """Of the process at the top of the tree."""
        return self.process.pid

    @cached_property
    def client(self) -> JsonClient:
        """For the main thread."""
        return JsonClient(self.url)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """A JSON request to the server; raises as `JsonClient.call` does."""
        return self.client.call(method, path, body)

    def create_experiment(self, name: str) -> str:
        """The id of a new experiment."""
        answer = self.call("POST", "/api/2.0/mlflow/experiments/create", {"name": name})
        return str(answer["experiment_id"])

    def drain(self, *, at_most_seconds: float = 120.0) -> float:
        """Wait until everything acknowledged is in its tables; MLflow's are when it answers.

        Returns:
            Seconds waited.

        Raises:
            TimeoutError: there was still a backlog.
        """
        began = time.monotonic()
        while self.name == "vedette":
            health = self.call("GET", "/health")
            if drained(health):
                break
            if time.monotonic() - began > at_most_seconds:
                raise TimeoutError(f"not drained after {at_most_seconds:.0f} s: {health}")
            time.sleep(0.1)
        return time.monotonic() - began


def drained(health: Mapping[str, Any]) -> bool:
    """Whether Vedette's journals hold nothing that the lake lacks."""
    return int(health["journal"]["backlog_bytes"]) == 0


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def mlflow_server(directory: Path) -> Iterator[Server]:
    """Stock ``mlflow server`` over sqlite, with its default number of workers."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [
        str(_BIN / "mlflow"),
        "server",
        f"--backend-store-uri=sqlite:///{directory / 'mlflow.db'}",
        f"--default-artifact-root={directory / 'artifacts'}",
        "--host=127.0.0.1",
        f"--port={port}",
    ]
    with _running("mlflow", command, directory, port) as server:
        yield server


@contextlib.contextmanager
def vedette_up(directory: Path, part: str = "up", **environment: str) -> Iterator[Server]:
    """``vedette up``: server, engine and workers. Or ``vedette server``: it alone."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [str(_BIN / "vedette"), part, f"--data={directory / 'data'}", f"--port={port}"]
    with _running("vedette", command, directory, port, environment) as server:
        yield server


@contextlib.contextmanager
def _running(
    name: str,
    command: list[str],
    directory: Path,
    port: int,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    log = directory / "server.log"
    signal.signal(signal.SIGTERM, _exit)  # so that a stopped benchmark leaves nothing running
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", **(environment or {})},
        )
    try:
        server = Server(name, f"http://127.0.0.1:{port}", process, directory)
        wait_until_ready(server.url, process, log)
        yield server
    finally:
        processes = tree(process.pid)
        if processes:
            end(processes)
        process.wait()


def wait_until_ready(
    url: str, process: subprocess.Popen[bytes], log: Path, at_most_seconds: float = READY_SECONDS
) -> float:
    """Wait until ``GET /health`` answers 200.

    Returns:
        Seconds waited.

    Raises:
        RuntimeError: the process ended, or did not answer in time; with the end of its log.
    """
    began = time.monotonic()
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url + "/health", timeout=5):
            return time.monotonic() - began
        waited = time.monotonic() - began
        if process.poll() is not None or waited > at_most_seconds:
            end_of_log = log.read_text(errors="replace")[-3000:]
            state = (
                f"ended with {_reason(process.returncode)}"
                if process.returncode is not None
                else f"was not ready after {waited:.0f} s"
            )
            raise RuntimeError(f"{url} {state}. The end of {log}:\n{end_of_log}")
        time.sleep(0.1)


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _reason(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
