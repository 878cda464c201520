"""The examples run as a user runs them, and what they send looks as it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from running import RunningVedette

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))

import customers  # noqa: E402
import shop  # noqa: E402


def run(script: str, *arguments: str) -> str:
    """What the script prints; fails with its errors if it fails."""
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def traces_of(vedette: RunningVedette, experiment_id: str) -> list[Any]:
    client = MlflowClient(tracking_uri=vedette.url)
    return list(client.search_traces(locations=[experiment_id], max_results=100))


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("How long does delivery take?", "Delivery"),
        ("Is the wear of brake pads under warranty?", "Warranty"),
        ("How should I store the battery in winter?", "Battery care"),
    ],
)
def test_the_search_finds_the_right_page(question: str, title: str) -> None:
    assert shop.search(question)[0].title == title


def test_customers_ask_as_many_questions_as_wanted_and_the_same_ones_again() -> None:
    talks = customers.conversations(50, seed=3)
    assert sum(len(talk.questions) for talk in talks) == 50
    assert talks == customers.conversations(50, seed=3) != customers.conversations(50, seed=4)


def test_the_support_agent_and_its_scorers(vedette: RunningVedette) -> None:
    to = ("--url", vedette.url, "--experiment", "test-examples")
    assert "scores 100% of the traces" in run("register_scorers.py", *to)
    said = run("support_agent.py", *to, "--questions", "20", "--version", "v2")
    assert re.match(r"20 questions answered by v2, \d+ failed\.", said)

    experiment = MlflowClient(tracking_uri=vedette.url).get_experiment_by_name("test-examples")
    traces = traces_of(vedette, experiment.experiment_id)
    assert len(traces) == 20
    for trace in traces:
        assert trace.info.tags["agent_version"] == "v2"
        assert trace.info.trace_metadata["mlflow.trace.session"].startswith("chat")
        assert trace.info.trace_metadata["mlflow.trace.user"].startswith("customer-")
        assert trace.info.token_usage["total_tokens"] > 0
        assert trace.info.request_preview == trace.data.spans[0].inputs["question"]


def test_the_open_telemetry_client(vedette: RunningVedette) -> None:
    experiment_id = MlflowClient(tracking_uri=vedette.url).create_experiment("test-otlp-example")
    to = ("--url", vedette.url, "--experiment-id", experiment_id)
    assert run("otlp_client.py", *to, "--questions", "10").startswith("10 questions answered")

    traces = traces_of(vedette, experiment_id)
    assert len(traces) == 10
    for trace in traces:
        spans = {span.name: span.span_type for span in trace.data.spans}
        assert spans["support_agent"] == "AGENT"
        assert spans["search_help_pages"] == "TOOL"
        assert trace.info.trace_metadata["mlflow.trace.session"].startswith("chat")
        if trace.info.state == "OK":
            assert trace.info.token_usage["total_tokens"] > 0
            assert "[source:" in trace.info.response_preview
