"""``/api/scorers`` and ``/api/explain/{trace_id}``: how scoring is, why a trace has its scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from mlflow.entities import ExperimentTag, ScorerVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vedette.mlflow_app.plane import TracePlane
from vedette.mlflow_app.scorer_methods import with_names_like
from vedette.mlflow_app.scoring_reads import ScoringReads
from vedette.scoring.active import BUDGET_TAG, STRATA_TAG, cap_of
from vedette.scoring.judges import asks_model
from vedette.traces.filters import compile_filter


def scoring_routes(plane: TracePlane, reads: ScoringReads) -> list[Route]:
    """The routes, to be put ahead of MLflow's own."""

    async def answer_scorers(request: Request) -> Response:
        try:
            rows = await run_in_threadpool(reads.scorers, request.query_params.get("experiment_id"))
        except MlflowException as error:
            return _refusal(error)
        most = plane.settings.max_active_scorers
        return JSONResponse({"scorers": rows, "max_active_scorers": most})

    async def answer_explain(request: Request) -> Response:
        trace_id = request.path_params["trace_id"]
        try:
            found = await run_in_threadpool(reads.explain, trace_id)
        except MlflowException as error:
            return _refusal(error)
        if found is None:
            return JSONResponse(
                {
                    "error_code": "RESOURCE_DOES_NOT_EXIST",
                    "message": f"there is no trace {trace_id}: it never arrived, or was deleted",
                },
                status_code=404,
            )
        return JSONResponse({"trace_id": trace_id, "scorers": [asdict(one) for one in found]})

    def put(what: str, experiment_id: str, name: str, body: Any) -> None:
        if what not in _SETTINGS:
            raise MlflowException(
                f"a scorer has {' and '.join(_SETTINGS)}, no {what}", RESOURCE_DOES_NOT_EXIST
            )
        tag, check = _SETTINGS[what]
        value = check(body)
        try:
            scorer = plane.control.get_scorer(experiment_id, name)
        except MlflowException as error:
            raise with_names_like(
                error, name, lambda: plane.control.list_scorers(experiment_id)
            ) from error
        if what == "budget" and any(value is not None for value in value.values()):
            _require_judge(scorer)
        plane.control.set_experiment_tag(
            experiment_id, ExperimentTag(f"{tag}{name}", json.dumps(value))
        )

    async def answer_put(request: Request) -> Response:
        try:
            body = await request.json()
        except (ValueError, RecursionError) as error:
            return _refusal(MlflowException.invalid_parameter_value(f"not JSON: {error}"))
        place = request.path_params
        try:
            await run_in_threadpool(put, place["what"], place["experiment_id"], place["name"], body)
        except MlflowException as error:
            return _refusal(error)
        return JSONResponse({})

    return [
        Route("/api/scorers", answer_scorers),
        Route("/api/scorers/{experiment_id}/{name:path}/{what}", answer_put, methods=["PUT"]),
        Route("/api/explain/{trace_id}", answer_explain),
    ]


def checked_strata(body: Any) -> list[tuple[str, float]]:
    """The strata in a request's body, ``{"strata": [[filter, rate], ...]}``.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE; it says which stratum is wrong.
    """
    pairs = body.get("strata") if isinstance(body, dict) else None
    if not isinstance(pairs, list):
        raise MlflowException.invalid_parameter_value("strata must be a list of [filter, rate]")
    strata: list[tuple[str, float]] = []
    for number, pair in enumerate(pairs, 1):
        match pair:
            case [str() as text, int() | float() as rate] if not isinstance(rate, bool) and (
                text and 0.0 <= rate <= 1.0
            ):
                strata.append((text, float(rate)))
            case _:
                raise MlflowException.invalid_parameter_value(
                    f"stratum {number} is {pair!r}, not [a filter string, a rate in 0..1]"
                )
        try:
            compile_filter(text, None)
        except MlflowException as error:
            raise MlflowException.invalid_parameter_value(
                f"the filter of stratum {number}, {text!r}, can't be used: {error.message}"
            ) from error
    return strata


def checked_budget(body: Any) -> dict[str, float | None]:
    """The budget that a request's body is.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE; it says what is wrong.
    """
    try:
        return asdict(cap_of(body))
    except ValueError as error:
        raise MlflowException.invalid_parameter_value(str(error)) from error


def _require_judge(scorer: ScorerVersion) -> None:
    if not asks_model(json.loads(scorer._serialized_scorer)):
        raise MlflowException.invalid_parameter_value(
            f"scorer '{scorer.scorer_name}' asks no model: it makes no calls that a budget could "
            "limit; lower its sampling rate instead"
        )


# The experiment's tag that holds it, and what makes its value of a request's body
_SETTINGS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "strata": (STRATA_TAG, checked_strata),
    "budget": (BUDGET_TAG, checked_budget),
}


def _refusal(error: MlflowException) -> Response:
    body = {"error_code": error.error_code, "message": error.message}
    return JSONResponse(body, status_code=error.get_http_status_code())
