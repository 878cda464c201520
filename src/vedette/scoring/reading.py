"""What backfills score is read ahead, in a thread of its own: it is old, and the lake takes a while
to give it, for which live scoring can't wait."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from vedette.scoring.active import ActiveScorer
from vedette.scoring.backfills import REUSED, Window, scored_before
from vedette.scoring.epochs import Epochs
from vedette.scoring.payloads import Payloads
from vedette.scoring.progress import Progress, Read
from vedette.scoring.selection import SELECTED, Choice, Selection

_UNITS = 8192  # of a window that are looked at in one go


class Reader:
    """Reads for one backfill after the other."""

    def __init__(self, selection: Selection, payloads: Payloads) -> None:
        self._selection = selection
        self._payloads = payloads
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="backfill")

    def begin(self, progress: Progress, window: Window, until: int, most: int) -> None:
        """Have `Progress.reading` read on from where it has come, not beyond the place ``until``,
        and not more than ``most`` selected units. It may raise:

        MlflowException: the filter, or one of a stratum, is not valid or takes too long.
        LakeUnavailable: whole traces can't be read now.
        """
        progress.reading = self._thread.submit(
            self._read,
            progress.scorer,
            progress.epochs,
            window,
            progress.reached,
            until,
            most,
            rescore=progress.rescore,
        )

    def close(self) -> None:
        """Wait for what is being read; read nothing more."""
        self._thread.shutdown(cancel_futures=True)

    def _read(
        self,
        scorer: ActiveScorer,
        epochs: Epochs,
        window: Window,
        position: int,
        until: int,
        most: int,
        *,
        rescore: bool,
    ) -> Read:
        epoch, _ = epochs.at(position)
        units, end = window.after(self._payloads.index, position, until, _UNITS)
        choices = self._selection.choose(scorer, epochs, epoch, units)
        if not rescore:
            choices = self._reuse(scorer, choices)
        choices, end = first_selected(choices, end, most)
        wanted = [choice.unit for choice in choices if choice.decision == SELECTED]
        locations = {scorer.experiment_id: scorer.artifact_location}
        found, loaded = self._payloads.load(wanted, locations)
        if loaded is not None:
            end = loaded
            choices = [choice for choice in choices if choice.unit.position <= end]
        return Read(choices, found, end)

    def _reuse(self, scorer: ActiveScorer, choices: Sequence[Choice]) -> list[Choice]:
        """The choices, but what this version has scored before isn't scored again."""
        selected = [choice.unit for choice in choices if choice.decision == SELECTED]
        known = scored_before(self._payloads.index, scorer, selected)
        return [
            replace(choice, decision=REUSED, open=True, scores=known[unit])
            if choice.decision == SELECTED
            and (unit := (choice.unit.unit_id, choice.unit.revision)) in known
            else choice
            for choice in choices
        ]


def first_selected(choices: list[Choice], end: int, most: int) -> tuple[list[Choice], int]:
    """The choices up to the place ``end`` with the first so many that are selected, and up to which
    place that is."""
    places = [one.unit.position for one in choices if one.decision == SELECTED]
    if len(places) <= most:
        return choices, end
    end = places[most] - 1
    return [one for one in choices if one.unit.position <= end], end
