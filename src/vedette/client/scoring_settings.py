"""What MLflow's scorer API has no words for: sampling rates of strata, and budgets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from vedette.client.rest import ask_server


def set_sampling_strata(experiment: str, scorer: str, strata: Sequence[tuple[str, float]]) -> None:
    """Have a scorer sample some traces at rates of their own, such as all that failed.

    The first stratum whose filter matches a trace gives its rate; traces in no stratum keep the
    scorer's ``sample_rate``. Each score stores the probability that held, so estimates stay
    unbiased. The scorer's own ``filter_string`` is applied before.

    Args:
        experiment: name or id.
        scorer: a registered scorer's name.
        strata: pairs of a filter string (the grammar of ``mlflow.search_traces``) and a rate in
            0..1, replacing those set before; none removes them.

    Raises:
        MlflowException: RESOURCE_DOES_NOT_EXIST: no such experiment or scorer;
            INVALID_PARAMETER_VALUE: a filter doesn't parse, or a rate is outside 0..1.
    """
    _put(experiment, scorer, "strata", {"strata": list(strata)})


def set_scoring_budget(
    experiment: str,
    scorer: str,
    *,
    calls_per_minute: float | None = None,
    dollars_per_day: float | None = None,
) -> None:
    """Limit what a judge may spend. None is no limit; both replace what was set before.

    Near a limit the scorer's rate is lowered, by halves, with the probability that holds on each
    decision; when the day's dollars (UTC) are spent, or with a limit of 0, further traces get the
    decision ``budget``, also those that were to be tried again.

    Args:
        experiment: name or id.
        scorer: a registered scorer's name.

    Raises:
        MlflowException: RESOURCE_DOES_NOT_EXIST: no such experiment or scorer;
            INVALID_PARAMETER_VALUE: a limit is no number of at least 0, or the scorer asks no
            model.
    """
    limits = {"calls_per_minute": calls_per_minute, "dollars_per_day": dollars_per_day}
    _put(experiment, scorer, "budget", limits)


def _put(experiment: str, scorer: str, what: str, body: dict[str, Any]) -> None:
    try:
        json.dumps(body, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise MlflowException.invalid_parameter_value(
            f"a {what} of scorer '{scorer}' can't be sent: {error}"
        ) from error
    place = quote(_experiment_id(experiment), safe=""), quote(scorer, safe="")
    ask_server("PUT", f"/api/scorers/{place[0]}/{place[1]}/{what}", body)


def _experiment_id(experiment: str) -> str:
    found = mlflow.get_experiment_by_name(experiment)
    if found is not None:
        return str(found.experiment_id)
    if experiment.isdecimal():
        return experiment
    raise MlflowException(f"There is no experiment {experiment!r}.", RESOURCE_DOES_NOT_EXIST)
