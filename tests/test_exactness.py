"""Exactly what hash, rate and filter choose is scored, once, whatever is killed meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["bench.exactness", "--traces=1500", "--kills=3"], id="traces"),
        pytest.param(["bench.session_exactness", "--sessions=100", "--kills=2"], id="sessions"),
    ],
)
def test_what_is_scored_is_what_was_computed(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command, f"--data={tmp_path}"],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
