"""What each scorer spends, and what its budget therefore allows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

from vedette.intake.records import DecisionRow, Stream
from vedette.named_sql import statements
from vedette.scoring.account import Account, Look
from vedette.scoring.budget import SPARE, UNLIMITED, UNPRICED, Allowance, Cap, Room, Spent, allow
from vedette.scoring.progress import Progress
from vedette.traces.index import TraceIndex

_SQL = statements("vedette.scoring", "summary")
_DAY_SECONDS = 86_400.0
_TRAFFIC_SECONDS = 900.0  # of traffic that tell what the rest of the day brings
_LOOK_SECONDS = 1.0  # between looks at what is spent
_MINUTE = 60.0
_ONE_BY_ONE = "Its first units are scored one by one: what they take is not known yet."


class Spending:
    """The accounts of all scorers, and the cap on all together.

    A backfill spends its scorer's budget, but only what live scoring is not expected to need: it
    waits, and its rate stays what it is.

    The day is that of the clock on the wall; all else goes by one that is never put back.
    """

    def __init__(self, index: TraceIndex, cap: Cap) -> None:
        self._index = index
        self._cap = cap
        self._room = Room()
        self._accounts: dict[str, Account] = {}
        self._began = time.monotonic()
        self._day: int | None = None
        self._day_began = self._began
        self._looked_at = float("-inf")
        self._judges: set[str] = set()  # when it was looked at last
        self._traffic = deque[tuple[float, int]]()  # the newest place, by when

    def limit(self, scorers: Mapping[str, Progress], newest: int) -> None:
        """Set what each scorer may spend, `Progress.allowance`: once a second, and when others have
        become active.

        Args:
            newest: the last place in the order of completion.
        """
        now = time.monotonic()
        judges = {key: one for key, one in scorers.items() if one.scorer.is_judge}
        if now - self._looked_at < _LOOK_SECONDS and judges.keys() == self._judges:
            return
        self._looked_at, self._judges = now, set(judges)
        self._begin_day(now)
        left_today = _DAY_SECONDS - time.time() % _DAY_SECONDS
        look = Look(now, newest, self._places_per_second(newest, now), left_today)
        for key, progress in scorers.items():
            if key in judges:
                self._follow(self._account(key), progress, look)
            else:  # it may have been a judge
                progress.allowance, progress.hint = UNLIMITED, None
        for key in self._accounts.keys() - judges.keys():
            self._accounts[key].leave()
        calls = max((one.each.calls for one in self._accounts.values()), default=1.0)
        window = self._cap.window(calls)[1]
        of_all = sum((one.spent(window, look) for one in self._accounts.values()), Spent())
        self._room = Room.under(self._cap, of_all, calls, now - self._began)
        for progress in judges.values():
            if progress.window is None:
                self._allow(progress, of_all, look)
            else:
                self._spare(progress, window, look)
        for account in self._accounts.values():
            account.forget(now - max(window, account.window))

    def has_room(self, progress: Progress) -> bool:
        """Whether another unit of the scorer may begin."""
        return self.room(progress) >= 1

    def take(self, progress: Progress, units: int) -> int:
        """Units of the scorer are to begin; how many may. They count as under way from now on."""
        granted = int(max(0.0, min(units, self.room(progress))))
        if progress.scorer.is_judge:
            account = self._account(progress.scorer.key)
            account.under_way += granted
            for room in (
                *(one.room for one in self._of_scorer(progress.scorer.stream.live)),
                *(one.spare for one in self._accounts.values()),
                self._room,
            ):
                room.take(granted, account.each)
        return granted

    def note_read(self, progress: Progress, places: int, selected: int) -> None:
        """The scorer looked at so many places, and selected units at its present rate; those that
        have to wait it looks at again."""
        if not progress.scorer.is_judge:
            return
        account = self._account(progress.scorer.key)
        if not account.places:
            self._looked_at = float("-inf")  # its share of the traffic is known now
        account.read(places, selected)

    def note_decided(self, scorer: str, decisions: Iterable[DecisionRow]) -> None:
        """These decisions are on disk, with what their calls cost."""
        now = time.monotonic()
        self._begin_day(now)
        account = self._account(scorer)
        learns = self._is_to_learn(account)
        calls = 0
        for row in decisions:
            account.note(row)
            calls += row["calls"]
        if calls:
            account.ended.append((now, calls))
        if learns and not self._is_to_learn(account):  # it must be looked at before more begins
            self._looked_at = float("-inf")
            self._room = Room(calls=0.0, dollars=0.0)

    def room(self, progress: Progress) -> float:
        """How many units may begin."""
        if not progress.scorer.is_judge:
            return float("inf")
        account = self._account(progress.scorer.key)
        rooms = account.room, account.spare, self._room
        most = min(room.units(account.each) for room in rooms)
        if self._is_to_learn(account):
            return min(most, 1 - account.under_way)
        return most

    def _is_to_learn(self, account: Account) -> bool:
        """Whether the scorer's first units are scored one by one: how many calls they take, or what
        those cost, is not known yet, and there is a cap on it."""
        caps = account.cap, self._cap
        if any(cap.calls_per_minute is not None for cap in caps) and account.calls_per_unit is None:
            return True
        unknown = account.dollars_per_call is None and not account.unpriced
        return unknown and self._counts_dollars(account)

    def _counts_dollars(self, account: Account) -> bool:
        return any(cap.dollars_per_day is not None for cap in (account.cap, self._cap))

    def _follow(self, account: Account, progress: Progress, look: Look) -> None:
        """Take over how an active scorer is now."""
        account.under_way = progress.in_flight + len(progress.retried)
        account.waiting = max(0, look.newest - progress.reached)
        cap = progress.scorer.cap
        if account.factor is None:  # what an earlier engine allowed holds on, if there is a cap
            account.factor = progress.epochs.factor(progress.scorer.sample_rate)
            if Cap() != cap or Cap() != self._cap:
                account.changed_at = look.at
        elif cap != account.cap:
            account.changed_at = float("-inf")
        account.cap = cap

    def _of_scorer(self, live: str, *, jobs: bool = True) -> list[Account]:
        """The accounts of a scorer: its live one, and those of its backfills."""
        return [
            one
            for key, one in self._accounts.items()
            if key == live or (jobs and Stream.of(key).live == live)
        ]

    def _spare(self, progress: Progress, window: float, look: Look) -> None:
        """Set what a backfill may spend until the next look: what live scoring leaves."""
        stream = progress.scorer.stream
        account, known = self._account(stream.key), look.at - self._began
        each = account.each
        everyone = self._accounts.items()
        own = _beside(
            self._of_scorer(stream.live),
            self._of_scorer(stream.live, jobs=False),
            account.window,
            look,
        )
        of_all = _beside(
            [one for _, one in everyone],
            [one for key, one in everyone if Stream.of(key).job is None],
            window,
            look,
        )
        account.room = Room.under(account.cap, own, each.calls, known)
        account.spare = Room.under(self._cap, of_all, each.calls, known)
        reason = None
        if not self.has_room(progress):
            reason = (
                account.room.why_full(account.cap, own, each)
                or account.spare.why_full(self._cap, of_all, each)
                or _ONE_BY_ONE
            )
        progress.allowance = Allowance(factor=1.0, reason=reason)
        progress.hint = UNPRICED if account.unpriced and self._counts_dollars(account) else None

    def _allow(self, progress: Progress, of_all: Spent, look: Look) -> None:
        """Set what a scorer may spend until the next look."""
        account = self._account(progress.scorer.key)
        each, accounts = account.each, self._of_scorer(progress.scorer.key)
        own = sum((one.spent(account.window, look) for one in accounts), Spent())
        account.room = Room.under(account.cap, own, each.calls, look.at - self._began)
        factor = account.factor or 0.0
        allowance = allow(
            [(account.cap, own), (self._cap, of_all)],
            each,
            factor,
            changed_at=account.changed_at,
            day_began_at=self._day_began,
            now=look.at,
        )
        if allowance.factor != factor:
            account.factor, account.changed_at = allowance.factor, look.at
        if allowance.reason is None and not self.has_room(progress):
            reason = (
                account.room.why_full(account.cap, own, each)
                or self._room.why_full(self._cap, of_all, each)
                or _ONE_BY_ONE
            )
            allowance = replace(allowance, reason=reason)
        progress.allowance = allowance
        progress.hint = UNPRICED if account.unpriced and self._counts_dollars(account) else None

    def _places_per_second(self, newest: int, now: float) -> float:
        traffic = self._traffic
        traffic.append((now, newest))
        while len(traffic) > 1 and traffic[1][0] <= now - _TRAFFIC_SECONDS:
            traffic.popleft()
        at, first = traffic[0]
        # Not of a shorter time, however short it is that we look: a burst is not the whole day
        return max(0, newest - first) / max(_TRAFFIC_SECONDS, now - at)

    def _begin_day(self, now: float) -> None:
        """Take what is spent today, and at first what calls cost, from the read model."""
        day = int(time.time() // _DAY_SECONDS)
        if day == self._day:
            return
        connection = self._index.connection()
        if self._day is None:
            for scorer, _, each in connection.execute(_SQL["prices"]):
                self._account(scorer).dollars_per_call = each
        self._day, self._day_began = day, now
        for account in self._accounts.values():
            account.dollars_today = 0.0
        for scorer, _, cost, *_ in connection.execute(_SQL["costs"], {"day": day}):
            self._account(scorer).dollars_today = cost

    def _account(self, scorer: str) -> Account:
        return self._accounts.setdefault(scorer, Account())


def _beside(
    accounts: Iterable[Account], live: Iterable[Account], window: float, look: Look
) -> Spent:
    """What falls under a cap for a backfill, with what is expected of live scoring: the rest of the
    day's dollars, and its calls within the cap's window."""
    spent = sum((one.spent(window, look) for one in accounts), Spent())
    ahead = sum((one.spent(window, look) for one in live), Spent())
    calls = ahead.calls_per_minute * window / _MINUTE if ahead.calls_per_minute else 0.0
    return replace(
        spent,
        # With some to spare: else an estimate a little higher would lower the rate of live scoring
        dollars_under_way=spent.dollars_under_way + SPARE * ahead.dollars_to_come,
        calls=spent.calls + max(0.0, calls - ahead.calls),
    )
