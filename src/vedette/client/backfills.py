"""Scoring history: what was there before a scorer was, or before its new version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from urllib.parse import quote

from mlflow.exceptions import MlflowException
from mlflow.genai.scorers.base import Scorer
from mlflow.tracking.fluent import _get_experiment_id

from vedette.client.rest import ask_server, ask_server_json

_WRONG = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
_DRY_RUN_SECONDS = 600  # it looks at every unit


@dataclass(frozen=True)
class BackfillScorerConfig:
    """A scorer of a backfill, with a rate of its own.

    Attributes:
        scorer: a registered scorer, or its name.
        sample_rate: above 0 and at most 1; None: the rates with which the scorer is started.
    """

    scorer: Scorer | str
    sample_rate: float | None = None


def backfill_scorers(
    *,
    experiment_id: str | None = None,
    scorers: Sequence[str] | Sequence[BackfillScorerConfig],
    start_time: datetime | None = None,
    end_time: datetime | None = None,
    rescore: bool = False,
    dry_run: bool = False,
) -> str | list[dict[str, Any]]:
    """Have the latest versions of scorers score what is complete already.

    The filter of each scorer holds, and the draws of live scoring: a backfill at 0.2 contains what
    live scoring selected at 0.05. What this version has scored isn't scored again.

    Args:
        experiment_id: default: the active experiment.
        scorers: names, or configurations; not both.
        start_time, end_time: of when the traces began, as `mlflow.search_traces` compares; the end
            is not included. A session counts by its first trace. Without a zone: local time. An end
            left out is now, a start left out is 7 days before the end.
        rescore: score again what this version has scored.
        dry_run: begin nothing.

    Returns:
        The job's id; or for a dry run a dict for each scorer: ``scorer``, ``version``, ``rate``,
        ``units``, ``selected``, ``reused``, ``calls``, ``dollars``, ``seconds`` (None: not known).

    Raises:
        ValueError: names and configurations are mixed, a name isn't registered (the message has
            those that are), a rate is out of range, or the start is not before the end.
        MlflowException: the server isn't reached, or can't take it now.
    """
    body = {
        "experiment_id": experiment_id or _get_experiment_id(),
        "scorers": _wanted(scorers),
        "start_time_ms": _milliseconds(start_time),
        "end_time_ms": _milliseconds(end_time),
        "rescore": rescore,
        "dry_run": dry_run,
    }
    try:
        timeout = _DRY_RUN_SECONDS if dry_run else None
        answer = ask_server("POST", "/api/backfills", body, timeout).json()
    except MlflowException as error:
        if error.error_code in _WRONG:
            raise ValueError(error.message) from error
        raise
    return cast("list[dict[str, Any]]", answer["dry_run"]) if dry_run else str(answer["job"])


def get_backfill(job_id: str) -> dict[str, Any]:
    """How far a backfill has come: ``state`` (waiting, running, done, cancelled, stopped),
    ``scorers`` with units, counts, rate, time left and cost, ``failures``.

    Raises:
        MlflowException: RESOURCE_DOES_NOT_EXIST, there is none of this id.
    """
    path = f"/api/backfills/{quote(job_id, safe='')}"
    return cast("dict[str, Any]", ask_server_json("GET", path))


def list_backfills(experiment_id: str | None = None) -> list[dict[str, Any]]:
    """The backfills of an experiment, or of all; the newest first. As `get_backfill`, without
    failures."""
    query = "" if experiment_id is None else f"?experiment_id={quote(experiment_id, safe='')}"
    answer = ask_server_json("GET", f"/api/backfills{query}")
    return cast("list[dict[str, Any]]", answer["backfills"])


def cancel_backfill(job_id: str) -> dict[str, Any]:
    """Cancel a backfill; what it has scored stays. As `get_backfill`.

    Raises:
        MlflowException: RESOURCE_DOES_NOT_EXIST, there is none of this id.
    """
    path = f"/api/backfills/{quote(job_id, safe='')}/cancel"
    return cast("dict[str, Any]", ask_server_json("POST", path))


def _wanted(scorers: Any) -> list[dict[str, Any]]:
    if isinstance(scorers, Sequence) and not isinstance(scorers, str):
        if all(isinstance(one, str) for one in scorers):
            return [{"name": name} for name in scorers]
        if all(isinstance(one, BackfillScorerConfig) for one in scorers):
            return [_with_rate(one) for one in scorers]
    raise ValueError(
        "scorers must be a list of names, or one of BackfillScorerConfig: "
        'scorers=["safety"], or scorers=[BackfillScorerConfig("safety", 0.2)]'
    )


def _with_rate(one: BackfillScorerConfig) -> dict[str, Any]:
    if not isinstance(one.scorer, str | Scorer):
        raise ValueError(
            f"what is to be backfilled must be a scorer or its name, not {one.scorer!r}"
        )
    name = one.scorer if isinstance(one.scorer, str) else one.scorer.name
    rate: Any = one.sample_rate
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if rate is not None and not (is_number and 0 < rate <= 1):
        # Not left to the server: JSON has no NaN
        raise ValueError(f"the rate of {name!r} must be above 0 and at most 1, not {rate!r}")
    return {"name": name, "sample_rate": rate}


def _milliseconds(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp() * 1000)
