"""Start the server process: MLflow's app and ours in one uvicorn, until it is told to stop."""

from __future__ import annotations

import signal
from contextlib import closing

import uvicorn

from vedette.mlflow_app.environment import prepare_environment
from vedette.settings import Settings

_DRAIN_SECONDS = 5  # what requests under way get to finish; the supervisor kills after 8
_KEEP_ALIVE_SECONDS = 75  # SDKs send in bursts: let them keep their connections meanwhile


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT: stop accepting, answer what is under way, flush, return.

    Raises:
        JournalLocked: another server has this data directory.
        MlflowException: the control database can't be used; the message says what to do.
        SystemExit: the port is taken.
    """
    prepare_environment(settings)
    # Only now: these import MLflow, whose server code reads the environment as it is imported
    from vedette import health
    from vedette.alerts.tables import make_alert_tables
    from vedette.lake.sql.engine import SqlEngine
    from vedette.lake.table import Lake
    from vedette.mlflow_app.alert_routes import alert_routes
    from vedette.mlflow_app.alerts import Alerts
    from vedette.mlflow_app.app import build_app
    from vedette.mlflow_app.archival_control import ArchivalControl
    from vedette.mlflow_app.archival_routes import archival_routes
    from vedette.mlflow_app.backfill_routes import backfill_routes
    from vedette.mlflow_app.backfills import Backfills
    from vedette.mlflow_app.control import prepare_control_database
    from vedette.mlflow_app.deletion_routes import deletion_routes
    from vedette.mlflow_app.doctor_routes import doctor_routes
    from vedette.mlflow_app.location_control import LocationControl
    from vedette.mlflow_app.location_routes import location_routes
    from vedette.mlflow_app.monitor_reads import MonitorReads
    from vedette.mlflow_app.monitor_routes import monitor_data_routes
    from vedette.mlflow_app.plane import open_plane
    from vedette.mlflow_app.read_routes import read_routes
    from vedette.mlflow_app.scoring_reads import ScoringReads
    from vedette.mlflow_app.scoring_routes import scoring_routes
    from vedette.mlflow_app.sql_routes import sql_routes
    from vedette.mlflow_app.starts import start_trace_routes
    from vedette.monitor.app import monitor_routes, monitor_running

    prepare_control_database(settings)
    make_alert_tables(settings.control_uri)
    lake = Lake(settings.lake_uri, settings.lake_state)
    with open_plane(settings) as plane, closing(SqlEngine(lake)) as sql:
        scoring = ScoringReads(plane)
        alerts = Alerts(plane)
        monitor = MonitorReads(plane, scoring, health.Health(settings, plane.journal), alerts.rules)
        app = build_app(
            [
                *start_trace_routes(plane),
                *plane.otlp_routes(),
                *read_routes(plane),
                *scoring_routes(plane, scoring),
                *archival_routes(ArchivalControl(plane)),
                *alert_routes(alerts),
                *backfill_routes(Backfills(plane)),
                *deletion_routes(plane),
                *doctor_routes(settings),
                *location_routes(LocationControl(plane)),
                *health.routes(settings, plane.journal, scoring.scorers),
                *sql_routes(sql),
                *monitor_data_routes(monitor),
                *monitor_routes(monitor),
            ],
            running=monitor_running,
            max_body_bytes=settings.max_body_bytes,
        )
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http="httptools",
            ws="websockets-sansio",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        # uvicorn raises the signal again after its shutdown; being told to stop is no failure
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)
        uvicorn.Server(config).run()
