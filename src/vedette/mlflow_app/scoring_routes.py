"""``/api/scorers`` and ``/api/explain/{trace_id}``: how scoring is, why a trace has its scores."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mlflow.exceptions import MlflowException
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vedette.mlflow_app.plane import TracePlane
from vedette.processes import read_state
from vedette.scoring.active import ActiveScorer, ActiveScorers, ControlUnavailable, control_engine
from vedette.scoring.explain import Explainer
from vedette.scoring.selection import Selection
from vedette.scoring.summary import scorers_summary


def scoring_routes(plane: TracePlane) -> list[Route]:
    """The routes, to be put ahead of MLflow's own."""
    settings = plane.settings
    scorers = ActiveScorers(control_engine(settings.control_uri), max_age=0.0)
    explainer = Explainer(settings, plane.index, Selection(plane.index, plane.contents))

    def active() -> list[ActiveScorer]:
        try:
            return scorers.read()
        except ControlUnavailable:
            return []

    def list_scorers(experiment_id: str | None) -> list[dict[str, Any]]:
        connection = plane.up_to_date()
        engine = (read_state(settings.run_dir / "engine.json") or {}).get("workers", {})
        rows = scorers_summary(connection, active(), engine.get("scorers", {}))
        return [row for row in rows if experiment_id in (None, row["experiment_id"])]

    def explain(trace_id: str) -> list[dict[str, Any]] | None:
        plane.up_to_date()
        found = explainer.explain(trace_id, active())
        return None if found is None else [asdict(one) for one in found]

    async def answer_scorers(request: Request) -> Response:
        try:
            rows = await run_in_threadpool(list_scorers, request.query_params.get("experiment_id"))
        except MlflowException as error:
            return _refusal(error)
        return JSONResponse({"scorers": rows})

    async def answer_explain(request: Request) -> Response:
        trace_id = request.path_params["trace_id"]
        try:
            found = await run_in_threadpool(explain, trace_id)
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
        return JSONResponse({"trace_id": trace_id, "scorers": found})

    return [
        Route("/api/scorers", answer_scorers),
        Route("/api/explain/{trace_id}", answer_explain),
    ]


def _refusal(error: MlflowException) -> Response:
    body = {"error_code": error.error_code, "message": error.message}
    return JSONResponse(body, status_code=error.get_http_status_code())
