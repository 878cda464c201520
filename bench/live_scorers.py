"""Registers and starts one of the scorers of the benchmarks, with the stock SDK."""

from __future__ import annotations

import sys

import mlflow
from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import Scorer, ScorerSamplingConfig, scorer

CODE, JUDGE = "bench_has_answer", "bench_is_polite"


@scorer
def bench_has_answer(outputs: object) -> bool:
    """A trivial score."""
    return bool(outputs)


def main() -> None:
    """The arguments: the server's URL, the experiment's id, the scorer's name, its rate, and
    perhaps the judge's model."""
    url, experiment_id, name, rate, *model = sys.argv[1:]
    mlflow.set_tracking_uri(url)
    judge: Scorer = make_judge(
        name=JUDGE,
        instructions="Is {{ outputs }} polite? yes or no",
        model=model[0] if model else "openai:/gpt-4.1-mini",
    )
    chosen = {CODE: bench_has_answer, JUDGE: judge}[name]
    chosen.register(experiment_id=experiment_id).start(
        experiment_id=experiment_id,
        sampling_config=ScorerSamplingConfig(sample_rate=float(rate)),
    )


if __name__ == "__main__":
    main()
