"""The engine process: moves the journals to the lake and the read model, scores, archives,
maintains.

Each duty has a thread of its own that never ends by an error: it reports, waits longer and longer,
and tries again, so that a lake that can't be reached doesn't stop the read model, and the other way
round.
"""

from __future__ import annotations

import gc
import logging
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vedette.alerts.control import AlertsUnavailable, tables_missing
from vedette.alerts.delivery import Deliveries
from vedette.alerts.store import AlertStore
from vedette.alerts.watch import Watch
from vedette.alerts.webhook import Secret
from vedette.archive.archival import Archival
from vedette.erasure import Erasure
from vedette.intake.journal import (
    JournalCorrupt,
    JournalFull,
    JournalReader,
    JournalUnavailable,
    JournalWriter,
)
from vedette.lake.maintenance import Job, Maintenance
from vedette.lake.span_readers import SpanReaders
from vedette.lake.storage import LakeUnavailable
from vedette.lake.table import Lake
from vedette.memory import return_free_memory
from vedette.pipeline import Tail
from vedette.processes import write_state
from vedette.rebuild import Rebuild, Stopped
from vedette.scoring.active import ControlUnavailable, control_engine
from vedette.scoring.completion import Completion
from vedette.scoring.runner import Scoring
from vedette.settings import Settings
from vedette.trace_locations import learn_locations
from vedette.traces.columns import trim_changes, trim_deletions
from vedette.traces.contents import SpanContents
from vedette.traces.index import IndexUnavailable, TraceIndex, why_unusable

logger = logging.getLogger(__name__)

_IDLE_SECONDS = 0.03
_LONGEST_IDLE_SECONDS = 0.2
_LONGEST_BACKOFF_SECONDS = 30.0
_CHECKPOINT_SECONDS = 5.0
_TRIM_SECONDS = 60.0
_ERASE_SECONDS = 2.0
_STOP_SECONDS = 6.0  # for what is under way; the supervisor kills after 8
# What a disk, a lake or a database that is away looks like
_FORESEEN = (
    AlertsUnavailable,
    LakeUnavailable,
    ControlUnavailable,
    JournalCorrupt,
    JournalFull,
    JournalUnavailable,
    OSError,
    sqlite3.OperationalError,
)


