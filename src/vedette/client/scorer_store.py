"""Registering and steering scorers on a Vedette server through MLflow's own functions.

What MLflow's store for ``http`` URIs doesn't do, this one does: handles of custom scorers without
executing their code, and of scorers whose library isn't installed here; `delete_scorer(name=)` for
all versions; updates of the rate or of the filter alone; functions that can't run elsewhere refused
before they are stored; handles that stay right when the one that replaces them is dropped.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import Any

from mlflow.entities import ScorerVersion
from mlflow.exceptions import MlflowException
from mlflow.genai.scorers.base import SCORER_BACKEND_TRACKING, Scorer, ScorerSamplingConfig
from mlflow.genai.scorers.registry import AbstractScorerStore, MlflowTrackingStore
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking.fluent import _get_experiment_id

from vedette.client.detection import is_vedette
from vedette.client.registration import serialize
from vedette.client.sampling import Superseded
from vedette.client.stored_scorer import StoredScorer
from vedette.scoring.judges import has_code

_NOT_FOUND = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


def scorer_store_for(tracking_uri: str) -> AbstractScorerStore:
    """Vedette's store if a Vedette server answers at the URI, else MLflow's."""
    if is_vedette(tracking_uri):
        return VedetteScorerStore(tracking_uri)
    return MlflowTrackingStore(tracking_uri)


class VedetteScorerStore(MlflowTrackingStore):
    """MLflow's store, but for what the module's docstring says."""

    def __init__(self, tracking_uri: str) -> None:
        super().__init__(tracking_uri)  # type: ignore[no-untyped-call]

    def register_scorer(self, experiment_id: str | None, scorer: Scorer) -> int:
        """Register a scorer, or its next version, which takes over if it is started.

        Raises:
            MlflowException: it is not self-contained, or the server refuses it.
        """
        registered = self._tracking_store.register_scorer(
            experiment_id or _get_experiment_id(), scorer.name, json.dumps(serialize(scorer))
        )
        config = self._configs([registered.scorer_id]).get(registered.scorer_id)
        self._set_state(scorer, registered, config)
        version: int = registered.scorer_version
        return version

    def list_scorers(self, experiment_id: str | None) -> list[Scorer]:
        """The latest version of every scorer of an experiment (default: the active one)."""
        return self._load(self._tracking_store.list_scorers(experiment_id or _get_experiment_id()))

    def get_scorer(
        self, experiment_id: str | None, name: str, version: int | None = None
    ) -> Scorer:
        """One version of a scorer, by default the latest.

        Raises:
            MlflowException: RESOURCE_DOES_NOT_EXIST, naming the scorers with similar names; the
                version is not a whole number.
        """
        _require_version(version)
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
        """Delete one version of a scorer; all of them without a version, or with "all".

        Raises:
            MlflowException: RESOURCE_DOES_NOT_EXIST; the version is no whole number.
        """
        number = None if version == "all" else version
        _require_version(number)
        self._tracking_store.delete_scorer(experiment_id or _get_experiment_id(), name, number)

    def upsert_online_scoring_config(
        self,
        *,
        scorer: Scorer,
        experiment_id: str,
        sample_rate: float | None = None,
        filter_string: str | None = None,
    ) -> Scorer:
        """Set the rate, the filter or both; None keeps what is set, an empty filter removes it.

        The scorer is the registered one of this name, also when the handle is the one that was
        registered, not the one that ``register()`` returned.

        Raises:
            MlflowException: the scorer isn't registered, the rate is outside 0..1, or the filter
                doesn't parse.
        """
        _require_rate(sample_rate)
        name = scorer.name
        try:
            current = self._current(experiment_id, name)
        except MlflowException as error:
            if error.error_code != _NOT_FOUND or scorer._registered_backend is not None:
                raise
            raise MlflowException(
                f"Scorer '{name}' is not registered in experiment {experiment_id}: register it, "
                f"`{name} = {name}.register()`, or load it with get_scorer(). {error.message}",
                RESOURCE_DOES_NOT_EXIST,
            ) from error
        if sample_rate is None:
            sample_rate = current.sample_rate or 0.0
        if filter_string is None:
            filter_string = current.filter_string
        self._tracking_store.upsert_online_scoring_config(
            experiment_id=experiment_id,
            scorer_name=name,
            sample_rate=sample_rate,
            filter_string=filter_string or None,
        )
        successor = self.get_scorer(experiment_id, name)
        scorer._registered_backend = SCORER_BACKEND_TRACKING
        scorer._sampling_config = Superseded(
            name,
            scorer._sampling_config,
            successor,
            partial(self._current_if_any, experiment_id, name),
        )
        return successor

    def _current_if_any(self, experiment_id: str, name: str) -> ScorerSamplingConfig:
        try:
            return self._current(experiment_id, name)
        except MlflowException as error:
            if error.error_code != _NOT_FOUND:
                raise
            return ScorerSamplingConfig(sample_rate=0.0)  # deleted since

    def _current(self, experiment_id: str, name: str) -> ScorerSamplingConfig:
        scorer_id = self._tracking_store.get_scorer(experiment_id, name).scorer_id
        return _sampling(self._configs([scorer_id]).get(scorer_id))

    def _configs(self, scorer_ids: list[str | None]) -> dict[str | None, Any]:
        found = self._tracking_store.get_online_scoring_configs(scorer_ids) if scorer_ids else []
        return {config.scorer_id: config for config in found}

    def _load(self, versions: list[ScorerVersion]) -> list[Scorer]:
        """Scorers with their sampling settings, in the order of ``versions``."""
        configs = self._configs(list({version.scorer_id for version in versions}))
        scorers = []
        for version in versions:
            data = asdict(version.serialized_scorer)
            scorer = _handle({**data, "name": version.scorer_name})
            self._set_state(scorer, version, configs.get(version.scorer_id))
            scorers.append(scorer)
        return scorers

    def _set_state(self, scorer: Scorer, version: ScorerVersion, config: Any) -> None:
        self._hydrate_scorer(scorer, version)
        scorer._sampling_config = _sampling(config)


def _require_version(version: object) -> None:
    if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
        raise MlflowException.invalid_parameter_value(
            f"version must be a whole number such as 1, got {version!r}"
        )


def _require_rate(rate: float | None) -> None:
    """What is lost on the way to the server: JSON has no NaN, and there True is 1."""
    if rate is not None and (isinstance(rate, bool) or not 0.0 <= rate <= 1.0):
        raise MlflowException.invalid_parameter_value(
            f"sample_rate must be a number between 0.0 and 1.0, got {rate}"
        )


def _sampling(config: Any) -> ScorerSamplingConfig:
    """The settings as handles have them: a scorer that was never started has the rate 0."""
    if config is None:
        return ScorerSamplingConfig(sample_rate=0.0)
    return ScorerSamplingConfig(config.sample_rate, config.filter_string)


def _handle(data: dict[str, Any]) -> Scorer:
    if has_code(data):
        return StoredScorer.from_serialized(data)
    try:
        return Scorer.model_validate(data)
    except Exception as error:  # its library is not here, or a newer MLflow made it: list the rest
        return StoredScorer.from_serialized(data, reason=str(error))
