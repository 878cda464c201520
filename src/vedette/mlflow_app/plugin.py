"""What MLflow's plugin loader imports, in every process that imports mlflow.

It does so while mlflow itself is half imported, so nothing here imports mlflow before it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vedette.mlflow_app.store import VedetteStore


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> VedetteStore:
    """The tracking store for ``lakehouse:`` URIs (entry point of ``mlflow.tracking_store``).

    Raises:
        MlflowException: this process has not opened the data directory; only a server does.
    """
    from vedette.mlflow_app.store import VedetteStore

    return VedetteStore(store_uri, artifact_uri)
