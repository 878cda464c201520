"""A whole Vedette, run as a user would, for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Pieces of MLflow under test talk to the server of their test, never to the outside.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@dataclass
class RunningVedette:
    """A ``vedette up`` of this test run."""

    process: subprocess.Popen[bytes]
    url: str
    data: Path
    log: Path

    def health(self) -> dict[str, Any]:
        """The body of ``GET /health``."""
        with urllib.request.urlopen(f"{self.url}/health", timeout=10) as response:
            health: dict[str, Any] = json.load(response)
        return health

    def wait_until(self, condition: Callable[[], Any], seconds: float = 60.0) -> Any:
        """The first true value of ``condition()``; fails with the log after ``seconds``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if value := condition():
                    return value
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        pytest.fail(f"not within {seconds} s; the log says:\n{self.log.read_text()}")

    def stop(self) -> int:
        """SIGTERM, as ``systemctl stop`` would; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=15)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def launch_vedette(data: Path, **settings: Any) -> RunningVedette:
    """Start ``vedette up`` on ``data``."""
    settings = {"port": free_port(), "trace_completion_buffer": 1.0, **settings}
    command = [sys.executable, "-m", "vedette", "up", "--data", str(data)]
    for name, value in settings.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    data.mkdir(parents=True, exist_ok=True)
    log = data / "log.txt"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=data, start_new_session=True
        )
    return RunningVedette(process, f"http://127.0.0.1:{settings['port']}", data, log)


def start_vedette(data: Path, **settings: Any) -> RunningVedette:
    """Start ``vedette up`` on ``data`` and wait until it is healthy."""
    running = launch_vedette(data, **settings)
    try:
        running.wait_until(lambda: running.health()["status"] == "ok", seconds=120)
    except BaseException:
        running.stop()
        raise
    return running
