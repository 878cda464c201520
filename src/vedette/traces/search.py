"""Find traces: the row ids that match a filter, in order, one page of them.

Walking the traces newest first and looking at each is best when much matches; starting from an
index on what is asked for is best when little does. `page` finds out which it is by counting a few
index entries, or by trying a window of the newest traces. Wide rows are fetched for the page alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from vedette.traces.conditions import Condition, Sql, conjunction, in_list, prepare
from vedette.traces.filters import TraceFilter
from vedette.traces.order import Order

# Up to so many candidates it is cheaper to sort them than to walk.
FEW = 2_000
# So many of the newest traces are looked at before walking is taken to be hopeless.
WINDOW = 20_000
# Traces whose span content is compared at a time; so many batches before all content is searched.
CONTENT_BATCH = 100
CONTENT_BATCHES = 5

# Of these traces (row ids), those with a span that satisfies the filter's span part.
ContentCheck = Callable[[Sequence[int]], Iterable[int]]

_BY_TIME = Sql("traces t INDEXED BY traces_by_time")
_ANYWHERE = Sql("1")
_EXPERIMENTS = """
WITH RECURSIVE e (id) AS (
  SELECT min(experiment_id) FROM traces
  UNION ALL
  SELECT (SELECT min(experiment_id) FROM traces WHERE experiment_id > e.id) FROM e
  WHERE e.id IS NOT NULL)
SELECT id FROM e WHERE id IS NOT NULL"""


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for.

    Attributes:
        filter: the conditions.
        experiment_ids: the experiments to search; None for all.
        order: how to sort.
        content_check: tells for which traces ``filter.spans`` holds.
        narrow: a condition that all matches satisfy and that holds for fewer traces, from a look at
            all spans there are; None if there is none. Asked for only when that is worth it.
    """

    filter: TraceFilter
    experiment_ids: Sequence[int] | None
    order: Order
    content_check: ContentCheck
    narrow: Callable[[], Condition | None] = lambda: None


def page(connection: sqlite3.Connection, search: Search, offset: int, limit: int) -> list[int]:
    """Row ids (``traces.id``) of the matches from ``offset`` on, at most ``limit``, in order."""
    prepare(connection)
    experiments = search.experiment_ids
    if experiments is None:
        experiments = [row[0] for row in connection.execute(_EXPERIMENTS)]
    if not experiments:
        return []
    if search.filter.spans is None:
        return _Finder(connection, search, experiments).find(offset, limit)
    return _with_content(connection, search, experiments, offset + limit)[offset:]


def _with_content(
    connection: sqlite3.Connection, search: Search, experiments: Sequence[int], needed: int
) -> list[int]:
    """The first ``needed`` matches. Content is compared trace by trace; if the newest traces don't
    give enough, all content is searched first for those worth comparing."""
    finder = _Finder(connection, search, experiments)
    count = CONTENT_BATCH * CONTENT_BATCHES
    newest = finder.find(0, count)
    kept = _passing(search, newest, needed)
    if len(kept) == needed or len(newest) < count:
        return kept
    if (condition := search.narrow()) is not None:
        conditions = (*search.filter.conditions, condition)
        narrowed = replace(search, filter=replace(search.filter, conditions=conditions))
        finder = _Finder(connection, narrowed, experiments)
    start = count if condition is None else 0
    kept = kept if condition is None else []
    while len(kept) < needed:
        count *= 4
        some = finder.find(start, count)
        kept += _passing(search, some, needed - len(kept))
        if len(some) < count:
            break
        start += count
    return kept


def _passing(search: Search, ids: Sequence[int], needed: int) -> list[int]:
    """The first ``needed`` of the traces that pass; reads no more content than it must."""
    kept: list[int] = []
    for start in range(0, len(ids), CONTENT_BATCH):
        if len(kept) >= needed:
            break
        some = ids[start : start + CONTENT_BATCH]
        passed = set(search.content_check(some))
        kept += [trace for trace in some if trace in passed]
    return kept[:needed]


