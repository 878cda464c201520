"""Tell a Vedette server from a plain MLflow server, once per tracking URI."""

from __future__ import annotations

import logging

from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

logger = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 5
_answers: dict[str, bool] = {}


def is_vedette(tracking_uri: str) -> bool:
    """Whether the server at the URI is Vedette: its ``/health`` says so.

    An answer is remembered for the life of the process. A server that can't be reached counts as
    not Vedette, and is asked again next time.
    """
    known = _answers.get(tracking_uri)
    if known is not None:
        return known
    try:
        response = http_request(
            get_default_host_creds(tracking_uri),
            "/health",
            "GET",
            timeout=_TIMEOUT_SECONDS,
            max_retries=0,
            raise_on_status=False,
        )
    except MlflowException as error:
        logger.debug("could not ask %s what it is: %s", tracking_uri, error)
        return False
    if response.status_code >= 500:
        return False
    try:
        body = response.json()
    except ValueError:  # MLflow's own says OK
        body = None
    _answers[tracking_uri] = isinstance(body, dict) and "vedette" in body
    return _answers[tracking_uri]
