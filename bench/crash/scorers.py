"""Registers and starts the two scorers of the run, as a user does: with the stock SDK."""

from __future__ import annotations

import argparse

import mlflow
from mlflow.genai.scorers import ScorerSamplingConfig, scorer


@scorer
def crash_even(inputs: dict, outputs: dict) -> bool:  # type: ignore[type-arg]
    """Whether the number is even."""
    return bool((inputs["n"] + outputs["double"]) % 2 == 0)


@scorer
def crash_remainder(outputs: dict) -> int:  # type: ignore[type-arg]
    """Of the doubled number by seven."""
    return int(outputs["double"] % 7)


def main() -> None:
    """Register and start both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--experiment", required=True)
    options = parser.parse_args()
    mlflow.set_tracking_uri(options.url)
    mlflow.set_experiment(experiment_id=options.experiment)
    for each in (crash_even, crash_remainder):
        registered = each.register(experiment_id=options.experiment)
        registered.start(
            experiment_id=options.experiment,
            sampling_config=ScorerSamplingConfig(sample_rate=1.0),
        )


if __name__ == "__main__":
    main()
