"""Vedette: a self-hosted quality monitor for GenAI agents in production.

The functions here talk to the server that ``mlflow.set_tracking_uri`` names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vedette.client.strata import set_sampling_strata

__version__ = "0.1.0"
__all__ = ["__version__", "set_sampling_strata"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: ``import vedette`` stays light."""
    if name == "set_sampling_strata":
        from vedette.client.strata import set_sampling_strata

        return set_sampling_strata
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
