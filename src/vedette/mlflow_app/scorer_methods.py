"""The store's scorer methods that differ from MLflow's: any registered scorer can score live."""

from __future__ import annotations

import difflib
import json
import threading
import uuid
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any, cast

from mlflow.entities import ScorerVersion
from mlflow.exceptions import MlflowException
from mlflow.genai.scorers.base import SerializedScorer
from mlflow.genai.scorers.online.entities import OnlineScoringConfig
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.tracking.dbmodels.models import (
    SqlExperiment,
    SqlExperimentTag,
    SqlOnlineScoringConfig,
    SqlScorer,
)

from vedette.client.findings import not_self_contained
from vedette.client.self_contained import check_stored
from vedette.mlflow_app.filter_position import require_filter
from vedette.mlflow_app.plane import TracePlane
from vedette.scoring.active import BUDGET_TAG, STRATA_TAG
from vedette.scoring.judges import call_objection, functions

_NOT_FOUND = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
_registering = threading.Lock()  # MLflow reads the highest version, then adds the next


class ScorerMethods:
    """Mixed into the store, ahead of MLflow's."""

    _plane: TracePlane

    def get_active_online_scorers(self) -> list[Any]:
        """Nothing, for MLflow's own scheduler: the engine scores."""
        return []

    def register_scorer(
        self, experiment_id: str, name: str, serialized_scorer: str
    ) -> ScorerVersion:
        """As MLflow's, which fails on what isn't a serialized scorer and takes any function.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE, it isn't one, holds a function that can't run
                from its text alone, or would send the engine's keys to an address of its own.
        """
        try:
            data = json.loads(serialized_scorer)
            SerializedScorer.from_dict(data)
        except (ValueError, TypeError, AttributeError) as error:
            raise MlflowException.invalid_parameter_value(
                f"serialized_scorer is not one that MLflow's Scorer.model_dump() has made: {error}"
            ) from error
        if objection := call_objection(data):
            raise MlflowException.invalid_parameter_value(objection)
        for function in functions(data):
            _require_self_contained(name, function)
        with _registering:
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
        """As MLflow's; an unknown name is answered with those like it.

        With its only version goes the scorer, with its strata and its budget. MLflow keeps its
        rate, with which the next scorer of that name would be started as soon as it is registered.
        """
        versions = [one.scorer_version for one in self.list_scorer_versions(experiment_id, name)]
        if versions == [version]:
            version = None
        try:
            super().delete_scorer(experiment_id, name, version)  # type: ignore[misc]
        except MlflowException as error:
            raise self._with_names_like(error, experiment_id, name) from error
        if version is None:
            self._forget_settings(experiment_id, name)

    def _forget_settings(self, experiment_id: str, name: str) -> None:
        with self.ManagedSessionMaker(read_only=False) as session:  # type: ignore[attr-defined]
            session.query(SqlExperimentTag).filter(
                SqlExperimentTag.experiment_id == int(experiment_id),
                SqlExperimentTag.key.in_([f"{tag}{name}" for tag in (STRATA_TAG, BUDGET_TAG)]),
            ).delete()

    def upsert_online_scoring_config(
        self,
        experiment_id: str,
        scorer_name: str,
        sample_rate: float,
        filter_string: str | None = None,
    ) -> OnlineScoringConfig:
        """Set a scorer's rate and filter. MLflow refuses scorers without a gateway model here.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE: the rate isn't a number in 0..1, the filter
                doesn't parse, or the experiment has as many active scorers as it may have;
                RESOURCE_DOES_NOT_EXIST, naming scorers with similar names.
        """
        if isinstance(sample_rate, bool) or not isinstance(sample_rate, int | float):
            raise MlflowException.invalid_parameter_value(
                f"sample_rate must be a number, got {type(sample_rate).__name__}"
            )
        if not 0.0 <= sample_rate <= 1.0:  # nor NaN
            raise MlflowException.invalid_parameter_value(
                f"sample_rate must be a number between 0.0 and 1.0, got {sample_rate}"
            )
        for text in (scorer_name, filter_string or ""):
            try:
                text.encode()
            except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can carry
                raise MlflowException.invalid_parameter_value(
                    f"{text!r} is not valid text: {error.reason}"
                ) from error
        if filter_string:
            require_filter(filter_string)
        scorer = self.get_scorer(experiment_id, scorer_name)
        with self.ManagedSessionMaker(read_only=False) as session:  # type: ignore[attr-defined]
            # One at a time per experiment, so that what is counted stays true until the commit and
            # a scorer never has two configurations. Databases lock the row; SQLite has no such lock
            # but lets one transaction write at a time, from its first DELETE on.
            session.query(SqlExperiment.experiment_id).filter(
                SqlExperiment.experiment_id == int(scorer.experiment_id)
            ).with_for_update(key_share=True).one()
            own = session.query(SqlOnlineScoringConfig).filter(
                SqlOnlineScoringConfig.scorer_id == scorer.scorer_id
            )
            was_active = own.filter(SqlOnlineScoringConfig.sample_rate > 0).delete() > 0
            own.delete()
            if sample_rate > 0 and not was_active:
                self._require_room(session, scorer)
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

    def _require_room(self, session: Any, scorer: ScorerVersion) -> None:
        limit = self._plane.settings.max_active_scorers
        active = (
            session.query(SqlScorer.scorer_name)
            .join(SqlOnlineScoringConfig, SqlOnlineScoringConfig.scorer_id == SqlScorer.scorer_id)
            .filter(
                SqlScorer.experiment_id == int(scorer.experiment_id),
                SqlScorer.scorer_versions.any(),
                SqlOnlineScoringConfig.sample_rate > 0,
            )
        )
        names = sorted(name for (name,) in active)
        if len(names) >= limit:
            raise MlflowException.invalid_parameter_value(
                f"Scorer '{scorer.scorer_name}' can't be started: experiment "
                f"{scorer.experiment_id} has {len(names)} active scorers, and {limit} are the most "
                f"(setting max_active_scorers). Stop one of them first: {', '.join(names)}."
            )

    def _with_names_like(
        self, error: MlflowException, experiment_id: str, name: str
    ) -> MlflowException:
        return with_names_like(error, name, lambda: self._scorers(experiment_id))

    def _scorers(self, experiment_id: str) -> list[ScorerVersion]:
        found: list[ScorerVersion] = self.list_scorers(experiment_id)  # type: ignore[attr-defined]
        return found


