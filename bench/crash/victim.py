"""The Vedette that is killed: starts, finds its parts, kills one, starts again."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from bench.json_client import HttpError, JsonClient
from bench.processes import still_running, tree

PARTS = ("server", "engine", "worker", "supervisor", "everything")
_WEIGHTS = (3, 3, 2, 1, 1)
_FIND_SECONDS = 60.0  # for a part to be there, so that it can be killed
_READY_SECONDS = 120.0
_ORPHAN_SECONDS = 30.0  # what a killed supervisor leaves behind must be gone by then


class Victim:
    """A ``vedette up`` on one data directory, started as often as needed."""

    def __init__(
        self,
        data: Path,
        port: int,
        settings: Mapping[str, str],
        *,
        only: Sequence[str] = PARTS,
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.killed: Counter[str] = Counter()
        self.gave_up = 0  # times `up` ended by itself
        self.problems: list[str] = []
        self.log = data.with_suffix(".log")
        self._command = [sys.executable, "-m", "vedette", "up", f"--data={data}", f"--port={port}"]
        self._environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self._deck: list[str] = []
        self._only = only

    def start(self) -> None:
        """Start, without waiting until it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment, cwd=self.log.parent
            )

    def wait_until_ready(self) -> None:
        """Until the server answers and the engine works; starts it again if it has ended.

        Raises:
            TimeoutError: not within 2 minutes.
        """
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            self._start_if_ended()
            with contextlib.suppress(OSError, ValueError, HttpError):
                health = JsonClient(self.url, timeout=5.0).call("GET", "/health")
                if health["parts"]["engine"]["state"] == "running":
                    return
            time.sleep(0.1)
        raise TimeoutError(f"{self.url} is not ready; see {self.log}")

    def kill_one(self) -> str:
        """SIGKILL to a random part; each kind of part has its turn.

        Returns:
            What was killed.
        """
        if not self._deck:
            # So that few kills hit every part and many hit them by weight.
            weights = [_WEIGHTS[PARTS.index(part)] for part in self._only]
            self._deck = list(self._only) + random.choices(self._only, weights, k=len(PARTS))
            random.shuffle(self._deck)
        part = self._deck.pop()
        deadline = time.monotonic() + _FIND_SECONDS
        while not (found := self._find(part)):
            if time.monotonic() > deadline:
                self.problems.append(f"there was no {part} for {_FIND_SECONDS:.0f} s")
                return f"no {part}"
            self._start_if_ended()
            time.sleep(0.02)
        family = self._family()
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.killed[part] += 1
        if part in ("supervisor", "everything"):
            assert self._process is not None
            self._process.wait()
            self.start()  # at once: it must cope with what its predecessor has left
            if alive := still_running(family, after_seconds=_ORPHAN_SECONDS):
                names = ", ".join(str(process.pid) for process in alive)
                self.problems.append(f"the killed supervisor left processes {names} behind")
        return part

    def stop(self) -> None:
        """SIGTERM; must end with 0 in 10 s and leave no process behind."""
        assert self._process is not None
        family, began = self._family(), time.monotonic()
        self._process.terminate()
        try:
            code = self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.problems.append("SIGTERM did not end it within 30 s")
            self.end()
            return
        seconds = time.monotonic() - began
        if code != 0 or seconds > 10:
            self.problems.append(f"SIGTERM: exit code {code} after {seconds:.1f} s")
        if orphans := still_running(family, after_seconds=1.0):
            self.problems.append(f"SIGTERM left {orphans} behind")

    def end(self) -> None:
        """Whatever happens, leave nothing running."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()

    def _start_if_ended(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self.gave_up += 1
            time.sleep(1.0)  # as a service manager would
            self.start()

    def _family(self) -> list[psutil.Process]:
        return tree(self._process.pid) if self._process is not None else []

    def _find(self, part: str) -> list[psutil.Process]:
        """The processes of a part; empty while it is not there."""
        family = self._family()
        if not family or part == "everything":
            return family
        if part == "supervisor":
            return family[:1]
        for child in family[1:]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if child.ppid() != family[0].pid:
                    continue
                words = child.cmdline()
                if part in words:
                    return [child]
                if part == "worker" and "engine" in words:
                    workers = child.children(recursive=True)
                    return [random.choice(workers)] if workers else []
        return []
