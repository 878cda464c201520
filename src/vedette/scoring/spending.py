"""What each scorer spends, and what its budget therefore allows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vedette.intake.records import DecisionRow
from vedette.scoring.budget import Cap, Spent, allow, unpriced
from vedette.scoring.progress import Progress
from vedette.sql import statements
from vedette.traces.index import TraceIndex

_SQL = statements("vedette.scoring", "summary")
_DAY_SECONDS = 86_400.0
_MINUTE = 60.0
_TRAFFIC_SECONDS = 900.0  # of traffic that tell what the rest of the day brings
_LOOK_SECONDS = 1.0  # between looks at what is spent


@dataclass(slots=True)
class _Account:
    """One scorer's; times are Unix seconds."""

    dollars_today: float = 0.0
    per_call: float | None = None  # of late
    calls: deque[tuple[float, int]] = field(default_factory=deque)  # of the last minute
    chosen: deque[tuple[float, float]] = field(default_factory=deque)  # units at the full rate
    factor: float = 1.0
    changed_at: float = float("-inf")
    cap: Cap = field(default_factory=Cap)

    def spent(self, under_way: int, since: float, now: float) -> Spent:
        """What falls under a cap.

        Args:
            since: when we began to look at the traffic.
        """
        while self.calls and self.calls[0][0] < now - _MINUTE:
            self.calls.popleft()
        while self.chosen and self.chosen[0][0] < now - _TRAFFIC_SECONDS:
            self.chosen.popleft()
        seconds = max(_MINUTE, min(_TRAFFIC_SECONDS, now - since))
        per_second = sum(units for _, units in self.chosen) / seconds
        return Spent(
            dollars_today=self.dollars_today,
            calls_last_minute=sum(calls for _, calls in self.calls),
            calls_under_way=under_way,
            dollars_per_call=self.per_call,
            calls_per_minute_at_full_rate=per_second * _MINUTE,
            calls_left_today_at_full_rate=per_second * (_DAY_SECONDS - now % _DAY_SECONDS),
        )


class Spending:
    """The accounts of all scorers, and the cap on all together."""

    def __init__(self, index: TraceIndex, cap: Cap) -> None:
        self._index = index
        self._cap = cap
        self._accounts: dict[str, _Account] = {}
        self._day = -1
        self._began = time.time()
        self._looked_at = 0.0

    def note_chosen(self, progress: Progress, units: int) -> None:
        """So many units have been selected at the scorer's present rate."""
        account = self._account(progress.scorer.key)
        if units:
            account.chosen.append((time.time(), units / (account.factor or 1.0)))

    def note_decided(self, scorer: str, decisions: Iterable[DecisionRow]) -> None:
        """These decisions are on disk, with what their calls cost."""
        account = self._account(scorer)
        for row in decisions:
            if row["calls"]:
                account.calls.append((time.time(), row["calls"]))
                cost = row["cost_usd"]
                if cost is not None:
                    account.dollars_today += cost
                    each = cost / row["calls"]
                    known = account.per_call
                    account.per_call = each if known is None else 0.9 * known + 0.1 * each

    def limit(self, scorers: Mapping[str, Progress]) -> None:
        """Set what each scorer may spend: `Progress.allowance`, looked at once a second."""
        now = time.time()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        self._begin_day(int(now // _DAY_SECONDS))
        judges = {key: one for key, one in scorers.items() if one.scorer.is_judge}
        spent = {
            key: self._account(key).spent(one.in_flight + len(one.retried), self._began, now)
            for key, one in judges.items()
        }
        all_spent = _sum(spent.values())
        for key, progress in judges.items():
            account, own = self._account(key), progress.scorer.cap
            if own != account.cap:
                account.cap, account.changed_at = own, float("-inf")
            allowance = allow(
                [(own, spent[key]), (self._cap, all_spent)],
                account.factor,
                changed_at=account.changed_at,
                day_began_at=now - now % _DAY_SECONDS,
                now=now,
            )
            if allowance.factor != account.factor:
                account.factor, account.changed_at = allowance.factor, now
            progress.allowance = allowance
            if told := unpriced(own, spent[key]) or unpriced(self._cap, spent[key]):
                progress.hint = told if spent[key].calls_last_minute else None

    def _begin_day(self, day: int) -> None:
        if day != self._day:
            self._day = day
            for account in self._accounts.values():
                account.dollars_today = 0.0
            rows = self._index.connection().execute(_SQL["costs"], {"day": day})
            for scorer, _, cost in rows:
                self._account(scorer).dollars_today = cost

    def _account(self, scorer: str) -> _Account:
        return self._accounts.setdefault(scorer, _Account())


def _sum(parts: Iterable[Spent]) -> Spent:
    spent = list(parts)
    priced = [one.dollars_per_call for one in spent if one.dollars_per_call is not None]
    return Spent(
        dollars_today=sum(one.dollars_today for one in spent),
        calls_last_minute=sum(one.calls_last_minute for one in spent),
        calls_under_way=sum(one.calls_under_way for one in spent),
        dollars_per_call=max(priced, default=None),
        calls_per_minute_at_full_rate=sum(one.calls_per_minute_at_full_rate for one in spent),
        calls_left_today_at_full_rate=sum(one.calls_left_today_at_full_rate for one in spent),
    )
