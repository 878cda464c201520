"""``PUT /api/trace-locations/{experiment_id}``: where an experiment keeps its traces."""

from __future__ import annotations

from mlflow.exceptions import MlflowException
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vedette.mlflow_app.location_control import LocationControl


def location_routes(control: LocationControl) -> list[Route]:
    """The route, to be put ahead of MLflow's own."""

    async def bind(request: Request) -> Response:
        experiment_id = request.path_params["experiment_id"]
        try:
            try:
                body = await request.json()
            except (ValueError, RecursionError) as error:
                raise MlflowException.invalid_parameter_value(f"not JSON: {error}") from error
            return JSONResponse(await run_in_threadpool(control.bind, experiment_id, body))
        except MlflowException as error:
            told = {"error_code": error.error_code, "message": error.message}
            return JSONResponse(told, status_code=error.get_http_status_code())

    return [Route("/api/trace-locations/{experiment_id}", bind, methods=["PUT"])]
