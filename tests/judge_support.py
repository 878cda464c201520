"""Judges, as they are registered, for the tests of scoring."""

from __future__ import annotations

import json
from typing import Any

from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import Scorer

import scoring_support
from vedette.scoring.active import ActiveScorer
from vedette.scoring.outcomes import Unit

MODEL = "openai:/gpt-4.1-mini"


def active(scorer: Scorer, *, timeout: float | None = None) -> ActiveScorer:
    """A scorer as it is after registration."""
    definition = {**scorer.model_dump(), "timeout": timeout}
    return ActiveScorer("1", scorer.name, 1, json.dumps(definition), 1.0)


def judge(
    name: str = "nice",
    instructions: str = "Is {{ outputs }} nice?",
    *,
    model: str = MODEL,
    timeout: float | None = None,
    **options: Any,
) -> ActiveScorer:
    """A registered judge with instructions of its own."""
    made = make_judge(name=name, instructions=instructions, model=model, **options)
    return active(made, timeout=timeout)


def unit(number: int, outputs: Any = "fine") -> Unit:
    """A trace with the number as input."""
    return Unit(f"tr-{number:032x}", scoring_support.unit(number, outputs).payload)
