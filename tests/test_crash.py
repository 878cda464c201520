"""Parts of a running Vedette are killed under load: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

KILLS = 10


def test_what_was_acknowledged_survives_kills_and_is_scored_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.crash", f"--kills={KILLS}", f"--data={tmp_path}"]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
