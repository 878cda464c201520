"""Epochs: spans of a scorer's life with one rate, one filter and one set of strata.

Every decision says in which epoch it was made and with what probability its unit was selected, so
that estimates stay unbiased when rates change. An epoch holds for the units that became complete
after its place and up to the next epoch's: a replay after a crash decides as was decided before.
While the scorer is stopped, an epoch says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vedette.intake.records import EpochRow
from vedette.named_sql import statements
from vedette.scoring.active import ActiveScorer
from vedette.traces.index import TraceIndex

_SQL = statements("vedette.scoring", "decided")

BASE_STRATUM = -1
STARTED = "started"  # how the reason of an epoch begins that follows on no other
STOPPED = "stopped"  # how the reason of an epoch begins in which the scorer decides nothing
_LEFT = f"{STOPPED}: what was complete by then is left"


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of one scorer.

    Attributes:
        number: 1 for the first.
        opened_ms: milliseconds since the epoch.
        after_position: it holds for units completed after this place.
        version: the scorer's when it was opened.
        rate: inclusion probability of units in no stratum.
        strata: (filter, inclusion probability); the first that matches a unit is its stratum.
        reason: why it was opened, for people.
        of_sessions: whether the scorer's units are sessions.
    """

    number: int
    opened_ms: int
    after_position: int
    version: int
    rate: float
    filter_string: str | None
    strata: tuple[tuple[str, float], ...]
    reason: str
    of_sessions: bool

    def probability(self, stratum: int) -> float:
        """The inclusion probability in a stratum."""
        return self.rate if stratum == BASE_STRATUM else self.strata[stratum][1]

    @property
    def highest(self) -> float:
        """The highest inclusion probability a unit can have."""
        return max(self.rate, *(rate for _, rate in self.strata), 0.0)

    @property
    def stopped(self) -> bool:
        """Whether its units are not for the scorer to decide: it was stopped."""
        return self.reason.startswith(STOPPED)

    @property
    def left(self) -> bool:
        """Whether its units were complete before the stop, and had not had their turn."""
        return self.reason == _LEFT

    def row(self, after_arrival: int) -> EpochRow:
        """As it is journaled; ``after_arrival`` is what its place means, see `EpochRow`."""
        return EpochRow(
            epoch=self.number,
            opened_ms=self.opened_ms,
            after_position=self.after_position,
            after_arrival=after_arrival,
            version=self.version,
            rate=self.rate,
            filter=self.filter_string,
            strata=list(self.strata),
            reason=self.reason,
            of_sessions=self.of_sessions,
        )


class Epochs:
    """The epochs of one scorer, oldest first."""

    def __init__(self, epochs: Sequence[Epoch] = ()) -> None:
        self._epochs = list(epochs)

    @property
    def current(self) -> Epoch | None:
        """The newest."""
        return self._epochs[-1] if self._epochs else None

    def factor(self, rate: float) -> float:
        """What the budget left of this rate when the newest epoch was opened: 1, 1/2, 1/4, ...; 1
        if the epoch is of another rate."""
        factor = 1.0 if self.current is None else self.current.rate / rate
        return factor if factor < 1.0 and math.frexp(factor)[0] == 0.5 else 1.0

    @property
    def begin(self) -> int:
        """The place after which the scorer became active, the last time it did."""
        starts = [one.after_position for one in self._epochs if one.reason.startswith(STARTED)]
        return starts[-1] if starts else 0

    def at(self, position: int) -> tuple[Epoch, int | None]:
        """The epoch that holds for the unit after place ``position``, and the last place for which
        it holds; None if it is the newest."""
        for older, newer in zip(self._epochs, self._epochs[1:], strict=False):
            if position < newer.after_position:
                return older, newer.after_position
        return self._epochs[-1], None

    def holding(self, position: int) -> Epoch | None:
        """The epoch that holds for the unit at this place; None: it was before the first start."""
        if not self._epochs or position <= self._epochs[0].after_position:
            return None
        epoch, _ = self.at(position - 1)
        return epoch

    def numbered(self, number: int) -> Epoch | None:
        """The epoch of this number, if it is known."""
        return next((one for one in self._epochs if one.number == number), None)

    def follow(
        self,
        scorer: ActiveScorer,
        factor: float,
        position: int,
        now_ms: int,
        *,
        anew: bool,
    ) -> Epoch | None:
        """Open an epoch after ``position`` if the scorer is not what the newest epoch says.

        Args:
            factor: what the budget leaves of the rates, in (0, 1].
            anew: whether it has just become active: then an epoch is opened in any case.

        Returns:
            The epoch that was opened, or None.
        """
        rate = scorer.sample_rate * factor
        strata = tuple((text, share * factor) for text, share in scorer.strata)
        last = self.current
        if last is None or anew:
            reason = STARTED if last is None else f"{STARTED} again"
        else:
            changes = {
                f"version {last.version} -> {scorer.version}": last.version != scorer.version,
                f"rate {last.rate:g} -> {rate:g}": last.rate != rate,
                "filter": last.filter_string != scorer.filter_string,
                "strata": last.strata != strata,
            }
            reason = ", ".join(text for text, changed in changes.items() if changed)
            if not reason:
                return None
            if factor < 1.0:
                reason += f" (the budget leaves {factor:.3g} of the rate)"
        opened = Epoch(
            number=1 if last is None else last.number + 1,
            opened_ms=now_ms,
            after_position=position,
            version=scorer.version,
            rate=rate,
            filter_string=scorer.filter_string,
            strata=strata,
            reason=reason,
            of_sessions=scorer.is_session_level,
        )
        self._epochs.append(opened)
        return opened

    def stop(self, decided: int, position: int, now_ms: int) -> list[Epoch]:
        """Open the epochs of a scorer that is stopped; those that were opened.

        Args:
            decided: the place up to which it has decided.
            position: the newest place at the stop.
        """
        last = self.current
        if last is None or last.stopped:
            return []
        stop = replace(last, opened_ms=now_ms, rate=0.0, filter_string=None, strata=())
        opened = [replace(stop, after_position=decided, reason=_LEFT)] if decided < position else []
        opened.append(replace(stop, after_position=position, reason=STOPPED))
        opened = [replace(one, number=last.number + n) for n, one in enumerate(opened, 1)]
        self._epochs += opened
        return opened


def stored_epochs(index: TraceIndex) -> dict[str, Epochs]:
    """The epochs of every scorer, by its key."""
    found: dict[str, list[Epoch]] = {}
    for (
        scorer,
        number,
        opened,
        after,
        version,
        rate,
        text,
        strata,
        reason,
        of_sessions,
    ) in index.connection().execute(_SQL["epochs"]):
        pairs = tuple((str(filter_), float(share)) for filter_, share in json.loads(strata))
        found.setdefault(scorer, []).append(
            Epoch(number, opened, after, version, rate, text, pairs, reason, bool(of_sessions))
        )
    return {scorer: Epochs(epochs) for scorer, epochs in found.items()}
