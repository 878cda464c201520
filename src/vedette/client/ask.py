"""Ask the server that ``mlflow.set_tracking_uri`` names for what MLflow's API has no words for."""

from __future__ import annotations

from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request


def ask(method: str, path: str, body: Any, timeout: float | None = None) -> Any:
    """The server's answer, a ``requests.Response`` of status 200.

    Args:
        body: is sent as JSON.
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
    try:
        told = response.json()
        message, code = told["message"], ErrorCode.Value(told["error_code"])
    except (ValueError, KeyError, TypeError) as error:
        raise MlflowException(
            f"{uri} answered {response.status_code}: it is no Vedette server, or an older one"
        ) from error
    raise MlflowException(message, code)
