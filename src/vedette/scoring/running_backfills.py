"""The backfills that are to run: those that were asked for, not cancelled, and not at their end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from vedette.intake.records import BackfilledScorer, Stream
from vedette.scoring.active import ActiveScorer, ActiveScorers
from vedette.scoring.backfills import Backfill, Window, asked_for, stored_backfills
from vedette.traces.index import TraceIndex

_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """One scorer of one backfill.

    Attributes:
        scorer: in the version that was asked for; as far as the job tells if `gone`.
        gone: this version has been deleted since.
    """

    scorer: ActiveScorer
    window: Window
    rescore: bool
    cancelled: bool
    gone: bool

    @property
    def goes_on(self) -> bool:
        """Whether it is to be run, not to be ended."""
        return not self.cancelled and not self.gone


class RunningBackfills:
    """Looks when one is asked for or cancelled, and every second whether its scorers are there.

    Args:
        scorers: tells of the versions that are registered.
        ended: whether nothing of a stream is left to be written, by its key.
    """

    def __init__(
        self, index: TraceIndex, scorers: ActiveScorers, ended: Callable[[str], bool]
    ) -> None:
        self._index = index
        self._scorers = scorers
        self._ended = ended
        self._looked_at = float("-inf")
        self._windows: dict[str, Window] = {}
        self._asked = (0, 0)
        self._found: dict[str, Run] = {}

    def read(self) -> dict[str, Run]:
        """By stream.

        Raises:
            ControlUnavailable: it is not known which versions there are.
        """
        now, asked = time.monotonic(), asked_for(self._index)
        if now - self._looked_at >= _LOOK_SECONDS or asked != self._asked:
            self._found = self._look()
            self._looked_at, self._asked = now, asked
        return {key: run for key, run in self._found.items() if not self._ended(key)}

    def _look(self) -> dict[str, Run]:
        wanted = {
            job.stream(one).key: (job, one)
            for job in stored_backfills(self._index)
            for one in job.scorers
            if not self._ended(job.stream(one).key)
        }
        if not wanted:
            return {}
        registered = {
            (one.experiment_id, one.name, one.version): one
            for experiment_id in {job.experiment_id for job, _ in wanted.values()}
            for one in self._scorers.registered(experiment_id)
        }
        found: dict[str, Run] = {}
        for key, (job, one) in wanted.items():
            known = registered.get((job.experiment_id, one["name"], one["version"]))
            scorer = known or ActiveScorer(
                experiment_id=job.experiment_id,
                name=one["name"],
                version=one["version"],
                serialized='{"is_session_level_scorer": true}' if one["of_sessions"] else "{}",
                sample_rate=one["rate"],
            )
            found[key] = Run(
                scorer=job.as_active(one, scorer),
                window=self._window(job, one),
                rescore=job.rescore,
                cancelled=job.cancelled_ms is not None,
                gone=known is None,
            )
        return found

    def _window(self, job: Backfill, one: BackfilledScorer) -> Window:
        key = job.stream(one).key
        if key not in self._windows:
            self._windows[key] = job.window(self._index, one)
        return self._windows[key]


def is_backfill(stream: str) -> bool:
    """Whether a stream of this key is one of a backfill."""
    return Stream.of(stream).job is not None
