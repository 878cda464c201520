"""Registers and starts the scorers of `bench.session_exactness`, with the stock SDK."""

from __future__ import annotations

import sys
from typing import Any

import mlflow
from mlflow.genai.scorers import ScorerSamplingConfig, scorer

from bench.session_exactness import RATES


@scorer
def turns(session: list[Any]) -> int:
    """How many turns it has."""
    return len(session)


@scorer
def turns_of_some(session: list[Any]) -> int:
    """How many turns it has."""
    return len(session)


def main() -> None:
    """Register and start them: the arguments are the server's URL and the experiment's id."""
    mlflow.set_tracking_uri(sys.argv[1])
    for each in (turns, turns_of_some):
        each.register(experiment_id=sys.argv[2]).start(
            experiment_id=sys.argv[2],
            sampling_config=ScorerSamplingConfig(sample_rate=RATES[each.name]),
        )


if __name__ == "__main__":
    main()
