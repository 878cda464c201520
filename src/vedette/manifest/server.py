"""What a server has of what manifests declare, and changing it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import mlflow
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

from vedette.archive.setting import ArchiveSetting
from vedette.client.registration import serialize
from vedette.client.rest import ask_server, ask_server_json
from vedette.client.scorer_store import VedetteScorerStore
from vedette.scoring.active import BUDGET_TAG, STRATA_TAG
from vedette.scoring.judges import asks_model


@dataclass(frozen=True, slots=True)
class Registered:
    """A scorer as it is.

    Attributes:
        stored: MLflow's ``SerializedScorer`` of the latest version, as a dict.
        sampling: 0: it is stopped, or never was started.
        budget: empty: it has none.
    """

    handle: Any
    stored: Mapping[str, Any]
    sampling: float
    filter: str | None
    strata: tuple[tuple[str, float], ...]
    budget: Mapping[str, float]

    @property
    def is_judge(self) -> bool:
        """Whether it asks a model."""
        return asks_model(self.stored)


@dataclass(frozen=True, slots=True)
class Found:
    """An experiment as it is. Alerts are as ``GET /api/alerts`` has them."""

    scorers: Mapping[str, Registered]
    alerts: Mapping[str, Mapping[str, Any]]
    archival: ArchiveSetting | None


class Server:
    """A Vedette server. Experiments go by their names.

    Args:
        url: its address.

    Raises (every method):
        MlflowException: it refuses, or can't be reached.
    """

    def __init__(self, url: str) -> None:
        mlflow.set_tracking_uri(url)
        self._store = VedetteScorerStore(url)

    def found(self, name: str) -> Found | None:
        """What an experiment has; None: there is no such experiment.

        Raises:
            MlflowException: also if it has been deleted.
        """
        experiment = mlflow.get_experiment_by_name(name)
        if experiment is None:
            return None
        if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
            raise MlflowException.invalid_parameter_value(
                f"the experiment {name} has been deleted: restore it, or delete it for good"
            )
        where = quote(experiment.experiment_id, safe="")
        archives = ask_server_json("GET", f"/api/archival?experiment_id={where}")["archives"]
        alerts = ask_server_json("GET", f"/api/alerts?experiment={where}")["alerts"]
        handles = self._store.list_scorers(experiment.experiment_id)
        return Found(
            scorers={one.name: _registered(one, experiment.tags) for one in handles},
            alerts={one["name"]: one for one in alerts},
            archival=_archival(archives),
        )

    def most_active(self) -> int:
        """How many scorers of an experiment can be started."""
        return int(ask_server_json("GET", "/api/scorers?experiment_id=")["max_active_scorers"])

    def create(self, name: str) -> None:
        """Make an experiment."""
        mlflow.create_experiment(name)

    def register(self, experiment: str, scorer: Any) -> None:
        """Register MLflow's scorer, or its next version."""
        self._store.register_scorer(self._id(experiment), scorer)

    def sample(self, experiment: str, name: str, rate: float, filter_string: str | None) -> None:
        """Start a scorer, change how it samples, or stop it."""
        experiment_id = self._id(experiment)
        self._store.upsert_online_scoring_config(
            scorer=self._store.get_scorer(experiment_id, name),
            experiment_id=experiment_id,
            sample_rate=rate,
            filter_string=filter_string or "",
        )

    def set_scoring(self, experiment: str, name: str, what: str, body: Any) -> None:
        """Set ``strata`` or ``budget`` of a scorer."""
        ask_server("PUT", self._path("scorers", experiment, name) + f"/{what}", body)

    def delete_scorer(self, experiment: str, name: str) -> None:
        """Delete a scorer, all its versions."""
        self._store.delete_scorer(self._id(experiment), name, "all")

    def changes_of_alert(self, experiment: str, name: str, body: Any) -> list[str]:
        """Which fields `put_alert` would change; "alert": there is no such rule."""
        path = self._path("alerts", experiment, name) + "?keep_channels&dry_run"
        changes: list[str] = ask_server("PUT", path, body).json()["changes"]
        return changes

    def put_alert(self, experiment: str, name: str, body: Any) -> None:
        """Add an alert, or change it. Channels that are left out stay."""
        ask_server("PUT", self._path("alerts", experiment, name) + "?keep_channels", body)

    def delete_alert(self, experiment: str, name: str) -> None:
        """Remove an alert."""
        ask_server("DELETE", self._path("alerts", experiment, name))

    def archive(self, experiment: str, setting: ArchiveSetting | None) -> None:
        """Archive an experiment, or stop that: the table stays."""
        where = f"/api/archival/{self._id(experiment)}"
        if setting is None:
            ask_server("DELETE", where)
        else:
            ask_server("PUT", where, setting.as_json())

    def _path(self, what: str, experiment: str, name: str) -> str:
        return f"/api/{what}/{self._id(experiment)}/{quote(name, safe='')}"

    def _id(self, experiment: str) -> str:
        found = mlflow.get_experiment_by_name(experiment)
        if found is None:
            raise MlflowException.invalid_parameter_value(f"there is no experiment {experiment}")
        return str(found.experiment_id)


def _registered(handle: Any, tags: Mapping[str, str]) -> Registered:
    strata = json.loads(tags.get(STRATA_TAG + handle.name, "[]"))
    budget = json.loads(tags.get(BUDGET_TAG + handle.name, "{}"))
    return Registered(
        handle=handle,
        stored=serialize(handle),
        sampling=handle.sample_rate or 0.0,
        filter=handle.filter_string or None,
        strata=tuple((text, float(rate)) for text, rate in strata),
        budget={key: value for key, value in budget.items() if value is not None},
    )


def _archival(archives: list[dict[str, Any]]) -> ArchiveSetting | None:
    if not archives or "delta_table_fullname" not in archives[0]:
        return None
    names = ("delta_table_fullname", "retention_days", "optimize")
    return ArchiveSetting.of({name: archives[0][name] for name in names})
