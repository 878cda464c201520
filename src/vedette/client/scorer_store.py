"""Registering and steering scorers on a Vedette server through MLflow's own functions.

What MLflow's store for ``http`` URIs doesn't do, this one does: handles of custom scorers without
executing their code, `delete_scorer(name=)` for all versions, updates of the rate or of the filter
alone.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mlflow.entities import ScorerVersion
from mlflow.exceptions import MlflowException
from mlflow.genai.scorers.base import Scorer
from mlflow.genai.scorers.registry import AbstractScorerStore, MlflowTrackingStore
from mlflow.tracking.fluent import _get_experiment_id

from vedette.client.detection import is_vedette
from vedette.client.stored_scorer import StoredScorer, is_custom


def scorer_store_for(tracking_uri: str) -> AbstractScorerStore:
    """Vedette's store if a Vedette server answers at the URI, else MLflow's."""
    if is_vedette(tracking_uri):
        return VedetteScorerStore(tracking_uri)
    return MlflowTrackingStore(tracking_uri)


class VedetteScorerStore(MlflowTrackingStore):
    """MLflow's store, but for what the module's docstring says."""

    def __init__(self, tracking_uri: str) -> None:
        super().__init__(tracking_uri)  # type: ignore[no-untyped-call]

    def list_scorers(self, experiment_id: str | None) -> list[Scorer]:
        """The latest version of every scorer of an experiment (default: the active one)."""
        return self._load(self._tracking_store.list_scorers(experiment_id or _get_experiment_id()))

    def get_scorer(
        self, experiment_id: str | None, name: str, version: int | None = None
    ) -> Scorer:
        """One version of a scorer, by default the latest.

        Raises:
            MlflowException: RESOURCE_DOES_NOT_EXIST, naming the scorers with similar names.
        """
        experiment_id = experiment_id or _get_experiment_id()
        return self._load([self._tracking_store.get_scorer(experiment_id, name, version)])[0]

    def list_scorer_versions(
        self, experiment_id: str | None, name: str
    ) -> list[tuple[Scorer, int]]:
        """Every version of a scorer, with its number."""
        experiment_id = experiment_id or _get_experiment_id()
        found = self._tracking_store.list_scorer_versions(experiment_id, name)
        numbers = [version.scorer_version for version in found]
        return list(zip(self._load(found), numbers, strict=True))

    def delete_scorer(
        self, experiment_id: str | None, name: str, version: int | str | None = None
    ) -> None:
        """Delete one version of a scorer; all of them without a version, or with "all"."""
        self._tracking_store.delete_scorer(
            experiment_id or _get_experiment_id(), name, None if version == "all" else version
        )

    def upsert_online_scoring_config(
        self,
        *,
        scorer: Scorer,
        experiment_id: str,
        sample_rate: float | None = None,
        filter_string: str | None = None,
    ) -> Scorer:
        """Set the rate, the filter or both; None keeps what is set, an empty filter removes it.

        Raises:
            MlflowException: the scorer isn't registered, the rate is outside 0..1, or the filter
                doesn't parse.
        """
        if scorer._registered_backend is None:
            raise MlflowException.invalid_parameter_value(
                f"Scorer '{scorer.name}' is not registered: call register() first, or get it with "
                "get_scorer()."
            )
        if sample_rate is None or filter_string is None:
            current = self.get_scorer(experiment_id, scorer.name)
            if sample_rate is None:
                sample_rate = current.sample_rate or 0.0
            if filter_string is None:
                filter_string = current.filter_string
        self._tracking_store.upsert_online_scoring_config(
            experiment_id=experiment_id,
            scorer_name=scorer.name,
            sample_rate=sample_rate,
            filter_string=filter_string or None,
        )
        return self.get_scorer(experiment_id, scorer.name)

    def _load(self, versions: list[ScorerVersion]) -> list[Scorer]:
        """Scorers with their sampling settings, in the order of ``versions``."""
        ids = list({version.scorer_id for version in versions})
        configs: dict[str | None, Any] = {}
        if ids:
            found = self._tracking_store.get_online_scoring_configs(ids)
            configs = {config.scorer_id: config for config in found}
        scorers = []
        for version in versions:
            data = asdict(version.serialized_scorer)
            scorer = (
                StoredScorer.from_serialized(data)
                if is_custom(data)
                else Scorer.model_validate(data)
            )
            self._hydrate_scorer(scorer, version, configs.get(version.scorer_id))
            scorers.append(scorer)
        return scorers
