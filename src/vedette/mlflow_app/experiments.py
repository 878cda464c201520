"""What a trace write needs to know of its experiment, without a database query each time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST

from vedette.lake.locations import LOCATION_TAG, Locations
from vedette.trace_locations import learn

_FRESH_SECONDS = 5.0  # how late what another server did may be noticed
_LIMIT = 10_000
_LARGEST_ID = 2**63 - 1  # SQLite's


def require_possible(experiment_id: str) -> None:
    """Answer ids no database could hold like those that aren't there.

    Raises:
        MlflowException: RESOURCE_DOES_NOT_EXIST.
    """
    text = str(experiment_id)
    if text.isdecimal() and int(text[:30]) > _LARGEST_ID:
        raise MlflowException(f"No Experiment with id={text} exists", RESOURCE_DOES_NOT_EXIST)


class ExperimentFacts(NamedTuple):
    """The facts of an experiment that traces depend on."""

    experiment_id: str
    artifact_location: str
    lifecycle_stage: str


class Experiments:
    """Remembers experiments for a few seconds. Unknown ones are always looked up.

    Args:
        load: gives MLflow's entity for an experiment id, or raises its error.
        locations: where experiments keep their traces, as far as it is known here; another server
            may have been told.
    """

    def __init__(self, load: Callable[[str], Any], locations: Locations) -> None:
        self._load = load
        self._locations = locations
        self._known: dict[str, tuple[float, ExperimentFacts]] = {}

    def get(self, experiment_id: str) -> ExperimentFacts:
        """The experiment, deleted or not.

        Raises:
            MlflowException: RESOURCE_DOES_NOT_EXIST, or INVALID_PARAMETER_VALUE: not a number.
        """
        if (facts := self._remembered(experiment_id)) is not None:
            return facts
        require_possible(experiment_id)
        experiment = self._load(experiment_id)
        if (tag := experiment.tags.get(LOCATION_TAG)) is not None:
            learn(experiment.experiment_id, tag, self._locations)
        facts = ExperimentFacts(
            experiment.experiment_id, experiment.artifact_location, experiment.lifecycle_stage
        )
        if len(self._known) >= _LIMIT:
            self._known.clear()
        self._known[experiment_id] = (time.monotonic(), facts)
        return facts

    async def get_async(self, experiment_id: str) -> ExperimentFacts:
        """As `get`, with no database query on the event loop."""
        if (facts := self._remembered(experiment_id)) is not None:
            return facts
        return await asyncio.to_thread(self.get, experiment_id)

    def get_active(self, experiment_id: str) -> ExperimentFacts:
        """The experiment, if traces may be added to it.

        Raises:
            MlflowException: as `get`, and INVALID_PARAMETER_VALUE: it is deleted.
        """
        return _active(self.get(experiment_id))

    async def get_active_async(self, experiment_id: str) -> ExperimentFacts:
        """As `get_active`, with no database query on the event loop."""
        return _active(await self.get_async(experiment_id))

    def artifact_location(self, experiment_id: str) -> str:
        """Where the experiment's artifacts are. That never changes: once known, it isn't asked.

        Raises:
            MlflowException: as `get`.
        """
        found = self._known.get(experiment_id)
        return found[1].artifact_location if found else self.get(experiment_id).artifact_location

    def forget(self, experiment_id: str) -> None:
        """Look the experiment up again next time: it has just been changed."""
        self._known.pop(str(experiment_id), None)

    def _remembered(self, experiment_id: str) -> ExperimentFacts | None:
        found = self._known.get(experiment_id)
        if found is None or time.monotonic() - found[0] > _FRESH_SECONDS:
            return None
        return found[1]


def _active(facts: ExperimentFacts) -> ExperimentFacts:
    if facts.lifecycle_stage != LifecycleStage.ACTIVE:
        raise MlflowException(
            f"The experiment {facts.experiment_id} must be in the 'active' state. "
            f"Current state is {facts.lifecycle_stage}.",
            INVALID_PARAMETER_VALUE,
        )
    return facts
