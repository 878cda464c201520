"""Fold what scoring decided into the read model, inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections import Counter

import orjson

from vedette.intake.records import BackfillRow, CountRow, DecisionRow, Decisions, EpochRow
from vedette.named_sql import statements

_SQL = statements("vedette.traces", "fold_decisions")
_HOUR_MS = 3_600_000
_DAY_MS = 86_400_000


def fold_decisions(connection: sqlite3.Connection, fields: Decisions) -> bool:
    """Apply a ``decisions`` record but for its assessments.

    Returns:
        False if it has been applied before: it moves a cursor that isn't where it should be.
    """
    return _FoldDecisions(connection, fields["scorer"]).run(fields)


def fold_backfill(connection: sqlite3.Connection, fields: BackfillRow) -> None:
    """Apply a ``backfill`` record: one that was cancelled stays so."""
    values = {**fields, "scorers": orjson.dumps(fields["scorers"]).decode()}
    connection.execute(_SQL["put_backfill"], values)


class _FoldDecisions:
    def __init__(self, connection: sqlite3.Connection, scorer: str) -> None:
        self._connection = connection
        self._scorer = scorer
        self._counts = Counter[tuple[int, int, int, str]]()

    def run(self, fields: Decisions) -> bool:
        if not self._move(fields["cursor"]):
            return False
        for epoch in fields["epochs"]:
            self._open(epoch)
        for decision in fields["decisions"]:
            self._decide(decision)
        for count in fields["counts"]:
            self._count(count)
        self._connection.executemany(
            _SQL["count"],
            [(self._scorer, *where, units) for where, units in self._counts.items() if units],
        )
        return True

    def _move(self, cursor: tuple[int | None, int | None] | None) -> bool:
        if cursor is None:
            return True
        row = self._connection.execute(_SQL["cursor"], (self._scorer,)).fetchone()
        known = row[0] if row else None
        since, until = cursor
        if known != since:
            return False
        if until is None:
            self._connection.execute(_SQL["delete_cursor"], (self._scorer,))
        else:
            self._connection.execute(_SQL["put_cursor"], (self._scorer, until))
        return True

    def _open(self, epoch: EpochRow) -> None:
        values = {
            **epoch,
            "scorer": self._scorer,
            "strata": orjson.dumps(epoch["strata"]).decode(),
            "of_sessions": epoch.get("of_sessions", False),  # older records lack it
        }
        self._connection.execute(_SQL["put_epoch"], values)

    def _decide(self, decision: DecisionRow) -> None:
        values = {**decision, "scorer": self._scorer}
        before = self._connection.execute(_SQL["decision_before"], values).fetchone()
        if before is not None:
            epoch, stratum, completed_ms, what, attempts = before
            same = (epoch, stratum, what) == tuple(
                decision[name] for name in ("epoch", "stratum", "decision")
            )
            if same and attempts >= decision["attempts"]:
                return  # written twice
            self._counts[epoch, stratum, _hour(completed_ms), what] -= 1
        self._connection.execute(_SQL["put_decision"], values)
        where = decision["epoch"], decision["stratum"], _hour(decision["completed_ms"])
        self._counts[*where, decision["decision"]] += 1
        if decision["calls"]:
            self._connection.execute(
                _SQL["add_cost"],
                (
                    self._scorer,
                    decision["decided_ms"] // _DAY_MS,
                    decision["calls"],
                    decision["input_tokens"] or 0,
                    decision["output_tokens"] or 0,
                    decision["cost_usd"] or 0.0,
                ),
            )

    def _count(self, count: CountRow) -> None:
        where = count["epoch"], count["stratum"], count["hour_ms"], count["decision"]
        self._counts[where] += count["units"]


def _hour(milliseconds: int) -> int:
    return milliseconds - milliseconds % _HOUR_MS
