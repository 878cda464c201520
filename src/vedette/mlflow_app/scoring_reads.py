"""How scoring is and why a trace has its scores, for the JSON API and the pages alike."""

from __future__ import annotations

from typing import Any

from vedette.mlflow_app.plane import TracePlane
from vedette.processes import read_state
from vedette.scoring.active import ActiveScorer, ActiveScorers, ControlUnavailable, control_engine
from vedette.scoring.explain import Explainer, Explanation
from vedette.scoring.selection import Selection
from vedette.scoring.summary import scorers_summary


class ScoringReads:
    """Use from any thread.

    Raises (every method):
        MlflowException: TEMPORARILY_UNAVAILABLE, the read model can't be written now.
    """

    def __init__(self, plane: TracePlane) -> None:
        settings = plane.settings
        self._plane = plane
        self._scorers = ActiveScorers(control_engine(settings.control_uri), max_age=0.0)
        selection = Selection(plane.index, plane.contents)
        self._explainer = Explainer(settings, plane.index, selection)

    def scorers(self, experiment_id: str | None = None) -> list[dict[str, Any]]:
        """As `scorers_summary`; of one experiment, or of all."""
        rows = scorers_summary(self._plane.up_to_date(), self._active(), self._engine())
        return [row for row in rows if experiment_id in (None, row["experiment_id"])]

    def explain(self, trace_id: str) -> list[Explanation] | None:
        """As `Explainer.explain`: None if there is no such trace."""
        self._plane.up_to_date()
        return self._explainer.explain(trace_id, self._active(), self._engine())

    def _engine(self) -> dict[str, dict[str, Any]]:
        """What the engine last published of its scorers, by scorer key."""
        state = read_state(self._plane.settings.run_dir / "engine.json") or {}
        found: dict[str, dict[str, Any]] = state.get("workers", {}).get("scorers", {})
        return found

    def _active(self) -> list[ActiveScorer]:
        try:
            return self._scorers.read()
        except ControlUnavailable:
            return []
