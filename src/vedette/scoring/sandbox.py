"""How far workers are kept from the machine they run on, and how far this machine allows it.

``none``: a process of its own with an environment without secrets, and a limit on time.
``process``: besides, limits on memory and files (`vedette.scoring.confinement`).
``container``: besides, no network, no sight of other processes, and a file system of its own
(`vedette.scoring.isolation`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vedette.scoring.confinement import worker_environment
from vedette.settings import SettingsError

_PROBE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The sandbox of the workers of one engine.

    Attributes:
        name: ``none``, ``process`` or ``container``.
        hidden: directories that scorers must not see, in a container.
        missing: why it is no container, for people; None if it is, or if nobody asked for it.
    """

    name: str = "process"
    hidden: tuple[Path, ...] = ()
    missing: str | None = None

    def state(self) -> dict[str, str | None]:
        """What ``/health`` tells of it."""
        return {"name": self.name, "missing": self.missing}


def choose_sandbox(wanted: str | None, hidden: Sequence[Path] = ()) -> Sandbox:
    """The sandbox that is set, or the strongest there is.

    Args:
        wanted: ``none``, ``process``, ``container``, or None for the strongest.
        hidden: directories that scorers must not see.

    Raises:
        SettingsError: it can't be had on this machine; the message says why.
    """
    if wanted in ("none", "process"):
        return Sandbox(wanted)
    missing = missing_for_isolation(hidden)
    if missing is None:
        return Sandbox("container", tuple(hidden))
    if wanted is not None:
        raise SettingsError(
            f"sandbox {wanted} can't be had here: {missing}. "
            "Allow it, or set sandbox to process: see docs/scorers.md"
        )
    return Sandbox("process", missing=missing)


def missing_for_isolation(hidden: Sequence[Path] = ()) -> str | None:
    """Why workers can't be isolated on this machine, for people; None if they can.

    Found out by doing it, in a process of its own: what kernel, container and security modules
    allow can't be told from their settings. Takes about a tenth of a second.
    """
    if sys.platform != "linux":
        return f"namespaces are Linux's, this is {sys.platform}"
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-P", "-W", "ignore", "-m", "vedette.scoring.probe", root]
        try:
            done = subprocess.run(
                [*command, *map(str, hidden)],
                env=worker_environment(os.environ, Path(root)),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PROBE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"trying it took more than {_PROBE_SECONDS:.0f} s"
    if done.stdout == "isolated\n":
        return None
    said = (done.stdout or done.stderr).strip().splitlines()
    return said[-1] if said else f"trying it ended with exit code {done.returncode}"