class _Finder:
    """One search of one connection."""

    def __init__(
        self, connection: sqlite3.Connection, search: Search, experiments: Sequence[int]
    ) -> None:
        self._connection = connection
        self._order = search.order
        self._experiments = experiments
        self._conditions = search.filter.conditions
        self._scope = in_list("t.experiment_id", experiments)
        self._where = search.filter.where()
        # Where content is compared, it is for `_with_content` to narrow the search
        self._narrow = search.narrow if search.filter.spans is None else lambda: None

    def find(self, offset: int, limit: int) -> list[int]:
        """One page, by the way that is likely the cheapest."""
        start, count = self._most_selective()
        if start is not None and count <= FEW:
            return self._start_from(start, offset, limit)
        if not self._order.newest_first:  # all matches must be sorted, however many
            if start is not None:
                return self._start_from(start, offset, limit)
            return self._select(Sql("traces t"), self._where, offset, limit)
        needed = offset + limit
        since = self._time_of(max(WINDOW, 4 * needed) if self._conditions else needed)
        found = self._walk(since, offset, limit)
        if since is None or len(found) == limit or not self._conditions:
            return found
        # The window didn't fill the page. Start from what an index, or a look at all spans, leaves,
        # unless the window gave enough to hope that walking on soon fills the page.
        hopeful = 10 * self._count_since(since, needed) >= needed
        start = None if hopeful else start or self._any_index() or self._narrow()
        if start is None:
            return self._walk(None, offset, limit)
        return self._start_from(start, offset, limit)

    def _any_index(self) -> Condition | None:
        return next((c for c in self._conditions if c.candidates is not None), None)

    def _most_selective(self) -> tuple[Condition | None, int]:
        """The indexed condition with the fewest candidates, and how many (at most FEW + 1)."""
        best: Condition | None = None
        fewest = FEW + 2
        for condition in self._conditions:
            if condition.candidates is not None and condition.indexed:
                count = self._count(condition.candidates, FEW + 1)
                if count < fewest:
                    best, fewest = condition, count
        return best, fewest

    def _count(self, query: Sql, bound: int) -> int:
        row = self._connection.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM ({query.text}) LIMIT ?)", (*query.params, bound)
        ).fetchone()
        return int(row[0])

    def _count_since(self, since: int, bound: int) -> int:
        terms = conjunction([self._scope, _since(since), self._where])
        return self._count(
            Sql(f"SELECT t.id FROM {_BY_TIME.text} WHERE {terms.text}", terms.params), bound
        )

    def _time_of(self, place: int) -> int | None:
        """A time since when there are at least ``place`` traces; None if there are fewer in all."""
        times = [
            row[0]
            for experiment in self._experiments
            for row in self._connection.execute(
                "SELECT timestamp_ms FROM traces WHERE experiment_id = ?"
                " ORDER BY timestamp_ms DESC LIMIT 1 OFFSET ?",
                (experiment, place),
            )
        ]
        return max(times, default=None)

    def _walk(self, since: int | None, offset: int, limit: int) -> list[int]:
        bound = _ANYWHERE if since is None else _since(since)
        return self._select(_BY_TIME, conjunction([bound, self._where]), offset, limit)

    def _start_from(self, condition: Condition, offset: int, limit: int) -> list[int]:
        """Look only at the traces for which ``condition`` holds."""
        candidates = condition.candidates or _ANYWHERE
        others = conjunction([other.sql for other in self._conditions if other is not condition])
        # CROSS JOIN: in this order, whatever the planner thinks
        source = f"({candidates.text}) c CROSS JOIN traces t ON t.id = c.trace"
        return self._select(Sql(source, candidates.params), others, offset, limit)

    def _select(self, source: Sql, where: Sql, offset: int, limit: int) -> list[int]:
        joins = self._order.joins
        query = (
            f"SELECT t.id FROM {source.text} {joins.text} WHERE {self._scope.text} AND {where.text}"
            f" ORDER BY {self._order.by} LIMIT ? OFFSET ?"
        )
        params = (*source.params, *joins.params, *self._scope.params, *where.params, limit, offset)
        return [row[0] for row in self._connection.execute(query, params)]


def _since(time_ms: int) -> Sql:
    return Sql("t.timestamp_ms >= ?", (time_ms,))
