"""Registers and starts the scorers of `bench.exactness`, with the stock SDK."""

from __future__ import annotations

import sys

import mlflow
from mlflow.genai.scorers import ScorerSamplingConfig, scorer

from bench.exactness import SCORERS


@scorer
def every() -> bool:
    """A trivial score."""
    return True


@scorer
def some() -> bool:
    """A trivial score."""
    return True


@scorer
def rare() -> bool:
    """A trivial score."""
    return True


def main() -> None:
    """Register and start them: the arguments are the server's URL and the experiment's id."""
    mlflow.set_tracking_uri(sys.argv[1])
    for each in (every, some, rare):
        rate, filter_string = SCORERS[each.name]
        config = ScorerSamplingConfig(sample_rate=rate, filter_string=filter_string)
        each.register(experiment_id=sys.argv[2]).start(
            experiment_id=sys.argv[2], sampling_config=config
        )


if __name__ == "__main__":
    main()
