"""Two scorers in plain Python, registered and started: from now on every trace gets both scores.

    python examples/register_scorers.py

A registered scorer is stored as source text and runs elsewhere, in a worker process of Vedette. So
it has to be self-contained: what it needs, it imports inside, and it uses no name of this module.
"""

from __future__ import annotations

import argparse

import mlflow
from mlflow.genai.scorers import Scorer, ScorerSamplingConfig, scorer


# A scorer asks for what it needs by parameter name: any of inputs, outputs, expectations, trace.
# It returns True or False, a number, a text, a Feedback, a list of Feedbacks, or None (no score).
@scorer
def cites_source(outputs) -> bool:
    """Does the answer end by naming where it comes from?"""
    import re

    return re.search(r"\[source: [^\]]+\]$", str(outputs or "")) is not None


@scorer
def right_page(inputs, trace):
    """Is the question about what the agent looked up to answer it?"""
    import re

    from mlflow.entities import Feedback

    if trace.info.state == "ERROR":
        return Feedback(value=False, rationale="The agent failed, so the question has no answer.")
    searches = trace.search_spans(span_type="RETRIEVER")
    if not searches:
        return Feedback(value=True, rationale="The agent asked the order service.")
    passages = searches[-1].outputs or []
    page = f"{passages[0]['metadata']['doc_uri']} {passages[0]['page_content']}" if passages else ""
    page = page.lower()
    # Short words (how, does, my, ...) say little about the subject; an s at the end, nothing.
    asked = {word.rstrip("s") for word in re.findall(r"[a-z]{5,}", inputs["question"].lower())}
    missing = sorted(word for word in asked if word not in page)
    return Feedback(
        value=2 * len(missing) <= len(asked),
        rationale=f"The page lacks: {', '.join(missing)}."
        if missing
        else "All words are on the page.",
    )


def register_and_start() -> list[Scorer]:
    """Put both scorers to work on all traces of the active experiment."""
    everything = ScorerSamplingConfig(sample_rate=1.0)
    return [
        one.register(name=one.name).start(sampling_config=everything)
        for one in (cites_source, right_page)
    ]


def main() -> None:
    """Register and start both scorers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:5000", help="where Vedette listens")
    parser.add_argument("--experiment", default="support-agent")
    options = parser.parse_args()

    mlflow.set_tracking_uri(options.url)
    mlflow.set_experiment(options.experiment)
    for started in register_and_start():
        print(f"{started.name} scores {started.sample_rate:.0%} of the traces from now on.")


if __name__ == "__main__":
    main()