class Engine:
    """The duties of the engine on one data directory. `run` returns after SIGTERM or SIGINT."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._errors: dict[str, str] = {}
        self._checkpoint_at = 0.0
        self._trim_at = 0.0
        self._journal = JournalWriter(
            settings.engine_journal,
            segment_seconds=settings.commit_seconds,
            segment_bytes=int(settings.segment_bytes),
            max_bytes=int(settings.journal_max_bytes),
        )
        self._lake = Lake(settings.lake_uri, settings.lake_state)
        self._index = TraceIndex(settings.index_path, self._lake.is_used)
        self._journals = journals = [
            JournalReader(directory)
            for directory in (settings.server_journal, settings.engine_journal)
        ]
        self._rebuild = Rebuild(
            settings.index_path,
            self._lake,
            journals,
            settings.scratch,
            completion=partial(Completion.of, settings),
            stopping=self._stopping.is_set,
        )
        self._tails: list[Tail] = []  # none until there is a read model
        contents = SpanContents(self._index, journals, SpanReaders(self._lake))
        self._scoring = Scoring(settings, self._index, contents, self._journal)
        self._archival = Archival(settings, self._index, contents, self._stopping)
        self._erasure = Erasure(settings, self._index, journals, self._archival, self._stopping)
        self._maintenance = Maintenance(
            self._lake.all_tables(),
            settings.scratch,
            [Job("erasing what was deleted", _ERASE_SECONDS, self._erasure.step)],
        )
        self._control = control_engine(settings.control_uri)
        self._has_alerts = False  # the server makes their tables
        store = AlertStore(self._control, settings.url)
        self._watch = Watch(store, self._index, journals, stopping=self._stopping.is_set)
        self._deliveries = Deliveries(store.outbox, Secret(settings.webhook_secret))

    def run(self) -> None:
        """Work until asked to stop, then finish what is under way."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        duties = {
            "read model": self._fold,
            "lake": self._commit,
            "scoring": self._score,
            "archival": self._archive,
            "upkeep": self._keep_up,
            "alerts": self._look_at_alerts,
            "notifications": self._notify,
        }
        threads = [
            threading.Thread(target=self._repeat, args=(name, duty), name=name, daemon=True)
            for name, duty in duties.items()
        ]
        for thread in threads:
            thread.start()
        while not self._stopping.wait(1.0):
            if self._tails:
                self._maintenance.include(self._lake.all_tables())
                self._maintenance.tick(time.monotonic(), time.time())
            try:
                self._publish()
            except IndexUnavailable as error:
                self._give_up(error)
            except (OSError, sqlite3.Error) as error:
                # A full disk: /health then says that the engine is stale
                self._report("state", error)
            else:
                self._errors.pop("state", None)
        patience = time.monotonic() + _STOP_SECONDS
        self._maintenance.close()
        for thread in threads:
            thread.join(max(0.0, patience - time.monotonic()))
        self._scoring.close()
        self._archival.close()
        self._journal.close()

    def _repeat(self, name: str, duty: Callable[[], bool]) -> None:
        """Call ``duty`` until the engine stops: at once again if it had work to do."""
        idle, backoff = _IDLE_SECONDS, 0.5
        while not self._stopping.is_set():
            try:
                busy = duty()
            except IndexUnavailable as error:
                self._give_up(error)
                return
            except Stopped:
                return
            except Exception as error:
                self._report(name, error)
                self._stopping.wait(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF_SECONDS)
                continue
            if self._errors.pop(name, None):
                logger.warning("%s: works again", name)
            backoff = 0.5
            idle = _IDLE_SECONDS if busy else min(idle * 1.5, _LONGEST_IDLE_SECONDS)
            if not busy:
                self._stopping.wait(idle)

    def _report(self, name: str, error: Exception) -> None:
        """Say once that a duty fails: in a line if that can happen, in full if it is a defect."""
        if name not in self._errors:
            foreseen = isinstance(error, _FORESEEN)
            logger.error(
                "%s: %s; will try again", name, error, exc_info=None if foreseen else error
            )
        self._errors[name] = str(error) or type(error).__name__

    def _give_up(self, error: IndexUnavailable) -> None:
        """End: nothing that is kept in memory of a read model holds for the next one."""
        logger.error("%s; the engine stops and does so when it is started again", error)
        self._stopping.set()

    def _fold(self) -> bool:
        if not self._tails:
            self._find_read_model()
        return self._each(Tail.advance)

    def _find_read_model(self) -> None:
        """Take up the read model, made anew if need be; what needs it waits for `_tails`."""
        why = why_unusable(self._settings.index_path, self._lake.is_used)
        if why is not None:
            learn_locations(self._settings, self._lake.locations)
            self._rebuild.run(why)
        self._tails = [Tail(journal, self._index, self._lake) for journal in self._journals]

    def _commit(self) -> bool:
        return self._each(lambda tail: tail.commit_sealed(self._stopping.is_set))

    def _each(self, act: Callable[[Tail], bool]) -> bool:
        """Do it for every journal: one that is damaged does not hold up the other."""
        busy, failure = False, None
        for tail in self._tails:
            try:
                busy |= act(tail)
            except IndexUnavailable:
                raise
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return busy

    def _score(self) -> bool:
        return bool(self._tails) and self._scoring.tick()

    def _archive(self) -> bool:
        return bool(self._tails) and self._archival.tick()

    def _look_at_alerts(self) -> bool:
        return bool(self._tails) and self._knows_alerts() and self._watch.tick()

    def _notify(self) -> bool:
        return self._knows_alerts() and self._deliveries.tick()

    def _knows_alerts(self) -> bool:
        self._has_alerts = self._has_alerts or not tables_missing(self._control)
        return self._has_alerts

    def _keep_up(self) -> bool:
        now = time.monotonic()
        if self._tails and now >= self._checkpoint_at:
            self._index.checkpoint()
            self._checkpoint_at = now + _CHECKPOINT_SECONDS
        if self._tails and now >= self._trim_at:
            trim_changes(self._index)
            trim_deletions(self._index)
            self._trim_at = now + _TRIM_SECONDS
        return False

    def _publish(self) -> None:
        rebuild = self._rebuild.progress
        states = [tail.state() for tail in self._tails]
        commits = [state["last_commit"] for state in states if state["last_commit"]]
        lags = [state["lag_seconds"] for state in states if state["lag_seconds"] is not None]
        state: dict[str, Any] = {
            "lake": {
                "last_commit": max(commits, default=None),
                "lag_seconds": max(lags, default=None),
                "error": self._errors.get("lake"),
                "maintenance_error": self._maintenance.error,
            },
            "index": {
                "error": self._errors.get("read model"),
                **({"rebuilding": rebuild.state()} if rebuild else {}),
            },
            "journal": {"refusing": self._journal.refusing},
            "archival": {
                "archives": self._archival.state(),
                "error": self._errors.get("archival") or self._archival.error,
            },
            "erasure": self._erasure.state(),
            "workers": {**self._scoring.state(), "error": self._errors.get("scoring")},
            "alerts": {name: self._errors.get(name) for name in ("alerts", "notifications")},
        }
        write_state(Path(self._settings.run_dir) / "engine.json", state)


def run(settings: Settings) -> None:
    """Run the engine in this process until SIGTERM or SIGINT.

    Raises:
        JournalLocked: another engine runs on the data directory.
    """
    return_free_memory()
    engine = Engine(settings)
    # Decoded spans are many, live for a second and hold no cycles: looking for those among them
    # took a quarter of the time of decoding.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    engine.run()
