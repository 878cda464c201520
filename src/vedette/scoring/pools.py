"""Where a scorer runs: code in sandboxed workers, one after another; judges many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from vedette.scoring.active import ActiveScorer
from vedette.scoring.outcomes import Outcome, Unit

_CODE_UNITS = 32  # in one message to a worker
_JUDGE_UNITS = 1  # each call takes seconds: none waits for another


class Pool(Protocol):
    """What `vedette.scoring.pool.WorkerPool` and the pool of judges have in common."""

    def prepare(self) -> None:
        """Start, without waiting for it, what takes seconds before the first unit runs."""

    def submit(self, scorer: ActiveScorer, units: Sequence[Unit]) -> Future[list[Outcome]]:
        """Score these units; the future has one outcome for each, in order, or for the first of
        them. It can be cancelled until they are begun with."""

    @property
    def processes(self) -> int:
        """Processes that are alive."""

    def retire_idle(self) -> None:
        """End what has had nothing to do for a while."""

    def close(self) -> None:
        """End everything; what isn't done fails."""


class Pools:
    """The pools of an engine."""

    def __init__(self, code: Pool, judges: Pool) -> None:
        self._code = code
        self._judges = judges

    def of(self, scorer: ActiveScorer) -> tuple[Pool, int]:
        """The pool a scorer runs in, and how many units it is given at a time."""
        return (self._judges, _JUDGE_UNITS) if scorer.is_judge else (self._code, _CODE_UNITS)

    @property
    def processes(self) -> int:
        """Processes that are alive."""
        return self._code.processes + self._judges.processes

    def retire_idle(self) -> None:
        """End what has had nothing to do for a while."""
        self._code.retire_idle()
        self._judges.retire_idle()

    def close(self) -> None:
        """End everything."""
        self._code.close()
        self._judges.close()
