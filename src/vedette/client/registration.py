"""A scorer as it is sent to the server: serialized, and checked for what can't run there."""

from __future__ import annotations

import ast
import builtins
import inspect
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FunctionType
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.genai.scorers import KnowledgeRetention
from mlflow.genai.scorers.base import EnsembleScorer, Scorer, SerializedScorer
from mlflow.genai.scorers.scorer_utils import extract_function_body, recreate_function
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from pydantic import BaseModel

from vedette.client.findings import not_self_contained
from vedette.client.own_modules import own_modules
from vedette.client.self_contained import FUTURE_ANNOTATIONS, check_function
from vedette.client.stored_body import faithful_body


def serialize(scorer: Scorer) -> dict[str, Any]:
    """What MLflow's ``model_dump()`` makes of a scorer, also of those that it fails on.

    Raises:
        MlflowException: a function in it can't run elsewhere, or it can't be written down.
    """
    for one in _with_parts(scorer):
        if function := getattr(one, "_original_func", None):
            _require_self_contained(one.name, inspect.unwrap(function))
    return _dump(scorer)


def _with_parts(scorer: Scorer) -> Iterator[Scorer]:
    yield scorer
    for part in getattr(scorer, "_scorers", ()):
        yield from _with_parts(part)


def _dump(scorer: Scorer) -> dict[str, Any]:
    if isinstance(scorer, EnsembleScorer) and scorer._ensemble_fn_name is not None:
        parts = [_dump(part) for part in scorer._scorers]
        data = {"ensemble_fn": scorer._ensemble_fn_name, "scorers": parts}
        return _serialized(scorer, ensemble_scorer_data=data)
    if isinstance(scorer, KnowledgeRetention):
        # MLflow's model_dump() asks it for instructions, which only its inner judge has
        data = BaseModel.model_dump(scorer, mode="json", exclude={"last_turn_scorer"})
        data["instructions"] = getattr(scorer.last_turn_scorer, "instructions", "")
        return _serialized(
            scorer, builtin_scorer_class="KnowledgeRetention", builtin_scorer_pydantic_data=data
        )
    function: FunctionType | None = getattr(scorer, "_original_func", None)
    node = None if function is None else _source(scorer.name, inspect.unwrap(function))[0]
    if function is None or not isinstance(node, ast.FunctionDef):
        dump: dict[str, Any] = scorer.model_dump()
        return dump
    try:
        stored = extract_function_body(function)[0]
    except SyntaxError:  # a text that goes over lines has less indentation than its code
        stored = ""
    return _serialized(
        scorer,
        call_source=faithful_body(node, stored),
        call_signature=str(inspect.signature(function)),
        original_func_name=function.__name__,
        timeout=scorer.timeout,
    )


def _serialized(scorer: Scorer, **body: Any) -> dict[str, Any]:
    return asdict(
        SerializedScorer(
            name=scorer.name,
            description=scorer.description,
            aggregations=scorer.aggregations,  # type: ignore[arg-type]  # as MLflow does
            is_session_level_scorer=scorer.is_session_level_scorer,
            **body,
        )
    )


def _require_self_contained(name: str, function: FunctionType) -> None:
    node, file = _source(name, function)
    if node is None:
        return  # a lambda: the server sees that nothing of it was stored
    quoted = bool(function.__code__.co_flags & FUTURE_ANNOTATIONS)
    # A notebook's cells are files that don't exist; its own modules are in the working directory
    home = file if file.is_file() else Path.cwd() / file.name
    findings = check_function(
        node, objection=own_modules(home), annotations=not quoted, hidden=_hidden(function)
    )
    if findings:
        raise MlflowException.invalid_parameter_value(
            not_self_contained(name, findings, f"{_shown(file)}, line ")
        )


def _source(
    name: str, function: FunctionType
) -> tuple[ast.FunctionDef | ast.AsyncFunctionDef | None, Path]:
    """The definition of a function, with the lines it has in its file; None of a lambda."""
    try:
        lines, first = inspect.getsourcelines(function)
        file = Path(inspect.getsourcefile(function) or "")
        # Not dedented: that would change texts that go over several lines
        inside = lines[0][:1].isspace()
        tree = ast.parse("".join(["if True:\n", *lines] if inside else lines))
    except (OSError, TypeError, SyntaxError) as error:
        raise _unreadable(name, error) from error
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name == function.__name__
        ):
            ast.increment_lineno(node, first - 1 - inside)
            return node, file
    return None, file


def _unreadable(name: str, error: Exception) -> MlflowException:
    return MlflowException(
        f"The source of scorer '{name}' can't be read ({error}), and it is the source that is "
        "registered. Define the function with `def` in a file or a notebook.",
        INVALID_PARAMETER_VALUE,
    )


def _hidden(function: FunctionType) -> set[str]:
    """Names that mean something here that they don't mean where it runs."""
    there = vars(builtins) | recreate_function("pass", "()", "nothing").__globals__
    here = function.__globals__
    changed = {name for name in there if name in here and here[name] is not there[name]}
    of_modules = {name for name in changed if name.startswith("__")}  # __name__ and the like
    return (changed - of_modules) | (there.keys() & set(function.__code__.co_freevars))


def _shown(file: Path) -> str:
    relative = os.path.relpath(file)
    return str(file) if relative.startswith("..") else relative
