"""A scorer as it is sent to the server: serialized, and checked for what can't run there."""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from textwrap import dedent
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.genai.scorers import KnowledgeRetention
from mlflow.genai.scorers.base import EnsembleScorer, Scorer, SerializedScorer
from pydantic import BaseModel

from vedette.client.findings import not_self_contained
from vedette.client.own_modules import own_modules
from vedette.client.self_contained import FUTURE_ANNOTATIONS, check_function


def serialize(scorer: Scorer) -> dict[str, Any]:
    """What MLflow's ``model_dump()`` makes of a scorer, also of those that it fails on.

    Raises:
        MlflowException: a function in it can't run elsewhere, or it can't be written down.
    """
    for one in _with_parts(scorer):
        if function := getattr(one, "_original_func", None):
            _require_self_contained(one.name, function)
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
    dump: dict[str, Any] = scorer.model_dump()
    return dump


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


def _require_self_contained(name: str, function: Callable[..., Any]) -> None:
    function = inspect.unwrap(function)
    try:
        lines, first = inspect.getsourcelines(function)
        file = Path(inspect.getsourcefile(function) or "")
        tree = ast.parse(dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError) as error:
        raise MlflowException.invalid_parameter_value(
            f"The source of scorer '{name}' can't be read ({error}), and it is the source that is "
            "registered. Define the function with `def` in a file or a notebook."
        ) from error
    named = (node for node in tree.body if getattr(node, "name", None) == function.__name__)
    node = next(named, None)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return  # a lambda: the server sees that nothing of it was stored
    ast.increment_lineno(node, first - 1)
    quoted = bool(function.__code__.co_flags & FUTURE_ANNOTATIONS)
    # A notebook's cells are files that don't exist; its own modules are in the working directory
    home = file if file.is_file() else Path.cwd() / file.name
    findings = check_function(node, objection=own_modules(home), annotations=not quoted)
    if findings:
        raise MlflowException.invalid_parameter_value(
            not_self_contained(name, findings, f"{_shown(file)}, line ")
        )


def _shown(file: Path) -> str:
    relative = os.path.relpath(file)
    return str(file) if relative.startswith("..") else relative
