"""Code as the guides of production monitoring have it, imports aside, against a running Vedette."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlflow
import pytest

from running import RunningVedette


@pytest.fixture(autouse=True)
def _active(experiment: str) -> None:
    """The guides' code runs in an experiment of the test's own."""


@pytest.fixture
def scores_of(vedette: RunningVedette) -> Callable[..., dict[str, Any]]:
    """Feedback of the newest trace by name, once all of these names are there."""

    def read(*names: str) -> dict[str, Any]:
        def found() -> dict[str, Any]:
            [trace] = mlflow.search_traces(max_results=1, return_type="list")
            scores = {one.name: one for one in trace.info.assessments}
            return scores if set(names) <= set(scores) else {}

        scores: dict[str, Any] = vedette.wait_until(found)
        return scores

    return read


@pytest.fixture
def answer() -> Callable[..., str]:
    """An agent that is asked once: one trace, with a tool call in it."""

    @mlflow.trace(span_type="TOOL", name="look_up")
    def look_up(query: str) -> list[str]:
        return [f"what is known about {query}"]

    @mlflow.trace(span_type="AGENT")
    def agent(query: str) -> dict[str, str]:
        mlflow.update_current_trace(tags={"team": "support"})
        look_up(query)
        return {"response": f"About {query}: ask Databricks. [source]"}

    def ask(query: str = "delta tables") -> str:
        agent(query)
        mlflow.flush_trace_async_logging()
        return mlflow.get_last_active_trace_id() or ""

    return ask
