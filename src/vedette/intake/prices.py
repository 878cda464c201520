"""What a model call cost, from MLflow's price table.

Gives what `mlflow.tracing.utils.calculate_cost_by_model_and_token_usage` gives, with the look-up
done once per model and provider instead of once per span, and without two of its habits that don't
suit a server: by default it fetches prices from the internet, under a name the client chose and for
up to 20 seconds, and it caches a table for every such name.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import os
from functools import lru_cache
from typing import Any, NamedTuple

from mlflow.tracing.utils import calculate_cost_by_model_and_token_usage

# Prices come with the installed MLflow, so that the same journal gives the same costs, on any
# machine. Setting the variable (a mirror: file:// or https://) turns look-ups elsewhere on.
os.environ.setdefault("MLFLOW_MODEL_CATALOG_URI", "")

_UNKNOWN_PROVIDER = "unknown"
_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_above_1hr",
)
# litellm, where it is installed, is asked instead of the table, and its prices depend on volume
_LINEAR = importlib.util.find_spec("litellm") is None


class _Rates(NamedTuple):
    """US dollars per token."""

    input: float
    output: float
    cache_read: float
    cache_creation: float
    cache_creation_1h: float


def cost_of(model: Any, usage: Any, provider: Any) -> dict[str, float] | None:
    """Cost in US dollars (``input_cost``, ``output_cost``, ``total_cost``), None if unknown.

    Args:
        model: value of ``mlflow.llm.model``.
        usage: value of ``mlflow.chat.tokenUsage``.
        provider: value of ``mlflow.llm.provider``, None if there is none.
    """
    if not isinstance(model, str) or not isinstance(usage, dict):
        return None
    if provider:
        provider = provider.lower() if isinstance(provider, str) else _UNKNOWN_PROVIDER
        if provider not in _providers():
            provider = _UNKNOWN_PROVIDER
    else:
        provider = None
    counts = [usage.get(key, 0) for key in _COUNTS]
    if not _LINEAR or any(type(count) is not int for count in counts):
        return _by_mlflow(model, usage, provider)
    if counts[:2] == [0, 0] or (rates := _rates(model, provider)) is None:
        return None
    try:
        return _price(rates, *counts)
    except OverflowError:  # a count of hundreds of digits
        return None


def _price(
    rates: _Rates,
    prompt: int,
    completion: int,
    read: int,
    created: int,
    created_1h: int,
) -> dict[str, float]:
    """The sum in the order of `mlflow.utils.providers.cost_per_token`, so that no bit differs."""
    created_1h = min(created_1h, created)
    input_cost = max(prompt - read - created, 0) * rates.input
    if read > 0:
        input_cost += read * rates.cache_read
    if created - created_1h > 0:
        input_cost += (created - created_1h) * rates.cache_creation
    if created_1h > 0:
        input_cost += created_1h * rates.cache_creation_1h
    output_cost = completion * rates.output
    return {
        "input_cost": input_cost,
        "output_cost": output_cost,
        "total_cost": input_cost + output_cost,
    }


@lru_cache(maxsize=4096)
def _rates(model: str, provider: str | None) -> _Rates | None:
    """Ask MLflow for the price of one token of each sort."""

    def price(key: str, **usage: int) -> float:
        cost = _by_mlflow(model, usage, provider)
        return 0.0 if cost is None else cost[key]

    if _by_mlflow(model, {"input_tokens": 1}, provider) is None:
        return None
    return _Rates(
        input=price("input_cost", input_tokens=1),
        output=price("output_cost", output_tokens=1),
        cache_read=price("input_cost", input_tokens=1, cache_read_input_tokens=1),
        cache_creation=price("input_cost", input_tokens=1, cache_creation_input_tokens=1),
        cache_creation_1h=price(
            "input_cost",
            input_tokens=1,
            cache_creation_input_tokens=1,
            cache_creation_input_tokens_above_1hr=1,
        ),
    )


def _by_mlflow(model: str, usage: dict[str, Any], provider: str | None) -> dict[str, float] | None:
    try:
        cost: dict[str, float] | None = calculate_cost_by_model_and_token_usage(
            model, usage, provider
        )
    except Exception:  # counts that are no numbers; MLflow leaves the cost out, too
        return None
    return cost


@lru_cache(maxsize=1)
def _providers() -> frozenset[str]:
    """Providers that MLflow has prices of."""
    catalog = importlib.resources.files("mlflow.utils").joinpath("model_catalog")
    names = (entry.name for entry in catalog.iterdir())
    return frozenset(name.removesuffix(".json") for name in names if name.endswith(".json"))
