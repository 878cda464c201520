"""Whether the read model can be used, and how far its rebuild is, as any process sees it."""

from __future__ import annotations

from typing import Any

from vedette.lake.storage import LakeUnavailable
from vedette.lake.table import Lake
from vedette.processes import read_state
from vedette.settings import Settings
from vedette.traces.index import why_unusable


def rebuild_state(settings: Settings) -> dict[str, Any] | None:
    """None if the read model can be used, or made; else why it can't and, once the engine rebuilds
    it, the ``rows`` of the lake that are folded, ``of_rows``, and for how many ``seconds`` it runs.
    """

    def lake_is_used() -> bool:
        return Lake(settings.lake_uri, settings.lake_state).is_used()

    try:
        why = why_unusable(settings.index_path, lake_is_used)
    except LakeUnavailable as error:
        why = f"there is none, and the lake can't be asked whether there should be: {error}"
    if why is None:
        return None
    engine = read_state(settings.run_dir / "engine.json") or {}
    return {"why": why, **engine.get("index", {}).get("rebuilding", {})}


def told(state: dict[str, Any]) -> str:
    """What `rebuild_state` says, as a sentence's beginning."""
    if "rows" not in state:
        return f"the read model has to be rebuilt ({state['why']}): the engine does so as it starts"
    share = 100 * state["rows"] // max(1, state["of_rows"])
    return (
        f"the read model is being rebuilt ({state['why']}): {share} % of {state['of_rows']:,} rows "
        f"after {state['seconds']:.0f} s"
    )
