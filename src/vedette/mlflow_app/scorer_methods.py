"""The store's scorer methods that differ from MLflow's: any registered scorer can score live."""

from __future__ import annotations

import difflib
import json
import uuid
from typing import Any, cast

from mlflow.entities import ScorerVersion
from mlflow.exceptions import MlflowException
from mlflow.genai.scorers.base import SerializedScorer
from mlflow.genai.scorers.online.entities import OnlineScoringConfig
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.tracking.dbmodels.models import SqlOnlineScoringConfig, SqlScorer

from vedette.traces.filters import compile_filter

_NOT_FOUND = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


class ScorerMethods:
    """Mixed into the store, ahead of MLflow's."""

    def get_active_online_scorers(self) -> list[Any]:
        """Nothing, for MLflow's own scheduler: the engine scores."""
        return []

    def register_scorer(
        self, experiment_id: str, name: str, serialized_scorer: str
    ) -> ScorerVersion:
        """As MLflow's, which fails on what isn't a serialized scorer.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE, it isn't one.
        """
        try:
            scorer = SerializedScorer.from_dict(json.loads(serialized_scorer))
        except (ValueError, TypeError, AttributeError) as error:
            raise MlflowException.invalid_parameter_value(
                f"serialized_scorer is not one that MLflow's Scorer.model_dump() has made: {error}"
            ) from error
        _require_body(name, scorer)
        found = super().register_scorer(experiment_id, name, serialized_scorer)  # type: ignore[misc]
        return cast(ScorerVersion, found)

    def get_scorer(
        self, experiment_id: str, name: str, version: int | None = None
    ) -> ScorerVersion:
        """As MLflow's; an unknown name is answered with those like it."""
        try:
            found = super().get_scorer(experiment_id, name, version)  # type: ignore[misc]
            return cast(ScorerVersion, found)
        except MlflowException as error:
            raise self._with_names_like(error, experiment_id, name) from error

    def list_scorer_versions(self, experiment_id: str, name: str) -> list[ScorerVersion]:
        """As MLflow's; an unknown name is answered with those like it."""
        try:
            versions = super().list_scorer_versions(experiment_id, name)  # type: ignore[misc]
            return cast(list[ScorerVersion], versions)
        except MlflowException as error:
            raise self._with_names_like(error, experiment_id, name) from error

    def delete_scorer(self, experiment_id: str, name: str, version: int | None = None) -> None:
        """As MLflow's; an unknown name is answered with those like it."""
        try:
            super().delete_scorer(experiment_id, name, version)  # type: ignore[misc]
        except MlflowException as error:
            raise self._with_names_like(error, experiment_id, name) from error

    def upsert_online_scoring_config(
        self,
        experiment_id: str,
        scorer_name: str,
        sample_rate: float,
        filter_string: str | None = None,
    ) -> OnlineScoringConfig:
        """Set a scorer's rate and filter. MLflow refuses scorers without a gateway model here.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE: the rate isn't a number in 0..1 or the filter
                doesn't parse; RESOURCE_DOES_NOT_EXIST, naming scorers with similar names.
        """
        if isinstance(sample_rate, bool) or not isinstance(sample_rate, int | float):
            raise MlflowException.invalid_parameter_value(
                f"sample_rate must be a number, got {type(sample_rate).__name__}"
            )
        if not 0.0 <= sample_rate <= 1.0:
            raise MlflowException.invalid_parameter_value(
                f"sample_rate must be between 0.0 and 1.0, got {sample_rate}"
            )
        for text in (scorer_name, filter_string or ""):
            try:
                text.encode()
            except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can carry
                raise MlflowException.invalid_parameter_value(
                    f"{text!r} is not valid text: {error.reason}"
                ) from error
        if filter_string:
            compile_filter(filter_string, None)  # raises what search_traces would
        scorer = self.get_scorer(experiment_id, scorer_name)
        with self.ManagedSessionMaker(read_only=False) as session:  # type: ignore[attr-defined]
            # One at a time per scorer, so that there is never more than one configuration of it
            session.query(SqlScorer).filter(
                SqlScorer.scorer_id == scorer.scorer_id
            ).with_for_update().one()
            session.query(SqlOnlineScoringConfig).filter(
                SqlOnlineScoringConfig.scorer_id == scorer.scorer_id
            ).delete()
            config = SqlOnlineScoringConfig(
                online_scoring_config_id=uuid.uuid4().hex,
                scorer_id=scorer.scorer_id,
                sample_rate=sample_rate,
                experiment_id=int(scorer.experiment_id),
                filter_string=filter_string,
            )
            session.add(config)
            session.flush()
            return config.to_mlflow_entity()

    def _with_names_like(
        self, error: MlflowException, experiment_id: str, name: str
    ) -> MlflowException:
        if error.error_code != _NOT_FOUND or "Scorer" not in error.message:
            return error
        names = {found.scorer_name for found in self._scorers(experiment_id)}
        if name in names:  # it is the version that isn't there
            return error
        near = difflib.get_close_matches(name, names, n=3)
        hint = (
            f"Did you mean {' or '.join(repr(one) for one in near)}?"
            if near
            else f"Registered: {', '.join(sorted(names)) or 'none'}."
        )
        return MlflowException(f"{error.message} {hint}", RESOURCE_DOES_NOT_EXIST)

    def _scorers(self, experiment_id: str) -> list[ScorerVersion]:
        found: list[ScorerVersion] = self.list_scorers(experiment_id)  # type: ignore[attr-defined]
        return found


def _require_body(name: str, scorer: SerializedScorer) -> None:
    """Refuse a function of which MLflow took the ``def`` line for the body.

    It does so with one-line functions: run, they would define themselves and return nothing.
    """
    source, function = scorer.call_source, scorer.original_func_name
    if source and function and source.lstrip().startswith(f"def {function}("):
        raise MlflowException.invalid_parameter_value(
            f"scorer '{name}' is written on one line: put the body of the function on lines of its "
            "own, else MLflow stores no body"
        )
