"""The engine's look at every rule, once a minute."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from vedette.alerts import counts, sequential
from vedette.alerts.rules import OF_TRACES
from vedette.alerts.states import Finding
from vedette.alerts.store import AlertStore, Watched
from vedette.alerts.traffic import Traffic
from vedette.intake.journal import JournalReader
from vedette.scoring.completion import FoldedUntil
from vedette.traces.index import IndexUnavailable, TraceIndex

logger = logging.getLogger(__name__)

EVERY_SECONDS = 60.0
_BEHIND_SECONDS = 120.0  # of the read model, at which nothing is said of what has arrived
_GLANCE_SECONDS = 1.0  # at how far the read model is, and for rules that are new
_START_SECONDS = 30.0  # that the read model has to take up what is in the journals
_FORGET_SECONDS = 86_400.0


class Watch:
    """Looks at all rules. Not thread-safe: one thread calls `tick`.

    Args:
        index: the read model; it is only read.
        journals: whose arrivals it holds up to some moment.
        every: seconds from one look to the next.
        stopping: asked between rules.
    """

    def __init__(
        self,
        store: AlertStore,
        index: TraceIndex,
        journals: Sequence[JournalReader],
        *,
        every: float = EVERY_SECONDS,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._traffic = Traffic(index)
        self._folded = FoldedUntil(index, journals)
        self._every = every
        self._stopping = stopping
        self._glance_at = self._at = self._started = time.monotonic()
        self._forget_at = 0.0

    def tick(self) -> bool:
        """Look at all rules if a minute has passed, else at new ones; False: there is no more to do
        at once.

        Raises:
            AlertsUnavailable: the control database can't be asked; call again later.
            IndexUnavailable: the read model has to be made anew.
        """
        now = time.monotonic()
        if now < self._glance_at:
            return False
        self._glance_at = now + _GLANCE_SECONDS
        folded_ms = self._folded.milliseconds()
        if folded_ms is None and now < self._started + _START_SECONDS:
            return False
        due = now >= self._at
        watched = self._store.rules(new=not due)
        if due:
            self._at = now + self._every
        for one in watched:
            if self._stopping():
                break
            self.look(one, folded_ms, int(time.time() * 1000))
        if now >= self._forget_at:
            self._store.forget(int(time.time() * 1000))
            self._forget_at = now + _FORGET_SECONDS
        return False

    def look(self, one: Watched, folded_ms: int | None, now_ms: int) -> None:
        """Look at one rule, and record what was found.

        Args:
            folded_ms: what arrived until then is in the read model; None: that isn't known.
        """
        if folded_ms is None or now_ms - folded_ms > _BEHIND_SECONDS * 1000:
            why = "what has arrived is not all in the read model yet"
            finding = _unfinished(one, why)
        else:
            try:
                with self._traffic.reading():
                    finding = self._found(one, folded_ms)
            except IndexUnavailable:
                raise
            except sqlite3.OperationalError as error:
                # One rule that takes too long must not hold up the others
                logger.warning("alert %s: %s", one.rule.name, error)
                finding = _unfinished(one, f"it could not be looked at: {error}")
            except Exception:
                logger.exception("alert %s can't be looked at", one.rule.name)
                finding = _unfinished(one, "it could not be looked at; the engine's log says why")
        self._store.record(one, finding, now_ms)

    def _found(self, one: Watched, folded_ms: int) -> Finding:
        firing, memory = one.state == "firing", one.memory
        if one.rule.condition.kind not in OF_TRACES:
            return counts.look(one.rule, self._traffic, memory, now_ms=folded_ms, firing=firing)
        known = None if memory is None else {**memory}
        was_firing = False if known is None else known.pop("firing")
        found = sequential.look(
            one.rule,
            self._traffic,
            known,
            now_ms=folded_ms,
            firing=firing,
            anew=was_firing != firing,
        )
        return replace(found, memory={**(found.memory or {}), "firing": firing})


def _unfinished(one: Watched, why: str) -> Finding:
    """Of a rule that could not be looked at: all stays as it was, but nothing good is said."""
    return Finding(
        met=False,
        cleared=False,
        leaning=False,
        has_data=True,
        complete=False,
        why=why,
        evidence=one.evidence,
        memory=one.memory,
    )
