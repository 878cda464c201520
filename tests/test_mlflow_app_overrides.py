"""No public method of MLflow's store reaches MLflow's trace tables: ours comes before each."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from vedette.mlflow_app.store import VedetteStore

TRACE_TABLES = {"SqlTraceInfo", "SqlTraceTag", "SqlTraceMetadata", "SqlSpan", "SqlAssessments"}

# Ours that call MLflow's version of the same method, which looks at a trace table, and why that
# does no harm.
CALL_MLFLOWS = {
    "delete_experiment": "deletes assessments in MLflow's table, where there are none",
    "delete_run": "deletes assessments in MLflow's table, where there are none",
    "search_issues": "joins assessments only for the trace count, which is not asked of it",
}


def function_of(member: Any) -> FunctionType | None:
    if isinstance(member, property):
        member = member.fget
    if isinstance(member, (staticmethod, classmethod)):
        member = member.__func__
    member = inspect.unwrap(member) if callable(member) else member
    return member if isinstance(member, FunctionType) else None


def called(function: FunctionType) -> Iterator[tuple[str, str]]:
    """What a function mentions: ("name", x), ("self", attribute) or ("super", attribute)."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Name):
            yield "name", node.id
        elif isinstance(node, ast.Attribute):
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id in ("self", "cls"):
                yield "self", node.attr
            elif isinstance(owner, ast.Call) and getattr(owner.func, "id", "") == "super":
                yield "super", node.attr


def tables_reached(function: FunctionType, store: type) -> set[str]:
    """The trace tables a method mentions, itself or through what it calls, within MLflow."""
    seen: set[FunctionType] = set()
    found: set[str] = set()
    todo = [function]
    while todo:
        current = todo.pop()
        if current in seen or not current.__module__.startswith("mlflow."):
            continue
        seen.add(current)
        for how, name in called(current):
            if how == "name":
                found |= {name} & TRACE_TABLES
                target = current.__globals__.get(name)
            elif how == "self":
                target = inspect.getattr_static(store, name, None)
            else:
                target = inspect.getattr_static(SqlAlchemyStore, name, None)
            if (following := function_of(target)) is not None:
                todo.append(following)
    return found


def public_methods(store: type) -> dict[str, FunctionType]:
    names = [name for name in dir(store) if not name.startswith("_")]
    members = {name: function_of(inspect.getattr_static(store, name)) for name in names}
    return {name: function for name, function in members.items() if function is not None}


def test_the_search_finds_what_mlflows_store_does_to_its_trace_tables() -> None:
    touching = {
        name
        for name, function in public_methods(SqlAlchemyStore).items()
        if tables_reached(function, SqlAlchemyStore)
    }
    assert {"start_trace", "search_traces", "delete_traces", "delete_run"} <= touching
    assert {"search_issues", "sum_gateway_trace_cost", "query_trace_metrics"} <= touching
    assert not {"create_run", "log_batch", "create_dataset", "register_scorer"} & touching


@pytest.mark.parametrize("name", sorted(public_methods(SqlAlchemyStore)))
def test_no_public_method_reaches_a_trace_table(name: str) -> None:
    function = public_methods(VedetteStore)[name]
    assert not tables_reached(function, VedetteStore), (
        f"the installed MLflow's {name} uses its own trace tables: override it in VedetteStore"
    )


@pytest.mark.parametrize("name", sorted(public_methods(VedetteStore)))
def test_our_methods_call_mlflows_only_where_that_is_harmless(name: str) -> None:
    function = public_methods(VedetteStore)[name]
    if not function.__module__.startswith("vedette."):
        return
    reached = {
        attribute
        for how, attribute in called(function)
        if how == "super"
        and (parent := function_of(inspect.getattr_static(SqlAlchemyStore, attribute, None)))
        and tables_reached(parent, SqlAlchemyStore)
    }
    assert reached <= CALL_MLFLOWS.keys()


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name in public_methods(AbstractStore)
        if any(word in name for word in ("trace", "span", "assessment", "session"))
    ),
)
def test_every_trace_method_there_is_an_answer_of_ours(name: str) -> None:
    """Also where MLflow's SQL store has none, it is our code that says so."""
    if name in MLFLOWS_OWN:
        return
    assert public_methods(VedetteStore)[name].__module__.startswith("vedette.")


MLFLOWS_OWN = {
    "delete_traces",  # checks its arguments, then calls _delete_traces, which is ours
    "resolve_trace_archival_config",  # echoes its arguments
    "link_mcp_server_versions_to_trace",  # not implemented in MLflow
    "get_mcp_server_versions_for_trace",  # not implemented in MLflow
}


def test_signatures_take_what_mlflows_callers_pass() -> None:
    for name, function in public_methods(VedetteStore).items():
        theirs = public_methods(SqlAlchemyStore).get(name)
        if theirs is None or function is theirs:
            continue
        parameters = inspect.signature(function).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        missing = inspect.signature(theirs).parameters.keys() - parameters.keys()
        assert takes_any or not missing, f"{name} doesn't take {missing}"
