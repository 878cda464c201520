"""Vedette's own REST calls: those that MLflow's client has no words for."""

from __future__ import annotations

from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request


def ask_server(method: str, path: str, body: Any = None, timeout: float | None = None) -> Any:
    """What the server that ``mlflow.set_tracking_uri`` names answers: a ``requests.Response`` of
    status 200.

    Args:
        body: is sent as JSON, unless it is None.
        timeout: seconds to wait for it; by default MLflow's.

    Raises:
        MlflowException: the server refuses, with its message and code; or it is no Vedette server.
    """
    uri = mlflow.get_tracking_uri()
    response = http_request(
        get_default_host_creds(uri),
        path,
        method,
        json=body,
        timeout=timeout,
        raise_on_status=False,
    )
    if response.status_code == 200:
        return response
    told = _parsed(response)
    try:
        message, code = told["message"], ErrorCode.Value(told["error_code"])
    except (ValueError, KeyError, TypeError) as error:
        raise _no_vedette(response) from error
    raise MlflowException(message, code)


def ask_server_json(method: str, path: str) -> Any:
    """The JSON that the server answers.

    Raises:
        MlflowException: as `ask_server`.
    """
    return _parsed(ask_server(method, path))


def _parsed(response: Any) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise _no_vedette(response) from error


def _no_vedette(response: Any) -> MlflowException:
    return MlflowException(
        f"{mlflow.get_tracking_uri()} answered {response.status_code}: it is no Vedette server, "
        "or an older one"
    )
