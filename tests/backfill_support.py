"""Backfills on a plane of a test's own."""

from __future__ import annotations

import time

from scoring_support import Plane
from vedette.intake.records import Record
from vedette.scoring.asked_backfill import ask
from vedette.scoring.backfills import Backfill

EVER = (0, 2**50)


def backfill(
    plane: Plane,
    *wanted: tuple[str, float | None],
    window: tuple[int, int] = EVER,
    rescore: bool = False,
    experiment: str = "1",
) -> Backfill:
    """Ask for a backfill, as the server does."""
    plane.fold()
    job = asked(plane, *wanted, window=window, rescore=rescore, experiment=experiment)
    plane.arrive(Record("backfill", job.created_ms, dict(job.row())))
    return job


def asked(
    plane: Plane,
    *wanted: tuple[str, float | None],
    window: tuple[int, int] = EVER,
    rescore: bool = False,
    experiment: str = "1",
) -> Backfill:
    return ask(
        plane.index,
        plane.scoring._scorers.registered(experiment),
        wanted,
        experiment_id=experiment,
        start_ms=window[0],
        end_ms=window[1],
        rescore=rescore,
        now_ms=int(time.time() * 1000),
    )


def finish(plane: Plane, *jobs: Backfill, seconds: float = 60.0) -> None:
    """Run the engine's loops until the jobs are at their end."""
    keys = {job.stream(scorer).key for job in jobs for scorer in job.scorers}
    deadline = time.monotonic() + seconds
    plane.settle()
    while not all(map(plane.scoring._has_ended, keys)):
        assert time.monotonic() < deadline, plane.scoring.state()
        plane.fold()
        plane.scoring.tick()
        time.sleep(0.002)
    plane.settle()
