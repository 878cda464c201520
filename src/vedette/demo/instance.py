"""A Vedette of the demo's own: ``vedette up`` on a fresh directory and a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from vedette.supervisor import read_health

HOST = "127.0.0.1"
_LOG_LINES_SHOWN = 15
_STOP_SECONDS = 12.0  # `up` itself kills what has not ended after 8

# `vedette up`, but ended by the kernel if the demo is killed. Not `-m vedette`: the call must come
# before anything is started.
_LAUNCH = (
    "from vedette.processes import die_with_parent; die_with_parent({parent}); "
    "from vedette.cli import main; main()"
)


class DemoFailed(Exception):
    """The demo can't go on; the message says what went wrong and where to look."""


class Instance:
    """Runs ``vedette up`` for the length of a ``with`` block.

    Args:
        data: its data directory; made if need be.
        port: the port to listen on, or another one if that is taken.
        settings: ``VEDETTE_*`` variables for it. Those of the environment, and a ``vedette.toml``
            in the working directory, are left out: a demo must not reach a company's database.
    """

    def __init__(self, data: Path, port: int, settings: dict[str, str]) -> None:
        self.data = data.absolute()
        self.port = free_port(port)
        self.log = self.data / "vedette.log"
        self._settings = settings

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self.data.mkdir(parents=True, exist_ok=True)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("VEDETTE_")}
        flags = ["--data", str(self.data), "--host", HOST, "--port", str(self.port)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH.format(parent=os.getpid()), "up", *flags],
                cwd=self.data,
                env={**inherited, **self._settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us to handle
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_until_ready(self, seconds: float) -> None:
        """Wait for a good ``/health``.

        Raises:
            DemoFailed: it ended, or is not healthy after ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while True:
            self.require_alive()
            health = read_health(self.url, timeout=2.0)
            if health is not None and health["status"] == "ok":
                return
            if time.monotonic() > deadline:
                state = "does not answer" if health is None else f"is {health['status']}"
                raise DemoFailed(f"{self.url} {state} after {seconds:.0f} s.{self.last_words()}")
            time.sleep(0.2)

    def require_alive(self) -> None:
        """Raises `DemoFailed` if ``vedette up`` has ended."""
        code = self._process.poll()
        if code is not None:
            raise DemoFailed(f"vedette up ended with exit code {code}.{self.last_words()}")

    def last_words(self) -> str:
        """The end of its log, as a paragraph to put under an error."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        return "\n".join([f" The end of {self.log}:", *(f"  {line}" for line in lines)])


def free_port(wanted: int) -> int:
    """``wanted`` if nothing listens there, else a port of the system's choice."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoFailed(f"there is no free port on {HOST}")
