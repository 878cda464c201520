"""How far backfills have come, from the read model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vedette.intake.records import BackfilledScorer
from vedette.named_sql import statements
from vedette.scoring.backfills import REUSED, Backfill
from vedette.scoring.epochs import Epochs
from vedette.traces.index import TraceIndex

_SQL = statements("vedette.scoring", "backfills")
_SELECTED = ("scored", "failed", REUSED, "retrying", "budget")
_FAILURES = 100  # that are told


def backfill_progress(
    index: TraceIndex,
    job: Backfill,
    epochs: Mapping[str, Epochs],
    engine: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """One job.

    Args:
        epochs: as `stored_epochs`.
        engine: what the engine last published of backfills, by stream.

    Returns:
        ``job``, ``experiment_id``, ``start_time_ms``, ``end_time_ms``, ``rescore``, ``created_ms``,
        ``cancelled_ms``, ``state`` and ``scorers``. A state is ``waiting`` (not begun),
        ``running``, ``done``, ``cancelled`` or ``stopped`` (the scorer's version was deleted); the
        job's is that of the scorer that is furthest from its end. Of each scorer ``scorer``,
        ``version``, ``rate``, ``filter``, ``units`` (in the window), ``decided`` and, of those,
        ``selected``, ``scored``, ``reused``, ``failed``, ``decisions`` (all by name);
        ``retrying``; ``calls``, ``input_tokens``, ``output_tokens``, ``cost_usd``;
        ``units_per_second`` (of the last minute; when it has ended, of its whole time) and
        ``seconds_left`` (None: not known); ``problem`` and ``note``: what keeps it from going on.
    """
    scorers = [
        _scorer(index, job, one, epochs.get(job.stream(one).key, Epochs()), engine)
        for one in job.scorers
    ]
    states = {one["state"] for one in scorers}
    order = ("running", "waiting", "stopped", "cancelled", "done")
    state = next((one for one in order if one in states), "done")
    if state == "waiting" and len(states) > 1:
        state = "running"
    return {
        "job": job.job,
        "experiment_id": job.experiment_id,
        "state": state,
        "start_time_ms": job.start_ms,
        "end_time_ms": job.end_ms,
        "rescore": job.rescore,
        "created_ms": job.created_ms,
        "cancelled_ms": job.cancelled_ms,
        "scorers": scorers,
    }


def backfill_failures(index: TraceIndex, job: Backfill) -> list[dict[str, Any]]:
    """What failed last, a hundred units of each scorer at most: ``scorer``, ``unit_id``,
    ``trace_id``, ``decision`` (``failed`` or ``retrying``), ``error_code``, ``error``,
    ``attempts``, ``decided_ms``."""
    found: list[dict[str, Any]] = []
    for one in job.scorers:
        values = {"scorer": job.stream(one).key, "count": _FAILURES}
        rows = index.connection().execute(_SQL["failures"], values)
        names = [column[0] for column in rows.description]
        found += [{"scorer": one["name"], **dict(zip(names, row, strict=True))} for row in rows]
    return found


def _scorer(
    index: TraceIndex,
    job: Backfill,
    one: BackfilledScorer,
    epochs: Epochs,
    engine: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    key = job.stream(one).key
    values = {"scorer": key}
    connection = index.connection()
    made: dict[str, int] = dict(connection.execute(_SQL["made"], values).fetchall())
    calls, input_tokens, output_tokens, cost = connection.execute(_SQL["spent"], values).fetchone()
    decided = sum(made.values()) - made.get("retrying", 0)
    first, last = epochs.numbered(1), epochs.current
    ended = last is not None and last.stopped
    if first is None or last is None:
        state = "waiting"
    elif not ended:
        state = "running"
    elif not made.get("stopped"):
        state = "done"
    else:
        state = "stopped" if job.cancelled_ms is None else "cancelled"
    told = engine.get(key, {})
    pace, left = told.get("units_per_second"), None
    if ended and first is not None and last is not None:
        pace = decided / max(0.001, (last.opened_ms - first.opened_ms) / 1000)
    elif pace:
        left = max(0, one["units"] - decided) / pace
    return {
        "scorer": one["name"],
        "version": one["version"],
        "rate": one["rate"],
        "filter": one["filter"],
        "state": state,
        "units": one["units"],
        "decided": decided,
        "selected": sum(made.get(name, 0) for name in _SELECTED),
        "scored": made.get("scored", 0),
        "reused": made.get(REUSED, 0),
        "failed": made.get("failed", 0),
        "retrying": made.get("retrying", 0),
        "decisions": made,
        "calls": calls,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cost_usd": cost,
        "units_per_second": pace,
        "seconds_left": left,
        "problem": None if ended else told.get("problem"),
        "note": None if ended else told.get("note"),
    }
