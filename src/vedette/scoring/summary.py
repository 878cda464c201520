"""How every scorer is doing: rates, counts, lag and cost, from the read model."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from typing import Any

from vedette.intake.records import Stream
from vedette.named_sql import statements
from vedette.scoring.active import ActiveScorer

_SQL = statements("vedette.scoring", "summary")
_DAY_SECONDS = 86_400
_NOTHING = (0, 0.0, 0, 0)
_SELECTED = ("scored", "failed", "retrying", "budget")


def scorers_summary(
    connection: sqlite3.Connection,
    active: Iterable[ActiveScorer],
    engine: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """One row for each active scorer, and for each that has made decisions.

    Args:
        connection: to the read model.
        engine: what the engine last published of its scorers, by scorer key.

    Returns:
        By experiment and name: ``scorer``, ``experiment_id``, ``unit`` (``trace`` or ``session``),
        ``active``, ``version``, ``rate``, ``epoch``, ``units`` (all that were decided),
        ``selected``, ``scored``, ``failed``,
        ``retrying``, ``over_budget``, ``in_flight`` (being scored), ``waiting`` (complete, not yet
        decided; of any experiment), ``lag_seconds`` (now minus the oldest of those),
        ``calls_today``, ``input_tokens_today``, ``output_tokens_today``, ``cost_today_usd`` (UTC),
        ``problem`` and ``note``.
    """
    now = time.time()
    counts: dict[str, dict[str, int]] = {}
    for key, decision, units in connection.execute(_SQL["counts"]):
        counts.setdefault(key, {})[decision] = units
    # Their counts include units that were never drawn
    left = dict(connection.execute(_SQL["left"]).fetchall())
    day = {"day": int(now // _DAY_SECONDS)}
    costs: dict[str, list[float]] = {}
    for key, *spent in connection.execute(_SQL["costs"], day):  # its backfills' are its own
        live = Stream.of(key).live
        costs[live] = [a + b for a, b in zip(costs.get(live, _NOTHING), spent, strict=True)]
    cursors = {
        key: (waiting, oldest) for key, waiting, oldest in connection.execute(_SQL["cursors"])
    }
    epochs = {key: known for key, *known in connection.execute(_SQL["last_epochs"])}
    known = {scorer.key: scorer for scorer in active}
    rows = []
    for key in sorted(known.keys() | counts.keys()):
        experiment_id, name, job = Stream.of(key)
        if job is not None:
            continue
        scorer = known.get(key)
        made = counts.get(key, {})
        waiting, oldest = cursors.get(key, (0, None))
        epoch, rate, of_sessions = epochs.get(key, (None, None, False))
        if scorer is not None:
            of_sessions = scorer.is_session_level
        calls, cost, input_tokens, output_tokens = costs.get(key, _NOTHING)
        told = engine.get(key, {})
        rows.append(
            {
                "scorer": name,
                "experiment_id": experiment_id,
                "unit": "session" if of_sessions else "trace",
                "active": scorer is not None,
                "version": None if scorer is None else scorer.version,
                "rate": 0.0 if scorer is None else (rate or scorer.sample_rate),
                "epoch": epoch,
                "units": sum(made.values()),
                "selected": sum(made.get(one, 0) for one in _SELECTED) + left.get(key, 0),
                "scored": made.get("scored", 0),
                "failed": made.get("failed", 0),
                "retrying": made.get("retrying", 0),
                "over_budget": made.get("budget", 0),
                "in_flight": told.get("in_flight", 0),
                "waiting": waiting,
                "lag_seconds": 0.0 if oldest is None else max(0.0, now - oldest / 1000),
                "calls_today": calls,
                "input_tokens_today": input_tokens,
                "output_tokens_today": output_tokens,
                "cost_today_usd": cost,
                "problem": told.get("problem"),
                "note": told.get("note"),
            }
        )
    return rows
