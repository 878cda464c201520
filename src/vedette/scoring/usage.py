"""What one scoring by a judge cost, from the calls it made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mlflow.tracing.constant import AssessmentMetadataKey

from vedette.intake.records import AssessmentRow
from vedette.scoring.outcomes import Usage
from vedette.scoring.price_table import PriceTable


def usage_of(
    calls: Sequence[dict[str, Any]],
    rows: Sequence[AssessmentRow],
    models: Sequence[str],
    prices: PriceTable,
) -> Usage | None:
    """Tokens and dollars of one unit, None if nothing was asked.

    Args:
        calls: `{model, tokens, cost_usd}` of each, as the judge host tells them.
        rows: the feedback, which tells what calls cost that could not be seen.
        models: those of the scorer, as `provider:/model`.
    """
    calls = calls or list(filter(None, map(_told_by, rows)))
    if not calls:
        return None
    by_name = {model.partition(":/")[2].lstrip("/"): model for model in models}
    costs = [
        call["cost_usd"]
        if call["cost_usd"] is not None
        else prices.cost(by_name.get(call["model"] or "", models[0]), call["tokens"])
        for call in calls
    ]
    known = [cost for cost in costs if cost is not None]
    return Usage(
        calls=len(calls),
        input_tokens=_total(calls, "input_tokens"),
        output_tokens=_total(calls, "output_tokens"),
        cost_usd=sum(known) if known else None,
        model=models[0],
    )


def own_cost(row: AssessmentRow, prices: PriceTable) -> AssessmentRow:
    """The feedback with the user's price in its metadata, where MLflow has put its own."""
    call, model = _told_by(row), row["source_id"] or ""
    if call is None or not prices.has_own(model):
        return row
    metadata = json.loads(row["assessment_metadata"] or "{}")
    cost = prices.cost(model, call["tokens"])
    metadata[AssessmentMetadataKey.JUDGE_COST] = str(cost)
    return AssessmentRow(**{**row, "assessment_metadata": json.dumps(metadata)})


def _total(calls: Sequence[dict[str, Any]], name: str) -> int | None:
    counts = [call["tokens"][name] for call in calls if name in call["tokens"]]
    return sum(counts) if counts else None


def _told_by(row: AssessmentRow) -> dict[str, Any] | None:
    """The call behind a feedback, as MLflow's adapters describe it."""
    metadata = json.loads(row["assessment_metadata"] or "{}")
    tokens = {
        name: int(metadata[key])
        for name, key in (
            ("input_tokens", AssessmentMetadataKey.JUDGE_INPUT_TOKENS),
            ("output_tokens", AssessmentMetadataKey.JUDGE_OUTPUT_TOKENS),
        )
        if str(metadata.get(key, "")).isdigit()
    }
    if not tokens:
        return None
    try:
        cost = float(metadata.get(AssessmentMetadataKey.JUDGE_COST))
    except (TypeError, ValueError):
        cost = None
    return {"model": None, "tokens": tokens, "cost_usd": cost}
