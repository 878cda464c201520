"""``/api/deletions``: a user's traces deleted for good, and how far that is."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mlflow.exceptions import MlflowException
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vedette.mlflow_app.plane import TracePlane
from vedette.mlflow_app.write_methods import forget_reviews
from vedette.processes import read_state

_FIELDS = {"user", "experiment_id", "dry_run"}


def deletion_routes(plane: TracePlane) -> list[Route]:
    """The routes, to be put ahead of MLflow's own."""

    async def answer_delete(request: Request) -> Response:
        try:
            # What another site can make a browser send without asking has another type
            if request.headers.get("content-type", "").split(";")[0] != "application/json":
                raise _invalid("the body must be JSON (Content-Type)")
            try:
                body = await request.json()
            except (ValueError, RecursionError) as error:
                raise _invalid(f"not JSON: {error}") from error
            return JSONResponse(await run_in_threadpool(delete_user, plane, body))
        except MlflowException as error:
            return _refusal(error)

    async def answer_state(_: Request) -> Response:
        try:
            return JSONResponse(await run_in_threadpool(_state, plane))
        except MlflowException as error:
            return _refusal(error)

    return [
        Route("/api/deletions", answer_delete, methods=["POST"]),
        Route("/api/deletions", answer_state),
    ]


def delete_user(plane: TracePlane, body: Any) -> dict[str, Any]:
    """Delete a user's traces for good.

    Args:
        body: ``user``, what the traces' metadata ``mlflow.trace.user`` is; ``experiment_id``, to
            delete only those in one experiment; ``dry_run``, to delete none.

    Returns:
        ``traces`` and ``spans``, how many; ``experiments``, traces by experiment id; ``first_ms``
        and ``last_ms``, when they began (None if there are none); ``dry_run``.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST (no such experiment), or
            TEMPORARILY_UNAVAILABLE.
    """
    if not isinstance(body, dict) or not body.keys() <= _FIELDS:
        raise _invalid(f"an object with {', '.join(sorted(_FIELDS))} is wanted, not {body!r:.200}")
    user, experiment_id = body.get("user"), body.get("experiment_id")
    dry_run = body.get("dry_run", False)
    if not isinstance(user, str) or not user:
        raise _invalid(f"user must be a text that is not empty, not {user!r:.100}")
    if not isinstance(dry_run, bool):
        raise _invalid(f"dry_run must be true or false, not {dry_run!r:.100}")
    if experiment_id is not None:
        if not isinstance(experiment_id, str):
            raise _invalid(f"experiment_id must be a text, not {experiment_id!r:.100}")
        experiment_id = int(plane.experiments.get(experiment_id).experiment_id)
    found = plane.writes.traces_of_user(user, experiment_id)
    ids = [one.trace_id for one in found]
    if not dry_run:
        plane.writes.delete_for_good(ids)
        forget_reviews(plane.control, ids)
    return {
        "traces": len(found),
        "spans": sum(one.span_count for one in found),
        "experiments": dict(Counter(str(one.experiment_id) for one in found)),
        "first_ms": found[0].timestamp_ms if found else None,
        "last_ms": found[-1].timestamp_ms if found else None,
        "dry_run": dry_run,
    }


def _state(plane: TracePlane) -> dict[str, Any]:
    """``waiting``: traces deleted for good that are still in some file; ``under_way``: see
    `vedette.erasure.Pass`; ``error``: what the engine's upkeep fails of at present."""
    engine = read_state(plane.settings.run_dir / "engine.json") or {}
    return {
        "waiting": plane.writes.waiting_for_erasure(),
        "under_way": engine.get("erasure"),
        "error": engine.get("lake", {}).get("maintenance_error"),
    }


def _invalid(message: str) -> MlflowException:
    error: MlflowException = MlflowException.invalid_parameter_value(message)
    return error


def _refusal(error: MlflowException) -> Response:
    body = {"error_code": error.error_code, "message": error.message}
    return JSONResponse(body, status_code=error.get_http_status_code())
