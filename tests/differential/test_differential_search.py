"""Searches find what MLflow's store finds, in its order and pages, and refuse what it refuses."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from clauses import FIELDS, ORDERS, clauses
from histories import T0
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pair import Pair
from population import populate

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

Populated = tuple[Pair, list[str]]


@pytest.fixture(scope="module")
def populated(pair: Pair) -> Populated:
    """Both stores with the same traces in two experiments."""
    return pair, populate(pair)


@pytest.mark.parametrize("field", FIELDS)
def test_every_operator_on_every_field(populated: Populated, field: str) -> None:
    pair, experiments = populated
    for clause in clauses(field):
        pair.call("search_traces", experiments, clause)


_likely = [clause for field in FIELDS for clause in clauses(field)[:-3] if "nope" not in clause]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(_likely), max_size=3),
    st.lists(
        st.tuples(st.sampled_from(ORDERS), st.sampled_from(["", " ASC", " DESC", " desc"])),
        max_size=3,
    ),
    st.integers(1, 9),
    st.sampled_from([None, [0], [1], [0, 1], [1, 0]]),
)
def test_filters_orders_and_pages_together(
    populated: Populated,
    wanted: list[str],
    orders: list[tuple[str, str]],
    page_size: int,
    where: list[int] | None,
) -> None:
    pair, experiments = populated
    arguments: dict[str, Any] = {
        "locations": None if where is None else [experiments[place] for place in where],
        "filter_string": " AND ".join(wanted),
        "order_by": [field + direction for field, direction in orders],
        "max_results": page_size,
    }
    token = None
    while True:
        outcome = pair.call("search_traces", **arguments, page_token=token)
        if outcome.error is not None or (token := outcome.value[1]) is None:
            break


@pytest.mark.parametrize("field", ORDERS)
@pytest.mark.parametrize("direction", ["ASC", "DESC", "sideways"])
def test_every_order(populated: Populated, field: str, direction: str) -> None:
    pair, experiments = populated
    pair.call("search_traces", experiments, order_by=[f"{field} {direction}"])
    pair.call("search_traces", experiments, order_by=[f"{field} {direction}", field])


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_results": 0},
        {"max_results": -1},
        {"max_results": None},
        {"max_results": 50_001},
        {"page_token": "nonsense"},
        {"page_token": "bm9uc2Vuc2U="},
        {"page_token": "W10="},  # []
        {"page_token": "eyJvZmZzZXQiOiAwfQ=="},  # {"offset": 0}
        {"page_token": "eyJvZmZzZXQiOiA5OTk5fQ=="},  # {"offset": 9999}
        {"page_token": "eyJvZmZzZXQiOiAtNX0="},  # {"offset": -5}
        {"filter_string": "tags.env = 'prod' OR tags.env = 'dev'"},
        {"filter_string": "tags.env ="},
        {"filter_string": "="},
        {"filter_string": "tags.env = prod"},
        {"filter_string": "tags.env = 'a'; tags.env = 'b'"},
        {"filter_string": "   "},
        {"filter_string": "run_id = 'run-1' AND run_id = 'run-2'"},
        {"filter_string": "request_id IN ()"},
        {"filter_string": f"timestamp > 'x' AND span.name = 'llm' AND timestamp > {T0}"},
        {"filter_string": f"timestamp > {T0 + 20_000} AND span.name LIKE '%'"},
        {"filter_string": f"timestamp >= {T0 + 1000} AND timestamp > 5 AND span.type LIKE '%'"},
        {"filter_string": "span.name = 'llm' AND span.status = 'ERROR' AND span.content LIKE '%'"},
        {"filter_string": "span.name = 'llm' AND span.name = 'agent'"},
        {"experiment_ids": []},
        {"locations": []},
        {"locations": ["1", "2"], "experiment_ids": ["1"]},
        {"locations": ["catalog.schema"]},
        {"locations": ["999999"]},
        {"locations": ["x"]},
        {"order_by": ["timestamp", "timestamp DESC"]},
        {"order_by": ["timestamp DESC DESC"]},
    ],
    ids=str,
)
def test_odd_arguments(populated: Populated, arguments: dict[str, Any]) -> None:
    pair, experiments = populated
    if not {"locations", "experiment_ids"} & set(arguments):
        arguments = {**arguments, "locations": experiments}
    pair.call("search_traces", **arguments)


_filters = st.sampled_from([None, ""]) | st.lists(
    st.sampled_from(_likely), min_size=1, max_size=2
).map(" AND ".join)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 1),
    st.sampled_from([0, T0, T0 + 500, T0 + 1000]),
    st.sampled_from([T0, T0 + 1000, T0 + 10**7, 2**62]),
    st.sampled_from([None, 1, 2, 0]),
    _filters,
)
def test_completed_sessions(
    populated: Populated, place: int, since: int, until: int, limit: int | None, text: str | None
) -> None:
    pair, experiments = populated
    pair.call("find_completed_sessions", experiments[place], since, until, limit, text)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(_filters, _filters, _filters, st.sampled_from([[0], [0, 1], []]))
def test_correlation_of_filters(
    populated: Populated, one: str | None, other: str | None, base: str | None, where: list[int]
) -> None:
    pair, experiments = populated
    wanted = [experiments[place] for place in where]
    pair.call("calculate_trace_filter_correlation", wanted, one or "", other or "", base)