def with_names_like(
    error: MlflowException, name: str, registered: Callable[[], Iterable[ScorerVersion]]
) -> MlflowException:
    """The error that there is no scorer of this name, with names like it; any other as it is."""
    if error.error_code != _NOT_FOUND or "Scorer" not in error.message:
        return error
    names = {found.scorer_name for found in registered()}
    if name in names:  # it is the version that isn't there
        return error
    near = difflib.get_close_matches(name, names, n=3)
    hint = (
        f"Did you mean {' or '.join(repr(one) for one in near)}?"
        if near
        else f"Registered: {', '.join(sorted(names)) or 'none'}."
    )
    return MlflowException(f"{error.message} {hint}", RESOURCE_DOES_NOT_EXIST)


def _require_self_contained(name: str, function: dict[str, Any]) -> None:
    texts = [function.get(key) for key in ("original_func_name", "call_source", "call_signature")]
    if not all(isinstance(text, str) for text in texts):
        raise MlflowException.invalid_parameter_value(
            f"Scorer '{name}' lacks the name, the body or the signature of its function."
        )
    function_name, body, signature = cast(list[str], texts)
    findings = check_stored(function_name, body, signature, objection=_not_installed)
    if findings:
        raise MlflowException.invalid_parameter_value(
            not_self_contained(name, findings, "line ", body.split("\n"))
        )


def _not_installed(module: str) -> tuple[str, str] | None:
    """Workers have the libraries that the server has. Nothing is imported to find out."""
    try:
        found = find_spec(module)
    except (ImportError, ValueError):  # e.g. __main__
        found = None
    if found is not None:
        return None
    fix = "install it with Vedette if it is a library; if it is your own code, put it inside"
    return f"imports {module}, which is not installed where it runs", fix
