"""Backfills are asked for, looked at and cancelled here; the engine runs them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any, cast

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE

from vedette.intake.journal import JournalFull, JournalUnavailable
from vedette.intake.records import Record
from vedette.lake.location import stamp
from vedette.lake.storage import LakeUnavailable
from vedette.mlflow_app.plane import TracePlane
from vedette.processes import read_state
from vedette.scoring.active import ActiveScorer, ActiveScorers, ControlUnavailable, control_engine
from vedette.scoring.asked_backfill import ask, forecast
from vedette.scoring.backfill_progress import backfill_failures, backfill_progress
from vedette.scoring.backfills import Backfill, stored_backfills
from vedette.scoring.epochs import stored_epochs
from vedette.scoring.selection import Selection
from vedette.traces.writes import unavailable

_WEEK_MS = 7 * 86_400_000
_FIELDS = {
    "experiment_id",
    "scorers",
    "start_time_ms",
    "end_time_ms",
    "rescore",
    "dry_run",
}


class Backfills:
    """Use from any thread.

    Raises (every method):
        MlflowException: TEMPORARILY_UNAVAILABLE: the read model, the journal or the control
            database can't be used now; RESOURCE_DOES_NOT_EXIST; INVALID_PARAMETER_VALUE.
    """

    def __init__(self, plane: TracePlane) -> None:
        self._plane = plane
        self._scorers = ActiveScorers(control_engine(plane.settings.control_uri), max_age=0.0)
        self._selection = Selection(plane.index, plane.contents)

    def ask(self, body: Any) -> dict[str, Any]:
        """Begin one; or, with ``dry_run``, say what it would come to.

        Args:
            body: of the request: ``experiment_id``, ``scorers`` [{``name``, ``sample_rate`` or
                null}], and if wanted ``start_time_ms``, ``end_time_ms``, ``rescore``, ``dry_run``.

        Returns:
            As `get`, or ``{"dry_run": [a Forecast's fields, ...]}``.
        """
        experiment_id, wanted, start_ms, end_ms = _checked(body)
        self._plane.experiments.get_active(experiment_id)
        registered = self._registered(experiment_id)
        self._plane.up_to_date()
        job = ask(
            self._plane.index,
            registered,
            wanted,
            experiment_id=experiment_id,
            start_ms=start_ms,
            end_ms=end_ms,
            rescore=body.get("rescore") is True,
            now_ms=int(time.time() * 1000),
        )
        if body.get("dry_run") is not True:
            self._write(job)
            return self.get(job.job)
        try:
            found = forecast(self._plane.index, self._selection, job, registered)
        except LakeUnavailable as error:
            raise MlflowException(str(error), TEMPORARILY_UNAVAILABLE) from error
        return {"dry_run": [asdict(one) for one in found]}

    def listed(self, experiment_id: str | None = None) -> list[dict[str, Any]]:
        """As `backfill_progress`, of one experiment or of all; the newest first."""
        self._plane.up_to_date()
        return self._told(
            job
            for job in reversed(stored_backfills(self._plane.index))
            if experiment_id in (None, job.experiment_id)
        )

    def get(self, job_id: str) -> dict[str, Any]:
        """As `backfill_progress`, and ``failures`` as `backfill_failures`."""
        job = self._find(job_id)
        (found,) = self._told([job])
        return {**found, "failures": backfill_failures(self._plane.index, job)}

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel one, if it isn't at its end; what it has scored stays. As `get`."""
        job = self._find(job_id)
        (found,) = self._told([job])
        if job.cancelled_ms is None and found["state"] in ("waiting", "running"):
            self._write(replace(job, cancelled_ms=int(time.time() * 1000)))
        return self.get(job_id)

    def _find(self, job_id: str) -> Backfill:
        self._plane.up_to_date()
        for job in stored_backfills(self._plane.index):
            if job.job == job_id:
                return job
        raise MlflowException(
            f"There is no backfill {job_id}. `vedette backfills` lists them.",
            RESOURCE_DOES_NOT_EXIST,
        )

    def _write(self, job: Backfill) -> None:
        try:
            fields = {**job.row(), **stamp(self._plane.locations.of(job.experiment_id))}
            record = Record("backfill", int(time.time() * 1000), fields)
            self._plane.journal.append(record).result()
        except (JournalFull, JournalUnavailable) as error:
            raise unavailable(error) from error

    def _registered(self, experiment_id: str) -> list[ActiveScorer]:
        try:
            return self._scorers.registered(experiment_id)
        except ControlUnavailable as error:
            raise MlflowException(str(error), TEMPORARILY_UNAVAILABLE) from error

    def _told(self, jobs: Iterable[Backfill]) -> list[dict[str, Any]]:
        state = read_state(self._plane.settings.run_dir / "engine.json") or {}
        engine = state.get("workers", {}).get("backfills", {})
        epochs = stored_epochs(self._plane.index)
        return [backfill_progress(self._plane.index, job, epochs, engine) for job in jobs]


def _checked(body: Any) -> tuple[str, list[tuple[str, float | None]], int, int]:
    """Experiment, scorers with their rates, start and end."""
    if not isinstance(body, dict):
        raise _invalid("a backfill is asked for with a JSON object")
    if unknown := sorted(body.keys() - _FIELDS):
        raise _invalid(
            f"a backfill has no {', '.join(unknown)}; it has {', '.join(sorted(_FIELDS))}"
        )
    experiment_id = body.get("experiment_id")
    if not isinstance(experiment_id, str):
        raise _invalid("experiment_id must be the id of an experiment, as text")
    for name in ("rescore", "dry_run"):
        if not isinstance(body.get(name, False), bool):
            raise _invalid(f"{name} must be true or false, not {body[name]!r:.100}")
    scorers = body.get("scorers")
    if not isinstance(scorers, list):
        raise _invalid('scorers must be a list of {"name": ..., "sample_rate": ...}')
    wanted: list[tuple[str, float | None]] = []
    for number, one in enumerate(scorers, 1):
        match one:
            case {"name": str() as name, **rest} if rest.keys() <= {"sample_rate"}:
                wanted.append((name, cast("float | None", rest.get("sample_rate"))))
            case _:
                raise _invalid(
                    f'scorer {number} is {one!r:.200}, not {{"name": ..., "sample_rate": ...}}'
                )
    end_ms = _time(body, "end_time_ms", int(time.time() * 1000))
    return experiment_id, wanted, _time(body, "start_time_ms", end_ms - _WEEK_MS), end_ms


def _time(body: dict[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**53:
        raise _invalid(f"{name} must be a whole number of ms since the epoch, not {value!r:.100}")
    return value


def _invalid(message: str) -> MlflowException:
    error: MlflowException = MlflowException.invalid_parameter_value(message)
    return error
