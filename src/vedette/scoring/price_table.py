"""What the calls of judges cost: by the user's own table, else by the one that MLflow brings."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vedette.intake.prices import cost_of

logger = logging.getLogger(__name__)

_INPUT, _OUTPUT = "input_cost_per_token", "output_cost_per_token"
_CACHE_READ = "cache_read_input_token_cost"
_LOOK_AGAIN_SECONDS = 5.0
_EXAMPLE = f'{{"openai:/gpt-4.1-mini": {{"{_INPUT}": 4e-7, "{_OUTPUT}": 1.6e-6}}}}'


class PricesError(ValueError):
    """The file of prices can't be used. The message names the file, the model and what is wrong."""


class PriceTable:
    """Prices of models. A change of the file counts within seconds; should it then be wrong, the
    prices of before go on, and `problem` says so.

    Args:
        path: the setting `prices`: JSON of model (`provider:/model`, or the model alone) to
            `input_cost_per_token`, `output_cost_per_token` and, if cached tokens have a price of
            their own, `cache_read_input_token_cost`, in US dollars. None: MLflow's table alone.

    Raises:
        PricesError: the file is missing or wrong.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.problem: str | None = None
        self._path = path
        self._stamp = _stamp(path)
        self._prices = {} if path is None else read_prices(path)
        self._look_again_at = time.monotonic() + _LOOK_AGAIN_SECONDS

    def cost(self, model: str, tokens: Mapping[str, int]) -> float | None:
        """US dollars of one call, None if the price is not known.

        Args:
            model: `provider:/model`.
            tokens: by MLflow's names: `input_tokens` (cached ones too), `output_tokens`,
                `cache_read_input_tokens`, `cache_creation_input_tokens`.
        """
        if not tokens:
            return None
        price = self._own(model)
        if price is None:
            provider, name = _split(model)
            known = cost_of(name, dict(tokens), None if provider == "gateway" else provider)
            return None if known is None else known["total_cost"]
        cached = tokens.get("cache_read_input_tokens", 0)
        return (
            max(0, tokens.get("input_tokens", 0) - cached) * price[_INPUT]
            + cached * price.get(_CACHE_READ, price[_INPUT])
            + tokens.get("output_tokens", 0) * price[_OUTPUT]
        )

    def has_own(self, model: str) -> bool:
        """Whether the user's table has the model."""
        return self._own(model) is not None

    def _own(self, model: str) -> dict[str, float] | None:
        self._refresh()
        return self._prices.get(model) or self._prices.get(_split(model)[1])

    def _refresh(self) -> None:
        if self._path is None or time.monotonic() < self._look_again_at:
            return
        self._look_again_at = time.monotonic() + _LOOK_AGAIN_SECONDS
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._prices = read_prices(self._path)
            self.problem = None
            logger.info("prices of models read again from %s", self._path)
        except PricesError as error:
            self.problem = str(error)
            logger.warning("%s; the prices of before go on", error)


def read_prices(path: Path) -> dict[str, dict[str, float]]:
    """The prices in a file, by model.

    Raises:
        PricesError: it is missing or wrong.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PricesError(f"prices: there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PricesError(f"prices: {path} can't be read: {error}") from error
    except ValueError as error:
        raise PricesError(f"prices: {path} is not JSON: {error}") from error
    if not isinstance(table, dict):
        raise PricesError(f"prices: {path} is not an object like {_EXAMPLE}")
    return {model: _price(path, model, entry) for model, entry in table.items()}


def _price(path: Path, model: str, entry: Any) -> dict[str, float]:
    if not isinstance(entry, dict):
        raise PricesError(f"prices: {path}: {model}: not an object; write it like {_EXAMPLE}")
    for key in (_INPUT, _OUTPUT):
        if key not in entry:
            raise PricesError(f"prices: {path}: {model}: {key} is missing")
    for key, value in entry.items():
        if key not in {_INPUT, _OUTPUT, _CACHE_READ}:
            raise PricesError(
                f"prices: {path}: {model}: unknown key {key}; known are {_INPUT}, {_OUTPUT} and "
                f"{_CACHE_READ}"
            )
        if type(value) not in {int, float} or not 0 <= value < math.inf:
            raise PricesError(
                f"prices: {path}: {model}: {key}: {value!r} is not a price: US dollars per token"
            )
    return {key: float(value) for key, value in entry.items()}


def _split(model: str) -> tuple[str, str]:
    provider, _, name = model.partition(":/")
    return provider, name.lstrip("/")


def _stamp(path: Path | None) -> tuple[int, int] | None:
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size)
