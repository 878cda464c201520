"""Sampling rates of their own for some of an experiment's traces."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request


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
    experiment_id = _experiment_id(experiment)
    path = f"/api/scorers/{quote(experiment_id, safe='')}/{quote(scorer, safe='')}/strata"
    response = http_request(
        get_default_host_creds(mlflow.get_tracking_uri()),
        path,
        "PUT",
        json={"strata": [[filter_string, rate] for filter_string, rate in strata]},
        raise_on_status=False,
    )
    if response.status_code != 200:
        try:
            told = response.json()
            code = ErrorCode.Value(told["error_code"])
            raise MlflowException(told["message"], code)
        except (ValueError, KeyError, TypeError) as error:
            raise MlflowException(
                f"{mlflow.get_tracking_uri()} answered {response.status_code}: it is no Vedette "
                "server, or one that doesn't know strata"
            ) from error


def _experiment_id(experiment: str) -> str:
    found = mlflow.get_experiment_by_name(experiment)
    if found is None and experiment.isdecimal():
        return experiment
    if found is None:
        raise MlflowException(f"There is no experiment {experiment!r}.", RESOURCE_DOES_NOT_EXIST)
    return str(found.experiment_id)
