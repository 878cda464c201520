"""What one scorer has spent, and what it is to spend as far as that can be told."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from vedette.intake.records import DecisionRow
from vedette.scoring.budget import Cap, Room, Spent, UnitCost

_MINUTE = 60.0
_CATCH_UP_SECONDS = 900.0  # in which what waits is to be scored
_SHARE_PLACES = 10_000.0  # of the order of completion that tell which share of it is selected


@dataclass(frozen=True, slots=True)
class Look:
    """What holds for all scorers when it is looked at what they spend.

    Attributes:
        at: `time.monotonic()`.
        newest: the last place in the order of completion.
        places_per_second: of late.
        left_today: seconds.
    """

    at: float
    newest: int
    places_per_second: float
    left_today: float


@dataclass(slots=True)
class Account:
    """One scorer's.

    Attributes:
        dollars_per_call, calls_per_unit: on average of late; None: not known yet.
        unpriced: the last score came without a price.
        ended: calls by when they had ended, `time.monotonic()`; as far back as windows reach.
        places, chosen: those it looked at of late, and units in them selected at the full rate.
        waiting: places it has yet to read.
        under_way: units; 0 while the scorer isn't active.
        factor: of the rate; None until it is looked at.
        changed_at: when the factor was changed, `time.monotonic()`.
        room: under its own cap.
        spare: of a backfill, what it is left by the cap on all.
    """

    dollars_today: float = 0.0
    dollars_per_call: float | None = None
    calls_per_unit: float | None = None
    unpriced: bool = False
    ended: deque[tuple[float, int]] = field(default_factory=deque)
    places: float = 0.0
    chosen: float = 0.0
    waiting: int = 0
    under_way: int = 0
    cap: Cap = field(default_factory=Cap)
    factor: float | None = None
    changed_at: float = float("-inf")
    room: Room = field(default_factory=Room)
    spare: Room = field(default_factory=Room)

    @property
    def each(self) -> UnitCost:
        """What a unit takes."""
        calls, dollars = self.calls_per_unit or 1.0, self.dollars_per_call
        return UnitCost(calls, None if dollars is None else calls * dollars)

    def note(self, row: DecisionRow) -> None:
        """Take in what a decision cost."""
        calls, cost = row["calls"], row["cost_usd"]
        final = row["decision"] in ("scored", "failed")
        if calls or final:
            self.calls_per_unit = _smoothed(self.calls_per_unit, max(1, calls))
        if cost is not None and calls:
            self.dollars_today += cost
            self.dollars_per_call = _smoothed(self.dollars_per_call, cost / calls)
            self.unpriced = False
        elif row["decision"] == "scored":
            self.unpriced = True

    @property
    def window(self) -> float:
        """Seconds in which the calls under its own cap are counted."""
        return self.cap.window(self.each.calls)[1]

    def spent(self, window: float, look: Look) -> Spent:
        """What falls under a cap with a window of so many seconds."""
        per_place = self.chosen / self.places if self.places else 0.0
        waiting, per_second = per_place * self.waiting, per_place * look.places_per_second
        each = self.each
        dollars = each.dollars or 0.0
        ended = sum(calls for at, calls in self.ended if at > look.at - window)
        return Spent(
            dollars_today=self.dollars_today,
            dollars_under_way=self.under_way * dollars,
            dollars_to_come=(waiting + per_second * look.left_today) * dollars,
            calls=ended + self.under_way * each.calls,
            calls_per_minute=(waiting / _CATCH_UP_SECONDS + per_second) * _MINUTE * each.calls,
        )

    def read(self, places: int, selected: int) -> None:
        """The scorer looked at so many places, and selected units at its present rate."""
        self.places += places
        self.chosen += selected / (self.factor or 1.0)
        if self.places > _SHARE_PLACES:
            self.places, self.chosen = self.places / 2, self.chosen / 2

    def leave(self) -> None:
        """The scorer is not active: nothing of it is to come."""
        self.under_way = self.waiting = 0
        self.places = self.chosen = 0.0

    def forget(self, before: float) -> None:
        """Calls that ended before then are in no window."""
        while self.ended and self.ended[0][0] < before:
            self.ended.popleft()


def _smoothed(known: float | None, value: float) -> float:
    return value if known is None else 0.9 * known + 0.1 * value
