"""``/api/archival``: archives enabled, disabled, and how they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow.exceptions import MlflowException
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vedette.mlflow_app.archival_control import ArchivalControl


def archival_routes(control: ArchivalControl) -> list[Route]:
    """The routes, to be put ahead of MLflow's own."""

    async def answer_list(request: Request) -> Response:
        experiment_id = request.query_params.get("experiment_id")
        return await _answer(lambda: {"archives": control.archives(experiment_id)})

    async def answer_enable(request: Request) -> Response:
        try:
            body = await request.json()
        except (ValueError, RecursionError) as error:
            return _refusal(MlflowException.invalid_parameter_value(f"not JSON: {error}"))
        experiment_id = request.path_params["experiment_id"]
        return await _answer(lambda: control.enable(experiment_id, body))

    async def answer_disable(request: Request) -> Response:
        experiment_id = request.path_params["experiment_id"]
        return await _answer(lambda: control.disable(experiment_id))

    place = "/api/archival/{experiment_id}"
    return [
        Route("/api/archival", answer_list),
        Route(place, answer_enable, methods=["PUT"]),
        Route(place, answer_disable, methods=["DELETE"]),
    ]


async def _answer(act: Callable[[], Any]) -> Response:
    try:
        return JSONResponse(await run_in_threadpool(act) or {})
    except MlflowException as error:
        return _refusal(error)


def _refusal(error: MlflowException) -> Response:
    body = {"error_code": error.error_code, "message": error.message}
    return JSONResponse(body, status_code=error.get_http_status_code())
