"""A developer at work, step by step: reads commands from stdin, says when each is done.

Run as a script with the server's URL. Commands: ``register``, ``start``, ``ask``, ``stop``.
"""

from __future__ import annotations

import sys

import mlflow
from mlflow.genai.scorers import ScorerSamplingConfig, get_scorer, scorer


@scorer
def is_short(outputs):
    return len(str(outputs)) <= 100


@mlflow.trace
def answer(question: str) -> str:
    """Echo."""
    return f"You asked: {question}"


def main() -> None:
    """Do what stdin says."""
    mlflow.set_tracking_uri(sys.argv[1])
    print(mlflow.set_experiment("live").experiment_id, flush=True)
    for line in sys.stdin:
        match line.strip():
            case "register":
                is_short.register(name="is_short")
            case "start":
                everything = ScorerSamplingConfig(sample_rate=1.0)
                get_scorer(name="is_short").start(sampling_config=everything)
            case "ask":
                answer("Where is my order?")
                mlflow.flush_trace_async_logging()
            case "stop":
                get_scorer(name="is_short").stop()
        print("done", flush=True)


if __name__ == "__main__":
    main()
