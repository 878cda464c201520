"""``GET /health`` and ``GET /metrics``: how each part is, from what the parts themselves publish.

The server answers; it reads the supervisor's and the engine's state files, the journals'
directories and the read model. Nothing here is kept in memory, so an answer is as fresh as its
sources, and a part that has stopped publishing is reported as stale instead of as it last was.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vedette import __version__
from vedette.archive.told import archive_gauges, archive_warnings
from vedette.intake.http import METRICS as INTAKE_METRICS
from vedette.intake.journal import JournalWriter
from vedette.intake.segments import segment_files
from vedette.processes import is_alive, read_state
from vedette.readiness import rebuild_state, told
from vedette.scoring.told import backfill_warnings, scorer_metrics, scorer_warnings
from vedette.settings import Settings

_STALE_SECONDS = 10.0  # the engine publishes every second
_STARTING_SECONDS = 30.0  # how long a missing engine counts as one that is starting
_SLOW_SECONDS = 60.0  # a backlog or lag above this is worth a warning
_NEARLY_FULL = 0.8
_LITTLE_DISK_BYTES = 1024**3
_REFUSING = {"server": "refusing", "engine": "engine_refusing"}  # whose journal, key


class Health:
    """Looks at one data directory and tells how its Vedette is.

    Args:
        settings: whose data directory, limits and ports to report on.
        journal: the server's.
    """

    def __init__(self, settings: Settings, journal: JournalWriter) -> None:
        self._settings = settings
        self._writer = journal
        self._started = time.time()

    def report(self) -> dict[str, Any]:
        """The body of ``GET /health``; sizes in bytes, ages in seconds, times in Unix seconds."""
        now = time.time()
        engine = read_state(self._settings.run_dir / "engine.json") or {}
        age = now - engine["at"] if engine else None
        parts = self._parts(engine, age, now)
        journal = self._journal(engine, now)
        lake = engine.get("lake", {})
        index = {"error": engine.get("index", {}).get("error"), **self._index()}
        disk = {"free_bytes": shutil.disk_usage(self._settings.data).free}
        archival = engine.get("archival", {})
        warnings = list(self._warnings(parts, journal, lake, index, archival, disk))
        if parts["engine"]["state"] == "running":
            told_errors = engine.get("alerts", {}).items()
            warnings += [f"{what} don't work: {error}" for what, error in told_errors if error]
        if parts["engine"]["state"] == "starting":
            status = "starting"
        elif "rebuilding" in index and not index["error"] and parts["engine"]["state"] == "running":
            status = "rebuilding"
        else:
            status = "degraded" if warnings else "ok"
        # What follows is for the scorers' and archives' owners; all parts do their work
        warnings += scorer_warnings(parts["workers"].get("scorers", {}))
        warnings += backfill_warnings(parts["workers"].get("backfills", {}))
        warnings += archive_warnings(archival.get("archives", {}))
        if problem := parts["workers"].get("prices_problem"):
            warnings.append(f"the file of prices can't be used: {problem}")
        if missing := parts["workers"].get("sandbox", {}).get("missing"):  # no reason not to run
            warnings.append(
                f"scorers are not isolated from this machine's network and files: {missing}; see "
                "docs/scorers.md, or set sandbox to process if you trust whoever registers them"
            )
        return {
            "vedette": __version__,
            "status": status,
            "warnings": warnings,
            "parts": parts,
            "journal": journal,
            "lake": {**lake, "uri": self._settings.lake_uri, "told_seconds_ago": _rounded(age)},
            "index": index,
            "archival": archival,
            "disk": disk,
            "sdk": SDK_QUEUE,
        }

    def _parts(self, engine: dict[str, Any], age: float | None, now: float) -> dict[str, Any]:
        supervisor = read_state(self._settings.run_dir / "supervisor.json")
        supervised = supervisor["parts"] if supervisor and is_alive(supervisor["pid"]) else {}
        child = supervised.get("engine", {})
        current = bool(engine) and child.get("pid", engine["pid"]) == engine["pid"]
        if child.get("state") == "restarting":
            state = "restarting"
        elif current and age is not None and age < _STALE_SECONDS:
            state = "running"
        elif current and (child or engine["at"] > self._started):
            state = "stale"
        elif now - child.get("since", self._started) < _STARTING_SECONDS:
            state = "starting"
        else:
            state = "not running"
        return {
            "server": {
                "pid": os.getpid(),
                "state": "running",
                "since": self._started,
                "restarts": supervised.get("server", {}).get("restarts", 0),
            },
            "engine": {
                "pid": child.get("pid", engine.get("pid")),
                "state": state,
                "since": child.get("since"),
                "restarts": child.get("restarts", 0),
            },
            "workers": engine.get("workers", {}) if state == "running" else {},
        }

    def _journal(self, engine: dict[str, Any], now: float) -> dict[str, Any]:
        found = {
            name: _backlog(directory, now)
            for name, directory in (
                ("server", self._settings.server_journal),
                ("engine", self._settings.engine_journal),
            )
        }
        return {
            "backlog_bytes": sum(size for size, _ in found.values()),
            "backlog_seconds": _rounded(max(age for _, age in found.values())),
            "max_bytes": int(self._settings.journal_max_bytes),
            "server_bytes": found["server"][0],
            "engine_bytes": found["engine"][0],
            "refusing": self._writer.refusing,
            "engine_refusing": engine.get("journal", {}).get("refusing"),
        }

    def _index(self) -> dict[str, Any]:
        """Size of the read model and of what it has not folded yet, or how far its rebuild is."""
        path = self._settings.index_path
        try:
            if (state := rebuild_state(self._settings)) is not None:
                return {"rebuilding": state}
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)) as index:
                rows = index.execute("SELECT journal, segment, offset FROM positions")
                positions = {journal: (segment, offset) for journal, segment, offset in rows}
        except sqlite3.Error as error:
            return {"error": f"{path}: {error}"} if path.exists() else {}
        behind = 0
        for directory in (self._settings.server_journal, self._settings.engine_journal):
            behind += _bytes_after(directory, positions.get(_journal_id(directory), (0, 0)))
        return {"lag_bytes": behind, "bytes": path.stat().st_size}

    def _warnings(
        self,
        parts: dict[str, Any],
        journal: dict[str, Any],
        lake: dict[str, Any],
        index: dict[str, Any],
        archival: dict[str, Any],
        disk: dict[str, Any],
    ) -> Iterator[str]:
        if parts["engine"]["state"] not in ("running", "starting"):
            yield (
                f"the engine is {parts['engine']['state']}: traces are kept in the journal, but "
                "not moved to the lake nor scored; look at its log lines, or start it with "
                "`vedette engine`"
            )
        for name, key in _REFUSING.items():
            size = journal[f"{name}_bytes"]
            if journal[key]:
                yield f"the {name}'s journal refuses writes: {journal[key]}"
            elif size >= _NEARLY_FULL * journal["max_bytes"]:
                yield (
                    f"the {name}'s journal holds {size:,} of {journal['max_bytes']:,} bytes; "
                    "when it is full, writes are answered 503"
                )
        if "rebuilding" in index:
            yield (
                f"{told(index['rebuilding'])}; traces are accepted, whatever reads is answered 503 "
                "until it is done"
            )
        if journal["backlog_seconds"] > _SLOW_SECONDS:
            yield f"records wait for the lake since {journal['backlog_seconds']:.0f} s"
        for what, error in (
            ("the lake can't be written", lake.get("error")),
            ("the lake's files can't be kept in order", lake.get("maintenance_error")),
            ("the read model can't be brought up to date", index.get("error")),
            ("scorers can't run", parts["workers"].get("error")),
            ("the archives can't be kept", archival.get("error")),
        ):
            if error:
                yield f"{what}: {error}"
        if disk["free_bytes"] < _LITTLE_DISK_BYTES:
            yield (
                f"the disk of {self._settings.data} has {disk['free_bytes']:,} bytes left; "
                "when it is full, writes are answered 503"
            )


# What an MLflow SDK process needs so that its queue does not drop traces: docs/send-traces.md.
SDK_QUEUE = {
    "advice": (
        "the SDK drops what does not fit its queue; set these where the agent runs, with "
        "QUEUE_SIZE >= 2 x traces per second of one process x seconds of outage to survive"
    ),
    "environment": {
        "MLFLOW_ASYNC_TRACE_LOGGING_MAX_SPAN_BATCH_SIZE": "200",
        "MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS": "1000",
        "MLFLOW_ASYNC_TRACE_LOGGING_MAX_QUEUE_SIZE": "20000",
    },
}


# Prometheus name, place in the report, help.
_GAUGES = (
    ("vedette_journal_backlog_bytes", ("journal", "backlog_bytes"), "Waiting for the lake."),
    (
        "vedette_journal_backlog_seconds",
        ("journal", "backlog_seconds"),
        "Age of its oldest record.",
    ),
    ("vedette_journal_max_bytes", ("journal", "max_bytes"), "Limit of each journal."),
    ("vedette_lake_lag_seconds", ("lake", "lag_seconds"), "Arrival to commit, last commit."),
    ("vedette_lake_last_commit_timestamp_seconds", ("lake", "last_commit"), "Last Delta commit."),
    ("vedette_index_lag_bytes", ("index", "lag_bytes"), "Journal not yet in the read model."),
    ("vedette_index_bytes", ("index", "bytes"), "Size of the read model."),
    ("vedette_disk_free_bytes", ("disk", "free_bytes"), "Left on the data directory's disk."),
)


class _HealthCollector(Collector):
    """The health report and the scorers as Prometheus metrics, made when they are asked for."""

    def __init__(self, health: Health, scorers: Callable[[], list[dict[str, Any]]]) -> None:
        self._health = health
        self._scorers = scorers

    def collect(self) -> Iterable[Metric]:
        report = self._health.report()
        up = GaugeMetricFamily("vedette_up", "1 if the part is running.", labels=["part"])
        restarts = CounterMetricFamily(
            "vedette_restarts", "Times the supervisor started the part again.", labels=["part"]
        )
        for name in ("server", "engine"):
            part = report["parts"][name]
            up.add_metric([name], float(part["state"] == "running"))
            restarts.add_metric([name], part["restarts"])
        yield up
        yield restarts
        warnings = len(report["warnings"])
        yield GaugeMetricFamily("vedette_warnings", "Warnings on /health.", warnings)
        refusing = GaugeMetricFamily(
            "vedette_journal_refusing",
            "1 while the part's journal refuses writes.",
            labels=["part"],
        )
        for name, key in _REFUSING.items():
            refusing.add_metric([name], float(report["journal"][key] is not None))
        yield refusing
        try:
            rows = self._scorers()
        except MlflowException:  # the read model is being rebuilt: /health says so
            rows = []
        yield from scorer_metrics(rows)
        yield from archive_gauges(report["archival"].get("archives", {}))
        for metric, (section, key), text in _GAUGES:
            value = report[section].get(key)
            if value is not None:
                yield GaugeMetricFamily(metric, text, value)


def routes(
    settings: Settings, journal: JournalWriter, scorers: Callable[[], list[dict[str, Any]]]
) -> list[Route]:
    """``/health`` and ``/metrics``, to be put ahead of MLflow's own routes.

    Args:
        scorers: how they are, as `vedette.scoring.summary.scorers_summary` tells it; raises
            MlflowException if that can't be told now.
    """
    health = Health(settings, journal)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_HealthCollector(health, scorers))

    async def answer_health(_request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(health.report))

    async def answer_metrics(_request: Request) -> Response:
        text = await run_in_threadpool(generate_latest, registry)
        return Response(text + generate_latest(INTAKE_METRICS), media_type=CONTENT_TYPE_LATEST)

    return [Route("/health", answer_health), Route("/metrics", answer_metrics)]


def _backlog(directory: Path, now: float) -> tuple[int, float]:
    """Bytes in a journal's directory, and how long ago its oldest segment was last written."""
    size, oldest = 0, now
    for _, _, path in segment_files(directory) if directory.exists() else ():
        try:
            found = path.stat()
        except FileNotFoundError:  # sealed or removed since
            continue
        size += found.st_size
        if found.st_size:
            oldest = min(oldest, found.st_mtime)
    return size, now - oldest


def _bytes_after(directory: Path, position: tuple[int, int]) -> int:
    """Bytes of a journal after a position."""
    segment, offset = position
    behind = 0
    for number, _, path in segment_files(directory) if directory.exists() else ():
        if number < segment:
            continue
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            continue
        behind += size - offset if number == segment else size
    return max(0, behind)


def _journal_id(directory: Path) -> str:
    try:
        return (directory / "id").read_text().strip()
    except OSError:
        return ""


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
