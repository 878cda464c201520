"""Fill a Vedette with what the browser tests look at, as users do: the example agent and the SDK.

Run as a script with the server's URL; prints what it made as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import mlflow
from mlflow.entities import AssessmentSource
from mlflow.genai.datasets import create_dataset

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import customers
import register_scorers
import support_agent

QUESTIONS = 40
REVIEWER = AssessmentSource("HUMAN", "reviewer@example.com")


def wait_for_scores(experiment_id: str) -> None:
    """Return when both scorers have scored everything; fail after a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        traces = mlflow.search_traces(
            locations=[experiment_id], include_spans=False, max_results=100, return_type="list"
        )
        scores = sum(len(trace.info.assessments) for trace in traces)
        if scores == 2 * QUESTIONS:
            return
        time.sleep(0.5)
    raise TimeoutError(f"{len(traces)} traces have {scores} scores, not {2 * QUESTIONS}")


def fill(url: str) -> dict[str, str]:
    """Traffic of both agent versions with scores, one human's opinion, and a dataset."""
    mlflow.set_tracking_uri(url)
    experiment = mlflow.set_experiment("browser")
    register_scorers.register_and_start()
    for seed, version in enumerate(("v1", "v2")):
        agent = support_agent.SupportAgent(version)
        list(customers.talk(agent.answer, customers.conversations(QUESTIONS // 2, seed)))
    mlflow.flush_trace_async_logging()
    wait_for_scores(experiment.experiment_id)

    traces = mlflow.search_traces(
        locations=[experiment.experiment_id],
        filter_string="trace.status = 'OK' AND tags.agent_version = 'v1'",
        max_results=20,
        return_type="list",
    )
    judged = next(trace for trace in traces if trace.search_spans(span_type="RETRIEVER"))
    mlflow.log_feedback(
        trace_id=judged.info.trace_id,
        name="helpful",
        value=True,
        rationale="Short and right.",
        source=REVIEWER,
    )
    mlflow.log_expectation(
        trace_id=judged.info.trace_id, name="expected_page", value="Delivery", source=REVIEWER
    )
    dataset = create_dataset("browser-dataset", experiment_id=experiment.experiment_id)
    dataset.merge_records(traces[:5])
    return {
        "experiment_id": experiment.experiment_id,
        "judged": judged.info.trace_id,
        "question": judged.data.spans[0].inputs["question"],
        "session": judged.info.trace_metadata["mlflow.trace.session"],
        "dataset_id": dataset.dataset_id,
    }


if __name__ == "__main__":
    print(json.dumps(fill(sys.argv[1])))
