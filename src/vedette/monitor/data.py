"""What the pages ask the server for, and how they ask without each keeping it busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from starlette.concurrency import run_in_threadpool

from vedette.monitor.figures.overview import Overview
from vedette.monitor.figures.period import Period
from vedette.monitor.figures.scorer import ScorerDetail
from vedette.scoring.explain import Explanation

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_SHARE = 20.0
_MOST_KEYS = 200


@dataclass(frozen=True)
class Experiment:
    """An experiment people can choose."""

    experiment_id: str
    name: str


@dataclass(frozen=True)
class ScorersView:
    """The scorers of one experiment.

    Attributes:
        rows: as `scorers_summary` gives them, registered ones that were never started too; each
            with ``registered``.
        engine: the engine's state, as ``/health`` tells it.
        warnings: of ``/health``.
        at: when this was so, in seconds since the epoch.
    """

    rows: list[dict[str, Any]]
    engine: str
    warnings: list[str]
    at: float


@dataclass(frozen=True)
class SessionTrace:
    """A trace as the list of its session shows it. Times in ms since the epoch."""

    trace_id: str
    time_ms: int
    state: str
    question: str


@dataclass(frozen=True)
class TraceView:
    """A trace, what each scorer did with it, and its session.

    Attributes:
        explanations: by scorer name.
        session: the session's traces, this one included, oldest first; at most ``SESSION_LIMIT``.
        session_size: how many it has.
    """

    trace: SessionTrace
    duration_ms: int | None
    experiment: Experiment
    explanations: list[Explanation]
    session_id: str | None
    session: list[SessionTrace]
    session_size: int


@dataclass(frozen=True)
class OverviewView:
    """The Overview of an experiment.

    Attributes:
        scorers: as they are now.
        firing: the alerts that fire, as ``GET /api/alerts`` has them; None: there are no rules.
        at: when this was so, in seconds since the epoch.
    """

    figures: Overview
    scorers: ScorersView
    firing: list[dict[str, Any]] | None
    at: float


@dataclass(frozen=True)
class ScorerView:
    """One scorer; ``at`` is when this was so, in seconds since the epoch."""

    detail: ScorerDetail
    at: float


SESSION_LIMIT = 100


class MonitorData(Protocol):
    """Answers the pages' questions. Use from any thread.

    Raises (every method):
        MlflowException: it can't be told now; the message says why.
    """

    def experiments(self) -> list[Experiment]:
        """Those that aren't deleted; the one to show first comes first."""

    def scorers(self, experiment_id: str) -> ScorersView:
        """The scorers of an experiment."""

    def trace(self, trace_id: str) -> TraceView | None:
        """A trace; None if there is none with this id."""

    def overview(self, experiment_id: str, period: Period) -> OverviewView:
        """The figures of an experiment in a period."""

    def scorer(self, experiment_id: str, name: str, period: Period) -> ScorerView:
        """The figures of a scorer; one that nobody knows has none."""


class Shared(Generic[K, T]):
    """Answers of a function that blocks, for all tabs that ask at about the same time.

    However many pages are open, it runs in one thread at a time per key, at most once in
    ``max_age`` seconds, and for no more than a twentieth of the time.
    """

    def __init__(self, compute: Callable[[K], T], *, max_age: float) -> None:
        self._compute = compute
        self._max_age = max_age
        self._answers: dict[K, tuple[float, T]] = {}  # good until then
        self._locks: dict[K, asyncio.Lock] = {}

    async def get(self, key: K) -> T:
        """The answer for ``key``; whatever ``compute`` raises."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            if (known := self._answers.get(key)) is not None and time.monotonic() < known[0]:
                return known[1]
            began = time.monotonic()
            answer = await run_in_threadpool(self._compute, key)
            took = time.monotonic() - began
            self._forget_some()
            self._locks[key] = lock
            self._answers[key] = (began + took + max(self._max_age, _SHARE * took), answer)
            return answer

    def _forget_some(self) -> None:
        """Keys come from addresses: there may be any number."""
        if len(self._locks) > _MOST_KEYS:
            self._answers.clear()
            self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
