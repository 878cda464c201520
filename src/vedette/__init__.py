"""Vedette: a self-hosted quality monitor for GenAI agents in production.

The functions here talk to the server that ``mlflow.set_tracking_uri`` names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vedette.client.archival import (
        disable_trace_archival,
        enable_trace_archival,
        trace_archival_status,
    )
    from vedette.client.backfills import (
        BackfillScorerConfig,
        backfill_scorers,
        cancel_backfill,
        get_backfill,
        list_backfills,
    )
    from vedette.client.scoring_settings import set_sampling_strata, set_scoring_budget
    from vedette.client.sql import sql
    from vedette.client.trace_location import set_experiment

__version__ = "0.1.0"
__all__ = [
    "BackfillScorerConfig",
    "__version__",
    "backfill_scorers",
    "cancel_backfill",
    "disable_trace_archival",
    "enable_trace_archival",
    "get_backfill",
    "list_backfills",
    "set_experiment",
    "set_sampling_strata",
    "set_scoring_budget",
    "sql",
    "trace_archival_status",
]

_HOMES = {
    "BackfillScorerConfig": "vedette.client.backfills",
    "backfill_scorers": "vedette.client.backfills",
    "cancel_backfill": "vedette.client.backfills",
    "disable_trace_archival": "vedette.client.archival",
    "enable_trace_archival": "vedette.client.archival",
    "get_backfill": "vedette.client.backfills",
    "list_backfills": "vedette.client.backfills",
    "set_experiment": "vedette.client.trace_location",
    "set_sampling_strata": "vedette.client.scoring_settings",
    "set_scoring_budget": "vedette.client.scoring_settings",
    "sql": "vedette.client.sql",
    "trace_archival_status": "vedette.client.archival",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: ``import vedette`` stays light."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
