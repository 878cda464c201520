"""What MLflow's plugin loader imports in a client: nothing of mlflow before it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.genai.scorers.registry import AbstractScorerStore


def scorer_store(tracking_uri: str) -> AbstractScorerStore:
    """The scorer store for ``http`` and ``https`` tracking URIs (``mlflow.scorer_store``).

    Vedette's if a Vedette server answers there, else MLflow's own.
    """
    from vedette.client.scorer_store import scorer_store_for

    return scorer_store_for(tracking_uri)
