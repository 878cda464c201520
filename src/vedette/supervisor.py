"""``vedette up``: start the server and the engine, restart what dies, stop everything in order.

One thread, no polling while all is well: signals (a child's death, a request to stop) wake the loop
through a pipe. Each child leads its own process group, so that Ctrl-C reaches only the supervisor
and nothing a child started outlives it.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from vedette.processes import exclusive_lock, write_state
from vedette.settings import Settings, env_name

logger = logging.getLogger(__name__)

PARTS = ("server", "engine")
STATE_FILE = "supervisor.json"

_READY_SECONDS = 20.0  # after this, what is not ready is reported
_STOP_SECONDS = 8.0  # children that need longer are killed
_ORPHAN_SECONDS = 12.0  # more than children need to stop when their supervisor is gone
_FIRST_BACKOFF = 0.5
_LONGEST_BACKOFF = 30.0
_STEADY_SECONDS = 60.0  # a child that ran this long starts with a fresh backoff
_START_ATTEMPTS = 3  # deaths of the server before it was ever ready that end `up`


class StartFailed(Exception):
    """Vedette can't start; the message says why and what to do."""


class Child:
    """One supervised process: running, or waiting to be started again."""

    def __init__(self, part: str, settings: Settings) -> None:
        self.part = part
        self.restarts = 0
        self.since = time.time()
        self.process: subprocess.Popen[bytes] | None = None
        self.start_at = 0.0  # monotonic; when to start it, while it is not running
        self._backoff = _FIRST_BACKOFF
        self._started_at = 0.0
        self._environment = {**os.environ, **_environment(settings)}

    def start(self) -> None:
        """Start the process. It stops by itself if the supervisor disappears."""
        command = [sys.executable, "-m", "vedette", self.part, "--supervisor", str(os.getpid())]
        command.append(f"--config={os.devnull}")  # the environment has all; no file adds to it
        self.process = subprocess.Popen(
            command, env=self._environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        self.since, self._started_at = time.time(), time.monotonic()

    def reap(self) -> bool:
        """True if the process has just died; it is then scheduled to be started again."""
        if self.process is None or not _has_died(self.process.pid):
            return False
        _signal_group(self.process.pid, signal.SIGKILL)  # before reaping: the id is still ours
        code = self.process.wait()
        self.process = None
        now = time.monotonic()
        if now - self._started_at > _STEADY_SECONDS:
            self._backoff = _FIRST_BACKOFF
        self.restarts += 1
        self.since = time.time()
        self.start_at = now + self._backoff
        logger.warning(
            "the %s died (%s); starting it again in %.1f s", self.part, _how(code), self._backoff
        )
        self._backoff = min(self._backoff * 2, _LONGEST_BACKOFF)
        return True

    def state(self) -> dict[str, Any]:
        """What ``/health`` tells of it."""
        running = self.process is not None
        return {
            "pid": self.process.pid if self.process else None,
            "state": "running" if running else "restarting",
            "restarts": self.restarts,
            "since": self.since,
        }


class Supervisor:
    """Keeps the children of one data directory running until it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._children = [Child(part, settings) for part in PARTS]
        self._stop: signal.Signals | None = None
        self._ready = False
        self._wakeup, self._wake = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._wake, False)

    def run(self, on_ready: Callable[[dict[str, Any]], None]) -> None:
        """Supervise until SIGTERM, SIGINT or SIGHUP; ``on_ready`` gets the first good health.

        Raises:
            AlreadyRunning: another ``vedette`` runs on the data directory.
            StartFailed: the port is taken, or the server dies whenever it is started.
        """
        with exclusive_lock(self._settings.run_dir / "up.lock", "vedette up"):
            self._await_orphans()
            _require_free_port(self._settings)
            self._handle_signals()
            try:
                self._supervise(on_ready)
            finally:
                self._stop_children()

    def _await_orphans(self) -> None:
        """Children of a supervisor that was killed need some seconds to finish what they do."""
        for part in PARTS:
            lock = self._settings.run_dir / f"{part}.lock"
            with exclusive_lock(lock, f"a vedette {part}", patience=_ORPHAN_SECONDS):
                pass

    def _handle_signals(self) -> None:
        def request_stop(number: int, _frame: FrameType | None) -> None:
            self._stop = signal.Signals(number)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, request_stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def _supervise(self, on_ready: Callable[[dict[str, Any]], None]) -> None:
        patient_until = time.monotonic() + _READY_SECONDS
        while self._stop is None:
            changed = False
            for child in self._children:
                changed |= child.reap()
                if child.process is None and time.monotonic() >= child.start_at:
                    child.start()
                    changed = True
            if changed:
                self._publish()
            if not self._ready:
                self._require_start()
                health = read_health(self._settings.url, timeout=1.0)
                late = time.monotonic() > patient_until
                if health is not None and (health["status"] in ("ok", "rebuilding") or late):
                    self._ready = True
                    on_ready(health)
                elif late:
                    logger.warning("%s/health does not answer yet", self._settings.url)
                    patient_until = time.monotonic() + _READY_SECONDS
            self._sleep()

    def _require_start(self) -> None:
        server = self._children[0]
        if server.restarts >= _START_ATTEMPTS:
            raise StartFailed(
                f"the server died {server.restarts} times before it was ready; "
                "the lines above say why"
            )

    def _sleep(self) -> None:
        """Until a signal, the next start, or the next look at ``/health`` while not ready."""
        due = [c.start_at - time.monotonic() for c in self._children if c.process is None]
        if not self._ready:
            due.append(0.2)
        readable, _, _ = select.select([self._wakeup], [], [], max(0.0, min(due)) if due else None)
        if readable:
            os.read(self._wakeup, 4096)

    def _publish(self) -> None:
        parts = {child.part: child.state() for child in self._children}
        try:
            write_state(self._settings.run_dir / STATE_FILE, {"parts": parts})
        except OSError as error:  # a full disk: /health tells less, nothing stops
            logger.warning("can't publish the state of the parts: %s", error)

    def _stop_children(self) -> None:
        """SIGTERM to each child, SIGKILL to what is left of its group after the grace period."""
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for process in running:
            try:
                while not _has_died(process.pid):
                    if time.monotonic() > deadline:
                        logger.warning("process %d did not stop in time: killed", process.pid)
                        break
                    time.sleep(0.02)
            finally:
                _signal_group(process.pid, signal.SIGKILL)
                process.wait()
        (self._settings.run_dir / STATE_FILE).unlink(missing_ok=True)


def read_health(url: str, timeout: float) -> dict[str, Any] | None:
    """The answer of ``GET /health``, or None when the server can't be reached."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url}/health", timeout=timeout) as response:
            health = json.load(response)
    except (OSError, ValueError):
        return None
    return health if isinstance(health, dict) and "vedette" in health else None


def _environment(settings: Settings) -> dict[str, str]:
    """The settings as environment variables, so that children see the same whatever the flags."""
    values = settings.model_dump()
    return {env_name(name): str(value) for name, value in values.items() if value is not None}


def _has_died(pid: int) -> bool:
    """Whether our child has ended; it stays a zombie, so its id can't be anybody else's yet."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal_group(leader: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # none left; on macOS: only a zombie
        os.killpg(leader, number)


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def _require_free_port(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise StartFailed(
                f"can't listen on {settings.host}:{settings.port}: {error.strerror}; "
                "choose another with --port"
            ) from None
