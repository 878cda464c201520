"""Units that met a transient failure and are tried again, for up to a day, across restarts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vedette.intake.records import DecisionRow
from vedette.named_sql import statements
from vedette.scoring.batches import Attempt
from vedette.traces.index import TraceIndex

_SQL = statements("vedette.scoring", "decided")


@dataclass(slots=True)
class _Waiting:
    attempt: Attempt
    due_ms: int


class Retries:
    """What waits to be tried again, as the read model has it at the start and as it changes."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[tuple[str, int], _Waiting]] = {}

    def load(self, index: TraceIndex) -> None:
        """Take over what an earlier engine left."""
        found = index.connection().execute(_SQL["retrying"])
        names = [column[0] for column in found.description]
        for values in found:
            row = dict(zip(names, values, strict=True))
            self._put(row["scorer"], row)

    @property
    def scorers(self) -> list[str]:
        """The keys of those that have something to try again."""
        return [scorer for scorer, waiting in self._waiting.items() if waiting]

    def note(self, scorer: str, decisions: Sequence[DecisionRow]) -> None:
        """Decisions that are on disk: those that retry wait, the others don't any more."""
        for row in decisions:
            if row["decision"] == "retrying" and row["next_attempt_ms"] is not None:
                self._put(scorer, row)
            else:
                self._waiting.get(scorer, {}).pop((row["unit_id"], row["revision"]), None)

    def due(
        self, scorer: str, now_ms: int, but: Iterable[tuple[str, int]], most: int
    ) -> list[Attempt]:
        """What a scorer is to try again now, longest due first, without what is under way."""
        under_way = set(but)
        found = sorted(
            (
                one
                for key, one in self._waiting.get(scorer, {}).items()
                if one.due_ms <= now_ms and key not in under_way
            ),
            key=lambda one: one.due_ms,
        )
        return [one.attempt for one in found[:most]]

    def count(self, scorer: str) -> int:
        """How many units of a scorer wait."""
        return len(self._waiting.get(scorer, {}))

    def _put(self, scorer: str, row: Mapping[str, Any]) -> None:
        """A unit waits, as the row of its decision says."""
        attempt = Attempt(
            unit_id=row["unit_id"],
            unit_type=row["unit_type"],
            revision=row["revision"],
            trace_id=row["trace_id"],
            epoch=row["epoch"],
            stratum=row["stratum"],
            inclusion_probability=row["inclusion_probability"],
            draw=row["draw"],
            completed_ms=row["completed_ms"],
            number=row["attempts"] + 1,
            first_ms=row["first_attempt_ms"],
        )
        key = attempt.unit_id, attempt.revision
        self._waiting.setdefault(scorer, {})[key] = _Waiting(attempt, row["next_attempt_ms"])
