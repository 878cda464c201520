"""The environment MLflow's server code reads while it is imported."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from vedette.settings import Settings

_SCHEME = "lakehouse"
ARTIFACTS_PROXY = "mlflow-artifacts:/"  # artifacts go through the server


def store_uri(settings: Settings) -> str:
    """The tracking store's URI: names the data directory, and by its scheme our plugin."""
    return f"{_SCHEME}://{settings.data}"


def server_environment(settings: Settings) -> dict[str, str]:
    """What MLflow's server is to see; the names are those ``mlflow server`` hands its workers."""
    return {
        "_MLFLOW_SERVER_FILE_STORE": store_uri(settings),
        # A plain database URI: our scheme has no model registry of its own
        "_MLFLOW_SERVER_REGISTRY_STORE": settings.control_uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": ARTIFACTS_PROXY,
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(settings.artifacts),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        # Marks the process as a server: MLflow then refuses to execute scorers' code in it
        "_MLFLOW_SERVER_BOOT_ID": uuid.uuid4().hex,
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
        "_MLFLOW_SGI_NAME": "uvicorn",
        # MLflow's own job processes and schedulers are replaced by the engine
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SERVER_JOB_ENABLE_PERIODIC_TASKS": "false",
        # Custom scorers may be registered; they run in Vedette's workers only
        "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def prepare_environment(settings: Settings) -> None:
    """Set the environment of this process. Must run before ``mlflow.server`` is imported."""
    os.environ.update(server_environment(settings))
    # A tracking URI meant for clients would make MLflow's in-server code call itself over HTTP
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    Path(settings.artifacts).mkdir(parents=True, exist_ok=True)
