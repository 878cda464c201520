"""Keeps the metrics mirror near the read model, so that nobody waits for it to catch up."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable

from vedette.traces.columns import Columns
from vedette.traces.index import IndexUnavailable

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 5.0
# Copying takes at most this share of the time, however much is written meanwhile.
_SHARE = 0.2
_LONGEST_PAUSE_SECONDS = 300.0


class Following:
    """A thread that has the mirror follow the read model now and then.

    Args:
        connection: gives the calling thread's connection to the read model.
    """

    def __init__(self, columns: Columns, connection: Callable[[], sqlite3.Connection]) -> None:
        self._columns = columns
        self._connection = connection
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-mirror", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the copy under way, if any: it can be given up at any time."""
        self._stopping.set()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        pause = _PAUSE_SECONDS
        failing = False
        while not self._stopping.wait(pause):
            started = time.monotonic()
            try:
                self._columns.sync(self._connection())
                took = time.monotonic() - started
                pause = min(max(_PAUSE_SECONDS, took / _SHARE - took), _LONGEST_PAUSE_SECONDS)
                failing = False
            except IndexUnavailable:  # while it is rebuilt; then the mirror is filled anew
                pause = _PAUSE_SECONDS
            except Exception:  # a query that needs the mirror tells its caller
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                if not failing and not self._stopping.is_set():
                    logger.warning("the metrics mirror doesn't follow", exc_info=True)
                failing = True
