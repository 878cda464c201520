"""What the monitor's pages show, from the plane and MLflow's tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mlflow.entities import TraceInfo, ViewType
from mlflow.tracing.constant import TraceMetadataKey

from vedette.health import Health
from vedette.mlflow_app.plane import TracePlane
from vedette.mlflow_app.scoring_reads import ScoringReads
from vedette.monitor.data import (
    SESSION_LIMIT,
    Experiment,
    OverviewView,
    ScorersView,
    ScorerView,
    SessionTrace,
    TraceView,
)
from vedette.monitor.figures.overview import overview
from vedette.monitor.figures.period import Period
from vedette.monitor.figures.scorer import scorer_detail
from vedette.traces.sessions import session_traces

_MOST_EXPERIMENTS = 1000  # to choose from


class MonitorReads:
    """Implements `vedette.monitor.data.MonitorData`.

    Args:
        alerts: gives the rules of an experiment with their states.
    """

    def __init__(
        self,
        plane: TracePlane,
        scoring: ScoringReads,
        health: Health,
        alerts: Callable[[str], list[dict[str, Any]]] = lambda _: [],
    ) -> None:
        self._plane = plane
        self._scoring = scoring
        self._health = health
        self._alerts = alerts

    def experiments(self) -> list[Experiment]:
        """Those that aren't deleted, by name; one that has scorers comes first."""
        found = self._plane.control.search_experiments(
            view_type=ViewType.ACTIVE_ONLY, max_results=_MOST_EXPERIMENTS, order_by=["name ASC"]
        )
        scored = {row["experiment_id"] for row in self._scoring.scorers() if row["active"]}
        experiments = [Experiment(one.experiment_id, one.name) for one in found]
        first = next((one for one in experiments if one.experiment_id in scored), None)
        return experiments if first is None else [first, *(o for o in experiments if o != first)]

    def scorers(self, experiment_id: str) -> ScorersView:
        """The scorers of an experiment."""
        rows = {row["scorer"]: row for row in self._scoring.scorers(experiment_id)}
        versions = {
            one.scorer_name: one.scorer_version
            for one in self._plane.control.list_scorers(experiment_id)
        }
        for name in versions.keys() - rows.keys():
            rows[name] = _never_started(name, experiment_id)
        for name, row in rows.items():
            row["registered"] = name in versions
            row["version"] = versions.get(name)
        health = self._health.report()
        return ScorersView(
            rows=[rows[name] for name in sorted(rows)],
            engine=health["parts"]["engine"]["state"],
            warnings=health["warnings"],
            at=time.time(),
        )

    def overview(self, experiment_id: str, period: Period) -> OverviewView:
        """The figures of an experiment in a period.

        Raises:
            MlflowException: RESOURCE_DOES_NOT_EXIST, there is no such experiment.
        """
        self._plane.experiments.get(experiment_id)
        scorers = self.scorers(experiment_id)
        rules = self._alerts(experiment_id)
        with self._plane.reads.mirror() as ask:
            figures = overview(ask, experiment_id, period, scorers.rows)
        firing = [rule for rule in rules if rule["state"] == "firing"] if rules else None
        return OverviewView(figures, scorers, firing, time.time())

    def scorer(self, experiment_id: str, name: str, period: Period) -> ScorerView:
        """The figures of a scorer; one that nobody knows has none.

        Raises:
            MlflowException: RESOURCE_DOES_NOT_EXIST, there is no such experiment.
        """
        self._plane.experiments.get(experiment_id)
        with self._plane.reads.mirror() as ask:
            index = self._plane.up_to_date()
            detail = scorer_detail(ask, index, experiment_id, period, name)
        return ScorerView(detail, time.time())

    def trace(self, trace_id: str) -> TraceView | None:
        """A trace; None if there is none with this id."""
        infos = self._plane.reads.batch_get_trace_infos([trace_id])
        explanations = self._scoring.explain(trace_id)
        if not infos or explanations is None:
            return None
        (info,) = infos
        experiment = self._plane.control.get_experiment(info.experiment_id)
        session_id = info.trace_metadata.get(TraceMetadataKey.TRACE_SESSION)
        size, members = session_traces(
            self._plane.up_to_date(), int(experiment.experiment_id), session_id, SESSION_LIMIT
        )
        session = self._plane.reads.batch_get_trace_infos(members)
        return TraceView(
            trace=_session_trace(info),
            duration_ms=info.execution_duration,
            experiment=Experiment(experiment.experiment_id, experiment.name),
            explanations=explanations,
            session_id=session_id,
            session=[_session_trace(one) for one in session],
            session_size=size,
        )


def _session_trace(info: TraceInfo) -> SessionTrace:
    return SessionTrace(
        info.trace_id, info.request_time, str(info.state), info.request_preview or ""
    )


def _never_started(name: str, experiment_id: str) -> dict[str, Any]:
    return {
        "scorer": name,
        "experiment_id": experiment_id,
        "unit": "trace",
        "active": False,
        "rate": None,
        "epoch": None,
        "units": 0,
        "selected": 0,
        "scored": 0,
        "failed": 0,
        "retrying": 0,
        "over_budget": 0,
        "in_flight": 0,
        "waiting": 0,
        "lag_seconds": None,
        "calls_today": 0,
        "input_tokens_today": 0,
        "output_tokens_today": 0,
        "cost_today_usd": 0.0,
        "problem": None,
        "note": None,
    }
