"""However a page of traces is found, it is the same page."""

from __future__ import annotations

import random

import pytest

from traces_support import T0, filled_index
from vedette.traces import search
from vedette.traces.conditions import conjunction, in_list, prepare
from vedette.traces.filters import compile_filter
from vedette.traces.index import TraceIndex
from vedette.traces.order import compile_order
from vedette.traces.search import Search, page

TRACES = 400
DAY = 86_400_000
FILTERS = [
    "",
    "metadata.`mlflow.trace.session` = 'session-7'",
    "tags.env = 'prod'",
    "tags.customer = 'c3'",
    "tags.release = 'old'",
    "tags.release IS NULL",
    "tags.customer LIKE 'c_'",
    "tags.customer = 'nobody'",
    "status = 'ERROR' AND tags.env = 'prod'",
    "run_id = 'run-10'",
    "feedback.correct = 'false'",
    "feedback.correct = 'maybe'",
    "span.status = 'ERROR' AND span.type = 'TOOL'",
    f"timestamp > {T0 + 3 * DAY} AND timestamp < {T0 + 5 * DAY} AND tags.env = 'dev'",
    "request_id = 'tr-nope'",
]
ORDERS = [None, ["timestamp ASC"], ["execution_time DESC"], ["tags.customer", "status DESC"]]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> TraceIndex:
    return filled_index(tmp_path_factory.mktemp("index") / "index.db", TRACES)


def searched(text: str, order: list[str] | None, experiments: list[int] | None) -> Search:
    return Search(compile_filter(text, experiments), experiments, compile_order(order), list)


def by_brute_force(index: TraceIndex, what: Search) -> list[int]:
    """All matches in order, from one plain query."""
    prepare(index.connection())
    terms = [what.filter.where()]
    if what.experiment_ids is not None:
        terms.append(in_list("t.experiment_id", what.experiment_ids))
    where = conjunction(terms)
    rows = index.connection().execute(
        f"SELECT t.id FROM traces t {what.order.joins.text} WHERE {where.text}"
        f" ORDER BY {what.order.by}",
        (*what.order.joins.params, *where.params),
    )
    return [row[0] for row in rows]


@pytest.mark.parametrize("text", FILTERS)
@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize(("few", "window"), [(2_000, 20_000), (3, 20), (1, 5), (60, 100)])
def test_every_way_leads_to_the_same_page(
    index: TraceIndex,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    order: list[str] | None,
    few: int,
    window: int,
) -> None:
    monkeypatch.setattr(search, "FEW", few)
    monkeypatch.setattr(search, "WINDOW", window)
    for experiments in ([1], [2, 1], [9], None):
        what = searched(text, order, experiments)
        expected = by_brute_force(index, what)
        for offset, limit in ((0, 10), (7, 3), (0, 1000), (1000, 10)):
            found = page(index.connection(), what, offset, limit)
            assert found == expected[offset : offset + limit], (experiments, offset, limit)


def test_content_is_compared_until_the_page_is_full(
    index: TraceIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "CONTENT_BATCH", 20)
    looked_at: list[int] = []

    def check(rows: object) -> list[int]:
        some = list(rows)  # type: ignore[call-overload]
        looked_at.extend(some)
        return [row for row in some if row % 3 == 0]

    compiled = compile_filter("trace.text LIKE '%x%'", [1])
    what = Search(compiled, [1], compile_order(None), check)
    expected = [row for row in by_brute_force(index, what) if row % 3 == 0]
    assert page(index.connection(), what, 5, 10) == expected[5:15]
    assert len(looked_at) <= 60
    assert page(index.connection(), what, 0, 1000) == expected


@pytest.mark.parametrize("text", ["", "tags.env = 'prod'", "status = 'OK'"])
def test_the_newest_are_found_without_sorting(
    index: TraceIndex, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(search, "FEW", 5)
    statements: list[str] = []
    connection = index.connection()
    connection.set_trace_callback(statements.append)
    page(connection, searched(text, None, [1]), 0, 100)
    connection.set_trace_callback(None)
    plans = [
        str(row)
        for statement in statements
        if statement.startswith("SELECT t.id")
        for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]
    assert any("traces_by_time" in step for step in plans)
    assert not any("TEMP B-TREE" in step for step in plans)


def test_random_filters_and_windows(index: TraceIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(5)
    for _ in range(60):
        monkeypatch.setattr(search, "FEW", chance.choice([1, 5, 50]))
        monkeypatch.setattr(search, "WINDOW", chance.choice([3, 30, 300]))
        text = " AND ".join(filter(None, chance.sample(FILTERS, 2)))
        what = searched(text, chance.choice(ORDERS), chance.choice([[1], [1, 2], None]))
        offset, limit = chance.randrange(5), chance.randrange(1, 50)
        expected = by_brute_force(index, what)[offset : offset + limit]
        assert page(index.connection(), what, offset, limit) == expected
