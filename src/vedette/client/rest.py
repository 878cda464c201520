"""Vedette's own REST calls: those that MLflow's client has no words for."""

from __future__ import annotations

from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request


def ask_server(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON answer of the server that ``mlflow.set_tracking_uri`` names.

    Raises:
        MlflowException: the server refuses, with its message and code; or it is no Vedette server.
    """
    uri = mlflow.get_tracking_uri()
    response = http_request(
        get_default_host_creds(uri), path, method, json=body, raise_on_status=False
    )
    try:
        told = response.json()
        if response.status_code == 200:
            return told
        message, code = told["message"], ErrorCode.Value(told["error_code"])
    except (ValueError, KeyError, TypeError) as error:
        raise MlflowException(
            f"{uri} answered {response.status_code}: it is no Vedette server, or an older one"
        ) from error
    raise MlflowException(message, code)
