"""Exactly the traces that hash, rate and filter choose are scored, whatever is killed meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_set_of_scored_traces_is_the_set_computed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.exactness", "--traces=1500", "--kills=3"]
    done = subprocess.run(
        [*command, f"--data={tmp_path}"],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
