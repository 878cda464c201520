"""What judges cost: the user's prices first, then MLflow's; and mistakes are told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from vedette.scoring.outcomes import Usage
from vedette.scoring.price_table import PricesError, PriceTable
from vedette.scoring.usage import own_cost, usage_of

TOKENS = {"input_tokens": 1000, "output_tokens": 100}


def priced(path: Path, **prices: Any) -> Path:
    path.write_text(json.dumps(prices.pop("table", prices)))
    return path


def entry(input_cost: Any = 1e-6, output_cost: Any = 2e-6, **more: Any) -> dict[str, Any]:
    return {"input_cost_per_token": input_cost, "output_cost_per_token": output_cost, **more}


def test_mlflow_brings_prices() -> None:
    table = PriceTable()

    assert table.cost("openai:/gpt-4.1-mini", TOKENS) == pytest.approx(0.00056)
    assert table.cost("openai:/my-own-model", TOKENS) is None
    assert table.cost("openai:/gpt-4.1-mini", {}) is None


def test_the_users_prices_come_first(tmp_path: Path) -> None:
    table = PriceTable(
        priced(
            tmp_path / "prices.json",
            table={
                "openai:/gpt-4.1-mini": entry(),
                "my-own-model": entry(cache_read_input_token_cost=1e-7),
                "ollama:/llama": entry(0, 0),
            },
        )
    )

    assert table.cost("openai:/gpt-4.1-mini", TOKENS) == pytest.approx(0.0012)
    assert table.cost("azure:/my-own-model", TOKENS) == pytest.approx(0.0012)
    cached = {**TOKENS, "cache_read_input_tokens": 900}
    assert table.cost("azure:/my-own-model", cached) == pytest.approx(0.00039)
    assert table.cost("ollama:/llama", TOKENS) == 0.0
    assert table.cost("openai:/gpt-4.1", TOKENS) is not None  # MLflow's


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "is not an object like"),
        ('{"m": 3}', "m: not an object"),
        ('{"m": {"input_cost_per_token": 1}}', "m: output_cost_per_token is missing"),
        (json.dumps({"m": entry("1")}), "m: input_cost_per_token: '1' is not a price"),
        (json.dumps({"m": entry(-1)}), "m: input_cost_per_token: -1 is not a price"),
        (json.dumps({"m": entry(True)}), "m: input_cost_per_token: True is not a price"),
        (json.dumps({"m": entry(float("nan"))}), "m: input_cost_per_token: nan is not a price"),
        (json.dumps({"m": entry(currency="EUR")}), "m: unknown key currency; known are"),
    ],
)
def test_a_mistake_is_told_with_file_and_model(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(text)

    with pytest.raises(PricesError) as caught:
        PriceTable(path)

    assert str(caught.value).startswith(f"prices: {path}")
    assert says in str(caught.value)


def test_no_file_is_told() -> None:
    with pytest.raises(PricesError, match=r"there is no file /nowhere/prices\.json"):
        PriceTable(Path("/nowhere/prices.json"))


def test_a_change_of_the_file_counts_and_a_mistake_in_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vedette.scoring.price_table._LOOK_AGAIN_SECONDS", 0.0)
    path = priced(tmp_path / "prices.json", mine=entry())
    table = PriceTable(path)
    assert table.cost("x:/mine", TOKENS) == pytest.approx(0.0012)

    def edit(text: str) -> None:
        path.write_text(text)
        os.utime(path, ns=(path.stat().st_mtime_ns + 1, path.stat().st_mtime_ns + 1))

    edit(json.dumps({"mine": entry(2e-6)}))
    assert table.cost("x:/mine", TOKENS) == pytest.approx(0.0022)
    edit("{")
    assert table.cost("x:/mine", TOKENS) == pytest.approx(0.0022)
    assert "is not JSON" in (table.problem or "")
    edit(json.dumps({"mine": entry()}))
    assert table.cost("x:/mine", TOKENS) == pytest.approx(0.0012)
    assert table.problem is None


def call(model: str | None, cost: float | None = None, **tokens: int) -> dict[str, Any]:
    return {"model": model, "tokens": tokens, "cost_usd": cost}


def test_calls_of_several_models_are_each_priced_by_their_own(tmp_path: Path) -> None:
    prices = PriceTable(priced(tmp_path / "prices.json", a=entry(1.0, 0), b=entry(10.0, 0)))
    calls = [
        call("a", input_tokens=1, output_tokens=1),
        call("b", input_tokens=2, output_tokens=1),
        call("b", cost=0.5, input_tokens=2, output_tokens=1),  # the provider knows best
        call("b"),  # it failed
    ]

    assert usage_of(calls, [], ["x:/a", "y:/b"], prices) == Usage(4, 5, 3, 21.5, "x:/a")


def test_what_is_not_told_is_not_known() -> None:
    prices = PriceTable()
    assert usage_of([], [], ["x:/a"], prices) is None
    assert usage_of([call(None)], [], ["x:/a"], prices) == Usage(1, None, None, None, "x:/a")


def test_calls_that_could_not_be_seen_are_told_by_the_feedback() -> None:
    row: Any = {
        "assessment_metadata": json.dumps(
            {
                "mlflow.assessment.judgeInputTokens": "7",
                "mlflow.assessment.judgeOutputTokens": "3",
                "mlflow.assessment.judgeCost": "0.25",
            }
        )
    }
    other: Any = {"assessment_metadata": None}
    assert usage_of([], [row, other], ["bedrock:/nova"], PriceTable()) == Usage(
        1, 7, 3, 0.25, "bedrock:/nova"
    )


def test_the_users_price_is_on_the_feedback_too(tmp_path: Path) -> None:
    prices = PriceTable(priced(tmp_path / "prices.json", mine=entry(1.0, 2.0)))
    told = {"mlflow.assessment.judgeInputTokens": "7", "mlflow.assessment.judgeOutputTokens": "3"}
    row: Any = {"source_id": "x:/mine", "assessment_metadata": json.dumps(told)}
    other: Any = {**row, "source_id": "x:/other"}

    metadata = json.loads(own_cost(row, prices)["assessment_metadata"] or "")

    assert metadata == {**told, "mlflow.assessment.judgeCost": "13.0"}
    assert own_cost(other, prices) == other
