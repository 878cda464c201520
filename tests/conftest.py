"""A whole Vedette, running as users run it, for tests that talk to it from outside."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from running import RunningVedette, start_vedette


@pytest.fixture(scope="session")
def vedette(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVedette]:
    """One Vedette for all tests that only add traces of their own to it."""
    running = start_vedette(tmp_path_factory.mktemp("vedette"))
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.fixture
def fresh_vedette(tmp_path: Path) -> Iterator[Callable[..., RunningVedette]]:
    """Start a Vedette of the test's own; settings as keyword arguments."""
    started: list[RunningVedette] = []

    def start(data: Path | None = None, **settings: Any) -> RunningVedette:
        started.append(start_vedette(data or tmp_path / "data", **settings))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture
def experiment(vedette: RunningVedette) -> Iterator[str]:
    """The id of an experiment of the test's own, active at the one Vedette."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(vedette.url)
    yield mlflow.set_experiment(uuid.uuid4().hex).experiment_id
    mlflow.set_tracking_uri(before)
