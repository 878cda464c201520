"""The demo: its figures are right, it fails when it should, and it shows a regression."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlflow.entities import AssessmentError, AssessmentSource, Feedback, TraceInfo, TraceState
from mlflow.entities.trace_location import TraceLocation

from vedette.demo.instance import free_port
from vedette.demo.outcome import count_scored, failing_trace, seconds_to_score, tally


def trace(version: str, state: str = "OK", **values: Any) -> TraceInfo:
    """A trace that ended at second 1 and was scored at second 3: scorer name -> value or error."""
    scores = []
    for name, value in values.items():
        score = Feedback(name=name, value=None, source=AssessmentSource("CODE", name))
        if isinstance(value, AssessmentError):
            score = Feedback(name=name, error=value, source=score.source)
        else:
            score.feedback.value = value
        score.create_time_ms = 3000
        scores.append(score)
    return TraceInfo(
        trace_id=f"tr-{version}",
        trace_location=TraceLocation.from_experiment_id("1"),
        request_time=0,
        execution_duration=1000,
        state=TraceState(state),
        tags={"agent_version": version},
        assessments=scores,
    )


def test_results_are_counted_by_scorer_and_version() -> None:
    broken = AssessmentError(error_code="SCORER_ERROR", error_message="division by zero")
    traces = [
        trace("v1", cites=True, right=True),
        trace("v1", cites=True, right=broken),
        trace("v2", cites=False),
        trace("v2", state="ERROR", cites=False, right=False),
    ]
    results = tally(traces, ["cites", "right"])
    shown = {key: (one.traces, one.scored, one.passed) for key, one in results.items()}
    assert shown == {
        ("cites", "v1"): (2, 2, 2),
        ("right", "v1"): (2, 1, 1),
        ("cites", "v2"): (2, 2, 0),
        ("right", "v2"): (2, 1, 0),
    }
    assert count_scored(traces, ["cites", "right"]) == 2
    assert seconds_to_score(traces, ["cites", "right"]) == 2.0
    assert failing_trace(traces, ["cites", "right"]) is traces[2]


def test_another_port_is_taken_when_the_wanted_one_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "vedette", "demo", *arguments]
    environment = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, env=environment
    )


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    done = demo("--data", str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path} is not empty" in done.stderr


def test_the_demo_shows_the_regression_and_leaves_nothing_running(tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = demo("--data", str(data), "--port", "0", "--questions", "60")
    assert done.returncode == 0, done.stdout + done.stderr

    for scorer in ("cites_source", "right_page"):
        row = next(line for line in done.stdout.splitlines() if scorer in line and "%" in line)
        traces, scored, before, after = re.findall(r"(\d+)(?= +│|% +\()", row)
        assert (traces, scored) == ("60", "60")
        assert int(before) > int(after)
    url = re.search(r"http://127\.0\.0\.1:(\d+)/#/experiments/\d+/traces/tr-\w+", done.stdout)
    assert url is not None
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(url[1]))) != 0
