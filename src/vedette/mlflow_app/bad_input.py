"""What MLflow's request handlers trip over is answered as the caller's mistake, not as ours.

They convert fields with ``int()`` and ``.get()`` before they check them, so a body of the wrong
shape raises where nobody catches it: a 500 with a page of HTML.
"""

from __future__ import annotations

import json
import logging
import traceback
from types import TracebackType

from flask import Flask, Response
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR
from werkzeug.exceptions import HTTPException

logger = logging.getLogger(__name__)

# What converting a value of the wrong type raises; half a surrogate pair makes protobuf raise a
# SystemError
_MISTAKES = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    SystemError,
)
# Beyond these the request had been understood: an error there is a defect
_UNDERSTOOD = ("vedette.", "mlflow.store.tracking.", "mlflow.store.db.", "sqlalchemy.")


def answer_bad_input(app: Flask) -> None:
    """Have unexpected errors of MLflow's handlers answered in the form of its API."""

    def answer(error: Exception) -> Response | HTTPException:
        if isinstance(error, HTTPException):
            return error
        if isinstance(error, _MISTAKES) and not _was_understood(error.__traceback__):
            return _response(
                MlflowException(
                    f"The request is malformed: {type(error).__name__}: {error}",
                    error_code=BAD_REQUEST,
                )
            )
        logger.error("a request failed", exc_info=error)
        return _response(
            MlflowException(f"{type(error).__name__}: {error}", error_code=INTERNAL_ERROR)
        )

    app.register_error_handler(Exception, answer)


def _was_understood(trace: TracebackType | None) -> bool:
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(trace))
    return any(module.startswith(_UNDERSTOOD) for module in modules)


def _response(error: MlflowException) -> Response:
    # The message may hold what is no Unicode; JSON escapes it
    content = json.dumps(json.loads(error.serialize_as_json()))
    return Response(content, error.get_http_status_code(), mimetype="application/json")
