"""``/api/backfills``: ask for one, list them, look at one, cancel it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow.exceptions import MlflowException
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vedette.mlflow_app.backfills import Backfills


def backfill_routes(backfills: Backfills) -> list[Route]:
    """The routes, to be put ahead of MLflow's own."""

    async def ask(request: Request) -> Response:
        try:
            body = await request.json()
        except (ValueError, RecursionError) as error:
            return _refusal(MlflowException.invalid_parameter_value(f"not JSON: {error}"))
        return await _answer(lambda: backfills.ask(body))

    async def list_all(request: Request) -> Response:
        experiment_id = request.query_params.get("experiment_id")
        return await _answer(lambda: {"backfills": backfills.listed(experiment_id)})

    async def get(request: Request) -> Response:
        return await _answer(lambda: backfills.get(request.path_params["job"]))

    async def cancel(request: Request) -> Response:
        return await _answer(lambda: backfills.cancel(request.path_params["job"]))

    return [
        Route("/api/backfills", ask, methods=["POST"]),
        Route("/api/backfills", list_all),
        Route("/api/backfills/{job}", get),
        Route("/api/backfills/{job}/cancel", cancel, methods=["POST"]),
    ]


async def _answer(act: Callable[[], Any]) -> Response:
    try:
        return JSONResponse(await run_in_threadpool(act))
    except MlflowException as error:
        return _refusal(error)


def _refusal(error: MlflowException) -> Response:
    body = {"error_code": error.error_code, "message": error.message}
    return JSONResponse(body, status_code=error.get_http_status_code())
