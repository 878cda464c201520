"""The monitor's pages over made-up data, in every state: no engine has to get into trouble for it.

Run as a script with a port. ``POST /broken`` makes all that follows fail, ``POST /works`` not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import made_up_figures
import uvicorn
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vedette.mlflow_app.monitor_routes import monitor_data_routes
from vedette.monitor.app import monitor_routes, monitor_running
from vedette.monitor.data import (
    Experiment,
    OverviewView,
    ScorersView,
    ScorerView,
    SessionTrace,
    TraceView,
)
from vedette.monitor.figures.period import Period
from vedette.scoring.explain import Explanation

SUPPORT = Experiment("1", "support <b>agent</b>")
QUIET = Experiment("2", "quiet")
NOW_MS = 1_790_000_000_000
LONG = "a question that goes on and on " * 12


def _row(name: str, **changes: Any) -> dict[str, Any]:
    row = {
        "scorer": name,
        "experiment_id": "1",
        "unit": "trace",
        "active": True,
        "registered": True,
        "version": 3,
        "rate": 0.25,
        "epoch": 2,
        "units": 1_234_567,
        "selected": 308_641,
        "scored": 308_000,
        "failed": 41,
        "retrying": 600,
        "waiting": 12,
        "lag_seconds": 14.2,
        "calls_today": 4_321,
        "cost_today_usd": 12.5,
        "problem": None,
    }
    return row | changes


ROWS = [
    _row("answers_the_question"),
    _row("deleted_one", active=False, registered=False, version=None, rate=0.0, lag_seconds=0.0),
    _row("just_started", epoch=None, units=0, selected=0, scored=0, failed=0, retrying=0),
    _row("not_started_yet", active=False, units=0, epoch=None, rate=None, lag_seconds=None),
    _row("safety", problem="OPENAI_API_KEY is not set: set it where the engine runs"),
    _row("stopped_one", active=False, rate=0.0),
]

_DETAILS = {
    "unit_id": "tr-1",
    "unit_type": "trace",
    "revision": 0,
    "version": 3,
    "epoch": 2,
    "stratum": -1,
    "inclusion_probability": 0.25,
    "draw": 0.1234,
    "scores": None,
    "error_code": None,
    "error": None,
    "attempts": 1,
    "next_attempt_ms": None,
    "milliseconds": 812.0,
    "worker": "pid 4711",
    "model": "openai:/gpt-5-mini",
    "cost_usd": 0.00042,
    "completed_ms": NOW_MS,
    "decided_ms": NOW_MS + 900,
    "origin": "live",
}
_TRANSIENT = {"error_code": "429", "error": "Too Many Requests", "attempts": 3, "stratum": 0}
EXPLANATIONS = [
    Explanation(
        "answers_the_question",
        "trace",
        "scored",
        "scored by version 3 in 812 ms (u=0.1234 < rate 0.25, epoch 2)",
        {**_DETAILS, "scores": '[{"name": "answers_the_question", "value": "yes"}]'},
    ),
    Explanation(
        "costly", "trace", "budget", "over budget: $5.00 of $5.00 are spent today", dict(_DETAILS)
    ),
    Explanation(
        "crashes",
        "trace",
        "failed",
        "failed: WORKER_DIED: <script>document.title = 'gone'</script>",
        {**_DETAILS, "error_code": "WORKER_DIED", "error": "killed: it used over 1 GiB"},
    ),
    Explanation(
        "errors_only", "trace", "filtered", "filtered out: \"status = 'ERROR'\" doesn't match", {}
    ),
    Explanation("new", "trace", "waiting", "waiting: complete, 12 units are before it", {}),
    Explanation(
        "rare", "trace", "not_selected", "not selected: u=0.1234 >= rate 0.01 (epoch 1)", {}
    ),
    Explanation(
        "safety",
        "session",
        "retrying",
        "retrying: 429, attempt 3, next at 2026-09-21 15:06:40 UTC: Too Many Requests",
        {**_DETAILS, **_TRANSIENT, "next_attempt_ms": NOW_MS + 60_000},
    ),
]


class MadeUp:
    """Implements `vedette.monitor.data.MonitorData`."""

    broken = False
    asked = 0

    def experiments(self) -> list[Experiment]:
        """Two."""
        self._answer()
        return [SUPPORT, QUIET]

    def scorers(self, experiment_id: str) -> ScorersView:
        """Every state a scorer can be in; the number of units grows with each call."""
        self._answer()
        rows = ROWS if experiment_id == "1" else []
        self.asked += 1
        moving = [{**row, "units": row["units"] + self.asked} for row in rows[:1]]
        warnings = ["scorer 1/safety waits: OPENAI_API_KEY is not set"] if rows else []
        return ScorersView(moving + rows[1:], "running", warnings, time.time())

    def overview(self, experiment_id: str, period: Period) -> OverviewView:
        """A bad afternoon, or nothing at all."""
        scorers = self.scorers(experiment_id)
        figures = made_up_figures.overview(experiment_id, period, scorers.rows)
        firing = made_up_figures.FIRING if scorers.rows else None
        return OverviewView(figures, scorers, firing, time.time())

    def scorer(self, experiment_id: str, name: str, period: Period) -> ScorerView:
        """One of those of `made_up_figures`; any other has no scores."""
        self._answer()
        detail = made_up_figures.scorer_detail(experiment_id, period, name)
        return ScorerView(detail, time.time())

    def trace(self, trace_id: str) -> TraceView | None:
        """tr-1 with every kind of decision, and tr-2 in its session."""
        self._answer()
        session = [
            SessionTrace("tr-1", NOW_MS, "OK", LONG),
            SessionTrace("tr-2", NOW_MS + 60_000, "ERROR", "and then?"),
        ]
        found = {one.trace_id: one for one in session}
        if trace_id not in found:
            return None
        return TraceView(found[trace_id], 950, SUPPORT, EXPLANATIONS, "chat 1/2", session, 240)

    def _answer(self) -> None:
        if self.broken:
            raise MlflowException("the disk is full", TEMPORARILY_UNAVAILABLE)


def main() -> None:
    """Serve until killed."""
    data = MadeUp()

    async def switch(request: Request) -> Response:
        data.broken = request.url.path == "/broken"
        return Response()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with monitor_running():
            yield

    switches = [Route(path, switch, methods=["POST"]) for path in ("/broken", "/works")]
    app = Starlette(
        routes=[*switches, *monitor_data_routes(data), *monitor_routes(data)], lifespan=lifespan
    )
    uvicorn.run(app, port=int(sys.argv[1]), ws="websockets-sansio", log_level="warning")


if __name__ == "__main__":
    main()
